//! Sequence numbers: a sender that leaves out, swaps and doubles known datagrams, and a relay that
//! counts exactly those.

use std::time::Duration;

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::Rule;
use relay_tests::scrape::{MetricsSocket, Series};
use relay_tests::sender::UdpSender;
use relay_tests::topology::Testbed;
use serde_json::Value;

use super::{rule, with_keys};

/// The numbers of a feed in the order in which they are sent, and what is wrong with them.
struct Plan {
    numbers: Vec<u64>,
    lost: u64,
    reordered: u64,
    duplicated: u64,
}

impl Plan {
    /// `count` numbers from `first` on. The last hundred are all there, so that what was left out
    /// before is lost and may not come any more.
    fn new(first: u64, count: u64) -> Self {
        let mut plan = Self {
            numbers: Vec::new(),
            lost: 0,
            reordered: 0,
            duplicated: 0,
        };
        let mut number = 0;
        while number < count {
            let at = first.wrapping_add(number);
            let is_last = number + 100 >= count;
            number += 1;
            match number {
                _ if is_last => plan.numbers.push(at),
                n if n % 97 == 0 => plan.lost += 1,
                n if n % 50 == 13 => {
                    plan.numbers.extend([at.wrapping_add(1), at]);
                    plan.reordered += 1;
                    number += 1;
                }
                n if n % 70 == 5 => {
                    plan.numbers.extend([at, at]);
                    plan.duplicated += 1;
                }
                _ => plan.numbers.push(at),
            }
        }
        plan
    }

    fn counts(&self) -> [(&'static str, u64); 6] {
        [
            ("lost", self.lost),
            ("reordered", self.reordered),
            ("duplicated", self.duplicated),
            ("stray", 0),
            ("restarts", 0),
            ("not_understood", 0),
        ]
    }
}

fn rtp(number: u64) -> Vec<u8> {
    let mut payload = vec![0x80, 96];
    payload.extend((number as u16).to_be_bytes());
    payload.extend((number as u32).wrapping_mul(90).to_be_bytes());
    payload.extend([0xde, 0xad, 0xbe, 0xef]);
    payload.extend([0x55; 100]);
    payload
}

fn moldudp64(number: u64) -> Vec<u8> {
    let mut payload = b"SESSION  1".to_vec();
    payload.extend(number.to_be_bytes());
    payload.extend([0, 1, 0, 4]);
    payload.extend(b"data");
    payload
}

fn counter(number: u64) -> Vec<u8> {
    let mut payload = vec![1, 2, 3];
    payload.extend((number as u32).to_le_bytes());
    payload
}

/// A transport stream of one PID: seven packets per datagram.
fn mpeg_ts(number: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    for packet in 0..7 {
        let continuity = ((number * 7 + packet) % 16) as u8;
        payload.extend([0x47, 0x01, 0x00, 0x10 | continuity]);
        payload.extend([0xff; 184]);
    }
    payload
}

/// A feed of a kind: its rule, its monitor, its first number, and its payloads.
type Kind = (&'static str, &'static str, u64, fn(u64) -> Vec<u8>);

const KINDS: [Kind; 3] = [
    // Both pass the end of their numbers.
    ("rtp", "\"rtp\"", 65_000, rtp),
    (
        "counter",
        "{ offset = 3, bytes = 4, order = \"little\" }",
        (1 << 32) - 500,
        counter,
    ),
    ("mold", "\"moldudp64\"", 7, moldudp64),
];

fn feed_of(position: usize, name: &str) -> Rule {
    let (n, port) = (position as u8 + 1, 5001 + position as u16);
    Rule::new(name, "in0", [239, 1, 5, n], port).outputs_from("out0", 10 * position, 2)
}

/// Two sources of each feed at once, which differ in where they begin and in their ports.
fn w3_what_is_left_out_swapped_and_doubled_is_counted_exactly(backend: Backend) -> Result<()> {
    const COUNT: u64 = 2_000;
    let bed = Testbed::builder().without_capture().build()?;
    let socket = MetricsSocket::new();
    let mut text = socket.table("");
    for (position, (name, monitor, ..)) in KINDS.iter().enumerate() {
        let rule = feed_of(position, name);
        text = with_keys(&[rule], &format!("monitor = {monitor}")) + &text;
    }
    let relay = RelayProcess::start_file(&bed.relay, backend, RuleFile::new(&text)?)?;
    let senders = [40_001, 40_002].map(|port| UdpSender::open_from_port(&bed.sources[0], port));
    let [one, other] = senders;
    let senders = [one?, other?];
    let plans = |first: u64| [Plan::new(first, COUNT), Plan::new(first + 3_000, COUNT)];
    for (position, (name, _, first, payload)) in KINDS.iter().enumerate() {
        let rule = feed_of(position, name);
        let [of_one, of_other] = plans(*first);
        let both = of_one.numbers.iter().zip(&of_other.numbers);
        for (turn, (one, other)) in both.enumerate() {
            for (sender, number) in senders.iter().zip([one, other]) {
                sender.send_one(rule.group, rule.port, &payload(*number))?;
            }
            if turn % 16 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    let sent = |position: usize| -> u64 {
        let [one, other] = plans(KINDS[position].2);
        (one.numbers.len() + other.numbers.len()) as u64
    };
    let received = |series: &Series, position: usize| {
        let name = KINDS[position].0;
        let series = series.value(&format!(
            "relay_rule_received_packets_total{{rule=\"{name}\"}}"
        ));
        series.is_ok_and(|value| value == sent(position) as f64)
    };
    let arrived = eventually(Duration::from_secs(10), || {
        let series = socket.scrape();
        series.is_ok_and(|now| (0..KINDS.len()).all(|at| received(&now, at)))
    });
    ensure!(arrived.is_some(), "{:#?}", socket.scrape()?);
    let (series, status) = (socket.scrape()?, relay.status()?);
    for (position, (name, _, first, _)) in KINDS.iter().enumerate() {
        let feed = &rule(&status, name)?["feed"];
        let plans = plans(*first);
        let sources = feed["sources"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(sources.len() == 2, "{feed}");
        for (number, (source, plan)) in sources.iter().zip(&plans).enumerate() {
            ensure!(source["port"] == 40_001 + number, "{source}");
            ensure!(source["missing"] == 0, "{source}");
            for (count, expected) in plan.counts() {
                ensure!(
                    source["counted"][count] == expected,
                    "{name} {count}: {source}"
                );
            }
        }
        for (at, (count, of_one)) in plans[0].counts().into_iter().enumerate() {
            let (_, of_other) = plans[1].counts()[at];
            ensure!(
                feed["counted"][count] == of_one + of_other,
                "{name} {count}: {feed}"
            );
        }
        let lost = series.value(&format!("relay_feed_lost_packets_total{{rule=\"{name}\"}}"))?;
        ensure!(
            lost == (plans[0].lost + plans[1].lost) as f64,
            "{name}: {lost}"
        );
        ensure!(series.value(&format!("relay_feed_sources{{rule=\"{name}\"}}"))? == 2.0);
        // Its copies leave whatever it carries.
        let labels = format!("rule=\"{name}\"");
        for (output, value) in series.of("relay_output_sent_packets_total") {
            if output.contains(&labels) {
                ensure!(value == sent(position) as f64, "{output} {value}");
            }
        }
    }
    let ssrc = &rule(&status, "rtp")?["feed"]["sources"][0]["rtp"]["ssrc"];
    ensure!(ssrc == "deadbeef", "{ssrc}");
    let session = &rule(&status, "mold")?["feed"]["sources"][0]["moldudp64"]["session"];
    ensure!(session == "SESSION  1", "{session}");
    let stopped = relay.stop()?;
    ensure!(stopped.report.packets_matched == (0..3).map(sent).sum::<u64>());
    Ok(())
}

/// Numbers go on over reloads that leave the rule as it is, and whatever happens to others.
fn w3_counts_go_on_while_other_rules_change(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let feed = feed_of(0, "feed");
    let others = |count: usize| -> String {
        (1..=count)
            .map(|n| with_keys(&[feed_of(n, &format!("other-{n}"))], "monitor = \"rtp\""))
            .collect()
    };
    let feed_text = with_keys(std::slice::from_ref(&feed), "monitor = \"rtp\"");
    let text = feed_text.clone() + &others(1);
    let relay = RelayProcess::start_file(&bed.relay, backend, RuleFile::new(&text)?)?;
    let sender = UdpSender::open(&bed.sources[0])?;
    let mut number = 0_u64;
    let mut send = |count: u64| -> Result<()> {
        for _ in 0..count {
            sender.send_one(feed.group, feed.port, &rtp(number))?;
            number += 1;
        }
        number += 1;
        Ok(())
    };
    let counted = || -> Result<Value> { Ok(rule(&relay.status()?, "feed")?["feed"].clone()) };
    send(100)?;
    for count in [3, 0, 2] {
        let answer = relay.reload(&(others(count) + &feed_text))?;
        ensure!(answer.code == Some(0), "{answer:?}");
        send(100)?;
    }
    send(100)?;
    let lost = eventually(Duration::from_secs(10), || {
        counted()
            .is_ok_and(|feed| feed["counted"]["datagrams"] == 500 && feed["counted"]["lost"] == 4)
    });
    ensure!(lost.is_some(), "{}", counted()?);
    ensure!(counted()?["sources"].as_array().map(Vec::len) == Some(1));
    // Another monitor begins anew.
    let counter = "monitor = { offset = 2, bytes = 2 }";
    let answer = relay.reload(&with_keys(std::slice::from_ref(&feed), counter))?;
    ensure!(
        answer.stdout.contains("monitor \"rtp\" -> { offset = 2"),
        "{answer:?}"
    );
    send(10)?;
    let anew = eventually(Duration::from_secs(10), || {
        counted().is_ok_and(|feed| feed["counted"]["datagrams"] == 10)
    });
    ensure!(anew.is_some(), "{}", counted()?);
    relay.stop()?;
    Ok(())
}

fn w3_a_transport_stream_that_loses_datagrams_has_continuity_errors(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let feed = feed_of(0, "feed");
    let socket = MetricsSocket::new();
    let text = with_keys(std::slice::from_ref(&feed), "monitor = \"mpeg-ts\"") + &socket.table("");
    let relay = RelayProcess::start_file(&bed.relay, backend, RuleFile::new(&text)?)?;
    let sender = UdpSender::open(&bed.sources[0])?;
    for number in (0..200).filter(|number| ![40, 90, 91, 150].contains(number)) {
        sender.send_one(feed.group, feed.port, &mpeg_ts(number))?;
    }
    sender.send_one(feed.group, feed.port, b"no transport stream")?;
    let is_counted = || -> Result<bool> {
        let series = socket.scrape()?;
        let event = |kind: &str| {
            let labels = format!("{{rule=\"feed\",kind=\"{kind}\"}}");
            series.value(&format!("relay_feed_events_total{labels}"))
        };
        let foreign = series.value("relay_feed_not_understood_packets_total{rule=\"feed\"}")?;
        Ok(event("continuity_errors")? == 3.0
            && event("packets")? == f64::from(196 * 7)
            && event("sync_byte_errors")? == 0.0
            && foreign == 1.0)
    };
    let counted = eventually(Duration::from_secs(10), || is_counted().unwrap_or(false));
    ensure!(counted.is_some(), "{:#?}", socket.scrape()?);
    let status = relay.status()?;
    let stream = &rule(&status, "feed")?["feed"]["sources"][0]["mpeg_ts"];
    ensure!(stream["pids"][0]["pid"] == 256, "{stream}");
    ensure!(stream["in_sync"] == true, "{stream}");
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    w3_what_is_left_out_swapped_and_doubled_is_counted_exactly,
    w3_counts_go_on_while_other_rules_change,
    w3_a_transport_stream_that_loses_datagrams_has_continuity_errors,
}
