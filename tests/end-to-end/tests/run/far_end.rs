//! The wire of an output changes under traffic: one of its ends goes down and up again, or its far
//! end gets an XDP program.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// One end of the wire goes down and up again under traffic, where GSO packets leave whole and
/// where the kernel cuts them. Every frame that did not arrive is counted.
fn every_frame_that_a_dead_wire_swallows_is_counted(backend: Backend) -> Result<()> {
    const COUNT: u64 = 20_000;
    const RATE: u32 = 20_000;
    for (whole, far) in [(true, true), (true, false), (false, true), (false, false)] {
        let bed = Testbed::builder().without_capture().build()?;
        bed.outputs[0].set_checksum_offload(whole)?;
        // The device's counter has every program's frames, and when the wire comes back the kernel
        // itself sends some over IPv6 (`addrconf_notify`, net/ipv6/addrconf.c).
        bed.relay.sysctl("ipv6/conf/out0/disable_ipv6", "1")?;
        let rules = [Rule::feed().outputs("out0", 2)];
        let receivers = Receivers::start(&bed, &rules)?;
        let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
        let end = [&bed.outputs[0], &bed.receivers[0]][usize::from(far)];
        let was_down = std::thread::scope(|scope| -> Result<Duration> {
            let sender = UdpSender::open(&bed.sources[0])?;
            let traffic = Traffic::new(GROUP_IN, PORT_IN, Stream::new(0, COUNT, 400));
            let sending = scope.spawn(move || sender.send(&traffic, RATE));
            std::thread::sleep(Duration::from_millis(300));
            let down = Instant::now();
            end.namespace
                .ip(&format!("link set {} down", end.interface))?;
            std::thread::sleep(Duration::from_millis(300));
            end.namespace
                .ip(&format!("link set {} up", end.interface))?;
            let was_down = down.elapsed();
            let sent = sending.join();
            ensure!(matches!(sent, Ok(Ok(()))), "{sent:?}");
            Ok(was_down)
        })?;
        receivers.settle();
        let report = relay.stop()?.report;
        let arrived: u64 = receivers
            .tallies()
            .iter()
            .map(|(_, tally)| tally.received)
            .sum();
        assert!(arrived < 2 * COUNT, "the wire was never down");
        assert_eq!(report.packets_matched, COUNT);
        // Where the kernel cuts, it drops uncounted what is sent after the carrier is gone and
        // before the relay learns of that: in between the kernel waits for all other CPUs
        // (`dev_deactivate_many`, net/sched/sch_generic.c).
        let lost = 2.0 * f64::from(RATE) * was_down.as_secs_f64();
        let unseen = if whole { 0 } else { lost as u64 / 2 };
        let off = report.packets_sent.checked_sub(arrived);
        assert!(
            off.is_some_and(|off| off <= unseen),
            "whole: {whole}, far: {far}, {arrived} arrived, {off:?}: {report:#?}"
        );
        assert!(
            report.dropped_total() > 0,
            "nothing is counted: {report:#?}"
        );
        assert_eq!(
            report.packets_sent + report.dropped_total(),
            2 * COUNT,
            "{report:#?}"
        );
    }
    Ok(())
}

/// The far end of the wire gets an XDP program while GSO packets leave whole: from then on the
/// kernel must cut them, and nothing may be lost.
fn an_xdp_program_attached_at_the_far_end_costs_no_frame(backend: Backend) -> Result<()> {
    const COUNT: u64 = 20_000;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let far = &bed.receivers[0];
    let _next_hop = std::thread::scope(|scope| -> Result<RelayProcess> {
        let sender = UdpSender::open(&bed.sources[0])?;
        let traffic = Traffic::new(GROUP_IN, PORT_IN, Stream::new(0, COUNT, 400));
        let sending = scope.spawn(move || sender.send(&traffic, 10_000));
        // Another relay, for another group.
        let other = Rule::new("other".to_owned(), "rcv0", [239, 77, 7, 7], 7777);
        let next_hop =
            RelayProcess::start(&far.namespace, Backend::Xdp, &[other.outputs("rcv0", 1)])?;
        let sent = sending.join();
        ensure!(matches!(sent, Ok(Ok(()))), "{sent:?}");
        Ok(next_hop)
    })?;
    receivers.assert_exact(&[Stream::new(0, COUNT, 400)]);
    let report = relay.stop()?.report;
    report.assert_exact(&[COUNT]);
    Ok(())
}

relay_tests::on_both_backends! {
    every_frame_that_a_dead_wire_swallows_is_counted,
    an_xdp_program_attached_at_the_far_end_costs_no_frame,
}
