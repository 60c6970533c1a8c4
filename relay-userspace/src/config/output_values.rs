//! Readers of single keys of outputs: `address`, `source`, `source_port`, `dscp` and `vlan`.

use std::{net::IpAddr, ops::RangeInclusive};

use toml::de::DeValue;

use super::{
    draft::At,
    groups::is_host,
    mistake::quoted,
    reader::Reader,
    rules::{OutputVlan, Source},
    values::{Value, close},
};

const AN_ADDRESS: &str = "give the address of one host, such as \"203.0.113.9\" or \"2001:db8::9\"";

/// The value of a key that is a number or "keep".
#[derive(Debug, Clone, Copy)]
pub(super) enum Choice {
    Keep,
    Number(u32),
}

impl Choice {
    /// `None` for "keep".
    pub(super) fn number(self) -> Option<u32> {
        match self {
            Self::Keep => None,
            Self::Number(number) => Some(number),
        }
    }
}

impl Reader<'_, '_> {
    /// An address that a host can be reached by.
    pub(super) fn unicast(
        &mut self,
        value: &Value<'_>,
        label: &str,
        has_interface: bool,
    ) -> Option<IpAddr> {
        let example = "\"203.0.113.9\"";
        let At { place, value: text } = self.string(value, "address", label, example)?;
        let address = address(&text);
        let (cause, remedy) = match address {
            Err(wrong) => wrong,
            Ok(address) if address.is_multicast() => (
                "is a multicast group",
                format!("write `group = \"{address}\"` instead"),
            ),
            Ok(address) if address.is_unspecified() => ("is no address", AN_ADDRESS.into()),
            Ok(address) if address.is_loopback() => (
                "is a loopback address, which no copy on a wire can go to",
                "give an address of another host; for programs of this host add `local = true` to \
                 the input"
                    .into(),
            ),
            Ok(IpAddr::V4(address)) if address.is_broadcast() => (
                "is the broadcast address, and `address` is one host",
                "send to a multicast group with `group`, or give the address of one host".into(),
            ),
            Ok(IpAddr::V6(address)) if address.is_unicast_link_local() && !has_interface => (
                "is a link-local address, which is a different host on each link",
                "add `interface` to name the link".into(),
            ),
            Ok(address) => return Some(address),
        };
        let cause = format!("{label}: `address` \"{}\" {cause}", quoted(&text));
        self.found.add(place, cause, remedy);
        None
    }

    /// The source address of copies.
    pub(super) fn output_source(&mut self, value: &Value<'_>, label: &str) -> Option<At<Source>> {
        const REMEDY: &str = "give \"interface\" for the address of the output's interface, \"keep\" \
             for the one that the datagram arrived with, or an address such as \"10.9.0.1\"; the \
             default is \"interface\"";
        let At { place, value: text } = self.string(value, "source", label, "\"keep\"")?;
        let words = ["interface", "keep"];
        let found = match text.as_str() {
            "interface" => Ok(Source::Interface),
            "keep" => Ok(Source::Keep),
            text => match address(text) {
                Ok(address) if is_host(address) => Ok(Source::Address(address)),
                Ok(_) => Err((
                    "is no address that a host sends from",
                    "give an address of a host, \"keep\" or \"interface\"".into(),
                )),
                Err(_) if close(text, &words).is_some() => Err((
                    "is unknown",
                    format!(
                        "did you mean \"{}\"?",
                        close(text, &words).unwrap_or_default()
                    ),
                )),
                Err((NO_ADDRESS, _)) => Err(("is unknown", REMEDY.into())),
                Err(wrong) => Err(wrong),
            },
        };
        match found {
            Ok(value) => Some(At { place, value }),
            Err((cause, remedy)) => {
                let cause = format!("{label}: `source` \"{}\" {cause}", quoted(&text));
                self.found.add(place, cause, remedy);
                None
            }
        }
    }

    /// A number of `range`, or "keep".
    pub(super) fn keep_or_number(
        &mut self,
        value: &Value<'_>,
        key: &str,
        label: &str,
        range: RangeInclusive<u32>,
        example: &str,
    ) -> Option<Choice> {
        let (first, last) = (*range.start(), *range.end());
        match value.get_ref() {
            DeValue::Integer(_) => {
                let number = self.integer(value, key, label, range, example)?;
                Some(Choice::Number(number.value))
            }
            DeValue::String(text) if text == "keep" => Some(Choice::Keep),
            DeValue::String(text) if !is_number(text) => {
                let remedy = format!(
                    "give a number from {first} to {last}, or \"keep\" for the one that the datagram \
                     arrived with; the default is \"keep\""
                );
                self.unknown(value, key, label, text, remedy);
                None
            }
            _ => {
                self.wrong_type(value, key, label, "an integer or \"keep\"", example);
                None
            }
        }
    }

    /// The tags of copies.
    pub(super) fn output_vlan(&mut self, value: &Value<'_>, label: &str) -> Option<OutputVlan> {
        match value.get_ref() {
            DeValue::String(text) if text == "keep" => Some(OutputVlan::Keep),
            DeValue::String(text) if !is_number(text) => {
                let remedy = "give a number from 1 to 4094, two of them as in `vlan = [100, 200]`, or \
                              \"keep\" for the tags that the datagram arrived with; without `vlan` \
                              copies leave untagged";
                self.unknown(value, "vlan", label, text, remedy.to_owned());
                None
            }
            DeValue::Integer(_) | DeValue::Array(_) => {
                self.vlan(value, label).map(OutputVlan::from)
            }
            _ => {
                let wanted = "an integer, an array of two, or \"keep\"";
                self.wrong_type(value, "vlan", label, wanted, "200");
                None
            }
        }
    }

    /// Adds a mistake for a text that is not "keep".
    fn unknown(&mut self, value: &Value<'_>, key: &str, label: &str, text: &str, remedy: String) {
        let place = self.found.place(&value.span());
        let remedy = match close(text, &["keep"]) {
            Some(_) => "did you mean \"keep\"?".to_owned(),
            None => remedy,
        };
        let cause = format!("{label}: `{key}` \"{}\" is unknown", quoted(text));
        self.found.add(place, cause, remedy);
    }
}

const NO_ADDRESS: &str = "is not an IP address";

/// The address that a text is, or what is wrong with it, and what to do.
fn address(text: &str) -> Result<IpAddr, (&'static str, String)> {
    let parses = |text: &str| text.parse::<IpAddr>().is_ok();
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => Err((
                "is an IPv4 address in the form of an IPv6 one, which no host has on a wire",
                format!("write \"{mapped}\""),
            )),
            None => Ok(address.into()),
        },
        Ok(address) => Ok(address),
        Err(_) if text.parse::<std::net::SocketAddr>().is_ok() => Err((
            "has a port in it",
            "write only the address here; the port has a key of its own".into(),
        )),
        Err(_) => Err(match (text.split_once('/'), text.split_once('%')) {
            (Some((address, _)), _) if parses(address) => (
                "is a range of addresses",
                "give the address of one host, and one output for each".into(),
            ),
            (_, Some((address, _))) if parses(address) => (
                "has a zone in it",
                format!("write \"{address}\"; `interface` names the link"),
            ),
            _ => (
                NO_ADDRESS,
                format!("{AN_ADDRESS}; the relay looks no names up"),
            ),
        }),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
