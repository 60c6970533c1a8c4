//! Readers of the two ends of a rule: its input, and its outputs, which keep of the input what they
//! leave out.

use std::net::IpAddr;

use toml::de::{DeTable, DeValue};

use super::{
    MAX_MEMBERSHIPS_OF_A_RULE, MAX_OUTPUTS, Place,
    draft::At,
    reader::Reader,
    rules::{Header, Input, Match, Output, PortMatch, Prefix, Source, Ttl, Vlan},
    values::{Side, Value},
};

const INPUT_KEYS: &[&str] = &[
    "interface",
    "group",
    "address",
    "port",
    "source",
    "vlan",
    "join",
    "local",
    "limit",
];
const OUTPUT_KEYS: &[&str] = &["interface", "group", "port", "ttl"];

/// Groups and ports of an input, as far as they could be read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    group: Option<Prefix>,
    ports: Option<PortMatch>,
}

/// The table of an input or output, and its interface.
struct Endpoint<'v, 'i> {
    place: Place,
    table: &'v DeTable<'i>,
    interface: Option<At<String>>,
}

impl Reader<'_, '_> {
    /// An input with the place of its interface, and what its outputs can keep of it.
    pub(super) fn input(
        &mut self,
        value: &Value<'_>,
        label: &str,
    ) -> (Option<(At<Input>, Place)>, Kept) {
        let Some(endpoint) = self.endpoint(value, label, INPUT_KEYS) else {
            return (None, Kept::default());
        };
        let Endpoint {
            place,
            table,
            interface,
        } = endpoint;
        let group = self.taken(table, place, label);
        let ports = self.required(table, place, "port", label);
        let ports = ports.and_then(|value| self.ports(value, label));
        let kept = Kept {
            group: group.as_ref().map(|group| group.value),
            ports: ports.map(|ports| ports.value),
        };
        let like = kept.group.map(|group| group.address());
        let sources = match table.get("source") {
            None => Some(Vec::new()),
            Some(value) => self.sources(value, label, like),
        };
        let vlan = match table.get("vlan") {
            None => Some(Vlan::Untagged),
            Some(value) => self.vlan(value, label),
        };
        let join = self.join(table, label);
        let local = match table.get("local") {
            None => Some(false),
            Some(value) => self.boolean(value, "local", label),
        };
        if let (Some(group), Some(true)) = (&group, join) {
            self.joins(group, sources.as_deref().unwrap_or_default(), label);
        }
        let complete = || {
            let interface = interface?;
            let matches = Match {
                group: kept.group?,
                ports: kept.ports?,
                sources: sources?,
                vlan: vlan?,
            };
            let value = Input {
                interface: interface.value,
                matches,
                join: join?,
                local: local?,
            };
            Some((At { place, value }, interface.place))
        };
        (complete(), kept)
    }

    /// Refuses more memberships than one rule may have.
    fn joins(&mut self, group: &At<Prefix>, sources: &[IpAddr], label: &str) {
        let of_each = sources.len().max(1) as u128;
        let joined = group.value.count().saturating_mul(of_each);
        if joined <= MAX_MEMBERSHIPS_OF_A_RULE as u128 {
            return;
        }
        let of_sources = match of_each {
            1 => String::new(),
            sources => format!(" of {sources} sources each"),
        };
        self.found.add(
            group.place,
            format!(
                "{label}: {} has {} groups{of_sources}, and a rule joins at most \
                 {MAX_MEMBERSHIPS_OF_A_RULE}",
                group.value,
                group.value.count()
            ),
            "add `join = false` if the network delivers them by itself, or give a longer prefix",
        );
    }

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
        let Endpoint {
            place,
            table,
            interface,
        } = self.endpoint(value, label, OUTPUT_KEYS)?;
        let group = match table.get("group") {
            None => self.kept_group(place, label, kept),
            Some(value) => self
                .group(value, label, Side::Output)
                .and_then(|group| self.group_onto(&group, label, kept.group)),
        };
        let port = match table.get("port") {
            None => kept.ports,
            Some(value) => self
                .ports(value, label)
                .and_then(|ports| self.ports_onto(&ports, label, kept.ports)),
        };
        let ttl = match table.get("ttl") {
            None => Some(Ttl::default()),
            Some(value) => self.ttl(value, label),
        };
        let (interface, group, port, ttl) = (interface?, group?, port?, ttl?);
        let output = Output {
            interface: Some(interface.value),
            group,
            port,
            source: Source::default(),
            header: Header {
                ttl,
                ..Header::default()
            },
            mark: None,
        };
        Some((
            At {
                place,
                value: output,
            },
            interface.place,
        ))
    }

    /// The groups that an output keeps.
    fn kept_group(&mut self, place: Place, label: &str, kept: Kept) -> Option<Prefix> {
        let group = kept.group?;
        if group.address().is_multicast() {
            return Some(group);
        }
        self.found.add(
            place,
            format!("{label} has no `group`, and the input's address, {group}, is this host's own"),
            "add `group` to send copies to a multicast group",
        );
        None
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
        let version = |group: Prefix| match group.address() {
            IpAddr::V4(_) => "IPv4",
            IpAddr::V6(_) => "IPv6",
        };
        let (cause, remedy) = if version(group) != version(from) {
            let (ours, theirs) = (version(group), version(from));
            (
                format!(
                    "`group` \"{group}\" is an {ours} group and the input has {theirs}; relay does \
                     not translate one into the other"
                ),
                format!("give an {theirs} group, or leave `group` out to keep the input's"),
            )
        } else if group.is_one() || group.length() == from.length() {
            return Some(group);
        } else if from.is_one() {
            (
                format!("`group` \"{group}\" is a prefix, and the input has one group"),
                "give one group, or leave `group` out to keep the input's".to_owned(),
            )
        } else {
            let length = from.length();
            let fitting = Prefix::around(group.address(), length);
            let fitting = fitting.map_or_else(|| from.to_string(), |group| group.to_string());
            (
                format!("`group` \"{group}\" is not as long as the input's prefix, {from}"),
                format!(
                    "give a prefix of {length} bits, such as \"{fitting}\", or one group that all \
                     copies go to"
                ),
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

    /// What inputs and outputs have in common.
    fn endpoint<'v, 'i>(
        &mut self,
        value: &'v Value<'i>,
        label: &str,
        keys: &[&str],
    ) -> Option<Endpoint<'v, 'i>> {
        let place = self.found.place(&value.span());
        let example = "{ interface = \"eth0\", group = \"239.1.1.1\", port = 5001 }";
        let Some(table) = self.table(value, label, example) else {
            self.draft.used_incomplete = true;
            return None;
        };
        self.known_keys(table, label, keys);
        let interface = self.required(table, place, "interface", label);
        let interface = interface.and_then(|value| self.interface_name(value, "interface", label));
        match &interface {
            Some(name) => self.use_interface(&name.value),
            None => self.draft.used_incomplete = true,
        }
        Some(Endpoint {
            place,
            table,
            interface,
        })
    }

    fn use_interface(&mut self, name: &str) {
        if !self.draft.used.contains(name) {
            self.draft.used.insert(name.to_owned());
        }
    }
}
