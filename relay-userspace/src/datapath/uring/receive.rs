//! From a buffer that a completion brought to the datagrams in it: decode, look up, count.
//!
//! io_uring writes the lengths, the control data and the message into the buffer, in this order;
//! the message of a packet socket with `PACKET_VNET_HDR` is a `struct virtio_net_hdr` and the
//! frame. A frame may be a GSO packet: many datagrams of one local sender, or joined by GRO. Each
//! of them becomes a frame of the batch, with its own hold on the buffer.

use io_uring::{cqueue, types::RecvMsgOut};
use nix::errno::Errno;
use relay_common::wire::{self, Tag, UDP_LEN};

use super::buffers::{Buffers, Held};
use crate::{
    datapath::{
        batch::{Frame, Memory},
        flow_table::Flows,
        stats::{Dropped, RingStats, WorkerStats},
        vnet_header::{self, Partial},
    },
    packet::{self, Kept, Known, Received},
};

/// Bytes of one control message with a `struct tpacket_auxdata`.
pub const CONTROL_LEN: usize = HEADER_LEN + size_of::<libc::tpacket_auxdata>().next_multiple_of(8);
const HEADER_LEN: usize = size_of::<libc::cmsghdr>();
/// Bytes of `struct io_uring_recvmsg_out` (include/uapi/linux/io_uring.h).
const LENGTHS_LEN: usize = 16;
/// Where the frame starts in a buffer.
pub(super) const FRAME_AT: usize = LENGTHS_LEN + CONTROL_LEN + vnet_header::ReceivedVnetHeader::LEN;

/// A `msghdr` without pointers.
#[derive(Debug)]
pub(super) struct ReceiveMessage(libc::msghdr);

// SAFETY: its pointers are null.
unsafe impl Send for ReceiveMessage {}

impl ReceiveMessage {
    pub fn new() -> Self {
        // SAFETY: all zeros is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_controllen = CONTROL_LEN;
        Self(message)
    }

    #[inline]
    pub fn header(&self) -> &libc::msghdr {
        &self.0
    }

    pub fn pointer(&self) -> *const libc::msghdr {
        &raw const self.0
    }
}

/// A buffer that a completion brought, and how many bytes the kernel wrote to it.
#[derive(Debug)]
pub struct Arrival {
    /// The buffer.
    pub held: Held,
    /// Bytes in use.
    pub len: u32,
}

impl Arrival {
    /// Its frame, as it arrived.
    pub fn frame<'b>(&'b self, buffers: &'b Buffers) -> &'b [u8] {
        buffers.bytes(&self.held, FRAME_AT..self.len as usize)
    }
}

/// The datagrams in a buffer: one, or several of equal length, the last of which may be shorter.
#[derive(Debug)]
pub struct Datagrams {
    flow: u32,
    received: Received,
    /// Where the first payload starts, in bytes from the start of the buffer; the others follow it.
    payload: usize,
    payload_len: usize,
    /// Bytes of payload of each datagram but the last; 0 unless the frame is a GSO packet.
    size: usize,
    next: usize,
}

impl Datagrams {
    /// Reads the datagrams in `arrival`, which arrived on `interface` (the kernel's index).
    /// `message` is the `msghdr` of the receive. `None`, counted, if the frame does not decode or
    /// no rule matches it.
    #[inline]
    pub fn read(
        arrival: &Arrival,
        interface: u32,
        message: &libc::msghdr,
        buffers: &mut Buffers,
        flows: &mut Flows,
        stats: &WorkerStats,
    ) -> Option<Self> {
        let bytes = buffers.bytes(&arrival.held, 0..arrival.len as usize);
        let mut inside = None;
        match Self::decode(bytes, interface, message, flows, &mut inside) {
            Ok(datagrams) => {
                if let Some(inside) = inside {
                    complete(inside, arrival, buffers);
                }
                stats.received.add(datagrams.count());
                Some(datagrams)
            }
            Err((reason, count)) => {
                stats.received.add(count);
                stats.drops.add(reason, count);
                None
            }
        }
    }

    #[inline]
    fn decode(
        bytes: &[u8],
        interface: u32,
        message: &libc::msghdr,
        flows: &mut Flows,
        inside: &mut Option<Partial>,
    ) -> Result<Self, (Dropped, u64)> {
        const MALFORMED: (Dropped, u64) = (Dropped::Malformed, 1);
        let out = RecvMsgOut::parse(bytes, message).map_err(|()| MALFORMED)?;
        if out.is_payload_truncated() {
            return Err(MALFORMED);
        }
        let (told, frame) =
            vnet_header::ReceivedVnetHeader::split(out.payload_data()).ok_or(MALFORMED)?;
        let size = usize::from(told.segment_len.ok_or(MALFORMED)?);
        let tag = stripped_tag(out.control_data());
        let datagram = wire::decode_stripped(frame, tag).map_err(|_| MALFORMED)?;
        let payload_len = usize::from(datagram.payload_len);
        let flow = flows
            .input(interface)
            .and_then(|input| flows.look_up(input, &datagram))
            .ok_or((Dropped::NoRule, count(payload_len, size)))?;
        if size > 0 && !told.is_cut_at(datagram.payload() - UDP_LEN) {
            return Err((Dropped::Malformed, count(payload_len, size)));
        }
        let known = match told.partial_inside(datagram.payload()) {
            None => told.checksum,
            found => {
                *inside = found;
                Known::Complete
            }
        };
        let received = Received::read(frame, &datagram, known).ok_or(MALFORMED)?;
        let at = frame.as_ptr().addr() - bytes.as_ptr().addr();
        Ok(Self {
            flow,
            received,
            payload: at + datagram.payload(),
            payload_len,
            size,
            next: 0,
        })
    }

    /// What some copies keep of them, if any does. Only where [`Flows::keep_any`]: it decodes the
    /// frame of `arrival` once more, so that others need not carry along what few rule files need.
    #[inline(never)]
    pub fn kept(
        &self,
        arrival: &Arrival,
        message: &libc::msghdr,
        buffers: &Buffers,
        flows: &Flows,
    ) -> Option<Kept> {
        let bytes = buffers.bytes(&arrival.held, 0..arrival.len as usize);
        let out = RecvMsgOut::parse(bytes, message).ok()?;
        let (_, frame) = vnet_header::ReceivedVnetHeader::split(out.payload_data())?;
        let tag = stripped_tag(out.control_data());
        let datagram = wire::decode_stripped(frame, tag).ok()?;
        flows.kept(self.flow, &datagram, frame, tag)
    }

    /// The number of datagrams, at least one.
    #[inline]
    pub fn count(&self) -> u64 {
        count(self.payload_len, self.size)
    }

    /// The next datagram, with a hold of its own on the buffer of `held`.
    #[inline]
    pub fn next(&mut self, held: &Held, buffers: &Buffers) -> Option<Frame<Held>> {
        let number = self.next;
        if number as u64 >= self.count() {
            return None;
        }
        self.next += 1;
        let start = self.payload + number * self.size;
        let end = self.payload + self.payload_len;
        let received = match self.size {
            0 => self.received,
            size => {
                let len = (end - start).min(size);
                self.received.part(number as u16, len as u16)
            }
        };
        let held = buffers.share(held);
        Some(Frame::new(held, received, self.flow, start))
    }
}

/// Completes the checksum of a packet in the payload of the frame in `arrival`, of which nothing
/// has been made yet. The checksum of the frame itself is made for that (local checksum offload,
/// Documentation/networking/checksum-offloads.rst).
#[cold]
fn complete(inside: Partial, arrival: &Arrival, buffers: &mut Buffers) {
    let covered = FRAME_AT + inside.start..arrival.len as usize;
    packet::complete_checksum(buffers.bytes_mut(&arrival.held, covered), inside.field);
}

/// The number of datagrams with `payload_len` bytes of payload in all, `size` bytes each; one if
/// `size` is 0.
#[inline]
fn count(payload_len: usize, size: usize) -> u64 {
    match size {
        0 => 1,
        size => payload_len.div_ceil(size).max(1) as u64,
    }
}

/// The VLAN tag that the kernel or the NIC has taken out of the frame (`PACKET_AUXDATA`).
#[inline]
fn stripped_tag(control: &[u8]) -> Option<Tag> {
    let field = |at: usize| -> Option<[u8; 4]> { control.get(at..)?.first_chunk().copied() };
    const LEVEL: usize = size_of::<usize>();
    const TYPE: usize = LEVEL + 4;
    if i32::from_ne_bytes(field(LEVEL)?) != libc::SOL_PACKET
        || i32::from_ne_bytes(field(TYPE)?) != libc::PACKET_AUXDATA
    {
        return None;
    }
    // struct tpacket_auxdata (include/uapi/linux/if_packet.h): status, len, snaplen, mac, net,
    // vlan_tci, vlan_tpid.
    let status = u32::from_ne_bytes(field(HEADER_LEN)?);
    let [tci, tci_, tpid, tpid_] = field(HEADER_LEN + 16)?;
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(Tag {
        tpid: u16::from_ne_bytes([tpid, tpid_]),
        tci: u16::from_ne_bytes([tci, tci_]),
    })
}

/// The same, of the first [`FRAME_AT`] bytes of a buffer: the lengths, of which the second is that
/// of the control data, and these (`struct io_uring_recvmsg_out`).
pub(super) fn tag_beside(buffer: &[u8]) -> Option<Tag> {
    let len = u32::from_ne_bytes(*buffer.get(4..)?.first_chunk()?);
    let control = buffer.get(LENGTHS_LEN..)?.get(..len as usize)?;
    stripped_tag(control)
}

/// Takes one completion of the receive.
#[inline]
pub(super) fn received(
    entry: &cqueue::Entry,
    arrivals: &mut Vec<Arrival>,
    buffers: &Buffers,
    stats: &WorkerStats,
) {
    let number = cqueue::buffer_select(entry.flags());
    let held = number.and_then(|number| buffers.received(number));
    match (u32::try_from(entry.result()), held) {
        (Ok(len), Some(held)) => arrivals.push(Arrival { held, len }),
        (Ok(_), None) => {}
        (Err(_), held) => {
            if let Some(held) = held {
                buffers.release(held);
            }
            failed(entry.result(), stats);
        }
    }
}

/// Counts the error that ended the receive.
#[cold]
fn failed(result: i32, stats: &WorkerStats) {
    let RingStats {
        out_of_buffers,
        interrupted,
        ..
    } = &stats.ring;
    match Errno::from_raw(-result) {
        // Nothing is lost: frames wait in the socket's buffer.
        Errno::ENOBUFS => out_of_buffers.add(1),
        // The one error that costs a frame: the kernel cannot describe it (virtio_net_hdr_from_skb,
        // include/linux/virtio_net.h). It is UFO, one datagram. The socket filter has counted it as
        // a GSO packet of many: it sees `gso_size`, and not the type (`struct __sk_buff`).
        Errno::EINVAL => {
            stats.received.add(1);
            stats.drops.add(Dropped::Malformed, 1);
        }
        Errno::ECANCELED => {}
        _ => interrupted.add(1),
    }
}
