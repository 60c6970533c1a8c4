//! Checksums that a sender has left to hardware that is not there, of a packet in the payload.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use super::*;
use crate::{host::packet_socket, packet::complete_checksum};

const IP: usize = 14;
const UDP: usize = IP + 20;
const PAYLOAD: usize = UDP + 8;

/// The frame of a datagram to the rule's group, with its own checksums, of UDP only if `summed`.
fn frame(payload: &[u8], summed: bool) -> Vec<u8> {
    let be = |number: usize| (number as u16).to_be_bytes();
    let udp_len = 8 + payload.len();
    let mut ip = [
        &[0x45, 0][..],
        &be(20 + udp_len),
        &[0, 0, 0x40, 0, 4, 17, 0, 0, 10, 1, 0, 2],
        &GROUP.octets(),
    ]
    .concat();
    complete_checksum(&mut ip, 10);
    let udp = [be(40_000), be(PORT.into()), be(udp_len), [0, 0]].concat();
    let mut frame = [1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 9, 8, 0].to_vec();
    frame.extend([&ip[..], &udp, payload].concat());
    if summed {
        let checksum = udp_checksum(&frame);
        frame[UDP + 6..PAYLOAD].copy_from_slice(&checksum);
    }
    frame
}

/// What the UDP checksum of a frame must be.
fn udp_checksum(frame: &[u8]) -> [u8; 2] {
    let udp_len = (frame.len() - UDP) as u16;
    let mut summed = frame[IP + 12..].to_vec();
    summed.extend(if udp_len.is_multiple_of(2) {
        &[][..]
    } else {
        &[0]
    });
    summed.extend([17, udp_len].map(u16::to_be_bytes).concat());
    let field = UDP + 6 - (IP + 12);
    summed[field..field + 2].fill(0);
    complete_checksum(&mut summed, field);
    [summed[field], summed[field + 1]]
}

/// A packet socket on an interface.
fn packet_socket_on(interface: &str, protocol: u16) -> OwnedFd {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: the text ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let socket = packet_socket::open().unwrap();
    packet_socket::bind(&socket, index, protocol).unwrap();
    let patience = TimeVal::new(5, 0);
    setsockopt(&socket, ReceiveTimeout, &patience).unwrap();
    socket
}

/// A tunnel has made the datagrams: the checksum of the packet in their payload is left to the
/// hardware, and their own one is made for the right one there, or there is none.
#[test]
fn a_partial_checksum_in_the_payload_is_completed_and_that_of_the_copy_fits() {
    const INNER: usize = 20;
    const FIELD: usize = 6;
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        let sender = packet_socket_on("va", 0);
        socket_options::set(
            sender.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            1,
        )
        .unwrap();
        let receiver = packet_socket_on("vb", libc::ETH_P_IP as u16);
        let as_sent: Vec<u8> = (0..91_u8).map(|n| n.wrapping_mul(7)).collect();
        let mut whole = as_sent.clone();
        complete_checksum(&mut whole[INNER..], FIELD);
        assert_ne!(whole, as_sent);
        for summed in [true, false] {
            let mut message = frame(&whole, summed);
            message[PAYLOAD..].copy_from_slice(&as_sent);
            let numbers = [0, 0, (PAYLOAD + INNER) as u16, FIELD as u16];
            let vnet_header = numbers.map(u16::to_ne_bytes).concat();
            let message = [&[1, 0][..], &vnet_header, &message].concat();
            nix::unistd::write(&sender, &message).unwrap();
            let before = bench.matched();
            let deadline = Instant::now() + Duration::from_secs(5);
            while bench.matched() == before || bench.worker.poll_once() {
                assert!(Instant::now() < deadline, "it does not arrive");
                bench.worker.poll_once();
            }
            for _ in 0..OUTPUTS {
                let mut copy = [0; 2000];
                let len = nix::unistd::read(&receiver, &mut copy).unwrap();
                let copy = &copy[..len];
                assert_eq!(copy[PAYLOAD..], whole, "a checksum of its own: {summed}");
                let checksum = &copy[UDP + 6..PAYLOAD];
                match summed {
                    true => assert_eq!(checksum, udp_checksum(copy)),
                    false => assert_eq!(checksum, [0, 0]),
                }
            }
        }
        bench.assert_all_buffers_provided();
    });
}
