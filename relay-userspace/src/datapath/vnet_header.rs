//! What a message on a packet socket begins with: the vnet header, which says how the kernel shall
//! treat the frame, and the frame's headers.

use relay_common::wire::{ETHERNET_LEN, IPV4_HEADERS_LEN, IPV4_LEN, udp::field as udp};

use crate::packet::Known;

const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;
const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;

/// The start of a message: `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), in the byte
/// order of the machine, and the headers of the frame.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct VnetHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    /// Ethernet, IPv4 and UDP.
    headers: Headers,
}

/// The headers of a frame.
pub type Headers = [u8; IPV4_HEADERS_LEN];

const _: () = assert!(size_of::<VnetHeader>() == 10 + IPV4_HEADERS_LEN);

impl VnetHeader {
    /// All zeros: the kernel changes nothing in the frame.
    pub const EMPTY: Self = Self {
        flags: 0,
        gso_type: VIRTIO_NET_HDR_GSO_NONE,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
        headers: [0; IPV4_HEADERS_LEN],
    };

    /// The bytes as the kernel reads them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the fields are plain numbers without gaps, as the assertion above says.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// Makes it the one of a frame that leaves as it is, and returns the frame's headers to write.
    #[inline]
    pub fn single(&mut self) -> &mut Headers {
        *self = Self::EMPTY;
        &mut self.headers
    }

    /// Makes it the one of a GSO packet of datagrams of `payload_len` bytes, of which the last may
    /// be shorter, and returns the packet's headers to write.
    #[inline]
    pub fn joined(&mut self, payload_len: u16) -> &mut Headers {
        self.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        self.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        self.hdr_len = IPV4_HEADERS_LEN as u16;
        self.gso_size = payload_len;
        self.csum_start = (ETHERNET_LEN + IPV4_LEN) as u16;
        self.csum_offset = udp::CHECKSUM.start as u16;
        &mut self.headers
    }
}

/// What the kernel says about a frame that a packet socket received, in the same
/// `struct virtio_net_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedVnetHeader {
    /// Whether the UDP checksum is that of the pseudo-header only, and whether the kernel found it
    /// right (`CHECKSUM_UNNECESSARY`, virtio_net_hdr_from_skb in include/linux/virtio_net.h).
    pub checksum: Known,
    /// Bytes of payload of each datagram in a GSO packet, 0 for any other frame; `None` for a GSO
    /// packet of anything but UDP datagrams.
    pub segment_len: Option<u16>,
}

impl ReceivedVnetHeader {
    /// Bytes in front of a frame.
    pub const LEN: usize = size_of::<VnetHeader>() - IPV4_HEADERS_LEN;

    /// Splits a received message into its vnet header and the frame.
    #[inline]
    #[must_use]
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let (vnet_header, frame) = message.split_first_chunk::<{ Self::LEN }>()?;
        let [flags, kind, _, _, low, high, ..] = *vnet_header;
        let told = Self {
            checksum: if flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
                Known::Partial
            } else if flags & VIRTIO_NET_HDR_F_DATA_VALID != 0 {
                Known::Right
            } else {
                Known::Complete
            },
            segment_len: match kind {
                VIRTIO_NET_HDR_GSO_NONE => Some(0),
                VIRTIO_NET_HDR_GSO_UDP_L4 => Some(u16::from_ne_bytes([low, high])),
                _ => None,
            },
        };
        Some((told, frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_of_a_checksum_is_believed() {
        let told = |flags| {
            let message = [&[flags, VIRTIO_NET_HDR_GSO_NONE][..], &[0; 8], b"frame"].concat();
            let (told, frame) = ReceivedVnetHeader::split(&message).unwrap();
            assert_eq!(frame, b"frame");
            told.checksum
        };
        assert_eq!(told(0), Known::Complete);
        assert_eq!(told(VIRTIO_NET_HDR_F_NEEDS_CSUM), Known::Partial);
        assert_eq!(told(VIRTIO_NET_HDR_F_DATA_VALID), Known::Right);
        let both = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
        assert_eq!(told(both), Known::Partial, "what is not there is not right");
    }
}
