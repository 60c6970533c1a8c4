//! Faults: something beside the traffic fails, and the traffic goes on. Where it matters how copies
//! leave, a scenario runs by every TX method ([`relay_tests::methods`]).

mod deleted;
mod killed;
mod links;
mod malformed;
mod overload;

use relay_tests::methods::{Method, TxMethod};
use relay_tests::report::Report;
use relay_tests::scenario::Receivers;

/// Fails unless what the relay reports as sent is what arrived through the outputs of its rules:
/// through each of them, or where the kernel cuts GSO packets, through all together, because a
/// device does not know the output whose frame it drops. There the kernel may have dropped as many
/// frames as given without counting them.
#[track_caller]
fn assert_sent_is_what_arrived(
    method: Method,
    report: &Report,
    receivers: &Receivers,
    may_be_uncounted: u64,
) {
    let tallies = receivers.tallies();
    let arrived: u64 = tallies.iter().map(|(_, tally)| tally.received).sum();
    let uncounted = report.packets_sent.checked_sub(arrived);
    assert!(
        uncounted <= Some(may_be_uncounted),
        "{uncounted:?}: {report:#?}"
    );
    assert_ne!(uncounted, None, "{arrived} arrived: {report:#?}");
    for ((_, tally), output) in tallies.iter().zip(report.outputs_by_interface()) {
        let exact = tally.received == output.packets_sent;
        assert!(exact || method.tx == TxMethod::Cut, "{tally}, {output:?}");
        assert_eq!(tally.unique, tally.received, "{tally}");
        assert_eq!(tally.out_of_order, 0, "{tally}");
    }
}
