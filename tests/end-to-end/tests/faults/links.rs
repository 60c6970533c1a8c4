//! Links that go down and come up again, at the relay and at the far end.
//!
//! Bursts are larger than a TX ring: 100 datagrams of three feeds through 8 outputs each of one
//! interface are 2400 copies, and a ring holds 2048.

use std::time::Duration;

use anyhow::{Result, anyhow};
use relay_tests::encapsulation::Encapsulation;
use relay_tests::flap::Flap;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::report::OutputReport;
use relay_tests::rules::Rule;
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{Endpoint, wait_for_carrier, wait_for_no_carrier};

use super::assert_sent_is_what_arrived;

/// Datagrams of a burst, of each feed.
const BURST: u64 = 100;
/// Outputs of each rule on the interface that has the fault.
const OUTPUTS: usize = 8;
/// Copies that a TX ring holds.
const RING: u64 = 2048;
/// The most datagrams in a GSO packet.
const MAX_JOINED: usize = 64;
/// Bytes of payload.
const SIZE: usize = 500;
/// Datagrams of each feed per second.
const RATE: u32 = 1000;

fn dropped(output: &OutputReport, reason: &str) -> u64 {
    output.dropped.get(reason).copied().unwrap_or(0)
}

/// What feeds come as here: tags matter at an input only, and IPv6 at both.
const ENCAPSULATIONS: [Encapsulation; 3] = [
    Encapsulation::Ipv4,
    Encapsulation::Tagged,
    Encapsulation::DoubleTagged6,
];

/// Outputs on the interface that has the fault.
const ALL_OUTPUTS: usize = OUTPUTS * ENCAPSULATIONS.len();

/// A testbed with this many output interfaces, and a rule for each encapsulation: eight outputs on
/// `out0`, and one on every other interface.
fn set_up(outputs: usize) -> Result<(Testbed, [Rule; 3])> {
    let bed = Testbed::builder().ipv6().outputs(outputs);
    let bed = bed.without_capture().build()?;
    let rule = |encapsulation| {
        let rule = Rule::feed().outputs("out0", OUTPUTS);
        let rule = (1..outputs).fold(rule, |rule, other| rule.outputs(&format!("out{other}"), 1));
        rule.over(encapsulation)
    };
    Ok((bed, ENCAPSULATIONS.map(rule)))
}

/// Takes an interface of the relay down and up again while traffic runs.
fn down_and_up(method: Method, near: impl Fn(&Testbed) -> &Endpoint) -> Result<()> {
    let (bed, rules) = set_up(1)?;
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = method.start(&bed, &rules)?;
    let sources = method.sources(&bed, &rules)?;
    let flap = Flap {
        rate: RATE,
        warm_up: 200,
        settled: Duration::ZERO,
        after: Duration::from_millis(300),
    };
    let send = |number, size| sources.send_one(number, size);
    let flapped = flap.run_with(&bed, &receivers, near(&bed), send)?;
    let report = relay.stop()?.report;
    method.assert_used(&report, &rules)?;
    report.assert_balanced();
    // Where the kernel cuts, frames of the call that was sending when the interface went down end
    // in `noop_qdisc`, and the call reports them as sent.
    let one_call = match method.tx {
        TxMethod::Cut => (MAX_JOINED * ALL_OUTPUTS) as u64,
        _ => 0,
    };
    assert_sent_is_what_arrived(method, &report, &receivers, one_call);
    for (_, tally) in receivers.tallies() {
        flapped.assert_only_the_gap_is_missing(&tally);
    }
    receivers.assert_headers();
    assert!(
        report.packets_sent < flapped.sent * ALL_OUTPUTS as u64,
        "the interface was down: {report:#?}"
    );
    Ok(())
}

pub fn x1_after_the_input_was_down_forwarding_resumes_within_a_second(
    method: Method,
) -> Result<()> {
    down_and_up(method, |bed| &bed.inputs[0])
}

pub fn x1_after_the_output_was_down_forwarding_resumes_within_a_second(
    method: Method,
) -> Result<()> {
    down_and_up(method, |bed| &bed.outputs[0])
}

/// One burst, and the streams before and after it, which arrive.
struct Burst {
    first: Stream,
    burst: Stream,
    last: Stream,
}

const STREAMS: Burst = {
    let first = Stream::new(0, BURST, SIZE);
    Burst {
        first,
        burst: first.starting_at(BURST),
        last: first.starting_at(2 * BURST),
    }
};

/// Sends a stream, does `disturb`, sends a burst, does `repair`, and sends another stream. Fails if
/// anything of the first or last stream is missing, or anything at all at the output of the other
/// interface. Returns the report of each output with the fault, and how many datagrams of the burst
/// arrived there.
fn through_a_fault(
    method: Method,
    disturb: impl Fn(&Testbed) -> Result<()>,
    repair: impl Fn(&Testbed) -> Result<()>,
) -> Result<Vec<(OutputReport, u64)>> {
    let Burst { first, burst, last } = STREAMS;
    let (bed, rules) = set_up(2)?;
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = method.start(&bed, &rules)?;
    let sources = method.sources(&bed, &rules)?;
    let beside = |count: u64| {
        let arrived = receivers
            .wait_until_each(|output, tally| output < ALL_OUTPUTS || tally.received >= count);
        arrived
            .then_some(())
            .ok_or_else(|| anyhow!("{count} beside it"))
    };
    sources.send(&first, RATE)?;
    receivers.wait_until_each(|_, tally| tally.received >= BURST);
    disturb(&bed)?;
    sources.send_in_one_burst(&burst, &relay)?;
    beside(2 * BURST)?;
    receivers.settle();
    repair(&bed)?;
    receivers.settle();
    sources.send(&last, RATE)?;
    beside(3 * BURST)?;
    receivers.wait_until_each(|_, tally| tally.missing(&last).is_empty());
    receivers.settle();
    let report = relay.stop()?.report;
    method.assert_used(&report, &rules)?;
    report.assert_balanced();
    let sent = 3 * BURST * rules.len() as u64;
    assert_eq!(report.packets_received, sent, "{report:#?}");
    assert_sent_is_what_arrived(method, &report, &receivers, 0);
    let mut outputs = Vec::new();
    let reported = report.outputs_by_interface();
    for ((_, tally), output) in receivers.tallies().iter().zip(reported) {
        assert_eq!(tally.missing(&first), [0; 0], "before: {tally}");
        assert_eq!(tally.missing(&last), [0; 0], "afterwards: {tally}");
        let of_the_burst = BURST - tally.missing(&burst).len() as u64;
        if output.interface == "out0" {
            outputs.push((output.clone(), of_the_burst));
        } else {
            assert_eq!(of_the_burst, BURST, "beside it: {tally}");
        }
    }
    assert_eq!(outputs.len(), ALL_OUTPUTS);
    receivers.assert_headers();
    Ok(outputs)
}

/// On a TX ring as much of the burst waits as the ring holds, and leaves when the interface is up
/// again. By the other TX methods the kernel refuses the burst.
pub fn x1_a_burst_for_an_interface_that_is_down_waits_or_is_refused_to_the_last_copy(
    method: Method,
) -> Result<()> {
    let set = |bed: &Testbed, state: &str| bed.relay.ip(&format!("link set out0 {state}"));
    let outputs = through_a_fault(
        method,
        |bed| set(bed, "down").map(drop),
        |bed| {
            set(bed, "up")?;
            wait_for_carrier(&bed.relay, "out0")
        },
    )?;
    let (mut waited, mut dropped_in_all) = (0, 0);
    for (output, arrived) in &outputs {
        let reason = match method.tx {
            TxMethod::Ring | TxMethod::Shared => "ring_full",
            _ => "device_refused",
        };
        assert_eq!(dropped(output, reason) + arrived, BURST, "{output:?}");
        waited += arrived;
        dropped_in_all += dropped(output, reason);
    }
    let copies = BURST * ALL_OUTPUTS as u64;
    let expected = match method.tx {
        TxMethod::Ring => RING,
        // The last output of the rule, which takes the received chunk, is on the other interface.
        TxMethod::Shared => RING / 2,
        _ => 0,
    };
    assert_eq!((waited, dropped_in_all), (expected, copies - expected));
    Ok(())
}

/// The far end is down, and the relay's kernel has noticed that the wire has no carrier, so it
/// refuses every copy, which is counted at its output. Until it notices, which takes up to a second
/// (net/core/link_watch.c), frames that it cuts from GSO packets are `device_dropped`.
pub fn x4_a_burst_for_a_dead_peer_is_counted_to_the_last_copy_and_the_other_output_loses_nothing(
    method: Method,
) -> Result<()> {
    let set = |bed: &Testbed, state: &str| {
        let far = &bed.receivers[0];
        let command = format!("link set {} {state}", far.interface);
        far.namespace.ip(&command)
    };
    let outputs = through_a_fault(
        method,
        |bed| {
            set(bed, "down")?;
            wait_for_no_carrier(&bed.relay, "out0")
        },
        |bed| {
            set(bed, "up")?;
            let far = &bed.receivers[0];
            wait_for_carrier(&far.namespace, &far.interface)?;
            wait_for_carrier(&bed.relay, "out0")
        },
    )?;
    for (output, arrived) in &outputs {
        let refused = dropped(output, "device_refused");
        assert_eq!((refused, *arrived), (BURST, 0), "{output:?}");
    }
    Ok(())
}

relay_tests::on_all_methods! {
    x1_after_the_input_was_down_forwarding_resumes_within_a_second,
    x1_after_the_output_was_down_forwarding_resumes_within_a_second,
    x1_a_burst_for_an_interface_that_is_down_waits_or_is_refused_to_the_last_copy,
    x4_a_burst_for_a_dead_peer_is_counted_to_the_last_copy_and_the_other_output_loses_nothing,
}
