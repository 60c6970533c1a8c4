//! The scenario that most tests are a case of: a relay with rules, traffic for every rule, and
//! exactly that traffic at every output.
//!
//! The flow id of a rule's traffic is the rule's position. A receiver listens to every output of
//! every rule, at the far end of the wire that it leaves through, which may be the input's own.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::backend::Backend;
use crate::encapsulation::Tag;
use crate::headers::HeaderCheck;
use crate::receiver::{Listen, UdpReceiver};
use crate::relay::{RelayProcess, Stopped};
use crate::rules::{Rule, transmit_by};
use crate::sender::{MAX_BURST, Traffic, UdpSender, Window};
use crate::tally::{Stream, Tally};
use crate::topology::Testbed;
use crate::veth::Endpoint;

/// How long the last datagram may take to arrive on a machine that is busy with other tests.
pub const ARRIVAL: Duration = Duration::from_secs(10);

/// Frames per second that a test may send through all its outputs together: tests run side by side,
/// and they do not check speed.
pub const OUTPUT_RATE: u32 = 30_000;

/// Frames that may wait in the outputs' rings at once.
const OUTPUT_BURST: u32 = 512;

/// Frames that may be on their way to the receivers at once: less than any ring holds.
const OUTPUT_WINDOW: u32 = 1024;

/// The source port of the first socket of a sender.
const FIRST_PORT: u16 = 40_000;

/// Receivers at every output of some rules.
#[derive(Debug)]
pub struct Receivers {
    /// The receiver of each wire, and the rule of each of its tallies.
    wires: Vec<(UdpReceiver, Vec<usize>)>,
    /// What looks at the headers there, if anything does.
    headers: Vec<HeaderCheck>,
}

/// The far end of the wire at the relay's `interface`.
pub fn far_end<'a>(bed: &'a Testbed, interface: &str) -> Result<&'a Endpoint> {
    let inputs = bed.inputs.iter().zip(&bed.sources);
    let outputs = bed.outputs.iter().zip(&bed.receivers);
    let mut wires = inputs.chain(outputs);
    let wire = wires.find(|(near, _)| near.interface == interface);
    wire.map(|(_, far)| far)
        .with_context(|| format!("the testbed has no interface {interface}"))
}

impl Receivers {
    /// Listens at every output of every rule.
    pub fn start(bed: &Testbed, rules: &[Rule]) -> Result<Self> {
        let mut wires = Vec::new();
        for near in bed.inputs.iter().chain(&bed.outputs) {
            let (mut listen, mut of_rule) = (Vec::new(), Vec::new());
            for (number, rule) in rules.iter().enumerate() {
                for output in rule
                    .outputs
                    .iter()
                    .filter(|o| o.interface == near.interface)
                {
                    listen.push(Listen::new(output.group, output.port, number as u32));
                    of_rule.push(number);
                }
            }
            if !listen.is_empty() {
                let far = far_end(bed, &near.interface)?;
                wires.push((UdpReceiver::start(far, &listen)?, of_rule));
            }
        }
        Ok(Self {
            wires,
            headers: Vec::new(),
        })
    }

    /// The same, and [`Self::assert_exact`] fails also if the headers of a copy are not right, as
    /// [`HeaderCheck`] has it. TTLs and addresses must be those that the testbed begins with.
    pub fn with_headers(bed: &Testbed, rules: &[Rule]) -> Result<Self> {
        let mut headers = Vec::new();
        for near in bed.inputs.iter().chain(&bed.outputs) {
            let outputs = rules.iter().flat_map(|rule| &rule.outputs);
            let here = outputs.filter(|output| output.interface == near.interface);
            let destinations: Vec<_> = here.map(|output| (output.group, output.port)).collect();
            if !destinations.is_empty() {
                let far = far_end(bed, &near.interface)?;
                headers.push(HeaderCheck::start(near, far, destinations)?);
            }
        }
        Ok(Self {
            headers,
            ..Self::start(bed, rules)?
        })
    }

    /// Fails unless all headers so far were right, and [`Self::with_headers`] looks at them.
    /// Returns how many GSO packets arrived.
    #[track_caller]
    pub fn assert_headers(&self) -> u64 {
        assert!(!self.headers.is_empty(), "nothing looks at headers");
        let checked = self.headers.iter().map(HeaderCheck::assert_right);
        checked.map(|(_, gso_packets)| gso_packets).sum()
    }

    /// The tallies of every output with the number of its rule, wire by wire.
    pub fn tallies(&self) -> Vec<(usize, Tally)> {
        let wire = |(receiver, rules): &(UdpReceiver, Vec<usize>)| {
            rules
                .iter()
                .copied()
                .zip(receiver.tallies())
                .collect::<Vec<_>>()
        };
        self.wires.iter().flat_map(wire).collect()
    }

    /// Waits until every output has received `counts[rule]` datagrams, then for quiet.
    pub fn wait_for(&self, counts: &[u64]) {
        for (receiver, rules) in &self.wires {
            receiver.wait_until(ARRIVAL, |tallies| {
                let wanted = rules
                    .iter()
                    .map(|&rule| counts.get(rule).copied().unwrap_or(0));
                tallies
                    .iter()
                    .zip(wanted)
                    .all(|(tally, wanted)| tally.received >= wanted)
            });
        }
        self.settle();
    }

    /// Waits until `condition(number, tally)` holds for every output; false if it does not in time.
    pub fn wait_until_each(&self, condition: impl Fn(usize, &Tally) -> bool) -> bool {
        let mut first = 0;
        self.wires.iter().all(|(receiver, rules)| {
            let reached = receiver.wait_until(ARRIVAL, |tallies| {
                let mut numbered = tallies.iter().enumerate();
                numbered.all(|(i, tally)| condition(first + i, tally))
            });
            first += rules.len();
            reached
        })
    }

    /// Waits until `condition` holds for one output; false if it does not in time.
    pub fn wait_until_output(&self, output: usize, condition: impl Fn(&Tally) -> bool) -> bool {
        self.wait_until_each(|number, tally| number != output || condition(tally))
    }

    /// Datagrams that have arrived at every output of their rule, over all rules.
    pub fn progress(&self) -> u64 {
        let mut slowest: BTreeMap<usize, u64> = BTreeMap::new();
        for (receiver, rules) in &self.wires {
            receiver.look(|tallies| {
                for (tally, &rule) in tallies.iter().zip(rules) {
                    let least = slowest.entry(rule).or_insert(u64::MAX);
                    *least = tally.received.min(*least);
                }
            });
        }
        slowest.values().sum()
    }

    /// Waits until nothing has arrived at any output for a while.
    pub fn settle(&self) {
        self.wires
            .iter()
            .for_each(|(receiver, _)| receiver.settle());
    }

    /// Waits, then fails unless every output has received exactly its rule's stream.
    #[track_caller]
    pub fn assert_exact(&self, streams: &[Stream]) {
        self.wait_for(
            &streams
                .iter()
                .map(|stream| stream.count)
                .collect::<Vec<_>>(),
        );
        for (rule, tally) in self.tallies() {
            match streams.get(rule) {
                Some(stream) => tally.assert_exact(stream),
                None => tally.assert_nothing(),
            }
        }
        for ((receiver, _), headers) in self.wires.iter().zip(&self.headers) {
            let received = receiver.tallies().iter().map(|tally| tally.received).sum();
            headers.wait_for(received, ARRIVAL);
            let (datagrams, _) = headers.assert_right();
            assert_eq!(datagrams, received, "on the wire, and at its sockets");
        }
    }
}

/// The streams of `rules`: `count` datagrams of `size` bytes for each.
pub fn streams(rules: &[Rule], count: u64, size: usize) -> Vec<Stream> {
    (0..rules.len())
        .map(|rule| Stream::new(rule as u32, count, size))
        .collect()
}

/// Sends every rule's stream from the host at the rule's input, all hosts at the same time, paced
/// so that the outputs stay within [`OUTPUT_RATE`] and never far ahead of what has arrived at every
/// output according to `progress`.
pub fn send(
    bed: &Testbed,
    rules: &[Rule],
    streams: &[Stream],
    progress: impl Fn() -> u64 + Sync,
) -> Result<()> {
    send_in_turns(bed, rules, streams, 1, progress)
}

/// The same from as many sockets, which take turns within each stream.
pub fn send_in_turns(
    bed: &Testbed,
    rules: &[Rule],
    streams: &[Stream],
    sockets: u16,
    progress: impl Fn() -> u64 + Sync,
) -> Result<()> {
    // Copies of one datagram, on average over the rules.
    let outputs = rules.iter().map(|rule| rule.outputs.len()).sum::<usize>();
    let fan_out = (outputs / rules.len().max(1)).max(1) as u32;
    // One sender for each input and kind of tags that anything is sent to.
    let senders: BTreeSet<(&str, &[Tag])> = rules
        .iter()
        .zip(streams)
        .filter(|(_, stream)| stream.count > 0)
        .map(|(rule, _)| (rule.interface.as_str(), rule.tags.as_slice()))
        .collect();
    let sources = senders.len().max(1) as u32;
    let rate = OUTPUT_RATE / fan_out / sources;
    let burst = (OUTPUT_BURST / fan_out / sources).clamp(1, MAX_BURST);
    let window = Window::new(u64::from((OUTPUT_WINDOW / fan_out).max(2)), progress);
    let window = &window;
    thread::scope(|scope| {
        let mut sending = Vec::new();
        for (interface, tags) in senders {
            let here = rules
                .iter()
                .zip(streams)
                .filter(|(r, _)| r.interface == interface && r.tags == tags);
            let traffic: Vec<_> = here
                .map(|(r, s)| Traffic::new(r.group, r.port, *s))
                .collect();
            let far = far_end(bed, interface)?;
            let by: Vec<UdpSender> = (FIRST_PORT..FIRST_PORT + sockets)
                .map(|port| UdpSender::open_tagged(far, tags, port))
                .collect::<Result<_>>()?;
            sending.push(
                scope.spawn(move || UdpSender::send_in_turns(&by, &traffic, rate, burst, window)),
            );
        }
        for thread in sending {
            thread
                .join()
                .map_err(|_| anyhow!("a sending thread panicked"))??;
        }
        Ok(())
    })
}

/// The TX methods that a rule file can choose on `backend`: for each the tables that choose it for
/// the outputs of `rules`, and its name in the report.
pub fn tx_methods(backend: Backend, rules: &[Rule]) -> Vec<(String, &'static str)> {
    match backend {
        Backend::Xdp => ["xsk", "segmented"]
            .map(|method| (transmit_by(rules, method), method))
            .into(),
        Backend::IoUring => vec![(String::new(), "segmented")],
    }
}

/// Runs a relay with `rules` on `backend`, sends `count` datagrams of `size` bytes for each, and
/// fails unless every output is exact, the relay counted the same, and it stopped cleanly; once by
/// each of the [`tx_methods`]. Returns how the last run ended.
#[track_caller]
pub fn forward_exactly(
    bed: &Testbed,
    backend: Backend,
    rules: &[Rule],
    count: u64,
    size: usize,
) -> Result<Stopped> {
    forward_streams_exactly(bed, backend, rules, &streams(rules, count, size))
}

/// The same with a stream of its own for each rule.
#[track_caller]
pub fn forward_streams_exactly(
    bed: &Testbed,
    backend: Backend,
    rules: &[Rule],
    streams: &[Stream],
) -> Result<Stopped> {
    let mut last = None;
    for (tables, method) in tx_methods(backend, rules) {
        let relay = RelayProcess::start_with(&bed.relay, backend, rules, &tables)?;
        let stopped = forward_exactly_by(relay, bed, rules, streams)?;
        stopped.report.assert_tx_method(rules, method)?;
        last = Some(stopped);
    }
    last.context("the backend has no TX method")
}

/// Sends every rule's stream through `relay`, which runs `rules`, stops it, and fails unless every
/// output is exact with right headers, the relay counted the same, and it stopped cleanly.
#[track_caller]
pub fn forward_exactly_by(
    relay: RelayProcess,
    bed: &Testbed,
    rules: &[Rule],
    streams: &[Stream],
) -> Result<Stopped> {
    forward_exactly_from(relay, bed, rules, streams, 1)
}

/// The same from as many sockets for each input, which take turns within each stream.
#[track_caller]
pub fn forward_exactly_from(
    relay: RelayProcess,
    bed: &Testbed,
    rules: &[Rule],
    streams: &[Stream],
    sockets: u16,
) -> Result<Stopped> {
    let receivers = Receivers::with_headers(bed, rules)?;
    send_in_turns(bed, rules, streams, sockets, || receivers.progress())?;
    receivers.assert_exact(streams);
    let stopped = relay.stop()?;
    assert!(
        stopped.status.success(),
        "the relay ended with {}: {}",
        stopped.status,
        stopped.log
    );
    stopped
        .report
        .assert_exact(&streams.iter().map(|s| s.count).collect::<Vec<_>>());
    Ok(stopped)
}
