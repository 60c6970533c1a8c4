//! From the bytes of a frame to its datagram: one header after the other, each read once.
//!
//! The headers behind each number of tags are decoded by code of their own, so that all offsets are
//! constants, as the verifier wants to see them.

use super::{
    bytes::Bytes,
    datagram::{Addresses, Datagram},
    ethernet::{self, ethertype},
    ipv4, ipv6,
    layout::{WORD, half_of},
    skip::Skip,
    udp,
    vlan::{self, TAG_LEN, Tag, Vlan},
};

/// Decodes a frame.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn decode<B: Bytes + ?Sized>(frame: &B) -> Result<Datagram, Skip> {
    decode_stripped(frame, None)
}

/// What follows the Ethernet header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Anything else: tags, or what no rule matches.
    Other,
}

/// What follows the Ethernet header of `frame`.
#[inline(always)]
pub fn kind<B: Bytes + ?Sized>(frame: &B) -> Kind {
    match frame.half(ethernet::field::TYPE.start).map(u16::from_be) {
        Some(ethertype::IPV4) => Kind::Ipv4,
        Some(ethertype::IPV6) => Kind::Ipv6,
        _ => Kind::Other,
    }
}

/// [`decode`] for a frame of this [`kind`]: for callers that have code of its own for each kind, in
/// which all offsets are constants.
///
/// # Errors
///
/// As [`decode`].
#[inline(always)]
pub fn decode_as<B: Bytes + ?Sized>(kind: Kind, frame: &B) -> Result<Datagram, Skip> {
    match kind {
        Kind::Ipv4 => decode_ipv4::<UNTAGGED, B>(frame, Vlan::UNTAGGED, true),
        Kind::Ipv6 => decode_ipv6::<UNTAGGED, B>(frame, Vlan::UNTAGGED, true),
        Kind::Other => decode(frame),
    }
}

/// Where the IP header is behind no tag, behind one, and behind two.
const UNTAGGED: usize = ethernet::HEADER_LEN;
const TAGGED: usize = UNTAGGED + TAG_LEN;
const TWICE_TAGGED: usize = TAGGED + TAG_LEN;

/// Decodes a frame whose outermost tag may be beside it: the result is what [`decode`] says of the
/// frame with the tag in its place. Only the offsets are those of the frame without it.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn decode_stripped<B: Bytes + ?Sized>(
    frame: &B,
    beside: Option<Tag>,
) -> Result<Datagram, Skip> {
    decode_for(frame, beside, &Datagrams)
}

/// What is done with a datagram.
pub(super) trait Step {
    type Output;
    /// Whether it takes datagrams to hosts as well as those to groups.
    const HOSTS: bool;
    fn take(&self, datagram: Datagram) -> Result<Self::Output, Skip>;
}

/// Nothing: it is the result.
struct Datagrams;

impl Step for Datagrams {
    type Output = Datagram;
    const HOSTS: bool = true;

    #[inline(always)]
    fn take(&self, datagram: Datagram) -> Result<Datagram, Skip> {
        Ok(datagram)
    }
}

/// [`decode_stripped`], and `step` with the datagram. The code of `step` is there once for every
/// kind of header: in BPF, which has few registers, joining the kinds costs as much as decoding.
#[inline(always)]
pub(super) fn decode_for<B: Bytes + ?Sized, S: Step>(
    frame: &B,
    beside: Option<Tag>,
    step: &S,
) -> Result<S::Output, Skip> {
    let Some(first) = frame.half(ethernet::field::TYPE.start) else {
        return Err(Skip::NotIp);
    };
    if first == ethertype::IPV4.to_be() && beside.is_none() {
        return step.take(decode_ipv4::<UNTAGGED, B>(frame, Vlan::UNTAGGED, S::HOSTS)?);
    }
    let vlan = match beside {
        None => Vlan::UNTAGGED,
        Some(tag) => Vlan::of_one(tag),
    };
    match u16::from_be(first) {
        ethertype::IPV4 => return step.take(decode_ipv4::<UNTAGGED, B>(frame, vlan, S::HOSTS)?),
        ethertype::IPV6 => return step.take(decode_ipv6::<UNTAGGED, B>(frame, vlan, S::HOSTS)?),
        ethertype::VLAN | ethertype::QINQ => {}
        _ => return Err(Skip::NotIp),
    }
    let Some((outer, second)) = tag_at::<UNTAGGED, B>(frame, first) else {
        return Err(Skip::NotIp);
    };
    let vlan = match beside {
        None => Vlan::of_one(outer),
        Some(tag) => Vlan::of_two(tag, outer),
    };
    match u16::from_be(second) {
        ethertype::IPV4 => return step.take(decode_ipv4::<TAGGED, B>(frame, vlan, S::HOSTS)?),
        ethertype::IPV6 => return step.take(decode_ipv6::<TAGGED, B>(frame, vlan, S::HOSTS)?),
        ethertype::VLAN | ethertype::QINQ if beside.is_none() => {}
        ethertype::VLAN | ethertype::QINQ => return Err(Skip::Tags),
        _ => return Err(Skip::NotIp),
    }
    let Some((inner, third)) = tag_at::<TAGGED, B>(frame, second) else {
        return Err(Skip::NotIp);
    };
    let vlan = Vlan::of_two(outer, inner);
    match u16::from_be(third) {
        ethertype::IPV4 => step.take(decode_ipv4::<TWICE_TAGGED, B>(frame, vlan, S::HOSTS)?),
        ethertype::IPV6 => step.take(decode_ipv6::<TWICE_TAGGED, B>(frame, vlan, S::HOSTS)?),
        ethertype::VLAN | ethertype::QINQ => Err(Skip::Tags),
        _ => Err(Skip::NotIp),
    }
}

/// The tag at `AT`, which the EtherType `tpid` announces, and the EtherType behind it; both
/// EtherTypes in network order. `None` where the frame ends before.
#[inline(always)]
fn tag_at<const AT: usize, B: Bytes + ?Sized>(frame: &B, tpid: u16) -> Option<(Tag, u16)> {
    let tci = frame.half(AT + vlan::field::TCI.start)?;
    let ethertype = frame.half(AT + vlan::field::TYPE.start)?;
    let tag = Tag {
        tpid: u16::from_be(tpid),
        tci: u16::from_be(tci),
    };
    Some((tag, ethertype))
}

/// Decodes from the IPv4 header on, which starts at `NETWORK`: a datagram to a group, and with
/// `hosts` one to any address.
#[inline(always)]
fn decode_ipv4<const NETWORK: usize, B: Bytes + ?Sized>(
    frame: &B,
    vlan: Vlan,
    hosts: bool,
) -> Result<Datagram, Skip> {
    /// Length of both headers, IPv4 and UDP, in words.
    const WORDS: usize = (ipv4::HEADER_LEN + udp::HEADER_LEN) / WORD;
    if !vlan.has_name() {
        return Err(Skip::Tags);
    }
    let Some(header) = frame.words(NETWORK) else {
        return Err(Skip::Malformed);
    };
    if !ipv4::is_of_udp(header, hosts) {
        return Err(frame
            .words_anew(NETWORK)
            .map_or(Skip::Malformed, |header| ipv4::skip_of(header, hosts)));
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
    Ok(Datagram {
        addresses: Addresses::V4 { source, group },
        port: half_of(ports, udp::field::DESTINATION_PORT),
        vlan,
        ttl: ipv4::ttl(header),
        network: NETWORK as u16,
        payload_len: payload_len as u16,
    })
}

/// Decodes from the IPv6 header on, which starts at `NETWORK`, as [`decode_ipv4`] does.
#[inline(always)]
fn decode_ipv6<const NETWORK: usize, B: Bytes + ?Sized>(
    frame: &B,
    vlan: Vlan,
    hosts: bool,
) -> Result<Datagram, Skip> {
    if !vlan.has_name() {
        return Err(Skip::Tags);
    }
    let Some([source_0, source_1, group_0, group_1]) =
        frame.longs(NETWORK + ipv6::field::SOURCE.start)
    else {
        return Err(Skip::Malformed);
    };
    let (source, group) = ([source_0, source_1], [group_0, group_1]);
    let Some(header) = frame.words(NETWORK) else {
        return Err(Skip::Malformed);
    };
    if let Some(skip) = ipv6::skip_of(header) {
        return Err(skip);
    }
    if !hosts && !ipv6::is_group(group) {
        return Err(Skip::NotMulticast);
    }
    let Some([ports, len_and_checksum]) = frame.words(NETWORK + ipv6::HEADER_LEN) else {
        return Err(Skip::Malformed);
    };
    let udp_len = half_of(len_and_checksum, udp::field::LEN);
    // More than any frame holds where it would be negative.
    let payload_len = (udp_len as usize).wrapping_sub(udp::HEADER_LEN);
    if ipv6::payload_len(header) != udp_len
        || !frame.holds(NETWORK + ipv6::HEADER_LEN + udp::HEADER_LEN, payload_len)
    {
        return Err(Skip::Malformed);
    }
    if half_of(len_and_checksum, udp::field::CHECKSUM) == 0 {
        return Err(Skip::NoChecksum);
    }
    Ok(Datagram {
        addresses: Addresses::V6 { source, group },
        port: half_of(ports, udp::field::DESTINATION_PORT),
        vlan,
        ttl: ipv6::hop_limit(header),
        network: NETWORK as u16,
        payload_len: payload_len as u16,
    })
}
