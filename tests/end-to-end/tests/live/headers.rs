//! What an output sets in the headers of its copies, seen in every byte at the receiver: tags,
//! priority, source, source port, DSCP, TTL, and the other version of IP; for feeds that arrive
//! over IPv4 and IPv6, untagged, tagged and tagged twice, with every kind of checksum.

use std::time::Duration;

use anyhow::Result;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::output_keys::{BURST, Burst, Feeds, Kind, rules};
use relay_tests::raw::RawReceiver;
use relay_tests::topology::Testbed;

/// Every output of every feed, for every kind of datagram.
fn m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says(method: Method) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let rules = rules();
    let relay = method.start(&bed, &rules)?;
    let feeds = Feeds {
        bed: &bed,
        sockets: method.sockets(),
        gap: Duration::ZERO,
    };
    let mut sent = [0; Encapsulation::ALL.len()];
    for burst in Burst::all() {
        if burst.kind == Kind::Joined && method.tx == TxMethod::Frames {
            continue;
        }
        let receiver = RawReceiver::start(&bed.receivers[0])?;
        let paused = relay.pause()?;
        feeds.send(burst)?;
        drop(paused);
        sent[burst.feed] += BURST;
        feeds.assert_copies(burst, &receiver, || relay.log())?;
    }
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&sent);
    method.assert_used(&stopped.report, &rules)
}

relay_tests::on_all_methods!(m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says);
