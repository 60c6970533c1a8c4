//! Programs of crates.io that the tests run, built once per version.
//!
//! Each is installed below target/tools with a stamp of its version, so that a change of the
//! version here replaces it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::install::{cargo_install, remove_build};
use crate::{process, workspace::Workspace};

/// One program.
struct Tool {
    name: &'static str,
    version: &'static str,
    /// What it does here.
    purpose: &'static str,
    /// Further arguments of `cargo install`.
    arguments: &'static [&'static str],
}

const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    purpose: "checks licences and sources of dependencies",
    arguments: &["--no-default-features"],
};

const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
    purpose: "builds fuzz targets and runs them",
    arguments: &[],
};

const CARGO_MUTANTS: Tool = Tool {
    name: "cargo-mutants",
    version: "27.1.0",
    purpose: "changes the code and looks whether tests notice",
    arguments: &[],
};

/// Refuses to run for a library of another version: see `gungraun` in the workspace's Cargo.toml.
const GUNGRAUN_RUNNER: Tool = Tool {
    name: "gungraun-runner",
    version: "0.20.0",
    purpose: "counts the instructions of benchmarks with valgrind",
    arguments: &[],
};

/// cargo-deny: licences, sources and known vulnerabilities of the dependencies.
pub fn cargo_deny(ws: &Workspace) -> Result<PathBuf> {
    CARGO_DENY.ensure(ws)
}

/// cargo-fuzz: builds the targets of fuzz/ for libFuzzer. Installed by what uses it alone, as the
/// next one is.
pub fn cargo_fuzz(ws: &Workspace) -> Result<PathBuf> {
    CARGO_FUZZ.ensure(ws)
}

/// cargo-mutants: tests the tests.
pub fn cargo_mutants(ws: &Workspace) -> Result<PathBuf> {
    CARGO_MUTANTS.ensure(ws)
}

/// gungraun-runner: runs the benchmarks of the crate gungraun.
pub fn gungraun_runner(ws: &Workspace) -> Result<PathBuf> {
    GUNGRAUN_RUNNER.ensure(ws)
}

impl Tool {
    /// Finds the program or installs it below target/tools.
    fn ensure(&self, ws: &Workspace) -> Result<PathBuf> {
        let Self { name, version, .. } = self;
        let program = ws.tool(name);
        let stamp = ws.tools().join(format!("{name}.version"));
        if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == *version) {
            return Ok(program);
        }
        println!("  building {name} {version} ({})", self.purpose);
        let mut cargo = cargo_install(ws, name, version);
        cargo.args(self.arguments);
        let log = ws.tools().join(format!("log/{name}.log"));
        process::long(&format!("cargo install {name}"), &mut cargo, &log, None)?;
        remove_build(ws);
        fs::write(&stamp, version).with_context(|| format!("writing {}", stamp.display()))?;
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_has_the_version_of_the_library() {
        let lock = include_str!("../../../Cargo.lock");
        let library = format!(
            "name = \"gungraun\"\nversion = \"{}\"",
            GUNGRAUN_RUNNER.version
        );
        assert!(lock.contains(&library), "Cargo.lock has another gungraun");
    }
}
