//! Malformed frames: they never leave, and the traffic beside them is exact.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::frames::{SHORTEST_TAGGED, UdpFrame, is_tagged};
use relay_tests::inspect::is_udp;
use relay_tests::malformed::malformed;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::{Receivers, send, streams};
use relay_tests::sender::Pacer;
use relay_tests::topology::Testbed;

fn x6_malformed_frames_never_leave_and_the_traffic_beside_them_is_exact(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    bed.outputs[0].set_checksum_offload(false)?; // frames, not GSO packets
    let rules = [Rule::feed().outputs("out0", 3)];
    let receivers = Receivers::start(&bed, &rules)?;
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let mut relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let streams = streams(&rules, 4000, 600);
    let frames = malformed(&bed.sources[0], GROUP_IN, PORT_IN)?;
    let raw = RawSender::open(&bed.sources[0])?;
    thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| send(&bed, &rules, &streams, || receivers.progress()));
        let mut pacer = Pacer::new(4000, 16);
        for _ in 0..2 {
            for (_, frame) in &frames {
                pacer.wait();
                raw.send(frame)?;
            }
        }
        let sent = sending.join();
        assert!(matches!(sent, Ok(Ok(()))), "{sent:?}");
        Ok(())
    })?;
    receivers.assert_exact(&streams);
    wire.settle();
    let udp = wire.frames().iter().filter(|f| is_udp(&f.bytes)).count();
    assert_eq!(udp, 12_000, "UDP frames at the receiving host");
    assert!(relay.is_running());
    let report = relay.stop()?.report;
    report.assert_exact(&[4000]);
    assert!(report.filter("in0", "pass_malformed") > 0, "{report:#?}");
    Ok(())
}

fn x6_each_malformed_frame_alone_does_not_leave(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let local = RawReceiver::start(&bed.inputs[0])?;
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let raw = RawSender::open(&bed.sources[0])?;
    let frames = malformed(&bed.sources[0], GROUP_IN, PORT_IN)?;
    let mut pacer = Pacer::new(5000, 16);
    for (_, frame) in &frames {
        pacer.wait();
        raw.send(frame)?;
    }
    // All of them reach the stack of the relay's host. The kernel drops a frame that ends inside
    // its VLAN tag before a packet socket sees it.
    let shown = |frame: &[u8]| !is_tagged(frame) || frame.len() >= SHORTEST_TAGGED;
    let expected = frames.iter().filter(|(_, frame)| shown(frame)).count();
    let all = local.wait_for(expected, Duration::from_secs(10), |_| true);
    assert!(
        all,
        "{} of {expected} reach the local stack",
        local.frames().len()
    );
    // One that is right leaves, and nothing else.
    let good = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, 0, 40));
    raw.send(&good.build()?)?;
    let is_there = |frames: &[Frame]| frames.iter().any(|f| is_udp(&f.bytes));
    assert!(wire.wait_until(Duration::from_secs(10), is_there));
    wire.settle();
    let frames = wire.frames();
    let left: Vec<_> = frames.iter().filter(|f| is_udp(&f.bytes)).collect();
    assert_eq!(left.len(), 1, "left: {left:?}");
    let report = relay.stop()?.report;
    report.assert_exact(&[1]);
    assert!(report.filter("in0", "pass_malformed") > 100, "{report:#?}");
    Ok(())
}

relay_tests::on_both_backends! {
    x6_malformed_frames_never_leave_and_the_traffic_beside_them_is_exact,
    x6_each_malformed_frame_alone_does_not_leave,
}
