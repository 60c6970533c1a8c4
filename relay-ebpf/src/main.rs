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

mod shared;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::XskMap,
    programs::XdpContext,
};
use aya_log_ebpf::warn;
use relay_common::{
    abi::{Counter, FlowKey, InterfaceValue, MAX_INTERFACES, MAX_QUEUES},
    wire::{self, Bytes},
};

use crate::shared::{count, interface_value, is_flow};

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_INTERFACES * MAX_QUEUES, 0);

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
    let Some(value) = interface_value(interface) else {
        return xdp_action::XDP_PASS;
    };
    count(value, Counter::Received, 1);
    let (action, counter) = decide(&ctx, interface, value);
    let times = count(value, counter, 1);
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
    if !is_flow(FlowKey::new(interface, &datagram)) {
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
