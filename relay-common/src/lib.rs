//! What the kernel programs and user space both compile: the [`wire`] decoder, the look-up of
//! [`matching`], and the map layouts of [`abi`].
//!
//! The kernel programs and the forwarding loops must agree on every frame, so there is one decoder
//! and one definition of every map key. Nothing here allocates, loops without a bound or panics.
//!
//! | module | what is in it |
//! |---|---|
//! | [`wire`] | from a frame's bytes to its [`Datagram`](wire::Datagram), or the [`Skip`](wire::Skip) that says why it is none; named ranges of all header fields |
//! | [`matching`] | from a datagram to the most specific flow that takes it: the look-up, its keys and values |
//! | [`abi`] | names, keys, values and sizes of the BPF maps, and what the programs count |
//!
//! | who compiles it | feature `user` |
//! |---|---|
//! | the XDP program and the socket filter (`relay-ebpf`) | no |
//! | the relay (`relay-userspace`) and the tests | yes: the map types implement `aya::Pod` |
//!
//! # Example
//!
//! What the XDP program does with a frame that arrives, before it looks for a flow:
//!
//! ```
//! use std::net::Ipv4Addr;
//!
//! use relay_common::{abi::Counter, wire};
//!
//! const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
//! let mut frame = [
//!     0x01, 0x00, 0x5e, 0x01, 0x01, 0x01, // to the group's Ethernet address
//!     0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, // from a host; IPv4
//!     0x45, 0x00, 0x00, 0x1f, 0x12, 0x34, 0x40, 0x00, 0x01, 0x11, 0x6d, 0x95, // UDP
//!     10, 1, 0, 2, 239, 1, 1, 1, // from 10.1.0.2 to 239.1.1.1
//!     0x9c, 0x40, 0x13, 0x89, 0x00, 0x0b, 0x00, 0x00, // from port 40000 to port 5001
//!     b'a', b'b', b'c',
//! ];
//!
//! let (datagram, _) = wire::judge(&frame[..], None, MAC)?;
//! assert_eq!(datagram.source(), Ipv4Addr::new(10, 1, 0, 2));
//! assert_eq!((datagram.group(), datagram.port), (Ipv4Addr::new(239, 1, 1, 1).into(), 5001));
//!
//! // Sent to another host: the frame goes to the Linux stack, and is counted under the reason.
//! frame[wire::ethernet::field::DESTINATION].copy_from_slice(&[0x02, 0, 0, 0, 0, 7]);
//! let skip = wire::judge(&frame[..], None, MAC).unwrap_err();
//! assert_eq!(Counter::from(skip), Counter::PassOtherMac);
//! # Ok::<(), wire::Skip>(())
//! ```
#![no_std]

pub mod abi;
pub mod matching;
pub mod wire;
