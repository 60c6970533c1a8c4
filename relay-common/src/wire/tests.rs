//! Whole frames through the decoder. The expected values are written out here; that kernel and user
//! space agree is tested in tests/, on frames that another implementation builds.

use super::*;

/// Where the headers of an untagged frame start.
const IP: usize = ETHERNET_LEN;
const UDP: usize = ETHERNET_LEN + IPV4_LEN;
/// Where a tag goes: behind the addresses.
const TAG: usize = ethernet::field::TYPE.start;

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
/// The bytes of [`FRAME`] without padding.
const LEN: usize = IPV4_HEADERS_LEN + 3;

#[test]
fn a_plain_datagram_decodes_to_its_fields() {
    let datagram = decode(&FRAME[..]).unwrap();
    assert_eq!(datagram.group, [239, 1, 1, 1]);
    assert_eq!(datagram.port, 5001);
    assert_eq!(datagram.vlan, Datagram::UNTAGGED);
    assert_eq!(&FRAME[datagram.payload()..datagram.end()], b"abc");
}

#[test]
fn every_truncation_is_skipped_and_none_panics() {
    for len in 0..LEN {
        assert!(decode(&FRAME[..len]).is_err(), "{len} bytes");
    }
    assert!(decode(&FRAME[..LEN]).is_ok());
}

#[test]
fn one_changed_byte_in_the_ip_header_never_passes_for_the_same_datagram() {
    let whole = decode(&FRAME[..]).unwrap();
    for at in IP..UDP {
        for bit in 0..8 {
            let mut frame = FRAME;
            frame[at] ^= 1 << bit;
            assert_ne!(decode(&frame[..]), Ok(whole), "byte {at}, bit {bit}");
        }
    }
}

/// [`FRAME`] with `tags` behind its addresses, of one EtherType and one control information each,
/// and `ethertype` behind them.
fn tagged<const N: usize>(tags: [(u16, u16); N], ethertype: u16) -> ([u8; 80], usize) {
    let mut frame = [0; 80];
    frame[..TAG].copy_from_slice(&FRAME[..TAG]);
    let mut at = TAG;
    for (tpid, tci) in tags {
        let tag = &mut frame[at..][..VLAN_LEN];
        let (tag_type, tag_tci) = tag.split_at_mut(vlan::field::TCI.len());
        tag_type.copy_from_slice(&tpid.to_be_bytes());
        tag_tci.copy_from_slice(&tci.to_be_bytes());
        at += VLAN_LEN;
    }
    let rest = &FRAME[TAG..];
    frame[at..][..rest.len()].copy_from_slice(rest);
    frame[at..][..size_of::<u16>()].copy_from_slice(&ethertype.to_be_bytes());
    (frame, at + rest.len())
}

#[test]
fn a_stripped_tag_counts_as_if_it_were_in_its_place() {
    const TYPES: [u16; 4] = [ethertype::IPV4, ethertype::IPV6, 0x0806, 0];
    const TCIS: [u16; 3] = [0, 10, 0xe00a];
    let check = |whole: &[u8], tag: StrippedTag| {
        let mut stripped = [0; 80];
        let len = whole.len() - VLAN_LEN;
        stripped[..TAG].copy_from_slice(&whole[..TAG]);
        stripped[TAG..len].copy_from_slice(&whole[TAG + VLAN_LEN..]);
        let expected = decode(whole).map(|datagram| Datagram {
            network: datagram.network - VLAN_LEN as u16,
            ..datagram
        });
        let found = decode_stripped(&stripped[..len], Some(tag));
        assert_eq!(found, expected, "{tag:x?} {whole:02x?}");
    };
    for outer in [ethertype::VLAN, ethertype::QINQ] {
        for tci in TCIS {
            let tag = StrippedTag { tpid: outer, tci };
            for ethertype in TYPES {
                let (one, len) = tagged([(outer, tci)], ethertype);
                // From the shortest frame that still has an EtherType without the tag.
                for len in ETHERNET_LEN + VLAN_LEN..=len {
                    check(&one[..len], tag);
                }
                for inner in [ethertype::VLAN, ethertype::QINQ] {
                    let (two, len) = tagged([(outer, tci), (inner, 20)], ethertype);
                    check(&two[..len], tag);
                }
            }
        }
    }
}

#[test]
fn a_stripped_tag_gives_the_datagram_its_identifier_and_leaves_its_offsets() {
    let tag = StrippedTag {
        tpid: ethertype::VLAN,
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
fn a_gso_packet_is_one_datagram_of_the_whole_length() {
    const PAYLOAD: usize = 65_507;
    let mut frame = [0; IPV4_HEADERS_LEN + PAYLOAD];
    frame[..FRAME.len()].copy_from_slice(&FRAME);
    let ip = &mut frame[IP..UDP];
    ip[ipv4::field::TOTAL_LEN].copy_from_slice(&u16::MAX.to_be_bytes());
    ip[ipv4::field::CHECKSUM].fill(0);
    let words = ip.as_chunks::<2>().0.iter();
    let sum = words
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[ipv4::field::CHECKSUM].copy_from_slice(&(!sum as u16).to_be_bytes());
    frame[UDP..][udp::field::LEN].copy_from_slice(&((UDP_LEN + PAYLOAD) as u16).to_be_bytes());
    let datagram = decode(&frame[..]).unwrap();
    assert_eq!(usize::from(datagram.payload_len), PAYLOAD);
    assert_eq!(datagram.end(), frame.len());
    assert_eq!(
        decode(&frame[..frame.len() - 1]),
        Err(Skip::Malformed),
        "one byte short"
    );
}
