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

/// Runs `relay-bench` with `args`, but for those that ask for the relay of another commit, which is built; the exit
/// code is that of `relay-bench`.
pub fn run(ws: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    if !process::is_root() {
        bail!(
            "the benchmark needs root: it makes network namespaces and attaches XDP programs. \
             Run it as root: sudo -E env PATH=\"$PATH\" cargo xtask bench"
        );
    }
    setup::system(Purpose::Bench)?;
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
