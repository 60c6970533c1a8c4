//! The source address of copies: the output interface's, as the kernel would choose it.

use std::net::{IpAddr, Ipv6Addr};

use crate::host::{InterfaceFacts, Ipv6Address};

/// The source of copies to `group` that leave through an interface; `None` if it has no address of
/// the group's version of IP.
///
/// Of several IPv4 addresses it is the first. Of several IPv6 addresses it is the one that the
/// kernel would choose (RFC 6724, section 5; `ipv6_get_saddr_eval` in net/ipv6/addrconf.c), with
/// one exception: temporary addresses come last whatever `net.ipv6.conf.*.use_tempaddr` says, since
/// receivers that name a source would lose the feed when the next one takes its place.
pub(super) fn choose(facts: &InterfaceFacts, group: IpAddr) -> Option<IpAddr> {
    match group {
        IpAddr::V4(_) => facts.addresses.first().copied().map(IpAddr::V4),
        IpAddr::V6(group) => {
            let [_, scope, ..] = group.octets();
            // The first one of several that are equally good.
            let addresses = facts.ipv6_addresses.iter();
            let best = addresses.min_by_key(|one| rank(one, scope & 0x0f));
            best.map(|best| IpAddr::V6(best.address))
        }
    }
}

/// How an address suits a group of this scope: the lower the better. Rules 2, 3, 6 and 7 of RFC
/// 6724 in their order; the others do not tell addresses of one interface apart here.
fn rank(one: &Ipv6Address, group_scope: u8) -> (u8, bool, bool, bool) {
    let scope = scope(one.address);
    // The smallest scope that reaches as far as the group's, else the largest below it.
    let distance = if scope >= group_scope {
        scope
    } else {
        128 - scope
    };
    let other_label = !has_label_of_groups(one.address);
    (distance, one.avoided, other_label, one.temporary)
}

const LINK_LOCAL: u8 = 2;
const SITE_LOCAL: u8 = 5;
const GLOBAL: u8 = 14;

/// The scope of an address (RFC 4007, section 4), as a number like that of a group.
fn scope(address: Ipv6Addr) -> u8 {
    match address.segments() {
        [first, ..] if first & 0xffc0 == 0xfe80 => LINK_LOCAL,
        [first, ..] if first & 0xffc0 == 0xfec0 => SITE_LOCAL,
        _ => GLOBAL,
    }
}

/// Whether the kernel's policy table (net/ipv6/addrlabel.c; RFC 6724, section 2.1) gives an address
/// the same label as a group.
fn has_label_of_groups(address: Ipv6Addr) -> bool {
    !matches!(
        address.segments(),
        // Unique local, site-local, 6to4, 6bone, Teredo and ORCHID.
        [0xfc00..=0xfdff, ..]
            | [0xfec0..=0xfeff, ..]
            | [0x2002 | 0x3ffe, ..]
            | [0x2001, 0 | 0x10..=0x1f, ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::igb;

    /// An address as `ip address` writes it, with its flags behind it.
    fn address(text: &str) -> Ipv6Address {
        let mut words = text.split(' ');
        let address = words.next().unwrap().parse().unwrap();
        let flags: Vec<&str> = words.collect();
        Ipv6Address {
            address,
            avoided: flags.contains(&"deprecated"),
            temporary: flags.contains(&"temporary"),
        }
    }

    #[test]
    fn the_source_is_the_one_that_rfc_6724_chooses() {
        for (group, addresses, chosen) in [
            (
                "ff02::1:1",
                &["2001:db8::1", "fe80::1"][..],
                Some("fe80::1"),
            ),
            ("ff12::1", &["fd00::1", "fe80::1"], Some("fe80::1")),
            (
                "ff3e::8000:1",
                &["fe80::1", "2001:db8::1"],
                Some("2001:db8::1"),
            ),
            ("ff05::1", &["fe80::1", "2001:db8::1"], Some("2001:db8::1")),
            ("ff05::1", &["2001:db8::1", "fec0::1"], Some("fec0::1")),
            ("ff08::1", &["fec0::1", "fe80::1"], Some("fec0::1")),
            ("ff0e::1", &["fe80::1"], Some("fe80::1")),
            ("ff02::1", &["2001:db8::1"], Some("2001:db8::1")),
            (
                "ff0e::1",
                &["2001:db8::1 deprecated", "2001:db8::2"],
                Some("2001:db8::2"),
            ),
            (
                "ff0e::1",
                &["2001:db8::1 deprecated", "fe80::1"],
                Some("2001:db8::1"),
            ),
            (
                "ff0e::1",
                &["2001:db8::1 deprecated", "fd00::1"],
                Some("fd00::1"),
            ),
            ("ff0e::1", &["fd00::1", "2001:db8::1"], Some("2001:db8::1")),
            (
                "ff0e::1",
                &["2002:a01::1", "2001:db8::1"],
                Some("2001:db8::1"),
            ),
            (
                "ff0e::1",
                &["2001::1", "2001:db8::1 temporary"],
                Some("2001:db8::1"),
            ),
            (
                "ff0e::1",
                &["2001:db8::1 temporary", "2001:db8::2"],
                Some("2001:db8::2"),
            ),
            (
                "ff0e::1",
                &["2001:db8::2", "2001:db8::1"],
                Some("2001:db8::2"),
            ),
            ("ff0e::1", &[], None),
        ] {
            let facts = InterfaceFacts {
                ipv6_addresses: addresses.iter().map(|text| address(text)).collect(),
                ..igb("out0", 1)
            };
            let right = chosen.map(|chosen| chosen.parse().unwrap());
            let group = group.parse().unwrap();
            assert_eq!(choose(&facts, group), right, "{group} {addresses:?}");
        }
    }

    #[test]
    fn copies_to_ipv4_groups_leave_with_the_first_address() {
        let mut facts = igb("out0", 1);
        facts.addresses.push([10, 0, 0, 2].into());
        let group = IpAddr::from([239, 1, 1, 1]);
        assert_eq!(choose(&facts, group), Some([10, 0, 0, 1].into()));
        facts.addresses.clear();
        facts.ipv6_addresses.push(address("2001:db8::1"));
        assert_eq!(choose(&facts, group), None);
    }
}
