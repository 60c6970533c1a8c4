//! A worker that ends by a defect, which the relay for tests has on demand: another one takes its
//! place, nothing else is harmed, and the operator learns of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::counters::Counters;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::Rule;
use relay_tests::scenario::{Receivers, send};
use relay_tests::sender::UdpSender;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

use super::under_traffic;

/// The payload that makes a worker panic (relay-userspace/src/datapath/trap.rs).
const MARK: &[u8] = b"relay-test: panic";
/// How long another worker may take to be there: two seconds, and more on a busy machine.
const REPLACED: Duration = Duration::from_secs(10);
/// Datagrams of the rule whose worker ends, before that and afterwards.
const COUNT: u64 = 500;

/// The rules have no interface in common, and so each has a worker.
fn a_worker_that_panics_is_replaced_and_the_other_one_loses_nothing(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let steady =
        Rule::new("steady", "in0", [239, 1, 8, 8], 8000).output("out0", [239, 2, 8, 8], 8001);
    let hit = Rule::new("hit", "in1", [239, 1, 9, 9], 9000)
        .output("out1", [239, 2, 9, 9], 9001)
        .output("out1", [239, 3, 9, 9], 9002);
    let rules = [steady.clone(), hit.clone()];
    let receivers = Receivers::start(&bed, &rules)?;
    let file = RuleFile::of(&rules)?;
    let relay = RelayProcess::start_poisoned(&bed.relay, backend, file, &[])?;
    // Of the flow and the rule 1; none of the rule 0.
    let part = |first| {
        let none = Stream::new(0, 0, 500);
        [none, Stream::new(1, COUNT, 500).starting_at(first)]
    };
    let arrived = |count: u64| {
        let here = |number: usize| number >= 1;
        receivers.wait_until_each(|number, tally| !here(number) || tally.received >= count)
    };
    let mut counters = Counters::default();
    let (sent, ()) = under_traffic(&bed.sources[0], &steady, 0, 2_000, || {
        send(&bed, &rules, &part(0), || 0)?;
        ensure!(arrived(COUNT), "{:?}", receivers.tallies());
        counters.look(&relay)?;
        UdpSender::open(&bed.sources[1])?.send_one(hit.group, hit.port, MARK)?;
        // The status says so at once, and until another worker is there.
        let told = eventually(REPLACED, || {
            let shown = relay.verb(&["status"]);
            let problem = "! worker 1 ended because of a defect";
            shown.is_ok_and(|shown| shown.code == Some(1) && shown.stdout.contains(problem))
        });
        told.with_context(|| format!("the status does not say so: {}", relay.log()))?;
        let healthy = || {
            // As long as it is degraded, and once it is not.
            let grows = counters.look(&relay);
            assert!(grows.is_ok(), "{grows:?}");
            let shown = relay.verb(&["status"]);
            shown.is_ok_and(|shown| shown.code == Some(0))
        };
        let came = eventually(REPLACED, healthy);
        came.with_context(|| format!("it is not healthy again: {}", relay.log()))?;
        send(&bed, &rules, &part(COUNT), || 0)?;
        ensure!(
            arrived(2 * COUNT),
            "{:?}\n{}",
            receivers.tallies(),
            relay.log()
        );
        counters.look(&relay)
    })?;
    let all = [Stream::new(0, sent, 500), Stream::new(1, 2 * COUNT, 500)];
    receivers.assert_exact(&all);
    let log = relay.log();
    for said in [
        // Who it was, where, and why.
        "thread `relay-worker-1` panicked at relay-userspace/src/datapath/trap.rs",
        "a datagram for tests asks for it",
        "worker 1 ended because of a defect of the relay",
        "workers kept 1, started 1, ended 1",
    ] {
        assert_eq!(log.matches(said).count(), 1, "`{said}`: {log}");
    }
    let stopped = relay.stop()?;
    // A defect at any time is told at the end.
    assert_eq!(stopped.status.code(), Some(70), "{}", stopped.log);
    let report = &stopped.report;
    counters.end(report)?;
    report.assert_balanced();
    assert_eq!(report.dropped_total(), 0, "{report:#?}");
    // The datagram with the mark counts as received, and as nothing else.
    let numbers = report.rules.iter().map(|rule| rule.packets_matched);
    assert_eq!(numbers.collect::<Vec<_>>(), [sent, 2 * COUNT]);
    assert_eq!(report.packets_received, sent + 2 * COUNT + 1);
    Ok(())
}

relay_tests::on_both_backends! {
    a_worker_that_panics_is_replaced_and_the_other_one_loses_nothing,
}
