//! Rules that change under traffic: what did not change loses nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{Rule, to_toml, transmit_by};
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

use super::under_traffic;

/// The rule that never changes, with 4 outputs on `out0`.
fn steady() -> Rule {
    Rule::feed().outputs("out0", 4)
}

/// Another rule, whose outputs differ from those of [`steady`].
fn other(number: u8) -> Rule {
    let group = |block: u8| std::net::Ipv4Addr::new(239, block, 9, number);
    Rule::new(format!("other-{number}"), "in0", group(1), 7000)
        .output("out0", group(2), 7001)
        .output("out1", group(3), 7002)
}

/// Runs the relay with `rules`, of which the first is [`steady`], and checks after `work` that
/// every datagram of it arrived once and in order at each of its outputs.
fn steady_beside(
    backend: Backend,
    rules: &[Rule],
    rate: u32,
    work: impl FnOnce(&RelayProcess) -> Result<()>,
) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let mine = [steady()];
    let receivers = Receivers::start(&bed, &mine)?;
    let relay = RelayProcess::start(&bed.relay, backend, rules)?;
    let (sent, ()) = under_traffic(&bed.sources[0], &steady(), 0, rate, || work(&relay))?;
    receivers.wait_for(&[sent]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&Stream::new(0, sent, 500));
    }
    let stopped = relay.stop()?;
    let report = stopped.report.rules.iter().find(|rule| rule.name == "feed");
    let report = report.context("the rule is in the report")?;
    assert_eq!(
        report.packets_matched, sent,
        "counters go on: {}",
        stopped.log
    );
    for output in &report.outputs {
        assert_eq!(output.packets_sent, sent, "{output:?}");
    }
    stopped.report.assert_balanced();
    Ok(())
}

fn o1_a_hundred_reloads_lose_nothing_of_a_rule_that_does_not_change(
    backend: Backend,
) -> Result<()> {
    steady_beside(backend, &[steady()], 5_000, |relay| {
        for number in 0..100_u8 {
            let count = number % 3;
            let mut rules = vec![steady()];
            rules.extend((0..count).map(|more| other(number.wrapping_add(more))));
            if number % 2 == 1 {
                rules.reverse();
            }
            let answer = relay.reload(&to_toml(&rules))?;
            ensure!(answer.code == Some(0), "reload {number}: {answer:?}");
        }
        Ok(())
    })
}

fn o1_a_file_with_mistakes_changes_nothing_and_comes_back_with_its_places(
    backend: Backend,
) -> Result<()> {
    steady_beside(backend, &[steady()], 2_000, |relay| {
        let broken = to_toml(&[steady()]).replace("port = 5001", "port = 0");
        let answer = relay.reload(&broken)?;
        assert_eq!(answer.code, Some(78), "{answer:?}");
        assert!(answer.stderr.contains(":3:"), "{answer:?}");
        let half = to_toml(&[steady(), other(1)]);
        let answer = relay.reload(&half[..half.len() / 2])?;
        assert_eq!(answer.code, Some(78), "{answer:?}");
        Ok(())
    })
}

fn o1_a_reload_that_is_not_confirmed_in_time_is_taken_back(backend: Backend) -> Result<()> {
    steady_beside(backend, &[steady(), other(1)], 2_000, |relay| {
        let answer = relay.reload_with(&to_toml(&[steady()]), &["--confirm-within", "1"])?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert_eq!(relay.rule_states()?, [("feed".into(), "active".into())]);
        let answer = relay.verb(&["disable", "feed"])?;
        assert_ne!(answer.code, Some(0), "while it is unconfirmed: {answer:?}");
        assert!(answer.stderr.contains("relay confirm"), "{answer:?}");
        let back = || relay.rule_states().is_ok_and(|states| states.len() == 2);
        let came = relay_tests::background::eventually(Duration::from_secs(5), back);
        assert!(came.is_some(), "{}", relay.log());
        // A confirmed one stays.
        let answer = relay.reload_with(&to_toml(&[steady()]), &["--confirm-within", "1"])?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert_eq!(relay.verb(&["confirm"])?.code, Some(0));
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(relay.rule_states()?.len(), 1);
        // And what was changed last can be undone.
        assert_eq!(relay.verb(&["undo"])?.code, Some(0));
        assert_eq!(relay.rule_states()?.len(), 2);
        Ok(())
    })
}

fn o1_a_dry_run_says_what_would_change_and_changes_nothing(backend: Backend) -> Result<()> {
    steady_beside(backend, &[steady(), other(1)], 2_000, |relay| {
        let answer = relay.reload_with(&to_toml(&[steady(), other(2)]), &["--dry-run"])?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        for name in ["other-1", "other-2"] {
            assert!(answer.stdout.contains(name), "{answer:?}");
        }
        assert_eq!(relay.rule_states()?[1].0, "other-1");
        Ok(())
    })
}

/// Adding, disabling, enabling and removing one rule; each state is seen at its receiver.
fn o2_a_rule_comes_and_goes_at_run_time_and_the_other_loses_nothing(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let mine = [steady(), other(1)];
    let receivers = Receivers::start(&bed, &mine)?;
    let relay = RelayProcess::start(&bed.relay, backend, &mine[..1])?;
    let probe = |first: u64| -> Result<u64> {
        let sender = relay_tests::sender::UdpSender::open(&bed.sources[0])?;
        let stream = Stream::new(1, 50, 300).starting_at(first);
        let before = receivers.tallies()[4].1.received;
        let traffic = relay_tests::sender::Traffic::new(mine[1].group, mine[1].port, stream);
        sender.send(&traffic, 2_000)?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(receivers.tallies()[4].1.received - before)
    };
    let (sent, ()) = under_traffic(&bed.sources[0], &steady(), 0, 2_000, || {
        assert_eq!(probe(0)?, 0, "there is no such rule");
        let answer = relay.add(&to_toml(&mine[1..]))?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert_eq!(probe(50)?, 50, "{}", relay.log());
        assert_eq!(relay.verb(&["disable", "other-1"])?.code, Some(0));
        assert_eq!(probe(100)?, 0, "disabled");
        let states = relay.rule_states()?;
        assert_eq!(states[1], ("other-1".into(), "disabled".into()));
        assert_eq!(relay.verb(&["enable", "other-1"])?.code, Some(0));
        assert_eq!(probe(150)?, 50, "enabled again");
        // A reload would discard it, and says so.
        let answer = relay.reload(&to_toml(&mine[..1]))?;
        assert_ne!(answer.code, Some(0), "{answer:?}");
        assert!(answer.stderr.contains("other-1"), "{answer:?}");
        assert!(answer.stderr.contains("--discard-runtime"), "{answer:?}");
        assert_eq!(relay.verb(&["remove", "other-1"])?.code, Some(0));
        assert_eq!(probe(200)?, 0, "removed");
        let answer = relay.verb(&["remove", "other-1"])?;
        assert_ne!(answer.code, Some(0), "{answer:?}");
        Ok(())
    })?;
    receivers.wait_for(&[sent, 100]);
    for (rule, tally) in receivers.tallies() {
        if rule == 0 {
            tally.assert_exact(&Stream::new(0, sent, 500));
        }
    }
    relay.stop()?;
    Ok(())
}

/// Outputs on another interface come and go: TX sockets open and close, and the rule's other
/// outputs lose nothing.
fn an_output_is_added_to_a_running_rule_and_taken_away_again(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let (narrow, wide) = (steady(), steady().outputs("out1", 1));
    let receivers = Receivers::start(&bed, std::slice::from_ref(&wide))?;
    let relay = RelayProcess::start(&bed.relay, backend, std::slice::from_ref(&narrow))?;
    let (sent, ()) = under_traffic(&bed.sources[0], &narrow, 0, 3_000, || {
        for _ in 0..10 {
            for rule in [&wide, &narrow] {
                let answer = relay.reload(&to_toml(std::slice::from_ref(rule)))?;
                ensure!(answer.code == Some(0), "{answer:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    })?;
    receivers.wait_until_each(|output, tally| output == 4 || tally.received >= sent);
    receivers.settle();
    let tallies = receivers.tallies();
    for (_, tally) in &tallies[..4] {
        tally.assert_exact(&Stream::new(0, sent, 500));
    }
    let there = &tallies[4].1;
    assert!(there.received > 0, "the added output got nothing");
    // The last block of datagrams leaves after the last reload.
    assert!(!there.has(sent - 1), "it was never taken away: {there}");
    assert_eq!(
        (there.unique, there.out_of_order),
        (there.received, 0),
        "{there}"
    );
    relay.stop()?;
    Ok(())
}

/// Another CPU takes another worker. That costs frames, which the dry run says, and the status once
/// it is done.
fn a_change_that_must_pause_is_told_before_and_how_long_it_took_afterwards(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [steady()];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let pinned = to_toml(&rules) + "[[interfaces]]\nname = \"in0\"\ncpus = [0]\n";
    let (sent, ()) = under_traffic(&bed.sources[0], &steady(), 0, 5_000, || {
        let answer = relay.reload_with(&pinned, &["--dry-run"])?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        let said = "pauses: the rules of in0 would pause";
        assert!(answer.stdout.contains(said), "{answer:?}");
        let answer = relay.reload(&pinned)?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert!(answer.stdout.contains("pauses: "), "{answer:?}");
        let status = relay.status()?;
        let paused = status["last_change"]["pause_milliseconds"].as_u64();
        assert!(paused > Some(0), "{status}");
        // And what costs nothing is not called a pause.
        let more = pinned.clone() + &to_toml(&[other(1)]);
        let answer = relay.reload_with(&more, &["--dry-run"])?;
        assert!(!answer.stdout.contains("pause"), "{answer:?}");
        Ok(())
    })?;
    let report = relay.stop()?.report;
    report.assert_no_chunk_missing();
    assert!(report.packets_matched <= sent, "{sent}: {report:#?}");
    if backend == Backend::Xdp {
        // The others were left to this host's stack meanwhile.
        let others = report.filter("in0", "pass_no_rule") + report.dropped_for("no_rule");
        assert_eq!(report.packets_matched + others, sent, "{report:#?}");
    }
    Ok(())
}

/// A rule's only output moves, and its input with it to another worker on XDP. What arrives
/// meanwhile is counted as for any other pause, and the dry run says that there is one.
fn an_input_that_goes_to_another_worker_pauses_and_says_so(backend: Backend) -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let moved = Rule::new("moved".to_owned(), "in1", [239, 1, 9, 9], 5009);
    let beside = [steady(), moved.clone().output("out0", [239, 2, 9, 9], 6009)];
    let alone = [steady(), moved.clone().output("out1", [239, 2, 9, 9], 6009)];
    let relay = RelayProcess::start(&bed.relay, backend, &beside)?;
    let (sent, ()) = under_traffic(&bed.sources[1], &moved, 0, 5_000, || {
        for round in 0..6 {
            let rules = to_toml(if round % 2 == 0 { &alone } else { &beside });
            let foreseen = relay.reload_with(&rules, &["--dry-run"])?.stdout;
            let said = "the rules of in1 would pause";
            assert_eq!(
                foreseen.contains(said),
                backend == Backend::Xdp,
                "{foreseen}"
            );
            let answer = relay.reload(&rules)?;
            assert_eq!(answer.code, Some(0), "{answer:?}");
            let said = "the rules of in1 paused";
            assert_eq!(
                answer.stdout.contains(said),
                backend == Backend::Xdp,
                "{answer:?}"
            );
        }
        Ok(())
    })?;
    let report = relay.stop()?.report;
    assert_eq!(
        report.filter("in1", "redirected"),
        report.packets_received + report.dropped_before_the_worker(),
        "{report:#?}"
    );
    assert_eq!(report.packets_sent, report.packets_matched, "{report:#?}");
    assert_eq!(report.filter("in1", "pass_no_socket"), 0, "{report:#?}");
    if backend == Backend::Xdp {
        let others = report.filter("in1", "pass_no_rule") + report.dropped_for("no_rule");
        assert_eq!(report.packets_matched + others, sent, "{report:#?}");
    }
    Ok(())
}

/// A plan numbers interfaces in the order in which the rules name them. In another order, a worker
/// that is kept still sends through the ring of the interface that the rule names. On XDP only:
/// there are the rings.
#[test]
fn rules_in_another_order_leave_through_the_same_rings() -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let mine = [steady().outputs("out1", 1)];
    let rings = transmit_by(&mine, "xsk");
    let receivers = Receivers::start(&bed, &mine)?;
    let relay = RelayProcess::start_with(&bed.relay, Backend::Xdp, &mine, &rings)?;
    let first =
        Rule::new("first", "in0", [239, 1, 9, 9], 7000).output("out1", [239, 3, 9, 9], 7001);
    let (sent, ()) = under_traffic(&bed.sources[0], &mine[0], 0, 3_000, || {
        for round in 0..10 {
            let rules = match round % 2 {
                0 => vec![first.clone(), mine[0].clone()],
                _ => mine.to_vec(),
            };
            let answer = relay.reload(&(to_toml(&rules) + &rings))?;
            ensure!(answer.code == Some(0), "{answer:?}");
            ensure!(!answer.stdout.contains("paused"), "{answer:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    })?;
    receivers.wait_for(&[sent]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&Stream::new(0, sent, 500));
    }
    let report = relay.stop()?.report;
    report.assert_tx_method(&mine, "xsk")?;
    report.assert_balanced();
    Ok(())
}

/// Ten thousand rules give way to ten thousand others within a second, and the one that stays loses
/// nothing.
fn ten_thousand_rules_are_replaced_within_a_second(backend: Backend) -> Result<()> {
    let many = |block: u8| -> Vec<Rule> {
        let rule = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let group = |first: u8| std::net::Ipv4Addr::new(first, block, high, low);
            Rule::new(format!("many-{block}-{number}"), "in0", group(239), 9000).output(
                "out0",
                group(238),
                9001,
            )
        };
        std::iter::once(steady())
            .chain((0..10_000).map(rule))
            .collect()
    };
    let (first, second) = (to_toml(&many(101)), to_toml(&many(102)));
    steady_beside(backend, &many(101), 2_000, |relay| {
        for text in [second, first] {
            let started = Instant::now();
            let answer = relay.reload(&text)?;
            let took = started.elapsed();
            ensure!(answer.code == Some(0), "{answer:?}");
            // The promise is a second; this is for a machine that is busy with other tests.
            ensure!(took < Duration::from_secs(3), "{took:?}");
        }
        Ok(())
    })
}

relay_tests::on_both_backends! {
    o1_a_hundred_reloads_lose_nothing_of_a_rule_that_does_not_change,
    o1_a_file_with_mistakes_changes_nothing_and_comes_back_with_its_places,
    o1_a_reload_that_is_not_confirmed_in_time_is_taken_back,
    o1_a_dry_run_says_what_would_change_and_changes_nothing,
    o2_a_rule_comes_and_goes_at_run_time_and_the_other_loses_nothing,
    an_output_is_added_to_a_running_rule_and_taken_away_again,
    an_input_that_goes_to_another_worker_pauses_and_says_so,
    a_change_that_must_pause_is_told_before_and_how_long_it_took_afterwards,
    ten_thousand_rules_are_replaced_within_a_second,
}
