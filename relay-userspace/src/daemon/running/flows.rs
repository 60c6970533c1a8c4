//! What the kernel matches, from what one plan wants to what another one wants.
//!
//! What no rule wants any more is closed before the workers get their new tables, so that every
//! frame that had matched leaves by the rule that it matched. Where a datagram may be wanted before
//! and after, by flows that are not the same, that would lose it. Such flows are closed last: up to
//! then their datagrams reach the workers, whose new tables decide.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use relay_common::wire::Vlan;

use super::{Open, Running, drain, worker::RunningWorker};
use crate::{
    config::rules::Prefix,
    daemon::error::RunError,
    plan::{Backend, FlowKey, Plan},
};

impl Running {
    /// Makes the kernel stop matching what `next` does not have, and what arrives on the interfaces
    /// `pausing`; and waits until what had been matched is in the sockets of the workers, and until
    /// they have dealt with it, but for those that end anyway, by number: they do so at their end.
    /// What overlaps with what `next` has stays open until [`Self::close_rest`], but for the
    /// interfaces `pausing`.
    pub(super) fn close_flows(
        &mut self,
        next: &Plan,
        pausing: &BTreeSet<u32>,
        ending: &BTreeSet<usize>,
    ) {
        let wanted: HashMap<FlowKey, Backend> = wanted(next)
            .map(|(key, _, open)| (key, open.backend))
            .collect();
        let added = wanted.keys().filter(|key| !self.open.contains_key(*key));
        let added = Added::of(added);
        let closing = self.open.iter().filter(|(key, open)| {
            let stays = match wanted.get(*key) {
                Some(backend) => *backend == open.backend,
                None => added.overlaps(key),
            };
            !stays || pausing.contains(&key.interface)
        });
        let closing: Vec<FlowKey> = closing.map(|(key, _)| *key).collect();
        if closing.is_empty() {
            return;
        }
        let inputs: BTreeSet<u32> = closing.iter().map(|key| key.interface).collect();
        self.close(closing);
        let workers = self.workers.iter();
        let mut affected: Vec<&RunningWorker> = workers
            .filter(|worker| worker.inputs().any(|input| inputs.contains(&input)))
            .collect();
        if affected.is_empty() {
            return;
        }
        drain::frames_in_sockets();
        affected.retain(|worker| !ending.contains(&worker.number));
        drain::matched_frames(&affected);
    }

    /// Makes the kernel match what `next` has. Where the tables have no room for it beside what
    /// overlaps with it, that is closed first: its datagrams are missed for a moment.
    pub(super) fn open_flows(&mut self, next: &Plan) -> Result<(), RunError> {
        let opened = self.open_all(next);
        if opened.is_ok() {
            return opened;
        }
        let rest = self.rest(next);
        if rest.is_empty() {
            return opened;
        }
        self.close(rest);
        self.open_all(next)
    }

    fn open_all(&mut self, next: &Plan) -> Result<(), RunError> {
        for (key, number, want) in wanted(next) {
            if self.open.get(&key) == Some(&want) {
                continue;
            }
            self.kernel
                .open(&key, want.backend, number, &want.rule, want.limit)?;
            self.open.insert(key, want);
        }
        Ok(())
    }

    /// Makes the kernel stop matching everything that `next` does not have.
    pub(super) fn close_rest(&mut self, next: &Plan) {
        if self.open.len() != next.key_count() {
            self.close(self.rest(next));
        }
    }

    /// What the kernel matches and `next` does not have.
    fn rest(&self, next: &Plan) -> Vec<FlowKey> {
        let wanted: HashSet<FlowKey> = wanted(next).map(|(key, ..)| key).collect();
        let rest = self.open.keys().filter(|key| !wanted.contains(key));
        rest.copied().collect()
    }
}

/// What `plan` wants the kernel to match: the key, and the number of the rule.
fn wanted(plan: &Plan) -> impl Iterator<Item = (FlowKey, u32, Open)> {
    plan.flows.with_ids().flat_map(|(id, flow)| {
        let input = plan.interfaces.get(flow.interface);
        let open = input.map(|input| Open {
            backend: input.backend,
            rule: flow.rule.clone(),
            limit: flow.limit,
        });
        let keys = plan.keys(flow).zip(std::iter::repeat(open));
        keys.filter_map(move |(key, open)| Some((key, id.position() as u32, open?)))
    })
}

/// Keys that a plan adds, found by their prefixes: those that overlap are inside one another.
#[derive(Default)]
struct Added<'a> {
    /// By interface, VLAN and prefix.
    keys: BTreeMap<(u32, Vlan, Prefix), Vec<&'a FlowKey>>,
    /// The lengths of these prefixes.
    lengths: BTreeSet<u8>,
}

impl<'a> Added<'a> {
    fn of(keys: impl Iterator<Item = &'a FlowKey>) -> Self {
        let mut added = Self::default();
        for key in keys {
            let place = (key.interface, key.vlan, key.group);
            added.keys.entry(place).or_default().push(key);
            added.lengths.insert(key.group.length());
        }
        added
    }

    /// Whether one of them takes datagrams that `key` takes.
    fn overlaps(&self, key: &FlowKey) -> bool {
        let at = |group| (key.interface, key.vlan, group);
        let (first, last) = (key.group, Prefix::from(key.group.last()));
        let inside = self.keys.range(at(first)..=at(last)).map(|(_, keys)| keys);
        let shorter = self.lengths.range(..key.group.length());
        let around = shorter.filter_map(|&length| {
            let around = Prefix::around(key.group.address(), length)?;
            self.keys.get(&at(around))
        });
        let mut near = inside.chain(around).flatten();
        near.any(|other| other.overlaps(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::{Match, PortMatch};

    fn key(group: &str, ports: PortMatch, source: Option<&str>) -> FlowKey {
        let matches = Match {
            group: group.parse().unwrap(),
            ports,
            sources: source
                .map(|source| source.parse().unwrap())
                .into_iter()
                .collect(),
            vlan: crate::config::rules::Vlan::Untagged,
        };
        FlowKey::of(3, &matches).next().unwrap()
    }

    #[test]
    fn keys_that_could_take_one_datagram_are_found_whichever_prefix_is_longer() {
        let (one, any) = (PortMatch::One(5001), PortMatch::Any);
        let keys = [
            key("239.1.0.0/16", any, None),
            key("239.1.1.0/24", one, Some("10.1.1.7")),
            key("239.1.1.255", PortMatch::Range(5000, 5099), None),
            key("239.1.1.255", one, Some("10.1.1.8")),
            key("239.1.2.0", one, None),
            key("239.0.0.0/8", PortMatch::One(5002), None),
            key("ff3e::/32", any, None),
            key("ff3e::1", one, None),
            FlowKey {
                interface: 4,
                ..key("239.1.0.0/16", any, None)
            },
            FlowKey {
                vlan: Vlan::tag(7),
                ..key("239.1.0.0/16", any, None)
            },
        ];
        for other in &keys {
            let added = Added::of(std::iter::once(other));
            for key in &keys {
                assert_eq!(
                    added.overlaps(key),
                    other.overlaps(key),
                    "{other:?} {key:?}"
                );
            }
        }
        let added = Added::of(keys.iter());
        assert!(added.overlaps(&key("239.1.1.0/25", PortMatch::One(7), None)));
        assert!(!added.overlaps(&key("239.2.1.0/25", one, None)));
        assert!(added.overlaps(&key("239.2.1.0/25", PortMatch::One(5002), Some("10.1.1.9"))));
        assert!(!Added::default().overlaps(&keys[0]));
    }
}
