//! What must be so after any sequence of changes, by the simplest rules that say it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use relay_tests::rules::Rule;

use super::universe::{self, Form, INTERFACES, RULES};

/// One change.
#[derive(Debug, Clone)]
pub enum Step {
    /// `relay add`: a rule in one of its forms.
    Add(usize, Form),
    /// `relay remove`.
    Remove(usize),
    /// `relay enable`.
    Enable(usize),
    /// `relay disable`.
    Disable(usize),
    /// `relay reload` of a file with these rules, and whether each is enabled.
    Reload(Vec<(usize, Form, bool)>),
    /// `relay undo`.
    Undo,
    /// The interface goes down, if it is there.
    Down(usize),
    /// The interface comes up, if it is there.
    Up(usize),
    /// The interface goes down and up at once, if it is there.
    Flap(usize),
    /// The interface is deleted, if it is there.
    Delete(usize),
    /// The interface is made, if it is not there.
    Create(usize),
    /// The interface is deleted and made again at once, if all are up: the relay may see that as
    /// one change or as two, and what is down and of no use in between would differ.
    Replug(usize),
}

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let rule = || 0..RULES;
    let form = || prop_oneof![Just(Form::A), Just(Form::B)];
    let interface = || 0..INTERFACES.len();
    let entry = (any::<bool>(), form(), prop::bool::weighted(0.8));
    let file = prop::collection::vec(entry, RULES).prop_map(|entries| {
        let entries = (0..).zip(entries).filter(|(_, (there, ..))| *there);
        let entries = entries.map(|(number, (_, form, enabled))| (number, form, enabled));
        Step::Reload(entries.collect())
    });
    prop_oneof![
        4 => (rule(), form()).prop_map(|(rule, form)| Step::Add(rule, form)),
        2 => rule().prop_map(Step::Remove),
        2 => rule().prop_map(Step::Enable),
        2 => rule().prop_map(Step::Disable),
        4 => file,
        1 => Just(Step::Undo),
        2 => interface().prop_map(Step::Down),
        2 => interface().prop_map(Step::Up),
        1 => interface().prop_map(Step::Flap),
        2 => interface().prop_map(Step::Delete),
        3 => interface().prop_map(Step::Create),
        1 => interface().prop_map(Step::Replug),
    ]
}

/// The state of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// There is none of that name.
    Absent,
    /// It is there, and down.
    Down,
    /// It is up.
    Up,
}

/// A rule that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub number: usize,
    /// Its form.
    pub form: Form,
    /// Whether it is enabled.
    pub enabled: bool,
}

impl Entry {
    /// The rule.
    pub fn rule(&self) -> Rule {
        universe::rule(self.number, self.form)
    }
}

/// What is wanted, and what there is.
#[derive(Debug, Clone)]
pub struct Model {
    /// The rules, in their order.
    pub desired: Vec<Entry>,
    /// The rules before the last change.
    former: Option<Vec<Entry>>,
    /// The state of each of [`INTERFACES`].
    pub links: Vec<Link>,
    /// The interfaces that rules use now: they stay in use if they go down.
    in_use: BTreeSet<String>,
}

/// A rule or an output in the status.
pub type State = &'static str;

/// The states of a rule and of its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct States {
    /// Of the rule.
    pub rule: State,
    /// Of each output.
    pub outputs: Vec<State>,
}

impl Model {
    /// All interfaces are up, and these rules run.
    pub fn new(desired: Vec<Entry>) -> Self {
        let mut model = Self {
            desired,
            former: None,
            links: vec![Link::Up; INTERFACES.len()],
            in_use: BTreeSet::new(),
        };
        model.adapt();
        model
    }

    /// Makes a change. False if the relay must refuse it.
    pub fn apply(&mut self, step: &Step) -> bool {
        let mut next = self.desired.clone();
        let position = |wanted: usize| self.desired.iter().position(|one| one.number == wanted);
        let mut switch = |wanted: usize, enabled: bool| {
            let entry = position(wanted).and_then(|at| next.get_mut(at));
            entry.map(|entry| entry.enabled = enabled).is_some()
        };
        let possible = match step {
            Step::Enable(number) => switch(*number, true),
            Step::Disable(number) => switch(*number, false),
            Step::Add(number, form) => {
                next.push(Entry {
                    number: *number,
                    form: *form,
                    enabled: true,
                });
                position(*number).is_none()
            }
            Step::Remove(number) => {
                next.retain(|one| one.number != *number);
                position(*number).is_some()
            }
            Step::Reload(entries) => {
                let entries = entries.iter().map(|&(number, form, enabled)| Entry {
                    number,
                    form,
                    enabled,
                });
                next = entries.collect();
                // A file has rules.
                !next.is_empty()
            }
            Step::Undo => {
                let former = self.former.clone();
                next = former.unwrap_or_default();
                self.former.is_some()
            }
            of_interface => {
                self.change_link(of_interface);
                self.adapt();
                return true;
            }
        };
        if possible {
            self.former = Some(std::mem::replace(&mut self.desired, next));
            self.adapt();
        }
        possible
    }

    fn change_link(&mut self, step: &Step) {
        let (number, from, to): (_, &[Link], _) = match step {
            Step::Down(number) => (number, &[Link::Up], Link::Down),
            Step::Up(number) | Step::Flap(number) => (number, &[Link::Down], Link::Up),
            Step::Delete(number) => (number, &[Link::Up, Link::Down], Link::Absent),
            Step::Create(number) => (number, &[Link::Absent], Link::Up),
            _ => return,
        };
        if let Some(link) = self.links.get_mut(*number)
            && from.contains(link)
        {
            *link = to;
        }
    }

    /// Whether every interface is up.
    pub fn all_up(&self) -> bool {
        self.links.iter().all(|link| *link == Link::Up)
    }

    /// The state of an interface.
    pub fn link(&self, interface: &str) -> Link {
        let position = INTERFACES.iter().position(|name| *name == interface);
        let link = position.and_then(|at| self.links.get(at));
        link.copied().unwrap_or(Link::Absent)
    }

    fn is_usable(&self, interface: &str) -> bool {
        match self.link(interface) {
            Link::Absent => false,
            Link::Down => self.in_use.contains(interface),
            Link::Up => true,
        }
    }

    /// The states of a rule: it runs if its input and at least one output can be used.
    pub fn states(&self, entry: &Entry) -> States {
        let rule = entry.rule();
        let usable = |output: &relay_tests::rules::Output| self.is_usable(&output.interface);
        let input = self.is_usable(&rule.interface);
        let state = match entry.enabled {
            false => "disabled",
            true if input && rule.outputs.iter().any(usable) => "active",
            true => "pending",
        };
        let outputs = rule.outputs.iter().map(|output| match state {
            "active" if !usable(output) => "pending",
            _ => state,
        });
        States {
            rule: state,
            outputs: outputs.collect(),
        }
    }

    /// The rules that run, each with its outputs that do.
    pub fn active(&self) -> Vec<(Entry, Rule)> {
        let running = self.desired.iter().filter_map(|entry| {
            let states = self.states(entry);
            let mut rule = entry.rule();
            let outputs = rule.outputs.into_iter().zip(&states.outputs);
            let outputs = outputs.filter(|(_, state)| **state == "active");
            rule.outputs = outputs.map(|(output, _)| output).collect();
            (states.rule == "active").then_some((*entry, rule))
        });
        running.collect()
    }

    /// Takes note of what is in use now.
    fn adapt(&mut self) {
        let active = self.active();
        let names = active.iter().flat_map(|(_, rule)| {
            let outputs = rule.outputs.iter().map(|output| &output.interface);
            outputs.chain([&rule.interface]).cloned()
        });
        self.in_use = names.collect();
    }

    /// The interfaces that rules use now.
    pub fn in_use(&self) -> &BTreeSet<String> {
        &self.in_use
    }
}
