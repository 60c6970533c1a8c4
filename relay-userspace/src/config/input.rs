//! Reader of the input of a rule, and what its outputs can keep of it ([`super::output`]).

use std::net::IpAddr;

use super::{
    MAX_MEMBERSHIPS_OF_A_RULE, Place,
    draft::At,
    reader::Reader,
    rules::{Input, Match, PortMatch, Prefix, Vlan},
    values::Value,
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

/// Groups, ports and tags of an input, as far as they could be read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    pub(super) group: Option<Prefix>,
    pub(super) ports: Option<PortMatch>,
    pub(super) vlan: Option<Vlan>,
}

impl Reader<'_, '_> {
    /// An input with the place of its interface, and what its outputs can keep of it.
    pub(super) fn input(
        &mut self,
        value: &Value<'_>,
        label: &str,
    ) -> (Option<(At<Input>, Place)>, Kept) {
        let place = self.found.place(&value.span());
        let example = "{ interface = \"eth0\", group = \"239.1.1.1\", port = 5001 }";
        let Some(table) = self.table(value, label, example) else {
            self.draft.used_incomplete = true;
            return (None, Kept::default());
        };
        self.known_keys(table, label, INPUT_KEYS);
        let interface = self.required(table, place, "interface", label);
        let interface = self.used_interface(interface, label);
        let group = self.taken(table, place, label);
        let ports = self.required(table, place, "port", label);
        let ports = ports.and_then(|value| self.ports(value, label));
        let mut kept = Kept {
            group: group.as_ref().map(|group| group.value),
            ports: ports.map(|ports| ports.value),
            vlan: None,
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
        kept.vlan = vlan;
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

    /// The name of the interface of an input or output, if it could be read.
    pub(super) fn used_interface(
        &mut self,
        value: Option<&Value<'_>>,
        label: &str,
    ) -> Option<At<String>> {
        let name = value.and_then(|value| self.interface_name(value, "interface", label));
        match &name {
            Some(name) if self.draft.used.contains(&name.value) => {}
            Some(name) => {
                self.draft.used.insert(name.value.clone());
            }
            None => self.draft.used_incomplete = true,
        }
        name
    }
}
