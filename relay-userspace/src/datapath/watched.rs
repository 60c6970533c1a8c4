//! Looks at the frames of a batch before anything is made of them: shows them to the monitors of
//! their flows and to taps, and takes a sample of who sends.
//!
//! A table none of whose flows has a monitor costs one look per batch, and so do taps where none is
//! on. Frames of a batch arrived within microseconds of one another, so they have one time.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{
    batch::{Frame, Memory},
    flow_table::Flows,
    senders,
    stats::WorkerStats,
};

/// Looks at `frames`, which all lie in `memory` as they arrived.
#[inline]
pub fn look<M: Memory>(frames: &[Frame<M::Place>], flows: &Flows, memory: &M, stats: &WorkerStats) {
    if frames.is_empty() {
        return;
    }
    let empty_rounds = stats.progress.empty_rounds.get();
    if let Some(chosen) = stats.sampled.choose(frames.len(), empty_rounds)
        && let Some(frame) = frames.get(chosen)
    {
        sample(frame, memory, stats);
    }
    if flows.have_monitors() {
        show(frames, flows, memory);
    }
    if stats.outputs.taps().is_on() {
        stats.outputs.taps().arrived(frames, memory);
    }
}

/// Takes a sample.
#[inline(never)]
fn sample<M: Memory>(frame: &Frame<M::Place>, memory: &M, stats: &WorkerStats) {
    let headers = senders::headers(&frame.place, memory);
    if let Some((_, address)) = senders::sources(headers) {
        let port = frame.received.source_port();
        stats.sampled.note(frame.flow, address, port);
    }
}

/// Shows frames to the monitors of their flows.
#[inline(never)]
fn show<M: Memory>(frames: &[Frame<M::Place>], flows: &Flows, memory: &M) {
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
