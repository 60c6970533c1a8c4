//! Which slot of the counters each flow and output has: what does not change keeps its slot.
//!
//! A flow is known by its rule's name, and an output by its rule and its [`OutputIdentity`]. The
//! [`Book`] is control's; a worker knows slots alone. A slot whose flow or output is gone is given
//! to another one only after [`Book::release`], which is for the caller to hold back until the
//! worker counts there no more.

use std::collections::{HashMap, VecDeque};

use crate::{
    config::rules::{OutputVlan, PortMatch, Prefix, Rule},
    plan::{self, Plan, WaitsFor},
};

/// What an output of a rule is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputIdentity {
    /// The interface's name; empty where the kernel's routing chooses it, so that it stays the same
    /// output when its route moves.
    pub interface: String,
    /// The destination group or address.
    pub group: Prefix,
    /// The destination port.
    pub port: PortMatch,
    /// The tags.
    pub vlan: OutputVlan,
    /// How many outputs of the rule that are the same in all this come before it.
    pub repeat: u32,
}

impl OutputIdentity {
    /// The identities of the outputs of a rule, in order.
    #[must_use]
    pub fn of_rule(rule: &Rule) -> Vec<Self> {
        let mut repeats = HashMap::new();
        let mut all = Vec::with_capacity(rule.outputs.len());
        for output in &rule.outputs {
            let repeat = repeats.entry(output.destination()).or_insert(0);
            all.push(Self {
                interface: output.interface.clone().unwrap_or_default(),
                group: output.group,
                port: output.port,
                vlan: output.header.vlan,
                repeat: *repeat,
            });
            *repeat += 1;
        }
        all
    }
}

/// The identities of the outputs of a flow of `plan`, in order, those that wait last.
#[must_use]
pub fn identities(plan: &Plan, flow: &plan::Flow) -> Vec<OutputIdentity> {
    let running = flow.outputs.iter().map(|output| {
        let interface = output.configured().and_then(|at| plan.interfaces.get(at));
        let interface = interface.map_or("", |interface| interface.name.as_str());
        let vlan = output.header.vlan;
        let key = (interface, output.group, output.port, vlan);
        (output.position, key)
    });
    let waiting = flow.pending.iter().map(|output| {
        let interface = output.interface.as_deref().unwrap_or_default();
        let key = (interface, output.group, output.port, output.vlan);
        (output.position, key)
    });
    let all: Vec<_> = running.chain(waiting).collect();
    let mut in_order: Vec<usize> = (0..all.len()).collect();
    in_order.sort_by_key(|&at| all.get(at).map(|(position, _)| *position));
    let mut before = HashMap::new();
    let mut repeats = vec![0; all.len()];
    for at in in_order {
        if let (Some((_, same)), Some(repeat)) = (all.get(at), repeats.get_mut(at)) {
            let count = before.entry(*same).or_insert(0);
            *repeat = *count;
            *count += 1;
        }
    }
    let identity = |((_, (interface, group, port, vlan)), repeat): (_, u32)| {
        let interface: &str = interface;
        OutputIdentity {
            interface: interface.to_owned(),
            group,
            port,
            vlan,
            repeat,
        }
    };
    all.into_iter().zip(repeats).map(identity).collect()
}

/// The slots of one flow of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowSlots {
    /// The flow's own.
    pub flow: u32,
    /// Those of its outputs, in order.
    pub outputs: Vec<u32>,
    /// Those of its outputs that wait, each with what it waits for.
    pub waiting: Vec<(u32, WaitsFor)>,
}

/// The slots of all flows of a worker, in the order of [`plan::WorkerPlan::flows`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(Vec<FlowSlots>);

impl Slots {
    /// Slots in the order of the plan, as a worker has them whose table was never replaced.
    #[must_use]
    pub fn in_order(plan: &Plan, worker: &plan::WorkerPlan) -> Self {
        Book::default().assign(plan, worker).slots
    }

    /// The slots of each flow.
    pub fn iter(&self) -> impl Iterator<Item = &FlowSlots> {
        self.0.iter()
    }

    /// How many flow slots a table with these must have room for.
    #[must_use]
    pub fn flows_end(&self) -> usize {
        let last = self.iter().map(|slots| slots.flow).max();
        last.map_or(0, |last| last as usize + 1)
    }
}

/// A flow in the book.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its slot.
    pub flow: u32,
    /// Its outputs with their slots, in order.
    pub outputs: Vec<(OutputIdentity, u32)>,
}

impl Entry {
    /// The slot of an output, which was the one at `position` last time.
    fn slot(&self, position: usize, identity: &OutputIdentity) -> Option<u32> {
        let at_position = self.outputs.get(position);
        let mut all = at_position.into_iter().chain(&self.outputs);
        all.find(|(other, _)| other == identity)
            .map(|&(_, slot)| slot)
    }
}

/// What a table no longer has of one rule: its numbers are final once the worker counts there no
/// more.
#[derive(Debug)]
pub struct Leaving {
    /// The rule's name.
    pub rule: String,
    /// The slot of its flow, if the rule is gone, and not some of its outputs alone.
    pub flow: Option<u32>,
    /// The outputs that are gone, with their slots.
    pub outputs: Vec<(OutputIdentity, u32)>,
}

/// Slots of one kind: those that nothing uses, and where those begin that nothing ever used.
#[derive(Debug, Default)]
struct Free {
    /// Taken from the front, put back behind, so that an [`Assigned`] stays right meanwhile.
    free: VecDeque<u32>,
    next: u32,
}

/// Slots that are taken from a [`Free`], without changing it yet.
#[derive(Debug)]
struct Draw<'a> {
    from: &'a Free,
    taken: usize,
    next: u32,
}

impl Draw<'_> {
    fn take(&mut self) -> u32 {
        if let Some(&slot) = self.from.free.get(self.taken) {
            self.taken += 1;
            return slot;
        }
        self.next += 1;
        self.next - 1
    }

    fn end(self) -> Drawn {
        Drawn {
            taken: self.taken,
            next: self.next,
        }
    }
}

/// What was taken.
#[derive(Debug, Clone, Copy, Default)]
struct Drawn {
    taken: usize,
    next: u32,
}

impl Free {
    fn draw(&self) -> Draw<'_> {
        Draw {
            from: self,
            taken: 0,
            next: self.next,
        }
    }

    fn commit(&mut self, drawn: Drawn) {
        self.free.drain(..drawn.taken.min(self.free.len()));
        self.next = self.next.max(drawn.next);
    }
}

/// The flows of a worker's table with their slots.
#[derive(Debug, Default)]
pub struct Book {
    rules: HashMap<String, Entry>,
    flows: Free,
    outputs: Free,
}

/// The flows of another table with their slots: a book to be, of which the worker knows nothing
/// yet.
#[derive(Debug)]
pub struct Assigned {
    /// The slots, in the order of the worker's flows.
    pub slots: Slots,
    rules: HashMap<String, Entry>,
    flows: Drawn,
    outputs: Drawn,
}

impl Assigned {
    /// How many flow slots and output slots there must be.
    pub fn ends(&self) -> (usize, usize) {
        (self.flows.next as usize, self.outputs.next as usize)
    }
}

impl Book {
    /// Finds slots for the flows of `worker`, and changes nothing.
    pub fn assign(&self, plan: &Plan, worker: &plan::WorkerPlan) -> Assigned {
        let (mut flows, mut outputs) = (self.flows.draw(), self.outputs.draw());
        let (mut rules, mut slots) = (HashMap::new(), Vec::new());
        for flow in worker.flows.iter().filter_map(|&at| plan.flows.get(at)) {
            let known = self.rules.get(&flow.rule);
            let of_output = |(at, identity): (usize, OutputIdentity)| {
                let known = known.and_then(|entry| entry.slot(at, &identity));
                let slot = known.unwrap_or_else(|| outputs.take());
                (identity, slot)
            };
            let entry = Entry {
                flow: known.map_or_else(|| flows.take(), |entry| entry.flow),
                outputs: identities(plan, flow)
                    .into_iter()
                    .enumerate()
                    .map(of_output)
                    .collect(),
            };
            let mut of_outputs: Vec<u32> = entry.outputs.iter().map(|&(_, slot)| slot).collect();
            let waiting = of_outputs.split_off(flow.outputs.len().min(of_outputs.len()));
            let waits_for = flow.pending.iter().map(|one| one.waits_for);
            slots.push(FlowSlots {
                flow: entry.flow,
                outputs: of_outputs,
                waiting: waiting.into_iter().zip(waits_for).collect(),
            });
            rules.insert(flow.rule.clone(), entry);
        }
        Assigned {
            slots: Slots(slots),
            rules,
            flows: flows.end(),
            outputs: outputs.end(),
        }
    }

    /// Makes `assigned`, which must have been made of the book as it is, the book's content.
    /// Returns what is gone.
    pub fn commit(&mut self, assigned: Assigned) -> Vec<Leaving> {
        self.flows.commit(assigned.flows);
        self.outputs.commit(assigned.outputs);
        let before = std::mem::replace(&mut self.rules, assigned.rules);
        let mut leaving = Vec::new();
        for (rule, mut entry) in before {
            let stays = self.rules.get(&rule);
            if let Some(stays) = stays {
                let still: std::collections::HashSet<u32> =
                    stays.outputs.iter().map(|&(_, slot)| slot).collect();
                entry.outputs.retain(|(_, slot)| !still.contains(slot));
            }
            if stays.is_none() || !entry.outputs.is_empty() {
                leaving.push(Leaving {
                    flow: stays.is_none().then_some(entry.flow),
                    outputs: entry.outputs,
                    rule,
                });
            }
        }
        leaving
    }

    /// Lets other flows and outputs have these slots, whose counters must be zeros again.
    pub fn release(&mut self, gone: &Leaving) {
        self.flows.free.extend(gone.flow);
        let outputs = gone.outputs.iter().map(|&(_, slot)| slot);
        self.outputs.free.extend(outputs);
    }

    /// The slots of a rule.
    pub fn get(&self, rule: &str) -> Option<&Entry> {
        self.rules.get(rule)
    }

    /// All rules with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.rules.iter().map(|(rule, entry)| (&rule[..], entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        host::fixture::in0_and_out0,
        plan::{Constraints, arrange},
    };

    /// Both VLANs of a trunk, and an interface that is missing.
    const RULE: &str = r#"
[[rules]]
name = "r"
input = { interface = "in0", group = "239.1.1.1", port = 1, vlan = 7 }
outputs = [
  { interface = "out0", vlan = 100 },
  { interface = "gone", vlan = 100 },
  { interface = "out0", vlan = 200 },
  { interface = "out0", vlan = "keep" },
  { interface = "gone", vlan = 200 },
  { interface = "out0" },
]
"#;

    #[test]
    fn outputs_that_differ_in_their_vlan_are_counted_apart() {
        let document = config::parse("relay.toml", RULE).unwrap();
        let rule = &document.rules.rules[0];
        let of_rule = OutputIdentity::of_rule(rule);
        let arranged = arrange(&document, &in0_and_out0(0), &Constraints::default()).unwrap();
        let plan = &arranged.plan;
        let flow = plan.flows.iter().next().unwrap();
        let of_plan = identities(plan, flow);
        // Those that wait are last.
        let in_order = [0, 2, 3, 5, 1, 4].map(|at: usize| of_rule[at].clone());
        assert_eq!(of_plan, in_order);
        for (at, one) in of_rule.iter().enumerate() {
            assert_eq!(one.repeat, 0);
            assert!(!of_rule[..at].contains(one), "{one:?}");
        }
        let worker = &plan.workers[0];
        let slots = Book::default().assign(plan, worker).slots;
        let slots = slots.iter().next().unwrap();
        let waiting = slots.waiting.iter().map(|(slot, _)| slot);
        let all = slots.outputs.iter().chain(waiting);
        let distinct: std::collections::HashSet<_> = all.collect();
        assert_eq!(distinct.len(), rule.outputs.len());
    }
}
