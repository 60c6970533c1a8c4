//! What an output sets in the headers of its copies, seen in every byte at the receiver: tags,
//! priority, source, source port, DSCP, TTL, and the other version of IP; for feeds that arrive
//! over IPv4 and IPv6, untagged, tagged and tagged twice, with every kind of checksum.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::output_keys::{BURST, Burst, Feeds, Kind, OUTPUTS, rules_with};
use relay_tests::raw::RawReceiver;
use relay_tests::topology::Testbed;

/// Every output of every feed, for every kind of datagram.
fn m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says(method: Method) -> Result<()> {
    let is_sent = |kind| kind != Kind::Joined || method.tx != TxMethod::Frames;
    assert_headers(method, 0..OUTPUTS, is_sent)
}

relay_tests::on_all_methods!(m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says);

/// The last copy through a TX ring takes the received frame's place, where its payload moves if its
/// headers are longer or shorter. Of many outputs, one whose headers are as long as the received
/// ones is the last.
#[test]
fn m3_m5_m9_m11_m12_so_has_the_copy_of_an_only_output() -> Result<()> {
    let method = Method {
        backend: Backend::Xdp,
        tx: TxMethod::Ring,
    };
    // The checksum of a partial one is made of the payload that has moved.
    let is_sent = |kind| matches!(kind, Kind::Complete | Kind::Partial);
    (0..OUTPUTS).try_for_each(|only| assert_headers(method, only..only + 1, is_sent))
}

/// Sends datagrams of the wanted kinds for rules with these outputs, and fails unless all copies
/// are right, and leave by the method.
fn assert_headers(
    method: Method,
    outputs: Range<usize>,
    is_sent: impl Fn(Kind) -> bool,
) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let rules = rules_with(outputs.clone());
    let relay = method.start(&bed, &rules)?;
    let feeds = Feeds {
        bed: &bed,
        sockets: method.sockets(),
        gap: Duration::ZERO,
    };
    let mut sent = [0; Encapsulation::ALL.len()];
    for burst in Burst::all().filter(|burst| is_sent(burst.kind)) {
        let receiver = RawReceiver::start(&bed.receivers[0])?;
        let paused = relay.pause()?;
        feeds.send(burst)?;
        drop(paused);
        sent[burst.feed] += BURST;
        feeds.assert_copies_with(outputs.clone(), burst, &receiver, || relay.log())?;
    }
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&sent);
    method.assert_used(&stopped.report, &rules)
}
