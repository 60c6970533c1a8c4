//! More traffic than the relay can send: every lost frame is accounted for, and afterwards nothing
//! is lost any more.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::receiver::QUIET;
use relay_tests::rules::Rule;
use relay_tests::scenario::{ARRIVAL, Receivers, send, streams};
use relay_tests::topology::Testbed;

/// How a flood arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    /// In GSO packets, which the kernel cuts on the way, or else in front of the relay.
    GsoPackets,
    /// One datagram per system call.
    SingleFrames,
}

/// For `seconds` one thread sends as fast as it can, which is more than the relay can send through
/// 32 outputs. `cargo xtask bench` shows that the relay keeps its rate meanwhile; here every frame
/// is accounted for, and afterwards the relay forwards as before.
fn overload(method: Method, flood: Flood, seconds: u64) -> Result<()> {
    const SIZE: usize = 200;
    const OUTPUTS: usize = 32;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", OUTPUTS)];
    let far = &bed.receivers[0];
    let relay = method.start(&bed, &rules)?;
    let before = far.datagrams_received(SIZE)?;
    let joined = match flood {
        Flood::GsoPackets => 32,
        Flood::SingleFrames => 1,
    };
    let source = method.source(&bed.sources[0])?;
    let sent = source.flood(SIZE, joined, Duration::from_secs(seconds))?;
    // Frames that are in rings and socket buffers then still leave through all outputs.
    let mut in_flood = u64::MAX;
    let quiet = eventually(3 * ARRIVAL, || {
        thread::sleep(QUIET);
        let now = far.datagrams_received(SIZE).unwrap_or(0);
        std::mem::replace(&mut in_flood, now) == now
    });
    assert!(quiet.is_some(), "the flood ends at the receivers");

    let receivers = Receivers::start(&bed, &rules)?;
    let streams = streams(&rules, 2000, SIZE);
    send(&bed, &rules, &streams, || receivers.progress())?;
    receivers.assert_exact(&streams);

    let report = relay.stop()?.report;
    method.assert_used(&report, &rules)?;
    report.assert_balanced();
    assert_eq!(report.filter("in0", "redirected"), sent + 2000);
    let lost = report.dropped_before_the_worker();
    assert!(
        lost > sent / 10,
        "that was no overload: {sent} sent, {report:#?}"
    );
    let arrived = far.datagrams_received(SIZE)? - before;
    assert_eq!(report.packets_sent, arrived, "{report:#?}");
    Ok(())
}

fn x5_after_an_overload_every_frame_is_accounted_for_and_nothing_is_lost_any_more(
    method: Method,
) -> Result<()> {
    let flood = match method.tx {
        TxMethod::Frames => Flood::SingleFrames,
        _ => Flood::GsoPackets,
    };
    overload(method, flood, 2)
}

/// The TX method that the relay chooses where the far end takes no GSO packets.
fn by_default(backend: Backend) -> Method {
    let tx = TxMethod::Cut;
    Method { backend, tx }
}

fn x5_after_ten_seconds_of_overload_every_frame_is_accounted_for_and_nothing_is_lost_any_more(
    backend: Backend,
) -> Result<()> {
    overload(by_default(backend), Flood::GsoPackets, 10)
}

fn x5_after_an_overload_of_single_frames_every_frame_is_accounted_for_and_nothing_is_lost_any_more(
    backend: Backend,
) -> Result<()> {
    overload(by_default(backend), Flood::SingleFrames, 2)
}

mod by_method {
    use super::x5_after_an_overload_every_frame_is_accounted_for_and_nothing_is_lost_any_more;

    relay_tests::on_all_methods! {
        x5_after_an_overload_every_frame_is_accounted_for_and_nothing_is_lost_any_more,
    }
}

relay_tests::on_both_backends! {
    x5_after_ten_seconds_of_overload_every_frame_is_accounted_for_and_nothing_is_lost_any_more,
    x5_after_an_overload_of_single_frames_every_frame_is_accounted_for_and_nothing_is_lost_any_more,
}
