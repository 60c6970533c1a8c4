//! Makes frames at a rate: the XDP program that `BPF_PROG_TEST_RUN` calls for every live frame.
//!
//! The kernel recycles the frames, and their last owner may have changed them, so headers and stamp
//! are written anew every time. The whole run is one system call on one CPU; nothing else touches
//! the state meanwhile.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_ktime_get_ns, bpf_loop, bpf_redirect},
    macros::{map, xdp},
    maps::Array,
    programs::XdpContext,
};
use relay_common::wire::{ETHERNET_LEN, ipv4, vlan::TAG_LEN};

use crate::abi::{
    HEADER_WORDS, INTERVAL_FRACTION_BITS, IPV6_HEADER_WORDS, MAGIC, MAX_FLOWS, Pace, STAMP_WORDS,
    TAGGED_HEADER_WORDS, Template,
};

#[map]
static PACE: Array<Pace> = Array::with_max_entries(1, 0);

#[map]
static TEMPLATES: Array<Template> = Array::with_max_entries(MAX_FLOWS, 0);

/// Words of the IPv4 header that differ from its flow's template.
const IP_IDENTIFICATION: usize = ipv4::field::ID.start / 2;
const IP_CHECKSUM: usize = ipv4::field::CHECKSUM.start / 2;
/// Where the IPv4 header starts, in words; a frame over IPv6 has none.
const IP: usize = ETHERNET_LEN / 2;
const TAGGED_IP: usize = (ETHERNET_LEN + TAG_LEN) / 2;
const NO_IPV4: usize = 0;
/// How often one wait reads the clock at most (`BPF_MAX_LOOPS`): a sixth of a second or more.
const MOST_LOOKS: u32 = 1 << 23;
/// A generator that is later than this skips the frames that it missed: it must not send them in a
/// burst.
const GIVE_UP_NS: u64 = 100_000;

/// Makes untagged frames over IPv4.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    next_frame::<HEADER_WORDS, IP>(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Makes tagged frames over IPv4.
#[xdp]
pub fn generate_tagged(ctx: XdpContext) -> u32 {
    next_frame::<TAGGED_HEADER_WORDS, TAGGED_IP>(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Makes frames over IPv6.
#[xdp]
pub fn generate_ipv6(ctx: XdpContext) -> u32 {
    next_frame::<IPV6_HEADER_WORDS, NO_IPV4>(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Makes a frame whose headers have so many words, with the IPv4 header at `IP`.
#[inline(always)]
fn next_frame<const HEADERS: usize, const IP: usize>(ctx: &XdpContext) -> Option<u32> {
    // SAFETY: only this program uses the value during a run, on one CPU.
    let pace = unsafe { &mut *PACE.get_ptr_mut(0)? };
    let template = TEMPLATES.get(pace.flow)?;
    let start = ctx.data();
    if start + (HEADERS + STAMP_WORDS) * 2 > ctx.data_end() {
        return None;
    }
    // SAFETY: the frame is long enough, as was just checked, and the kernel aligns it to more than
    // two bytes; headers and stamp do not overlap.
    let (headers, stamp) = unsafe {
        (
            &mut *(start as *mut [u16; HEADERS]),
            &mut *((start + HEADERS * 2) as *mut [u16; STAMP_WORDS]),
        )
    };
    if pace.in_batch == 0 {
        wait_until_due(pace);
    }
    pace.in_batch += 1;
    if pace.in_batch >= pace.batch {
        pace.in_batch = 0;
    }
    write::<HEADERS, IP>(headers, stamp, template, pace);
    pace.count += 1;
    pace.flow += 1;
    if pace.flow >= pace.flows {
        pace.flow = 0;
        pace.sequence += 1;
    }
    // SAFETY: takes two numbers.
    Some(unsafe { bpf_redirect(pace.interface, 0) } as u32)
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn wait_until_due(pace: &mut Pace) {
    let now = now_ns();
    if pace.count == 0 {
        pace.start_ns = now;
        pace.first_ns = now;
        return;
    }
    let mut due = pace.start_ns + ((pace.count * pace.interval) >> INTERVAL_FRACTION_BITS);
    if now > due + GIVE_UP_NS {
        pace.start_ns += now - due;
    } else if now < due {
        // SAFETY: the callback gets `due`, which outlives the call.
        unsafe {
            bpf_loop(MOST_LOOKS, is_due as *mut c_void, (&raw mut due).cast(), 0);
        }
    }
}

/// Ends the loop, by 1, when the time has come.
extern "C" fn is_due(_: u32, due: *mut c_void) -> i64 {
    // SAFETY: `wait_until_due` passes this pointer.
    i64::from(now_ns() >= unsafe { *due.cast::<u64>() })
}

#[inline(always)]
fn write<const HEADERS: usize, const IP: usize>(
    headers: &mut [u16; HEADERS],
    stamp: &mut [u16; STAMP_WORDS],
    template: &Template,
    pace: &mut Pace,
) {
    let now = now_ns();
    pace.last_ns = now;
    headers.copy_from_slice(&template.headers[..HEADERS]);
    if IP != NO_IPV4 {
        let identification = (pace.sequence as u16).to_be();
        headers[IP + IP_IDENTIFICATION] = identification;
        headers[IP + IP_CHECKSUM] = !fold(template.ip_sum + u32::from(identification));
    }
    let words = [
        MAGIC,
        (pace.sequence as u16).to_be(),
        pace.sequence as u16,
        (pace.sequence >> 16) as u16,
        pace.flow as u16,
        (pace.flow >> 16) as u16,
        (pace.sequence >> 32) as u16,
        (pace.sequence >> 48) as u16,
        now as u16,
        (now >> 16) as u16,
        (now >> 32) as u16,
        (now >> 48) as u16,
    ];
    *stamp = words;
    let mut sum = template.udp_sum;
    for word in words {
        sum += u32::from(word);
    }
    // The UDP checksum is the last word of the headers.
    headers[HEADERS - 1] = match !fold(sum) {
        // 0 would mean that there is no checksum.
        0 => 0xffff,
        checksum => checksum,
    };
}

/// The ones' complement sum in 16 bits.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}
