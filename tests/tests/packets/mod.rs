//! The table of packets that every decoder must agree on: user space, the XDP program and the socket filter.
#![expect(clippy::expect_used, reason = "a table of frames in memory, in tests")]

use etherparse::PacketBuilder;
use relay_common::abi::Counter;

/// The kernel refuses test frames shorter than an Ethernet header.
pub const SHORTEST: usize = 14;

pub const GROUP: [u8; 4] = [239, 1, 1, 1];
pub const PORT: u16 = 5001;

/// A frame and what it counts as.
pub struct Case {
    pub what: String,
    pub frame: Vec<u8>,
    pub expected: Counter,
}

fn case(what: &str, frame: Vec<u8>, expected: Counter) -> Case {
    Case {
        what: what.to_owned(),
        frame,
        expected,
    }
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
}

fn udp_to(group: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv4([10, 1, 0, 2], group, 1)
        .udp(40_000, port)
        .write(&mut frame, payload)
        .expect("a frame in memory");
    frame
}

/// A datagram of the rule.
pub fn matching(payload: &[u8]) -> Vec<u8> {
    udp_to(GROUP, PORT, payload)
}

/// A matching frame with changes to its bytes, its IPv4 checksum made right again.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = matching(b"payload");
    change(&mut frame);
    fix_header(&mut frame);
    frame
}

/// Makes the IPv4 checksum right.
pub fn fix_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34]
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// `inner` with a tag of `ethertype` and identifier 10.
pub fn tagged(ethertype: u16, inner: &[u8]) -> Vec<u8> {
    let mut frame = inner[..12].to_vec();
    frame.extend(ethertype.to_be_bytes());
    frame.extend([0x00, 0x0a]);
    frame.extend(&inner[12..]);
    frame
}

/// A frame of `ethertype` with 46 bytes of zeros.
fn bare(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// Every kind of frame, at least one for each verdict.
pub fn table() -> Vec<Case> {
    let mut with_options = Vec::new();
    ethernet()
        .ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                options: [0x94, 4, 0, 0].into(),
                ..etherparse::Ipv4Header::new(
                    15,
                    1,
                    etherparse::IpNumber::UDP,
                    [10, 1, 0, 2],
                    GROUP,
                )
                .expect("a short payload")
            },
            etherparse::Ipv4Extensions::default(),
        ))
        .udp(40_000, PORT)
        .write(&mut with_options, b"payload")
        .expect("a frame in memory");
    let mut ipv6 = Vec::new();
    let mut source = [0; 16];
    source[0] = 0xfe;
    let mut group = [0; 16];
    group[0] = 0xff;
    ethernet()
        .ipv6(source, group, 1)
        .udp(40_000, PORT)
        .write(&mut ipv6, b"payload")
        .expect("a frame in memory");
    let mut tcp = Vec::new();
    ethernet()
        .ipv4([10, 1, 0, 2], GROUP, 1)
        .tcp(1, PORT, 0, 0)
        .write(&mut tcp, &[])
        .expect("a frame in memory");
    let plain = matching(b"payload");
    let mut padded = matching(b"abc");
    padded.resize(60, 0xee);

    let mut table = vec![
        case("a datagram of the rule", plain.clone(), Counter::Redirected),
        case("one without payload", matching(&[]), Counter::Redirected),
        case(
            "one of 1472 bytes",
            matching(&[7; 1472]),
            Counter::Redirected,
        ),
        case(
            "one with Ethernet padding behind it",
            padded,
            Counter::Redirected,
        ),
        case(
            "one without a UDP checksum",
            changed(|f| f[40..42].fill(0)),
            Counter::Redirected,
        ),
        case(
            "one with a wrong UDP checksum",
            changed(|f| f[40] ^= 0xff),
            Counter::Redirected,
        ),
        case(
            "one that must not be fragmented",
            changed(|f| f[20] = 0x40),
            Counter::Redirected,
        ),
        case(
            "one with a DSCP and ECN",
            changed(|f| f[15] = 0xbb),
            Counter::Redirected,
        ),
        case(
            "another port",
            udp_to(GROUP, 5002, b"x"),
            Counter::PassNoRule,
        ),
        case(
            "another group",
            udp_to([239, 1, 1, 2], PORT, b"x"),
            Counter::PassNoRule,
        ),
        case(
            "the group of another MAC bit",
            udp_to([239, 129, 1, 1], PORT, b"x"),
            Counter::PassNoRule,
        ),
        case(
            "a tagged datagram",
            tagged(0x8100, &plain),
            Counter::PassVlan,
        ),
        case(
            "a priority tag with identifier 0",
            {
                let mut frame = tagged(0x8100, &plain);
                frame[15] = 0;
                frame
            },
            Counter::PassVlan,
        ),
        case(
            "a double tag",
            tagged(0x88a8, &tagged(0x8100, &plain)),
            Counter::PassVlan,
        ),
        case(
            "two customer tags",
            tagged(0x8100, &tagged(0x8100, &plain)),
            Counter::PassVlan,
        ),
        case("IPv6", ipv6.clone(), Counter::PassIpv6),
        case("tagged IPv6", tagged(0x8100, &ipv6), Counter::PassIpv6),
        case("ARP", bare(0x0806), Counter::PassNotIp),
        case(
            "tagged ARP",
            tagged(0x8100, &bare(0x0806)),
            Counter::PassNotIp,
        ),
        case("PTP over Ethernet", bare(0x88f7), Counter::PassNotIp),
        case(
            "an 802.3 length instead of a type",
            bare(46),
            Counter::PassNotIp,
        ),
        case(
            "IP options (router alert)",
            with_options,
            Counter::PassIpOptions,
        ),
        case(
            "the first fragment",
            changed(|f| f[20] = 0x20),
            Counter::PassFragment,
        ),
        case(
            "a later fragment",
            changed(|f| f[21] = 0x08),
            Counter::PassFragment,
        ),
        case("TCP", tcp, Counter::PassNotUdp),
        case("ICMP", changed(|f| f[23] = 1), Counter::PassNotUdp),
        case("IGMP", changed(|f| f[23] = 2), Counter::PassNotUdp),
        case(
            "unicast",
            udp_to([10, 1, 0, 1], PORT, b"x"),
            Counter::PassNotMulticast,
        ),
        case(
            "broadcast",
            udp_to([255; 4], PORT, b"x"),
            Counter::PassNotMulticast,
        ),
        case(
            "a wrong IPv4 checksum",
            {
                let mut frame = plain.clone();
                frame[24] ^= 1;
                frame
            },
            Counter::PassMalformed,
        ),
        case(
            "IP version 5",
            changed(|f| f[14] = 0x55),
            Counter::PassMalformed,
        ),
        case(
            "an IPv4 header of 16 bytes",
            changed(|f| f[14] = 0x44),
            Counter::PassMalformed,
        ),
        case(
            "a total length beyond the frame",
            changed(|f| f[17] = 200),
            Counter::PassMalformed,
        ),
        case(
            "a total length of 0",
            changed(|f| f[16..18].fill(0)),
            Counter::PassMalformed,
        ),
        case(
            "a UDP length beyond the IP packet",
            changed(|f| f[39] = 200),
            Counter::PassMalformed,
        ),
        case(
            "a UDP length short of the IP packet",
            changed(|f| f[39] -= 1),
            Counter::PassMalformed,
        ),
        case(
            "a UDP length of 7",
            changed(|f| f[39] = 7),
            Counter::PassMalformed,
        ),
    ];
    for len in SHORTEST..plain.len() {
        let mut frame = plain.clone();
        frame.truncate(len);
        table.push(case(
            &format!("cut to {len} bytes"),
            frame,
            Counter::PassMalformed,
        ));
    }
    let tagged = tagged(0x8100, &plain);
    for len in SHORTEST..18 {
        table.push(case(
            &format!("tagged, cut to {len} bytes"),
            tagged[..len].to_vec(),
            Counter::PassNotIp,
        ));
    }
    table
}
