//! Frames that look like the traffic of a rule and are broken, each in one way.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::frames::{ETHERNET_LEN, UdpFrame};
use crate::payload::payload;
use crate::veth::Endpoint;

const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// Where fields are in an IPv4 header.
mod ipv4 {
    use std::ops::Range;

    pub const VERSION_AND_LEN: usize = 0;
    pub const TOTAL_LEN: Range<usize> = 2..4;
    pub const CHECKSUM: Range<usize> = 10..12;
}

/// Where fields are in a UDP header.
mod udp {
    use std::ops::Range;

    pub const LEN: Range<usize> = 4..6;
}

/// `frame` with `change` and a right IPv4 checksum after it, so that it has no other fault.
fn with_right_header(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    let ip = &mut frame[ETHERNET_LEN..];
    let words = (usize::from(ip[ipv4::VERSION_AND_LEN] & 0x0f) * 2).min(ip.len() / 2);
    ip[ipv4::CHECKSUM].fill(0);
    let mut sum = 0u32;
    for word in ip.chunks_exact(2).take(words) {
        sum += u32::from(word[0]) << 8 | u32::from(word[1]);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    ip[ipv4::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Frames of `from` that look like datagrams to `group`:`port` and are broken, each in one way, with
/// what is broken.
pub fn malformed(from: &Endpoint, group: Ipv4Addr, port: u16) -> Result<Vec<(String, Vec<u8>)>> {
    let good = UdpFrame::new(from, group, port, payload(99, 0, 40));
    let whole = good.build()?;
    let tagged = UdpFrame {
        tags: vec![(0x8100, 3)],
        ..good.clone()
    }
    .build()?;
    let mut cases = Vec::new();
    // A packet socket does not send less than an Ethernet header.
    for length in ETHERNET_LEN..whole.len() {
        cases.push((format!("cut at byte {length}"), whole[..length].to_vec()));
    }
    for length in ETHERNET_LEN..tagged.len() {
        cases.push((
            format!("tagged, cut at byte {length}"),
            tagged[..length].to_vec(),
        ));
    }
    let right = whole.len() as u16 - ETHERNET_LEN as u16;
    for total in [0, 1, 19, 20, 27, right - 1, right + 1, 1500, u16::MAX] {
        let frame = with_right_header(whole.clone(), |f| {
            f[ETHERNET_LEN..][ipv4::TOTAL_LEN].copy_from_slice(&total.to_be_bytes());
        });
        cases.push((format!("IP total length {total}"), frame));
    }
    let right = right - IPV4_LEN as u16;
    for length in [0, 1, UDP_LEN as u16 - 1, right + 1, 1480, u16::MAX] {
        let mut frame = whole.clone();
        frame[ETHERNET_LEN + IPV4_LEN..][udp::LEN].copy_from_slice(&length.to_be_bytes());
        cases.push((format!("UDP length {length}"), frame));
    }
    for first in (0..=255u8).filter(|first| *first != 0x45) {
        let frame = with_right_header(whole.clone(), |f| {
            f[ETHERNET_LEN..][ipv4::VERSION_AND_LEN] = first;
        });
        cases.push((format!("version and header length {first:#04x}"), frame));
    }
    let mut frame = whole.clone();
    frame[ETHERNET_LEN..][ipv4::CHECKSUM][0] ^= 0x40;
    cases.push(("wrong IP header checksum".to_owned(), frame));
    // Random bytes after the Ethernet header, or after the first bytes of the IP header.
    for n in 0..200u64 {
        let mut frame = payload(1000, n, 20 + (n as usize * 7) % 1400);
        let kept = if n % 2 == 0 {
            ETHERNET_LEN
        } else {
            ETHERNET_LEN + ipv4::CHECKSUM.start
        };
        frame.splice(..kept.min(frame.len()), whole[..kept].iter().copied());
        cases.push((format!("random bytes, number {n}"), frame));
    }
    Ok(cases)
}
