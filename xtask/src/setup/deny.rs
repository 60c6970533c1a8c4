//! cargo-deny: licences, sources and known vulnerabilities of what we depend on.

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
    let log = ws.tools().join("log/cargo-deny.log");
    process::long("cargo install cargo-deny", &mut cargo, &log, None)?;
    remove_build(ws);
    fs::write(&stamp, VERSION).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(program)
}
