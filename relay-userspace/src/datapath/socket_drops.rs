//! Frames that the kernel drops in front of the workers: the kernel program matched them, and the
//! socket had no room for them.
//!
//! AF_XDP sockets count since they were bound, packet sockets since they were last asked. And a
//! packet socket counts a GSO packet that it has no room for as one drop, although the socket
//! filter has counted its datagrams.

use std::{io, os::fd::RawFd};

use crate::host::socket_options::get;

/// Frames that the kernel program matched and the kernel could not deliver (`XDP_STATISTICS`,
/// `PACKET_STATISTICS`), summed over a worker's sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelDrops {
    /// The RX ring was full: the worker is slower than the feed.
    pub rx_ring_full: u64,
    /// The FILL ring was empty: the worker is slower than the feed.
    pub rx_fill_ring_empty: u64,
    /// Any other reason, such as a frame larger than a chunk.
    pub rx_dropped: u64,
    /// The packet socket's buffer was full: the worker is slower than the feed.
    pub rx_socket_full: u64,
}

impl KernelDrops {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.rx_ring_full + self.rx_fill_ring_empty + self.rx_dropped + self.rx_socket_full
    }

    /// Adds those of other sockets.
    pub fn add(&mut self, others: Self) {
        self.rx_ring_full += others.rx_ring_full;
        self.rx_fill_ring_empty += others.rx_fill_ring_empty;
        self.rx_dropped += others.rx_dropped;
        self.rx_socket_full += others.rx_socket_full;
    }
}

/// The drops of one worker's sockets since it began.
#[derive(Debug)]
pub struct SocketCounter {
    /// Its AF_XDP sockets that receive, each with its last answer.
    xdp: Vec<(RawFd, KernelDrops)>,
    /// The packet socket that it receives from.
    packet: Option<RawFd>,
    /// The drops of AF_XDP sockets that are closed, and of the packet socket.
    sum: KernelDrops,
}

impl SocketCounter {
    /// A counter of a worker that receives from this packet socket, if from one, and from no AF_XDP
    /// sockets yet. It has read nothing.
    pub fn new(packet: Option<RawFd>) -> Self {
        Self {
            xdp: Vec::new(),
            packet,
            sum: KernelDrops::default(),
        }
    }

    /// Asks the kernel. Once a socket is closed, its last answer stays.
    pub fn read(&mut self) {
        for (socket, last) in &mut self.xdp {
            if let Ok(drops) = of_xdp(*socket) {
                *last = drops;
            }
        }
        let packet = self.packet.map(packet_drops);
        self.sum.rx_socket_full += packet.and_then(Result::ok).unwrap_or(0);
    }

    /// From now on the worker's AF_XDP sockets are these. To be called before one is closed that is
    /// not among them, and after one was opened: descriptors are given to others again.
    pub fn follow(&mut self, now: &[RawFd]) {
        self.read();
        for (_, last) in self.xdp.extract_if(.., |(socket, _)| !now.contains(socket)) {
            self.sum.add(last);
        }
        for &socket in now {
            if !self.xdp.iter().any(|(known, _)| *known == socket) {
                self.xdp.push((socket, KernelDrops::default()));
            }
        }
    }

    /// The drops as last read.
    pub fn sum(&self) -> KernelDrops {
        let mut sum = self.sum;
        self.xdp.iter().for_each(|(_, last)| sum.add(*last));
        sum
    }
}

/// The frames that the kernel dropped in front of the AF_XDP socket since it was bound, each under
/// one reason.
///
/// In copy mode the kernel counts a frame that found the FILL ring empty twice, as dropped and as
/// an empty ring (`__xsk_rcv` and `__xp_alloc`, net/xdp). In zero copy an empty ring is a driver's
/// attempt to refill, and no frame. So an empty ring is the reason for at most as many frames as
/// were dropped.
///
/// # Errors
///
/// The error of the system call.
pub fn of_xdp(socket: RawFd) -> io::Result<KernelDrops> {
    // struct xdp_statistics of Linux 5.9; three of its counters are not about received frames.
    let [dropped, _, _, rx_ring_full, fill_ring_empty, _]: [u64; 6] =
        get(socket, libc::SOL_XDP, libc::XDP_STATISTICS)?;
    let rx_fill_ring_empty = fill_ring_empty.min(dropped);
    Ok(KernelDrops {
        rx_ring_full,
        rx_fill_ring_empty,
        rx_dropped: dropped - rx_fill_ring_empty,
        rx_socket_full: 0,
    })
}

/// The frames that a packet socket dropped since the last call: the kernel starts from zero again
/// after every answer. A GSO packet counts once.
///
/// # Errors
///
/// The error of the system call.
fn packet_drops(socket: RawFd) -> io::Result<u64> {
    // struct tpacket_stats: packets, with the drops among them, and drops.
    let [_, drops]: [u32; 2] = get(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok(drops.into())
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    };

    use super::*;
    use crate::{
        host::socket_options,
        testing::{in_namespace, run},
    };

    #[test]
    fn drops_of_a_packet_socket_are_summed_up_although_the_kernel_begins_anew() {
        in_namespace(|| {
            run("ip link set lo up");
            let protocol = i32::from((libc::ETH_P_IP as u16).to_be());
            // SAFETY: the call has no pointers; its result is checked and has no other owner.
            let socket = unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol);
                assert!(fd >= 0);
                OwnedFd::from_raw_fd(fd)
            };
            socket_options::set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 1).unwrap();
            let mut counter = SocketCounter::new(Some(socket.as_raw_fd()));
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut flood = || {
                for _ in 0..100 {
                    sender.send_to(&[0; 1000], "127.0.0.1:5001").unwrap();
                }
                counter.read();
                counter.sum().rx_socket_full
            };
            let first = flood();
            assert!((90..=200).contains(&first), "{first}");
            let second = flood();
            assert!(second >= first + 100, "{first} and then {second}");
        });
    }
}
