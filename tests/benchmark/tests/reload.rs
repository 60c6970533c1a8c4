//! Rules are reloaded a hundred times beside a feed of 100,000 frames per second to four outputs,
//! which does not change: not one of its frames is lost, and all stay in order.
//!
//! Frames are counted in front of the receivers' stacks, because sockets would lose some at this
//! rate. On a machine that loses frames at the rate also without a reload,
//! the rate is halved.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use relay_bench::{
    contender::command,
    programs::abi::{SlotState, Stamp},
    sink::{Expected, NextHop, Sink},
    wire::{Shape, Wires},
};
use relay_tests::{
    backend::Backend,
    capture::target_directory,
    relay::{RelayProcess, RuleFile, run_command},
    rules::{GROUP_IN, PORT_IN, Rule, output_destination, to_toml},
    sender::{MAX_BURST, Pacer, UdpSender},
    veth::{End, connect},
};

const RATE: u32 = 100_000;
/// Below this, the test would show nothing.
const LOWEST_RATE: u32 = 12_500;
const PAYLOAD: usize = 1000;
const RELOADS: usize = 100;
/// Datagrams that are sent in one system call.
const JOINED: u32 = 25;
const FLOW: u32 = 0;
/// How long the feed without reloads lasts.
const CALM: Duration = Duration::from_secs(5);

/// The feeds would take the CPUs from one another.
static ALONE: Mutex<()> = Mutex::new(());

/// The rule that never changes.
fn feed() -> Rule {
    Rule::feed().outputs("out0", 4)
}

/// The rules of a reload: always the same number of others, so that each reload changes something.
fn file(round: usize) -> String {
    let group = |block: u8, last: u8| Ipv4Addr::new(239, block, 9, last);
    let other = |n: u8, input: &str, outputs: &[&str]| {
        let rule = Rule::new(format!("other-{n}"), input, group(1, n), 7000);
        (1..).zip(outputs).fold(rule, |rule, (at, output)| {
            rule.output(output, group(100 + at, n), 7000)
        })
    };
    // Outputs on the feed's own interface and on another one come and go, as do the first and the
    // last rule of an input, and one with another TTL.
    let mut rules = match round % 4 {
        0 => vec![
            other(1, "in0", &["out0"]),
            other(2, "in0", &["out1", "out0"]),
        ],
        1 => vec![
            other(2, "in0", &["out1"]).ttl("9"),
            other(3, "in1", &["out0"]),
        ],
        2 => vec![
            other(1, "in0", &["out0", "out1"]),
            other(3, "in1", &["out0"]).ttl("9"),
        ],
        _ => vec![],
    };
    rules.insert(round % (rules.len() + 1), feed());
    to_toml(&rules)
}

/// The hosts, the wires and both ends of the feed.
struct Bed {
    wires: Wires,
    sink: Sink,
}

impl Bed {
    fn new() -> Result<Self> {
        let programs: PathBuf = target_directory().join("ebpf/bench.o");
        let wires = Wires::new(Shape {
            interfaces: 3,
            mtu: 1500,
            ipv6: false,
        })?;
        let end = |of: &relay_tests::veth::Endpoint, interface: &str, last: u8| End {
            namespace: Arc::clone(&of.namespace),
            interface: interface.to_owned(),
            mac: [2, 0, 10, 1, 1, last],
            address: Some(Ipv4Addr::new(10, 1, 1, last)),
            ipv6: false,
            mtu: 1500,
            queues: 1,
        };
        connect(end(&wires.input, "in1", 1), end(&wires.source, "src1", 2))?;
        let mut sink = Sink::attach(&programs, &wires.sinks, NextHop::Host)?;
        let destinations = (0..feed().outputs.len()).map(output_destination);
        let expected = destinations.map(|(group, port)| Expected {
            wire: 0,
            group,
            port,
            flows: FLOW..FLOW + 1,
            ipv6: false,
        });
        sink.expect(&expected.collect::<Vec<_>>(), PAYLOAD)?;
        Ok(Self { wires, sink })
    }

    fn start(&self, backend: Backend) -> Result<(RelayProcess, RuleFile)> {
        let file = RuleFile::new(&file(3))?;
        let command = run_command(&self.wires.relay, backend, &file)?;
        Ok((
            RelayProcess::start_command(command)?.expecting(backend),
            file,
        ))
    }

    /// Sends the feed until `work` has ended. Returns how many frames were sent, and what arrived
    /// at each output.
    fn feed_during(
        &mut self,
        rate: u32,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<(u64, Vec<SlotState>)> {
        self.sink.drain()?;
        let sender = UdpSender::open(&self.wires.source)?;
        sender.cut_into(PAYLOAD)?;
        let (started, over) = (Instant::now(), AtomicBool::new(false));
        let sent = thread::scope(|scope| {
            let sending = scope.spawn(|| send(&sender, rate, &over));
            let done = work();
            over.store(true, Ordering::Relaxed);
            let sent = sending.join().map_err(|_| anyhow!("the sender panicked"))?;
            done.and(sent)
        })?;
        let offered = sent as f64 / started.elapsed().as_secs_f64();
        println!("{sent} frames, {offered:.0} per second");
        // A sender that is slower than asked tests less than is said.
        ensure!(
            offered > f64::from(LOWEST_RATE) * 0.9,
            "only {offered:.0} of {rate} frames per second were sent"
        );
        self.sink.settle()?;
        Ok((sent, self.sink.read()?.slots))
    }
}

/// Sends the feed, [`JOINED`] datagrams in a system call, until it is over. Returns how many.
fn send(sender: &UdpSender, rate: u32, over: &AtomicBool) -> Result<u64> {
    let mut pacer = Pacer::new(rate / JOINED, MAX_BURST / JOINED);
    let mut payloads = vec![0; PAYLOAD * JOINED as usize];
    let mut sent = 0_u64;
    while !over.load(Ordering::Relaxed) {
        for payload in payloads.chunks_mut(PAYLOAD) {
            let stamp = Stamp::new(FLOW, sent, 0).to_bytes();
            payload[..stamp.len()].copy_from_slice(&stamp);
            sent += 1;
        }
        pacer.wait();
        sender.send_one(GROUP_IN, PORT_IN, &payloads)?;
    }
    Ok(sent)
}

/// Copies that did not arrive, or not in order.
fn wrong(sent: u64, slots: &[SlotState]) -> u64 {
    let slots = slots.iter();
    slots
        .map(|slot| sent.saturating_sub(slot.received) + slot.late + slot.bad)
        .sum()
}

fn a_hundred_reloads_cost_a_fast_feed_nothing(backend: Backend) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Sender and relay inherit it: what else the machine does is not under test.
    command::undisturb(0)?;
    let mut bed = Bed::new()?;
    let mut rate = RATE;
    loop {
        let (relay, _file) = bed.start(backend)?;
        let refused = bed.wires.refused()?;
        let (sent, slots) = bed.feed_during(rate, || {
            for round in 0..RELOADS {
                let answer = relay.reload(&file(round))?;
                ensure!(answer.code == Some(0), "reload {round}: {answer:?}");
                ensure!(
                    !answer.stdout.contains("the rules of in0 paused"),
                    "{answer:?}"
                );
            }
            Ok(())
        })?;
        let refused = bed.wires.refused()? - refused;
        let stopped = relay.stop()?;
        // A change of the relay's own is not taken for one of another process.
        ensure!(!stopped.log.contains("by force"), "{}", stopped.log);
        if wrong(sent, &slots) == 0 {
            let report = stopped.report.rules.iter().find(|rule| rule.name == "feed");
            let report = report.context("the rule is in the report")?;
            assert_eq!(report.packets_matched, sent);
            stopped.report.assert_balanced();
            return Ok(());
        }
        let (relay, _file) = bed.start(backend)?;
        let (calm_sent, calm) = bed.feed_during(rate, || {
            thread::sleep(CALM);
            Ok(())
        })?;
        relay.stop()?;
        println!(
            "{backend:?} at {rate} frames per second: {} copies are wrong with reloads, {} without; \
             {refused} frames did not reach the relay; {:?}",
            wrong(sent, &slots),
            wrong(calm_sent, &calm),
            stopped.report.dropped,
        );
        let machine = wrong(calm_sent, &calm) > 0;
        ensure!(
            machine && rate / 2 >= LOWEST_RATE,
            "{backend:?}, {sent} frames: {slots:?}; {:?}",
            stopped.report
        );
        rate /= 2;
    }
}

#[test]
fn on_xdp_a_hundred_reloads_cost_a_fast_feed_nothing() -> Result<()> {
    a_hundred_reloads_cost_a_fast_feed_nothing(Backend::Xdp)
}

#[test]
fn on_io_uring_a_hundred_reloads_cost_a_fast_feed_nothing() -> Result<()> {
    a_hundred_reloads_cost_a_fast_feed_nothing(Backend::IoUring)
}
