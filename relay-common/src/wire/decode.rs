//! From the bytes of a frame to its datagram: one header after the other, each read once.

use super::{
    bytes::Bytes,
    datagram::Datagram,
    ethernet::{self, ethertype},
    ipv4,
    layout::{WORD, half_of},
    skip::Skip,
    udp,
    vlan::{self, StrippedTag},
};

/// Decodes a frame.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn decode<B: Bytes + ?Sized>(frame: &B) -> Result<Datagram, Skip> {
    decode_whole(frame).map(|(datagram, _)| datagram)
}

/// Decodes a frame whose outermost tag may be beside it: the result is what [`decode`] says of the
/// frame with the tag in its place. Only the offsets are those of the frame without it.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn decode_stripped<B: Bytes + ?Sized>(
    frame: &B,
    tag: Option<StrippedTag>,
) -> Result<Datagram, Skip> {
    decode_beside(frame, tag).map(|(datagram, _)| datagram)
}

/// The datagram of a frame whose outermost tag may be beside it, and its IPv4 source.
#[inline(always)]
pub(super) fn decode_beside<B: Bytes + ?Sized>(
    frame: &B,
    tag: Option<StrippedTag>,
) -> Result<(Datagram, u32), Skip> {
    if let Some(tag) = tag
        && (tag.tpid != ethertype::VLAN || vlan::is_in(frame))
    {
        return Err(Skip::DoubleTag);
    }
    let (mut datagram, source) = decode_whole(frame)?;
    if let Some(tag) = tag {
        datagram.vlan = vlan::identifier(tag.tci);
    }
    Ok((datagram, source))
}

/// The datagram of a frame that has its tags in its bytes, and its IPv4 source.
#[inline(always)]
fn decode_whole<B: Bytes + ?Sized>(frame: &B) -> Result<(Datagram, u32), Skip> {
    let Some(ethertype) = frame.half(ethernet::field::TYPE.start) else {
        return Err(Skip::NotIp);
    };
    if ethertype == ethertype::IPV4.to_be() {
        return decode_ipv4::<{ ethernet::HEADER_LEN }, B>(frame, Datagram::UNTAGGED);
    }
    match u16::from_be(ethertype) {
        ethertype::IPV6 => Err(Skip::Ipv6),
        ethertype::VLAN => {
            let (Some(tci), Some(ethertype)) = (
                frame.half(ethernet::HEADER_LEN + vlan::field::TCI.start),
                frame.half(ethernet::HEADER_LEN + vlan::field::TYPE.start),
            ) else {
                return Err(Skip::NotIp);
            };
            match u16::from_be(ethertype) {
                ethertype::IPV4 => {
                    let vlan = vlan::identifier(u16::from_be(tci));
                    decode_ipv4::<{ ethernet::HEADER_LEN + vlan::TAG_LEN }, B>(frame, vlan)
                }
                ethertype::IPV6 => Err(Skip::Ipv6),
                ethertype::VLAN | ethertype::QINQ => Err(Skip::DoubleTag),
                _ => Err(Skip::NotIp),
            }
        }
        ethertype::QINQ => Err(Skip::DoubleTag),
        _ => Err(Skip::NotIp),
    }
}

/// Decodes from the IPv4 header on, which starts at the constant `NETWORK`: a constant, so that the
/// verifier sees plain offsets.
#[inline(always)]
fn decode_ipv4<const NETWORK: usize, B: Bytes + ?Sized>(
    frame: &B,
    vlan: u16,
) -> Result<(Datagram, u32), Skip> {
    /// Length of both headers, IPv4 and UDP, in words.
    const WORDS: usize = (ipv4::HEADER_LEN + udp::HEADER_LEN) / WORD;
    let Some(header) = frame.words(NETWORK) else {
        return Err(Skip::Malformed);
    };
    if !ipv4::is_of_multicast_udp(header) {
        return Err(frame
            .words_anew(NETWORK)
            .map_or(Skip::Malformed, ipv4::skip_of));
    }
    // Both headers, which makes the UDP header two loads of its own.
    let Some([.., ports, len_and_checksum]) = frame.words::<WORDS>(NETWORK) else {
        return Err(Skip::Malformed);
    };
    let udp_len = half_of(len_and_checksum, udp::field::LEN) as usize;
    // More than any frame holds where it would be negative.
    let payload_len = udp_len.wrapping_sub(udp::HEADER_LEN);
    if ipv4::total_len(header) as usize != ipv4::HEADER_LEN + udp_len
        || !frame.holds(NETWORK + ipv4::HEADER_LEN + udp::HEADER_LEN, payload_len)
    {
        return Err(Skip::Malformed);
    }
    let [.., source, group] = header;
    let datagram = Datagram {
        group: group.to_ne_bytes(),
        port: half_of(ports, udp::field::DESTINATION_PORT),
        vlan,
        network: NETWORK as u16,
        payload_len: payload_len as u16,
    };
    Ok((datagram, source))
}
