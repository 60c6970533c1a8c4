//! `cargo install` of the programs that only this repository needs, into target/tools.

use std::{fs, process::Command};

use crate::workspace::Workspace;

/// Removes what `cargo install` leaves: several times the size of the program, and never used
/// again.
pub fn remove_build(ws: &Workspace) {
    let _ = fs::remove_dir_all(ws.tools().join("build"));
}

/// `cargo install` of a tool into target/tools, whatever the environment says about cargo and
/// rustc. Unoptimised: that halves the time to build, and these tools run for a second at most.
pub fn cargo_install(ws: &Workspace, name: &str, version: &str) -> Command {
    let mut cargo = ws.cargo();
    cargo
        .args(["install", name, "--version", version, "--locked", "--force"])
        .arg("--root")
        .arg(ws.tools())
        .arg("--target-dir")
        .arg(ws.tools().join("build"));
    for name in [
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
    ] {
        cargo.env_remove(name);
    }
    for (setting, value) in [
        ("OPT_LEVEL", "0"),
        ("LTO", "off"),
        ("CODEGEN_UNITS", "256"),
        ("DEBUG", "false"),
        ("STRIP", "debuginfo"),
    ] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    cargo
}
