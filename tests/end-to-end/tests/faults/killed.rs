//! Relays that end without a chance to clean up.

use std::time::Duration;

use anyhow::Result;
use relay_tests::background::eventually;
use relay_tests::methods::Method;
use relay_tests::rules::Rule;
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// How long the kernel may take to release what a killed process had.
const SOCKETS_GO: Duration = Duration::from_secs(1);

/// The relay is killed while it forwards a burst, larger than a TX ring: wherever the copies are
/// then, they hold nothing in the kernel.
fn x3_after_kill_9_the_interface_is_clean_and_a_new_start_works_at_once(
    method: Method,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 24)];
    for round in 0..3 {
        let receivers = Receivers::start(&bed, &rules)?;
        let relay = method.start(&bed, &rules)?;
        let source = method.source(&bed.sources[0])?;
        let stream = Stream::new(0, 200, 1000);
        source.send(&stream, 1000)?;
        receivers.assert_exact(&[stream]);
        if round == 2 {
            let report = relay.stop()?.report;
            method.assert_used(&report, &rules)?;
            report.assert_exact(&[stream.count]);
            break;
        }
        let burst = Stream::new(0, 100, 1000).starting_at(stream.count);
        source.send_in_one_burst(&burst, &relay)?;
        relay.kill()?;
        // The kernel closes link and sockets with the process.
        assert!(!bed.inputs[0].has_xdp_program()?, "no XDP program stays");
        if round == 0 {
            // io_uring's own references go a moment after the process, by a work queue
            // (`io_ring_exit_work`).
            let gone = eventually(SOCKETS_GO, || {
                bed.relay.packet_sockets().is_ok_and(|left| left == 0)
            });
            assert!(gone.is_some(), "no packet socket stays");
        }
        receivers.settle();
    }
    Ok(())
}

relay_tests::on_all_methods! {
    x3_after_kill_9_the_interface_is_clean_and_a_new_start_works_at_once,
}
