//! Rules that change under traffic, between NICs that read the UMEM themselves.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use relay_tests::lab;
use relay_tests::raw::RawReceiver;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

use super::traffic::Feed;
use super::{IGB, Nics, VIRTIO};

/// Datagrams per second of the rule that never changes. It has three outputs.
const RATE: u32 = 600;

/// Its datagrams that may be on their way at once.
const WINDOW: u64 = 48;

/// Datagrams that show after each change what another rule does.
const PROBES: u64 = 10;

/// How often the changes are made, one after the other.
const ROUNDS: usize = 4;

/// The flow of the probes.
const PROBE_FLOW: u32 = 1;

/// The rule that never changes: it sends by the TX rings of both outputs.
fn steady() -> Rule {
    Rule::feed().outputs("out0", 2).outputs("out1", 1)
}

/// Where the copies of [`other`] may go.
const PLACES: [(Ipv4Addr, u16); 2] = [
    (Ipv4Addr::new(239, 2, 9, 1), 7001),
    (Ipv4Addr::new(239, 3, 9, 1), 7002),
];

/// Another rule of the same interfaces.
fn other(place: usize, ttl: &str) -> Rule {
    let (group, port) = PLACES[place];
    Rule::new("other", "in0", [239, 1, 9, 1], 7000)
        .output("out0", group, port)
        .ttl(ttl)
}

/// A third rule of the same interfaces, the other way round.
fn third() -> Rule {
    Rule::new("third", "in0", [239, 1, 9, 2], 7000)
        .output("out1", [239, 4, 9, 1], 7003)
        .output("out0", [239, 4, 9, 2], 7004)
}

/// A change of the rules beside [`steady`].
enum Change {
    /// These rules stand in the file.
    File(Vec<Rule>),
    /// A command, with its arguments.
    Verb([&'static str; 2]),
}

/// The changes of one round, each with where [`other`] sends to afterwards and the TTL that its
/// copies have.
fn changes() -> Vec<(Change, Option<(usize, u8)>)> {
    let file = |rules: &[Rule]| Change::File(rules.to_vec());
    vec![
        (file(&[steady(), other(0, "8")]), Some((0, 8))),
        (file(&[steady(), other(1, "8")]), Some((1, 8))),
        (file(&[third(), other(1, "16"), steady()]), Some((1, 16))),
        (Change::Verb(["disable", "other"]), None),
        (Change::Verb(["enable", "other"]), Some((1, 16))),
        (file(&[steady()]), None),
    ]
}

/// Receives the copies of [`other`].
struct Probe<'a> {
    sender: UdpSender,
    places: UdpReceiver,
    far: &'a Endpoint,
    sent: u64,
}

impl<'a> Probe<'a> {
    fn start(bed: &'a Testbed) -> Result<Self> {
        let source = bed.sources.first().context("a source")?;
        let far = bed.receivers.first().context("a receiver")?;
        Ok(Self {
            sender: UdpSender::open(source)?,
            places: UdpReceiver::start(
                far,
                &PLACES.map(|(group, port)| Listen::new(group, port, PROBE_FLOW)),
            )?,
            far,
            sent: 0,
        })
    }

    /// Fails unless copies arrive at `expected` only, with its TTL.
    fn check(&mut self, expected: Option<(usize, u8)>) -> Result<()> {
        let stream = Stream::new(PROBE_FLOW, PROBES, 300).starting_at(self.sent);
        self.sent += PROBES;
        let Rule { group, port, .. } = other(0, "8");
        let (before, wire) = (self.received(), RawReceiver::start(self.far)?);
        self.sender
            .send(&Traffic::new(group, port, stream), RATE / 2)?;
        if let Some((place, _)) = expected {
            self.places.wait_until(ARRIVAL, |tallies| {
                tallies[place].received >= before[place] + PROBES
            });
        }
        self.places.settle();
        for (place, (now, before)) in self.received().into_iter().zip(before).enumerate() {
            let is_there = expected.is_some_and(|(at, _)| at == place);
            let wanted = if is_there { PROBES } else { 0 };
            ensure!(now - before == wanted, "{} at place {place}", now - before);
        }
        if let Some((place, ttl)) = expected {
            let tally = self.places.tallies().swap_remove(place);
            ensure!(tally.missing(&stream).is_empty(), "{tally}");
            let mut copies = wire.datagrams();
            let (group, port) = PLACES[place];
            copies.retain(|one| one.destination == group && one.port == port);
            let ttls: Vec<u8> = copies.iter().map(|one| one.ttl).collect();
            ensure!(ttls == [ttl; PROBES as usize], "{ttls:?}");
        }
        Ok(())
    }

    fn received(&self) -> Vec<u64> {
        let tallies = self.places.tallies().into_iter();
        tallies.map(|tally| tally.received).collect()
    }
}

fn make(change: Change, relay: &RelayProcess) -> Result<()> {
    let answer = match change {
        Change::File(rules) => relay.reload(&to_toml(&rules)),
        Change::Verb(verb) => relay.verb(&verb),
    }?;
    ensure!(answer.code == Some(0), "{answer:?}");
    ensure!(!answer.stdout.contains("paused"), "{answer:?}");
    Ok(())
}

pub fn o1_twenty_changes_lose_nothing_of_a_rule_that_does_not_change(nics: Nics) -> Result<()> {
    let bed = nics.testbed(2)?;
    let mine = [steady()];
    let receivers = Receivers::start(&bed, &mine)?;
    let relay = lab::start(&bed, &mine)?;
    let feed = Feed::new(&bed.sources[0], &mine[0], 0, RATE)?;
    let mut probe = Probe::start(&bed)?;
    feed.during(&Window::new(WINDOW, || receivers.progress()), || {
        for round in 0..ROUNDS {
            for (number, (change, expected)) in changes().into_iter().enumerate() {
                let what = || format!("change {number} of round {round}: {}", relay.log());
                make(change, &relay).with_context(what)?;
                probe.check(expected).with_context(what)?;
            }
        }
        Ok(())
    })?;
    receivers.assert_exact(&[feed.all()]);
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    stopped.report.assert_tx_method(&mine, "xsk")?;
    let report = &stopped.report;
    assert_eq!(report.dropped_total(), 0, "{report:#?}");
    let rule = report.rules.first().context("the rule is in the report")?;
    let counts = rule.outputs.iter().map(|output| output.packets_sent);
    for count in counts.chain([rule.packets_matched]) {
        assert_eq!(count, feed.sent(), "counters go on: {report:#?}");
    }
    report.assert_no_chunk_missing();
    Ok(())
}

/// With the first output of an interface a worker gets a port, and loses it with the last one.
fn an_output_interface_comes_and_goes(nics: Nics) -> Result<()> {
    let bed = nics.testbed(3)?;
    let mine = [steady()];
    let more = Rule::new("more", "in0", [239, 1, 9, 3], 7000).outputs("out2", 2);
    let receivers = Receivers::start(&bed, &mine)?;
    let of_more = Receivers::start(&bed, std::slice::from_ref(&more))?;
    let relay = lab::start(&bed, &mine)?;
    let feed = Feed::new(&bed.sources[0], &mine[0], 0, RATE)?;
    let mut sent = 0;
    feed.during(&Window::new(WINDOW, || receivers.progress()), || {
        for round in 0..3 {
            let what = || format!("round {round}: {}", relay.log());
            let both = Change::File(vec![steady(), more.clone()]);
            make(both, &relay).with_context(what)?;
            lab::wait_for_carriers(&bed)?;
            let stream = Stream::new(0, 50, 500).starting_at(sent);
            lab::send(&bed, &more, &stream, &of_more)?;
            sent += stream.count;
            let arrived = of_more.wait_until_each(|_, tally| tally.received == sent);
            ensure!(arrived, "{:?}: {}", of_more.tallies(), relay.log());
            make(Change::File(vec![steady()]), &relay).with_context(what)?;
        }
        Ok(())
    })?;
    of_more.assert_exact(&[Stream::new(0, sent, 500)]);
    receivers.assert_exact(&[feed.all()]);
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    assert_eq!(stopped.report.dropped_total(), 0, "{:#?}", stopped.report);
    stopped.report.assert_no_chunk_missing();
    Ok(())
}

#[test]
fn an_output_interface_that_comes_and_goes_costs_another_rule_nothing_igb() -> Result<()> {
    an_output_interface_comes_and_goes(IGB)
}

#[test]
fn an_output_interface_that_comes_and_goes_costs_another_rule_nothing_virtio() -> Result<()> {
    an_output_interface_comes_and_goes(VIRTIO)
}
