//! Limits of rules: a flood of one flow costs the others nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use relay_tests::backend::Backend;
use relay_tests::payload::payload;
use relay_tests::relay::{RelayProcess, RuleFile, relay};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::sender::UdpSender;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// The limit of the flooded rule: datagrams per second, and at once.
const RATE: u64 = 2000;
const BURST: u64 = 100;
/// Datagrams of the small feed, and of the flood for each of them.
const SMALL: u64 = 1000;
const FLOOD: u64 = 200;
/// A datagram of the flood fills a frame of 64 bytes, its check sequence included.
const FLOOD_SIZE: usize = 18;

/// A rule that is flooded and one that is not, on one queue.
fn rules() -> [Rule; 2] {
    [
        Rule::new("flooded", "in0", GROUP_IN, PORT_IN + 1).outputs("out0", 16),
        Rule::new("small", "in0", GROUP_IN, PORT_IN).outputs("out1", 2),
    ]
}

/// Sends one datagram of the small feed per millisecond, and the flood as fast as the sender can,
/// at least [`FLOOD`] datagrams for each of the small feed. Returns how many datagrams the flood
/// had.
fn flood(bed: &Testbed) -> Result<u64> {
    let sender = UdpSender::open(&bed.sources[0])?;
    let flood = payload(0, 0, FLOOD_SIZE);
    let mut flooded = 0;
    let mut next = Instant::now();
    for number in 0..SMALL {
        next += Duration::from_millis(1);
        let mut sent = 0;
        while sent < FLOOD || Instant::now() < next {
            sender.send_one(GROUP_IN, PORT_IN + 1, &flood)?;
            sent += 1;
        }
        flooded += sent;
        sender.send_one(GROUP_IN, PORT_IN, &payload(0, number, 200))?;
    }
    Ok(flooded)
}

fn x10_a_limit_on_the_flooded_rule_leaves_the_small_one_whole(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = rules();
    let text = to_toml(&rules).replacen(
        " }",
        &format!(", limit = {{ packets_per_second = {RATE}, burst = {BURST} }} }}"),
        1,
    );
    let receivers = Receivers::start(&bed, &rules[1..])?;
    let relay = RelayProcess::start_file(&bed.relay, backend, RuleFile::new(&text)?)?;
    let started = Instant::now();
    let flooded = flood(&bed)?;
    let took = started.elapsed();
    receivers.wait_until_each(|_, tally| tally.received >= SMALL);
    receivers.settle();
    let report = relay.stop()?.report;
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&Stream::new(0, SMALL, 200));
    }
    report.assert_balanced();
    let [limited, small] = &report.rules[..] else {
        bail!("two rules: {report:#?}");
    };
    assert_eq!((small.packets_matched, small.over_limit), (SMALL, 0));
    assert_eq!(limited.packets_matched + limited.over_limit, flooded);
    assert_eq!(report.dropped_for("over_limit"), limited.over_limit);
    assert_eq!(report.filter("in0", "over_limit"), limited.over_limit);
    // The burst, and one more for each CPU that may have counted at the same time.
    let most = RATE as f64 * took.as_secs_f64() + BURST as f64 + 64.0;
    assert!(
        (limited.packets_matched as f64) < most,
        "{} of at most {most}",
        limited.packets_matched
    );
    // A sender that stands still for longer than the burst lasts loses what it could have had.
    let least = BURST as f64 + 0.5 * RATE as f64 * took.as_secs_f64();
    assert!(
        limited.packets_matched as f64 > least,
        "{} of at least {least}",
        limited.packets_matched
    );
    Ok(())
}

#[test]
fn an_impossible_limit_is_refused_with_its_line_and_a_remedy() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    for (limit, words) in [
        (
            "{ packets_per_second = 0, burst = 1 }",
            "packets_per_second",
        ),
        ("{ packets_per_second = 1, burst = 0 }", "burst"),
        (
            "{ packets_per_second = 100000001, burst = 1 }",
            "out of range",
        ),
        (
            "{ packets_per_second = 1, burst = 1000001 }",
            "out of range",
        ),
        ("{ packets_per_second = 1 }", "has no `burst`"),
        ("{ burst = 1 }", "has no `packets_per_second`"),
        (
            "{ packets_per_second = 1, burst = 1, colour = 1 }",
            "colour",
        ),
        ("1000", "not a table"),
        (
            "{ packets_per_second = \"many\", burst = 1 }",
            "must be an integer",
        ),
    ] {
        let text = to_toml(&rules).replacen(" }", &format!(", limit = {limit} }}"), 1);
        let file = RuleFile::new(&text)?;
        let path = file.path().display().to_string();
        let checked = relay(&bed.relay, &["check", &path])?;
        assert_ne!(checked.code, Some(0), "{limit}");
        checked.assert_mistake(&file, 3, &["limit", words]);
    }
    Ok(())
}

relay_tests::on_both_backends! {
    x10_a_limit_on_the_flooded_rule_leaves_the_small_one_whole,
}
