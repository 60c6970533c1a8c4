//! Counts what arrives, checks its order and measures its latency: in front of the stack of a plain
//! host, or as an XDP program at the next hop.
//!
//! It runs inside the sender's system call, so it is part of every contender's time, and does as
//! little as possible. A frame that no slot expects is passed on to the stack.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, ethernet, ethertype, ipv4, udp};

use crate::abi::{
    HEADERS_LEN, Latencies, MAGIC, MAX_SEGMENTS, MAX_SLOTS, STAMP_LEN, Slot, SlotKey, SlotState,
    Stamp, bucket,
};

#[map]
static SLOTS: HashMap<SlotKey, Slot> = HashMap::with_max_entries(MAX_SLOTS, 0);

#[map]
static STATES: Array<SlotState> = Array::with_max_entries(MAX_SLOTS, 0);

#[map]
static LATENCIES: PerCpuArray<Latencies> = PerCpuArray::with_max_entries(1, 0);

/// What counting needs for all segments of a frame.
struct Counter<'a> {
    slot: &'a Slot,
    state: &'a mut SlotState,
    latencies: &'a mut Latencies,
    now_ns: u64,
}

impl Counter<'_> {
    /// The counter of the slot that a frame with these headers belongs to.
    #[inline(always)]
    fn of(interface: u32, headers: &[u8; HEADERS_LEN]) -> Option<Self> {
        let (ethernet, rest) = headers.split_at(ETHERNET_LEN);
        let (ip, udp) = rest.split_at(IPV4_LEN);
        let ethertype = u16::from_be_bytes(*ethernet[ethernet::field::TYPE].first_chunk()?);
        let is_udp = ethertype == ethertype::IPV4
            && ip[ipv4::field::VERSION_AND_LEN] == 0x45
            && ip[ipv4::field::PROTOCOL] == ipv4::PROTOCOL_UDP;
        if !is_udp {
            return None;
        }
        let key = SlotKey {
            interface,
            group: *ip[ipv4::field::DESTINATION].first_chunk()?,
            port: *udp[udp::field::DESTINATION_PORT].first_chunk()?,
            padding: [0; 2],
        };
        // SAFETY: user space does not change the map while frames arrive.
        let slot = unsafe { SLOTS.get(key) }?;
        let state = STATES.get_ptr_mut(slot.index)?;
        let latencies = LATENCIES.get_ptr_mut(0)?;
        // SAFETY: see [`SlotState`] for the first; the second is this CPU's own.
        let (state, latencies) = unsafe { (&mut *state, &mut *latencies) };
        Some(Self {
            slot,
            state,
            latencies,
            // SAFETY: takes nothing.
            now_ns: unsafe { bpf_ktime_get_ns() },
        })
    }

    /// Counts one datagram.
    #[inline(always)]
    fn count(&mut self, stamp: &Stamp, payload: u32) {
        if stamp.magic != MAGIC || stamp.flow != self.slot.flow || payload != self.slot.payload {
            self.state.bad += 1;
            return;
        }
        self.state.received += 1;
        if stamp.sequence < self.state.next {
            self.state.late += 1;
        } else {
            self.state.missing += stamp.sequence - self.state.next;
            self.state.next = stamp.sequence + 1;
        }
        let latency = self.now_ns.saturating_sub(stamp.sent_ns);
        if let Some(count) = self.latencies.buckets.get_mut(bucket(latency)) {
            *count += 1;
        }
    }
}

/// For a host without XDP: the first program that its stack runs for a frame.
#[classifier]
pub fn count_skb(ctx: TcContext) -> i32 {
    if count_segments(&ctx).is_some() {
        TC_ACT_SHOT
    } else {
        TC_ACT_UNSPEC
    }
}

/// Counts every datagram in a frame or GSO packet.
#[inline(always)]
fn count_segments(ctx: &TcContext) -> Option<()> {
    let mut headers = [0u8; HEADERS_LEN];
    load(ctx, 0, &mut headers)?;
    // SAFETY: the kernel gives these fields to this type of program.
    let (interface, segment) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).gso_size) };
    let mut counter = Counter::of(interface, &headers)?;
    let end = ctx.len();
    let mut offset = HEADERS_LEN as u32;
    for _ in 0..MAX_SEGMENTS {
        let rest = end.saturating_sub(offset);
        let payload = if segment == 0 {
            rest
        } else {
            rest.min(segment)
        };
        let mut stamp = Stamp {
            magic: 0,
            flow: 0,
            sequence: 0,
            sent_ns: 0,
        };
        // A payload without room for a stamp keeps magic 0, and counts as bad.
        let _ = load(ctx, offset, &mut stamp);
        counter.count(&stamp, payload);
        offset += payload;
        if payload == 0 || offset >= end {
            break;
        }
    }
    Some(())
}

/// Reads a whole `T` at `offset`.
#[inline(always)]
fn load<T>(ctx: &TcContext, offset: u32, to: &mut T) -> Option<()> {
    let to = core::ptr::from_mut(to).cast();
    // SAFETY: the kernel writes at most the size of a `T`; callers use only types that are valid
    // for any bytes.
    let result = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, to, size_of::<T>() as u32) };
    (result == 0).then_some(())
}

/// For a host with XDP.
#[xdp]
pub fn count_xdp(ctx: XdpContext) -> u32 {
    if count_frame(&ctx).is_some() {
        xdp_action::XDP_DROP
    } else {
        xdp_action::XDP_PASS
    }
}

#[inline(always)]
fn count_frame(ctx: &XdpContext) -> Option<()> {
    let (start, end) = (ctx.data(), ctx.data_end());
    let payload = start + HEADERS_LEN;
    if payload > end {
        return None;
    }
    // SAFETY: the frame is long enough, as was just checked. Bytes have no alignment.
    let headers = unsafe { &*(start as *const [u8; HEADERS_LEN]) };
    let mut counter = Counter::of(ctx.ingress_ifindex() as u32, headers)?;
    let stamp = if payload + STAMP_LEN > end {
        Stamp {
            magic: 0,
            flow: 0,
            sequence: 0,
            sent_ns: 0,
        }
    } else {
        // SAFETY: the frame is long enough, as was just checked; a `Stamp` is valid for any bytes.
        unsafe { (payload as *const Stamp).read_unaligned() }
    };
    counter.count(&stamp, (end - payload) as u32);
    Some(())
}
