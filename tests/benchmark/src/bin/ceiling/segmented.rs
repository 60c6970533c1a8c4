//! AF_PACKET with UDP segmentation: `sendmmsg` sends one GSO packet per output, which the kernel or
//! the next hop cuts.
//!
//! The payloads are the same memory for all outputs, so user space copies nothing; the only copy is
//! the one that the kernel makes for each output.

use std::{
    collections::BTreeMap,
    ffi::c_int,
    mem,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use relay_bench::{ceiling::Measured, job::Output, peer::BUFFER, programs::abi::HEADERS_LEN};
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, ipv4, udp};
use relay_tests::sys::{self, Receives};

use crate::{frame, measure::measure};

/// Options of packet sockets (linux/if_packet.h).
const PACKET_VNET_HDR: c_int = 15;
const PACKET_QDISC_BYPASS: c_int = 20;

/// `struct virtio_net_hdr` (linux/virtio_net.h).
const VNET_HEADER_LEN: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_UDP_L4: u8 = 5;

/// Where the headers start.
const IP: usize = ETHERNET_LEN;
const UDP: usize = ETHERNET_LEN + IPV4_LEN;

/// The port of the discard service (RFC 863), which no sink counts.
const DISCARD: u16 = 9;

/// The most bytes of payload of an IPv4 datagram, and so of a GSO packet.
const MAX_PAYLOAD: usize = 65_507;

type Headers = [u8; VNET_HEADER_LEN + HEADERS_LEN];

/// Transmits GSO packets to all `outputs`, as fast as possible. Counts the frames that they are cut
/// into.
pub fn transmit(
    outputs: &[Output],
    payload: usize,
    joined: usize,
    time: Duration,
) -> Result<Measured> {
    ensure!(
        joined > 0 && payload * joined <= MAX_PAYLOAD,
        "{joined} payloads of {payload} bytes do not make one GSO packet of at most {MAX_PAYLOAD} \
         bytes"
    );
    let mut payloads = vec![vec![0u8; payload]; joined];
    let mut links: BTreeMap<&str, (OwnedFd, Vec<Headers>)> = BTreeMap::new();
    for output in outputs {
        let headers = headers(output, payload, joined)?;
        match links.get_mut(output.interface.as_str()) {
            Some((_, list)) => list.push(headers),
            None => {
                let socket = open(&output.interface)?;
                choose_way(&socket, output, &mut payloads)?;
                links.insert(&output.interface, (socket, vec![headers]));
            }
        }
    }
    let mut sequence = 0;
    measure(time, || {
        for payload in &mut payloads {
            frame::set_stamp(payload, sequence);
            sequence += 1;
        }
        let mut sent = 0;
        for (socket, headers) in links.values_mut() {
            sent += send(socket, headers, &mut payloads)?;
        }
        Ok((sent * joined) as u64)
    })
}

fn open(interface: &str) -> Result<OwnedFd> {
    let opened = || -> Result<OwnedFd> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let socket = sys::packet_socket(index, Receives::Nothing)?;
        let one: c_int = 1;
        for option in [PACKET_VNET_HDR, PACKET_QDISC_BYPASS] {
            sys::set_option(socket.as_fd(), libc::SOL_PACKET, option, &one)?;
        }
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
        Ok(socket)
    };
    opened().with_context(|| format!("opening a packet socket on {interface}"))
}

/// Switches the qdisc bypass off where nothing leaves with it: the bypass does not cut GSO packets,
/// and neither does the device if the next hop has an XDP program. Without the bypass the kernel
/// cuts them.
fn choose_way(socket: &OwnedFd, output: &Output, payloads: &mut [Vec<u8>]) -> Result<()> {
    let no_receiver = Output {
        port: DISCARD,
        ..output.clone()
    };
    let probe = headers(&no_receiver, payloads[0].len(), payloads.len())?;
    if send(socket, &mut [probe], payloads)? == 0 {
        let off: c_int = 0;
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_QDISC_BYPASS, &off)
            .context("taking the bypass off")?;
    }
    Ok(())
}

/// The vnet header and the headers in front of the payloads of every GSO packet to `output`.
fn headers(output: &Output, payload: usize, joined: usize) -> Result<Headers> {
    let mut frame = frame::build(output, payload * joined)?;
    frame.truncate(HEADERS_LEN);
    // The kernel completes each segment's checksum, beginning with the sum of the pseudo-header.
    let udp_len = &frame[UDP..][udp::field::LEN];
    let addresses = frame[IP..][ipv4::field::ADDRESSES].chunks_exact(2);
    let words = addresses.chain([udp_len]);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    sum += u32::from(ipv4::PROTOCOL_UDP);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    frame[UDP..][udp::field::CHECKSUM].copy_from_slice(&(sum as u16).to_be_bytes());

    let gso_type = if joined > 1 { GSO_UDP_L4 } else { GSO_NONE };
    // hdr_len, gso_size, csum_start and csum_offset.
    let numbers = [HEADERS_LEN, payload, UDP, udp::field::CHECKSUM.start];
    let numbers = numbers.map(|number| (number as u16).to_ne_bytes());
    let mut headers = [0; VNET_HEADER_LEN + HEADERS_LEN];
    let bytes = [&[NEEDS_CHECKSUM, gso_type], numbers.as_flattened(), &frame].concat();
    headers.copy_from_slice(&bytes);
    Ok(headers)
}

/// Sends the payloads once after each of the headers; returns how many GSO packets the kernel took.
fn send(socket: &OwnedFd, headers: &mut [Headers], payloads: &mut [Vec<u8>]) -> Result<usize> {
    let per_message = 1 + payloads.len();
    let vector = |bytes: &mut [u8]| libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut vectors = Vec::with_capacity(per_message * headers.len());
    for header in headers {
        vectors.push(vector(header));
        vectors.extend(payloads.iter_mut().map(|payload| vector(payload)));
    }
    let mut messages: Vec<libc::mmsghdr> = vectors
        .chunks_exact_mut(per_message)
        .map(|vectors| {
            // SAFETY: all-zero bytes are a valid `mmsghdr`.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = vectors.as_mut_ptr();
            message.msg_hdr.msg_iovlen = vectors.len();
            message
        })
        .collect();
    // SAFETY: every message leads to its own part of `vectors`, and those to `headers` and
    // `payloads` with the lengths beside them; all of them outlive the call, which only reads.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as u32,
            0,
        )
    };
    match usize::try_from(sent) {
        Ok(sent) => Ok(sent),
        Err(_) => match std::io::Error::last_os_error() {
            // The next hop had no room.
            error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
            error => Err(error).context("sending GSO packets"),
        },
    }
}
