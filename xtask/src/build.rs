//! Builds the one binary `relay`, and runs it.

use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{ebpf, process, workspace::Workspace};

/// The kernel programs, then the binary that contains them.
pub fn relay(ws: &Workspace) -> Result<PathBuf> {
    let binary = release(ws, &[])?;
    println!("{}", ws.shown(&binary));
    Ok(binary)
}

/// The same binary for tests, which overwrites every chunk that becomes free. It must be built
/// before [`relay`], whose name it has at first.
pub fn poisoned(ws: &Workspace) -> Result<()> {
    let built = release(ws, &["--features", "relay-userspace/poison-chunks"])?;
    let poisoned = ws.release("relay-poisoned");
    fs::rename(&built, &poisoned).with_context(|| format!("writing {}", poisoned.display()))
}

/// Builds the kernel programs and the binary, with more arguments for Cargo. Returns where it is.
fn release(ws: &Workspace, more: &[&str]) -> Result<PathBuf> {
    ebpf::build(ws)?;
    let mut cargo = ws.cargo_of_all("build");
    cargo.args(["--release", "--bin", "relay"]).args(more);
    process::run(&mut cargo)?;
    Ok(ws.release("relay"))
}

/// `cargo xtask run -- ARGS`: replaces this process by the relay.
pub fn run(ws: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    let binary = relay(ws)?;
    let mut command = if process::is_root() {
        Command::new(&binary)
    } else if process::on_path("sudo") {
        println!("not root: running the relay through sudo");
        let mut sudo = Command::new("sudo");
        sudo.arg("--").arg(&binary);
        sudo
    } else {
        bail!(
            "the relay needs root and there is no sudo: as root, run {}",
            binary.display()
        );
    };
    process::without_own_environment(&mut command).args(args);
    let error = command.exec();
    Err(anyhow!(error).context(format!("running `{}`", process::line(&command))))
}
