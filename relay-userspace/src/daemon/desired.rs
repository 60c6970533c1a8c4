//! The rules that the relay shall run: those of its file, and what was changed by command since.
//!
//! Every change makes a new value and leaves the old one alone, so a change that is refused costs
//! nothing, and undoing one is putting the old value back.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use crate::config::{self, Document, Mistakes, rules::Rule};

/// The rules that the relay shall run.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The rule file as it was last loaded.
    file: Document,
    /// All rules, those that are disabled included.
    rules: Document,
}

impl Desired {
    /// The rules of a file, unchanged.
    #[must_use]
    pub fn of(file: Document) -> Self {
        Self {
            rules: file.clone(),
            file,
        }
    }

    /// All rules, those that are disabled included.
    #[must_use]
    pub fn rules(&self) -> &Document {
        &self.rules
    }

    /// The names of all interfaces that a rule names.
    #[must_use]
    pub fn interfaces(&self) -> BTreeSet<String> {
        let used = self.rules.rules.interfaces_used();
        used.collect::<BTreeSet<_>>()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// The addresses of this host that a rule has as input.
    #[must_use]
    pub fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let rules = self.rules.rules.rules.iter();
        let matches = rules.map(|rule| &rule.input.matches);
        let unicast = matches.filter(|matches| matches.is_unicast());
        unicast.map(|matches| matches.group.address()).collect()
    }

    /// The names of the rules that were added by command, also under a name that the file has.
    #[must_use]
    pub fn added(&self) -> BTreeSet<&str> {
        let of_file = by_name(&self.file);
        let is_added = |rule: &&Rule| {
            let of_file = of_file.get(rule.name.as_str());
            of_file.is_none_or(|before| !before.is_but_for_enabled(rule))
        };
        let rules = self.rules.rules.rules.iter().filter(is_added);
        rules.map(|rule| rule.name.as_str()).collect()
    }

    /// What a reload of `file` would discard: one text per rule that was added, removed, replaced by
    /// another one of its name, enabled or disabled by command, and that `file` does not have so.
    #[must_use]
    pub fn discarded_by(&self, file: &Document) -> Vec<String> {
        let (of_file, now) = (by_name(&self.file), by_name(&self.rules));
        let next = by_name(file);
        let mut discarded = Vec::new();
        let mut say = |name: &str, what: &str| {
            discarded.push(format!("{} ({what})", config::quoted(name)));
        };
        for rule in &self.rules.rules.rules {
            let name = rule.name.as_str();
            let what = match of_file.get(name) {
                None => "added",
                Some(before) if before.enabled && !rule.enabled => "disabled",
                Some(before) if !before.enabled && rule.enabled => "enabled",
                Some(before) if *before != rule => "replaced",
                Some(_) => continue,
            };
            if next.get(name).is_none_or(|next| *next != rule) {
                say(name, what);
            }
        }
        for rule in &self.file.rules.rules {
            let name = rule.name.as_str();
            if !now.contains_key(name) && next.contains_key(name) {
                say(name, "removed");
            }
        }
        discarded
    }

    /// The rules with those of `fragment` in addition.
    ///
    /// # Errors
    ///
    /// Every mistake that the two make together, with its place in the fragment.
    pub fn with(&self, fragment: &Document) -> Result<Self, Mistakes> {
        Ok(Self {
            rules: config::merge(&self.rules, fragment)?,
            ..self.clone()
        })
    }

    /// The rules without one; `None` if there is none of that name.
    #[must_use]
    pub fn without(&self, rule: &str) -> Option<Self> {
        Some(Self {
            file: self.file.clone(),
            rules: self.rules.without(rule)?,
        })
    }

    /// The rules with one of them enabled or disabled; `None` if there is none of that name.
    #[must_use]
    pub fn with_enabled(&self, rule: &str, enabled: bool) -> Option<Self> {
        let mut changed = self.clone();
        changed.rules.set_enabled(rule, enabled).then_some(changed)
    }

    /// The rules as the text of a rule file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        config::to_toml(&self.rules.rules)
    }
}

fn by_name(document: &Document) -> HashMap<&str, &Rule> {
    let rules = document.rules.rules.iter();
    rules.map(|rule| (rule.name.as_str(), rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(outputs: u8) -> Document {
        let text = format!(
            "[[rules]]\nname = \"a\"\n\
             input = {{ interface = \"in0\", group = \"239.1.1.1\", port = 5001 }}\n\
             outputs = [{{ interface = \"out0\", group = \"239.2.2.{outputs}\", port = 5002 }}]\n"
        );
        config::parse("relay.toml", &text).unwrap()
    }

    #[test]
    fn a_rule_that_was_replaced_under_its_name_is_not_discarded_without_a_word() {
        let (file, other) = (document(1), document(2));
        let of_file = Desired::of(file.clone());
        assert_eq!(of_file.discarded_by(&other), Vec::<String>::new());
        let replaced = of_file.without("a").unwrap().with(&other).unwrap();
        assert_eq!(replaced.discarded_by(&file), ["a (replaced)"]);
        assert_eq!(replaced.discarded_by(&other), Vec::<String>::new());
        assert_eq!(replaced.added(), BTreeSet::from(["a"]));
        let disabled = of_file.with_enabled("a", false).unwrap();
        assert_eq!(disabled.discarded_by(&file), ["a (disabled)"]);
        assert_eq!(disabled.added(), BTreeSet::new());
    }
}
