//! The addresses that a datagram came with: whether a host can have sent it, and whether it was
//! sent to this one.

use super::{
    bytes::Bytes,
    datagram::Datagram,
    decode::decode_beside,
    ethernet::{self, Mac},
    skip::Skip,
    vlan::StrippedTag,
};

/// Where a datagram came from. All as it lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Ethernet source.
    pub from: Mac,
    /// IPv4 source.
    pub source: u32,
}

impl Addresses {
    /// Whether no host can have this source: the Ethernet address is zero or a group's, or the IPv4
    /// address is one that `ip_mc_validate_source` (net/ipv4/route.c) refuses: 0.0.0.0/8,
    /// 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255.
    #[inline(always)]
    const fn is_martian(&self) -> bool {
        let first = self.source.to_ne_bytes()[0] as u64;
        let is_odd = first.wrapping_sub(1) >= 223;
        self.from & ethernet::GROUP != 0
            || self.from == 0
            || first == 127
            || is_odd && (first < 240 || self.source == u32::MAX)
    }
}

/// Decodes a frame that arrived on an interface with the Ethernet address `own`, and looks at the
/// addresses that it came with. The frame's outermost tag may be beside it.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn judge<B: Bytes + ?Sized>(
    frame: &B,
    tag: Option<StrippedTag>,
    own: [u8; 6],
) -> Result<(Datagram, Addresses), Skip> {
    let (datagram, source) = decode_beside(frame, tag)?;
    let Some(words) = ethernet::AddressWords::read(frame) else {
        return Err(Skip::NotIp);
    };
    let addresses = Addresses {
        from: words.source(),
        source,
    };
    if addresses.is_martian() {
        Err(Skip::Martian)
    } else if words.is_to(ethernet::of_group(datagram.group)) || words.is_to(own) {
        Ok((datagram, addresses))
    } else {
        Err(Skip::OtherMac)
    }
}
