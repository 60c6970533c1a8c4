//! The one decoder: Ethernet, 802.1Q, IPv4, IPv6 and UDP, from bytes to offsets and fields.
//!
//! It runs in the kernel programs, where the verifier wants every read to be checked against the end
//! of the frame, and in user space on a slice. Both go through [`Bytes`], so there is one set of
//! rules. No input makes it panic or loop: it reads a fixed number of fields, each once.
//!
//! A frame is either a [`Datagram`], which the relay may forward, or it is [`Skip`]ped, which names the
//! one reason why it is left to the Linux stack. [`judge`] also looks at the addresses that a frame came
//! with: the kernel programs do that for every frame, and user space need not do it again.

/// Length of an Ethernet header without a tag.
pub const ETHERNET_LEN: usize = 14;
/// Length of an 802.1Q tag.
pub const VLAN_LEN: usize = 4;
/// Length of an IPv4 header without options. Frames with options are skipped.
pub const IPV4_LEN: usize = 20;
/// Length of the fixed IPv6 header. Frames with extension headers are skipped.
pub const IPV6_LEN: usize = 40;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;
/// Length of the headers in front of the payload of an untagged IPv4 datagram.
pub const IPV4_HEADERS_LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;

/// Where fields stand, in bytes from the start of their header.
pub mod field {
    /// Ethernet II and 802.1Q (IEEE 802.3, 802.1Q).
    pub mod ethernet {
        /// The address that the frame is sent to, 6 bytes; the sender's follows it.
        pub const DESTINATION: usize = 0;
        /// The EtherType of an untagged frame, 2 bytes.
        pub const TYPE: usize = 12;
        /// The tag control information of a tagged frame, 2 bytes.
        pub const TCI: usize = 14;
        /// The EtherType of a tagged frame, 2 bytes.
        pub const TAGGED_TYPE: usize = 16;
    }

    /// IPv4 (RFC 791).
    pub mod ipv4 {
        /// Type of service: DSCP and ECN, 1 byte.
        pub const TOS: usize = 1;
        /// Length of header and payload, 2 bytes.
        pub const TOTAL_LEN: usize = 2;
        /// Identification, 2 bytes.
        pub const ID: usize = 4;
        /// Flags and fragment offset, 2 bytes.
        pub const FRAGMENT: usize = 6;
        /// Time to live, 1 byte.
        pub const TTL: usize = 8;
        /// Header checksum, 2 bytes.
        pub const CHECKSUM: usize = 10;
        /// Source address, 4 bytes.
        pub const SOURCE: usize = 12;
        /// Destination address, 4 bytes.
        pub const DESTINATION: usize = 16;
    }

    /// UDP (RFC 768).
    pub mod udp {
        /// Source port, 2 bytes.
        pub const SOURCE: usize = 0;
        /// Destination port, 2 bytes.
        pub const DESTINATION: usize = 2;
        /// Length of header and payload, 2 bytes.
        pub const LEN: usize = 4;
        /// Checksum, 2 bytes.
        pub const CHECKSUM: usize = 6;
    }
}

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_QINQ: u16 = 0x88a8;
/// The identifier in the tag control information (IEEE 802.1Q).
const VLAN_MASK: u16 = 0x0fff;
const PROTOCOL_UDP: u8 = 17;
/// More fragments, or a fragment offset other than 0 (RFC 791): everything but DF and the reserved bit.
const FRAGMENT_MASK: u16 = 0x3fff;

/// A frame's bytes, however they may be read.
///
/// Everything that is read lies at an even offset, and most of it is read in words of 32 bits, each in the order in
/// which its bytes lie in memory: the kernel starts every frame at an even address (`NET_IP_ALIGN` is 0 or 2), and BPF
/// loads what may not be aligned byte by byte.
pub trait Bytes {
    /// The 16 bits at the even `offset`, or `None` where the frame ends before.
    fn half(&self, offset: usize) -> Option<u16>;

    /// The `N` words at the even `offset`, or `None` where the frame ends before.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;

    /// The same, read anew: for what is rarely needed, so that a compiler does not keep for it what was read before.
    #[inline(always)]
    fn words_anew<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.words(offset)
    }

    /// Whether the frame has at least `headers` bytes, and as many as `payload` behind them.
    fn holds(&self, headers: usize, payload: usize) -> bool;
}

impl Bytes for [u8] {
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        let bytes = self.get(offset..)?.first_chunk()?;
        Some(u16::from_ne_bytes(*bytes))
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let (words, _) = self.get(offset..)?.as_chunks();
        Some(words.first_chunk()?.map(u32::from_ne_bytes))
    }

    #[inline(always)]
    fn holds(&self, headers: usize, payload: usize) -> bool {
        let rest = self.len().checked_sub(headers);
        rest.is_some_and(|rest| rest >= payload)
    }
}

/// Why a frame is not a datagram that a rule could match. Such a frame belongs to the Linux stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
pub enum Skip {
    /// Neither IPv4 nor IPv6: ARP, LLDP, PTP over Ethernet and so on, or a frame shorter than an Ethernet header.
    NotIp,
    /// IPv6.
    Ipv6,
    /// Two VLAN tags, whatever follows.
    DoubleTag,
    /// An IPv4 header with options, which a forwarder may not ignore (RFC 791).
    IpOptions,
    /// A fragment: only the first one has ports, so none can be matched.
    Fragment,
    /// IP, but not UDP.
    NotUdp,
    /// UDP to a unicast or broadcast address.
    NotMulticast,
    /// A length that contradicts another or the frame, or a wrong IPv4 header checksum.
    Malformed,
    /// A source that no host can have: the Linux stack drops such datagrams as martian, too.
    Martian,
    /// Sent neither to the Ethernet address of its group nor to that of the interface: a host that listens to the
    /// group would not take it.
    OtherMac,
}

/// The UDP datagram in a frame: fields in host order, and where its parts start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Destination group; IPv4 groups only as yet, in network order.
    pub group: [u8; 4],
    /// Destination port.
    pub port: u16,
    /// VLAN identifier, [`Datagram::UNTAGGED`] for an untagged frame and for one with a priority tag, whose identifier
    /// is 0 (IEEE 802.1Q, section 9.6).
    pub vlan: u16,
    /// Offset of the IP header in bytes from the start of the frame.
    pub network: u16,
    /// Length of the UDP payload in bytes.
    pub payload_len: u16,
}

impl Datagram {
    /// What [`Datagram::vlan`] is where there is no tag. No identifier has this value: they have 12 bits.
    pub const UNTAGGED: u16 = 0xffff;

    /// Offset of the UDP header in bytes from the start of the frame.
    #[must_use]
    pub const fn transport(&self) -> usize {
        self.network as usize + IPV4_LEN
    }

    /// Offset of the payload in bytes from the start of the frame.
    #[must_use]
    pub const fn payload(&self) -> usize {
        self.transport() + UDP_LEN
    }

    /// End of the datagram in bytes from the start of the frame; what follows is Ethernet padding.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.payload() + self.payload_len as usize
    }
}

/// An Ethernet address as it lies in memory, behind two bytes that are zero.
pub type Mac = u64;

/// `mac` as [`Addresses::from`] has it.
#[must_use]
pub const fn mac(mac: [u8; 6]) -> Mac {
    let [a, b, c, d, e, f] = mac;
    u64::from_ne_bytes([0, 0, a, b, c, d, e, f])
}

/// Where a datagram came from. All as it lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Ethernet source.
    pub from: Mac,
    /// IPv4 source.
    pub source: u32,
}

impl Addresses {
    /// Whether no host can have this source: the Ethernet address is zero or a group's, or the IPv4 address is one
    /// that `ip_mc_validate_source` (net/ipv4/route.c) refuses: 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255.
    #[inline(always)]
    const fn is_martian(&self) -> bool {
        /// The bit of a group address (IEEE 802.3, section 3.2.3).
        const GROUP: u64 = u64::from_ne_bytes([0, 0, 1, 0, 0, 0, 0, 0]);
        let first = self.source.to_ne_bytes()[0] as u64;
        let is_odd = first.wrapping_sub(1) >= 223;
        self.from & GROUP != 0
            || self.from == 0
            || first == 127
            || is_odd && (first < 240 || self.source == u32::MAX)
    }
}

/// The Ethernet address of an IPv4 group (RFC 1112, section 6.4).
#[inline(always)]
const fn group_mac(group: [u8; 4]) -> [u8; 6] {
    let [_, b, c, d] = group;
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

/// Decodes a frame.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn decode<B: Bytes + ?Sized>(frame: &B) -> Result<Datagram, Skip> {
    decode_whole(frame).map(|(datagram, _)| datagram)
}

/// Decodes a frame that came to an interface with the Ethernet address `own`, whose outermost tag may be beside it, and
/// looks at the addresses that it came with.
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
    const LOW_HALF: u64 = u64::from_ne_bytes([0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    let (datagram, source) = decode_beside(frame, tag)?;
    let (Some([to]), Some([between, from])) = (
        frame.words(field::ethernet::DESTINATION),
        frame.words(field::ethernet::DESTINATION + 4),
    ) else {
        return Err(Skip::NotIp);
    };
    let ([a, b, c, d], [e, f, g, h]) = (between.to_ne_bytes(), from.to_ne_bytes());
    let between = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let addresses = Addresses {
        from: between & !LOW_HALF,
        source,
    };
    let to_is = |[a, b, c, d, e, f]: [u8; 6]| {
        to == u32::from_ne_bytes([a, b, c, d])
            && between & LOW_HALF == u64::from_ne_bytes([e, f, 0, 0, 0, 0, 0, 0])
    };
    if addresses.is_martian() {
        Err(Skip::Martian)
    } else if to_is(group_mac(datagram.group)) || to_is(own) {
        Ok((datagram, addresses))
    } else {
        Err(Skip::OtherMac)
    }
}

/// The datagram, and its IPv4 source.
#[inline(always)]
fn decode_whole<B: Bytes + ?Sized>(frame: &B) -> Result<(Datagram, u32), Skip> {
    let Some(ethertype) = frame.half(field::ethernet::TYPE) else {
        return Err(Skip::NotIp);
    };
    if ethertype == TYPE_IPV4.to_be() {
        return decode_ipv4::<ETHERNET_LEN, B>(frame, Datagram::UNTAGGED);
    }
    match u16::from_be(ethertype) {
        TYPE_IPV6 => Err(Skip::Ipv6),
        TYPE_VLAN => {
            let (Some(tci), Some(ethertype)) = (
                frame.half(field::ethernet::TCI),
                frame.half(field::ethernet::TAGGED_TYPE),
            ) else {
                return Err(Skip::NotIp);
            };
            match u16::from_be(ethertype) {
                TYPE_IPV4 => {
                    let vlan = identifier(u16::from_be(tci));
                    decode_ipv4::<{ ETHERNET_LEN + VLAN_LEN }, B>(frame, vlan)
                }
                TYPE_IPV6 => Err(Skip::Ipv6),
                TYPE_VLAN | TYPE_QINQ => Err(Skip::DoubleTag),
                _ => Err(Skip::NotIp),
            }
        }
        TYPE_QINQ => Err(Skip::DoubleTag),
        _ => Err(Skip::NotIp),
    }
}

/// The VLAN that a tag names: none where it only has a priority.
#[inline(always)]
const fn identifier(tci: u16) -> u16 {
    match tci & VLAN_MASK {
        0 => Datagram::UNTAGGED,
        vlan => vlan,
    }
}

/// A VLAN tag that the NIC or the kernel took out of a frame and keeps beside it, as a packet socket gets every
/// tagged frame (`skb_vlan_untag` in net/core/dev.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrippedTag {
    /// The EtherType that announced it, in host order: `0x8100` or `0x88a8`.
    pub tpid: u16,
    /// Its tag control information, in host order: priority, DEI and the identifier.
    pub tci: u16,
}

/// Decodes a frame whose outermost tag may be beside it: says what [`decode`] says of the frame with the tag in its
/// place. Only the offsets are those of the frame without it.
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

#[inline(always)]
fn decode_beside<B: Bytes + ?Sized>(
    frame: &B,
    tag: Option<StrippedTag>,
) -> Result<(Datagram, u32), Skip> {
    if let Some(tag) = tag
        && (tag.tpid != TYPE_VLAN || is_tagged(frame))
    {
        return Err(Skip::DoubleTag);
    }
    let (mut datagram, source) = decode_whole(frame)?;
    if let Some(tag) = tag {
        datagram.vlan = identifier(tag.tci);
    }
    Ok((datagram, source))
}

/// Whether there is a tag in the frame's bytes.
#[inline(always)]
fn is_tagged<B: Bytes + ?Sized>(frame: &B) -> bool {
    let ethertype = frame.half(field::ethernet::TYPE).map(u16::from_be);
    matches!(ethertype, Some(TYPE_VLAN | TYPE_QINQ))
}

/// Decodes from the IPv4 header on, which starts at the constant `NETWORK`: a constant, so that the
/// verifier sees plain offsets.
#[inline(always)]
fn decode_ipv4<const NETWORK: usize, B: Bytes + ?Sized>(
    frame: &B,
    vlan: u16,
) -> Result<(Datagram, u32), Skip> {
    let Some([first, second, third, source, group]) = frame.words(NETWORK) else {
        return Err(Skip::Malformed);
    };
    // All at once, since nearly every frame passes: one jump.
    let odd = (first & VERSION_AND_LEN ^ OPTIONLESS)
        | (second & FRAGMENT)
        | (third & PROTOCOL ^ UDP)
        | (group & GROUP_BITS ^ MULTICAST);
    if odd != 0 || !is_complete([first, second, third, source, group]) {
        return Err(frame.words_anew(NETWORK).map_or(Skip::Malformed, skip_of));
    }
    // Both headers, which makes it two loads of their own.
    let Some([.., ports, len_and_checksum]) = frame.words::<{ (IPV4_LEN + UDP_LEN) / 4 }>(NETWORK)
    else {
        return Err(Skip::Malformed);
    };
    let [_, _, total_len, total_len_1] = first.to_ne_bytes();
    let ([.., port, port_1], [len, len_1, ..]) =
        (ports.to_ne_bytes(), len_and_checksum.to_ne_bytes());
    let total_len = u16::from_be_bytes([total_len, total_len_1]) as usize;
    let udp_len = u16::from_be_bytes([len, len_1]) as usize;
    // More than any frame holds where it would be negative.
    let payload_len = udp_len.wrapping_sub(UDP_LEN);
    if total_len != IPV4_LEN + udp_len || !frame.holds(NETWORK + IPV4_LEN + UDP_LEN, payload_len) {
        return Err(Skip::Malformed);
    }
    let datagram = Datagram {
        group: group.to_ne_bytes(),
        port: u16::from_be_bytes([port, port_1]),
        vlan,
        network: NETWORK as u16,
        payload_len: payload_len as u16,
    };
    Ok((datagram, source))
}

/// Parts of the words of an IPv4 header, and what they must be.
const VERSION_AND_LEN: u32 = u32::from_ne_bytes([0xff, 0, 0, 0]);
const OPTIONLESS: u32 = u32::from_ne_bytes([0x45, 0, 0, 0]);
const FRAGMENT: u32 = {
    let [a, b] = FRAGMENT_MASK.to_be_bytes();
    u32::from_ne_bytes([0, 0, a, b])
};
const PROTOCOL: u32 = u32::from_ne_bytes([0, 0xff, 0, 0]);
const UDP: u32 = u32::from_ne_bytes([0, PROTOCOL_UDP, 0, 0]);
/// 224.0.0.0/4 (RFC 5771).
const GROUP_BITS: u32 = u32::from_ne_bytes([0xf0, 0, 0, 0]);
const MULTICAST: u32 = u32::from_ne_bytes([0xe0, 0, 0, 0]);

/// What is wrong with an IPv4 header that something is wrong with.
#[inline(always)]
const fn skip_of([first, second, third, _, group]: [u32; 5]) -> Skip {
    let [version_and_len, ..] = first.to_ne_bytes();
    if version_and_len >> 4 != 4 || version_and_len & 0x0f < 5 {
        Skip::Malformed
    } else if version_and_len & 0x0f > 5 {
        Skip::IpOptions
    } else if second & FRAGMENT != 0 {
        Skip::Fragment
    } else if third & PROTOCOL != UDP {
        Skip::NotUdp
    } else if group & GROUP_BITS != MULTICAST {
        Skip::NotMulticast
    } else {
        // The checksum.
        Skip::Malformed
    }
}

/// Whether the checksum in an IPv4 header is right: then the 16-bit words add up to `0xffff` (RFC 1071), in whatever order
/// their bytes are.
///
/// The sum of the words of 32 bits is `a + b * 2^16 + c * 2^32` with `a` and `b` below 2^16 and `c` below 5. The product
/// has `a + b + c` from bit 32 on, and the carry of `a + b`: together `0xffff` or `0x1ffff` if, and only if, the former is
/// 0xffff or twice that.
#[inline(always)]
const fn is_complete([a, b, c, d, e]: [u32; 5]) -> bool {
    let sum = a as u64 + b as u64 + c as u64 + d as u64 + e as u64;
    (sum.wrapping_mul(0x1_0001_0001) >> 32) & 0xffff == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An untagged datagram of 3 bytes to 239.1.1.1:5001 with Ethernet padding behind it.
    const FRAME: [u8; 60] = {
        let head = [
            0x01, 0x00, 0x5e, 0x01, 0x01, 0x01, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
            0x45, 0x00, 0x00, 0x1f, 0x12, 0x34, 0x40, 0x00, 0x01, 0x11, 0x6d, 0x95, // IPv4
            10, 1, 0, 2, 239, 1, 1, 1, //
            0x9c, 0x40, 0x13, 0x89, 0x00, 0x0b, 0x12, 0x34, // UDP
            b'a', b'b', b'c',
        ];
        let mut frame = [0; 60];
        let mut at = 0;
        while at < head.len() {
            frame[at] = head[at];
            at += 1;
        }
        frame
    };

    #[test]
    fn a_plain_datagram_decodes_to_its_fields() {
        let datagram = decode(&FRAME[..]).unwrap();
        assert_eq!(datagram.group, [239, 1, 1, 1]);
        assert_eq!(datagram.port, 5001);
        assert_eq!(datagram.vlan, Datagram::UNTAGGED);
        assert_eq!(&FRAME[datagram.payload()..datagram.end()], b"abc");
    }

    #[test]
    fn a_header_is_complete_when_its_words_add_up_and_only_then() {
        let add_up = |words: [u32; 5]| {
            let halves = words
                .into_iter()
                .flat_map(|word| [word >> 16, word & 0xffff]);
            let sum: u32 = halves.sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            (sum & 0xffff) + (sum >> 16) == 0xffff
        };
        let edges = [
            0,
            1,
            0xfffe,
            0xffff,
            0x1_0000,
            0xfffe_ffff,
            0xffff_0000,
            u32::MAX,
        ];
        for number in 0..edges.len().pow(5) {
            let words = core::array::from_fn(|at| edges[number / edges.len().pow(at as u32) % 8]);
            assert_eq!(is_complete(words), add_up(words), "{words:x?}");
        }
        let mut state = 1_u64;
        for _ in 0..10_000 {
            let mut words = [0; 5].map(|_: u32| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 32) as u32
            });
            assert_eq!(is_complete(words), add_up(words), "{words:x?}");
            words[2] &= 0xffff_0000;
            let halves = words
                .into_iter()
                .flat_map(|word| [word >> 16, word & 0xffff]);
            let sum: u32 = halves.sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            words[2] |= !((sum & 0xffff) + (sum >> 16)) & 0xffff;
            assert!(is_complete(words) && add_up(words), "{words:x?}");
        }
    }

    #[test]
    fn every_truncation_is_skipped_and_none_panics() {
        for len in 0..45 {
            assert!(decode(&FRAME[..len]).is_err(), "{len} bytes");
        }
        assert!(decode(&FRAME[..45]).is_ok());
    }

    #[test]
    fn one_changed_byte_in_the_ip_header_never_passes_for_the_same_datagram() {
        let whole = decode(&FRAME[..]).unwrap();
        for at in ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN {
            for bit in 0..8 {
                let mut frame = FRAME;
                frame[at] ^= 1 << bit;
                assert_ne!(decode(&frame[..]), Ok(whole), "byte {at}, bit {bit}");
            }
        }
    }

    /// `FRAME` with `tags` behind its addresses, of one EtherType and one control information each.
    fn tagged<const N: usize>(tags: [(u16, u16); N], rest: [u8; 2]) -> ([u8; 80], usize) {
        let mut frame = [0; 80];
        frame[..12].copy_from_slice(&FRAME[..12]);
        let mut at = 12;
        for (tpid, tci) in tags {
            frame[at..at + 2].copy_from_slice(&tpid.to_be_bytes());
            frame[at + 2..at + 4].copy_from_slice(&tci.to_be_bytes());
            at += 4;
        }
        frame[at..at + 46 + 2].copy_from_slice(&FRAME[12..]);
        frame[at..at + 2].copy_from_slice(&rest);
        (frame, at + 48)
    }

    #[test]
    fn a_stripped_tag_counts_as_if_it_were_in_its_place() {
        const TYPES: [u16; 4] = [TYPE_IPV4, TYPE_IPV6, 0x0806, 0];
        const TCIS: [u16; 3] = [0, 10, 0xe00a];
        let check = |whole: &[u8], tag: StrippedTag| {
            let mut stripped = [0; 80];
            let len = whole.len() - VLAN_LEN;
            stripped[..12].copy_from_slice(&whole[..12]);
            stripped[12..len].copy_from_slice(&whole[16..]);
            let expected = decode(whole).map(|datagram| Datagram {
                network: datagram.network - VLAN_LEN as u16,
                ..datagram
            });
            let found = decode_stripped(&stripped[..len], Some(tag));
            assert_eq!(found, expected, "{tag:x?} {whole:02x?}");
        };
        for outer in [TYPE_VLAN, TYPE_QINQ] {
            for tci in TCIS {
                let tag = StrippedTag { tpid: outer, tci };
                for ethertype in TYPES {
                    let rest = ethertype.to_be_bytes();
                    let (one, len) = tagged([(outer, tci)], rest);
                    // From the shortest frame that still has an EtherType without the tag.
                    for len in ETHERNET_LEN + VLAN_LEN..=len {
                        check(&one[..len], tag);
                    }
                    for inner in [TYPE_VLAN, TYPE_QINQ] {
                        let (two, len) = tagged([(outer, tci), (inner, 20)], rest);
                        check(&two[..len], tag);
                    }
                }
            }
        }
    }

    #[test]
    fn a_stripped_tag_gives_the_datagram_its_identifier_and_leaves_its_offsets() {
        let tag = StrippedTag {
            tpid: TYPE_VLAN,
            tci: 0xe00a,
        };
        let untagged = decode(&FRAME[..]).unwrap();
        let datagram = decode_stripped(&FRAME[..], Some(tag)).unwrap();
        assert_eq!(
            datagram,
            Datagram {
                vlan: 10,
                ..untagged
            }
        );
        assert_eq!(decode_stripped(&FRAME[..], None), Ok(untagged));
    }

    #[test]
    fn a_super_frame_is_one_datagram_of_the_whole_length() {
        const PAYLOAD: usize = 65_507;
        let mut frame = [0; IPV4_HEADERS_LEN + PAYLOAD];
        frame[..FRAME.len()].copy_from_slice(&FRAME);
        frame[16..18].copy_from_slice(&u16::MAX.to_be_bytes());
        frame[38..40].copy_from_slice(&((UDP_LEN + PAYLOAD) as u16).to_be_bytes());
        frame[24..26].fill(0);
        let words = frame[14..34].as_chunks::<2>().0.iter();
        let sum = words
            .map(|word| u32::from(u16::from_be_bytes(*word)))
            .sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
        let datagram = decode(&frame[..]).unwrap();
        assert_eq!(usize::from(datagram.payload_len), PAYLOAD);
        assert_eq!(datagram.end(), frame.len());
        assert_eq!(
            decode(&frame[..frame.len() - 1]),
            Err(Skip::Malformed),
            "one byte short"
        );
    }
}
