//! What operators see of feeds: every number is the same in every view, and the receivers' own;
//! a feed that stops is noticed in time.

mod gaps;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::events::count;
use relay_tests::methods::Method;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::scrape::{MetricsSocket, Series, get_from};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use serde_json::Value;

/// Keys of a rule in front of its input.
fn with_keys(rules: &[Rule], keys: &str) -> String {
    to_toml(rules).replace("\ninput = ", &format!("\n{keys}\ninput = "))
}

/// The rule of this name in a status.
fn rule<'s>(status: &'s Value, name: &str) -> Result<&'s Value> {
    let rules = status["rules"].as_array().context("rules")?;
    let mut rules = rules.iter();
    let rule = rules.find(|rule| rule["name"] == name);
    rule.with_context(|| format!("no rule {name} in {status}"))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("a number: {value}"))
}

/// Every series that has a number of the status has the status's.
fn assert_same(series: &Series, status: &Value) -> Result<()> {
    let same = |name: &str, value: &Value| -> Result<()> {
        let (metric, status) = (series.value(name)?, number(value)?);
        ensure!(
            metric == status,
            "{name} is {metric}, and {status} in the status"
        );
        Ok(())
    };
    let totals = &status["totals"];
    same("relay_received_packets_total", &totals["packets_received"])?;
    same("relay_matched_packets_total", &totals["packets_matched"])?;
    same("relay_sent_packets_total", &totals["packets_sent"])?;
    let dropped = totals["dropped"].as_object().context("dropped")?;
    for (reason, number) in dropped {
        let label = format!("reason=\"{reason}\"");
        let all = series.of("relay_dropped_packets_total");
        let sum: f64 = all
            .filter(|(name, _)| name.contains(&label))
            .map(|(_, value)| value)
            .sum();
        ensure!(number == sum, "{reason}: {number} and {sum}");
    }
    for rule in status["rules"].as_array().context("rules")? {
        let label = format!("{{rule={}}}", rule["name"]);
        for (name, key) in [
            ("relay_rule_received_packets_total", "packets_matched"),
            ("relay_rule_received_bytes_total", "bytes_matched"),
            ("relay_rule_last_packet_timestamp_seconds", "last_frame_at"),
        ] {
            same(&format!("{name}{label}"), &rule[key])?;
        }
        for output in rule["outputs"].as_array().context("outputs")? {
            let to = format!("{}:{}", output["group"], output["port"]).replace('"', "");
            let labels = format!(
                "{{rule={},output=\"{to}\",interface={}}}",
                rule["name"], output["interface"]
            );
            let name = format!("relay_output_sent_packets_total{labels}");
            same(&name, &output["packets_sent"])?;
        }
    }
    for interface in status["interfaces"].as_array().context("interfaces")? {
        let filter = interface["filter"].as_object().context("filter")?;
        for (name, number) in filter {
            let interface = &interface["name"];
            let series_name = match name.as_str() {
                "received" => {
                    format!("relay_interface_seen_packets_total{{interface={interface}}}")
                }
                "redirected" => {
                    format!("relay_interface_redirected_packets_total{{interface={interface}}}")
                }
                _ => match name.strip_prefix("pass_") {
                    Some(reason) => format!(
                        "relay_passed_packets_total{{interface={interface},reason=\"{reason}\"}}"
                    ),
                    None => continue,
                },
            };
            same(&series_name, number)?;
        }
    }
    Ok(())
}

/// Two feeds: one with an output whose interface takes no datagram of its size; and datagrams of no
/// rule.
fn w1_every_number_is_the_same_in_metrics_status_and_report_and_the_receivers_own(
    method: Method,
) -> Result<()> {
    const COUNT: u64 = 3_000;
    const SIZE: usize = 700;
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = [
        Rule::feed()
            .outputs("out0", 2)
            .output("out1", [239, 7, 7, 7], 7007),
        Rule::new("other", "in0", [239, 1, 9, 9], 7000).output("out1", [239, 3, 9, 9], 7001),
    ];
    let socket = MetricsSocket::new();
    bed.relay.ip("link set out1 mtu 600")?;
    method.set_up(&bed.outputs[0])?;
    let tables = method.tables(&rules) + &socket.table("");
    let file = RuleFile::with(&rules, &tables)?;
    let relay = RelayProcess::start_file(&bed.relay, method.backend, file)?;
    let receivers = Receivers::start(&bed, &rules)?;
    let sender = UdpSender::open(&bed.sources[0])?;
    let feed = Stream::new(0, COUNT, SIZE);
    sender.send(&Traffic::new(rules[0].group, rules[0].port, feed), 10_000)?;
    let other = Stream::new(1, COUNT / 3, 100);
    sender.send(&Traffic::new(rules[1].group, rules[1].port, other), 10_000)?;
    // Of no rule.
    sender.send_one([239, 1, 1, 2], rules[0].port, b"of no rule")?;
    receivers.wait_for(&[0, COUNT / 3]);
    let quiet = |series: &Series| -> Result<bool> {
        let name = "relay_rule_received_packets_total{rule=\"feed\"}";
        let labels = "{rule=\"feed\",output=\"239.2.0.2:6001\",interface=\"out0\"}";
        let sent = series.value(&format!("relay_output_sent_packets_total{labels}"))?;
        Ok(series.value(name)? == COUNT as f64 && sent == COUNT as f64)
    };
    let arrived = eventually(Duration::from_secs(10), || {
        socket
            .scrape()
            .is_ok_and(|now| quiet(&now).unwrap_or(false))
    });
    ensure!(arrived.is_some(), "{:#?}", socket.scrape()?);
    receivers.settle();
    // The time of the last frame is known to the second.
    thread::sleep(Duration::from_millis(1_500));

    // The hosts themselves send a frame now and then, which may come in between.
    let look = || -> Result<(Value, Series)> {
        let (before, status, after) = (socket.scrape()?, relay.status()?, socket.scrape()?);
        assert_same(&before, &status)?;
        assert_same(&after, &status)?;
        Ok((status, after))
    };
    let mut last = look();
    eventually(Duration::from_secs(10), || {
        if last.is_err() {
            last = look();
        }
        last.is_ok()
    });
    let (status, after) = last?;
    let json: Value = serde_json::from_str(&socket.get("/status.json")?)?;
    ensure!(json["totals"] == status["totals"], "{json} {status}");
    ensure!(json["rules"][0]["outputs"] == status["rules"][0]["outputs"]);

    let value = |name: &str| after.value(name);
    ensure!(value("relay_rule_received_packets_total{rule=\"feed\"}")? == COUNT as f64);
    let bytes = (COUNT * SIZE as u64) as f64;
    ensure!(value("relay_rule_received_bytes_total{rule=\"feed\"}")? == bytes);
    let too_big = "relay_dropped_packets_total{reason=\"too_big\",rule=\"feed\",\
                   output=\"239.7.7.7:7007\",interface=\"out1\"}";
    ensure!(value(too_big)? == COUNT as f64);
    let no_rule = "relay_passed_packets_total{interface=\"in0\",reason=\"no_rule\"}";
    ensure!(value(no_rule)? == 1.0, "{after:#?}");
    for (rule, tally) in receivers.tallies() {
        let (expected, name) = match (rule, tally.received) {
            (0, 0) => continue,
            (0, received) => (received, "feed"),
            (_, received) => (received, "other"),
        };
        let of_rule = format!("rule=\"{name}\"");
        let mut sent = after.of("relay_output_sent_packets_total");
        ensure!(
            sent.any(|(name, value)| name.contains(&of_rule) && value == expected as f64),
            "{tally:?}"
        );
    }
    let stopped = relay.stop()?;
    let report = &stopped.report;
    ensure!(value("relay_received_packets_total")? == report.packets_received as f64);
    ensure!(value("relay_sent_packets_total")? == report.packets_sent as f64);
    let dropped: u64 = report.dropped.values().sum();
    ensure!(after.sum("relay_dropped_packets_total") == dropped as f64);
    ensure!(!socket.path().exists(), "its socket is left");
    Ok(())
}

/// How exact the relay's clock is: it looks five times within a silence; and this machine is busy
/// with other tests.
const LATE: Duration = Duration::from_millis(600);

fn w2_a_feed_that_stops_is_silent_in_time_and_not_any_more_when_it_comes_again(
    backend: Backend,
) -> Result<()> {
    const SILENCE: Duration = Duration::from_millis(1_000);
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let socket = MetricsSocket::new();
    let other = Rule::new("other", "in0", [239, 1, 9, 9], 7000).outputs_from("out0", 5, 1);
    let text = with_keys(&rules, "silence = \"1s\"") + &to_toml(&[other]) + &socket.table("");
    let file = RuleFile::new(&text)?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    let started = Instant::now();
    let sender = UdpSender::open(&bed.sources[0])?;
    let silent = || -> Result<bool> {
        let series = socket.scrape()?;
        let silent = series.value("relay_rule_silent{rule=\"feed\"}")? == 1.0;
        ensure!(
            series.of("relay_rule_silent").count() == 1,
            "others have no silence"
        );
        Ok(silent)
    };
    let becomes = |wanted: bool| {
        eventually(Duration::from_secs(10), || {
            silent().is_ok_and(|silent| silent == wanted)
        })
    };
    // Before its first datagram.
    ensure!(becomes(true).is_some(), "{}", relay.log());
    ensure!(started.elapsed() + Duration::from_millis(200) > SILENCE);
    let status = relay.verb(&["status"])?;
    ensure!(status.code == Some(1), "degraded: {status:?}");
    ensure!(status.stdout.contains("rule feed is silent"), "{status:?}");

    let send = |count: u64, rate: u32| {
        let stream = Stream::new(0, count, 100);
        sender.send(&Traffic::new(rules[0].group, rules[0].port, stream), rate)
    };
    // A datagram every half second is no silence of a second.
    let before = Instant::now();
    for _ in 0..5 {
        send(1, 1_000)?;
        ensure!(
            becomes(false).is_some_and(|time| time < LATE),
            "{}",
            relay.log()
        );
        thread::sleep(Duration::from_millis(500));
        ensure!(!silent()?, "{:?}: {}", before.elapsed(), relay.log());
    }
    send(1, 1_000)?;
    let last = Instant::now();
    ensure!(becomes(true).is_some(), "{}", relay.log());
    let noticed = last.elapsed();
    ensure!(
        (SILENCE - Duration::from_millis(100)..SILENCE + LATE).contains(&noticed),
        "noticed after {noticed:?}"
    );
    let status = relay.status()?;
    let silence = &rule(&status, "feed")?["silence"];
    ensure!(
        silence["silent"] == true && silence["times"] == 2,
        "{silence}"
    );
    ensure!(rule(&status, "other")?["silence"].is_null(), "{status}");
    send(1, 1_000)?;
    ensure!(
        becomes(false).is_some_and(|time| time < LATE),
        "{}",
        relay.log()
    );
    let log = relay.stop()?.log;
    // Of each turn the first is a line; the second ones came soon after, and may be a sum.
    let turns = [
        "rule feed is silent: no datagram has come for 1s",
        "datagrams of rule feed come again, after",
    ];
    for turn in turns {
        ensure!(log.contains(turn), "{log}");
    }
    let counted = count(&log, "silence of rule feed", &turns);
    ensure!(counted.events == 4, "{counted:?}: {log}");
    Ok(())
}

/// Of a rule without `monitor`, among the datagrams of another one that sends much more.
fn w2_who_sends_is_known_and_that_there_are_several(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [
        Rule::feed().outputs("out0", 1),
        Rule::new("other", "in0", [239, 1, 9, 9], 7000).outputs_from("out0", 5, 1),
    ];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let senders = [40_001, 40_002].map(|port| UdpSender::open_from_port(&bed.sources[0], port));
    let [one, other] = senders;
    let senders = [one?, other?];
    let shown = || -> Result<Vec<(String, u64)>> {
        let status = relay.status()?;
        let sources = rule(&status, "feed")?["sources"].as_array().cloned();
        let sources = sources.context("sources")?.into_iter().map(|source| {
            let address = source["address"].as_str().unwrap_or_default().to_owned();
            (address, source["port"].as_u64().unwrap_or_default())
        });
        Ok(sources.collect())
    };
    ensure!(shown()?.is_empty());
    let address = bed.sources[0].address;
    let expected: Vec<_> = [40_001, 40_002]
        .map(|port| (address.to_string(), port))
        .into();
    // Of the samples of a busy worker few are of the feed.
    let (_, told) = super::under_traffic(&bed.sources[0], &rules[1], 1, 3_000, || {
        let mut told = None;
        let known = eventually(Duration::from_secs(60), || {
            for sender in senders.iter().cycle().take(20) {
                // A receiver takes no notice of these.
                let sent = sender.send_one(rules[0].group, rules[0].port, b"of the feed");
                sent.is_ok()
                    .then(|| thread::sleep(Duration::from_millis(2)));
            }
            let both = shown().is_ok_and(|mut sources| {
                sources.sort();
                sources == expected
            });
            told = both
                .then(|| relay.verb(&["rules", "feed"]).ok())
                .flatten()
                .filter(|told| told.stdout.contains("2 sources send it at once"));
            told.is_some()
        });
        ensure!(known.is_some(), "{:?}, not {expected:?}", shown()?);
        told.context("two sources")
    })?;
    let from = format!("from {address}:40001 for ");
    ensure!(told.stdout.contains(&from), "{told:?}");
    relay.stop()?;
    Ok(())
}

/// An address that is taken costs no rule anything, and is tried again.
fn metrics_that_cannot_be_served_stop_no_rule_and_are_tried_again(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    bed.relay.ip("link set lo up")?;
    let taken = bed
        .relay
        .run(|| Ok(std::net::TcpListener::bind("127.0.0.1:9474")?))?;
    let table = "\n[metrics]\nlisten = \"127.0.0.1:9474\"\n";
    let relay = RelayProcess::start_with(&bed.relay, backend, &rules, table)?;
    let receivers = Receivers::start(&bed, &rules)?;
    let feed = Stream::new(0, 500, 100);
    let sender = UdpSender::open(&bed.sources[0])?;
    sender.send(&Traffic::new(rules[0].group, rules[0].port, feed), 5_000)?;
    receivers.assert_exact(&[feed]);
    let status = relay.verb(&["status"])?;
    ensure!(status.code == Some(1), "{status:?}");
    ensure!(
        status
            .stdout
            .contains("cannot serve metrics at 127.0.0.1:9474"),
        "{status:?}"
    );
    drop(taken);
    ensure!(
        relay.wait_for_log("metrics are served at 127.0.0.1:9474"),
        "{}",
        relay.log()
    );
    get_from(&bed.relay, "127.0.0.1:9474", "/readyz")?;
    let status = relay.verb(&["status"])?;
    ensure!(status.code == Some(0), "{status:?}");
    // A reload takes them away.
    let answer = relay.reload(&to_toml(&rules))?;
    ensure!(answer.code == Some(0), "{answer:?}");
    ensure!(
        answer.stdout.contains("metrics on 127.0.0.1:9474 -> none"),
        "{answer:?}"
    );
    let refused = bed
        .relay
        .run(|| Ok(std::net::TcpStream::connect("127.0.0.1:9474").is_err()))?;
    ensure!(refused, "it is served still");
    relay.stop()?;
    Ok(())
}

mod methods {
    use super::*;

    relay_tests::on_all_methods! {
        w1_every_number_is_the_same_in_metrics_status_and_report_and_the_receivers_own,
    }
}

relay_tests::on_both_backends! {
    w2_a_feed_that_stops_is_silent_in_time_and_not_any_more_when_it_comes_again,
    w2_who_sends_is_known_and_that_there_are_several,
    metrics_that_cannot_be_served_stop_no_rule_and_are_tried_again,
}
