//! Signals: SIGTERM and SIGINT end the relay within a second, whatever it does, and leave the
//! interfaces clean; SIGHUP of no terminal does not end it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::process::Process;
use relay_tests::relay::{RelayProcess, RuleFile, START_TIMEOUT, run_command, stop_in_time};
use relay_tests::report::Report;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::sys;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// A second, and what a machine that is busy with other tests adds to it.
const WITHIN_A_SECOND: Duration = Duration::from_secs(3);

fn stops_cleanly_by(backend: Backend, signal: Signal) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 4)];
    let receivers = Receivers::start(&bed, &rules)?;
    let (input, output) = (&bed.inputs[0], &bed.outputs[0]);
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    assert!(input.has_joined(GROUP_IN)?, "joined");
    assert_eq!(input.has_xdp_program()?, backend == Backend::Xdp);
    assert!(!output.has_xdp_program()?, "an output needs no XDP program");
    assert!(bed.relay.packet_sockets()? > 0, "GSO packets need one");
    // What other hosts send to each other does not reach this host's stack either.
    let shown = bed.relay.ip("-details link")?;
    assert!(
        shown.contains("promiscuity 0") && !shown.contains("promiscuity 1"),
        "{shown}"
    );

    // Stopped while the traffic runs on.
    let over = AtomicBool::new(false);
    let sender = UdpSender::open(&bed.sources[0])?;
    let stopped = thread::scope(|scope| -> Result<_> {
        let sending = scope.spawn(|| -> Result<()> {
            let mut first = 0;
            while !over.load(Ordering::Relaxed) {
                let stream = Stream::new(0, 100, 500).starting_at(first);
                sender.send(&Traffic::new(GROUP_IN, PORT_IN, stream), 5000)?;
                first += 100;
            }
            Ok(())
        });
        let flowing = receivers.wait_until_each(|_, tally| tally.received >= 500);
        let stopped = relay.stop_by(signal);
        over.store(true, Ordering::Relaxed);
        let sent = sending.join();
        assert!(matches!(sent, Ok(Ok(()))), "{sent:?}");
        assert!(flowing, "traffic flows before the stop");
        stopped
    })?;
    assert!(stopped.took < WITHIN_A_SECOND, "took {:?}", stopped.took);
    assert_eq!(stopped.status.code(), Some(0), "{}", stopped.log);
    assert!(
        !input.has_xdp_program()? && !output.has_xdp_program()?,
        "no XDP program stays"
    );
    assert!(!input.has_joined(GROUP_IN)?, "the group is left");
    bed.relay.wait_for_no_packet_socket()?;

    // What it says it sent is what arrived, to the frame.
    receivers.settle();
    stopped.report.assert_balanced();
    for ((_, tally), output) in receivers
        .tallies()
        .iter()
        .zip(&stopped.report.rules[0].outputs)
    {
        assert_eq!(
            tally.received, output.packets_sent,
            "{tally} against {output:?}"
        );
        assert_eq!(tally.unique, tally.received, "{tally}");
    }
    assert!(stopped.report.uptime_seconds > 0.0);
    Ok(())
}

fn o6_sigterm_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean(
    backend: Backend,
) -> Result<()> {
    stops_cleanly_by(backend, Signal::SIGTERM)
}

fn o6_sigint_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean(
    backend: Backend,
) -> Result<()> {
    stops_cleanly_by(backend, Signal::SIGINT)
}

fn o6_a_relay_without_traffic_ends_within_a_second(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let stopped =
        RelayProcess::start(&bed.relay, backend, &[Rule::feed().outputs("out0", 1)])?.stop()?;
    assert!(stopped.took < WITHIN_A_SECOND, "took {:?}", stopped.took);
    stopped.report.assert_exact(&[0]);
    Ok(())
}

fn o6_sighup_of_no_terminal_reloads_and_the_relay_goes_on(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let file = RuleFile::of(&rules)?;
    let command = run_command(&bed.relay, backend, &file)?;
    let relay = Process::spawn(command)?;
    assert!(
        relay.wait_for_log("ready:", START_TIMEOUT),
        "{}",
        relay.log()
    );
    relay.signal(Signal::SIGHUP)?;
    let answered = relay.wait_for_log("nothing changes", Duration::from_secs(10));
    assert!(answered, "{}", relay.log());
    stop_in_time(relay).map(drop)
}

fn o6_a_terminal_that_closes_ends_the_relay_with_its_report(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let file = RuleFile::of(&rules)?;
    // Neither end may stay open in a program that another test starts just now.
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(ptsname_r(&master)?)?;
    let command = run_command(&bed.relay, backend, &file)?;
    let mut relay = Process::spawn_on_terminal(command, slave.into())?;
    let mut screen = BufReader::new(master);
    let mut line = String::new();
    while !line.contains("ready:") {
        line.clear();
        let read = screen
            .read_line(&mut line)
            .context("reading the terminal")?;
        assert!(read > 0, "the terminal has ended");
    }
    drop(screen);
    let status = relay
        .wait(Duration::from_secs(10))?
        .context("it did not end")?;
    assert!(status.success(), "{status}");
    let report: Report = serde_json::from_str(&relay.stdout())?;
    assert_eq!(report.packets_matched, 0);
    Ok(())
}

/// `count` rules, each with a group of its own.
fn many(count: u32) -> String {
    let rules: Vec<Rule> = (0..count)
        .map(|n| {
            let [_, _, high, low] = n.to_be_bytes();
            Rule::new(
                format!("r{n}"),
                "in0",
                Ipv4Addr::new(239, 1, high, low),
                5001,
            )
            .output("out0", Ipv4Addr::new(239, 2, high, low), 5002)
        })
        .collect();
    to_toml(&rules)
}

fn o6_as_many_rules_as_are_possible_end_in_two_seconds(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::new(&many(65_536))?;
    let mut command = run_command(&bed.relay, backend, &file)?;
    // The usual soft limit; the relay raises it.
    sys::limit(&mut command, libc::RLIMIT_NOFILE, 1024, 1 << 16);
    let mut relay = Process::spawn(command)?;
    assert!(
        relay.wait_for_log("ready:", Duration::from_secs(60)),
        "{}",
        relay.log()
    );
    let started = Instant::now();
    relay.signal(Signal::SIGTERM)?;
    let status = relay
        .wait(Duration::from_secs(60))?
        .context("it did not end")?;
    let took = started.elapsed();
    println!("65536 rules on {backend:?} stopped in {took:?}");
    assert!(status.success(), "{status}: {}", relay.log());
    // 0.5 to 0.8 s; 30 to 70 s when sockets are closed in the order of the joins.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let report: Report = serde_json::from_str(&relay.stdout())?;
    assert_eq!(report.rules.len(), 65_536);
    Ok(())
}

/// As a parent that has blocked its signals starts it.
fn o6_signals_that_the_parent_had_blocked_end_the_relay(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 1)])?;
    let mut command = run_command(&bed.relay, backend, &file)?;
    // SAFETY: only calls that are safe between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::signal::SigSet::all().thread_block()?));
    }
    let stopped = RelayProcess::start_command(command)?.stop()?;
    assert_eq!(stopped.status.code(), Some(0), "{}", stopped.log);
    Ok(())
}

relay_tests::on_both_backends! {
    o6_signals_that_the_parent_had_blocked_end_the_relay,
    o6_sigterm_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean,
    o6_sigint_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean,
    o6_a_relay_without_traffic_ends_within_a_second,
    o6_sighup_of_no_terminal_reloads_and_the_relay_goes_on,
    o6_a_terminal_that_closes_ends_the_relay_with_its_report,
    o6_as_many_rules_as_are_possible_end_in_two_seconds,
}
