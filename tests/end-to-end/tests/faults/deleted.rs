//! Interfaces that are deleted while copies wait for them.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use relay_tests::methods::Method;
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// Outputs on the interface that is deleted.
const OUTPUTS: usize = 24;
/// Datagrams of each stream; their copies are more than a TX ring holds.
const COUNT: u64 = 100;

/// Fails unless the threads of the relay sleep nearly all the time: each of them wakes up some ten
/// times a second. One that spins never wakes up, because it never sleeps.
fn assert_idle(relay: &RelayProcess, when: &str) -> Result<()> {
    let (asleep, busy) = (relay.times_asleep()?, relay.cpu_time_of_workers()?);
    thread::sleep(Duration::from_secs(1));
    // A thread that was started meanwhile counts from 0 on.
    let times = relay.times_asleep()?.saturating_sub(asleep);
    let used = relay.cpu_time_of_workers()?.saturating_sub(busy);
    assert!(times < 500, "{when} it woke up {times} times in a second");
    assert!(
        used < Duration::from_millis(150),
        "{when} it ran for {used:?} in a second"
    );
    Ok(())
}

/// The interface transmits and receives, so a worker that waits for frames from it must not wait
/// for copies that never leave.
fn an_input_deleted_with_copies_queued_keeps_no_worker_awake(method: Method) -> Result<()> {
    let bed = Testbed::builder().inputs(2).without_capture().build()?;
    let rules = [
        Rule::feed().outputs("in1", OUTPUTS).outputs("out0", 1),
        Rule::new("other", "in1", GROUP_IN, PORT_IN).output("out0", [239, 3, 3, 3], 7000),
    ];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = method.start(&bed, &rules)?;
    let source = method.source(&bed.sources[0])?;
    let part = |number| Stream::new(0, COUNT, 500).starting_at(number * COUNT);
    let beside = |count: u64| {
        let arrived = receivers.wait_until_output(OUTPUTS, |tally| tally.received >= count);
        assert!(arrived, "{count} beside it");
    };
    source.send(&part(0), 1000)?;
    receivers.wait_until_each(|output, tally| output > OUTPUTS || tally.received >= COUNT);
    bed.relay.ip("link set in1 down")?;
    source.send_in_one_burst(&part(1), &relay)?;
    beside(2 * COUNT);
    assert_idle(&relay, "while the interface was down")?;
    bed.relay.ip("link del in1")?;
    assert_idle(&relay, "after the interface was deleted")?;
    source.send(&part(2), 1000)?;
    beside(3 * COUNT);
    receivers.settle();
    let report = relay.stop()?.report;
    // The other interface is in the report no more.
    method.assert_used(&report, &[Rule::feed().outputs("out0", 1)])?;
    report.assert_balanced();
    for ((_, tally), output) in receivers.tallies().iter().zip(&report.rules[0].outputs) {
        assert_eq!(tally.received, output.packets_sent, "{tally}, {output:?}");
        let refused = output.dropped.values().sum::<u64>();
        let (arrived, lost) = match output.interface.as_str() {
            "in1" => (COUNT, 2 * COUNT),
            _ => (3 * COUNT, 0),
        };
        assert_eq!((tally.received, refused), (arrived, lost), "{output:?}");
    }
    Ok(())
}

relay_tests::on_all_methods! {
    an_input_deleted_with_copies_queued_keeps_no_worker_awake,
}
