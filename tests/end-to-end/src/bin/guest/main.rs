//! The first program of the virtual machine of `cargo xtask test --zero-copy`: mounts what every
//! system has, loads the drivers, runs the tests, says how they ended, and switches the machine
//! off. Where a test does not end, it says which one, and what each task waits for.
//!
//! What it prints goes to the second serial port; the first one is the kernel's.

mod tasks;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What xtask looks for (`xtask/src/vm/machine.rs`).
const DONE: &str = "guest: the tests ended with ";

/// How long the tests may print nothing before the one that runs counts as hung. The slowest, a
/// hundred starts of the relay, takes up to ten minutes on a busy machine.
const SILENCE: Duration = Duration::from_secs(900);

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
    match &ended {
        Ok(Ended::With(status)) => println!("{DONE}{status}"),
        Ok(Ended::Hung(test)) => println!("{DONE}a hang: {test}, {SILENCE:?} without a result"),
        Err(error) => println!("{DONE}an error: {error:#}"),
    }
    // What is printed must be out before the machine is off.
    let _ = nix::sys::termios::tcdrain(io::stdout().as_fd());
    if matches!(ended, Ok(Ended::Hung(_))) {
        // Switching off waits for drivers and their locks. QEMU ends at a restart, which waits for
        // nothing.
        let restarted = fs::write("/proc/sysrq-trigger", "b");
        eprintln!("restarting the machine: {restarted:?}");
    }
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

/// Loads a module whose needs are loaded.
fn load(module: &str) -> Result<()> {
    let file = File::open(format!("/modules/{module}.ko"))?;
    // SAFETY: the descriptor is open during the call and the parameters are a C string; the call
    // touches no memory of ours.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}

/// How the tests ended.
enum Ended {
    /// With this exit code, or by this signal.
    With(String),
    /// Not at all. The line of the test that runs.
    Hung(String),
}

/// Runs all test programs, unless one hangs. They end with 0 if all do.
fn tests() -> Result<Ended> {
    let mut all = "0".to_owned();
    for program in read("/tests/order")?.lines() {
        match run(&format!("/tests/{program}"))? {
            Ended::With(status) if status == "0" => {}
            Ended::With(status) => all = status,
            hung @ Ended::Hung(_) => return Ok(hung),
        }
    }
    Ok(Ended::With(all))
}

/// Runs a test program, and passes on what it prints.
fn run(program: &str) -> Result<Ended> {
    let (mut printed, pipe) = io::pipe().context("creating a pipe")?;
    let mut tests = Command::new(program)
        .args(read("/arguments")?.lines())
        .env("PATH", "/bin")
        .env("RELAY_BIN", "/relay")
        .env("RELAY_POISONED_BIN", "/relay-poisoned")
        .stdout(pipe)
        .spawn()
        .with_context(|| format!("running {program}"))?;
    let limit = PollTimeout::try_from(SILENCE).context("the limit of a test")?;
    let mut console = console()?;
    let mut buffer = [0; 4096];
    // The line that is being written: "test NAME ... " while a test runs.
    let mut line = Vec::new();
    loop {
        let mut readable = [PollFd::new(printed.as_fd(), PollFlags::POLLIN)];
        if poll(&mut readable, limit).context("waiting for the tests")? == 0 {
            println!();
            tasks::print();
            let running = running(&line).unwrap_or("no test");
            return Ok(Ended::Hung(running.to_owned()));
        }
        let count = printed
            .read(&mut buffer)
            .context("reading what the tests print")?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        io::stdout().write_all(bytes)?;
        io::stdout().flush()?;
        let mut lines = bytes.rsplit(|&byte| byte == b'\n');
        let last = lines.next().unwrap_or_default();
        if lines.next().is_some() {
            line.clear();
        }
        line.extend(last);
        if let Some(test) = running(&line) {
            // One write is one line. The level is one that is shown.
            let begins = format!("<4>guest: {test}");
            let written = console.write_all(begins.as_bytes());
            written.context("writing to the console")?;
        }
    }
    let status = tests.wait();
    let status = status.with_context(|| format!("waiting for {program}"))?;
    let code = status.code().map(|code| code.to_string());
    Ok(Ended::With(code.unwrap_or_else(|| status.to_string())))
}

/// The test that runs, of a line that has not ended.
fn running(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("test ")?.strip_suffix(" ... ")
}

/// The kernel's console, which gets a line for each test that begins: what the kernel says stands
/// behind the test that it is about, and the times of two lines say how long a test took.
fn console() -> Result<File> {
    let path = "/proc/sys/kernel/printk_devkmsg";
    fs::write(path, "on\n").with_context(|| format!("writing {path}"))?;
    let opened = OpenOptions::new().write(true).open("/dev/kmsg");
    opened.context("opening /dev/kmsg")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}
