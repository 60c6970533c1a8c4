//! Every kind of tags in front of every kind of datagram, and each of them cut short.

use relay_common::{
    abi::Counter,
    wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, VLAN_LEN, udp::field as udp},
};

use super::{
    Case, GROUP, GROUP6, IP, PORT, RULE_DOUBLE, RULE_VLAN, SHORTEST, TAG, UDP, UDP6, bare, changed,
    changed6, ipv4, ipv6, udp_to, udp6_to,
};

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
/// A priority of 5, and no identifier.
const PRIORITY: u16 = 0xa000;

/// What the tags of a frame name.
#[derive(Clone, Copy)]
enum Named {
    Untagged,
    /// The VLAN of a rule.
    Rule,
    /// Another VLAN.
    Other,
    /// None that a rule can name.
    Nothing,
    /// The same, whatever follows.
    TooMany,
}

/// What stands behind the tags.
#[derive(Clone, Copy)]
enum Inner {
    /// A datagram to the group and port of the rules.
    OfRule,
    /// To another one.
    OfNone,
    /// No IP at all.
    NotIp,
    /// What counts as this.
    Skipped(Counter),
}

const fn expected(named: Named, inner: Inner) -> Counter {
    match (named, inner) {
        (Named::TooMany, _) => Counter::PassVlan,
        (_, Inner::NotIp) => Counter::PassNotIp,
        (Named::Nothing, _) => Counter::PassVlan,
        (_, Inner::Skipped(counter)) => counter,
        (Named::Untagged | Named::Rule, Inner::OfRule) => Counter::Redirected,
        (Named::Untagged, Inner::OfNone) => Counter::PassNoRule,
        _ => Counter::PassVlan,
    }
}

/// Tags, from the outermost to the innermost: EtherType and control information.
type Tags = &'static [(u16, u16)];

const TAGS: [(Tags, Named); 22] = [
    (&[], Named::Untagged),
    (&[(VLAN, PRIORITY)], Named::Untagged),
    (&[(QINQ, PRIORITY)], Named::Untagged),
    (&[(VLAN, RULE_VLAN)], Named::Rule),
    (&[(VLAN, PRIORITY | RULE_VLAN)], Named::Rule),
    (&[(VLAN, 101)], Named::Other),
    (&[(VLAN, 0xfff)], Named::Other),
    (&[(QINQ, RULE_VLAN)], Named::Nothing),
    (
        &[(QINQ, RULE_DOUBLE[0]), (VLAN, RULE_DOUBLE[1])],
        Named::Rule,
    ),
    (
        &[(VLAN, RULE_DOUBLE[0]), (VLAN, RULE_DOUBLE[1])],
        Named::Rule,
    ),
    (
        &[(VLAN, RULE_DOUBLE[1]), (VLAN, RULE_DOUBLE[0])],
        Named::Other,
    ),
    (&[(VLAN, 101), (VLAN, RULE_VLAN)], Named::Other),
    (
        &[(VLAN, RULE_DOUBLE[0]), (QINQ, RULE_DOUBLE[1])],
        Named::Nothing,
    ),
    (
        &[(QINQ, RULE_DOUBLE[0]), (QINQ, RULE_DOUBLE[1])],
        Named::Nothing,
    ),
    (&[(VLAN, PRIORITY), (VLAN, RULE_VLAN)], Named::Rule),
    (&[(QINQ, PRIORITY), (VLAN, RULE_VLAN)], Named::Rule),
    (&[(VLAN, RULE_VLAN), (VLAN, PRIORITY)], Named::Rule),
    (&[(VLAN, PRIORITY), (QINQ, RULE_VLAN)], Named::Nothing),
    (&[(VLAN, PRIORITY), (VLAN, PRIORITY)], Named::Untagged),
    (
        &[(VLAN, RULE_DOUBLE[0]), (VLAN, RULE_DOUBLE[1]), (VLAN, 1)],
        Named::TooMany,
    ),
    (
        &[(VLAN, PRIORITY), (VLAN, PRIORITY), (VLAN, PRIORITY)],
        Named::TooMany,
    ),
    (&[(QINQ, 1), (VLAN, 2), (QINQ, 3)], Named::TooMany),
];

/// `frame` with tags.
fn behind(tags: Tags, frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame[..TAG].to_vec();
    for (ethertype, control) in tags {
        tagged.extend(ethertype.to_be_bytes());
        tagged.extend(control.to_be_bytes());
    }
    tagged.extend(&frame[TAG..]);
    tagged
}

fn inner() -> Vec<(&'static str, Vec<u8>, Inner)> {
    let other_group6 = {
        let mut group = GROUP6;
        group[15] ^= 2;
        group
    };
    let far_group6 = {
        let mut group = GROUP6;
        group[5] ^= 1;
        group
    };
    let counts = |counter| Inner::Skipped(counter);
    vec![
        ("IPv4", udp_to(GROUP, PORT, b"payload"), Inner::OfRule),
        (
            "IPv4 without payload",
            udp_to(GROUP, PORT, b""),
            Inner::OfRule,
        ),
        (
            "IPv4, another port",
            udp_to(GROUP, 5002, b"x"),
            Inner::OfNone,
        ),
        (
            "IPv4, another group",
            udp_to([239, 1, 1, 2], PORT, b"x"),
            Inner::OfNone,
        ),
        (
            "an IPv4 fragment",
            changed(|f| f[IP..][ipv4::FRAGMENT][0] = 0x20),
            counts(Counter::PassFragment),
        ),
        (
            "IGMP",
            changed(|f| f[IP..][ipv4::PROTOCOL] = 2),
            counts(Counter::PassNotUdp),
        ),
        (
            "an IPv4 length that is too long",
            changed(|f| f[IP..][ipv4::TOTAL_LEN][1] += 1),
            counts(Counter::PassMalformed),
        ),
        (
            "an IPv4 source of a loopback device",
            changed(|f| f[IP..][ipv4::SOURCE][0] = 127),
            counts(Counter::PassMartian),
        ),
        ("IPv6", udp6_to(GROUP6, PORT, b"payload"), Inner::OfRule),
        (
            "IPv6 without payload",
            udp6_to(GROUP6, PORT, b""),
            Inner::OfRule,
        ),
        (
            "IPv6 with traffic class and flow label",
            changed6(|f| {
                f[IP..][ipv6::VERSION_CLASS_AND_LABEL].copy_from_slice(&[0x6b, 0xba, 0xbc, 0xde]);
            }),
            Inner::OfRule,
        ),
        (
            "IPv6 with a wrong UDP checksum",
            changed6(|f| f[UDP6..][udp::CHECKSUM].copy_from_slice(&[0, 1])),
            Inner::OfRule,
        ),
        (
            "IPv6, another port",
            udp6_to(GROUP6, 5002, b"x"),
            Inner::OfNone,
        ),
        (
            "IPv6, another group",
            udp6_to(other_group6, PORT, b"x"),
            Inner::OfNone,
        ),
        (
            "IPv6, a group that differs in its first half",
            udp6_to(far_group6, PORT, b"x"),
            Inner::OfNone,
        ),
        (
            "IPv6 without a checksum",
            changed6(|f| f[UDP6..][udp::CHECKSUM].fill(0)),
            counts(Counter::PassNoChecksum),
        ),
        (
            "IPv6 with options",
            changed6(|f| f[IP + ipv6::NEXT_HEADER] = 60),
            counts(Counter::PassIpv6Extension),
        ),
        (
            "an IPv6 fragment",
            changed6(|f| f[IP + ipv6::NEXT_HEADER] = 44),
            counts(Counter::PassFragment),
        ),
        (
            "ICMPv6",
            changed6(|f| f[IP + ipv6::NEXT_HEADER] = 58),
            counts(Counter::PassNotUdp),
        ),
        (
            "IPv6 unicast",
            changed6(|f| f[IP..][ipv6::DESTINATION][0] = 0xfd),
            counts(Counter::PassNotMulticast),
        ),
        (
            "an IPv6 group of one host",
            changed6(|f| f[IP..][ipv6::DESTINATION][1] = 0x11),
            counts(Counter::PassMartian),
        ),
        (
            "no IPv6 source",
            changed6(|f| f[IP..][ipv6::SOURCE].fill(0)),
            counts(Counter::PassMartian),
        ),
        (
            "an IPv4 source in an IPv6 header",
            changed6(|f| {
                f[IP..][ipv6::SOURCE].fill(0);
                f[IP..][ipv6::SOURCE][10..12].fill(0xff);
            }),
            counts(Counter::PassMartian),
        ),
        (
            "IPv6 to another group's Ethernet address",
            changed6(|f| f[5] ^= 1),
            counts(Counter::PassOtherMac),
        ),
        (
            "IPv6 to IPv4's Ethernet address",
            changed6(|f| f[..3].copy_from_slice(&[1, 0, 0x5e])),
            counts(Counter::PassOtherMac),
        ),
        (
            "version 4 behind the EtherType of IPv6",
            changed6(|f| f[IP] = 0x45),
            counts(Counter::PassMalformed),
        ),
        (
            "an IPv6 length that is too long",
            changed6(|f| f[IP..][ipv6::PAYLOAD_LEN][1] += 1),
            counts(Counter::PassMalformed),
        ),
        (
            "a UDP length over IPv6 that is too short",
            changed6(|f| f[UDP6..][udp::LEN][1] -= 1),
            counts(Counter::PassMalformed),
        ),
        (
            "an IPv6 length of 0",
            changed6(|f| f[IP..][ipv6::PAYLOAD_LEN].fill(0)),
            counts(Counter::PassMalformed),
        ),
        ("ARP", bare(0x0806), Inner::NotIp),
    ]
}

/// Some hundreds of frames.
pub fn combinations() -> Vec<Case> {
    let inner = inner();
    let mut cases = Vec::new();
    for (tags, named) in TAGS {
        for (what, frame, kind) in &inner {
            cases.push(Case {
                what: format!("{what} behind {tags:x?}"),
                frame: behind(tags, frame),
                expected: expected(named, *kind),
            });
        }
    }
    // Cut anywhere behind its tags a datagram is malformed, and in a tag no IP.
    for (tags, _) in [TAGS[0], TAGS[3], TAGS[8]] {
        for (frame, headers) in [
            (udp6_to(GROUP6, PORT, b"payload"), IPV6_LEN + UDP_LEN),
            (udp_to(GROUP, PORT, b"payload"), IPV4_LEN + UDP_LEN),
        ] {
            let whole = behind(tags, &frame);
            let network = ETHERNET_LEN + tags.len() * VLAN_LEN;
            assert_eq!(whole.len(), network + headers + b"payload".len());
            for len in SHORTEST..whole.len() {
                cases.push(Case {
                    what: format!("cut to {len} bytes, {headers} of IP and UDP, behind {tags:x?}"),
                    frame: whole[..len].to_vec(),
                    expected: if len < network {
                        Counter::PassNotIp
                    } else {
                        Counter::PassMalformed
                    },
                });
            }
        }
    }
    assert!(UDP < UDP6 && cases.len() > 700, "{} cases", cases.len());
    cases
}
