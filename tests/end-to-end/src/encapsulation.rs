//! What a feed comes as: over IPv4 or IPv6, untagged or with VLAN tags.
//!
//! Tests write rules and datagrams over IPv4, untagged; an encapsulation says what they are
//! otherwise. Feeds in different encapsulations may have the same rules, in one relay, at the same
//! time: their inputs differ in nothing but the encapsulation, and their outputs never meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType and identifier (with priority) of a VLAN tag.
pub type Tag = (u16, u16);

/// EtherType of a tag of IEEE 802.1Q.
pub const CUSTOMER: u16 = 0x8100;
/// EtherType of an outer tag of IEEE 802.1ad.
pub const SERVICE: u16 = 0x88a8;

/// What a feed comes as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// IPv4, untagged.
    Ipv4,
    /// IPv6, untagged.
    Ipv6,
    /// IPv4 in VLAN 100.
    Tagged,
    /// IPv6 in VLAN 200 of VLAN 100, tagged twice.
    DoubleTagged6,
}

use Encapsulation::{DoubleTagged6, Ipv4, Ipv6, Tagged};

impl Encapsulation {
    /// All of them.
    pub const ALL: [Self; 4] = [Ipv4, Ipv6, Tagged, DoubleTagged6];

    /// In names.
    pub const fn name(self) -> &'static str {
        match self {
            Ipv4 => "ipv4",
            Ipv6 => "ipv6",
            Tagged => "tagged",
            DoubleTagged6 => "double-tagged6",
        }
    }

    /// Whether it is IPv6.
    pub const fn is_ipv6(self) -> bool {
        matches!(self, Ipv6 | DoubleTagged6)
    }

    /// The tags of frames that arrive, the outer one first.
    pub const fn tags(self) -> &'static [Tag] {
        match self {
            Ipv4 | Ipv6 => &[],
            Tagged => &[(CUSTOMER, 100)],
            DoubleTagged6 => &[(SERVICE, 100), (CUSTOMER, 200)],
        }
    }

    /// The most payload of a datagram in an IP packet of `mtu` bytes: tags are outside of it.
    pub const fn most_payload(self, mtu: usize) -> usize {
        mtu - if self.is_ipv6() { 48 } else { 28 }
    }

    /// What stands for a group of an input, or for the address of a host.
    pub fn input(self, address: Ipv4Addr) -> IpAddr {
        match self.is_ipv6() {
            false => address.into(),
            true => ipv6_of(address).into(),
        }
    }

    /// What stands for a group that copies are sent to.
    pub fn output(self, group: Ipv4Addr) -> IpAddr {
        let [a, b, c, d] = group.octets();
        match (self, self.input(group)) {
            (Tagged, _) => Ipv4Addr::new(a.wrapping_sub(2), b, c, d).into(),
            (DoubleTagged6, IpAddr::V6(group)) => {
                Ipv6Addr::from_bits(group.to_bits() | 1 << 32).into()
            }
            (_, same) => same,
        }
    }

    /// Keys of an input as a rule file has them.
    pub fn input_keys(self, keys: &str) -> String {
        self.keys(keys, Self::input) + &vlan_key(self.tags())
    }

    /// Keys of an output as a rule file has them.
    pub fn output_keys(self, keys: &str) -> String {
        self.keys(keys, Self::output)
    }

    /// `keys` with each address and each prefix in quotes as `map` says.
    fn keys(self, keys: &str, map: impl Fn(Self, Ipv4Addr) -> IpAddr) -> String {
        let written = |text: &str| -> Option<String> {
            let (address, length) = match text.split_once('/') {
                Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
                None => (text, None),
            };
            let address = map(self, address.parse().ok()?);
            let more = if self.is_ipv6() { 96 } else { 0 };
            Some(match length {
                Some(length) => format!("{address}/{}", length + more),
                None => address.to_string(),
            })
        };
        let parts = keys
            .split('"')
            .map(|part| written(part).unwrap_or_else(|| part.to_owned()));
        parts.collect::<Vec<_>>().join("\"")
    }
}

/// The key of an input that names the VLANs of `tags`, as a rule file has it behind others.
pub fn vlan_key(tags: &[Tag]) -> String {
    match tags {
        [] => String::new(),
        [(_, id)] => format!(", vlan = {id}"),
        tags => {
            let ids: Vec<u16> = tags.iter().map(|(_, id)| *id).collect();
            format!(", vlan = {ids:?}")
        }
    }
}

/// The IPv6 address that stands for an IPv4 address: in ff3e::/96 for a group, 2001:db8:b:c::d for
/// the host a.b.c.d.
pub fn ipv6_of(address: Ipv4Addr) -> Ipv6Addr {
    let [_, b, c, d] = address.octets().map(u16::from);
    match address.is_multicast() {
        true => Ipv6Addr::from_bits(0xff3e << 112 | u128::from(address.to_bits())),
        false => Ipv6Addr::new(0x2001, 0xdb8, b, c, 0, 0, 0, d),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_encapsulation() {
        let keys = "group = \"239.1.1.0/24\", port = \"5000-5009\", source = \"10.1.0.7\"";
        for (encapsulation, input, output) in [
            (Ipv4, keys.to_owned(), keys.to_owned()),
            (
                Ipv6,
                "group = \"ff3e::ef01:100/120\", port = \"5000-5009\", source = \"2001:db8:1::7\""
                    .to_owned(),
                "group = \"ff3e::ef01:100/120\", port = \"5000-5009\", source = \"2001:db8:1::7\""
                    .to_owned(),
            ),
            (
                Tagged,
                format!("{keys}, vlan = 100"),
                keys.replace("239.", "237.").replace("10.1.", "8.1."),
            ),
        ] {
            assert_eq!(encapsulation.input_keys(keys), input);
            assert_eq!(encapsulation.output_keys(keys), output);
        }
        let keys = DoubleTagged6.input_keys("group = \"239.1.1.1\"");
        assert_eq!(keys, "group = \"ff3e::ef01:101\", vlan = [100, 200]");
        let keys = DoubleTagged6.output_keys("group = \"239.1.1.1\"");
        assert_eq!(keys, "group = \"ff3e::1:ef01:101\"");
    }
}
