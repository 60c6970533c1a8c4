//! Packet sockets of a host: sending any bytes as a frame, and keeping the frames that arrive.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::background::Background;
use crate::inspect::{self, Datagram};
use crate::receiver::QUIET;
use crate::sys::{self, Batch, Receives, VNET_HEADER};
use crate::veth::Endpoint;

/// Frames that a receiver keeps; later ones are counted only.
const FRAMES_KEPT: usize = 50_000;

/// Bytes of both Ethernet addresses.
const MACS: usize = 12;

/// Bytes of the longest GSO packet, with a vnet header in front.
pub(crate) const LONGEST: usize = 66_000;

/// Sends frames out of one interface.
#[derive(Debug)]
pub struct RawSender {
    socket: OwnedFd,
    interface: String,
}

impl RawSender {
    /// Opens a raw packet socket on the interface.
    pub fn open(endpoint: &Endpoint) -> Result<Self> {
        let socket = endpoint.packet_socket(Receives::Nothing)?;
        Ok(Self {
            socket,
            interface: endpoint.interface.clone(),
        })
    }

    /// Sends one frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        sys::send(self.socket.as_fd(), frame).with_context(|| {
            format!(
                "sending a frame of {} bytes on {}",
                frame.len(),
                self.interface
            )
        })
    }
}

/// One frame that arrived.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its bytes, without a VLAN tag.
    pub bytes: Vec<u8>,
    /// The tag that the frame had.
    pub vlan: Option<u16>,
    /// Its EtherType.
    pub tpid: u16,
    /// The checksum is still to be completed: only its pseudo-header is in it.
    pub partial_checksum: bool,
    /// Bytes of payload in each datagram of a GSO packet.
    pub segment: Option<usize>,
}

impl Frame {
    /// Its bytes as they were on the wire, with the tag in its place.
    pub fn on_the_wire(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some(vlan) = self.vlan
            && bytes.len() >= MACS
        {
            let tag = [self.tpid.to_be_bytes(), vlan.to_be_bytes()];
            bytes.splice(MACS..MACS, tag.into_iter().flatten());
        }
        bytes
    }

    /// The untagged, whole UDP datagrams in it: several if it is a GSO packet.
    pub fn datagrams(&self) -> Vec<Datagram> {
        match self.vlan {
            None => inspect::datagrams(&self.bytes, self.partial_checksum, self.segment),
            Some(_) => Vec::new(),
        }
    }
}

/// What a message of a packet socket with vnet headers has: bytes of payload in each datagram of a
/// GSO packet, and the frame.
pub(crate) fn split(message: &[u8]) -> (Option<usize>, &[u8]) {
    let (header, frame) = message
        .split_at_checked(VNET_HEADER)
        .unwrap_or((&[], message));
    let segment = match *header {
        [_, _, _, _, low, high, ..] => usize::from(u16::from_ne_bytes([low, high])),
        _ => 0,
    };
    ((segment > 0).then_some(segment), frame)
}

#[derive(Debug, Default)]
struct Frames {
    kept: Vec<Frame>,
    count: u64,
    socket_drops: u32,
}

/// Keeps every frame that arrives at one interface, in order.
#[derive(Debug)]
pub struct RawReceiver {
    background: Background<Frames>,
}

impl RawReceiver {
    /// Starts to listen.
    pub fn start(endpoint: &Endpoint) -> Result<Self> {
        let socket = endpoint.packet_socket(Receives::Arriving)?;
        sys::with_vnet_headers(socket.as_fd()).context("asking for vnet headers")?;
        let mut batch = Batch::new(64, LONGEST);
        let sockets = vec![socket];
        let background = Background::start(
            &endpoint.interface,
            sockets,
            Frames::default(),
            move |_, socket, frames| {
                let count = batch.receive(socket)?;
                let socket_drops = sys::socket_drops(socket)?;
                let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
                frames.socket_drops = socket_drops;
                for message in batch.messages() {
                    frames.count += 1;
                    if frames.kept.len() < FRAMES_KEPT {
                        let (segment, bytes) = split(message.bytes);
                        frames.kept.push(Frame {
                            bytes: bytes.to_vec(),
                            vlan: message.vlan,
                            tpid: message.tpid,
                            partial_checksum: message.partial_checksum,
                            segment,
                        });
                    }
                }
                Ok(count)
            },
        )?;
        Ok(Self { background })
    }

    /// Every frame so far. Fails if there were more than this receiver could keep: the test would
    /// count the others as lost.
    #[track_caller]
    pub fn frames(&self) -> Vec<Frame> {
        let left_out = self.background.with(|frames| {
            u64::from(frames.socket_drops) + frames.count - frames.kept.len() as u64
        });
        assert_eq!(left_out, 0, "frames that this receiver had no room for");
        self.background.with(|frames| frames.kept.clone())
    }

    /// Every untagged, whole UDP datagram so far, those in GSO packets too.
    pub fn datagrams(&self) -> Vec<Datagram> {
        self.frames().iter().flat_map(Frame::datagrams).collect()
    }

    /// Waits until at least `count` frames satisfy `wanted`; false after `timeout`.
    pub fn wait_for(
        &self,
        count: usize,
        timeout: Duration,
        wanted: impl Fn(&Frame) -> bool,
    ) -> bool {
        self.background.wait_until(timeout, |frames| {
            frames.kept.iter().filter(|f| wanted(f)).count() >= count
        })
    }

    /// Waits until the frames so far satisfy `condition`; false after `timeout`.
    pub fn wait_until(&self, timeout: Duration, condition: impl Fn(&[Frame]) -> bool) -> bool {
        self.background
            .wait_until(timeout, |frames| condition(&frames.kept))
    }

    /// Waits until nothing has arrived for [`QUIET`].
    pub fn settle(&self) {
        self.background.settle(QUIET, |frames| frames.count);
    }
}
