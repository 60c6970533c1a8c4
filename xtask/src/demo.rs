//! `cargo xtask demo`: builds all and hands over to the demo of the testbed.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{
    build, process,
    setup::{self, Purpose},
    workspace::Workspace,
};

const RULES: &str = "examples/one-to-four.toml";

/// Runs for some seconds; the exit code is the demo's.
pub fn run(ws: &Workspace, seconds: u32) -> Result<ExitCode> {
    if !process::is_root() {
        bail!(
            "the demo needs root: it makes network namespaces and attaches an XDP program. \
             Run it as root: sudo -E env PATH=\"$PATH\" cargo xtask demo"
        );
    }
    setup::system(Purpose::Test)?;
    let relay = build::relay(ws)?;
    process::run(ws.cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "relay-tests",
        "--bin",
        "demo",
    ]))?;
    let mut demo = Command::new(ws.release("demo"));
    process::without_own_environment(&mut demo)
        .current_dir(&ws.root)
        .arg("--relay")
        .arg(relay)
        .args(["--rules", RULES, "--seconds", &seconds.to_string()]);
    Ok(process::exit_code(process::status(&mut demo)?))
}
