//! What must be so after any sequence of changes, by the simplest rules that say it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::universe::{self, CHANGING, FAR, Form, INTERFACES, Input, Out, RULES};

/// The interfaces that the route to [`FAR`] may lead through.
pub const LEAD: [&str; 2] = ["out1", "out2"];

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
    /// The route to [`FAR`] leads through this one of [`LEAD`] now, if that is up.
    Lead(usize),
    /// There is no route to [`FAR`] any more.
    Unlead,
}

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let rule = || 0..RULES;
    let form = || prop_oneof![Just(Form::A), Just(Form::B)];
    let interface = || 0..CHANGING;
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
        3 => (0..LEAD.len()).prop_map(Step::Lead),
        1 => Just(Step::Unlead),
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
    /// What the rule takes.
    pub fn input(&self) -> Input {
        universe::input(self.number)
    }

    /// Where its copies go.
    pub fn outputs(&self) -> Vec<Out> {
        universe::outputs(self.number, self.form)
    }
}

/// How the copies of an output leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through this interface.
    Through(&'static str),
    /// Not at all: there is no route. The rule runs all the same.
    NoRoute,
    /// Not at all: the interface cannot be used.
    Unusable,
}

/// A rule that runs.
#[derive(Debug, Clone)]
pub struct Active {
    /// Which.
    pub entry: Entry,
    /// What it takes.
    pub input: Input,
    /// Its outputs, and how their copies leave.
    pub outputs: Vec<(Out, Way)>,
}

impl Active {
    /// The outputs that run, and the interfaces that they leave through.
    pub fn running(&self) -> impl Iterator<Item = (&Out, &'static str)> {
        let outputs = self.outputs.iter();
        outputs.filter_map(|(out, way)| match way {
            Way::Through(interface) => Some((out, *interface)),
            Way::NoRoute | Way::Unusable => None,
        })
    }

    /// The interfaces that it uses.
    pub fn interfaces(&self) -> impl Iterator<Item = &'static str> {
        let outputs = self.running().map(|(_, interface)| interface);
        outputs.chain([self.input.interface])
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
    in_use: BTreeSet<&'static str>,
    /// The interface that the route to [`FAR`] leads through, if there is one.
    pub led: Option<&'static str>,
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
            led: None,
        };
        model.adapt();
        model
    }

    /// The relay ends, and another one begins with the same rules.
    pub fn restart(&mut self) {
        self.former = None;
        self.in_use.clear();
        self.adapt();
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
            _ => return self.change_route(step),
        };
        if let Some(link) = self.links.get_mut(*number)
            && from.contains(link)
        {
            *link = to;
        }
        self.change_route(step);
    }

    /// A route through a router goes with the interface, and does not come back with it.
    fn change_route(&mut self, step: &Step) {
        let gone = match step {
            Step::Lead(which) => {
                let by = LEAD.get(*which).filter(|name| self.link(name) == Link::Up);
                self.led = by.copied().or(self.led);
                return;
            }
            Step::Unlead => self.led,
            Step::Down(at) | Step::Flap(at) | Step::Delete(at) => INTERFACES.get(*at).copied(),
            Step::Replug(at) if self.all_up() => INTERFACES.get(*at).copied(),
            _ => None,
        };
        if gone == self.led {
            self.led = None;
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

    /// How the copies of an output leave, if its rule runs.
    fn way(&self, out: &Out) -> Way {
        if out.to.is_multicast() {
            return match self.is_usable(out.interface) {
                true => Way::Through(out.interface),
                false => Way::Unusable,
            };
        }
        if !out.interface.is_empty() && self.link(out.interface) == Link::Absent {
            return Way::Unusable;
        }
        let by = match out.to == FAR {
            true => self.led,
            false => universe::link_of(out.to),
        };
        // The kernel takes the routes of an interface away that goes down.
        let by = by.filter(|by| self.link(by) == Link::Up);
        by.map_or(Way::NoRoute, Way::Through)
    }

    /// An enabled rule, if it runs: its input can be used, and at least one output, or one waits
    /// for a route.
    fn run(&self, entry: &Entry) -> Option<Active> {
        let input = entry.input();
        let is_there = |owner: &str| self.link(owner) != Link::Absent;
        if !entry.enabled || !self.is_usable(input.interface) || !input.owner.is_none_or(is_there) {
            return None;
        }
        let outputs = entry.outputs().into_iter();
        let outputs: Vec<_> = outputs.map(|out| (out, self.way(&out))).collect();
        let runs = outputs.iter().any(|(_, way)| *way != Way::Unusable);
        runs.then_some(Active {
            entry: *entry,
            input,
            outputs,
        })
    }

    /// The states of a rule.
    pub fn states(&self, entry: &Entry) -> States {
        let all = |state| States {
            rule: state,
            outputs: vec![state; entry.outputs().len()],
        };
        if !entry.enabled {
            return all("disabled");
        }
        let Some(active) = self.run(entry) else {
            return all("pending");
        };
        let outputs = active.outputs.iter().map(|(_, way)| match way {
            Way::Through(_) => "active",
            Way::NoRoute | Way::Unusable => "pending",
        });
        States {
            rule: "active",
            outputs: outputs.collect(),
        }
    }

    /// The rules that run.
    pub fn active(&self) -> Vec<Active> {
        let running = self.desired.iter().filter_map(|entry| self.run(entry));
        running.collect()
    }

    /// Takes note of what is in use now.
    fn adapt(&mut self) {
        let active = self.active();
        self.in_use = active.iter().flat_map(Active::interfaces).collect();
    }

    /// The interfaces that rules use now.
    pub fn in_use(&self) -> &BTreeSet<&'static str> {
        &self.in_use
    }
}
