//! The XDP program: parse, look up, count, redirect.
//!
//! It runs on every frame of an input interface. A frame that is a datagram of a rule goes to the
//! AF_XDP socket of its queue; every other frame goes to the Linux stack, untouched. Each frame counts once
//! as received and once under the one thing that became of it, see [`relay_common::abi::Counter`].
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "the attribute macros generate public items without any"
)]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{HashMap, PerCpuArray, XskMap},
    programs::XdpContext,
};
use aya_log_ebpf::warn;
use relay_common::{
    abi::{Counter, FlowKey, FlowValue, InterfaceValue, MAX_FLOWS, MAX_INTERFACES, MAX_QUEUES},
    wire::{self, Bytes},
};

#[map]
static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(MAX_FLOWS, 0);

#[map]
static INTERFACES: HashMap<u32, InterfaceValue> = HashMap::with_max_entries(MAX_INTERFACES, 0);

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_INTERFACES * MAX_QUEUES, 0);

#[map]
static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(MAX_INTERFACES * Counter::COUNT, 0);

/// The frame as the verifier wants to see it: two pointers, every read checked against the second.
struct Packet {
    start: usize,
    end: usize,
}

impl Bytes for Packet {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if self.holds(offset + N) {
            // SAFETY: `start + offset + N <= end`, and the kernel keeps the frame in place while the
            // program runs. An array of bytes has no alignment.
            Some(unsafe { *((self.start + offset) as *const [u8; N]) })
        } else {
            None
        }
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        self.start + len <= self.end
    }
}

/// The entry point.
#[xdp]
pub fn relay_xdp(ctx: XdpContext) -> u32 {
    let interface = ctx.ingress_ifindex() as u32;
    // SAFETY: user space writes the value before it attaches the program and never changes it.
    let Some(&value) = (unsafe { INTERFACES.get(interface) }) else {
        return xdp_action::XDP_PASS;
    };
    count(value, Counter::Received);
    let (action, counter) = decide(&ctx, interface, value);
    let times = count(value, counter);
    // Rare by construction: at most once a CPU and interface, however many frames follow.
    if matches!(counter, Counter::PassNoSocket) && times == 1 {
        warn!(
            &ctx,
            "interface {}: a matching frame came in by queue {}, which no socket of the relay serves; it went to the \
             Linux stack. Add the queue to this interface's `queues`, or steer the feed to one that is listed",
            interface,
            ctx.rx_queue_index()
        );
    }
    action
}

/// Adds one on this CPU and returns the new value.
#[inline(always)]
fn count(value: InterfaceValue, counter: Counter) -> u64 {
    let Some(cell) = COUNTERS.get_ptr_mut(value.counter(counter)) else {
        return 0;
    };
    // SAFETY: the kernel hands out this CPU's own cell, and the program is not preempted by itself.
    unsafe {
        *cell += 1;
        *cell
    }
}

#[inline(always)]
fn decide(ctx: &XdpContext, interface: u32, value: InterfaceValue) -> (u32, Counter) {
    let packet = Packet {
        start: ctx.data(),
        end: ctx.data_end(),
    };
    let datagram = match wire::decode(&packet) {
        Ok(datagram) => datagram,
        Err(skip) => return (xdp_action::XDP_PASS, skip.into()),
    };
    let key = FlowKey::new(interface, &datagram);
    // SAFETY: the value is not read.
    if unsafe { FLOWS.get(key) }.is_none() {
        return (xdp_action::XDP_PASS, Counter::unmatched(&datagram));
    }
    let queue = ctx.rx_queue_index();
    let redirected = value.socket(queue).and_then(|socket| {
        SOCKETS
            .redirect(socket, u64::from(xdp_action::XDP_PASS))
            .ok()
    });
    if redirected == Some(xdp_action::XDP_REDIRECT) {
        (xdp_action::XDP_REDIRECT, Counter::Redirected)
    } else {
        (xdp_action::XDP_PASS, Counter::PassNoSocket)
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that the program calls are open to programs under a licence compatible with the kernel's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
