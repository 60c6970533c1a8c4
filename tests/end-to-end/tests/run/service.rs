//! The relay under a service manager: what it tells, and that a worker that hangs ends it.

use std::env;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::process::Process;
use relay_tests::relay::{RelayProcess, RuleFile, START_TIMEOUT, run_command, stop_in_time};
use relay_tests::rules::Rule;
use relay_tests::scenario::{Receivers, send, streams};
use relay_tests::topology::Testbed;

/// A service manager's end of the socket. It has a path, since abstract names belong to a network
/// namespace.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn listen(test: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("relay-{test}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(START_TIMEOUT))?;
        Ok(Self { socket, path })
    }

    fn command(&self, bed: &Testbed, backend: Backend, file: &RuleFile) -> Result<Command> {
        let mut command = run_command(&bed.relay, backend, file)?;
        command.env("NOTIFY_SOCKET", &self.path);
        Ok(command)
    }

    fn next(&self) -> Result<String> {
        let mut buffer = [0; 4096];
        loop {
            let len = self.socket.recv(&mut buffer).context("no message")?;
            let text = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
            // A status may come at any time.
            if !text.starts_with("STATUS=") {
                return Ok(text.into_owned());
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn rules() -> [Rule; 1] {
    [Rule::feed().outputs("out0", 1)]
}

fn a_service_manager_is_told_of_the_start_gets_pings_and_is_told_of_the_end(
    backend: Backend,
) -> Result<()> {
    const WATCHDOG: Duration = Duration::from_secs(3);
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&rules())?;
    let manager = Manager::listen(&format!("manager-{}", backend.name()))?;
    let mut command = manager.command(&bed, backend, &file)?;
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let relay = Process::spawn(command)?;
    let ready = manager.next()?;
    assert!(ready.starts_with("READY=1\nSTATUS="), "{ready}");
    assert_eq!(manager.next()?, "WATCHDOG=1");
    // The promise is for each of them.
    for _ in 0..2 {
        let last = Instant::now();
        assert_eq!(manager.next()?, "WATCHDOG=1");
        let took = last.elapsed();
        assert!(took < WATCHDOG, "{took:?}");
    }
    stop_in_time(relay)?;
    while manager.next()? != "STOPPING=1" {}
    Ok(())
}

/// It also gives back what it has switched off, although nothing else can be taken down.
fn a_worker_that_hangs_ends_the_relay_with_its_name(backend: Backend) -> Result<()> {
    const OFFLOAD: &str = "rx-vlan-offload";
    let bed = Testbed::builder().without_capture().build()?;
    let input = &bed.inputs[0];
    input.set_feature(OFFLOAD, true)?;
    let manage = "[[interfaces]]\nname = \"in0\"\noffloads = \"manage\"\n";
    let file = RuleFile::with(&rules(), manage)?;
    let manager = Manager::listen(&format!("hang-{}", backend.name()))?;
    let mut command = manager.command(&bed, backend, &file)?;
    command.env("WATCHDOG_USEC", "4000000");
    let mut relay = Process::spawn(command)?;
    assert!(
        relay.wait_for_log("ready:", START_TIMEOUT),
        "{}",
        relay.log()
    );
    assert_eq!(input.has_feature(OFFLOAD)?, backend == Backend::IoUring);
    let worker = Pid::from_raw(thread(relay.id(), "relay-worker-0")?);
    // Stops this thread alone.
    ptrace::seize(worker, ptrace::Options::empty())?;
    ptrace::interrupt(worker)?;
    waitpid(worker, Some(WaitPidFlag::__WALL))?;
    let started = Instant::now();
    let named = relay.wait_for_log("relay-worker-0 has stood still for", START_TIMEOUT);
    let took = started.elapsed();
    ptrace::detach(worker, None).or_else(|error| match error {
        // It has ended with its process.
        nix::errno::Errno::ESRCH => waitpid(worker, Some(WaitPidFlag::__WALL)).map(drop),
        other => Err(other),
    })?;
    let status = relay.wait(START_TIMEOUT)?;
    assert!(named, "{}", relay.log());
    assert!(took > Duration::from_secs(2), "{took:?}");
    assert_eq!(status.and_then(|status| status.code()), Some(70));
    assert!(input.has_feature(OFFLOAD)?, "{}", relay.log());
    assert!(!input.has_xdp_program()?);
    Ok(())
}

fn sigterm_while_a_worker_hangs_ends_the_relay_with_its_name_and_the_last_numbers(
    backend: Backend,
) -> Result<()> {
    const COUNT: u64 = 20;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = rules();
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    send(&bed, &rules, &streams(&rules, COUNT, 100), || {
        receivers.progress()
    })?;
    let counted = || {
        relay
            .status()
            .is_ok_and(|now| now["totals"]["packets_sent"] == COUNT)
    };
    assert!(eventually(START_TIMEOUT, counted).is_some());
    let worker = Pid::from_raw(relay.thread("relay-worker-0")?.cast_signed());
    ptrace::seize(worker, ptrace::Options::empty())?;
    ptrace::interrupt(worker)?;
    waitpid(worker, Some(WaitPidFlag::__WALL))?;
    let started = Instant::now();
    relay.signal(Signal::SIGTERM)?;
    let named = relay.wait_for_log("relay-worker-0) hangs");
    let took = started.elapsed();
    let ended = relay.wait_for_log("had not ended when the relay did");
    ptrace::detach(worker, None).or_else(|error| match error {
        // It has ended with its process.
        nix::errno::Errno::ESRCH => waitpid(worker, Some(WaitPidFlag::__WALL)).map(drop),
        other => Err(other),
    })?;
    assert!(named && ended, "{}", relay.log());
    // Two seconds for the worker; the rest is for a machine that is busy with other tests.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let ended = relay.ended()?;
    assert_eq!(ended.status.code(), Some(70), "{}", ended.log);
    ended.report.assert_exact(&[COUNT]);
    assert!(!bed.inputs[0].has_xdp_program()?);
    Ok(())
}

/// The id of a process's thread; waits until the thread has given itself that name.
fn thread(process: u32, name: &str) -> Result<i32> {
    let find = || -> Result<Option<i32>> {
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("comm"))?.trim_end() == name {
                return Ok(Some(entry.file_name().to_string_lossy().parse()?));
            }
        }
        Ok(None)
    };
    let mut found = None;
    eventually(START_TIMEOUT, || {
        found = find().ok().flatten();
        found.is_some()
    });
    found.with_context(|| format!("there is no thread {name}"))
}

relay_tests::on_both_backends! {
    a_service_manager_is_told_of_the_start_gets_pings_and_is_told_of_the_end,
    a_worker_that_hangs_ends_the_relay_with_its_name,
    sigterm_while_a_worker_hangs_ends_the_relay_with_its_name_and_the_last_numbers,
}
