//! Watch the relay work: a source, a relay and a receiving host in network namespaces, real sockets
//! at both ends, and what every output receives, live.
//!
//! ```text
//!   source              relay                           receiver
//!   10.1.0.2  ------->  in0 10.1.0.1   10.2.0.1 out0  ------->  10.2.0.2
//!             group in                                  groups out
//! ```
//!
//! Meanwhile the rules change: another rule is added and removed over and over, and the feed loses
//! nothing by it. Ends with the relay's own report beside the receivers' counts. The exit code is 0
//! only if every output received every datagram once, in order and whole, and the relay counted the
//! same.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stdout};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use relay_tests::payload;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::{RelayProcess, RuleFile, Stopped, finish};
use relay_tests::rules::Rule;
use relay_tests::sender::{MAX_BURST, Pacer, UdpSender};
use relay_tests::tally::{Stream, Tally};
use relay_tests::topology::Testbed;
use serde::Deserialize;

/// The one flow of the demo.
const FLOW: u32 = 1;

/// Watch the relay send one multicast feed to several groups.
#[derive(Debug, Parser)]
struct Arguments {
    /// The relay binary.
    #[arg(long, value_name = "PATH")]
    relay: PathBuf,
    /// The rule file; its interfaces must be `in0` and `out0`.
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// For how long to send, in seconds.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Datagrams per second.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rate: u32,
    /// Bytes of payload in each datagram.
    #[arg(long, value_name = "BYTES", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(16..=1472))]
    size: u16,
}

/// The parts of `relay plan --json` that are used here.
#[derive(Debug, Deserialize)]
struct Plan {
    interfaces: Vec<PlanInterface>,
    flows: Vec<PlanFlow>,
}

#[derive(Debug, Deserialize)]
struct PlanInterface {
    name: String,
}

#[derive(Debug, Deserialize)]
struct PlanFlow {
    rule: String,
    interface: usize,
    group: Ipv4Addr,
    port: u16,
    outputs: Vec<PlanOutput>,
}

#[derive(Debug, Deserialize)]
struct PlanOutput {
    interface: usize,
    group: Ipv4Addr,
    port: u16,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; true if everything was exact.
fn run(arguments: &Arguments) -> Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("catching signals")?;
    }
    let bed = Testbed::builder().without_capture().build()?;
    let flow = plan(&bed, &arguments.relay, &arguments.rules)?;
    println!("Three hosts, as network namespaces of this machine:\n");
    println!("  source                  relay                           receiver");
    println!("  10.1.0.2  --------->  in0 10.1.0.1   10.2.0.1 out0  --------->  10.2.0.2\n");

    let mut command = bed.relay.command(&arguments.relay);
    command.args(["run", "--json"]).arg(&arguments.rules);
    let relay = RelayProcess::start_command(command)?;
    for line in relay.log().lines() {
        // Without the time and the module.
        let message = line.split_once("] ").map_or(line, |(_, message)| message);
        println!("relay: {message}");
    }
    let listen: Vec<_> = flow
        .outputs
        .iter()
        .map(|o| Listen::new(o.group, o.port, FLOW))
        .collect();
    let receiver = UdpReceiver::start(&bed.receivers[0], &listen)?;
    println!(
        "\nSending {} datagrams of {} bytes a second to {}:{} for {} s; rule `{}` gives \
         them {} outputs.\n",
        arguments.rate,
        arguments.size,
        flow.group,
        flow.port,
        arguments.seconds,
        flow.rule,
        listen.len()
    );

    let sender = UdpSender::open(&bed.sources[0])?;
    let sent = AtomicU64::new(0);
    let over = &AtomicBool::new(false);
    let relay_now = &relay;
    let changes = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let result = send(&sender, &flow, arguments, &stop, &sent);
            over.store(true, Ordering::Relaxed);
            result
        });
        let finished = || over.load(Ordering::Relaxed);
        let changing = scope.spawn(move || change(relay_now, &arguments.relay, finished));
        show(&receiver, &sent, finished)?;
        let changes = changing.join();
        let changes = changes.map_err(|_| anyhow::anyhow!("the changing thread panicked"))??;
        match sending.join() {
            Ok(sent) => sent.map(|()| changes),
            Err(_) => bail!("the sending thread panicked"),
        }
    })?;
    println!(
        "\nMeanwhile another rule was added to the running relay and removed again, {changes} \
         changes in all."
    );
    let stream = Stream::new(FLOW, sent.into_inner(), usize::from(arguments.size));
    receiver.wait_for(stream.count, Duration::from_secs(2));
    receiver.settle();
    let stopped = relay.stop()?;
    Ok(conclude(&stream, &receiver.tallies(), &stopped))
}

/// Asks the relay what it will do with the rule file.
fn plan(bed: &Testbed, relay: &Path, rules: &Path) -> Result<PlanFlow> {
    let mut command = bed.relay.command(relay);
    command.arg("plan").arg(rules).arg("--json");
    let planned = finish(command)?;
    ensure!(
        planned.code == Some(0),
        "`relay plan {}` ended with {:?}: {}",
        rules.display(),
        planned.code,
        planned.stderr.trim()
    );
    let plan: Plan = serde_json::from_str(&planned.stdout).context("reading the relay's plan")?;
    let name = |position: usize| plan.interfaces.get(position).map(|i| i.name.as_str());
    let [flow] = plan.flows.as_slice() else {
        bail!(
            "{} has {} rules, the demo shows one",
            rules.display(),
            plan.flows.len()
        );
    };
    ensure!(
        name(flow.interface) == Some("in0"),
        "the rule's input is not on in0"
    );
    ensure!(
        flow.outputs
            .iter()
            .all(|output| name(output.interface) == Some("out0")),
        "an output of the rule is not on out0"
    );
    plan.flows.into_iter().next().context("no flow in the plan")
}

/// Sends until the time is over or `stop` is set.
fn send(
    sender: &UdpSender,
    flow: &PlanFlow,
    arguments: &Arguments,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let mut payload = vec![0; usize::from(arguments.size)];
    let mut pacer = Pacer::new(arguments.rate, MAX_BURST);
    let total = arguments.seconds * u64::from(arguments.rate);
    for sequence in 0..total {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        payload::fill(FLOW, sequence, &mut payload);
        pacer.wait();
        sender.send_one(flow.group, flow.port, &payload)?;
        sent.store(sequence + 1, Ordering::Relaxed);
    }
    Ok(())
}

/// Adds a rule to the running relay and removes it again, until `finished`. Returns how many
/// changes that were.
fn change(relay: &RelayProcess, program: &Path, finished: impl Fn() -> bool) -> Result<u32> {
    const PAUSE: Duration = Duration::from_millis(400);
    let rule = Rule::new("another", "in0", Ipv4Addr::new(239, 255, 0, 1), 9000).output(
        "out0",
        Ipv4Addr::new(239, 255, 0, 2),
        9001,
    );
    let fragment = RuleFile::of(&[rule])?;
    let ask = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg("--control")
            .arg(relay.control());
        let answer = finish(command)?;
        ensure!(answer.code == Some(0), "{arguments:?}: {}", answer.stderr);
        Ok(())
    };
    let mut changes = 0;
    while !finished() {
        ask(&["add", "-f", &fragment.path().display().to_string()])?;
        thread::sleep(PAUSE);
        ask(&["remove", "another"])?;
        thread::sleep(PAUSE);
        changes += 2;
    }
    Ok(changes)
}

/// A count with its digits in groups of three.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The destination that a tally counts, which is a part of its name.
fn destination(tally: &Tally) -> &str {
    tally
        .name
        .split_once(' ')
        .map_or(tally.name.as_str(), |(_, destination)| destination)
}

/// Shows the receivers' counts until `finished`: a table that stays in place on a terminal, one
/// line per second otherwise.
fn show(receiver: &UdpReceiver, sent: &AtomicU64, finished: impl Fn() -> bool) -> Result<()> {
    let terminal = stdout().is_terminal();
    let interval = Duration::from_millis(if terminal { 250 } else { 1000 });
    let start = Instant::now();
    let mut next = start;
    let mut past: VecDeque<(Instant, Vec<Tally>)> = VecDeque::new();
    let mut drawn = 0;
    while !finished() {
        // Sleeps are short, so that the end of sending is noticed soon.
        if Instant::now() < next {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        next += interval;
        let (now, tallies) = (Instant::now(), receiver.tallies());
        // The rate is that of the last second.
        while past
            .front()
            .is_some_and(|(when, _)| now - *when > Duration::from_millis(1100))
        {
            past.pop_front();
        }
        let rate = |i: usize| {
            let (when, before) = past.front()?;
            let more = tallies.get(i)?.received - before.get(i)?.received;
            Some((more as f64 / (now - *when).as_secs_f64()).round() as u64)
        };
        let rates: Vec<_> = (0..tallies.len()).map(|i| rate(i).unwrap_or(0)).collect();
        let sent = sent.load(Ordering::Relaxed);
        let mut screen = stdout().lock();
        if terminal {
            if drawn > 0 {
                write!(screen, "\x1b[{drawn}A")?;
            }
            writeln!(screen, "\x1b[K  sent {:>12}", grouped(sent))?;
            writeln!(
                screen,
                "\x1b[K  {:<22}{:>12}{:>12}{:>8}",
                "output", "received", "a second", "lost"
            )?;
            for (tally, rate) in tallies.iter().zip(rates) {
                let (received, lost) = (grouped(tally.received), grouped(tally.gaps()));
                let (name, rate) = (destination(tally), grouped(rate));
                writeln!(
                    screen,
                    "\x1b[K  {name:<22}{received:>12}{rate:>12}{lost:>8}"
                )?;
            }
            drawn = tallies.len() + 2;
        } else if now - start > interval / 2 {
            write!(
                screen,
                "{:>3.0} s  sent {sent}",
                (now - start).as_secs_f64()
            )?;
            for (tally, rate) in tallies.iter().zip(rates) {
                let (received, lost) = (tally.received, tally.gaps());
                write!(
                    screen,
                    " | {} received {received}, {rate}/s, lost {lost}",
                    destination(tally)
                )?;
            }
            writeln!(screen)?;
        }
        screen.flush()?;
        past.push_back((now, tallies));
    }
    Ok(())
}

/// Prints the relay's report beside the receivers' counts; true if everything is exact and agrees.
fn conclude(stream: &Stream, tallies: &[Tally], stopped: &Stopped) -> bool {
    let report = &stopped.report;
    let mut faults = Vec::new();
    let outputs: Vec<_> = report.rules.iter().flat_map(|rule| &rule.outputs).collect();
    println!(
        "\nSent by the source: {} datagrams.\n",
        grouped(stream.count)
    );
    println!(
        "  {:<22}{:>12}{:>16}  verdict",
        "output", "received", "sent by relay"
    );
    for (i, tally) in tallies.iter().enumerate() {
        let verdict = tally.verdict(stream);
        let by_relay = outputs.get(i).map_or(0, |output| output.packets_sent);
        let word = if verdict.is_ok() {
            "exact"
        } else {
            "NOT EXACT"
        };
        let received = grouped(tally.received);
        println!(
            "  {:<22}{received:>12}{:>16}  {word}",
            destination(tally),
            grouped(by_relay)
        );
        faults.extend(verdict.err());
        if by_relay != tally.received {
            faults.push(format!(
                "{}: the relay counts {by_relay} sent, the receiver {} received",
                tally.name, tally.received
            ));
        }
    }
    println!(
        "\nThe relay's own report, after {:.1} s:\n",
        report.uptime_seconds
    );
    for (name, value, expected) in [
        ("packets_received", report.packets_received, stream.count),
        ("packets_matched", report.packets_matched, stream.count),
        (
            "packets_sent",
            report.packets_sent,
            stream.count * tallies.len() as u64,
        ),
        ("dropped", report.dropped_total(), 0),
    ] {
        println!("  {name:<22}{:>12}", grouped(value));
        if value != expected {
            faults.push(format!(
                "the relay counts {name} {value}, it should be {expected}"
            ));
        }
    }
    for interface in &report.interfaces {
        let backend = interface.backend.name();
        let mode = interface.mode.as_deref();
        let mode = mode.map_or_else(String::new, |mode| format!("{mode}  "));
        let method = interface.tx_method.as_deref();
        let method = method.map_or_else(String::new, |method| format!("transmit: {method} "));
        println!(
            "  {:<22}{backend:>12}  {mode}{method}{}",
            interface.name, interface.reason
        );
    }
    if stream.count == 0 {
        faults.push("nothing was sent".to_owned());
    }
    if !stopped.status.success() {
        faults.push(format!("the relay ended with {}", stopped.status));
    }
    println!();
    if faults.is_empty() {
        println!("Every output is exact: every datagram once, in order, every byte as sent.");
    } else {
        faults.iter().for_each(|fault| println!("FAULT: {fault}"));
    }
    faults.is_empty()
}
