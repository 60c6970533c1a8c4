//! Faults: what goes wrong beside the traffic, and traffic that goes on as if nothing had. Where it
//! matters how copies leave, a scenario runs on every method ([`relay_tests::methods`]).

mod deleted;
mod killed;
mod links;
mod malformed;
mod overload;

use relay_tests::methods::{Method, TxMethod};
use relay_tests::report::Report;
use relay_tests::scenario::Receivers;

/// Fails unless what the relay says it sent is what arrived by the outputs of its one rule, which
/// are in the order of the wires: by each of them, or where the kernel cuts super-frames apart, by
/// all together, because devices do not know whose frames they drop. There as many as given may
/// have been swallowed without a word.
#[track_caller]
fn assert_sent_is_what_arrived(
    method: Method,
    report: &Report,
    receivers: &Receivers,
    may_be_swallowed: u64,
) {
    let tallies = receivers.tallies();
    let arrived: u64 = tallies.iter().map(|(_, tally)| tally.received).sum();
    let swallowed = report.packets_sent.checked_sub(arrived);
    assert!(
        swallowed <= Some(may_be_swallowed),
        "{swallowed:?}: {report:#?}"
    );
    assert_ne!(swallowed, None, "{arrived} arrived: {report:#?}");
    for ((_, tally), output) in tallies.iter().zip(&report.rules[0].outputs) {
        let exact = tally.received == output.packets_sent;
        assert!(exact || method.tx == TxMethod::Cut, "{tally}, {output:?}");
        assert_eq!(tally.unique, tally.received, "{tally}");
        assert_eq!(tally.out_of_order, 0, "{tally}");
    }
}
