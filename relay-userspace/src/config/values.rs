//! Readers of single values: each checks type and range, and records a mistake with a remedy.

use std::ops::RangeInclusive;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Place,
    draft::At,
    mistake::quoted,
    reader::Reader,
    rules::{Limit, Offloads, Transmit, Ttl},
};

pub(super) type Value<'v> = Spanned<DeValue<'v>>;

impl Reader<'_, '_> {
    pub(super) fn ttl(&mut self, value: &Value<'_>, label: &str) -> Option<Ttl> {
        const REMEDY: &str = "give a number from 1 to 255, or \"decrement\" to send one less than \
             the datagram arrived with; the default is \"auto\"";
        match value.get_ref() {
            DeValue::Integer(_) => {
                let ttl = self.integer(value, "ttl", label, 1..=255, "64")?;
                u8::try_from(ttl.value).ok().map(Ttl::Set)
            }
            DeValue::String(text) if text == "auto" => Some(Ttl::Auto),
            DeValue::String(text) if text == "decrement" => Some(Ttl::Decrement),
            DeValue::String(text) => {
                let place = self.found.place(&value.span());
                let text = quoted(text);
                self.found.add(
                    place,
                    format!("{label}: `ttl` \"{text}\" is unknown"),
                    REMEDY,
                );
                None
            }
            _ => {
                self.wrong_type(value, "ttl", label, "an integer or a string", "64");
                None
            }
        }
    }

    /// The `limit` of an input.
    pub(super) fn limit(&mut self, value: &Value<'_>, label: &str) -> Option<Limit> {
        const KEYS: [&str; 2] = ["packets_per_second", "burst"];
        let place = self.found.place(&value.span());
        let table = self.table(value, label, "{ packets_per_second = 10000, burst = 100 }")?;
        self.known_keys(table, label, &KEYS);
        let mut number = |key, most, example| {
            let value = self.required(table, place, key, label)?;
            self.integer(value, key, label, 1..=most, example)
        };
        let [rate, burst] = KEYS;
        let rate = number(rate, Limit::MAX_RATE, "10000");
        let burst = number(burst, Limit::MAX_BURST, "100");
        Some(Limit {
            packets_per_second: rate?.value,
            burst: burst?.value,
        })
    }

    pub(super) fn transmit(&mut self, value: &Value<'_>, label: &str) -> Option<At<Transmit>> {
        let At { place, value: text } = self.string(value, "transmit", label, "\"auto\"")?;
        let value = match text.as_str() {
            "auto" => Transmit::Auto,
            "xsk" => Transmit::Xsk,
            "segmented" => Transmit::Segmented,
            _ => {
                let text = quoted(&text);
                self.found.add(
                    place,
                    format!("{label}: `transmit` \"{text}\" is unknown"),
                    "give \"auto\", \"xsk\" or \"segmented\"; the default is \"auto\"",
                );
                return None;
            }
        };
        Some(At { place, value })
    }

    pub(super) fn offloads(&mut self, value: &Value<'_>, label: &str) -> Option<At<Offloads>> {
        let At { place, value: text } = self.string(value, "offloads", label, "\"manage\"")?;
        let value = match text.as_str() {
            "keep" => Offloads::Keep,
            "manage" => Offloads::Manage,
            _ => {
                let text = quoted(&text);
                self.found.add(
                    place,
                    format!("{label}: `offloads` \"{text}\" is unknown"),
                    "give \"manage\" to let the relay switch off what stands in its way while it runs, \
                     or \"keep\"; the default is \"keep\"",
                );
                return None;
            }
        };
        Some(At { place, value })
    }

    /// A list of distinct numbers up to 65,535, not empty. `without` says what happens if the key
    /// is left out.
    pub(super) fn numbers(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        label: &str,
        without: &str,
    ) -> Option<Vec<At<u32>>> {
        let value = table.get(key)?;
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong_type(value, key, label, "an array of integers", "[0, 1]");
            return None;
        };
        if list.is_empty() {
            let place = self.found.place(&value.span());
            let remedy = format!("list at least one, or leave `{key}` out: then {without}");
            self.found
                .add(place, format!("{label}: `{key}` is empty"), remedy);
        }
        let mut numbers: Vec<At<u32>> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        for value in list.iter() {
            let Some(number) = self.integer(value, key, label, 0..=65_535, "[0, 1]") else {
                continue;
            };
            if let Some(first) = seen.insert(number.value, number.place) {
                seen.insert(number.value, first);
                self.found.add(
                    number.place,
                    format!(
                        "{label}: `{key}` lists {} twice; first at {first}",
                        number.value
                    ),
                    "list each once",
                );
                continue;
            }
            numbers.push(number);
        }
        Some(numbers)
    }

    /// A name that the kernel accepts for an interface (`dev_valid_name` in net/core/dev.c).
    pub(super) fn interface_name(
        &mut self,
        value: &Value<'_>,
        key: &str,
        label: &str,
    ) -> Option<At<String>> {
        let name = self.string(value, key, label, "\"eth0\"")?;
        let text = &name.value;
        let cause = if text.is_empty() {
            "is empty"
        } else if text.len() > 15 {
            "is longer than 15 bytes, the most that an interface name has"
        } else if text == "." || text == ".." {
            "cannot be the name of an interface"
        } else if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            "has white space in it"
        } else if text.contains(['/', ':']) {
            "has a `/` or `:` in it"
        } else {
            return Some(name);
        };
        let cause = format!("{label}: `{key}` \"{}\" {cause}", quoted(text));
        self.found
            .add(name.place, cause, "give the name that `ip link show` lists");
        None
    }

    pub(super) fn string(
        &mut self,
        value: &Value<'_>,
        key: &str,
        label: &str,
        example: &str,
    ) -> Option<At<String>> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(value, key, label, "a string", example);
            return None;
        };
        Some(At {
            place: self.found.place(&value.span()),
            value: text.clone().into_owned(),
        })
    }

    pub(super) fn boolean(&mut self, value: &Value<'_>, key: &str, label: &str) -> Option<bool> {
        let DeValue::Boolean(boolean) = value.get_ref() else {
            self.wrong_type(value, key, label, "true or false", "false");
            return None;
        };
        Some(*boolean)
    }

    pub(super) fn integer(
        &mut self,
        value: &Value<'_>,
        key: &str,
        label: &str,
        range: RangeInclusive<u32>,
        example: &str,
    ) -> Option<At<u32>> {
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(value, key, label, "an integer", example);
            return None;
        };
        let place = self.found.place(&value.span());
        let number = u32::from_str_radix(integer.as_str(), integer.radix());
        if let Some(value) = number.ok().filter(|number| range.contains(number)) {
            return Some(At { place, value });
        }
        self.found.add(
            place,
            format!(
                "{label}: `{key}` {} is out of range",
                quoted(&integer.to_string())
            ),
            format!("give a number from {} to {}", range.start(), range.end()),
        );
        None
    }

    pub(super) fn table<'v, 'i>(
        &mut self,
        value: &'v Value<'i>,
        label: &str,
        example: &str,
    ) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let place = self.found.place(&value.span());
            let cause = format!("{label} is {}, not a table", article(value.get_ref()));
            self.found.add(place, cause, format!("write {example}"));
        }
        table
    }

    /// The entries of `[[key]]`. With `stray`, `value` is a table of such an entry that follows a
    /// table of another kind.
    pub(super) fn tables<'v, 'i>(
        &mut self,
        value: &'v Value<'i>,
        key: &str,
        stray: bool,
    ) -> Option<&'v [Value<'i>]> {
        let list = value.get_ref().as_array();
        if list.is_none() {
            let place = self.found.place(&value.span());
            let (cause, remedy) = if stray {
                (
                    format!("a table of `{key}` stands behind a table of another kind"),
                    format!("move it to the end of the [[{key}]] table that it belongs to"),
                )
            } else {
                (
                    format!(
                        "`{key}` is {}, not an array of tables",
                        article(value.get_ref())
                    ),
                    format!("write [[{key}]] with two brackets, once per entry"),
                )
            };
            self.found.add(place, cause, remedy);
        }
        list.map(|list| &**list)
    }

    pub(super) fn required<'v, 'i>(
        &mut self,
        table: &'v DeTable<'i>,
        place: Place,
        key: &str,
        label: &str,
    ) -> Option<&'v Value<'i>> {
        let value = table.get(key);
        if value.is_none() {
            self.found.add(
                place,
                format!("{label} has no `{key}`"),
                format!("add `{key}` to it"),
            );
        }
        value
    }

    pub(super) fn wrong_type(
        &mut self,
        value: &Value<'_>,
        key: &str,
        label: &str,
        wanted: &str,
        example: &str,
    ) {
        let place = self.found.place(&value.span());
        let got = article(value.get_ref());
        self.found.add(
            place,
            format!("{label}: `{key}` is {got}; it must be {wanted}"),
            format!("write for example `{key} = {example}`"),
        );
    }

    pub(super) fn known_keys(&mut self, table: &DeTable<'_>, label: &str, known: &[&str]) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) || self.found.has_enough() {
                continue;
            }
            let remedy = match (hint(name), close(name, known)) {
                (Some(hint), _) => hint.to_owned(),
                (None, Some(close)) => format!("did you mean `{close}`?"),
                (None, None) => format!("the keys here are `{}`", known.join("`, `")),
            };
            let place = self.found.place(&key.span());
            let name = quoted(name);
            self.found.add(
                place,
                format!("{label} has the unknown key `{name}`"),
                remedy,
            );
        }
    }
}

/// The key of `known` that the user probably meant by `name`.
pub(super) fn close<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let close = known
        .iter()
        // The distance between long names takes long to compute.
        .filter(|known| name.len() <= known.len() + 2)
        .map(|known| (strsim::damerau_levenshtein(known, name), *known))
        .filter(|(distance, known)| *distance <= 2.min(known.len() - 1))
        .min();
    close.map(|(_, known)| known)
}

/// The remedy for a key that other programs have.
fn hint(name: &str) -> Option<&'static str> {
    match name {
        "dscp" => Some("leave it out: an input takes any, and an output sets it"),
        "tos" | "ecn" => Some(
            "leave it out: `dscp` of an output sets the DSCP, and a copy always keeps the ECN bits that \
             its datagram arrived with",
        ),
        _ => None,
    }
}

/// The end of a rule that a group belongs to.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Input,
    Output,
}

/// The type of a value in words, with its article.
fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
