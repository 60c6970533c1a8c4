//! Copies that share the payload of the received chunk, on TX rings in copy mode: by the relay that
//! overwrites every chunk and header slot that becomes free.

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{Rule, transmit_by};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::wait_for_carrier;

/// Datagrams whose copies wait.
const WAITING: u64 = 60;

/// Sends datagrams with copies for two interfaces while one of them is down: the copies there wait
/// on the ring, and the other ones leave. Then it is up again. Returns how many arrived undamaged
/// at each output: two on the interface that was up, and two on the other one.
fn through_an_interface_that_waits(variables: &[&str]) -> Result<Vec<u64>> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = [Rule::feed().outputs("out1", 2).outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let file = RuleFile::with(&rules, &transmit_by(&rules, "xsk"))?;
    let relay = RelayProcess::start_poisoned(&bed.relay, Backend::Xdp, file, variables)?;
    bed.relay.ip("link set out1 down")?;
    let stream = Stream::new(0, WAITING, 1000);
    let traffic = Traffic::new(rules[0].group, rules[0].port, stream);
    UdpSender::open(&bed.sources[0])?.send(&traffic, 2000)?;
    receivers.wait_until_each(|output, tally| output >= 2 || tally.received >= WAITING);
    bed.relay.ip("link set out1 up")?;
    wait_for_carrier(&bed.relay, "out1")?;
    receivers.settle();
    let tallies = receivers.tallies().into_iter();
    let intact = tallies.map(|(_, tally)| WAITING - tally.missing(&stream).len() as u64);
    let intact = intact.collect();
    let stopped = relay.stop()?;
    stopped.report.assert_no_chunk_missing();
    Ok(intact)
}

#[test]
fn a_payload_stays_until_the_last_of_its_copies_has_left() -> Result<()> {
    let intact = through_an_interface_that_waits(&["RELAY_SHARE_PAYLOADS"])?;
    assert_eq!(intact, [WAITING; 4]);
    Ok(())
}

/// Shows that the test above can fail, and that copies share payloads there: whole copies have
/// chunks of their own, which each become free with the one copy that is in them.
#[test]
fn a_payload_freed_too_early_would_be_noticed() -> Result<()> {
    let intact = through_an_interface_that_waits(&["RELAY_SHARE_PAYLOADS", "RELAY_FREE_EARLY"])?;
    assert!(
        intact[2..].iter().all(|&intact| intact < WAITING),
        "{intact:?}"
    );
    let alone = through_an_interface_that_waits(&["RELAY_FREE_EARLY"])?;
    assert_eq!(alone, [WAITING; 4]);
    Ok(())
}
