//! From a buffer that a completion brought to the datagrams in it: decode, look up, count.
//!
//! io_uring writes the lengths, the control data and the message into the buffer, in this order; the message of a
//! packet socket with `PACKET_VNET_HDR` is a `struct virtio_net_hdr` and the frame. A frame may be a super-frame: many
//! datagrams of one local sender, or joined by GRO. Each of them becomes a frame of the batch, with its own hold on the
//! buffer.

use io_uring::types::RecvMsgOut;
use relay_common::{
    abi::FlowKey,
    wire::{self, StrippedTag},
};

use super::buffers::{Buffers, Held};
use crate::{
    backend::{
        batch::{Frame, Memory},
        flows::Flows,
        head,
    },
    rewrite::Received,
    stats::{Dropped, WorkerStats},
};

/// Bytes that one control message with a `struct tpacket_auxdata` takes.
pub const CONTROL_LEN: usize = HEADER_LEN + size_of::<libc::tpacket_auxdata>().next_multiple_of(8);
const HEADER_LEN: usize = size_of::<libc::cmsghdr>();

/// A buffer that a completion brought, and how many bytes the kernel wrote to it.
#[derive(Debug)]
pub struct Arrival {
    /// The buffer.
    pub held: Held,
    /// Bytes in use.
    pub len: u32,
}

/// What is in a buffer: one datagram, or several of equal length, the last of which may be shorter.
#[derive(Debug)]
pub struct Datagrams {
    flow: u32,
    received: Received,
    /// Where the payload of all of them starts, in bytes from the start of the buffer.
    payload: usize,
    payload_len: usize,
    /// Bytes of payload of each but the last one; 0 unless it is a super-frame.
    size: usize,
    next: usize,
}

impl Datagrams {
    /// Reads what is in `arrival`, which came in by `interface` (the kernel's index). `message` is what the
    /// receive was asked with. `None`, counted, for what no rule takes.
    #[inline]
    pub fn read(
        arrival: &Arrival,
        interface: u32,
        message: &libc::msghdr,
        buffers: &Buffers,
        flows: &mut Flows,
        stats: &WorkerStats,
    ) -> Option<Self> {
        let bytes = buffers.bytes(&arrival.held, 0..arrival.len as usize);
        match Self::decode(bytes, interface, message, flows) {
            Ok(datagrams) => {
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
    ) -> Result<Self, (Dropped, u64)> {
        const MALFORMED: (Dropped, u64) = (Dropped::Malformed, 1);
        let out = RecvMsgOut::parse(bytes, message).map_err(|()| MALFORMED)?;
        if out.is_payload_truncated() {
            return Err(MALFORMED);
        }
        let (told, frame) = head::Told::split(out.payload_data()).ok_or(MALFORMED)?;
        let size = usize::from(told.segment_len.ok_or(MALFORMED)?);
        let tag = stripped_tag(out.control_data());
        let datagram = wire::decode_stripped(frame, tag).map_err(|_| MALFORMED)?;
        let payload_len = usize::from(datagram.payload_len);
        let flow = flows
            .look_up(FlowKey::new(interface, &datagram))
            .ok_or((Dropped::NoRule, count(payload_len, size)))?;
        let received = Received::read(frame, &datagram, told.checksum).ok_or(MALFORMED)?;
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

    /// How many there are, at least one.
    #[inline]
    pub fn count(&self) -> u64 {
        count(self.payload_len, self.size)
    }

    /// The next one, with a hold on its buffer, which is `held`'s.
    #[inline]
    pub fn next(&mut self, held: &Held, buffers: &Buffers) -> Option<Frame<Held>> {
        let number = self.next;
        if number as u64 >= self.count() {
            return None;
        }
        self.next += 1;
        let start = self.payload + number * self.size;
        let end = self.payload + self.payload_len;
        let (received, end) = match self.size {
            0 => (self.received, end),
            size => {
                let end = end.min(start + size);
                (self.received.part(number as u16, (end - start) as u16), end)
            }
        };
        let held = buffers.share(held);
        Some(Frame::new(held, received, self.flow, start..end))
    }
}

/// Datagrams with `payload_len` bytes of payload in all, `size` bytes each; one where that is 0.
#[inline]
fn count(payload_len: usize, size: usize) -> u64 {
    match size {
        0 => 1,
        size => payload_len.div_ceil(size).max(1) as u64,
    }
}

/// The VLAN tag that the kernel or the NIC has taken out of the frame (`PACKET_AUXDATA`).
#[inline]
fn stripped_tag(control: &[u8]) -> Option<StrippedTag> {
    let field = |at: usize| -> Option<[u8; 4]> { control.get(at..)?.first_chunk().copied() };
    const LEVEL: usize = size_of::<usize>();
    const TYPE: usize = LEVEL + 4;
    if i32::from_ne_bytes(field(LEVEL)?) != libc::SOL_PACKET
        || i32::from_ne_bytes(field(TYPE)?) != libc::PACKET_AUXDATA
    {
        return None;
    }
    // struct tpacket_auxdata (include/uapi/linux/if_packet.h): status, len, snaplen, mac, net, vlan_tci, vlan_tpid.
    let status = u32::from_ne_bytes(field(HEADER_LEN)?);
    let [tci, tci_, tpid, tpid_] = field(HEADER_LEN + 16)?;
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(StrippedTag {
        tpid: u16::from_ne_bytes([tpid, tpid_]),
        tci: u16::from_ne_bytes([tci, tci_]),
    })
}
