//! From TOML values to typed drafts, with every check that needs only one value.
//!
//! A value that cannot be read becomes a mistake and stays `None` in the draft, so that one wrong
//! value never hides another. [`super::cross_checks`] has the checks that need several values.

use toml::de::DeTable;

use super::{
    MAX_NAME_BYTES, MAX_RULES, Place,
    draft::{At, Draft, InterfaceDraft, RuleDraft},
    input::Kept,
    mistake::{Collector, quoted},
    reader::{Reader, SyntaxErrors},
    rules::Health,
    sections::{Kind, MAX_PART_BYTES, Part, Parts},
    values::{Value, close},
};

/// Reads the whole text; `None` if its syntax is wrong.
pub(super) fn read(text: &str, found: &mut Collector<'_>) -> Option<Draft> {
    let mut reader = Reader {
        found,
        draft: Draft::default(),
        rules: 0,
        none: None,
        metrics_at: None,
        extra: None,
    };
    let mut errors = Vec::new();
    for part in Parts::of(text) {
        reader.part(part, &mut errors);
    }
    let Reader {
        found,
        draft,
        rules,
        none,
        ..
    } = reader;
    if !errors.is_empty() {
        found.mistakes.clear();
        for (place, message) in errors {
            found.add(
                place,
                format!("wrong TOML syntax: {message}"),
                "correct the syntax here; other mistakes show only after that",
            );
        }
        return None;
    }
    match none {
        Some(place) if rules > 0 => found.add(
            place,
            "`rules` is empty, and the file has rules",
            "remove `rules = []`",
        ),
        // A file that was cut short must not end all rules, so it has to say that there are none.
        None if rules == 0 && !draft.used_incomplete => {
            let start = Place { line: 1, column: 1 };
            found.add_always(start, "the file has no rules", NO_RULES);
        }
        _ => {}
    }
    Some(draft)
}

/// The tables of the file, each with the keys it may have.
const ROOT_KEYS: &[&str] = &["rules", "interfaces", "metrics"];
const RULE_KEYS: &[&str] = &["name", "enabled", "input", "outputs", "silence", "monitor"];
const INTERFACE_KEYS: &[&str] = &["name", "queues", "cpus", "transmit", "offloads"];

/// Reading stops after this many syntax errors, and takes at most this many from one part.
const MAX_SYNTAX_ERRORS: usize = 100;

const NO_RULES: &str = "write a [[rules]] table with `name`, `input` and `outputs`, or `rules = []` if there \
                        shall be none";

impl Reader<'_, '_> {
    fn part(&mut self, part: Part, errors: &mut SyntaxErrors) {
        let start = self.found.place_in_file(part.start);
        if part.kind == Kind::Rule && self.rules >= MAX_RULES {
            self.extra_rules(1, start);
            return;
        }
        if part.is_too_large {
            self.rules += usize::from(part.kind == Kind::Rule);
            self.draft.used_incomplete = true;
            let (what, remedy) = match part.kind {
                Kind::Head => (
                    "the text before the first [[rules]]",
                    "write every rule as a [[rules]] table of its own",
                ),
                Kind::Rule => ("this rule", "give it fewer outputs, and shorter names"),
                Kind::Interface => ("this table", "remove the keys that the relay does not know"),
            };
            let cause = format!("{what} is larger than {} KiB", MAX_PART_BYTES >> 10);
            self.found.add(start, cause, remedy);
            return;
        }
        if self.found.has_enough() || errors.len() >= MAX_SYNTAX_ERRORS {
            self.rules += usize::from(part.kind == Kind::Rule);
            return;
        }
        self.found.origin = part.origin;
        let (root, wrong) = DeTable::parse_recoverable(&part.text);
        if wrong.is_empty() {
            self.root(root.get_ref(), part.kind);
            return;
        }
        for error in wrong.iter().take(MAX_SYNTAX_ERRORS) {
            let place = self.found.place(&error.span().unwrap_or(0..0));
            errors.push((place, error.message().trim().replace('\n', "; ")));
        }
    }

    /// The root of one part.
    fn root(&mut self, root: &DeTable<'_>, kind: Kind) {
        self.known_keys(root, "the file", ROOT_KEYS);
        // A file with a misspelt header such as [[rule]] has rules, so "no rules" would mislead.
        let like_rules = |key: &str| key != "rules" && close(key, &["rules"]).is_some();
        if root.keys().any(|key| like_rules(key.get_ref())) {
            self.draft.used_incomplete = true;
        }
        if let Some(value) = root.get("rules") {
            let table = value.get_ref().as_table();
            let lacks_a_name = table.is_some_and(|table| !table.contains_key("name"));
            let stray = kind == Kind::Interface && lacks_a_name;
            match self.tables(value, "rules", stray) {
                Some([]) => self.none = Some(self.found.place(&value.span())),
                Some(list) => {
                    let free = MAX_RULES.saturating_sub(self.rules);
                    for value in list.iter().take(free) {
                        self.rules += 1;
                        self.rule(self.rules, value);
                    }
                    if let Some(extra) = list.get(free) {
                        let place = self.found.place(&extra.span());
                        self.extra_rules(list.len() - free, place);
                    }
                }
                None => self.draft.used_incomplete = true,
            }
        }
        if let Some(value) = root.get("interfaces") {
            for value in self.tables(value, "interfaces", false).unwrap_or_default() {
                self.interface(value);
            }
        }
        if let Some(value) = root.get("metrics") {
            self.keep_metrics(value);
        }
    }

    /// Counts rules beyond [`super::MAX_RULES`]. Only the first of them is a mistake, which says
    /// how many rules the file has.
    fn extra_rules(&mut self, more: usize, place: Place) {
        self.rules += more;
        self.draft.used_incomplete = true;
        let cause = format!(
            "the file has {} rules; {MAX_RULES} are possible",
            self.rules
        );
        match self.extra {
            Some(at) => {
                if let Some(mistake) = self.found.mistakes.get_mut(at) {
                    mistake.cause = cause;
                }
            }
            None => {
                self.extra = Some(self.found.mistakes.len());
                let remedy = "split the rules over several relays";
                self.found.add_always(place, cause, remedy);
            }
        }
    }

    /// `number` counts from 1.
    fn rule(&mut self, number: usize, value: &Value<'_>) {
        let place = self.found.place(&value.span());
        let mut label = format!("rule {number}");
        let Some(table) = self.table(value, &label, "{ name = ..., input = ..., outputs = ... }")
        else {
            self.draft.used_incomplete = true;
            return;
        };
        let name = self.required(table, place, "name", &label);
        let name = name.and_then(|value| self.string(value, "name", &label, "\"feed-a\""));
        let name = name.filter(|name| self.rule_name(name, &label));
        if let Some(name) = &name {
            label = format!("rule `{}`", quoted(&name.value));
        }
        self.known_keys(table, &label, RULE_KEYS);
        let enabled = table.get("enabled");
        let enabled = enabled.and_then(|value| self.boolean(value, "enabled", &label));
        let input = self.required(table, place, "input", &label);
        if input.is_none() {
            self.draft.used_incomplete = true;
        }
        let (input, kept) = input.map_or((None, Kept::default()), |value| {
            self.input(value, &format!("{label}, input"))
        });
        let limit = table
            .get("input")
            .and_then(|value| value.get_ref().as_table()?.get("limit"))
            .and_then(|value| self.limit(value, &format!("{label}, input, limit")));
        let silence = table.get("silence");
        let monitor = table.get("monitor");
        let health = Health {
            silence: silence.and_then(|value| self.silence(value, &label)),
            monitor: monitor.and_then(|value| self.monitor(value, &label)),
        };
        let outputs = self.required(table, place, "outputs", &label);
        let outputs = outputs.map(|value| self.outputs(value, &label, kept));
        if outputs.is_none() {
            self.draft.used_incomplete = true;
        }
        let outputs = outputs.unwrap_or_default();
        self.draft.rules.push(RuleDraft {
            place,
            label,
            name,
            enabled: enabled.unwrap_or(true),
            input,
            limit,
            health,
            outputs,
        });
    }

    /// Whether a name can be shown on one line of a log.
    fn rule_name(&mut self, name: &At<String>, label: &str) -> bool {
        let cause = if name.value.trim().is_empty() {
            "is empty"
        } else if name.value.contains(char::is_control) {
            "has a control character in it"
        } else if name.value.len() > MAX_NAME_BYTES {
            "is longer than 255 bytes"
        } else {
            return true;
        };
        let remedy = "give a name that logs and counters can show, such as \"feed-a\"";
        self.found
            .add(name.place, format!("{label}: `name` {cause}"), remedy);
        false
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
        let offloads = table
            .get("offloads")
            .and_then(|value| self.offloads(value, &label));
        self.draft.interfaces.push(InterfaceDraft {
            name,
            queues,
            cpus,
            transmit,
            offloads,
        });
    }
}
