//! The first program of the virtual machine of `cargo xtask test --zero-copy`: mounts the usual
//! file systems, loads the drivers, runs the tests, prints how they ended, and switches the machine
//! off.
//!
//! Its output goes to the second serial port; the first one is the kernel's console.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// The beginning of the line that xtask waits for (`xtask/src/vm/machine.rs`).
const DONE: &str = "guest: the tests ended with ";

const FILE_SYSTEMS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("bpf", "/sys/fs/bpf"),
];

fn main() {
    let ended = prepare().and_then(|()| tests());
    match ended {
        Ok(status) => println!("{DONE}{status}"),
        Err(error) => println!("{DONE}an error: {error:#}"),
    }
    // All output must have left before the machine is off.
    let _ = nix::sys::termios::tcdrain(io::stdout().as_fd());
    let off = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    eprintln!("switching the machine off: {off:?}");
}

fn prepare() -> Result<()> {
    for (kind, place) in FILE_SYSTEMS {
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting {kind} on {place}"))?;
    }
    let serial = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ttyS1")
        .context("opening /dev/ttyS1")?;
    nix::unistd::dup2_stdin(&serial)?;
    nix::unistd::dup2_stdout(&serial)?;
    nix::unistd::dup2_stderr(&serial)?;
    for module in read("/modules/order")?.lines() {
        load(module).with_context(|| format!("loading the module {module}"))?;
    }
    Ok(())
}

/// Loads a module; the modules that it needs are loaded already.
fn load(module: &str) -> Result<()> {
    let file = File::open(format!("/modules/{module}.ko"))?;
    // SAFETY: the descriptor is open during the call and the parameters are a C string; the call
    // touches no other memory of this process.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}

fn tests() -> Result<String> {
    let status = Command::new("/tests")
        .args(read("/arguments")?.lines())
        .env("PATH", "/bin")
        .env("RELAY_BIN", "/relay")
        .env("RELAY_POISONED_BIN", "/relay-poisoned")
        .status()
        .context("running /tests")?;
    Ok(status
        .code()
        .map_or_else(|| status.to_string(), |code| code.to_string()))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}
