//! Reader of the outputs of a rule: where copies go, and what is in their headers. They keep of the
//! input what they leave out.
//!
//! Here is what the keys of an output have to do with one another and with the input; the readers
//! of single keys are in [`super::output_values`].

use std::net::IpAddr;

use toml::de::{DeTable, DeValue};

use super::{
    MAX_OUTPUTS, Place,
    draft::At,
    input::Kept,
    reader::Reader,
    rules::{Header, Output, OutputVlan, PortMatch, Prefix, Source, Ttl, Vlan},
    values::{Side, Value},
};

const KEYS: &[&str] = &[
    "interface",
    "group",
    "address",
    "port",
    "ttl",
    "dscp",
    "vlan",
    "pcp",
    "source",
    "source_port",
    "mark",
];

/// The table of an output, and what mistakes call it.
#[derive(Clone, Copy)]
struct Table<'t, 'i> {
    keys: &'t DeTable<'i>,
    place: Place,
    label: &'t str,
}

impl<'t, 'i> Table<'t, 'i> {
    fn get(&self, key: &str) -> Option<&'t Value<'i>> {
        self.keys.get(key)
    }

    fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }
}

impl Reader<'_, '_> {
    pub(super) fn outputs(
        &mut self,
        value: &Value<'_>,
        rule: &str,
        kept: Kept,
    ) -> Vec<(At<Output>, Place)> {
        const EXAMPLE: &str = "[{ interface = \"eth1\", group = \"239.2.2.2\", port = 5002 }]";
        let place = self.found.place(&value.span());
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong_type(value, "outputs", rule, "an array", EXAMPLE);
            self.draft.used_incomplete = true;
            return Vec::new();
        };
        if list.is_empty() {
            let remedy = format!("write at least one, for example outputs = {EXAMPLE}");
            self.found
                .add(place, format!("{rule} has no outputs"), remedy);
        }
        if let Some(extra) = list.get(MAX_OUTPUTS) {
            let place = self.found.place(&extra.span());
            self.found.add(
                place,
                format!(
                    "{rule} has {} outputs; {MAX_OUTPUTS} are possible",
                    list.len()
                ),
                "leave some out; a second rule cannot take the same input",
            );
            self.draft.used_incomplete = true;
        }
        let mut outputs = Vec::new();
        for (position, value) in list.iter().take(MAX_OUTPUTS).enumerate() {
            let label = format!("{rule}, output {}", position + 1);
            outputs.extend(self.output(value, &label, kept));
        }
        outputs
    }

    fn output(
        &mut self,
        value: &Value<'_>,
        label: &str,
        kept: Kept,
    ) -> Option<(At<Output>, Place)> {
        let place = self.found.place(&value.span());
        let example = "{ interface = \"eth1\", group = \"239.2.2.2\", port = 5002 }";
        let Some(keys) = self.table(value, label, example) else {
            self.draft.used_incomplete = true;
            return None;
        };
        self.known_keys(keys, label, KEYS);
        let table = Table { keys, place, label };
        let is_routed = table.has("address") && !table.has("interface");
        let interface = match is_routed {
            true => None,
            false => self.output_interface(&table),
        };
        let to = self.destination(&table, kept);
        let port = match table.get("port") {
            None => kept.ports,
            Some(value) => self
                .ports(value, label)
                .and_then(|ports| self.ports_onto(&ports, label, kept.ports)),
        };
        let source = match table.get("source") {
            None => Some(Source::default()),
            Some(value) => self
                .output_source(value, label)
                .and_then(|source| self.source_onto(source, label, to, kept.group)),
        };
        let header = self.header(&table, is_routed, kept.vlan);
        let mark = match table.get("mark") {
            None => Some(None),
            Some(value) => self.mark(value, &table).map(Some),
        };
        if interface.is_none() && !is_routed {
            return None;
        }
        let at_interface = interface.as_ref().map_or(place, |name| name.place);
        let value = Output {
            interface: interface.map(|name| name.value),
            group: to?,
            port: port?,
            source: source?,
            header: header?,
            mark: mark?,
        };
        Some((At { place, value }, at_interface))
    }

    fn output_interface(&mut self, table: &Table<'_, '_>) -> Option<At<String>> {
        let value = table.get("interface");
        if value.is_none() {
            self.found.add(
                table.place,
                format!("{} has no `interface`", table.label),
                "add `interface` to it; only copies to an `address` can do without, because the \
                 kernel's routing chooses the interface for them",
            );
        }
        self.used_interface(value, table.label)
    }

    /// Where copies go: to a group or a prefix of groups, or to one address.
    fn destination(&mut self, table: &Table<'_, '_>, kept: Kept) -> Option<Prefix> {
        let label = table.label;
        match (table.get("group"), table.get("address")) {
            (Some(group), None) => {
                let group = self.group(group, label, Side::Output)?;
                self.group_onto(&group, label, kept.group)
            }
            (None, Some(address)) => {
                let address = self.unicast(address, label, table.has("interface"))?;
                Some(Prefix::from(address))
            }
            (Some(_), Some(address)) => {
                let place = self.found.place(&address.span());
                self.found.add(
                    place,
                    format!("{label} has both `group` and `address`"),
                    "leave one out: `group` sends copies to a multicast group, `address` to one host; \
                     for both write two outputs",
                );
                None
            }
            (None, None) => {
                let group = kept.group?;
                if group.address().is_multicast() {
                    return Some(group);
                }
                self.found.add(
                    table.place,
                    format!(
                        "{label} has no `group` and no `address`, and the input's address, {group}, \
                         is this host's own"
                    ),
                    "add `group` to send copies to a multicast group, or `address` to send them to \
                     one host",
                );
                None
            }
        }
    }

    /// Whether copies of datagrams to the groups `from` can go to the groups of an output.
    fn group_onto(
        &mut self,
        onto: &At<Prefix>,
        label: &str,
        from: Option<Prefix>,
    ) -> Option<Prefix> {
        let group = onto.value;
        let Some(from) = from else { return Some(group) };
        if group.is_one() || group.host_bits() == from.host_bits() {
            return Some(group);
        }
        let (cause, remedy) = if !from.address().is_multicast() {
            (
                format!("`group` \"{group}\" is a prefix, and the input has one address"),
                "give one group".to_owned(),
            )
        } else if from.is_one() {
            (
                format!("`group` \"{group}\" is a prefix, and the input has one group"),
                "give one group, or leave `group` out to keep the input's".to_owned(),
            )
        } else {
            let (ours, theirs) = (group.host_bits(), from.host_bits());
            let most = Prefix::from(group.address()).length();
            let length = most.checked_sub(theirs);
            let fitting = length.and_then(|length| Prefix::around(group.address(), length));
            let fitting = fitting.filter(|group| group.address().is_multicast());
            let fitting = fitting.map_or_else(
                || "give one group that all copies go to".to_owned(),
                |fitting| {
                    format!(
                        "give a prefix of {} bits, such as \"{fitting}\", or one group that all \
                         copies go to",
                        fitting.length()
                    )
                },
            );
            (
                format!(
                    "`group` \"{group}\" leaves {ours} bits for the host part and the input's prefix, \
                     {from}, leaves {theirs}"
                ),
                fitting,
            )
        };
        self.found
            .add(onto.place, format!("{label}: {cause}"), remedy);
        None
    }

    /// Whether copies of datagrams to the ports `from` can go to the ports of an output.
    fn ports_onto(
        &mut self,
        onto: &At<PortMatch>,
        label: &str,
        from: Option<PortMatch>,
    ) -> Option<PortMatch> {
        let ports = onto.value;
        let Some(from) = from else { return Some(ports) };
        let (first, _) = ports.bounds();
        let (cause, remedy) = match (ports, from) {
            (PortMatch::One(_), _) | (PortMatch::Any, PortMatch::Any) => return Some(ports),
            (PortMatch::Range(..), PortMatch::Range(..)) if ports.count() == from.count() => {
                return Some(ports);
            }
            (PortMatch::Any, _) => (
                format!("`port` \"any\" does not go with the input's port {from}"),
                "leave `port` out to keep the input's, or give one port".to_owned(),
            ),
            (PortMatch::Range(..), PortMatch::Range(..)) => {
                let last = first.checked_add(from.count() - 1);
                let fitting = last.map_or(from, |last| PortMatch::Range(first, last));
                (
                    format!(
                        "`port` \"{ports}\" has {} ports and the input's \"{from}\" has {}",
                        ports.count(),
                        from.count()
                    ),
                    format!(
                        "give as many, such as \"{fitting}\", or one port that all copies go to"
                    ),
                )
            }
            (PortMatch::Range(..), PortMatch::One(_) | PortMatch::Any) => (
                format!("`port` \"{ports}\" is a range, and the input's port is {from}"),
                "give one port, or leave `port` out to keep the input's".to_owned(),
            ),
        };
        self.found
            .add(onto.place, format!("{label}: {cause}"), remedy);
        None
    }

    /// Whether copies to `to` of datagrams to `from` can have this source.
    fn source_onto(
        &mut self,
        source: At<Source>,
        label: &str,
        to: Option<Prefix>,
        from: Option<Prefix>,
    ) -> Option<Source> {
        let At { place, value } = source;
        let theirs = match value {
            Source::Interface => None,
            Source::Keep => from.map(|from| from.address()),
            Source::Address(address) => Some(address),
        };
        let (Some(to), Some(theirs)) = (to, theirs) else {
            return Some(value);
        };
        let (to, theirs) = (version(to.address()), version(theirs));
        if to == theirs {
            return Some(value);
        }
        let (cause, remedy) = match value {
            Source::Keep => (
                format!(
                    "`source` \"keep\": the input's datagrams have {theirs} sources, and these copies \
                     leave over {to}"
                ),
                format!(
                    "leave `source` out to send from the interface's own address, or give an {to} \
                     address"
                ),
            ),
            _ => (
                format!(
                    "`source` \"{value}\" is an {theirs} address, and these copies leave over {to}"
                ),
                format!("give an {to} address"),
            ),
        };
        self.found.add(place, format!("{label}: {cause}"), remedy);
        None
    }

    /// What else is set in the headers. `arrived` are the tags that datagrams arrive with.
    fn header(
        &mut self,
        table: &Table<'_, '_>,
        is_routed: bool,
        arrived: Option<Vlan>,
    ) -> Option<Header> {
        let label = table.label;
        let ttl = match table.get("ttl") {
            None => Some(Ttl::default()),
            Some(value) => self.ttl(value, label),
        };
        let mut number = |key, range, example| match table.get(key) {
            None => Some(None),
            Some(value) => {
                let choice = self.keep_or_number(value, key, label, range, example)?;
                Some(choice.number())
            }
        };
        let source_port = number("source_port", 1..=65_535, "7000");
        let dscp = number("dscp", 0..=63, "46");
        let vlan = match table.get("vlan") {
            None => Some(OutputVlan::Untagged),
            Some(value) => {
                let vlan = self.output_vlan(value, label);
                match vlan {
                    Some(vlan) if is_routed => self.no_tag_by_routing(value, label, vlan),
                    vlan => vlan,
                }
            }
        };
        let pcp = match table.get("pcp") {
            None => Some(None),
            Some(value) => self.pcp(value, label, vlan, arrived).map(Some),
        };
        Some(Header {
            ttl: ttl?,
            source_port: source_port?.and_then(|port| u16::try_from(port).ok()),
            dscp: dscp?.and_then(|dscp| u8::try_from(dscp).ok()),
            vlan: vlan?,
            pcp: pcp?,
        })
    }

    /// Refuses a tag where the kernel's routing chooses the interface.
    fn no_tag_by_routing(
        &mut self,
        value: &Value<'_>,
        label: &str,
        vlan: OutputVlan,
    ) -> Option<OutputVlan> {
        if vlan.is_untagged() {
            return Some(vlan);
        }
        let place = self.found.place(&value.span());
        self.found.add(
            place,
            format!(
                "{label}: `vlan` without `interface`: the kernel's routing chooses the interface, and \
                 a VLAN belongs to one interface"
            ),
            "add `interface`, or leave `vlan` out: a route through a VLAN interface tags the copies \
             by itself",
        );
        None
    }

    /// The priority in tags; `vlan` are those that copies leave with.
    fn pcp(
        &mut self,
        value: &Value<'_>,
        label: &str,
        vlan: Option<OutputVlan>,
        arrived: Option<Vlan>,
    ) -> Option<u8> {
        let At { place, value } = self.integer(value, "pcp", label, 0..=7, "5")?;
        let cause = match (vlan, arrived) {
            (Some(OutputVlan::Untagged), _) => {
                "`pcp` is the priority in a VLAN tag, and these copies leave untagged"
            }
            (Some(OutputVlan::Keep), Some(Vlan::Untagged)) => {
                "`pcp` is the priority in a VLAN tag, and the input's datagrams have none to keep"
            }
            _ => return u8::try_from(value).ok(),
        };
        self.found.add(
            place,
            format!("{label}: {cause}"),
            "add `vlan` with the VLAN of the copies, such as `vlan = 200`, or leave `pcp` out",
        );
        None
    }

    /// What policy routing goes by.
    fn mark(&mut self, value: &Value<'_>, table: &Table<'_, '_>) -> Option<u32> {
        let label = table.label;
        let mark = self.integer(value, "mark", label, 0..=u32::MAX, "100")?;
        if table.has("address") {
            return Some(mark.value);
        }
        self.found.add(
            mark.place,
            format!(
                "{label}: `mark` is for the kernel's policy routing, and copies to multicast groups \
                 are not routed: they leave by their `interface`"
            ),
            "leave `mark` out, or give `address` instead of `group`",
        );
        None
    }
}

fn version(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}
