//! A sender whose datagrams leave as frames with VLAN tags in their bytes, with partial checksums,
//! or many in one GSO packet: as a host with a VLAN device on a NIC without VLAN offload sends
//! them. The kernel of the testbed need not have VLAN devices.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use crate::encapsulation::Tag;
use crate::frames::{Checksum, UdpFrame};
use crate::sys::{self, Receives, VNET_HEADER};
use crate::veth::Endpoint;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, `VIRTIO_NET_HDR_GSO_UDP_L4` (linux/virtio_net.h).
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;
/// Where the checksum is in a UDP header, and its length.
const CHECKSUM: u16 = 6;
const UDP_LEN: usize = 8;

/// Sends datagrams of one host and port.
#[derive(Debug)]
pub struct TaggedSender {
    socket: OwnedFd,
    from: Endpoint,
    tags: Vec<Tag>,
    source_port: u16,
    /// Bytes of payload in each datagram that a larger one is cut into; 0 if none is.
    segment: AtomicUsize,
    /// Datagrams so far.
    sent: AtomicUsize,
}

impl TaggedSender {
    /// Opens the socket on the interface.
    pub fn open(from: &Endpoint, tags: &[Tag], source_port: u16) -> Result<Self> {
        let socket = from.packet_socket(Receives::Nothing)?;
        sys::with_vnet_headers(socket.as_fd()).context("asking for vnet headers")?;
        Ok(Self {
            socket,
            from: from.clone(),
            tags: tags.to_vec(),
            source_port,
            segment: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
        })
    }

    /// The next datagram is the one with this number: IPv4 datagrams have it as identification.
    pub fn start_at(&self, number: usize) {
        self.sent.store(number, Ordering::Relaxed);
    }

    /// From now on the kernel or the device cuts what is sent into datagrams of `size` bytes; 0
    /// ends that.
    pub fn cut_into(&self, size: usize) {
        self.segment.store(size, Ordering::Relaxed);
    }

    /// Sends one datagram, or as many as it is cut into.
    pub fn send_one(&self, group: IpAddr, port: u16, payload: &[u8]) -> Result<()> {
        let segment = self.segment.load(Ordering::Relaxed);
        let is_cut = segment > 0 && payload.len() > segment;
        let count = if is_cut {
            payload.len().div_ceil(segment)
        } else {
            1
        };
        let mut frame = UdpFrame::new(&self.from, group, port, payload.to_vec());
        frame.tags.clone_from(&self.tags);
        frame.source_port = self.source_port;
        frame.identification = self.sent.fetch_add(count, Ordering::Relaxed) as u16;
        frame.checksum = Checksum::LikePartial;
        let udp = frame.udp_start();
        let header_len = u16::try_from(udp + UDP_LEN).context("length of the headers")?;
        let (kind, size) = match is_cut {
            true => (GSO_UDP_L4, u16::try_from(segment).context("payload size")?),
            false => (0, 0),
        };
        let mut bytes = Vec::with_capacity(VNET_HEADER + usize::from(header_len) + payload.len());
        bytes.extend([NEEDS_CSUM, kind]);
        for word in [header_len, size, udp as u16, CHECKSUM] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(frame.build()?);
        match sys::send(self.socket.as_fd(), &bytes) {
            // A UDP socket does not tell either that the device has dropped it.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            result => result.with_context(|| {
                let (len, by) = (payload.len(), &self.from.interface);
                format!("sending {len} bytes to {group}:{port} by {by}")
            }),
        }
    }
}
