//! Another process takes over: it waits for the interfaces while the former one runs, and forwards
//! as soon as that has ended.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::Rule;
use relay_tests::topology::Testbed;

use super::under_traffic;

/// Datagrams per second.
const RATE: u32 = 10_000;
/// How long nothing may be forwarded at most. It takes some tenths of a second on an idle machine;
/// the rest is for one that is busy with other tests. The back-off alone would take longer, see
/// [`BACKED_OFF`].
const GAP: Duration = Duration::from_secs(3);
/// What the waiting relay says right before the back-off would leave it alone for longer than
/// [`GAP`]: after its third attempt.
const BACKED_OFF: &str = "trying again in 4 s";

fn l8_a_relay_that_stands_by_takes_over_when_the_former_one_ends(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rule = Rule::feed().output("out0", [239, 2, 7, 7], 7001);
    let rules = [rule.clone()];
    let output = rule.outputs.first().context("the rule has an output")?;
    let listen = [Listen::new(output.group, output.port, 0)];
    let receiver = UdpReceiver::start(&bed.receivers[0], &listen)?;
    let former = RelayProcess::start(&bed.relay, backend, &rules)?;
    // Its first attempts are refused, so that it waits for a while until the next one.
    let next = RelayProcess::start(&bed.relay, backend, &rules)?;
    let states = next.rule_states()?;
    assert_eq!(states, [("feed".to_owned(), "pending".to_owned())]);
    assert!(next.wait_for_log(BACKED_OFF), "{}", next.log());

    let forwarded = || receiver.tallies()[0].received;
    let more = |than: u64| {
        eventually(2 * GAP, || forwarded() > than + u64::from(RATE / 4))
            .with_context(|| format!("nothing arrives:\n{}", next.log()))
    };
    let (sent, took) = under_traffic(&bed.sources[0], &rule, 0, RATE, || {
        more(0)?;
        let before = forwarded();
        let stopped = Instant::now();
        let report = former.stop()?.report;
        anyhow::ensure!(report.packets_sent >= before, "{report:#?}");
        more(report.packets_sent)?;
        Ok(stopped.elapsed())
    })?;
    let report = next.stop()?.report;
    receiver.settle();
    let tally = receiver.tallies().remove(0);
    let lost = sent - tally.unique;
    let gap = Duration::from_secs_f64(lost as f64 / f64::from(RATE));
    println!("{backend:?}: {lost} of {sent} datagrams lost, {gap:?}; forwarding again in {took:?}");
    assert_eq!(tally.received, tally.unique, "none twice: {tally}");
    assert!(gap < GAP, "{lost} of {sent}: {tally}\n{report:#?}");
    Ok(())
}

relay_tests::on_both_backends! {
    l8_a_relay_that_stands_by_takes_over_when_the_former_one_ends,
}
