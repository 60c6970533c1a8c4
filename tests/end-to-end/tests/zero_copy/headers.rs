//! What an output sets in the headers of its copies, on NICs: tags, priority, DSCP, source, source
//! port, TTL, and the other version of IP, in every byte at the receiver.

use std::time::Duration;

use anyhow::Result;
use relay_tests::lab;
use relay_tests::output_keys::{BURST, Burst, Feeds, rules};
use relay_tests::raw::RawReceiver;

use super::Nics;

/// Between two datagrams, each of which has a copy by every output: the emulated wires keep the
/// order of short bursts only.
const GAP: Duration = Duration::from_millis(5);

pub fn m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?.with_ipv6()?;
    // A NIC drops frames of VLANs that no interface above it has.
    for end in bed.inputs.iter().chain(&bed.receivers) {
        end.receive_all()?;
    }
    let rules = rules();
    let relay = lab::start(&bed, &rules)?;
    let feeds = Feeds {
        bed: &bed,
        sockets: 1,
        gap: GAP,
    };
    let mut sent = 0;
    for burst in Burst::all() {
        let receiver = RawReceiver::start(&bed.receivers[0])?;
        feeds.send(burst)?;
        sent += BURST;
        feeds.assert_copies(burst, &receiver, || relay.log())?;
    }
    let stopped = relay.stop()?;
    let report = &stopped.report;
    report.assert_balanced();
    assert_eq!(report.packets_matched, sent, "{report:#?}");
    assert_eq!(report.dropped_total(), 0, "{report:#?}");
    nics.assert_mode(&stopped)?;
    report.assert_tx_method(&rules, "xsk")
}
