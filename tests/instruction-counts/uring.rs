//! What a worker on io_uring holds while it forwards, without its ring and sockets: receive buffers
//! with messages in them, and the send slots of one TX socket.

use nix::libc;
use relay::{
    datapath::{
        batch::{Batch, Frame},
        flow_table::Flows,
        gso_packets::{self, Message, Outbox},
        open_runs::OpenRuns,
        stats::WorkerStats,
        uring::{
            buffers::{Buffers, Held},
            receive::{Arrival, CONTROL_LEN, Datagrams},
            send_slots::SendSlots,
        },
        vnet_header::VnetHeader,
    },
    host::GsoLimits,
};

use crate::{
    frames::{self, Checksum, Version},
    worker::{self, FRAMES, INPUT},
};

/// Length of a `struct virtio_net_hdr` (linux/virtio_net.h).
const VNET_HEADER_LEN: usize = 10;

/// A worker without ring and sockets.
pub struct Worker {
    buffers: Buffers,
    message: libc::msghdr,
    arrivals: Vec<Arrival>,
    flows: Flows,
    batch: Batch<Held>,
    slots: Slots,
    stats: WorkerStats,
}

/// The send slots of one TX socket, and those in use. Nothing is submitted.
struct Slots {
    free: SendSlots,
    used: Vec<u32>,
}

/// A worker that has taken [`FRAMES`] frames of 1000 bytes off the ring and not decoded them yet:
/// of `flows` flows in turn, each with `outputs` outputs.
pub fn received(version: Version, flows: u32, outputs: u8) -> &'static mut Worker {
    let mut buffers = Buffers::without_ring(FRAMES as u16).unwrap();
    // SAFETY: all zeros is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_controllen = CONTROL_LEN;
    let arrive = |at: u32| {
        let frame = frames::frame(
            version.group(at % flows),
            1000 - version.headers_len(),
            Checksum::Complete,
        );
        // `struct io_uring_recvmsg_out`, no control data, a `struct virtio_net_hdr` of zeros.
        let lengths = [0, 0, (VNET_HEADER_LEN + frame.len()) as u32, 0];
        let mut bytes: Vec<u8> = lengths.into_iter().flat_map(u32::to_ne_bytes).collect();
        bytes.resize(bytes.len() + CONTROL_LEN + VNET_HEADER_LEN, 0);
        bytes.extend(frame);
        let held = buffers.received(at as u16).unwrap();
        buffers.write(&held, &bytes);
        Arrival {
            held,
            len: bytes.len() as u32,
        }
    };
    Box::leak(Box::new(Worker {
        arrivals: (0..FRAMES).map(arrive).collect(),
        buffers,
        message,
        flows: worker::flows(version, flows, outputs),
        batch: Batch::new(FRAMES as usize, OpenRuns::new(flows as usize)),
        slots: Slots {
            free: SendSlots::new(1),
            used: Vec::with_capacity(FRAMES as usize),
        },
        stats: WorkerStats::new(flows as usize, flows as usize * usize::from(outputs)).unwrap(),
    }))
}

/// The same after it has sorted the frames into runs, one per flow.
pub fn sorted(version: Version, flows: u32, outputs: u8) -> &'static mut Worker {
    let worker = received(version, flows, outputs);
    worker.sort();
    assert_eq!(worker.stats.matched.get(), u64::from(FRAMES));
    assert_eq!(worker.batch.runs().0.len(), flows as usize);
    worker
}

/// The same after it has posted every copy.
pub fn posted(flows: u32, outputs: u8) -> &'static mut Worker {
    let worker = sorted(Version::V4, flows, outputs);
    worker.post();
    assert_eq!(
        worker.slots.used.len(),
        flows as usize * usize::from(outputs)
    );
    assert_eq!(worker.buffers.held(), u64::from(FRAMES));
    worker
}

impl Worker {
    /// Decodes, looks up, reads and sorts what was received.
    pub fn sort(&mut self) {
        let Self {
            buffers,
            message,
            arrivals,
            flows,
            batch,
            stats,
            ..
        } = self;
        for arrival in arrivals.drain(..) {
            let datagrams = Datagrams::read(&arrival, INPUT, message, buffers, flows, stats);
            if let Some(mut datagrams) = datagrams {
                while let Some(frame) = datagrams.next(&arrival.held, buffers) {
                    let keeps = flows.keep_any()
                        && batch.keep(datagrams.kept(&arrival, message, buffers, flows));
                    batch.add(frame, keeps, buffers, flows, stats);
                }
            }
            buffers.release(arrival.held);
        }
    }

    /// Fills the send slots of the one TX socket, and ends the batch.
    pub fn post(&mut self) {
        let Self {
            buffers,
            flows,
            batch,
            slots,
            stats,
            ..
        } = self;
        gso_packets::make(0, batch, flows, buffers, stats, slots);
        for frame in batch.end().0 {
            buffers.release(frame.place);
        }
    }

    /// Ends all messages: the buffers belong to the kernel again.
    pub fn complete(&mut self) {
        for slot in self.slots.used.drain(..) {
            self.slots.free.end(slot, &self.buffers);
        }
    }
}

impl Outbox<Buffers> for Slots {
    fn limits(&self) -> GsoLimits {
        GsoLimits::default()
    }

    unsafe fn post<'a, W, F>(&mut self, message: Message<W, F>, buffers: &'a Buffers)
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<Held>> + Clone,
    {
        if let Some(slot) = self.free.take(0) {
            self.free.fill(slot, message, buffers);
            self.used.push(slot);
        }
    }

    fn finish(&mut self) {}
}
