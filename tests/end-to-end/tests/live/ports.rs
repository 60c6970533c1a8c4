//! A worker that runs gets queues of more interfaces and loses them again, and what else it
//! forwards loses nothing.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::background::eventually;
use relay_tests::methods::Method;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{Rule, on_one_worker, to_toml};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{Endpoint, plug};

use super::under_traffic;

/// Sends datagrams of the rule `other` until both its outputs have got some.
fn other_forwards(other: &Rule, source: &Endpoint, receivers: &[UdpReceiver; 2]) -> Result<()> {
    let sender = UdpSender::open(source)?;
    let got = || receivers.each_ref().map(|one| one.tallies()[0].received);
    let (before, started) = (got(), Instant::now());
    for number in 0.. {
        let stream = Stream::new(1, 1, 300).starting_at(number);
        sender.send(&Traffic::new(other.group, other.port, stream), 1000)?;
        thread::sleep(Duration::from_millis(10));
        if got().iter().zip(before).all(|(&now, before)| now > before) {
            return Ok(());
        }
        ensure!(
            started.elapsed() < Duration::from_secs(3),
            "{before:?} and then {:?} arrived",
            got()
        );
    }
    Ok(())
}

/// How many sockets the relay has open.
fn sockets(relay: &RelayProcess) -> Result<usize> {
    let files = relay.held()?.files.into_iter();
    let sockets = files.filter(|(kind, _)| kind.starts_with("socket:"));
    Ok(sockets.map(|(_, count)| count).sum())
}

fn wait_for_sockets(relay: &RelayProcess, expected: &BTreeSet<usize>) -> Result<()> {
    let there = || sockets(relay).is_ok_and(|count| expected.contains(&count));
    ensure!(
        eventually(Duration::from_secs(2), there).is_some(),
        "{} sockets are open, not {expected:?}: {}",
        sockets(relay)?,
        relay.log()
    );
    Ok(())
}

/// The other rule comes and goes by reloads, which takes away the first port of the worker, through
/// which the others share their memory; and the interfaces of the other rule are deleted.
fn queues_come_and_go_and_the_other_rule_of_their_worker_loses_nothing(
    method: Method,
) -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let both = on_one_worker();
    let [other, steady] = &both;
    let text = |rules: &[Rule]| to_toml(rules) + &method.tables(rules);
    let listen = |at: &Endpoint, group: [u8; 4], port, flow| {
        UdpReceiver::start(at, &[Listen::new(group, port, flow)])
    };
    let arrived = listen(&bed.receivers[0], [239, 2, 8, 8], 8001, 0)?;
    let relay = method.start(&bed, &both)?;
    let (mut input, mut source) = (bed.inputs[1].clone(), bed.sources[1].clone());
    let (mut output, mut far) = (bed.outputs[1].clone(), bed.receivers[1].clone());
    let (sent, ()) = under_traffic(&bed.sources[0], steady, 0, 4_000, || {
        let with_both = BTreeSet::from([sockets(&relay)?]);
        let mut with_one = BTreeSet::new();
        for round in 0..9 {
            match round % 3 {
                0 => {
                    let answer = relay.reload(&text(&both[1..]))?;
                    ensure!(answer.code == Some(0), "round {round}: {answer:?}");
                    thread::sleep(Duration::from_millis(100));
                    if with_one.is_empty() {
                        with_one.insert(sockets(&relay)?);
                        ensure!(with_one.last() < with_both.last(), "{with_one:?}");
                    }
                    wait_for_sockets(&relay, &with_one)?;
                    let answer = relay.reload(&text(&both))?;
                    ensure!(answer.code == Some(0), "round {round}: {answer:?}");
                }
                1 => {
                    bed.relay.ip("link del in1")?;
                    thread::sleep(Duration::from_millis(200));
                    (input, source) = plug(&input, &source)?;
                }
                _ => {
                    bed.relay.ip("link del out1")?;
                    thread::sleep(Duration::from_millis(200));
                    (output, far) = plug(&output, &far)?;
                }
            }
            let receivers = [
                listen(&bed.receivers[0], [239, 2, 9, 9], 9001, 1)?,
                listen(&far, [239, 3, 9, 9], 9002, 1)?,
            ];
            other_forwards(other, &source, &receivers)
                .with_context(|| format!("round {round}: {}", relay.log()))?;
            wait_for_sockets(&relay, &with_both).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })?;
    arrived.wait_for(sent, Duration::from_secs(10));
    arrived.tallies()[0].assert_exact(&Stream::new(0, sent, 500));
    let report = relay.stop()?.report;
    report.assert_no_chunk_missing();
    let rule = report.rules.iter().find(|rule| rule.name == "steady");
    let rule = rule.context("the rule is in the report")?;
    assert_eq!(
        (rule.packets_matched, rule.outputs[0].packets_sent),
        (sent, sent)
    );
    method.assert_used(&report, &both[1..])
}

relay_tests::on_all_methods! {
    queues_come_and_go_and_the_other_rule_of_their_worker_loses_nothing,
}
