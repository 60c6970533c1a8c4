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
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, ethernet, ethertype, ipv4, ipv6, udp};

use crate::abi::{
    HEADERS_LEN, IPV6_HEADERS_LEN, Latencies, MAX_SEGMENTS, MAX_SLOTS, STAMP_LEN, Slot, SlotKey,
    SlotState, Stamp, bucket,
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
    latencies: &'a mut Latencies,
    now_ns: u64,
}

impl Counter<'_> {
    /// The counter of the slot that frames to `place` belong to.
    #[inline(always)]
    fn of(interface: u32, place: Place) -> Option<Self> {
        let key = SlotKey {
            interface,
            group: place.group,
            port: place.port,
            scope: place.scope,
        };
        // SAFETY: user space does not change the map while frames arrive.
        let slot = unsafe { SLOTS.get(key) }?;
        let latencies = LATENCIES.get_ptr_mut(0)?;
        // SAFETY: it is this CPU's own.
        let latencies = unsafe { &mut *latencies };
        Some(Self {
            slot,
            latencies,
            // SAFETY: takes nothing.
            now_ns: unsafe { bpf_ktime_get_ns() },
        })
    }

    /// Counts one datagram.
    #[inline(always)]
    fn count(&mut self, stamp: &Stamp, payload: u32) {
        let sender = stamp.flow.wrapping_sub(self.slot.flow);
        let is_bad =
            !stamp.is_whole() || sender >= self.slot.senders || payload != self.slot.payload;
        let of = if is_bad { 0 } else { sender };
        let Some(state) = STATES.get_ptr_mut(self.slot.index + of) else {
            return;
        };
        // SAFETY: see [`SlotState`].
        let state = unsafe { &mut *state };
        if is_bad {
            state.bad += 1;
            return;
        }
        state.received += 1;
        let sequence = stamp.sequence();
        if sequence < state.next {
            state.late += 1;
        } else {
            state.missing += sequence - state.next;
            state.next = sequence + 1;
        }
        let latency = self.now_ns.saturating_sub(stamp.sent_ns);
        if let Some(count) = self.latencies.buckets.get_mut(bucket(latency)) {
            *count += 1;
        }
    }
}

/// Where a frame is sent to.
struct Place {
    group: [u8; 4],
    port: [u8; 2],
    scope: [u8; 2],
}

/// The EtherType of a frame with these headers.
#[inline(always)]
fn ethertype(headers: &[u8; HEADERS_LEN]) -> u16 {
    u16::from_be_bytes([
        headers[ethernet::field::TYPE.start],
        headers[ethernet::field::TYPE.start + 1],
    ])
}

impl Place {
    /// Where a datagram over IPv4 is sent to.
    #[inline(always)]
    fn v4(headers: &[u8; HEADERS_LEN]) -> Option<Self> {
        let (ip, udp) = headers[ETHERNET_LEN..].split_at(IPV4_LEN);
        let is_udp = ethertype(headers) == ethertype::IPV4
            && ip[ipv4::field::VERSION_AND_LEN] == 0x45
            && ip[ipv4::field::PROTOCOL] == ipv4::PROTOCOL_UDP;
        if !is_udp {
            return None;
        }
        Some(Self {
            group: *ip[ipv4::field::DESTINATION].first_chunk()?,
            port: *udp[udp::field::DESTINATION_PORT].first_chunk()?,
            scope: [0; 2],
        })
    }

    /// Where a datagram over IPv6 is sent to.
    #[inline(always)]
    fn v6(headers: &[u8; IPV6_HEADERS_LEN]) -> Option<Self> {
        let (ip, udp) = headers[ETHERNET_LEN..].split_at(ipv6::HEADER_LEN);
        let group = ip[ipv6::field::DESTINATION].first_chunk::<16>()?;
        let (scope, rest) = group.split_at(2);
        let (between, last) = rest.split_at(10);
        let is_udp = ip[ipv6::field::NEXT_HEADER] == ipv4::PROTOCOL_UDP;
        if !is_udp || between.iter().any(|&byte| byte != 0) {
            return None;
        }
        Some(Self {
            group: *last.first_chunk()?,
            port: *udp[udp::field::DESTINATION_PORT].first_chunk()?,
            scope: *scope.first_chunk()?,
        })
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
    let (place, headers_len) = if ethertype(&headers) == ethertype::IPV6 {
        let mut headers = [0u8; IPV6_HEADERS_LEN];
        load(ctx, 0, &mut headers)?;
        (Place::v6(&headers)?, IPV6_HEADERS_LEN)
    } else {
        (Place::v4(&headers)?, HEADERS_LEN)
    };
    let mut counter = Counter::of(interface, place)?;
    let end = ctx.len();
    let mut offset = headers_len as u32;
    for _ in 0..MAX_SEGMENTS {
        let rest = end.saturating_sub(offset);
        let payload = if segment == 0 {
            rest
        } else {
            rest.min(segment)
        };
        let mut stamp = Stamp::default();
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
    let start = ctx.data();
    let headers: &[u8; HEADERS_LEN] = bytes(ctx, start)?;
    let (place, payload) = if ethertype(headers) == ethertype::IPV6 {
        (Place::v6(bytes(ctx, start)?)?, start + IPV6_HEADERS_LEN)
    } else {
        (Place::v4(headers)?, start + HEADERS_LEN)
    };
    let mut counter = Counter::of(ctx.ingress_ifindex() as u32, place)?;
    let stamp = match bytes::<STAMP_LEN>(ctx, payload) {
        // SAFETY: a `Stamp` has this size and is valid for any bytes.
        Some(stamp) => unsafe { stamp.as_ptr().cast::<Stamp>().read_unaligned() },
        None => Stamp::default(),
    };
    counter.count(&stamp, (ctx.data_end() - payload) as u32);
    Some(())
}

/// The `N` bytes of the frame from the address `at` on.
#[inline(always)]
fn bytes<const N: usize>(ctx: &XdpContext, at: usize) -> Option<&[u8; N]> {
    if at + N > ctx.data_end() {
        return None;
    }
    // SAFETY: the frame is long enough, as was just checked. Bytes have no alignment.
    Some(unsafe { &*(at as *const [u8; N]) })
}
