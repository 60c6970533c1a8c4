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
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, ipv4, udp};

use crate::abi::{
    FRAME_WORDS, HEADER_WORDS, INTERVAL_FRACTION_BITS, MAGIC, MAX_FLOWS, Pace, Template,
};

#[map]
static PACE: Array<Pace> = Array::with_max_entries(1, 0);

#[map]
static TEMPLATES: Array<Template> = Array::with_max_entries(MAX_FLOWS, 0);

/// Words of the frame that differ from its flow's template.
const IP_IDENTIFICATION: usize = (ETHERNET_LEN + ipv4::field::ID.start) / 2;
const IP_CHECKSUM: usize = (ETHERNET_LEN + ipv4::field::CHECKSUM.start) / 2;
const UDP_CHECKSUM: usize = (ETHERNET_LEN + IPV4_LEN + udp::field::CHECKSUM.start) / 2;
/// How often one wait reads the clock at most (`BPF_MAX_LOOPS`): a sixth of a second or more.
const MOST_LOOKS: u32 = 1 << 23;
/// A generator that is later than this skips the frames that it missed: it must not send them in a
/// burst.
const GIVE_UP_NS: u64 = 100_000;

/// The entry point.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    next_frame(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn next_frame(ctx: &XdpContext) -> Option<u32> {
    // SAFETY: only this program uses the value during a run, on one CPU.
    let pace = unsafe { &mut *PACE.get_ptr_mut(0)? };
    let template = TEMPLATES.get(pace.flow)?;
    let start = ctx.data();
    if start + FRAME_WORDS * 2 > ctx.data_end() {
        return None;
    }
    // SAFETY: the frame is long enough, as was just checked, and the kernel aligns it to more than
    // two bytes.
    let frame = unsafe { &mut *(start as *mut [u16; FRAME_WORDS]) };
    if pace.in_batch == 0 {
        wait_until_due(pace);
    }
    pace.in_batch += 1;
    if pace.in_batch >= pace.batch {
        pace.in_batch = 0;
    }
    write(frame, template, pace);
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
fn write(frame: &mut [u16; FRAME_WORDS], template: &Template, pace: &mut Pace) {
    let identification = (pace.sequence as u16).to_be();
    let now = now_ns();
    pace.last_ns = now;
    frame[..HEADER_WORDS].copy_from_slice(&template.headers);
    frame[IP_IDENTIFICATION] = identification;
    frame[IP_CHECKSUM] = !fold(template.ip_sum + u32::from(identification));
    let words = [
        MAGIC as u16,
        (MAGIC >> 16) as u16,
        pace.flow as u16,
        (pace.flow >> 16) as u16,
        pace.sequence as u16,
        (pace.sequence >> 16) as u16,
        (pace.sequence >> 32) as u16,
        (pace.sequence >> 48) as u16,
        now as u16,
        (now >> 16) as u16,
        (now >> 32) as u16,
        (now >> 48) as u16,
    ];
    frame[HEADER_WORDS..].copy_from_slice(&words);
    let mut sum = template.udp_sum;
    for word in &words[4..] {
        sum += u32::from(*word);
    }
    frame[UDP_CHECKSUM] = match !fold(sum) {
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
