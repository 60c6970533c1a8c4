//! `cargo xtask bench`: builds all and hands over to the benchmark.

mod against;

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};

use crate::{
    build, ebpf, process,
    setup::{self, Purpose},
    workspace::Workspace,
};

/// Builds the relay of another commit if `args` ask for one, and runs `relay-bench` with the other
/// arguments; the exit code is that of `relay-bench`.
pub fn run(ws: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    if !process::is_root() {
        bail!(
            "the benchmark needs root: it makes network namespaces and attaches XDP programs. \
             Run it as root: sudo -E env PATH=\"$PATH\" cargo xtask bench"
        );
    }
    setup::system(purpose(args))?;
    let (commit, args) = against::take(args)?;
    let before = commit
        .map(|commit| against::build(ws, &commit))
        .transpose()?;
    let relay = build::relay(ws)?;
    let programs = ebpf::build_bench(ws)?;
    let mut bench = program(ws)?;
    bench
        .arg("compare")
        .arg("--relay")
        .arg(relay)
        .arg("--programs")
        .arg(programs)
        .args(args);
    if let Some(before) = before {
        bench.arg("--against").arg(before);
    }
    Ok(process::exit_code(process::status(&mut bench)?))
}

/// What has to be installed: the programs of other projects only where they take part.
fn purpose(args: &[OsString]) -> Purpose {
    const OPTION: &str = "--contenders";
    /// Those that this repository builds itself.
    const OWN: [&str; 3] = ["relay", "two-threads", "sendmmsg-fanout"];
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let at = words.iter().position(|word| word.starts_with(OPTION));
    let names = at.and_then(|at| match words[at].split_once('=') {
        Some((_, names)) => Some(names),
        None => words.get(at + 1).copied(),
    });
    let is_own = |name: &str| OWN.contains(&name) || name.starts_with("relay-");
    match names {
        Some(names) if names.split(',').all(is_own) => Purpose::Test,
        _ => Purpose::Bench,
    }
}

/// Builds `relay-bench`; returns the command without arguments.
pub fn program(ws: &Workspace) -> Result<Command> {
    process::run(
        ws.cargo()
            .args(["build", "--release", "--locked", "--package", "relay-bench"]),
    )?;
    let mut program = Command::new(ws.release("relay-bench"));
    process::without_own_environment(&mut program);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_programs_are_needed_only_where_they_take_part() {
        let of = |words: &[&str]| purpose(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of(&["1-1"]), Purpose::Bench);
        assert_eq!(of(&["--contenders", "relay,socat"]), Purpose::Bench);
        assert_eq!(of(&["--contenders", "relay,relay-before"]), Purpose::Test);
        assert_eq!(of(&["1-1", "--contenders=relay-io-uring"]), Purpose::Test);
    }
}
