//! A worker that ends while more frames have arrived than it can forward in the time that it has:
//! each of them is counted.

use std::sync::atomic::AtomicBool;

use super::set_up::SetUp;
use anyhow::Result;
use relay::datapath::stats::Dropped;
use relay_tests::backend::Backend;
use relay_tests::frames::UdpFrame;
use relay_tests::payload::payload;
use relay_tests::raw::RawSender;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml, transmit_by};
use relay_tests::topology::Testbed;

/// So many that 200 ms are not enough for all copies, and that the RX ring and the RX socket hold.
const FRAMES: u64 = 6000;
const OUTPUTS: usize = 250;

fn every_copy_of_what_had_arrived_is_sent_or_counted_as_unsent(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", OUTPUTS)];
    let text = match backend {
        Backend::Xdp => to_toml(&rules) + &transmit_by(&rules, "xsk"),
        Backend::IoUring => to_toml(&rules),
    };
    let SetUp { mut worker, feeds } = SetUp::new(&bed, backend, &text, None)?;
    let sender = RawSender::open(&bed.sources[0])?;
    for n in 0..FRAMES {
        let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, n, 100));
        // Different TTLs in turn keep datagrams apart.
        frame.ttl += (n % 2) as u8;
        sender.send(&frame.build()?)?;
    }
    worker.run(&AtomicBool::new(true), false);
    let stats = worker.stats();
    let arrived = (stats.received.get(), stats.matched.get());
    assert_eq!(arrived, (FRAMES, FRAMES), "{:?}", stats.drops);
    let outputs = || stats.outputs.iter();
    assert_eq!(outputs().count(), OUTPUTS);
    for output in outputs() {
        let dropped: u64 = output.drops.iter().map(|(_, copies)| copies).sum();
        assert_eq!(output.sent.get() + dropped, FRAMES, "{output:?}");
        let unsent = output.drops_by_reason()[Dropped::UnsentAtExit as usize];
        assert!(unsent > 0, "the worker had the time for all: {output:?}");
    }
    let chunks = &stats.chunks;
    assert_eq!(chunks.in_flight.get(), 0, "{chunks:?}");
    let sum = chunks.free.get() + chunks.fill.get();
    assert_eq!(sum, chunks.total.get(), "{chunks:?}");
    drop(worker);
    drop(feeds);
    Ok(())
}

relay_tests::on_both_backends! {
    every_copy_of_what_had_arrived_is_sent_or_counted_as_unsent,
}
