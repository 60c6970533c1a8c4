//! Frames that came in, as they were on the wire: of a GSO packet each datagram with headers of its
//! own, the tag that the kernel keeps beside a frame put back, and a checksum that the sender left
//! to its hardware completed.

use relay_common::wire::{Tag, VLAN_LEN, ethernet::field as ethernet};

use super::{Tap, Taps, gather, now, record::Way};
use crate::{
    datapath::batch::{Frame, Memory},
    packet::segments::Parts,
};

impl Taps {
    /// Writes down the frames of a batch that came in.
    #[cold]
    #[inline(never)]
    pub fn arrived<M: Memory>(&self, frames: &[Frame<M::Place>], memory: &M) {
        let Some(mut taps) = self.for_worker(Way::In, frames.len() as u64) else {
            return;
        };
        // Frames of a batch arrived within microseconds of one another.
        let time = now();
        for tap in taps.iter_mut() {
            let flow = tap.flow;
            for frame in frames.iter().filter(|frame| frame.flow == flow) {
                tap.arrived(frame, memory, time);
            }
        }
    }
}

impl Tap {
    fn arrived<M: Memory>(&mut self, frame: &Frame<M::Place>, memory: &M, time: u64) {
        let Self {
            ring, room, input, ..
        } = self;
        let mut write = |bytes: &[u8]| ring.write(time, Way::In, 0, *input, bytes);
        let payload = frame.payload(memory);
        let all = memory.bytes(&frame.place, M::FRAME_AT..frame.end());
        let (Some(parts), beside) = (Parts::of(all), memory.beside(&frame.place)) else {
            ring.lose(Way::In, 1);
            return;
        };
        let headers = all.get(..parts.headers_len()).unwrap_or_default();
        let is_part = parts.payload_len(all) != Some(payload.len());
        let partial = frame.received.has_partial_checksum();
        if !is_part && !partial && beside.is_none() {
            write(all);
            return;
        }
        let tag = beside.map(tag);
        let (macs, rest) = headers.split_at(ethernet::SOURCE.end.min(headers.len()));
        let tag = tag.as_ref().map_or(&[][..], |tag| tag);
        let Some(bytes) = gather(room, [macs, tag, rest, payload].into_iter()) else {
            ring.lose(Way::In, 1);
            return;
        };
        if let Some(parts) = Parts::of(bytes) {
            if is_part {
                parts.fit(bytes, frame.received.id());
            }
            if partial {
                parts.complete_udp(bytes);
            }
        }
        write(bytes);
    }
}

/// A tag as it is in a frame.
fn tag(tag: Tag) -> [u8; VLAN_LEN] {
    let [a, b] = tag.tpid.to_be_bytes();
    let [c, d] = tag.tci.to_be_bytes();
    [a, b, c, d]
}
