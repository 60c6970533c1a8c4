//! cargo-deny: licences, sources and known vulnerabilities of what we depend on.
//!
//! It runs once per test run and for under a second, so it is built unoptimised: in a third of the
//! time.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::linker::{cargo_install, remove_build};
use crate::{process, workspace::Workspace};

const VERSION: &str = "0.20.2";

/// Finds cargo-deny or installs it below target/tools.
pub fn cargo_deny(ws: &Workspace) -> Result<PathBuf> {
    let program = ws.tool("cargo-deny");
    let stamp = ws.tools().join("cargo-deny.version");
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == VERSION) {
        return Ok(program);
    }
    println!("  building cargo-deny {VERSION} (checks licences and sources of dependencies)");
    let mut cargo = cargo_install(ws, "cargo-deny", VERSION);
    cargo.arg("--no-default-features");
    for (setting, value) in [
        ("OPT_LEVEL", "0"),
        ("LTO", "off"),
        ("CODEGEN_UNITS", "256"),
        ("DEBUG", "false"),
        ("STRIP", "true"),
    ] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    let log = ws.tools().join("log/cargo-deny.log");
    process::long("cargo install cargo-deny", &mut cargo, &log, None)?;
    remove_build(ws);
    fs::write(&stamp, VERSION).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(program)
}
