//! `cargo xtask demo`: builds all and hands over to the demo of the testbed.

mod picture;
mod recording;

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use self::recording::Recording;
use crate::{
    build, process,
    setup::{self, Purpose},
    workspace::Workspace,
};

const RULES: &str = "examples/one-to-four.toml";
/// What the picture says above the terminal.
const TITLE: &str = "cargo xtask demo";

/// Runs for `seconds`, and draws what the demo showed into `svg` if every output was exact; the
/// exit code is the demo's.
pub fn run(ws: &Workspace, seconds: u32, svg: Option<&Path>) -> Result<ExitCode> {
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
    let Some(svg) = svg else {
        return Ok(process::exit_code(process::status(&mut demo)?));
    };
    let recording = Recording::of(demo)?;
    if recording.status.success() {
        std::fs::write(svg, picture::draw(TITLE, &recording.screens))
            .with_context(|| format!("writing {}", svg.display()))?;
        println!("\ndrawn into {}", svg.display());
    }
    Ok(process::exit_code(recording.status))
}
