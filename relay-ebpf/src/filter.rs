//! The socket filter: parse, look up, count, accept.
//!
//! The kernel runs it for every frame that reaches a packet socket (`SOCK_RAW`) of the io_uring
//! backend, from the Ethernet header on. It copies a frame that is a datagram of a rule to the
//! socket, whole; every frame also goes on to the Linux stack. Frames count as in the XDP program,
//! see [`relay_common::abi::Counter`].
//!
//! It writes no log messages: a program that does needs CAP_PERFMON, and this one must load with
//! CAP_BPF alone.
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "the attribute macros generate public items without any"
)]

mod shared;

use aya_ebpf::{bindings::__sk_buff, macros::socket_filter, programs::SkBuffContext};
use relay_common::{
    abi::{Counter, InterfaceValue, Mark},
    wire::{self, Bytes, Datagram, Mac, Tag, Verdict},
};

use crate::shared::{admit, came_back, count, interface_value, marks, takes_unicast};

/// How many bytes of the frame the socket gets: none, or all.
const REFUSE: i64 = 0;
const ACCEPT: i64 = u32::MAX as i64;
/// The queue of all frames of an interface, see [`relay_common::abi::Mark`].
const ANY_QUEUE: u32 = 0;

/// The frame with all its pages. Most of a GSO packet, one large packet that the kernel or the NIC
/// cuts into datagrams, is in pages that no pointer of the program reaches.
struct Packet<'a>(&'a SkBuffContext);

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn longs<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn holds(&self, headers: usize, payload: usize) -> bool {
        let rest = (self.0.len() as usize).checked_sub(headers);
        rest.is_some_and(|rest| rest >= payload)
    }
}

/// The entry point.
#[socket_filter]
pub fn relay_filter(ctx: SkBuffContext) -> i64 {
    // SAFETY: the kernel's context, which exists and does not change while the program runs. A
    // reference to it may only be used field by field: the verifier allows no other access.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(value) = interface_value(skb.ifindex) else {
        return REFUSE;
    };
    let admission = Admission {
        skb,
        interface: value,
    };
    let judged = wire::judge_for(&Packet(&ctx), stripped_tag(skb), value.mac, &admission);
    let judged = judged.unwrap_or_else(|skip| (REFUSE, skip.into(), 1));
    if matches!(judged.1, Counter::PassNotMulticast) && takes_unicast(value) {
        return to_host(ctx.skb.skb);
    }
    finish(&ctx, value, judged)
}

/// Does the same with a frame to the address of a host. A call, which takes nothing but the
/// context, so that frames to groups keep nothing for it.
#[inline(never)]
fn to_host(skb: *mut __sk_buff) -> i64 {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: as in `relay_filter`.
    let skb = unsafe { &*skb };
    let Some(value) = interface_value(skb.ifindex) else {
        return REFUSE;
    };
    let admission = Admission {
        skb,
        interface: value,
    };
    let judged = wire::judge_all_for(&Packet(&ctx), stripped_tag(skb), value.mac, &admission);
    let judged = judged.unwrap_or_else(|skip| (REFUSE, skip.into(), 1));
    finish(&ctx, value, judged)
}

/// Counts a frame, and returns how much of it the socket gets.
#[inline(always)]
fn finish(
    ctx: &SkBuffContext,
    value: InterfaceValue,
    (verdict, counter, frames): (i64, Counter, u64),
) -> i64 {
    if matches!(counter, Counter::OwnFrame) {
        own_frame(ctx.skb.skb);
    }
    let counted = count(value, counter, frames);
    if matches!(counter, Counter::Redirected) && Mark::may_be(counted, frames) {
        mark(ctx.skb.skb);
    }
    verdict
}

/// Notes when a frame came, if user space asks for it. A call, which takes nothing but the context,
/// so that other frames keep nothing for it.
#[inline(never)]
fn mark(skb: *mut __sk_buff) {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: as in `relay_filter`.
    let interface = unsafe { (*skb).ifindex };
    marks::note(interface, ANY_QUEUE, &Packet(&ctx));
}

/// Notes who brought a copy of this relay back. A call, which takes nothing but the context, so
/// that frames that the socket gets keep nothing for it.
#[inline(never)]
fn own_frame(skb: *mut __sk_buff) {
    let ctx = SkBuffContext::new(skb);
    // SAFETY: as in `relay_filter`.
    let skb = unsafe { &*skb };
    if let Some(value) = interface_value(skb.ifindex) {
        came_back::note(value, &Packet(&ctx), stripped_tag(skb));
    }
}

/// Whether the socket gets a datagram, what it counts as, and how often.
struct Admission<'a> {
    skb: &'a __sk_buff,
    interface: InterfaceValue,
}

impl Verdict for Admission<'_> {
    type Output = (i64, Counter, u64);

    #[inline(always)]
    fn of(&self, datagram: Datagram, from: Mac) -> Self::Output {
        let datagrams = || datagrams(self.skb, &datagram);
        match admit(self.interface, &datagram, from, datagrams) {
            Ok(()) => (ACCEPT, Counter::Redirected, datagrams()),
            Err(counter @ (Counter::OwnFrame | Counter::OverLimit)) => {
                (REFUSE, counter, datagrams())
            }
            Err(counter) => (REFUSE, counter, 1),
        }
    }
}

/// The tag that the kernel keeps beside the frame.
#[inline(always)]
fn stripped_tag(skb: &__sk_buff) -> Option<Tag> {
    (skb.vlan_present != 0).then(|| Tag {
        // In network order, as the kernel has it.
        tpid: u16::from_be(skb.vlan_proto as u16),
        tci: skb.vlan_tci as u16,
    })
}

/// How many datagrams a GSO packet holds; 1 for an ordinary frame. Computed from the lengths:
/// `gso_segs` may be 0 on frames of a virtual machine. One datagram that a virtual machine has left
/// to be fragmented (UFO) counts as many, too: the kernel shows no program its type.
#[inline(always)]
fn datagrams(skb: &__sk_buff, datagram: &Datagram) -> u64 {
    let (payload, size) = (u32::from(datagram.payload_len), skb.gso_size);
    if size == 0 || payload == 0 {
        1
    } else {
        u64::from(payload.div_ceil(size))
    }
}
