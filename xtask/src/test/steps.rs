//! The steps of a test run, in the order of the table in [`super::run`].

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::targets;
use crate::{build, counts::Counts, ebpf, process, setup, workspace::Workspace};

/// How long fetching the advisory database may take.
const ADVISORIES_LIMIT: Duration = Duration::from_secs(60);

/// `cargo fmt --check`.
pub fn format(ws: &Workspace) -> Result<Counts> {
    quiet(ws.cargo().args(["fmt", "--all", "--check"]))
}

/// The kernel programs and the relays, as the end-to-end tests run them.
pub fn build(ws: &Workspace) -> Result<Counts> {
    build::poisoned(ws)?;
    build::relay(ws)?;
    ebpf::build_bench(ws)?;
    Ok(Counts::default())
}

/// All targets but the kernel programs.
pub fn clippy(ws: &Workspace) -> Result<Counts> {
    quiet(
        ws.cargo_of_all("clippy")
            .args([
                "--all-targets",
                "--features",
                "relay-tests/zero-copy,relay-userspace/poison-chunks",
            ])
            .args(["--", "-D", "warnings"]),
    )
}

/// The kernel programs, for the host: that finds the same mistakes and needs no source of `core`.
pub fn clippy_ebpf(ws: &Workspace) -> Result<Counts> {
    quiet(
        ws.cargo()
            .args(["clippy", "--package", "relay-ebpf"])
            .args(["--package", "relay-bench-ebpf", "--locked"])
            // They have no panic machinery to unwind with.
            .args(["--config", "profile.dev.panic=\"abort\""])
            .arg("--target-dir")
            .arg(ws.target.join("ebpf-clippy"))
            .args(["--", "-D", "warnings"]),
    )
}

/// Licences, sources, duplicate versions; and known vulnerabilities where their database can be
/// fetched.
pub fn dependencies(ws: &Workspace) -> Result<Counts> {
    let deny = setup::cargo_deny(ws)?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&deny);
        process::without_own_environment(&mut command)
            .current_dir(&ws.root)
            .args(["check", "--hide-inclusion-graph"])
            .args(what);
        command
    };
    quiet(&mut check(&["bans", "licenses", "sources"]))?;
    let log = ws.tools().join("log/advisories.log");
    let started = Instant::now();
    let checked = process::long(
        "cargo-deny check advisories",
        check(&["advisories"]).env("GIT_TERMINAL_PROMPT", "0"),
        &log,
        Some(ADVISORIES_LIMIT),
    );
    let Err(error) = checked else {
        return Ok(Counts::default());
    };
    let said = fs::read_to_string(&log).unwrap_or_default();
    if not_fetched(&said) || started.elapsed() >= ADVISORIES_LIMIT {
        println!("advisories: not checked, the advisory database could not be fetched");
        return Ok(Counts::default());
    }
    eprintln!("{said}");
    Err(error)
}

fn not_fetched(said: &str) -> bool {
    said.contains("failed to fetch advisory database")
}

/// `cargo doc` without a warning.
pub fn documentation(ws: &Workspace) -> Result<Counts> {
    quiet(
        ws.cargo_of_all("doc")
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// The tests inside the crates.
pub fn unit(ws: &Workspace, filter: Option<&str>) -> Result<Counts> {
    let mut cargo = ws.cargo_of_all("test");
    cargo.args(["--lib", "--bins"]);
    let targets = targets::of(ws)?;
    cargo.args(targets.inside.iter().flat_map(|name| ["--test", name]));
    let mut counts = tests(&mut cargo, filter)?;
    let mut examples = ws.cargo_of_all("test");
    counts.add(tests(examples.arg("--doc"), filter)?);
    ran(counts, &cargo)
}

/// The tests on the testbed, with the binary that users get.
pub fn end_to_end(ws: &Workspace, filter: Option<&str>) -> Result<Counts> {
    let mut cargo = ws.cargo_of_all("test");
    let targets = targets::of(ws)?;
    cargo
        .args(targets.end_to_end.iter().flat_map(|name| ["--test", name]))
        .env("RELAY_BIN", ws.release("relay"))
        .env("RELAY_POISONED_BIN", ws.release("relay-poisoned"));
    let counts = tests(&mut cargo, filter)?;
    ran(counts, &cargo)
}

/// The long form of the tests that have one.
pub fn long(ws: &Workspace) -> Result<Counts> {
    let mut cargo = ws.cargo();
    cargo
        .args([
            "test",
            "--package",
            "relay-tests",
            "--test",
            "lasting",
            "--locked",
        ])
        .env("RELAY_BIN", ws.release("relay"))
        .env("RELAY_TESTS_LONG", "1");
    let counts = tests(&mut cargo, None)?;
    ran(counts, &cargo)
}

/// Runs tests to the end and counts them.
fn tests(cargo: &mut Command, filter: Option<&str>) -> Result<Counts> {
    cargo.arg("--no-fail-fast");
    if let Some(filter) = filter {
        cargo.args(["--", filter]);
    }
    let mut counts = Counts {
        filter_given: filter.is_some(),
        ..Counts::default()
    };
    let status = process::tee(cargo, |line| counts.read(line))?;
    if !status.success() && counts.failed == 0 {
        counts.other = Some(format!("`{}` failed with {status}", process::line(cargo)));
    }
    Ok(counts)
}

/// Fails a step that ran no test, unless a filter left them out.
fn ran(mut counts: Counts, cargo: &Command) -> Result<Counts> {
    if !counts.filter_given && counts.ran() == 0 {
        counts.other = Some(format!("`{}` ran no test", process::line(cargo)));
    }
    Ok(counts)
}

/// A command that only passes or fails.
fn quiet(command: &mut Command) -> Result<Counts> {
    let status = process::status(command)?;
    if !status.success() {
        bail!("`{}` failed with {status}", process::line(command));
    }
    Ok(Counts::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_fetch_counts_as_unreachable() {
        assert!(not_fetched(
            "[ERROR] failed to fetch advisory database https://example.org with cli: ..."
        ));
        assert!(!not_fetched("error[vulnerability]: a hole in crate x"));
    }
}
