//! Readers of what a rule matches and sends: `group`, `port`, `source` and `vlan`.

use std::net::{IpAddr, SocketAddr};

use toml::de::DeValue;

use super::{
    draft::At,
    mistake::quoted,
    reader::Reader,
    rules::{PortMatch, Prefix, Vlan},
    values::{Side, Value, close},
};

/// The most sources of one input.
pub(super) const MAX_SOURCES: usize = 64;

const A_GROUP: &str = "give a multicast group, such as \"239.1.1.1\" or \"ff3e::8000:1\"";
const PORTS: &str = "give a number from 1 to 65535, a range such as \"5000-5099\", or \"any\"";

impl Reader<'_, '_> {
    /// A multicast group, or a prefix of them.
    pub(super) fn group(
        &mut self,
        value: &Value<'_>,
        label: &str,
        side: Side,
    ) -> Option<At<Prefix>> {
        let At { place, value: text } = self.string(value, "group", label, "\"239.1.1.1\"")?;
        let found = match text.split_once('/') {
            None => one(&text),
            Some((address, length)) => prefix(address, length),
        };
        match found.and_then(|prefix| multicast(prefix, side)) {
            Ok(value) => Some(At { place, value }),
            Err((cause, remedy)) => {
                let shown = quoted(&text);
                let cause = format!("{label}: `group` \"{shown}\" {cause}");
                self.found.add(place, cause, remedy);
                None
            }
        }
    }

    /// A port, a range of ports, or all of them.
    pub(super) fn ports(&mut self, value: &Value<'_>, label: &str) -> Option<At<PortMatch>> {
        let text = match value.get_ref() {
            DeValue::Integer(_) => {
                let port = self.integer(value, "port", label, 1..=65_535, "5001")?;
                return Some(At {
                    place: port.place,
                    value: PortMatch::One(u16::try_from(port.value).ok()?),
                });
            }
            DeValue::String(text) => text,
            _ => {
                self.wrong_type(value, "port", label, "an integer or a string", "5001");
                return None;
            }
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if is_number(text) {
            self.wrong_type(value, "port", label, "an integer", "5001");
            return None;
        }
        let place = self.found.place(&value.span());
        if text == "any" {
            let value = PortMatch::Any;
            return Some(At { place, value });
        }
        let shown = quoted(text);
        let bounds = text.split_once('-').map(|(a, b)| (a.trim(), b.trim()));
        let (cause, remedy) = match bounds {
            Some((first, last)) if is_number(first) && is_number(last) => {
                match (first.parse::<u16>(), last.parse::<u16>()) {
                    (Ok(first @ 1..), Ok(last @ 1..)) => match PortMatch::between(first, last) {
                        Some(value) => return Some(At { place, value }),
                        None => ("ends before it begins", format!("write \"{last}-{first}\"")),
                    },
                    _ => ("is out of range", PORTS.to_owned()),
                }
            }
            _ if close(text, &["any"]).is_some() => ("is unknown", "did you mean \"any\"?".into()),
            _ => ("is unknown", PORTS.to_owned()),
        };
        let cause = format!("{label}: `port` \"{shown}\" {cause}");
        self.found.add(place, cause, remedy);
        None
    }

    /// The sources of an input, ascending; `like` is one of its groups, or its address, if that
    /// could be read.
    pub(super) fn sources(
        &mut self,
        value: &Value<'_>,
        label: &str,
        like: Option<IpAddr>,
    ) -> Option<Vec<IpAddr>> {
        let list = match value.get_ref() {
            DeValue::String(_) => std::slice::from_ref(value),
            DeValue::Array(list) => list,
            _ => {
                let wanted = "an address, or an array of addresses";
                self.wrong_type(value, "source", label, wanted, "\"10.1.1.7\"");
                return None;
            }
        };
        let place = self.found.place(&value.span());
        if list.is_empty() {
            self.found.add(
                place,
                format!("{label}: `source` is empty"),
                "name at least one, or leave `source` out: then it takes datagrams of any source",
            );
            return None;
        }
        if list.len() > MAX_SOURCES {
            self.found.add(
                place,
                format!(
                    "{label}: `source` lists {} addresses; {MAX_SOURCES} are possible",
                    list.len()
                ),
                "split them over several rules, or leave `source` out to take any",
            );
            return None;
        }
        let mut sources: Vec<At<IpAddr>> = Vec::with_capacity(list.len());
        let mut all_read = true;
        for value in list {
            match self.source(value, label, like) {
                Some(source) => sources.push(source),
                None => all_read = false,
            }
        }
        sources.sort_by_key(|source| (source.value, source.place));
        for pair in sources.windows(2) {
            if let [first, second] = pair
                && first.value == second.value
            {
                all_read = false;
                let (source, first) = (second.value, first.place);
                self.found.add(
                    second.place,
                    format!("{label}: `source` lists {source} twice; first at {first}"),
                    "list each once",
                );
            }
        }
        all_read.then(|| sources.into_iter().map(|source| source.value).collect())
    }

    fn source(
        &mut self,
        value: &Value<'_>,
        label: &str,
        like: Option<IpAddr>,
    ) -> Option<At<IpAddr>> {
        let At { place, value: text } = self.string(value, "source", label, "\"10.1.1.7\"")?;
        let (cause, remedy) = match text.parse::<IpAddr>() {
            Err(_) if text.contains('/') => (
                "is a range of addresses, and a source is one",
                "list the sources one by one, or leave `source` out to take any",
            ),
            Err(_) => (
                "is not an IP address",
                "give the address that the sender has, such as \"10.1.1.7\" or \"2001:db8::7\"",
            ),
            Ok(source) if !is_host(source) => (
                "is no address that a host sends from",
                "give the address that the sender has, or leave `source` out to take any",
            ),
            Ok(source) => match like {
                Some(like) if like.is_ipv4() != source.is_ipv4() && !like.is_multicast() => (
                    "is not of the IP version of `address`",
                    "give an IPv4 source for an IPv4 address, and an IPv6 source for an IPv6 address",
                ),
                Some(like) if like.is_ipv4() != source.is_ipv4() => (
                    "is not of the IP version of `group`",
                    "give an IPv4 source for an IPv4 group, and an IPv6 source for an IPv6 group",
                ),
                _ => {
                    return Some(At {
                        place,
                        value: source,
                    });
                }
            },
        };
        let shown = quoted(&text);
        let cause = format!("{label}: `source` \"{shown}\" {cause}");
        self.found.add(place, cause, remedy);
        None
    }

    /// One VLAN, or the outer and the inner one.
    pub(super) fn vlan(&mut self, value: &Value<'_>, label: &str) -> Option<Vlan> {
        let mut one = |value: &Value<'_>| {
            if let DeValue::Integer(number) = value.get_ref()
                && u32::from_str_radix(number.as_str(), number.radix()) == Ok(0)
            {
                let place = self.found.place(&value.span());
                self.found.add(
                    place,
                    format!("{label}: `vlan` 0 is a priority tag, and counts as untagged"),
                    "leave `vlan` out, or give a number from 1 to 4094",
                );
                return None;
            }
            let vlan = self.integer(value, "vlan", label, 1..=4094, "100")?;
            u16::try_from(vlan.value).ok()
        };
        match value.get_ref() {
            DeValue::Integer(_) => one(value).map(Vlan::Tag),
            DeValue::Array(list) => match &**list {
                [outer, inner] => {
                    let (outer, inner) = (one(outer), one(inner));
                    Some(Vlan::Double(outer?, inner?))
                }
                others => {
                    let place = self.found.place(&value.span());
                    let tags = match others.len() {
                        1 => "one tag".to_owned(),
                        count => format!("{count} tags"),
                    };
                    self.found.add(
                        place,
                        format!("{label}: `vlan` is an array of {tags}"),
                        "write `vlan = 100` for one tag, and `vlan = [100, 200]` for two: the outer \
                         one, then the inner one",
                    );
                    None
                }
            },
            _ => {
                let wanted = "an integer, or an array of two";
                self.wrong_type(value, "vlan", label, wanted, "100");
                None
            }
        }
    }
}

/// What is wrong with a value, and what to do.
type Wrong = (String, String);

fn wrong(cause: &str, remedy: &str) -> Wrong {
    (cause.to_owned(), remedy.to_owned())
}

fn one(text: &str) -> Result<Prefix, Wrong> {
    let address = text.parse::<IpAddr>();
    address.map(Prefix::from).map_err(|_| {
        let ends = text.split_once('-');
        if text.parse::<SocketAddr>().is_ok() {
            wrong(
                "has a port in it",
                "write only the address here; the port has its own key, `port`",
            )
        } else if ends.is_some_and(|(first, _)| first.trim().parse::<IpAddr>().is_ok()) {
            wrong(
                "is a range that is written with its ends",
                "write it as a prefix, such as \"239.1.1.0/24\", or write one rule for each group",
            )
        } else {
            wrong("is not an IP address", A_GROUP)
        }
    })
}

fn prefix(address: &str, length: &str) -> Result<Prefix, Wrong> {
    const A_PREFIX: &str = "give a prefix of groups, such as \"239.1.1.0/24\"";
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(wrong("is not a prefix of groups", A_PREFIX));
    };
    let most = Prefix::from(address).length();
    let length = length.parse::<u8>().ok();
    let Some(prefix) = length.and_then(|length| Prefix::around(address, length)) else {
        let remedy = format!("the length of this prefix is a number from 0 to {most}");
        return Err(("has a wrong length".into(), remedy));
    };
    if prefix.address() != address {
        let length = prefix.length();
        return Err((
            format!("has bits behind its first {length}"),
            format!(
                "write \"{}/{length}\" for the prefix, or \"{address}\" for the one group",
                prefix.address()
            ),
        ));
    }
    Ok(prefix)
}

/// Whether a rule can have these groups on this side.
fn multicast(prefix: Prefix, side: Side) -> Result<Prefix, Wrong> {
    match prefix.address() {
        IpAddr::V4(_) => ipv4(prefix, side),
        IpAddr::V6(_) => ipv6(prefix, side),
    }?;
    Ok(prefix)
}

fn ipv4(prefix: Prefix, side: Side) -> Result<(), Wrong> {
    let (all, link_local) = (within([224, 0, 0, 0], 4), within([224, 0, 0, 0], 24));
    let is_wide = all.is_some_and(|all| prefix.covers(&all) && prefix != all);
    let is_multicast = all.is_some_and(|all| all.covers(&prefix));
    match side {
        _ if is_wide => Err(wrong(
            "has other addresses than multicast groups in it",
            "give a longer prefix, such as \"239.1.1.0/24\"",
        )),
        Side::Output if !is_multicast => Err(no_group(prefix)),
        Side::Input if !is_multicast => Err(wrong(
            "is not a multicast group",
            "give a group from 224.0.1.0 to 239.255.255.255, such as \"239.1.1.1\"; an address of this \
             host goes into `address`",
        )),
        // RFC 5771, section 4.
        Side::Input if link_local.is_some_and(|local| local.covers(&prefix)) => Err(wrong(
            "is a link-local control group (224.0.0.0/24); the protocols that use it (IGMP, OSPF, \
             mDNS, ...) must stay on their own link, and this host's stack needs the datagrams",
            "give a group from 224.0.1.0 to 239.255.255.255, such as \"239.1.1.1\"",
        )),
        Side::Input if link_local.is_some_and(|local| local.overlaps(&prefix)) => Err(wrong(
            "has the link-local control groups (224.0.0.0/24) in it, whose protocols (IGMP, OSPF, \
             mDNS, ...) must stay on their own link",
            "give a longer prefix, such as \"239.1.1.0/24\"",
        )),
        Side::Input | Side::Output => Ok(()),
    }
}

/// The prefix of IPv4 groups with these first bits.
fn within(address: [u8; 4], length: u8) -> Option<Prefix> {
    Prefix::around(IpAddr::from(address), length)
}

/// The scope is in the lower half of the second byte (RFC 4291, section 2.7).
fn ipv6(prefix: Prefix, side: Side) -> Result<(), Wrong> {
    const EXAMPLE: &str = "give a group of a wider scope, such as \"ff3e::8000:1\"";
    let IpAddr::V6(address) = prefix.address() else {
        return Ok(());
    };
    if prefix.length() < 16 {
        return Err(wrong(
            "has groups of several scopes in it, or other addresses than groups",
            "give a prefix of at least 16 bits, such as \"ff3e::8000:0/112\"",
        ));
    }
    let [first, second, ..] = address.octets();
    match (first, second & 0xf, side) {
        (0xff, 0 | 1, _) => Err(wrong(
            "is a group that does not leave its own host (its scope is 0 or 1)",
            EXAMPLE,
        )),
        // RFC 4291, section 2.7.1.
        (0xff, 2, Side::Input) if second == 2 => Err(wrong(
            "is a link-local control group (ff02::/16); the protocols that use it (MLD, neighbour \
             discovery, mDNS, ...) must stay on their own link, and this host's stack needs the \
             datagrams",
            EXAMPLE,
        )),
        (0xff, ..) => Ok(()),
        (_, _, Side::Input) => Err(wrong(
            "is not a multicast group",
            "give a multicast group, such as \"239.1.1.1\" or \"ff3e::8000:1\"; an address of this host \
             goes into `address`",
        )),
        (_, _, Side::Output) => Err(no_group(prefix)),
    }
}

/// What is wrong with unicast addresses as the groups of an output.
fn no_group(prefix: Prefix) -> Wrong {
    let remedy = match prefix.one() {
        Some(host) => format!("for copies to one host write `address = \"{host}\"` instead"),
        None => format!("{A_GROUP}; for copies to one host write `address` instead"),
    };
    ("is not a multicast group".to_owned(), remedy)
}

/// Whether a host can send from it.
pub(super) fn is_host(source: IpAddr) -> bool {
    let is_broadcast = matches!(source, IpAddr::V4(source) if source.is_broadcast());
    let special = source.is_unspecified() || source.is_loopback() || source.is_multicast();
    !(special || is_broadcast)
}
