//! What the relay costs frames that no rule takes: how many of them its input passes on to the
//! stack, beside how many it does with a program that only returns `XDP_PASS`.
//!
//! Both have the same wire in turns, half a second each, because a shared machine changes its speed
//! by more than the relay costs. The input receives in a kernel thread on the contender's CPU: in a
//! softirq it would share the generator's, and the time that a frame takes to make would hide a
//! part of the difference. In each turn the stack must have got every frame that the wire took.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use relay_tests::{backend::Backend, background::eventually, veth::Endpoint};

use crate::{
    bed::{CONTENDER_CPU, GENERATOR_CPU},
    cell,
    contender::napi_thread::NapiThread,
    framing::Framing,
    generator::{Generator, Traffic},
    job::Job,
    load::{Load, Matches, To},
    pairs, programs,
    relay::{Options, Relay},
    results::{UnmatchedPair, UnmatchedResult},
    wire::{Shape, Wires},
};

/// Pairs of turns per round. Who begins changes from pair to pair.
pub const PAIRS: usize = 8;
/// A turn, in seconds.
pub const SECONDS: f64 = 0.5;
/// The least part of the rate of `XDP_PASS` that is good enough.
pub const ENOUGH: f64 = 0.9;

/// For how long traffic flows before it counts, in seconds.
const WARM_UP: f64 = 0.1;
/// What is offered, as a multiple of what the input has passed on just before. Much more would slow
/// the input: a frame that the wire refuses goes back to the generator's page pool under the lock
/// that the stack takes for each frame that it frees.
const OFFERED: f64 = 1.2;
/// The part of what was offered that the wire may take at most: if it takes more, the generator may
/// have been the limit, and more is offered.
const TAKEN: f64 = 0.97;
/// How often more is offered.
const ATTEMPTS: usize = 8;
/// The first rate, in frames per second.
const FIRST: u64 = 1_000_000;
/// Bytes of UDP payload.
const PAYLOAD: usize = 1000;
/// In no rule of any [`Load`]; its port is in the range of mixed rules, so that the look-up tries
/// every shape of theirs.
const FLOW: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 250, 0, 1), 5001);
/// How long the stack may take for the last frames of a turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// Frames that no rule takes, past a set of rules.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What tables call it.
    pub name: &'static str,
    framing: Framing,
    rules: usize,
    matches: Matches,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [
        Self::new("IPv4, 1 rule", Framing::Ipv4, 1, Matches::Exact),
        Self::new(
            "IPv4, 10,000 mixed rules",
            Framing::Ipv4,
            10_000,
            Matches::Mixed,
        ),
        Self::new("IPv6, 1 rule", Framing::Ipv6, 1, Matches::Exact),
    ];

    const fn new(name: &'static str, framing: Framing, rules: usize, matches: Matches) -> Self {
        Self {
            name,
            framing,
            rules,
            matches,
        }
    }
}

/// Measures one kind with `count` pairs of turns of some seconds. `programs` is the object of the
/// benchmark's kernel programs.
///
/// # Errors
///
/// Nothing can be started, or a frame that the wire took did not reach the stack.
pub fn measure(
    kind: &Kind,
    relay: &Path,
    programs: &Path,
    count: usize,
    seconds: f64,
) -> Result<Vec<UnmatchedPair>> {
    let mut input = Input::new(kind, programs)?;
    let mut pairs = Vec::with_capacity(count);
    for pair in 0..count {
        pairs.push(if pair % 2 == 0 {
            let relay = input.with_relay(relay, seconds)?;
            let pass = input.with_pass(programs, seconds)?;
            UnmatchedPair { relay, pass }
        } else {
            let pass = input.with_pass(programs, seconds)?;
            let relay = input.with_relay(relay, seconds)?;
            UnmatchedPair { relay, pass }
        });
    }
    Ok(pairs)
}

/// The input, a wire to it, and what the relay shall do there.
struct Input {
    job: Job,
    framing: Framing,
    generator: Generator,
    /// What will be offered, in frames per second.
    offered: u64,
    // Dropped before the host that it is in.
    _thread: NapiThread,
    wires: Wires,
}

/// What the wire took of what was sent.
struct Taken {
    /// In frames.
    frames: u64,
    /// In frames per second.
    rate: f64,
    /// Nearly all.
    is_all: bool,
}

impl Input {
    fn new(kind: &Kind, programs: &Path) -> Result<Self> {
        let wires = Wires::new(Shape {
            interfaces: 1,
            mtu: 1500,
            ipv6: kind.framing == Framing::Ipv6,
        })?;
        let load = Load {
            outputs: 1,
            flows: 1,
            senders: 1,
            rules: kind.rules,
            matches: kind.matches,
            to: To::Groups,
        };
        let job = Job {
            framing: kind.framing,
            ..load.job(&wires, CONTENDER_CPU)?
        };
        Ok(Self {
            offered: FIRST,
            generator: Generator::new(programs, &wires.source, GENERATOR_CPU)?,
            framing: kind.framing,
            _thread: NapiThread::start(&job)?,
            job,
            wires,
        })
    }

    /// The rate of a turn with the relay at the input.
    fn with_relay(&mut self, binary: &Path, seconds: f64) -> Result<f64> {
        let options = Options {
            backend: Some(Backend::Xdp.name().to_owned()),
            ..Options::default()
        };
        let relay = Relay::start(binary, &self.job, &options)?;
        let (frames, rate) = self.flood(seconds).context("with the relay")?;
        let stopped = relay.stop()?;
        let counted = stopped.report.filter(&self.job.input, "pass_no_rule");
        ensure!(
            counted == frames,
            "the wire took {frames} frames, and the relay's report has {counted} as of no rule; its \
             log is:\n{}",
            stopped.log
        );
        Ok(rate)
    }

    /// The rate of a turn with a program at the input that only returns `XDP_PASS`.
    fn with_pass(&mut self, programs: &Path, seconds: f64) -> Result<f64> {
        let _attached = attach_pass(programs, &self.wires.input)?;
        let (_, rate) = self.flood(seconds).context("with only XDP_PASS")?;
        Ok(rate)
    }

    /// Offers more than the input can pass on; returns how many frames it passed on in all, and how
    /// many per second after the warm-up.
    fn flood(&mut self, seconds: f64) -> Result<(u64, f64)> {
        let stack = self.stack()?;
        let mut frames = self.send(WARM_UP)?.frames;
        let mut rate = None;
        for _ in 0..ATTEMPTS {
            let passed = self.send(seconds)?;
            frames += passed.frames;
            if passed.is_all {
                continue;
            }
            rate = Some(passed.rate);
            break;
        }
        eventually(PATIENCE, || {
            self.stack().is_ok_and(|now| now - stack >= frames)
        });
        let reached = self.stack()? - stack;
        ensure!(
            reached == frames,
            "the wire took {frames} frames, and {reached} reached the stack"
        );
        let rate = rate.context("the input was always faster than the generator")?;
        Ok((frames, rate))
    }

    /// Sends, and returns what the wire took.
    fn send(&mut self, seconds: f64) -> Result<Taken> {
        let refused = self.wires.refused()?;
        let sent = self.generator.run(&Traffic {
            rate: self.offered,
            seconds,
            payload: PAYLOAD,
            flows: vec![FLOW],
            senders: 1,
            framing: self.framing,
        })?;
        let frames = sent.frames - (self.wires.refused()? - refused);
        let rate = frames as f64 / sent.seconds;
        self.offered = (rate * OFFERED) as u64;
        Ok(Taken {
            frames,
            rate,
            is_all: frames as f64 > sent.frames as f64 * TAKEN,
        })
    }

    /// IP packets that the stack of the input's host has received so far.
    fn stack(&self) -> Result<u64> {
        let six = self.framing == Framing::Ipv6;
        self.wires.relay.run(|| {
            let path = match six {
                true => "/proc/thread-self/net/snmp6",
                false => "/proc/thread-self/net/snmp",
            };
            let shown = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
            let found = if six {
                received6(&shown)
            } else {
                received4(&shown)
            };
            found.with_context(|| format!("{path} has no count of packets received: {shown}"))
        })
    }
}

/// `InReceives` of the two lines `Ip:`, names and numbers.
fn received4(shown: &str) -> Option<u64> {
    let mut lines = shown.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let mut all = names.split_whitespace().zip(numbers.split_whitespace());
    let (_, number) = all.find(|(name, _)| *name == "InReceives")?;
    number.parse().ok()
}

/// The line `Ip6InReceives`.
fn received6(shown: &str) -> Option<u64> {
    let mut lines = shown.lines();
    let number = lines.find_map(|line| line.strip_prefix("Ip6InReceives"))?;
    number.trim().parse().ok()
}

/// Attaches the program by a link, natively, as the relay does it; detached on drop.
fn attach_pass(object: &Path, input: &Endpoint) -> Result<Ebpf> {
    let mut ebpf = programs::load(object)?;
    let program: &mut Xdp = ebpf
        .program_mut("pass")
        .context("the object has no program `pass`: is it of another version?")?
        .try_into()?;
    program.load().context("loading `pass`")?;
    let name = input.interface.as_str();
    input.namespace.run(|| {
        program
            .attach(name, XdpMode::Driver)
            .with_context(|| format!("attaching `pass` to {name}"))?;
        Ok(())
    })?;
    Ok(ebpf)
}

/// A result of nothing yet.
pub fn empty(kind: &Kind) -> UnmatchedResult {
    UnmatchedResult {
        name: kind.name.to_owned(),
        pairs: Vec::new(),
        ratio: None,
    }
}

/// Adds what one round found.
pub fn add(result: &mut UnmatchedResult, pairs: Vec<UnmatchedPair>) {
    result.pairs.extend(pairs);
    let ratios = result.pairs.iter().map(|pair| pair.relay / pair.pass);
    result.ratio = pairs::middle_half(ratios.collect());
}

/// A table with one row per kind, its head first.
pub fn rows(results: &[UnmatchedResult]) -> Vec<Vec<String>> {
    let head = [
        "frames, rules",
        "relay, kpps",
        "XDP_PASS, kpps",
        "relay / XDP_PASS",
        "verdict",
    ];
    let row = |result: &UnmatchedResult| {
        let rates = |rate: fn(&UnmatchedPair) -> f64| {
            let rates = result.pairs.iter().map(rate).collect();
            cell::range(pairs::middle_half(rates), 1e3)
        };
        let ratio = result.ratio;
        vec![
            result.name.clone(),
            rates(|pair| pair.relay),
            rates(|pair| pair.pass),
            cell::ratios(ratio),
            ratio.map_or("-".to_owned(), |ratio| verdict(ratio.median)),
        ]
    };
    let head = head.map(str::to_owned).to_vec();
    std::iter::once(head)
        .chain(results.iter().map(row))
        .collect()
}

fn verdict(ratio: f64) -> String {
    let is = if ratio >= ENOUGH { "at least" } else { "below" };
    format!("{is} {ENOUGH:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_counts_what_it_received() {
        let four = "Ip: Forwarding DefaultTTL InReceives\nIp: 1 64 12\nIcmp: InMsgs\nIcmp: 5\n";
        assert_eq!(received4(four), Some(12));
        let six = "Ip6InReceives                   \t34\nIp6InHdrErrors                  \t0\n";
        assert_eq!(received6(six), Some(34));
        assert_eq!(received4(six).or(received6(four)), None);
    }

    #[test]
    fn the_median_of_all_pairs_is_judged() {
        let pair = |relay| UnmatchedPair { relay, pass: 1e6 };
        let mut result = empty(&Kind::ALL[0]);
        add(&mut result, vec![pair(0.95e6), pair(0.1e6)]);
        add(&mut result, vec![pair(0.94e6), pair(9e6)]);
        let rows = rows(&[result]);
        assert_eq!(rows[1][3..], ["0.94 (0.94..0.95)", "at least 0.90"]);
        assert_eq!(verdict(0.899), "below 0.90");
    }
}
