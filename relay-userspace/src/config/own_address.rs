//! Reader of where an input's datagrams are sent to: groups, or one address of this host.

use std::net::IpAddr;

use toml::de::DeTable;

use super::{
    Place,
    draft::At,
    mistake::quoted,
    reader::Reader,
    rules::Prefix,
    values::{Side, Value},
};

const AN_ADDRESS: &str = "give an address of this host, such as \"10.1.1.2\" or \"2001:db8::2\"";

impl Reader<'_, '_> {
    /// The destination of an input's datagrams: its `group`, or its `address` as a prefix of one.
    pub(super) fn taken(
        &mut self,
        table: &DeTable<'_>,
        place: Place,
        label: &str,
    ) -> Option<At<Prefix>> {
        match (table.get("group"), table.get("address")) {
            (Some(group), None) => self.group(group, label, Side::Input),
            (None, Some(address)) => self.own_address(address, label),
            (Some(_), Some(address)) => {
                let place = self.found.place(&address.span());
                self.found.add(
                    place,
                    format!("{label} has both `group` and `address`"),
                    "leave one out: `group` takes datagrams to multicast groups, `address` those to \
                     an address of this host; for both write two rules",
                );
                None
            }
            (None, None) => {
                self.found.add(
                    place,
                    format!("{label} has no `group`"),
                    "add `group` to it, or `address` for datagrams to an address of this host",
                );
                None
            }
        }
    }

    /// Whether the relay joins the groups of an input; there are none to join for an `address`.
    pub(super) fn join(&mut self, table: &DeTable<'_>, label: &str) -> Option<bool> {
        let is_unicast = table.contains_key("address") && !table.contains_key("group");
        let Some(value) = table.get("join") else {
            return Some(!is_unicast);
        };
        let join = self.boolean(value, "join", label)?;
        if is_unicast {
            let place = self.found.place(&value.span());
            self.found.add(
                place,
                format!("{label}: `join` does not go with `address`"),
                "leave `join` out: only groups are joined",
            );
            return None;
        }
        Some(join)
    }

    /// An address that this host can have.
    fn own_address(&mut self, value: &Value<'_>, label: &str) -> Option<At<Prefix>> {
        let At { place, value: text } = self.string(value, "address", label, "\"10.1.1.2\"")?;
        match own(&text) {
            Ok(address) => Some(At {
                place,
                value: Prefix::from(address),
            }),
            Err((cause, remedy)) => {
                let cause = format!("{label}: `address` \"{}\" {cause}", quoted(&text));
                self.found.add(place, cause, remedy);
                None
            }
        }
    }
}

/// The address that a text is, or what is wrong with it, and what to do.
fn own(text: &str) -> Result<IpAddr, (&'static str, String)> {
    let parses = |text: &str| text.parse::<IpAddr>().is_ok();
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(match (text.split_once('/'), text.split_once('%')) {
            (Some((address, _)), _) if parses(address) => (
                "is a range of addresses, and `address` is one",
                format!("write \"{address}\", and one rule for each address"),
            ),
            (_, Some((address, _))) if parses(address) => (
                "has a zone in it",
                format!("write \"{address}\"; `interface` names the link"),
            ),
            _ if text.parse::<std::net::SocketAddr>().is_ok() => (
                "has a port in it",
                "write only the address here; the port has its own key, `port`".into(),
            ),
            _ => ("is not an IP address", AN_ADDRESS.into()),
        });
    };
    let mapped = match address {
        IpAddr::V6(address) => address.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    if let Some(mapped) = mapped {
        return Err((
            "is an IPv4 address in the form of an IPv6 one, which no datagram on a wire has",
            format!("write \"{mapped}\""),
        ));
    }
    if address.is_multicast() {
        let remedy = format!("write `group = \"{address}\"` instead");
        Err(("is a multicast group", remedy))
    } else if address.is_unspecified() {
        Err(("is no address of a host", AN_ADDRESS.into()))
    } else if address.is_loopback() {
        Err((
            "is a loopback address, and no datagram to it arrives on an interface",
            AN_ADDRESS.into(),
        ))
    } else if matches!(address, IpAddr::V4(address) if address.is_broadcast()) {
        Err((
            "is the broadcast address, and broadcasts are not relayed",
            AN_ADDRESS.into(),
        ))
    } else {
        Ok(address)
    }
}
