//! Shows the frames of a batch to the monitors of their flows, before anything is made of them.
//!
//! A table none of whose flows has a monitor costs one look per batch. Frames of a batch arrived
//! within microseconds of one another, so they have one time.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{
    batch::{Frame, Memory},
    flow_table::Flows,
    senders,
};

/// Shows `frames`, which all lie in `memory` as they arrived.
#[inline]
pub fn show<M: Memory>(frames: &[Frame<M::Place>], flows: &Flows, memory: &M) {
    if flows.have_monitors() && !frames.is_empty() {
        show_all(frames, flows, memory);
    }
}

#[inline(never)]
fn show_all<M: Memory>(frames: &[Frame<M::Place>], flows: &Flows, memory: &M) {
    let now = now();
    for frame in frames {
        let Some(monitor) = flows.monitor(frame.flow) else {
            continue;
        };
        let headers = senders::headers(&frame.place, memory);
        if let Some((_, address)) = senders::sources(headers) {
            let source = (address, frame.received.source_port());
            monitor.see(source, frame.payload(memory), now);
        }
    }
}

/// Nanoseconds since boot, without the time that the machine was suspended. A call without a system
/// call (vdso).
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}
