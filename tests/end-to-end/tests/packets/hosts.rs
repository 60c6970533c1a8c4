//! Datagrams to an address of the relay's host, some of which a rule names.

use relay_common::{abi::Counter, wire::VLAN_LEN};

use super::{
    Case, HOST, HOST6, INPUT_MAC, IP, OUTPUT_ADDRESS, OUTPUT_MAC, PORT, RULE_VLAN, SHORTEST, UDP,
    UDP6, case, ethernet, fix_header, ipv4, ipv6, priority_tagged, tagged, udp, udp_to, udp6_to,
};

/// A datagram to `address`, and to the Ethernet address of the input.
fn to(address: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = udp_to(address, port, b"payload");
    frame[ethernet::DESTINATION].copy_from_slice(&INPUT_MAC);
    frame
}

/// The same over IPv6.
fn to6(address: [u8; 16], port: u16) -> Vec<u8> {
    let mut frame = udp6_to(address, port, b"payload");
    frame[ethernet::DESTINATION].copy_from_slice(&INPUT_MAC);
    frame
}

/// A datagram of the rule with changes, its IPv4 checksum made right again.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = to(HOST, PORT);
    change(&mut frame);
    fix_header(&mut frame);
    frame
}

/// The same over IPv6.
fn changed6(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = to6(HOST6, PORT);
    change(&mut frame);
    frame
}

/// A datagram of the rule sent to another Ethernet address.
fn to_mac(mac: [u8; 6]) -> Vec<u8> {
    changed(|f| f[ethernet::DESTINATION].copy_from_slice(&mac))
}

/// In a VLAN.
fn in_vlan(id: u16, frame: &[u8]) -> Vec<u8> {
    let mut frame = tagged(0x8100, frame);
    let tci = ethernet::TYPE.end;
    frame[tci..tci + 2].copy_from_slice(&id.to_be_bytes());
    frame
}

pub fn hosts() -> Vec<Case> {
    let (plain, plain6) = (to(HOST, PORT), to6(HOST6, PORT));
    let mut other6 = HOST6;
    other6[15] ^= 1;
    let [a, b, c, d] = HOST;
    let mut cases: Vec<(&str, Vec<u8>, Counter)> = vec![
        ("a datagram of the rule", plain.clone(), Counter::Redirected),
        (
            "one over IPv6, with a second byte like a narrow scope",
            plain6.clone(),
            Counter::Redirected,
        ),
        (
            "one without a UDP checksum",
            changed(|f| f[UDP..][udp::CHECKSUM].fill(0)),
            Counter::Redirected,
        ),
        (
            "a priority tag",
            priority_tagged(0x8100, &plain),
            Counter::Redirected,
        ),
        (
            "the VLAN of a rule",
            in_vlan(RULE_VLAN, &plain),
            Counter::Redirected,
        ),
        (
            "the VLAN of a rule, IPv6",
            in_vlan(RULE_VLAN, &plain6),
            Counter::Redirected,
        ),
        (
            "another VLAN",
            in_vlan(RULE_VLAN + 1, &plain),
            Counter::PassNotMulticast,
        ),
        (
            "another VLAN, IPv6",
            in_vlan(RULE_VLAN + 1, &plain6),
            Counter::PassNotMulticast,
        ),
        (
            "another port",
            to(HOST, PORT + 1),
            Counter::PassNotMulticast,
        ),
        (
            "another port, IPv6",
            to6(HOST6, PORT + 1),
            Counter::PassNotMulticast,
        ),
        (
            "another address",
            to([a, b, c, d + 1], PORT),
            Counter::PassNotMulticast,
        ),
        (
            "another address, IPv6",
            to6(other6, PORT),
            Counter::PassNotMulticast,
        ),
        (
            "to another host's Ethernet address",
            to_mac([2, 0, 10, 1, 0, 9]),
            Counter::PassOtherMac,
        ),
        (
            "to another host's Ethernet address, IPv6",
            changed6(|f| f[5] ^= 1),
            Counter::PassOtherMac,
        ),
        (
            "to everybody's Ethernet address",
            to_mac([0xff; 6]),
            Counter::PassNotMulticast,
        ),
        (
            "to the Ethernet address of a group",
            to_mac([1, 0, 0x5e, 1, 0, 1]),
            Counter::PassNotMulticast,
        ),
        (
            "the broadcast address from no source, as DHCP sends",
            {
                let mut frame = udp_to([255; 4], 67, b"x");
                frame[ethernet::DESTINATION].fill(0xff);
                frame[IP..][ipv4::SOURCE].fill(0);
                fix_header(&mut frame);
                frame
            },
            Counter::PassNotMulticast,
        ),
        (
            "from no source",
            changed(|f| f[IP..][ipv4::SOURCE].fill(0)),
            Counter::PassMartian,
        ),
        (
            "from a loopback device",
            changed(|f| f[IP..][ipv4::SOURCE].copy_from_slice(&[127, 0, 0, 1])),
            Counter::PassMartian,
        ),
        (
            "from no source, IPv6",
            changed6(|f| f[IP..][ipv6::SOURCE].fill(0)),
            Counter::PassMartian,
        ),
        (
            "from the Ethernet address of the output",
            changed(|f| f[ethernet::SOURCE].copy_from_slice(&OUTPUT_MAC)),
            Counter::OwnFrame,
        ),
        (
            "from the address of the output",
            changed(|f| f[IP..][ipv4::SOURCE].copy_from_slice(&OUTPUT_ADDRESS)),
            Counter::OwnFrame,
        ),
        (
            "from the Ethernet address of the output, IPv6",
            changed6(|f| f[ethernet::SOURCE].copy_from_slice(&OUTPUT_MAC)),
            Counter::OwnFrame,
        ),
        (
            "a fragment",
            changed(|f| f[IP..][ipv4::FRAGMENT][0] = 0x20),
            Counter::PassFragment,
        ),
        (
            "a fragment, IPv6",
            changed6(|f| f[IP + ipv6::NEXT_HEADER] = 44),
            Counter::PassFragment,
        ),
        (
            "ICMP",
            changed(|f| f[IP..][ipv4::PROTOCOL] = 1),
            Counter::PassNotUdp,
        ),
        (
            "TCP",
            changed(|f| f[IP..][ipv4::PROTOCOL] = 6),
            Counter::PassNotUdp,
        ),
        (
            "ICMPv6",
            changed6(|f| f[IP + ipv6::NEXT_HEADER] = 58),
            Counter::PassNotUdp,
        ),
        (
            "IPv6 without a checksum",
            changed6(|f| f[UDP6..][udp::CHECKSUM].fill(0)),
            Counter::PassNoChecksum,
        ),
        (
            "a wrong IPv4 checksum",
            {
                let mut frame = plain.clone();
                frame[IP..][ipv4::CHECKSUM][0] ^= 1;
                frame
            },
            Counter::PassMalformed,
        ),
        (
            "a length that is too long",
            changed(|f| f[IP..][ipv4::TOTAL_LEN][1] += 1),
            Counter::PassMalformed,
        ),
        (
            "a length that is too long, IPv6",
            changed6(|f| f[IP..][ipv6::PAYLOAD_LEN][1] += 1),
            Counter::PassMalformed,
        ),
    ];
    for whole in [plain, plain6] {
        for len in SHORTEST..whole.len() {
            cases.push(("cut short", whole[..len].to_vec(), Counter::PassMalformed));
        }
        let whole = in_vlan(RULE_VLAN, &whole);
        for len in SHORTEST + VLAN_LEN..whole.len() {
            cases.push(("cut short", whole[..len].to_vec(), Counter::PassMalformed));
        }
    }
    let all = cases.into_iter();
    all.map(|(what, frame, expected)| {
        let what = format!("to a host: {what}, {} bytes", frame.len());
        case(&what, frame, expected)
    })
    .collect()
}
