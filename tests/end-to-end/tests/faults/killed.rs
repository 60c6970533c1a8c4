//! Relays that end without a chance to clean up.

use anyhow::Result;
use relay_tests::methods::Method;
use relay_tests::rules::Rule;
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

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
            bed.relay.wait_for_no_packet_socket()?;
        }
        receivers.settle();
    }
    Ok(())
}

relay_tests::on_all_methods! {
    x3_after_kill_9_the_interface_is_clean_and_a_new_start_works_at_once,
}
