//! The numbers of everything that has ended: workers that gave way to others, rules and outputs
//! that were removed. Totals never go backwards, whatever changes.

use std::collections::{BTreeMap, HashMap};

use relay_common::abi::Counter;

use super::running::worker::Joined;
use crate::{
    datapath::{
        FlowCounters, OutputCounters, OutputIdentity, Remote, Retired,
        monitor::{Counts, EndedDetails, Health},
        socket_drops::KernelDrops,
        stats::{Dropped, Drops},
    },
    kernel::Kernel,
};

/// What became of copies.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Copies {
    /// Copies that left.
    pub sent: u64,
    /// Copies that did not, by reason, in the order of [`Dropped::ALL`].
    dropped: [u64; Dropped::COUNT],
}

impl Copies {
    /// Copies and frames that did not leave, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (Dropped, u64)> + '_ {
        Dropped::ALL.into_iter().zip(self.dropped)
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        self.sent += others.sent;
        for (sum, number) in self.dropped.iter_mut().zip(others.dropped) {
            *sum += number;
        }
    }

    /// Adds what one worker counts, for all outputs that it has or had and that are not retired.
    pub fn add_worker(&mut self, remote: &Remote) {
        for output in &remote.stats().outputs {
            output.add_to(&mut self.sent, &mut self.dropped);
        }
        for (reason, missed) in remote.missed() {
            self.dropped[reason as usize] += missed;
        }
    }

    /// Adds frames that did not leave.
    pub fn add_drops(&mut self, drops: &Drops) {
        for (sum, (_, number)) in self.dropped.iter_mut().zip(drops.iter()) {
            *sum += number;
        }
    }
}

impl From<&OutputCounters> for Copies {
    fn from(counters: &OutputCounters) -> Self {
        Self {
            sent: counters.sent,
            dropped: counters.drops,
        }
    }
}

/// The numbers of one rule.
#[derive(Debug, Default, Clone)]
pub struct RuleNumbers {
    /// Frames that matched it.
    pub matched: u64,
    /// Bytes of UDP payload in them.
    pub bytes: u64,
    /// Frames above its limit.
    pub over_limit: u64,
    /// Frames that were not given back to this host's stack.
    pub local_failed: u64,
    /// What its monitors know, one per worker that has it.
    pub health: Vec<Health>,
    /// What monitors counted that have ended.
    pub counted: Option<(Counts, EndedDetails, u64)>,
    /// Its outputs.
    pub outputs: BTreeMap<OutputIdentity, Copies>,
}

impl RuleNumbers {
    /// Adds what one worker counts.
    pub fn add(&mut self, counters: &FlowCounters) {
        self.matched += counters.matched;
        self.bytes += counters.bytes;
        self.local_failed += counters.local_failed;
        self.health.extend(counters.health.clone());
        self.add_outputs(&counters.outputs);
    }

    /// Adds what a monitor counted that has ended.
    fn end_health(&mut self, health: &Health) {
        let (counts, details, beyond) =
            self.counted
                .unwrap_or((Counts::default(), EndedDetails::None, 0));
        self.counted = Some((
            counts.plus(health.sum()),
            details.plus(health.sum_of_details()),
            beyond + health.beyond,
        ));
    }

    fn add_outputs(&mut self, outputs: &[OutputCounters]) {
        for output in outputs {
            let sum = self.outputs.entry(output.output.clone()).or_default();
            sum.add(&output.into());
        }
    }
}

/// The numbers of all that has ended.
#[derive(Debug, Default)]
pub struct Totals {
    /// By rule. Those of rules that are gone stay until they are [forgotten](Self::forget_rules).
    rules: HashMap<String, RuleNumbers>,
    /// Copies of all rules together, also of those that are gone.
    copies: Copies,
    /// Frames above limits, of all rules together.
    over_limit: u64,
    /// Frames that were not given back to this host's stack, of rules that ended.
    pub local_failed: u64,
    /// Frames that ended workers received.
    pub received: u64,
    /// Of those, frames that matched a rule.
    pub matched: u64,
    /// Frames of ended workers that belong to no output.
    pub frames: Copies,
    /// Frames that the kernel dropped in front of ended workers.
    pub kernel: KernelDrops,
    /// Datagrams that the kernel programs of an interface, by its index, let through, and that are
    /// accounted for.
    accounted: HashMap<u32, u64>,
}

impl Totals {
    /// By rule, the numbers that belong to what has ended.
    pub fn rules(&self) -> &HashMap<String, RuleNumbers> {
        &self.rules
    }

    /// Copies of all rules, also of those that are gone.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Frames above limits of all rules, also of those that are gone.
    pub fn over_limit(&self) -> u64 {
        self.over_limit
    }

    /// Adds what was above a rule's limit, when its limit or the rule ends.
    pub fn add_over_limit(&mut self, rule: &str, frames: u64) {
        self.over_limit += frames;
        if frames > 0 {
            self.rules.entry(rule.to_owned()).or_default().over_limit += frames;
        }
    }

    /// Adds the last numbers of a flow, or of some of its outputs, that a worker has no more.
    pub fn retire(&mut self, retired: Retired) {
        for output in &retired.outputs {
            self.copies.add(&output.into());
        }
        let rule = self.rules.entry(retired.rule).or_default();
        rule.matched += retired.matched.unwrap_or(0);
        rule.bytes += retired.bytes;
        rule.local_failed += retired.local_failed;
        if let Some(health) = &retired.health {
            rule.end_health(health);
        }
        self.local_failed += retired.local_failed;
        rule.add_outputs(&retired.outputs);
    }

    /// Forgets the numbers of all rules that are not `wanted` any more, but in sums: a rule that
    /// comes back under an old name starts from zero.
    pub fn forget_rules(&mut self, wanted: impl Fn(&str) -> bool) {
        self.rules.retain(|name, _| wanted(name));
    }

    /// Adds the numbers of workers that have ended together, and closes their sockets.
    pub fn end(&mut self, mut joined: Vec<Joined>, kernel: &Kernel) {
        let mut inputs: BTreeMap<u32, Vec<Ended>> = BTreeMap::new();
        for worker in &mut joined {
            self.account(worker.accounted());
            let stats = worker.remote.stats();
            self.received += stats.received.get();
            self.matched += stats.matched.get();
            self.frames.add_drops(&stats.drops);
            self.kernel.add(worker.drops.sum());
            if let Some(input) = worker.key.input {
                inputs.entry(input).or_default().push(Ended::of(worker));
            }
        }
        for (input, workers) in inputs {
            let redirected = self.redirected_since(input, kernel);
            self.kernel.rx_socket_full += unreported(redirected, &workers);
        }
        for worker in joined {
            for retired in worker.remote.into_last() {
                self.retire(retired);
            }
        }
    }

    /// Takes what was redirected to AF_XDP sockets that are closed now, by the interface's index.
    pub fn account(&mut self, closed: impl IntoIterator<Item = (u32, u64)>) {
        for (interface, frames) in closed {
            *self.accounted.entry(interface).or_default() += frames;
        }
    }

    /// Counts what the XDP program redirected on an interface whose sockets are all closed, and
    /// what no socket was given.
    pub fn account_for_rest(&mut self, interface: u32, kernel: &Kernel) {
        self.kernel.rx_dropped += self.redirected_since(interface, kernel);
    }

    /// What the kernel programs let through on an interface and was not accounted for. It is now.
    fn redirected_since(&mut self, interface: u32, kernel: &Kernel) -> u64 {
        let redirected = kernel
            .counters(interface)
            .and_then(|all| all.get(Counter::Redirected as usize).copied())
            .unwrap_or(0);
        let before = self.accounted.insert(interface, redirected).unwrap_or(0);
        redirected.saturating_sub(before)
    }
}

/// One io_uring worker at its end.
#[derive(Debug, Clone, Copy)]
struct Ended {
    /// It ended without a panic, and had read everything that had arrived.
    drained: bool,
    /// Datagrams that reached it.
    received: u64,
    /// Drops that its socket reported.
    dropped: u64,
}

impl Ended {
    fn of(joined: &Joined) -> Self {
        Self {
            drained: joined.worker.is_some(),
            received: joined.remote.stats().received.get(),
            dropped: joined.drops.sum().rx_socket_full,
        }
    }
}

/// Turns drops of packet sockets from GSO packets into datagrams: once all workers of an interface
/// have drained their sockets, the datagrams that the filter `redirected` and no worker received
/// were dropped. Returns those beyond what the sockets reported. Sockets that dropped nothing are
/// left alone, so that a frame lost elsewhere does not count as one of these.
fn unreported(redirected: u64, workers: &[Ended]) -> u64 {
    let dropped: u64 = workers.iter().map(|one| one.dropped).sum();
    if dropped == 0 || workers.iter().any(|one| !one.drained) {
        return 0;
    }
    let received: u64 = workers.iter().map(|one| one.received).sum();
    redirected.saturating_sub(received).saturating_sub(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_gso_packets_become_datagrams_once_all_workers_of_the_interface_have_drained() {
        /// Received, dropped, drained.
        type Worker = (u64, u64, bool);
        // Datagrams that the filter redirected, the workers, and the drops that result.
        #[rustfmt::skip]
        let cases: &[(u64, &[Worker], u64)] = &[
            (100, &[(100, 0, true)], 0),
            (100, &[(90, 0, true)], 0),
            (100, &[(40, 2, true)], 60),
            (100, &[(97, 3, true)], 3),
            (100, &[(99, 3, true)], 3),
            (100, &[(40, 2, false)], 2),
            (100, &[(30, 0, true), (30, 1, true)], 40),
            (100, &[(30, 4, true), (30, 1, false)], 5),
        ];
        for (redirected, workers, expected) in cases {
            let workers: Vec<_> = workers
                .iter()
                .map(|&(received, dropped, drained)| Ended {
                    drained,
                    received,
                    dropped,
                })
                .collect();
            let reported: u64 = workers.iter().map(|one| one.dropped).sum();
            let sum = reported + unreported(*redirected, &workers);
            assert_eq!(sum, *expected, "{redirected} {workers:?}");
        }
    }
}
