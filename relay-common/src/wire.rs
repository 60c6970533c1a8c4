//! The one decoder: Ethernet, VLAN tags, IPv4, IPv6 and UDP, from bytes to fields and offsets.
//!
//! It runs in the kernel programs, where the verifier wants every read to be checked against the
//! end of the frame, and in user space on a slice. Both read through [`Bytes`], so there is one set
//! of rules. No input makes it panic or loop: it reads a fixed number of fields, each once.
//!
//! A frame is either a [`Datagram`], which the relay may forward, or the decoder names the one
//! reason, a [`Skip`], why the frame is left to the Linux stack. Two functions decode:
//!
//! - [`decode`] looks at the headers alone; [`decode_stripped`] does so where the kernel keeps the
//!   VLAN tag beside the frame.
//! - [`judge`] also looks at the addresses that the frame came with. The kernel programs do that
//!   for every frame, and user space need not repeat it. They take datagrams to hosts only on
//!   interfaces where a rule names one: nearly all other traffic of a host is of that kind.
//!
//! Each protocol has a file and a module of its own, and each of those a module `field` of named
//! ranges, in bytes from the start of its header:
//!
//! ```text
//!  0            14           34      42
//!  | ethernet   | ipv4       | udp   | payload ...       untagged
//!  | ethernet   | vlan | ipv4       | udp   | payload    each tag: 4 bytes more
//!  | ethernet   | ipv6                    | udp   | payload ...
//!  0            14                        54      62
//! ```
//!
//! # Example
//!
//! The named ranges serve for writing a frame, too:
//!
//! ```
//! use std::net::Ipv4Addr;
//!
//! use relay_common::wire::{
//!     self, ETHERNET_LEN, IPV4_HEADERS_LEN, IPV4_LEN, Skip, ethernet, ethertype, ipv4, udp,
//! };
//!
//! const PAYLOAD: &[u8] = b"hello";
//! let mut frame = [0; IPV4_HEADERS_LEN + PAYLOAD.len()];
//! frame[ethernet::field::DESTINATION].copy_from_slice(&[0x01, 0x00, 0x5e, 1, 1, 1]);
//! frame[ethernet::field::SOURCE].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
//! frame[ethernet::field::TYPE].copy_from_slice(&ethertype::IPV4.to_be_bytes());
//!
//! let ip = &mut frame[ETHERNET_LEN..];
//! ip[ipv4::field::VERSION_AND_LEN] = 0x45;
//! ip[ipv4::field::TOTAL_LEN].copy_from_slice(&33_u16.to_be_bytes());
//! ip[ipv4::field::TTL] = 16;
//! ip[ipv4::field::PROTOCOL] = ipv4::PROTOCOL_UDP;
//! ip[ipv4::field::CHECKSUM].copy_from_slice(&0xb0c7_u16.to_be_bytes());
//! ip[ipv4::field::SOURCE].copy_from_slice(&[10, 1, 0, 2]);
//! ip[ipv4::field::DESTINATION].copy_from_slice(&[239, 1, 1, 1]);
//!
//! let udp = &mut ip[IPV4_LEN..];
//! udp[udp::field::SOURCE_PORT].copy_from_slice(&40_000_u16.to_be_bytes());
//! udp[udp::field::DESTINATION_PORT].copy_from_slice(&5001_u16.to_be_bytes());
//! udp[udp::field::LEN].copy_from_slice(&13_u16.to_be_bytes());
//! frame[IPV4_HEADERS_LEN..].copy_from_slice(PAYLOAD);
//!
//! let datagram = wire::decode(&frame[..])?;
//! assert_eq!(datagram.group(), Ipv4Addr::new(239, 1, 1, 1));
//! assert_eq!((datagram.port, datagram.ttl), (5001, 16));
//! assert_eq!(&frame[datagram.payload()..datagram.end()], PAYLOAD);
//!
//! // Another protocol comes before the checksum that no longer fits.
//! let mut tcp = frame;
//! tcp[ETHERNET_LEN..][ipv4::field::PROTOCOL] = 6;
//! assert_eq!(wire::decode(&tcp[..]), Err(Skip::NotUdp));
//!
//! // A damaged header is never forwarded.
//! frame[ETHERNET_LEN..][ipv4::field::TTL] ^= 1;
//! assert_eq!(wire::decode(&frame[..]), Err(Skip::Malformed));
//! # Ok::<(), Skip>(())
//! ```

mod bytes;
mod datagram;
mod decode;
pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
mod judge;
mod layout;
mod skip;
#[cfg(test)]
mod tests;
pub mod udp;
pub mod vlan;

pub use self::{
    bytes::Bytes,
    datagram::{Addresses, Datagram},
    decode::{Kind, decode, decode_as, decode_stripped, kind},
    ethernet::{HEADER_LEN as ETHERNET_LEN, Mac, ethertype, mac},
    ipv4::HEADER_LEN as IPV4_LEN,
    ipv6::HEADER_LEN as IPV6_LEN,
    judge::{Verdict, judge, judge_all_for, judge_for},
    layout::Field,
    skip::Skip,
    udp::HEADER_LEN as UDP_LEN,
    vlan::{TAG_LEN as VLAN_LEN, Tag, Vlan},
};

/// Length of the headers in front of the payload of an untagged IPv4 datagram.
pub const IPV4_HEADERS_LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;
/// Length of the headers in front of the payload of an untagged IPv6 datagram.
pub const IPV6_HEADERS_LEN: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;
