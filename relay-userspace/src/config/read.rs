//! From TOML values to typed drafts: everything that can be judged by looking at one value.
//!
//! What cannot be read stays `None` in the draft after its mistake was recorded, so that one wrong
//! value never hides another. [`super::check`] judges what takes more than one value.

use std::net::Ipv4Addr;

use toml::de::{DeTable, DeValue};

use super::{
    MAX_OUTPUTS, MAX_RULES, Place,
    draft::{At, Draft, InterfaceDraft, RuleDraft},
    mistake::Collector,
    values::{Side, Value},
};
use crate::rules::{Input, Output, Ttl};

/// Reads the whole text; `None` when its syntax is wrong.
pub(super) fn read(text: &str, found: &mut Collector<'_>) -> Option<Draft> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let place = found.place(&error.span().unwrap_or(0..0));
            let message = error.message().trim().replace('\n', "; ");
            found.add(
                place,
                format!("wrong TOML syntax: {message}"),
                "correct the syntax here; other mistakes show only after that",
            );
        }
        return None;
    }
    let mut reader = Reader {
        found,
        draft: Draft::default(),
    };
    reader.root(root.get_ref());
    Some(reader.draft)
}

/// The tables of the file, each with the keys it may have.
const ROOT_KEYS: &[&str] = &["rules", "interfaces"];
const RULE_KEYS: &[&str] = &["name", "input", "outputs"];
const INPUT_KEYS: &[&str] = &["interface", "group", "port"];
const OUTPUT_KEYS: &[&str] = &["interface", "group", "port", "ttl"];
const INTERFACE_KEYS: &[&str] = &["name", "queues", "cpus", "transmit"];

const RULE_EXAMPLE: &str = "write a [[rules]] table with `name`, `input` and `outputs`";

/// Walks the tree; the readers of single values are in [`super::values`].
pub(super) struct Reader<'f, 't> {
    pub(super) found: &'f mut Collector<'t>,
    draft: Draft,
}

impl Reader<'_, '_> {
    fn root(&mut self, root: &DeTable<'_>) {
        self.known_keys(root, "the file", ROOT_KEYS);
        let start = Place { line: 1, column: 1 };
        match root.get("rules") {
            None => self.found.add(start, "the file has no rules", RULE_EXAMPLE),
            Some(value) => {
                let Some(list) = self.tables(value, "rules") else {
                    self.draft.used_incomplete = true;
                    return self.interfaces(root);
                };
                if list.is_empty() {
                    let place = self.found.place(&value.span());
                    self.found.add(place, "the file has no rules", RULE_EXAMPLE);
                }
                if let Some(extra) = list.get(MAX_RULES) {
                    let place = self.found.place(&extra.span());
                    self.found.add(
                        place,
                        format!(
                            "the file has {} rules; {MAX_RULES} are possible",
                            list.len()
                        ),
                        "split the rules over several relays",
                    );
                    self.draft.used_incomplete = true;
                }
                for (position, value) in list.iter().take(MAX_RULES).enumerate() {
                    self.rule(position, value);
                }
            }
        }
        self.interfaces(root);
    }

    fn interfaces(&mut self, root: &DeTable<'_>) {
        let Some(value) = root.get("interfaces") else {
            return;
        };
        for value in self.tables(value, "interfaces").unwrap_or_default() {
            self.interface(value);
        }
    }

    fn rule(&mut self, position: usize, value: &Value<'_>) {
        let place = self.found.place(&value.span());
        let mut label = format!("rule {}", position + 1);
        let Some(table) = self.table(value, &label, "{ name = ..., input = ..., outputs = ... }")
        else {
            self.draft.used_incomplete = true;
            return;
        };
        let name = self.required(table, place, "name", &label);
        let name = name.and_then(|value| self.string(value, "name", &label, "\"feed-a\""));
        let name = name.filter(|name| self.rule_name(name, &label));
        if let Some(name) = &name {
            label = format!("rule `{}`", name.value.escape_debug());
        }
        self.known_keys(table, &label, RULE_KEYS);
        let input = self.required(table, place, "input", &label);
        if input.is_none() {
            self.draft.used_incomplete = true;
        }
        let input = input.and_then(|value| self.input(value, &format!("{label}, input")));
        let outputs = self.required(table, place, "outputs", &label);
        let outputs = outputs.map(|value| self.outputs(value, &label));
        if outputs.is_none() {
            self.draft.used_incomplete = true;
        }
        let outputs = outputs.unwrap_or_default();
        self.draft.rules.push(RuleDraft {
            place,
            label,
            name,
            input,
            outputs,
        });
    }

    /// Whether a name can be shown on one line of a log.
    fn rule_name(&mut self, name: &At<String>, label: &str) -> bool {
        let cause = if name.value.trim().is_empty() {
            "is empty"
        } else if name.value.contains(char::is_control) {
            "has a control character in it"
        } else {
            return true;
        };
        let remedy = "give a name that logs and counters can show, such as \"feed-a\"";
        self.found
            .add(name.place, format!("{label}: `name` {cause}"), remedy);
        false
    }

    fn input(&mut self, value: &Value<'_>, label: &str) -> Option<(At<Input>, Place)> {
        let (place, interface, group, port) =
            self.endpoint(value, label, INPUT_KEYS, Side::Input)?;
        let (interface, group, port) = (interface?, group?, port?);
        let input = Input {
            interface: interface.value,
            group,
            port,
        };
        Some((
            At {
                place,
                value: input,
            },
            interface.place,
        ))
    }

    fn outputs(&mut self, value: &Value<'_>, rule: &str) -> Vec<(At<Output>, Place)> {
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
            outputs.extend(self.output(value, &label));
        }
        outputs
    }

    fn output(&mut self, value: &Value<'_>, label: &str) -> Option<(At<Output>, Place)> {
        let (place, interface, group, port) =
            self.endpoint(value, label, OUTPUT_KEYS, Side::Output)?;
        let ttl = match value
            .get_ref()
            .as_table()
            .and_then(|table| table.get("ttl"))
        {
            None => Some(Ttl::DEFAULT),
            Some(value) => self.ttl(value, label),
        };
        let (interface, group, port, ttl) = (interface?, group?, port?, ttl?);
        let output = Output {
            interface: interface.value,
            group,
            port,
            ttl,
        };
        Some((
            At {
                place,
                value: output,
            },
            interface.place,
        ))
    }

    /// What inputs and outputs have in common: interface, group and port.
    #[expect(
        clippy::type_complexity,
        reason = "three optional parts, used twice just above"
    )]
    fn endpoint(
        &mut self,
        value: &Value<'_>,
        label: &str,
        keys: &[&str],
        side: Side,
    ) -> Option<(Place, Option<At<String>>, Option<Ipv4Addr>, Option<u16>)> {
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
            Some(name) => self.draft.used.push(name.value.clone()),
            None => self.draft.used_incomplete = true,
        }
        let group = self.required(table, place, "group", label);
        let group = group.and_then(|value| self.group(value, label, side));
        let port = self.required(table, place, "port", label);
        let port = port.and_then(|value| self.integer(value, "port", label, 1..=65_535, "5001"));
        let port = port.and_then(|port| u16::try_from(port.value).ok());
        Some((place, interface, group, port))
    }

    fn interface(&mut self, value: &Value<'_>) {
        let place = self.found.place(&value.span());
        let mut label = "interfaces".to_owned();
        let Some(table) = self.table(value, &label, "{ name = \"eth0\", queues = [0] }") else {
            return;
        };
        let name = self.required(table, place, "name", &label);
        let name = name.and_then(|value| self.interface_name(value, "name", &label));
        if let Some(name) = &name {
            label = format!("interface `{}`", name.value);
        }
        self.known_keys(table, &label, INTERFACE_KEYS);
        let queues = self.numbers(table, "queues", &label, "all queues are used");
        let cpus = self.numbers(table, "cpus", &label, "workers are not pinned");
        let transmit = table
            .get("transmit")
            .and_then(|value| self.transmit(value, &label));
        self.draft.interfaces.push(InterfaceDraft {
            name,
            queues,
            cpus,
            transmit,
        });
    }
}
