//! A worker's flow table is replaced while frames pass: what does not change loses nothing, and
//! every copy counts once, for the output that it was for.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::set_up::SetUp;
use anyhow::{Result, anyhow};
use relay_tests::backend::Backend;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml, transmit_by};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// Stops the worker also when a test fails, which would otherwise wait for it for ever.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Datagrams of each of the two feeds.
const COUNT: u64 = 15_000;
const OTHER_IN: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 1, 1, 2), 5002);

/// The rule `other`; `whole` with the output that comes and goes.
fn other(whole: bool) -> Rule {
    let rule = Rule::new("other", "in0", OTHER_IN.0, OTHER_IN.1);
    let rule = rule.output("out0", [239, 9, 9, 1], 7001);
    match whole {
        true => rule.output("out0", [239, 9, 9, 2], 7002),
        false => rule,
    }
}

/// The rules of a table: `feed`, which never changes, wherever it stands; `other`; and some that
/// nothing is sent to.
fn rules(round: u64, apart: &str) -> Vec<Rule> {
    let quiet = |n: u64| {
        let group = Ipv4Addr::new(239, 3, (round % 200) as u8, n as u8 + 1);
        Rule::new(format!("quiet-{round}-{n}"), "in0", group, 5003).outputs(apart, 2)
    };
    let mut rules: Vec<Rule> = (0..round % 4).map(quiet).collect();
    rules.insert(0, other(round.is_multiple_of(2)));
    rules.insert(
        (round % 3) as usize % (rules.len() + 1),
        Rule::feed().outputs("out0", 2),
    );
    rules
}

fn text(backend: Backend, transmit: &str, rules: &[Rule]) -> String {
    match backend {
        Backend::Xdp => to_toml(rules) + &transmit_by(rules, transmit),
        Backend::IoUring => to_toml(rules),
    }
}

/// `apart` is the interface of the rules that nothing is sent to.
fn every_copy_leaves_and_counts_once(backend: Backend, transmit: &str, apart: &str) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let listened = [Rule::feed().outputs("out0", 2), other(true)];
    let receivers = Receivers::start(&bed, &listened)?;
    let first = text(backend, transmit, &rules(0, apart));
    let SetUp {
        mut worker,
        mut feeds,
    } = SetUp::new(&bed, backend, &first, None)?;
    let (stats, stop, sent) = (
        worker.stats(),
        AtomicBool::new(false),
        AtomicBool::new(false),
    );
    let mut retired = Vec::new();
    let sender = UdpSender::open(&bed.sources[0])?;
    let rounds = thread::scope(|scope| -> Result<u64> {
        let running = scope.spawn(|| worker.run(&stop, false));
        let stops = Stops(&stop);
        let sending = scope.spawn(|| {
            let traffic = [
                Traffic::new(GROUP_IN, PORT_IN, Stream::new(0, COUNT, 500)),
                Traffic::new(OTHER_IN.0, OTHER_IN.1, Stream::new(1, COUNT, 500)),
            ];
            let window = Window::new(256, || stats.matched.get());
            let result = sender.send_interleaved(&traffic, 15_000, 8, &window);
            sent.store(true, Relaxed);
            result
        });
        let mut changes = || -> Result<u64> {
            let mut round = 0;
            while !sent.load(Relaxed) {
                round += 1;
                let text = text(backend, transmit, &rules(round, apart));
                feeds.change(&bed, backend, &text)?;
                retired.extend(feeds.remote.retired());
            }
            Ok(round)
        };
        let changed = changes();
        let deadline = Instant::now() + ARRIVAL;
        while stats.matched.get() < 2 * COUNT && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        drop(stops);
        running.join().map_err(|_| anyhow!("the worker panicked"))?;
        sending
            .join()
            .map_err(|_| anyhow!("the sender panicked"))??;
        changed
    });
    let rounds = rounds?;
    assert!(rounds >= 20, "{backend:?}, {transmit}: {rounds} changes");
    retired.extend(feeds.into_remote().into_last());
    receivers.wait_until_each(|output, tally| output == 3 || tally.received >= COUNT);
    receivers.settle();
    let tallies = receivers.tallies();
    for (rule, tally) in &tallies[..3] {
        tally.assert_exact(&Stream::new(*rule as u32, COUNT, 500));
    }
    let numbers = |rule: &'static str| retired.iter().filter(move |one| one.rule == rule);
    for rule in ["feed", "other"] {
        let matched: Vec<u64> = numbers(rule).filter_map(|one| one.matched).collect();
        assert_eq!(matched, [COUNT], "{rule}");
    }
    let sent = |rule, group: Ipv4Addr| -> u64 {
        let outputs = numbers(rule).flat_map(|one| &one.outputs);
        let mine = outputs.filter(|counters| counters.output.group == group.into());
        mine.map(|counters| counters.sent).sum()
    };
    assert_eq!(sent("other", [239, 9, 9, 1].into()), COUNT);
    let part = sent("other", [239, 9, 9, 2].into());
    assert!(part > 0 && part < COUNT, "{part}");
    assert_eq!(tallies[3].1.received, part);
    assert_eq!(stats.matched.get(), 2 * COUNT);
    Ok(())
}

#[test]
fn on_xdp_by_tx_rings_an_unchanged_rule_loses_nothing_and_every_copy_counts_once() -> Result<()> {
    every_copy_leaves_and_counts_once(Backend::Xdp, "xsk", "out0")
}

#[test]
fn on_xdp_by_tx_sockets_an_unchanged_rule_loses_nothing_and_every_copy_counts_once() -> Result<()> {
    every_copy_leaves_and_counts_once(Backend::Xdp, "segmented", "out1")
}

#[test]
fn on_io_uring_an_unchanged_rule_loses_nothing_and_every_copy_counts_once() -> Result<()> {
    every_copy_leaves_and_counts_once(Backend::IoUring, "", "out1")
}

/// While the interface is down its copies wait in the TX ring. The worker takes the other table all
/// the same, and the output's last number is known once its copies have left.
#[test]
fn copies_that_wait_in_a_tx_ring_count_for_an_output_that_is_gone_when_they_leave() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let first = text(Backend::Xdp, "xsk", &rules);
    let SetUp {
        mut worker,
        mut feeds,
    } = SetUp::new(&bed, Backend::Xdp, &first, None)?;
    // A plan wants interfaces that are up.
    let other = [Rule::feed().output("out0", [239, 9, 9, 9], 7009)];
    let other = text(Backend::Xdp, "xsk", &other);
    let other = bed
        .relay
        .run(|| super::set_up::plan(Backend::Xdp, &other))?;
    bed.relay.ip("link set out0 down")?;
    let (stats, stop) = (worker.stats(), AtomicBool::new(false));
    thread::scope(|scope| -> Result<()> {
        let running = scope.spawn(|| worker.run(&stop, false));
        let stops = Stops(&stop);
        let stream = Stream::new(0, 100, 500);
        UdpSender::open(&bed.sources[0])?.send(&Traffic::new(GROUP_IN, PORT_IN, stream), 10_000)?;
        let deadline = Instant::now() + ARRIVAL;
        while stats.matched.get() < 100 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        feeds.change_to(&bed, &other)?;
        thread::sleep(Duration::from_millis(300));
        assert_eq!(feeds.remote.retired(), [], "its copies wait");
        assert!(!feeds.remote.is_settled());
        bed.relay.ip("link set out0 up")?;
        while !feeds.remote.is_settled() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let retired = feeds.remote.retired();
        assert_eq!(retired.len(), 1);
        assert_eq!(
            (retired[0].matched, retired[0].outputs[0].sent),
            (None, 100)
        );
        assert_eq!(
            feeds.remote.flow("feed").map(|flow| flow.matched),
            Some(100)
        );
        drop(stops);
        running.join().map_err(|_| anyhow!("the worker panicked"))
    })?;
    receivers.assert_exact(&[Stream::new(0, 100, 500)]);
    Ok(())
}
