//! What the kernel program leaves to the network stack: a packet socket beside it, whose frames are
//! judged as the program judges them.
//!
//! On XDP the socket gets what the program passed and nothing else: what it redirects or drops never
//! reaches the stack. On io_uring the stack gets every frame, so those that the relay takes are left
//! out here.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use relay_common::wire::{Tag, VLAN_LEN, ethernet::field as ethernet};

use super::judge::Judge;
use crate::{
    datapath::tap::record::{ALIGN, Header, MOST, Way},
    host::{
        packet_socket::{self, Received},
        socket_options,
    },
    plan::Interface,
};

/// Bytes that wait in the socket, at most.
const BUFFER: libc::c_int = 8 << 20;

/// By what frames are judged. The main thread replaces it when another plan runs.
#[derive(Debug, Clone)]
pub struct Judging(Arc<Mutex<Judge>>);

impl Judging {
    /// By this judge.
    pub fn new(judge: Judge) -> Self {
        Self(Arc::new(Mutex::new(judge)))
    }

    /// By another one from now on.
    pub fn set(&self, judge: Judge) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = judge;
    }
}

/// The frames of an input that the stack got.
#[derive(Debug)]
pub struct Passed {
    socket: OwnedFd,
    judging: Judging,
    /// Room for a frame.
    room: Box<[u8]>,
    lost: u64,
}

impl Passed {
    /// From now on.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open(input: &Interface, judging: Judging) -> io::Result<Self> {
        let socket = packet_socket::open()?;
        packet_socket::tell_all(&socket)?;
        socket_options::set_receive_buffer(socket.as_raw_fd(), BUFFER);
        packet_socket::bind(&socket, input.index, libc::ETH_P_ALL as u16)?;
        Ok(Self {
            socket,
            judging,
            room: vec![0; MOST].into(),
            lost: 0,
        })
    }

    /// Readable while frames wait.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Appends records to `to`, of all frames that wait, but about `most` bytes.
    pub fn read(&mut self, to: &mut Vec<u8>, most: usize) {
        let end = to.len().saturating_add(most);
        let mut judge = self
            .judging
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while to.len() < end {
            let Ok(received) = packet_socket::receive(&self.socket, &mut self.room) else {
                return;
            };
            let Received { len, tag, time } = received;
            let frame = self.room.get(..len).unwrap_or_default();
            let tag = tag.map(|(tpid, tci)| Tag { tpid, tci });
            let Some(counter) = judge.of(frame, tag) else {
                continue;
            };
            let (macs, rest) = frame.split_at(ethernet::SOURCE.end.min(frame.len()));
            let tag = tag.map(|Tag { tpid, tci }| {
                let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
                [a, b, c, d]
            });
            let header = Header {
                len: (len + tag.map_or(0, |_| VLAN_LEN)) as u32,
                time,
                way: Some(Way::Passed),
                why: counter as u8,
                at: 0,
                lost_in: 0,
                lost_out: 0,
            };
            to.extend_from_slice(&header.bytes());
            to.extend_from_slice(macs);
            to.extend(tag.into_iter().flatten());
            to.extend_from_slice(rest);
            to.resize(to.len().next_multiple_of(ALIGN), 0);
        }
    }

    /// Frames that found no room in the socket.
    pub fn lost(&mut self) -> u64 {
        self.lost += packet_socket::dropped(&self.socket).unwrap_or(0);
        self.lost
    }
}
