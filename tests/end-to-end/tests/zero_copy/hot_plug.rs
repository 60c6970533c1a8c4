//! NICs that are unplugged and plugged in again while the relay runs: their driver is unbound and
//! bound again, so the interface goes and another one comes. Rules wait for it and go on in the
//! mode that they had, and what runs beside loses nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::background::eventually;
use relay_tests::lab;
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, Rule};
use relay_tests::scenario::Receivers;
use relay_tests::sender::Window;
use relay_tests::tally::Tally;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

use super::traffic::Feed;
use super::{IGB, Nics, VIRTIO};

/// Datagrams per second of each rule: fewer than a ring of the far NIC holds while the driver lets
/// a NIC go.
const RATE: u32 = 100;

/// Datagrams that may be on their way at once to an output that is always there.
const WINDOW: u64 = 64;

/// How long a driver may take to let a NIC go. An emulated igb takes half a second.
const GONE: Duration = Duration::from_secs(3);

/// How long rules may take to wait, or a status to say what it shall say.
const SAID: Duration = Duration::from_secs(20);

/// How long after the link is up copies may take to arrive. On hardware a second, and the time that
/// the NICs are without a carrier: an igb is when it comes up, and again when the XDP program is
/// attached. Here both CPUs are emulated, and the sockets are bound only seconds later.
const AGAIN: Duration = Duration::from_secs(30);

/// Frames that waited for the NIC may come first; after this time every datagram arrives.
const SETTLED: Duration = Duration::from_millis(300);

/// For how long everything runs between two faults.
const SENDING: Duration = Duration::from_millis(500);

/// A rule from `in1` to `output`.
fn second(output: &str) -> Rule {
    Rule::new("second", "in1", [239, 1, 8, 8], 8000).output(output, [239, 2, 8, 8], 8001)
}

/// What the status says of interface `name`.
fn interface(relay: &RelayProcess, name: &str) -> Result<serde_json::Value> {
    let status = relay.status()?;
    let interfaces = status["interfaces"].as_array().context("interfaces")?;
    let found = interfaces.iter().find(|one| one["name"] == name);
    found
        .cloned()
        .with_context(|| format!("{name} in {status}"))
}

/// What the status says of a rule.
fn rule(relay: &RelayProcess, name: &str) -> Result<serde_json::Value> {
    let status = relay.status()?;
    let rules = status["rules"].as_array().context("rules")?;
    let found = rules.iter().find(|one| one["name"] == name);
    found
        .cloned()
        .with_context(|| format!("{name} in {status}"))
}

/// Whether this part of the status is pending, and its reason says that `name` is missing.
fn waits_for(name: &str, part: &serde_json::Value) -> bool {
    let reason = part["reason"].as_str().unwrap_or_default();
    part["state"] == "pending" && reason.contains(&format!("{name}: there is none of that name"))
}

/// Unplugs `near`. Fails if the driver waits for anything.
fn unplug(near: &Endpoint) -> Result<lab::Unplugged> {
    let started = Instant::now();
    let unplugged = lab::unplug(near)?;
    let (took, name) = (started.elapsed(), &near.interface);
    ensure!(took < GONE, "unbinding the driver of {name} took {took:?}");
    Ok(unplugged)
}

/// Waits until the status says that interface `name` is missing.
fn is_missed(relay: &RelayProcess, name: &str) -> Result<()> {
    let missed = || interface(relay, name).is_ok_and(|one| waits_for(name, &one));
    let said = eventually(SAID, missed).is_some();
    let shown = || format!("{:?}: {}", interface(relay, name), relay.log());
    said.then_some(()).with_context(shown)
}

/// Waits until copies arrive again through interface `name`, which was plugged in just now and got
/// this index. Fails unless that takes no longer than it may, or if the status does not say
/// afterwards that the interface is in use in the mode that it must have.
fn is_served(
    nics: Nics,
    relay: &RelayProcess,
    (name, index): (&str, u32),
    arrives: impl FnMut() -> bool,
) -> Result<()> {
    let again = eventually(AGAIN, arrives).is_some();
    ensure!(again, "nothing arrives: {}", relay.log());
    let mode = nics.mode()?;
    let as_it_must = |one: &serde_json::Value| {
        (&one["state"], &one["index"], &one["mode"])
            == (&"active".into(), &index.into(), &mode.into())
    };
    let look = || interface(relay, name).is_ok_and(|one| as_it_must(&one));
    let said = eventually(SAID, look).is_some();
    let shown = || format!("{:?}: {}", interface(relay, name), relay.log());
    said.then_some(()).with_context(shown)
}

/// How many worker threads the relay has.
fn workers(relay: &RelayProcess) -> Result<usize> {
    let names = relay.of_threads("Name:")?;
    let workers = names.iter().filter(|name| name.starts_with("relay-worker"));
    Ok(workers.count())
}

/// A part of a feed, by the numbers of its datagrams: the first one, and the one after the last.
type Part = (u64, u64);

/// Fails unless all datagrams of `parts` of the feed have arrived, each once and undamaged.
#[track_caller]
fn assert_whole(feed: &Feed<'_>, parts: &[Part], tally: &Tally) {
    for &(first, end) in parts {
        assert!(end > first, "{first}..{end}");
        let missing = tally.missing(&feed.part(first, end));
        assert_eq!(missing, [0; 0], "of {first}..{end}: {tally}");
    }
    assert_eq!(tally.unique, tally.received, "{tally}");
}

/// A rule from `in0` to `out0` and back through `in0`, whose NICs are unplugged one after the other
/// while traffic runs; and beside it another rule, between other NICs.
struct Bench {
    nics: Nics,
    bed: Testbed,
    relay: RelayProcess,
    /// The receivers of the rule: those at `in0`, and those at `out0`.
    mine: Receivers,
    workers: usize,
}

impl Bench {
    fn received(&self) -> Vec<u64> {
        let tallies = self.mine.tallies().into_iter();
        tallies.map(|(_, tally)| tally.received).collect()
    }

    /// Waits until the last datagram that was sent so far has arrived at some of the receivers.
    /// Returns how many were sent.
    fn all_arrived(&self, feed: &Feed<'_>, receivers: &[usize]) -> u64 {
        let sent = feed.sent();
        let last = sent.saturating_sub(1);
        self.mine
            .wait_until_each(|number, tally| !receivers.contains(&number) || tally.has(last));
        sent
    }

    /// Unplugs the NIC `name` under traffic, and plugs it in again. From datagram `first` on
    /// everything arrives. Returns what must have arrived by then at both receivers, and the first
    /// datagram from which on everything arrives again.
    fn replug(&self, name: &str, feed: &Feed<'_>, first: u64) -> Result<([Part; 2], u64)> {
        let Self { nics, relay, .. } = self;
        let unlimited = Window::unlimited();
        let mut near = self.bed.inputs.iter().chain(&self.bed.outputs);
        let near = near.find(|near| near.interface == name);
        let near = near.context("the NIC")?;
        // Nothing is sent into the wire of a NIC that is not there: it may keep it for ever.
        let (unplugged, end) = feed.during(&unlimited, || {
            thread::sleep(SENDING);
            let end = self.all_arrived(feed, &[0, 1]);
            Ok((unplug(near)?, end))
        })?;
        is_missed(relay, name)?;
        let (waiting, left) = (rule(relay, "feed")?, workers(relay)?);
        let mut at_in0 = end;
        if name == "in0" {
            ensure!(waits_for(name, &waiting), "{waiting}");
            ensure!(
                left < self.workers,
                "{left} workers, {} before",
                self.workers
            );
        } else {
            ensure!(waiting["state"] == "active", "{waiting}");
            ensure!(waits_for(name, &waiting["outputs"][0]), "{waiting}");
            feed.during(&unlimited, || {
                thread::sleep(SENDING);
                Ok(())
            })?;
            let all = self.all_arrived(feed, &[0]);
            // The other output goes on, unless the rule can have more workers now because the
            // missing one had the fewest queues.
            if left == self.workers {
                at_in0 = all;
            }
        }
        let before = self.received();
        let index = unplugged.plug_in()?;
        let first_again = feed.during(&unlimited, || {
            is_served(*nics, relay, (name, index), || {
                let mut both = self.received().into_iter().zip(&before);
                both.all(|(now, before)| now > *before)
            })?;
            thread::sleep(SETTLED);
            let first_again = feed.sent();
            thread::sleep(SENDING);
            Ok(first_again)
        })?;
        ensure!(self.bed.inputs[0].has_joined(GROUP_IN)?, "{}", relay.log());
        ensure!(workers(relay)? == self.workers, "{}", relay.log());
        Ok(([(first, at_in0), (first, end)], first_again))
    }
}

/// Unplugs `names` one after the other, and each is plugged in again before the next.
fn replugged(nics: Nics, names: &[&str]) -> Result<()> {
    let bed = nics.testbed_of_two_inputs()?;
    let rules = [
        Rule::feed().outputs("out0", 1).outputs("in0", 1),
        second("out1"),
    ];
    let mine = Receivers::start(&bed, &rules[..1])?;
    let others = Receivers::start(&bed, &rules[1..])?;
    let relay = lab::start(&bed, &rules)?;
    let feed = Feed::new(&bed.sources[0], &rules[0], 0, RATE)?;
    let beside = Feed::new(&bed.sources[1], &rules[1], 0, RATE)?;
    let bench = Bench {
        nics,
        workers: workers(&relay)?,
        bed,
        relay,
        mine,
    };

    let mut parts: [Vec<Part>; 2] = Default::default();
    let mut first = 0;
    beside.during(&Window::new(WINDOW, || others.progress()), || {
        for (round, name) in names.iter().enumerate() {
            let what = || format!("round {round}: {name}");
            let replugged = bench.replug(name, &feed, first).with_context(what)?;
            parts
                .iter_mut()
                .zip(replugged.0)
                .for_each(|(all, part)| all.push(part));
            first = replugged.1;
        }
        Ok(())
    })?;
    bench.mine.settle();
    parts
        .iter_mut()
        .for_each(|all| all.push((first, feed.sent())));
    others.assert_exact(&[beside.all()]);
    let stopped = bench.relay.stop()?;
    nics.assert_mode(&stopped)?;
    // What the relay detached itself, no other process did.
    assert!(!stopped.log.contains("by force"), "{}", stopped.log);
    for ((_, tally), parts) in bench.mine.tallies().iter().zip(&parts) {
        assert_whole(&feed, parts, tally);
    }
    stopped.report.assert_balanced();
    Ok(())
}

pub fn x2_nics_that_are_unplugged_and_plugged_in_again_are_served_again(nics: Nics) -> Result<()> {
    replugged(nics, &["in0", "out0"])
}

#[test]
fn x2_nics_that_are_unplugged_ten_times_are_served_again_virtio() -> Result<()> {
    replugged(VIRTIO, &["in0", "out0"].repeat(5))
}

#[test]
fn x2_an_unplugged_input_leaves_the_other_input_of_its_worker_alone_igb() -> Result<()> {
    beside_an_unplugged_input(IGB)
}

#[test]
fn x2_an_unplugged_input_leaves_the_other_input_of_its_worker_alone_virtio() -> Result<()> {
    beside_an_unplugged_input(VIRTIO)
}

#[test]
fn a_relay_that_ends_while_an_output_is_unplugged_accounts_for_everything_igb() -> Result<()> {
    ends_without_an_output(IGB)
}

#[test]
fn a_relay_that_ends_while_an_output_is_unplugged_accounts_for_everything_virtio() -> Result<()> {
    ends_without_an_output(VIRTIO)
}

/// Two inputs share a worker, because both rules send to one output.
fn beside_an_unplugged_input(nics: Nics) -> Result<()> {
    let bed = nics.testbed_of_two_inputs()?;
    let rules = [Rule::feed().outputs("out0", 1), second("out0")];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = lab::start(&bed, &rules)?;
    let all_workers = workers(&relay)?;
    let feed = Feed::new(&bed.sources[0], &rules[0], 0, RATE)?;
    let other = Feed::new(&bed.sources[1], &rules[1], 1, RATE)?;
    let received = || {
        receivers
            .tallies()
            .into_iter()
            .map(|(_, tally)| tally.received)
            .collect::<Vec<_>>()
    };
    let unlimited = Window::unlimited();

    let unplugged = other.during(&unlimited, || {
        let unplugged = feed.during(&unlimited, || {
            thread::sleep(SENDING);
            unplug(&bed.inputs[0])
        })?;
        is_missed(&relay, "in0")?;
        thread::sleep(SETTLED);
        Ok(unplugged)
    })?;
    ensure!(
        waits_for("in0", &rule(&relay, "feed")?),
        "{:?}",
        relay.status()
    );
    assert_eq!(workers(&relay)?, all_workers, "kept: {}", relay.log());
    receivers.settle();
    receivers.tallies()[1].1.assert_exact(&other.all());

    // Nothing moves now.
    const LOOK: Duration = Duration::from_secs(2);
    let before = relay.cpu_time_of_workers()?;
    thread::sleep(LOOK);
    let used = relay.cpu_time_of_workers()? - before;
    ensure!(used < LOOK / 20, "the workers used {used:?} of {LOOK:?}");

    let before = received();
    let (index, first) = other.during(&unlimited, || {
        let first = other.sent();
        Ok((unplugged.plug_in()?, first))
    })?;
    let resumed = other.during(&unlimited, || {
        feed.during(&unlimited, || {
            is_served(nics, &relay, ("in0", index), || {
                let mut both = received().into_iter().zip(&before);
                both.all(|(now, before)| now > *before)
            })?;
            thread::sleep(SETTLED);
            let resumed = [&feed, &other].map(Feed::sent);
            thread::sleep(SENDING);
            Ok(resumed)
        })
    })?;
    receivers.settle();
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    let tallies = receivers.tallies();
    assert_whole(&feed, &[(resumed[0], feed.sent())], &tallies[0].1);
    let whole = [(0, first), (resumed[1], other.sent())];
    assert_whole(&other, &whole, &tallies[1].1);
    stopped.report.assert_balanced();
    Ok(())
}

/// The socket of an interface that is gone brings no completion any more, and still no chunk is
/// missing.
fn ends_without_an_output(nics: Nics) -> Result<()> {
    let bed = nics.testbed(2)?;
    let rules = [Rule::feed().outputs("out0", 1).outputs("out1", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = lab::start(&bed, &rules)?;
    let feed = Feed::new(&bed.sources[0], &rules[0], 0, 2 * RATE)?;
    let unplugged = feed.during(&Window::unlimited(), || {
        thread::sleep(SETTLED);
        let unplugged = unplug(&bed.outputs[0])?;
        is_missed(&relay, "out0")?;
        Ok(unplugged)
    })?;
    receivers.settle();
    let report = relay.stop()?.report;
    drop(unplugged);
    report.assert_balanced();
    Ok(())
}
