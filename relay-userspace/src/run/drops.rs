//! What the kernel drops in front of the workers.
//!
//! AF_XDP sockets count since they were bound, packet sockets since they were last asked. And a packet socket counts a
//! super-frame that it has no room for as one drop, while the socket filter had counted its datagrams.

use std::collections::BTreeSet;

use crate::{
    backend::{Receivers, sockopt},
    report::KernelDrops,
};

/// The drops of one worker's sockets since it began.
#[derive(Debug)]
pub struct KernelCounter {
    receivers: Receivers,
    sum: KernelDrops,
}

impl KernelCounter {
    /// Nothing yet.
    pub fn new(receivers: Receivers) -> Self {
        Self {
            receivers,
            sum: KernelDrops::default(),
        }
    }

    /// Asks the kernel. Once a socket is closed, what it said last stays.
    pub fn read(&mut self) {
        match &self.receivers {
            Receivers::Xdp(sockets) => {
                let mut sum = KernelDrops::default();
                for &socket in sockets {
                    let Ok(drops) = sockopt::drops(socket) else {
                        return;
                    };
                    sum.rx_ring_full += drops.rx_ring_full;
                    sum.rx_fill_ring_empty += drops.rx_fill_ring_empty;
                    sum.rx_dropped += drops.rx_dropped;
                }
                self.sum = sum;
            }
            Receivers::IoUring(socket) => {
                self.sum.rx_socket_full += sockopt::packet_drops(*socket).unwrap_or(0);
            }
        }
    }

    /// What is known.
    pub fn sum(&self) -> KernelDrops {
        self.sum
    }
}

/// One worker at the end.
#[derive(Debug)]
pub struct Input {
    /// The interface that it received from by a packet socket, a position in the plan.
    pub interface: Option<usize>,
    /// It ended in order, with everything read that had arrived.
    pub drained: bool,
    /// Datagrams that reached it.
    pub received: u64,
    /// What the kernel dropped in front of it.
    pub drops: KernelDrops,
}

/// Turns drops of packet sockets from super-frames into datagrams: once all workers of an interface have drained their
/// sockets, what the filter `redirected` and nobody received was dropped. Sockets that dropped nothing are left
/// alone, so that a frame lost elsewhere does not pass for one of these.
pub fn settle(inputs: &mut [Input], redirected: impl Fn(usize) -> u64) {
    let interfaces: BTreeSet<usize> = inputs.iter().filter_map(|i| i.interface).collect();
    for interface in interfaces {
        let mut mine: Vec<&mut Input> = inputs
            .iter_mut()
            .filter(|input| input.interface == Some(interface))
            .collect();
        let dropped: u64 = mine.iter().map(|input| input.drops.rx_socket_full).sum();
        if dropped == 0 || mine.iter().any(|input| !input.drained) {
            continue;
        }
        let received: u64 = mine.iter().map(|input| input.received).sum();
        let missing = redirected(interface).saturating_sub(received);
        // Which of them it was that dropped the rest nobody knows.
        if let Some(first) = mine.first_mut() {
            first.drops.rx_socket_full += missing.saturating_sub(dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    };

    use super::*;
    use crate::testing::{in_namespace, run};

    fn input(interface: Option<usize>, drained: bool, received: u64, dropped: u64) -> Input {
        Input {
            interface,
            drained,
            received,
            drops: KernelDrops {
                rx_socket_full: dropped,
                ..KernelDrops::default()
            },
        }
    }

    #[test]
    fn drops_of_super_frames_become_datagrams_once_all_workers_of_the_interface_have_drained() {
        /// Received, dropped, drained.
        type Worker = (u64, u64, bool);
        // What the filter redirected, the workers, and the drops that are then told.
        #[rustfmt::skip]
        let cases: &[(u64, &[Worker], u64)] = &[
            (100, &[(100, 0, true)], 0),
            (100, &[(90, 0, true)], 0),
            (100, &[(40, 2, true)], 60),
            (100, &[(97, 3, true)], 3),
            (100, &[(99, 3, true)], 3),
            (100, &[(40, 2, false)], 2),
            (100, &[(30, 0, true), (30, 1, true)], 40),
            (100, &[(30, 4, true), (30, 1, false)], 5),
        ];
        for (redirected, workers, expected) in cases {
            let mut inputs = vec![input(None, true, 7, 0), input(Some(3), true, 50, 0)];
            inputs.extend(
                workers
                    .iter()
                    .map(|&(r, d, drained)| input(Some(1), drained, r, d)),
            );
            settle(&mut inputs, |at| if at == 1 { *redirected } else { 1000 });
            let (others, mine) = inputs.split_at(2);
            assert!(others.iter().all(|i| i.drops.rx_socket_full == 0));
            let sum: u64 = mine.iter().map(|i| i.drops.rx_socket_full).sum();
            assert_eq!(sum, *expected, "{redirected} {workers:?}");
        }
    }

    #[test]
    fn drops_of_a_packet_socket_are_summed_up_although_the_kernel_begins_anew() {
        in_namespace(|| {
            run("ip link set lo up");
            let protocol = i32::from((libc::ETH_P_IP as u16).to_be());
            // SAFETY: the call has no pointers; its result is checked and owned by nobody else.
            let socket = unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol);
                assert!(fd >= 0);
                OwnedFd::from_raw_fd(fd)
            };
            sockopt::set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 1).unwrap();
            let mut counter = KernelCounter::new(Receivers::IoUring(socket.as_raw_fd()));
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
