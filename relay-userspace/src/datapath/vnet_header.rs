//! What a message on a packet socket begins with: the vnet header, which says how the kernel shall
//! treat the frame, and the frame's headers.

use std::mem::offset_of;

use relay_common::wire::{UDP_LEN, udp::field as udp};

use crate::packet::{HEADERS_ROOM, Known};

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
    /// Ethernet, IP and UDP.
    headers: [u8; HEADERS_ROOM],
}

const _: () = assert!(offset_of!(VnetHeader, headers) == ReceivedVnetHeader::LEN);

impl VnetHeader {
    /// All zeros: the kernel changes nothing in the frame.
    pub const EMPTY: Self = Self {
        flags: 0,
        gso_type: VIRTIO_NET_HDR_GSO_NONE,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
        headers: [0; HEADERS_ROOM],
    };

    /// The first `len` bytes, as the kernel reads them.
    pub fn bytes(&self, len: usize) -> &[u8] {
        let len = len.min(ReceivedVnetHeader::LEN + HEADERS_ROOM);
        // SAFETY: the fields are plain numbers, without gaps up to the end of the headers, as the
        // assertion above says.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), len) }
    }

    /// Makes it the one of a frame that leaves as it is. `write` writes the headers and returns
    /// their length. Returns how many bytes the kernel reads, from the start on.
    #[inline]
    pub fn single(&mut self, write: impl FnOnce(&mut [u8; HEADERS_ROOM]) -> usize) -> usize {
        self.flags = 0;
        self.gso_type = VIRTIO_NET_HDR_GSO_NONE;
        self.hdr_len = 0;
        self.gso_size = 0;
        self.csum_start = 0;
        self.csum_offset = 0;
        ReceivedVnetHeader::LEN + write(&mut self.headers)
    }

    /// Makes it the one of a frame as it arrived, with these headers, which end with a UDP header.
    /// If the checksum `is_partial`, the kernel takes it for that, and for right. Returns as
    /// [`Self::single`].
    #[inline]
    pub fn as_received(&mut self, headers: &[u8], is_partial: bool) -> usize {
        let len = self.single(|room| {
            let len = headers.len().min(room.len());
            for (to, from) in room.iter_mut().zip(headers) {
                *to = *from;
            }
            len
        });
        if is_partial {
            self.ask_for_checksum(headers.len());
        }
        len
    }

    /// Makes it the one of a GSO packet of datagrams of `payload_len` bytes, of which the last may
    /// be shorter. `write` writes the headers and returns their length. Returns how many bytes the
    /// kernel reads, from the start on.
    #[inline]
    pub fn joined(
        &mut self,
        payload_len: u16,
        write: impl FnOnce(&mut [u8; HEADERS_ROOM]) -> usize,
    ) -> usize {
        let headers_len = write(&mut self.headers);
        self.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        self.hdr_len = headers_len as u16;
        self.gso_size = payload_len;
        self.ask_for_checksum(headers_len);
        ReceivedVnetHeader::LEN + headers_len
    }

    /// Makes the kernel complete the checksum of a UDP header that ends with the headers.
    #[inline]
    fn ask_for_checksum(&mut self, headers_len: usize) {
        self.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        self.csum_start = headers_len.saturating_sub(UDP_LEN) as u16;
        self.csum_offset = udp::CHECKSUM.start as u16;
    }
}

/// What the kernel says about a frame that a packet socket received, in the same
/// `struct virtio_net_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedVnetHeader {
    /// Whether a checksum is partial, and whether the kernel found that of UDP right
    /// (`CHECKSUM_UNNECESSARY`, virtio_net_hdr_from_skb in include/linux/virtio_net.h).
    pub checksum: Known,
    /// If one is partial: where in the frame what it covers begins, and where its field is from
    /// there on.
    partial: [u16; 2],
    /// Bytes of payload of each datagram in a GSO packet, 0 for any other frame; `None` for a GSO
    /// packet of anything but UDP datagrams.
    pub segment_len: Option<u16>,
}

impl ReceivedVnetHeader {
    /// Bytes in front of a frame.
    pub const LEN: usize = 10;

    /// Splits a received message into its vnet header and the frame.
    #[inline]
    #[must_use]
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let (vnet_header, frame) = message.split_first_chunk::<{ Self::LEN }>()?;
        let [flags, kind, _, _, low, high, start, start_, field, field_] = *vnet_header;
        let told = Self {
            checksum: if flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
                Known::Partial
            } else if flags & VIRTIO_NET_HDR_F_DATA_VALID != 0 {
                Known::Right
            } else {
                Known::Complete
            },
            partial: [
                u16::from_ne_bytes([start, start_]),
                u16::from_ne_bytes([field, field_]),
            ],
            segment_len: match kind {
                VIRTIO_NET_HDR_GSO_NONE => Some(0),
                VIRTIO_NET_HDR_GSO_UDP_L4 => Some(u16::from_ne_bytes([low, high])),
                _ => None,
            },
        };
        Some((told, frame))
    }

    /// Whether the parts of a GSO packet are those of the UDP datagram at `udp`. A tunnel wraps GSO
    /// packets, too: those are cut inside of its datagram.
    #[inline]
    #[must_use]
    pub fn is_cut_at(&self, udp: usize) -> bool {
        self.checksum != Known::Partial || usize::from(self.partial[0]) == udp
    }

    /// Where a checksum is partial in the payload of a frame that is no GSO packet, whose own
    /// checksum then is complete: the payload is a packet itself, which a tunnel has wrapped and
    /// whose checksum the sender has left to the hardware. `payload` is where the payload begins.
    #[inline]
    #[must_use]
    pub fn partial_inside(&self, payload: usize) -> Option<Partial> {
        let [start, field] = self.partial.map(usize::from);
        let is_inside = self.checksum == Known::Partial && start >= payload;
        (is_inside && self.segment_len == Some(0)).then_some(Partial { start, field })
    }
}

/// Where in a frame a checksum is partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Where what it covers begins.
    pub start: usize,
    /// Where its field is, from there on.
    pub field: usize,
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

    #[test]
    fn a_partial_checksum_is_that_of_udp_unless_what_it_covers_begins_in_the_payload() {
        let inside = |flags, kind, start: u16, payload| {
            let (start, field) = (start.to_ne_bytes(), 16_u16.to_ne_bytes());
            let message = [&[flags, kind, 0, 0, 100, 0][..], &start, &field].concat();
            let (told, _) = ReceivedVnetHeader::split(&message).unwrap();
            told.partial_inside(payload)
        };
        let none = VIRTIO_NET_HDR_GSO_NONE;
        let found = inside(VIRTIO_NET_HDR_F_NEEDS_CSUM, none, 84, 42);
        let wanted = Partial {
            start: 84,
            field: 16,
        };
        assert_eq!(found, Some(wanted));
        assert_eq!(inside(VIRTIO_NET_HDR_F_NEEDS_CSUM, none, 34, 42), None);
        assert_eq!(inside(VIRTIO_NET_HDR_F_DATA_VALID, none, 84, 42), None);
        let joined = VIRTIO_NET_HDR_GSO_UDP_L4;
        assert_eq!(inside(VIRTIO_NET_HDR_F_NEEDS_CSUM, joined, 84, 42), None);
        let cut_at = |flags, start: u16| {
            let numbers = [100, start, 6].map(u16::to_ne_bytes).concat();
            let message = [&[flags, joined, 0, 0][..], &numbers].concat();
            let (told, _) = ReceivedVnetHeader::split(&message).unwrap();
            told.is_cut_at(34)
        };
        assert!(cut_at(VIRTIO_NET_HDR_F_NEEDS_CSUM, 34));
        assert!(!cut_at(VIRTIO_NET_HDR_F_NEEDS_CSUM, 84), "a tunnel's");
        assert!(cut_at(VIRTIO_NET_HDR_F_DATA_VALID, 0));
    }
}
