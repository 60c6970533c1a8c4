//! The headers of copies as text, as they will be on the wire: the plan, explanations and the
//! status all show this one.

use std::{fmt, net::IpAddr};

use super::{
    mac::{self, Mac},
    model::{self, LinkDestination, Plan},
};
use crate::config::rules::{
    self, Destination, Header, OutputVlan, PortMatch, Prefix, Source, Ttl, Vlan,
};

/// "802.1Q" and "802.1ad" with the TPID of their tags.
const CUSTOMER: &str = "802.1Q (0x8100)";
const SERVICE: &str = "802.1ad (0x88a8)";

/// The headers that copies of an output leave with.
///
/// ```text
/// 02:00:00:00:00:02 > 01:00:5e:02:02:02; 802.1Q (0x8100) VLAN 200, PCP 5;
/// IPv4 10.0.2.1 > 239.2.2.2, DSCP 46, TTL 8; UDP kept > 5002
/// ```
#[derive(Debug, Clone, Copy)]
pub struct HeaderText {
    /// The Ethernet source, if it is known.
    pub source_mac: Option<[u8; 6]>,
    /// The Ethernet destination, if it is known.
    pub to: Option<LinkDestination>,
    /// The Ethernet address of the next hop, if that is known.
    pub next_hop_mac: Option<[u8; 6]>,
    /// The tags that datagrams arrive with.
    pub arrived: Vlan,
    /// The source address.
    pub source: Source,
    /// The destination address or addresses.
    pub group: Prefix,
    /// The destination port or ports.
    pub port: PortMatch,
    /// The other fields.
    pub header: Header,
}

impl HeaderText {
    /// As a plan has them: all that can be known before a datagram arrives. `arrived` are the tags
    /// that the datagrams of its flow have.
    #[must_use]
    pub fn planned(plan: &Plan, output: &model::Output, arrived: Vlan) -> Self {
        let interface = plan.interfaces.get(output.interface);
        Self {
            source_mac: interface.map(|interface| interface.mac),
            to: Some(output.to),
            next_hop_mac: None,
            arrived,
            source: output.source.map_or(Source::Keep, Source::Address),
            group: output.group,
            port: output.port,
            header: output.header,
        }
    }

    /// As the rule has them, without what only this host knows.
    #[must_use]
    pub fn wanted(output: &rules::Output, arrived: Vlan) -> Self {
        let group = output.group.address();
        Self {
            source_mac: None,
            to: (!output.is_unicast()).then(|| LinkDestination::Group(mac::of_group(group))),
            next_hop_mac: None,
            arrived,
            source: output.source,
            group: output.group,
            port: output.port,
            header: output.header,
        }
    }

    /// The same, where the Ethernet address of the next hop is known.
    #[must_use]
    pub fn resolved(mut self, mac: Option<[u8; 6]>) -> Self {
        self.next_hop_mac = mac;
        self
    }

    /// Those of the copy to `destination` of one datagram, which has this source, if it is known.
    #[must_use]
    pub fn of_copy(mut self, destination: Destination<'_>, source: Option<IpAddr>) -> Self {
        self.group = destination.group;
        self.port = destination.port;
        if let Some(LinkDestination::Group(mac)) = &mut self.to {
            *mac = mac::of_group(destination.group.address());
        }
        if let (Source::Keep, Some(source)) = (self.source, source) {
            self.source = Source::Address(source);
        }
        self
    }

    /// "02:00:00:00:00:02 > 01:00:5e:02:02:02"
    fn ethernet(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source_mac {
            Some(mac) => write!(f, "{} > ", Mac(mac))?,
            None => f.write_str("its interface's MAC > ")?,
        }
        match self.to {
            // The host part of a prefix is in the address too.
            Some(LinkDestination::Group(mac)) if self.group.is_one() => write!(f, "{}", Mac(mac)),
            Some(LinkDestination::Group(mac)) => write!(f, "{} and on", Mac(mac)),
            Some(LinkDestination::NextHop(host)) => match self.next_hop_mac {
                Some(mac) => write!(f, "{} (next hop {host})", Mac(mac)),
                None => write!(f, "next hop {host}"),
            },
            None => f.write_str("next hop by routing"),
        }
    }

    /// "; 802.1Q (0x8100) VLAN 200, PCP 5"
    fn tags(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pcp = match (self.header.pcp, self.arrived) {
            (Some(pcp), _) => pcp.to_string(),
            (None, Vlan::Untagged) => "0".to_owned(),
            (None, _) => "kept".to_owned(),
        };
        match self.header.vlan {
            OutputVlan::Keep if !self.arrived.is_untagged() => {
                let types = match self.arrived {
                    Vlan::Double(..) => "TPIDs",
                    _ => "TPID",
                };
                write!(f, "; {}, {types} kept, PCP {pcp}", self.arrived)
            }
            OutputVlan::Untagged | OutputVlan::Keep => Ok(()),
            OutputVlan::Tag(vlan) => write!(f, "; {CUSTOMER} VLAN {vlan}, PCP {pcp}"),
            OutputVlan::Double(outer, inner) => write!(
                f,
                "; {SERVICE} VLAN {outer}, PCP {pcp}; {CUSTOMER} VLAN {inner}, PCP {pcp}"
            ),
        }
    }

    /// "; IPv4 10.0.2.1 > 239.2.2.2, DSCP 46, TTL 8"
    fn ip(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, ttl) = match self.group.address().is_ipv4() {
            true => ("IPv4", "TTL"),
            false => ("IPv6", "hop limit"),
        };
        write!(f, "; {version} ")?;
        match self.source {
            Source::Interface => f.write_str("its interface's address")?,
            Source::Keep => f.write_str("kept")?,
            Source::Address(source) => write!(f, "{source}")?,
        }
        write!(f, " > {}, DSCP ", self.group)?;
        match self.header.dscp {
            Some(dscp) => write!(f, "{dscp}")?,
            None => f.write_str("kept")?,
        }
        match self.header.ttl {
            Ttl::Auto => write!(f, ", {ttl} auto"),
            Ttl::Set(number) => write!(f, ", {ttl} {number}"),
            Ttl::Decrement => write!(f, ", {ttl} less 1"),
        }
    }

    /// "; UDP kept > 5002"
    fn udp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("; UDP ")?;
        match self.header.source_port {
            Some(port) => write!(f, "{port}")?,
            None => f.write_str("kept")?,
        }
        match self.port {
            PortMatch::Any => f.write_str(" > kept"),
            ports => write!(f, " > {ports}"),
        }
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ethernet(f)?;
        self.tags(f)?;
        self.ip(f)?;
        self.udp(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// The headers of an output with these keys, of a rule whose input has a `vlan` or not.
    fn text(input: &str, output: &str) -> String {
        let text = format!(
            "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", {input} }}\n\
             outputs = [{{ {output} }}]\n"
        );
        let document = config::parse("relay.toml", &text).unwrap();
        let rule = &document.rules.rules[0];
        let wanted = HeaderText::wanted(&rule.outputs[0], rule.input.matches.vlan);
        let known = HeaderText {
            source_mac: Some([2, 0, 0, 0, 0, 2]),
            to: wanted
                .to
                .or(Some(LinkDestination::NextHop([10, 0, 0, 254].into()))),
            ..wanted
        };
        known.to_string()
    }

    #[test]
    fn every_field_of_the_headers_is_named() {
        const FOUR: &str = "group = \"239.1.1.1\", port = 5001";
        const TAGGED: &str = "group = \"239.1.1.1\", port = 5001, vlan = 100";
        const PREFIX: &str = "group = \"239.1.1.0/24\", port = \"any\"";
        const OUT: &str = "interface = \"out0\"";
        for (input, output, expected) in [
            (
                FOUR,
                "",
                "02:00:00:00:00:02 > 01:00:5e:01:01:01; \
                 IPv4 its interface's address > 239.1.1.1, DSCP kept, TTL auto; UDP kept > 5001",
            ),
            (
                FOUR,
                ", group = \"239.2.2.2\", port = 5002, ttl = 8, dscp = 46, vlan = 200, pcp = 5, \
                 source = \"10.9.0.1\", source_port = 7000",
                "02:00:00:00:00:02 > 01:00:5e:02:02:02; 802.1Q (0x8100) VLAN 200, PCP 5; \
                 IPv4 10.9.0.1 > 239.2.2.2, DSCP 46, TTL 8; UDP 7000 > 5002",
            ),
            (
                FOUR,
                ", vlan = [100, 200], source = \"keep\", ttl = \"decrement\"",
                "02:00:00:00:00:02 > 01:00:5e:01:01:01; 802.1ad (0x88a8) VLAN 100, PCP 0; \
                 802.1Q (0x8100) VLAN 200, PCP 0; \
                 IPv4 kept > 239.1.1.1, DSCP kept, TTL less 1; UDP kept > 5001",
            ),
            (
                TAGGED,
                ", vlan = \"keep\", source = \"10.9.0.1\"",
                "02:00:00:00:00:02 > 01:00:5e:01:01:01; VLAN 100, TPID kept, PCP kept; \
                 IPv4 10.9.0.1 > 239.1.1.1, DSCP kept, TTL auto; UDP kept > 5001",
            ),
            (
                PREFIX,
                ", group = \"ff3e::700/120\", source = \"2001:db8::1\"",
                "02:00:00:00:00:02 > 33:33:00:00:07:00 and on; \
                 IPv6 2001:db8::1 > ff3e::700/120, DSCP kept, hop limit auto; UDP kept > kept",
            ),
            (
                PREFIX,
                ", address = \"203.0.113.9\", port = 6000, vlan = \"keep\", source = \"10.9.0.1\"",
                "02:00:00:00:00:02 > next hop 10.0.0.254; \
                 IPv4 10.9.0.1 > 203.0.113.9, DSCP kept, TTL auto; UDP kept > 6000",
            ),
        ] {
            assert_eq!(text(input, &format!("{OUT}{output}")), expected);
        }
    }

    #[test]
    fn the_address_of_the_next_hop_is_named_once_it_is_known() {
        let text = "[[rules]]\nname = \"r\"\n\
            input = { interface = \"in0\", group = \"239.1.1.1\", port = 1 }\n\
            outputs = [{ address = \"10.0.0.9\" }]\n";
        let document = config::parse("relay.toml", text).unwrap();
        let wanted = HeaderText::wanted(&document.rules.rules[0].outputs[0], Vlan::Untagged);
        let begins = |headers: HeaderText, text: &str| {
            let shown = headers.to_string();
            assert!(shown.starts_with(text), "{shown}");
        };
        begins(wanted, "its interface's MAC > next hop by routing; IPv4 ");
        let planned = HeaderText {
            to: Some(LinkDestination::NextHop([10, 0, 0, 254].into())),
            ..wanted
        };
        begins(planned, "its interface's MAC > next hop 10.0.0.254; IPv4 ");
        let resolved = planned.resolved(Some([2, 0, 0, 0, 0, 7]));
        let mac = "02:00:00:00:00:07 (next hop 10.0.0.254)";
        begins(resolved, &format!("its interface's MAC > {mac}; IPv4 "));
    }
}
