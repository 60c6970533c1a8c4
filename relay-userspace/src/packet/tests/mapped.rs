//! Copies that keep their place in a prefix or a range are those of an output with the one group
//! and port that they go to.

use std::net::IpAddr;

use relay_common::wire::Datagram;

use super::*;
use crate::{config::rules::Prefix, plan::of_group};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A datagram to `group`:`port`, as the decoder finds it, and as copies are made of it.
fn datagram(source: IpAddr, group: IpAddr, port: u16) -> (Datagram, Received) {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], of_group(group));
    match (source, group) {
        (IpAddr::V4(source), IpAddr::V4(group)) => builder
            .ipv4(source.octets(), group.octets(), 8)
            .udp(40_000, port)
            .write(&mut frame, b"payload")
            .unwrap(),
        (IpAddr::V6(source), IpAddr::V6(group)) => builder
            .ipv6(source.octets(), group.octets(), 8)
            .udp(40_000, port)
            .write(&mut frame, b"payload")
            .unwrap(),
        _ => unreachable!("of one version"),
    }
    let datagram = wire::decode(&frame[..]).unwrap();
    let received = Received::read(&frame, &datagram, Known::Complete).unwrap();
    (datagram, received)
}

#[test]
fn a_copy_that_keeps_its_place_is_that_of_an_output_with_its_group_and_port() {
    let v4 = ["10.1.0.2", "10.2.0.1"];
    let v6 = ["2001:db8::7", "2001:db8:2::1"];
    #[rustfmt::skip]
    let cases = [
        (v4, "239.1.1.0/24", "239.7.7.0/24", "239.1.1.0", 5000),
        (v4, "239.1.1.0/24", "239.7.7.0/24", "239.1.1.255", 5099),
        (v4, "239.1.1.0/24", "239.7.7.7", "239.1.1.9", 5042),
        (v4, "239.128.0.0/9", "238.128.0.0/9", "239.255.255.255", 5001),
        (v4, "232.0.0.0/5", "224.0.0.0/5", "239.255.129.3", 5001),
        (v4, "239.1.1.0/31", "239.7.7.254/31", "239.1.1.1", 5001),
        (v6, "ff3e::8000:100/120", "ff3e::8000:700/120", "ff3e::8000:1ab", 5099),
        (v6, "ff3e::/96", "ff1e::/96", "ff3e::ffff:ffff", 5000),
        (v6, "ff3e:40:2001:db8::/96", "ff3e:40:2001:db9::/96", "ff3e:40:2001:db8::8000:1", 5001),
        (v6, "ff3e::/64", "ff3e::8000:2", "ff3e::1:8000:1", 5001),
        (v6, "ff3e::/64", "ff38::/64", "ff3e::1234:5678:9abc:def0", 5001),
        (v6, "ff0e::/16", "ff05::/16", "ff0e:fedc:ba98:7654:3210:fedc:ba98:7654", 5099),
        (v6, "ff00::/8", "ff00::/8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 5000),
    ];
    let (input, range) = (
        PortMatch::between(5000, 5099).unwrap(),
        PortMatch::between(65_436, 65_535).unwrap(),
    );
    for ([sender, source], from, to, group, port) in cases {
        let (sender, source): (IpAddr, IpAddr) = (sender.parse().unwrap(), source.parse().unwrap());
        let (from, to) = (prefix(from), prefix(to));
        let group: IpAddr = group.parse().unwrap();
        let (datagram, received) = datagram(sender, group, port);
        for (ports, out) in [
            (input, range),
            (input, PortMatch::One(6000)),
            (PortMatch::Any, PortMatch::Any),
        ] {
            let matches = Match {
                group: from,
                ports,
                sources: Vec::new(),
                vlan: Vlan::Untagged,
            };
            let header = Header {
                ttl: Ttl::Decrement,
                ..Header::default()
            };
            let keeping = Template::new(&Target {
                source_mac: [2, 0, 0, 0, 0, 9],
                destination_mac: of_group(to.address()),
                source: Some(source),
                group: to,
                port: out,
                header: &header,
                input: &matches,
            })
            .unwrap();
            let keeps = Keeps::places(&to, out);
            assert_eq!(keeping.keeps(), keeps);
            assert_eq!(keeping.is_plain(), keeps.nothing());
            let kept = Keeping::new(&matches, keeps).kept(&datagram, &[], None);
            let mapped = keeping.keeping(&kept);
            let goes = (to.map(&from, group), out.map(ports, port));
            let exact = template_of(source, goes.0, goes.1, Ttl::Decrement);
            let bytes = |write: &dyn Fn(&mut [u8]) -> usize| {
                let mut bytes = [0; HEADERS_ROOM];
                let len = write(&mut bytes);
                bytes[..len].to_vec()
            };
            // Also of a datagram without a checksum, which an IPv6 one never is.
            let absent = group.is_ipv4().then_some(None);
            let sums = [Some(received.udp_sum(b"payload"))];
            for udp_sum in sums.into_iter().chain([absent]).flatten() {
                let whole =
                    |template: &Template| bytes(&|to| template.write(to, &received, 7, udp_sum));
                assert_eq!(whole(&mapped), whole(&exact), "{group}:{port} to {goes:?}");
            }
            let joined =
                |template: &Template| bytes(&|to| template.write_joined(to, &received, 7, 700));
            assert_eq!(
                joined(&mapped),
                joined(&exact),
                "{group}:{port} to {goes:?}"
            );
        }
    }
}
