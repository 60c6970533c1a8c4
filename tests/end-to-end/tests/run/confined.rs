//! What a running relay may ask the kernel for, and what its workers do ask for.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::process::Process;
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::{Receivers, send, streams, tx_methods};
use relay_tests::tally::Stream;
use relay_tests::tapping::Tapping;
use relay_tests::topology::Testbed;

/// The limit for what takes no time on an idle machine.
const SOON: Duration = Duration::from_secs(20);
/// A capability set without any capability, as in /proc.
const NONE: &str = "0000000000000000";
/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_PERFMON and CAP_BPF.
const KEPT: &str = "000000c000007400";

fn a_relay_that_forwards_keeps_what_binding_again_takes_and_on_its_main_thread_alone(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [local()];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let receivers = Receivers::start(&bed, &rules)?;
    let stream = streams(&rules, 500, 1000);
    send(&bed, &rules, &stream, || receivers.progress())?;
    receivers.assert_exact(&stream);

    for thread in [
        "relay",
        "relay-log",
        "relay-hears",
        "relay-asks",
        "relay-worker-0",
    ] {
        relay.thread(thread)?;
    }
    let names = relay.of_threads("Name:")?;
    // The bounding set too, since the tests run as root. The main thread keeps what binding again
    // takes, and nothing else.
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let values = relay.of_threads(set)?;
        for (name, value) in names.iter().zip(&values) {
            let allowed = match (name.as_str(), set) {
                ("relay", "CapPrm:" | "CapEff:") => KEPT,
                _ => NONE,
            };
            assert_eq!(value, allowed, "{set} of {name}: {values:?} of {names:?}");
        }
    }
    let values = relay.of_threads("NoNewPrivs:")?;
    assert!(values.iter().all(|value| value == "1"), "{values:?}");

    let input = &bed.inputs[0];
    assert!(input.has_joined(GROUP_IN)?, "joined");
    assert_eq!(input.has_xdp_program()?, backend == Backend::Xdp);
    let stopped = relay.stop()?;
    assert!(stopped.status.success(), "{stopped:?}");
    // The relay could read its maps until its end.
    stopped.report.assert_exact(&[500]);
    assert!(!input.has_joined(GROUP_IN)?, "the group is left");
    assert!(!input.has_xdp_program()?, "no XDP program stays");
    bed.relay.wait_for_no_packet_socket()?;
    Ok(())
}

/// The feed, for the relay's host too.
fn local() -> Rule {
    let takes = format!("group = \"{GROUP_IN}\", port = {PORT_IN}, local = true");
    Rule::feed().takes(&takes).outputs("out0", 2)
}

/// strace that follows one thread; all system calls of the thread are in its log.
struct Followed(Process);

impl Followed {
    fn new(relay: &RelayProcess, thread: &str) -> Result<Self> {
        let id = relay.thread(thread)?;
        let mut command = Command::new("strace");
        command
            .args(["--quiet=all", "--attach", &id.to_string()])
            .stdin(Stdio::null());
        let mut strace = Process::spawn(command).context("`cargo xtask setup` installs strace")?;
        let attached = eventually(SOON, || {
            let tracers = relay.of_threads("TracerPid:");
            !strace.is_running() || tracers.is_ok_and(|all| all.iter().any(|id| id != "0"))
        });
        anyhow::ensure!(
            attached.is_some() && strace.is_running(),
            "strace cannot attach to {thread}: {}",
            strace.log()
        );
        Ok(Self(strace))
    }

    /// Detaches from the thread, and returns the names of its system calls.
    fn end(mut self) -> Result<BTreeSet<String>> {
        self.0.signal(Signal::SIGINT)?;
        let ended = self.0.wait(SOON)?;
        ended.context("strace does not end")?;
        let log = self.0.log();
        let names = log.lines().filter_map(|line| Some(line.split_once('(')?.0));
        Ok(names
            .filter(|name| {
                let mut bytes = name.bytes();
                bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            })
            .map(str::to_owned)
            .collect())
    }
}

/// The system calls that docs/architecture.md names for workers, and two more: `restart_syscall`
/// continues a wait that strace interrupted when it attached, and the clock needs a system call
/// only where the kernel offers none in the vDSO.
fn allowed(backend: Backend) -> &'static [&'static str] {
    match backend {
        Backend::Xdp => &[
            "sendmmsg",
            "sendto",
            "poll",
            "clock_nanosleep",
            "restart_syscall",
            "clock_gettime",
        ],
        Backend::IoUring => &[
            "io_uring_enter",
            "sendto",
            "clock_nanosleep",
            "restart_syscall",
            "clock_gettime",
        ],
    }
}

fn a_worker_under_traffic_makes_the_documented_system_calls_and_no_others(
    backend: Backend,
) -> Result<()> {
    let plain = Rule::feed().outputs("out0", 2);
    let kinds = [
        (plain.clone(), false, false),
        (local(), true, false),
        (plain, false, true),
    ];
    for (rule, is_local, is_tapped) in kinds {
        calls_of_a_worker(backend, &[rule], is_local, is_tapped)?;
    }
    Ok(())
}

fn calls_of_a_worker(
    backend: Backend,
    rules: &[Rule],
    is_local: bool,
    is_tapped: bool,
) -> Result<()> {
    for (tables, method) in tx_methods(backend, rules) {
        let sends: &[&str] = match (backend, method) {
            (Backend::IoUring, _) => &["io_uring_enter"],
            (Backend::Xdp, "xsk") if is_local => &["sendto", "sendmmsg"],
            (Backend::Xdp, "xsk") => &["sendto"],
            (Backend::Xdp, _) => &["sendmmsg"],
        };
        let bed = Testbed::builder().without_capture().build()?;
        let relay = RelayProcess::start_with(&bed.relay, backend, rules, &tables)?;
        let receivers = Receivers::start(&bed, rules)?;
        let part = |first, count| Stream::new(0, count, 1000).starting_at(first);
        // Afterwards its thread has made the system calls that come before the loop.
        send(&bed, rules, &[part(0, 100)], || receivers.progress())?;
        receivers.assert_exact(&[part(0, 100)]);
        let tap = is_tapped.then(|| Tapping::start(&relay, &["feed", "--all"]));
        let tap = tap.transpose()?;
        let followed = Followed::new(&relay, "relay-worker-0")?;
        send(&bed, rules, &[part(100, 400)], || {
            receivers.progress() - 100
        })?;
        receivers.assert_exact(&[part(0, 500)]);
        let calls = followed.end()?;
        let made = sends.iter().all(|&call| calls.contains(call));
        assert!(made, "{method}: {calls:?}");
        let allowed = allowed(backend);
        let others: Vec<_> = calls
            .iter()
            .filter(|call| !allowed.contains(&call.as_str()))
            .collect();
        assert!(others.is_empty(), "{method}: {others:?} of {calls:?}");
        if let Some(tap) = tap {
            let tapped = tap.end()?;
            assert_eq!(tapped.frames.len(), 3 * 400, "{}", tapped.said);
        }
        let stopped = relay.stop()?;
        assert!(stopped.status.success(), "{stopped:?}");
        stopped.report.assert_exact(&[500]);
    }
    Ok(())
}

relay_tests::on_both_backends!(
    a_relay_that_forwards_keeps_what_binding_again_takes_and_on_its_main_thread_alone,
    a_worker_under_traffic_makes_the_documented_system_calls_and_no_others,
);
