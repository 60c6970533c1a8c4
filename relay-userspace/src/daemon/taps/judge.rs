//! What the kernel program does with a frame, and why: the same decoder and the same look-up as the
//! program's, with the flows and the own sources of the plan that runs.
//!
//! Limits are the program's alone: which frames are above one depends on when they came.

use std::collections::BTreeSet;

use relay_common::{
    abi::Counter,
    matching,
    wire::{self, Addresses, Datagram, Mac, Skip, Tag, Verdict, ipv6},
};

use crate::{
    kernel::OwnSource,
    matching::Table,
    plan::{Backend, Interface, Plan},
};

/// The slot of the only interface of the table.
pub const SLOT: u8 = 0;

/// The datagram itself, and the Ethernet address that it came from.
struct Both;

impl Verdict for Both {
    type Output = (Datagram, Mac);

    fn of(&self, datagram: Datagram, from: Mac) -> (Datagram, Mac) {
        (datagram, from)
    }
}

/// Judges the frames of one input.
#[derive(Debug)]
pub struct Judge {
    /// The Ethernet address of the input.
    pub mac: [u8; 6],
    /// What it is on.
    pub backend: Backend,
    /// The flows that arrive there, in [`SLOT`].
    pub table: Table,
    /// By the number of a flow in the table, whether its frames are given back to the stack.
    pub local: Vec<bool>,
    /// The sources of the relay's copies.
    pub own: BTreeSet<OwnSource>,
}

impl Judge {
    /// Of an input of `plan`.
    #[must_use]
    pub fn new(plan: &Plan, input: &Interface) -> Self {
        let mut keys = Vec::new();
        let mut local = Vec::new();
        for flow in plan.flows.iter() {
            let number = local.len() as u32;
            local.push(flow.local);
            let here = plan.keys(flow).filter(|key| key.interface == input.index);
            keys.extend(here.map(|key| (key.at(SLOT), number)));
        }
        Self {
            mac: input.mac,
            backend: input.backend,
            // The plan has no more shapes than a table takes.
            table: Table::new(keys).unwrap_or_default(),
            local,
            own: OwnSource::of(plan),
        }
    }

    /// What the program counts a frame as that the network stack got; `None` where the relay takes
    /// it as well. [`Counter::Redirected`] is a frame that the relay has taken and given back.
    pub fn of(&mut self, frame: &[u8], beside: Option<Tag>) -> Option<Counter> {
        let mut judged = wire::judge_for(frame, beside, self.mac, &Both);
        if judged == Err(Skip::NotMulticast) && matching::takes_unicast(&self.table, SLOT) {
            judged = wire::judge_all_for(frame, beside, self.mac, &Both);
        }
        match judged {
            Ok((datagram, from)) => self.admit(&datagram, from),
            Err(skip) => Some(Counter::from(skip)),
        }
    }

    fn admit(&mut self, datagram: &Datagram, from: Mac) -> Option<Counter> {
        let Some(flow) = self.table.look_up(SLOT, datagram) else {
            return Some(Counter::unmatched(datagram));
        };
        if self.is_own(datagram, from) {
            return Some(Counter::OwnFrame);
        }
        let is_local = self.local.get(flow as usize) == Some(&true);
        match self.backend {
            Backend::IoUring => None,
            Backend::Xdp if is_local => Some(Counter::Redirected),
            Backend::Xdp => Some(Counter::PassNoSocket),
        }
    }

    fn is_own(&self, datagram: &Datagram, from: Mac) -> bool {
        let [_, _, mac @ ..] = from.to_ne_bytes();
        let address = match datagram.addresses {
            Addresses::V4 { source, .. } => OwnSource::Address(source.to_ne_bytes().into()),
            Addresses::V6 { source, .. } => OwnSource::Address6(ipv6::from_memory(source)),
        };
        self.own.contains(&OwnSource::Mac(mac)) || self.own.contains(&address)
    }
}

/// Of all counters of an interface those of what the program leaves to the stack, with their names.
pub fn passed_counters(
    counters: &[u64; Counter::COUNT as usize],
) -> impl Iterator<Item = (&'static str, u64)> {
    let all = Counter::ALL.into_iter().zip(*counters);
    all.filter_map(|(counter, count)| match counter {
        Counter::Received | Counter::Redirected => None,
        counter => Some((counter.name(), count)),
    })
}
