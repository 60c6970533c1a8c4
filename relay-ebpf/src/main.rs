//! The XDP program: parse, look up, count, redirect. Beside it in one object: the tc program of
//! [`local`].
//!
//! The kernel runs it for every frame that arrives on an input interface. A frame that is a
//! datagram of a rule goes to the AF_XDP socket of its queue, or is dropped if it is above the
//! rule's limit; every other frame goes to the Linux stack, untouched. Each frame counts once, under
//! what became of it, see [`relay_common::abi::Counter`].
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "the attribute macros generate public items without any"
)]

mod local;
mod shared;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::bpf_redirect_map,
    macros::{map, xdp},
    maps::XskMap,
    programs::XdpContext,
};
use aya_log_ebpf::warn;
use relay_common::{
    abi::{Counter, InterfaceValue, MAX_INTERFACES, MAX_QUEUES, Mark},
    wire::{self, Bytes, Datagram, Mac, Verdict},
};

use crate::shared::{admit, came_back, count, interface_value, marks, takes_unicast};

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_INTERFACES * MAX_QUEUES, 0);

/// More than any interface with XDP receives in one buffer. The verifier wants to see a bound on
/// what is added to a pointer.
const MAX_PAYLOAD: usize = 0x3fff;

/// The frame as the verifier wants to see it: two pointers, and every read checked against the
/// second.
struct Packet {
    start: usize,
    end: usize,
}

/// A word that lies at an even address: one load, where LLVM may load what is not aligned to its
/// size.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Word(u32);

/// The same of 64 bits.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Long(u64);

impl Packet {
    #[inline(always)]
    fn of(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// The `T` at `offset`, or `None` where the frame ends before.
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        const { assert!(align_of::<T>() <= 2) };
        if self.holds(offset + size_of::<T>(), 0) {
            // SAFETY: `start + offset + size <= end`, and the kernel keeps the frame in place while
            // the program runs. It starts at an even address and `offset` is even, so `T` is
            // aligned; it is plain integers.
            Some(unsafe { *((self.start + offset) as *const T) })
        } else {
            None
        }
    }
}

impl Bytes for Packet {
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        self.read(offset)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        Some(self.read::<[Word; N]>(offset)?.map(|word| word.0))
    }

    #[inline(always)]
    fn longs<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        Some(self.read::<[Long; N]>(offset)?.map(|long| long.0))
    }

    #[inline(always)]
    fn words_anew<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        if !self.holds(offset + size_of::<[Word; N]>(), 0) {
            return None;
        }
        let words = (self.start + offset) as *const [Word; N];
        // SAFETY: as in `read`.
        Some(unsafe { words.read_volatile() }.map(|word| word.0))
    }

    #[inline(always)]
    fn holds(&self, headers: usize, payload: usize) -> bool {
        payload <= MAX_PAYLOAD && self.start + headers + payload <= self.end
    }
}

/// The entry point.
#[xdp]
pub fn relay_xdp(ctx: XdpContext) -> u32 {
    let interface = ctx.ingress_ifindex() as u32;
    let Some(value) = interface_value(interface) else {
        return xdp_action::XDP_PASS;
    };
    let (action, counter) = decide(&ctx, value);
    if matches!(counter, Counter::OwnFrame) {
        own_frame(ctx.ctx);
    }
    if matches!(counter, Counter::PassNoSocket) {
        no_socket(&ctx, interface, value);
    } else {
        let counted = count(value, counter, 1);
        if Mark::may_be(counted, 1) {
            mark(ctx.ctx, counter as u32);
        }
    }
    action
}

/// Notes when a frame that the relay gets came, if user space asks for it. A call, which takes
/// nothing but the context and the counter, so that other frames keep nothing for it.
#[inline(never)]
fn mark(ctx: *mut xdp_md, counter: u32) {
    if counter != Counter::Redirected as u32 {
        return;
    }
    let ctx = XdpContext::new(ctx);
    let (interface, queue) = (ctx.ingress_ifindex() as u32, ctx.rx_queue_index());
    marks::note(interface, queue, &Packet::of(&ctx));
}

/// Notes who brought a copy of this relay back. A call, which takes nothing but the context, so
/// that frames that the relay takes keep nothing for it.
#[inline(never)]
fn own_frame(ctx: *mut xdp_md) {
    let ctx = XdpContext::new(ctx);
    let interface = ctx.ingress_ifindex() as u32;
    if let Some(value) = interface_value(interface) {
        came_back::note(value, &Packet::of(&ctx), None);
    }
}

/// Whether the relay takes a frame to the address of a host. A call, which takes nothing but the
/// context, so that frames to groups keep nothing for it.
#[inline(never)]
fn admit_to_host(ctx: *mut xdp_md) -> Result<(), Counter> {
    let ctx = XdpContext::new(ctx);
    let Some(value) = interface_value(ctx.ingress_ifindex() as u32) else {
        return Err(Counter::PassNotMulticast);
    };
    let admission = Admission { interface: value };
    wire::judge_all_for(&Packet::of(&ctx), None, value.mac, &admission)
        .unwrap_or_else(|skip| Err(skip.into()))
}

/// Counts a frame whose queue no socket serves, and logs that once per CPU and interface, however
/// many frames follow.
#[inline(always)]
fn no_socket(ctx: &XdpContext, interface: u32, value: InterfaceValue) {
    if count(value, Counter::PassNoSocket, 1) == 1 {
        warn!(
            ctx,
            "interface {}: a matching frame arrived on queue {}, which no socket of the relay \
             serves; it went to the Linux stack. Add the queue to this interface's `queues`, or \
             steer the feed to one that is listed",
            interface,
            ctx.rx_queue_index()
        );
    }
}

/// Whether the relay takes a datagram that arrived on an interface; otherwise what it counts as.
struct Admission {
    interface: InterfaceValue,
}

impl Verdict for Admission {
    type Output = Result<(), Counter>;

    #[inline(always)]
    fn of(&self, datagram: Datagram, from: Mac) -> Result<(), Counter> {
        admit(self.interface, &datagram, from, || 1)
    }
}

#[inline(always)]
fn decide(ctx: &XdpContext, value: InterfaceValue) -> (u32, Counter) {
    let packet = Packet::of(ctx);
    let mut admitted = wire::judge_for(&packet, None, value.mac, &Admission { interface: value })
        .unwrap_or_else(|skip| Err(skip.into()));
    if admitted == Err(Counter::PassNotMulticast) && takes_unicast(value) {
        admitted = admit_to_host(ctx.ctx);
    }
    match admitted {
        Ok(()) => {}
        // The Linux stack would spend more on the frame than the relay does.
        Err(Counter::OverLimit) => return (xdp_action::XDP_DROP, Counter::OverLimit),
        Err(counter) => return (xdp_action::XDP_PASS, counter),
    }
    let redirected = match value.socket(ctx.rx_queue_index()) {
        // The helper that `XskMap::redirect` calls. That function takes the helper's result apart,
        // and this one would put it together again.
        // SAFETY: a map of this program.
        Some(socket) => unsafe {
            let map = core::ptr::from_ref(&SOCKETS).cast_mut().cast();
            bpf_redirect_map(map, u64::from(socket), u64::from(xdp_action::XDP_PASS))
        },
        None => i64::from(xdp_action::XDP_PASS),
    };
    if redirected == i64::from(xdp_action::XDP_REDIRECT) {
        (xdp_action::XDP_REDIRECT, Counter::Redirected)
    } else {
        (xdp_action::XDP_PASS, Counter::PassNoSocket)
    }
}
