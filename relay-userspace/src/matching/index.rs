//! All flows that are open, and what to write when one is opened or closed.

use std::{collections::HashMap, net::IpAddr};

use relay_common::matching::FlowValue;

use super::{
    exact::Exacts,
    key::MatchKey,
    port_classes::PortClasses,
    shapes::{Shapes, TooManyShapes},
    write::Write,
};
use crate::config::rules::{PortMatch, Prefix};

/// The flows that are open.
#[derive(Debug, Default)]
pub struct Index {
    open: HashMap<MatchKey, FlowValue>,
    exacts: Exacts,
    shapes: Shapes,
    classes: PortClasses,
    /// Flows with a range of ports, by all else that they match.
    ranges: HashMap<Ranged, Vec<MatchKey>>,
}

/// Place, groups and source of a flow with a range of ports.
type Ranged = (u32, Prefix, Option<IpAddr>);

/// What flows with a range of ports may have in common.
const fn ranged(key: &MatchKey) -> Ranged {
    (key.place(), key.group, key.source)
}

impl Index {
    /// Makes a flow match, or gives one that does another value; `value` must be a flow. Returns
    /// the entries to write, in this order. Of flows that are equally specific, the one that was
    /// opened last takes the datagrams of both.
    ///
    /// # Errors
    ///
    /// The interface has too many shapes. Nothing is to be written then.
    pub fn open(&mut self, key: MatchKey, value: FlowValue) -> Result<Vec<Write>, TooManyShapes> {
        let mut writes = Vec::new();
        if let Some(former) = self.open.get_mut(&key) {
            *former = value;
            match (exact_port(&key), key.source) {
                (Some(port), None) => {
                    let group = key.group.address();
                    self.exacts
                        .set(key.place(), group, port, value, &mut writes);
                }
                _ => {
                    let ports = self.ports(&key);
                    writes.extend(ports.iter().map(|&port| Write::shaped(&key, port, value)));
                }
            }
            return Ok(writes);
        }
        if let Some(port) = exact_port(&key) {
            let (place, group) = (key.place(), key.group.address());
            if key.source.is_some() {
                writes.push(Write::shaped(&key, port, value));
                self.exacts
                    .count_source(place, group, port, true, &mut writes);
            } else {
                self.exacts.set(place, group, port, value, &mut writes);
            }
        } else {
            let (list, shape) = (key.list(), key.shape());
            self.shapes.check(key.slot, list, shape)?;
            if let PortMatch::Range(first, last) = key.ports
                && first <= last
            {
                self.cut_out(first, last, &mut writes);
            }
            let ports = self.ports(&key);
            writes.extend(ports.iter().map(|&port| Write::shaped(&key, port, value)));
            if matches!(key.ports, PortMatch::Range(..)) {
                self.classes.add(key, &ports);
                self.ranges.entry(ranged(&key)).or_default().push(key);
            }
            self.shapes.add(key.slot, list, shape, &mut writes);
            if key.source.is_some() {
                self.exacts.count_named(&key, true, &mut writes);
            }
        }
        if !key.group.address().is_multicast() {
            self.shapes.count_unicast(key.slot, true, &mut writes);
        }
        self.open.insert(key, value);
        Ok(writes)
    }

    /// Makes a flow stop matching. Returns the entries to write, in this order; none if it is not
    /// open.
    pub fn close(&mut self, key: &MatchKey) -> Vec<Write> {
        let mut writes = Vec::new();
        if self.open.remove(key).is_none() {
            return writes;
        }
        if !key.group.address().is_multicast() {
            self.shapes.count_unicast(key.slot, false, &mut writes);
        }
        if let Some(port) = exact_port(key) {
            let none = FlowValue::NONE;
            let (place, group) = (key.place(), key.group.address());
            if key.source.is_some() {
                self.exacts
                    .count_source(place, group, port, false, &mut writes);
                writes.push(Write::shaped(key, port, none));
            } else {
                self.exacts.set(place, group, port, none, &mut writes);
            }
            return writes;
        }
        if key.source.is_some() {
            self.exacts.count_named(key, false, &mut writes);
        }
        let ports = self.ports(key);
        if matches!(key.ports, PortMatch::Range(..)) {
            self.classes.remove(key, &ports);
            self.forget_range(key);
        }
        for port in ports {
            writes.push(Write::shaped(key, port, self.left(key, port)));
        }
        let shape = key.shape();
        self.shapes.remove(key.slot, key.list(), shape, &mut writes);
        writes
    }

    /// The value of a flow that is open.
    #[must_use]
    pub fn get(&self, key: &MatchKey) -> Option<FlowValue> {
        self.open.get(key).copied()
    }

    /// Cuts the classes so that some begin with `first` and end with `last`.
    fn cut_out(&mut self, first: u16, last: u16, writes: &mut Vec<Write>) {
        self.classes.tidy(writes);
        for port in [u32::from(first), u32::from(last) + 1] {
            let Some(cut) = self.classes.cut(port) else {
                continue;
            };
            for key in self.classes.flows(cut.class).into_iter().flatten() {
                if let Some(&value) = self.open.get(key) {
                    writes.push(Write::shaped(key, cut.new, value));
                }
            }
            self.classes.assign(&cut, writes);
        }
    }

    /// Takes a flow out of those with a range of ports.
    fn forget_range(&mut self, key: &MatchKey) {
        if let Some(alike) = self.ranges.get_mut(&ranged(key)) {
            alike.retain(|other| other != key);
            if alike.is_empty() {
                self.ranges.remove(&ranged(key));
            }
        }
    }

    /// The value of the entry that a flow leaves behind: that of another one, if its range has the
    /// class `port` as well.
    fn left(&self, key: &MatchKey, port: u16) -> FlowValue {
        let alike = match key.ports {
            PortMatch::Range(..) => self.ranges.get(&ranged(key)),
            PortMatch::One(_) | PortMatch::Any => None,
        };
        let of_class = self.classes.flows(port);
        let has_class = |other: &&MatchKey| of_class.is_some_and(|flows| flows.contains(*other));
        let other = alike.into_iter().flatten().find(has_class);
        let value = other.and_then(|other| self.open.get(other));
        value.copied().unwrap_or(FlowValue::NONE)
    }

    /// The ports of a flow, in the form of its shape.
    fn ports(&self, key: &MatchKey) -> Vec<u16> {
        match key.ports {
            PortMatch::One(port) => vec![port],
            PortMatch::Range(first, last) => self.classes.between(first, last),
            PortMatch::Any => vec![0],
        }
    }
}

/// The port of a flow of one group and port.
fn exact_port(key: &MatchKey) -> Option<u16> {
    match key.ports {
        PortMatch::One(port) if key.is_exact() => Some(port),
        _ => None,
    }
}
