//! The names that rules mention: tells control when one of them comes to mean an interface, another
//! one, or none, and when an interface changes that no worker uses yet.
//!
//! Interfaces that are followed are [`super::interface`]'s; here it matters only that they are
//! there.

use std::collections::{BTreeMap, BTreeSet};

use log::Level::{self, Debug, Info, Warn};

use super::{
    changes::{Addresses, Line},
    mailbox::Events,
};
use crate::host::watch::{Now, Questions};

/// All names that rules mention.
#[derive(Default)]
pub struct Names(BTreeMap<String, Name>);

struct Name {
    known: Known,
    /// The index of the last interface that had this name.
    last: Option<u32>,
    /// That one was followed when it was last looked at, so its end is told elsewhere.
    was_followed: bool,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    NotYet,
    Nothing,
    Interface(Facts),
}

/// What decides whether rules can use an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    index: u32,
    mac: Option<[u8; 6]>,
    mtu: u32,
    is_up: bool,
    addresses: Addresses,
}

/// Which names to look at.
pub enum Which<'a> {
    /// Those never looked at.
    New,
    /// Those that interfaces were given, and those of interfaces that changed.
    Touched {
        /// The names.
        named: &'a BTreeSet<String>,
        /// The interfaces' indices.
        touched: &'a BTreeSet<u32>,
    },
    /// All.
    All,
}

impl Names {
    /// Replaces the names by `wanted`; of those that stay, nothing is forgotten.
    pub fn want(&mut self, wanted: BTreeSet<String>) {
        self.0.retain(|name, _| wanted.contains(name));
        for name in wanted {
            self.0.entry(name).or_insert_with(|| Name {
                known: Known::NotYet,
                last: None,
                was_followed: false,
            });
        }
    }

    /// Looks at `which` names, and tells what has changed. `is_followed` says whether an index is
    /// an interface's that is followed and there; `hear` is called with the index of every other
    /// interface before it is asked for, so that later changes of it are heard.
    pub fn look(
        &mut self,
        which: &Which<'_>,
        is_followed: impl Fn(u32) -> bool,
        hear: impl Fn(u32),
        questions: &mut Questions,
        events: &mut Events,
    ) {
        for (text, name) in &mut self.0 {
            let wanted = match which {
                Which::New => name.known == Known::NotYet,
                Which::Touched { named, touched } => {
                    named.contains(text) || name.index().is_some_and(|at| touched.contains(&at))
                }
                Which::All => true,
            };
            // If the kernel does not answer, nothing is known to have changed.
            if wanted && let Ok(now) = ask(text, &hear, questions) {
                name.take(text, now, &is_followed, events);
            }
        }
    }
}

fn ask(
    name: &str,
    hear: impl Fn(u32),
    questions: &mut Questions,
) -> std::io::Result<Option<Facts>> {
    let Some((index, _)) = questions.link_named(name)? else {
        return Ok(None);
    };
    hear(index);
    let Some(now) = questions.link(index)?.filter(|now| now.name == name) else {
        return Ok(None);
    };
    let addresses = match Addresses::ask(index, questions) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        other => other?,
    };
    let Now {
        mac, mtu, is_up, ..
    } = now;
    Ok(Some(Facts {
        index,
        mac,
        mtu,
        is_up,
        addresses,
    }))
}

impl Name {
    fn index(&self) -> Option<u32> {
        match &self.known {
            Known::Interface(facts) => Some(facts.index),
            Known::NotYet | Known::Nothing => None,
        }
    }

    /// Takes what the name stands for now.
    fn take(
        &mut self,
        name: &str,
        now: Option<Facts>,
        is_followed: impl Fn(u32) -> bool,
        events: &mut Events,
    ) {
        let followed = now.as_ref().is_some_and(|now| is_followed(now.index));
        let silent = followed || self.was_followed && now.is_none();
        self.was_followed = followed;
        if !silent && let Some((level, turn, text)) = self.change(name, now.as_ref()) {
            events.add(&text);
            let line = Line {
                level,
                kind: "interface",
                which: String::new(),
                turn,
                text,
                matters: true,
            };
            line.say(name);
        }
        self.last = now.as_ref().map(|now| now.index).or(self.last);
        self.known = now.map_or(Known::Nothing, Known::Interface);
    }

    /// What has changed, if anything has.
    fn change(&self, name: &str, now: Option<&Facts>) -> Option<(Level, &'static str, String)> {
        let before = match (&self.known, now) {
            (Known::NotYet | Known::Nothing, None) => return None,
            // It was there before control asked for it, as far as is known here.
            (Known::NotYet, Some(now)) => {
                return Some((
                    Debug,
                    "",
                    format!("there is an interface {name} (index {})", now.index),
                ));
            }
            (Known::Interface(_), None) => {
                let text = format!("there is no interface {name} any more");
                return Some((Warn, "gone", text));
            }
            (Known::Nothing, Some(_)) => None,
            (Known::Interface(before), Some(_)) => Some(before),
        };
        let now = now?;
        let Some(before) = before.filter(|before| before.index == now.index) else {
            let text = match self.last {
                Some(last) => format!(
                    "there is an interface {name} again (index {}, {last} before)",
                    now.index
                ),
                None => format!("there is an interface {name} now (index {})", now.index),
            };
            return Some((Info, "there", text));
        };
        if before.is_up != now.is_up {
            let state = if now.is_up { "up" } else { "down" };
            return Some((Info, state, format!("{name} is {state}")));
        }
        if before.addresses != now.addresses {
            let all: Vec<String> = now.addresses.iter().map(|one| one.to_string()).collect();
            let all = if all.is_empty() {
                "no address".to_owned()
            } else {
                format!("the address {}", all.join(", "))
            };
            return Some((Info, "addresses", format!("{name} has {all} now")));
        }
        (before != now).then(|| (Debug, "", format!("{name} has changed")))
    }
}
