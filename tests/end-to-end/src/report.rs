//! The relay's own account of a run, and whether it agrees with the receivers.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::backend::Backend;
use crate::rules::Rule;

/// Counts by reason.
pub type Reasons = BTreeMap<String, u64>;

/// What `relay run --json` prints at the end.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// Seconds from start to stop.
    pub uptime_seconds: f64,
    /// Frames that reached the relay.
    pub packets_received: u64,
    /// Those that matched a rule.
    pub packets_matched: u64,
    /// Frames that left, one per output.
    pub packets_sent: u64,
    /// Frames that did not leave, by reason.
    pub dropped: Reasons,
    /// Every interface in use.
    pub interfaces: Vec<InterfaceReport>,
    /// Every rule, in the file's order.
    pub rules: Vec<RuleReport>,
    /// Every worker thread.
    pub workers: Vec<WorkerReport>,
}

/// One interface.
#[derive(Debug, Clone, Deserialize)]
pub struct InterfaceReport {
    /// The name.
    pub name: String,
    /// What moves its frames.
    pub backend: Backend,
    /// The mode of its AF_XDP sockets; absent where it has none.
    pub mode: Option<String>,
    /// How copies leave; absent where none do.
    #[serde(rename = "engine")]
    pub tx_method: Option<String>,
    /// Why this backend, mode and TX method.
    pub reason: String,
    /// Frames that the NIC had no buffer for.
    pub missed: u64,
    /// The counters of the XDP program or the socket filter; empty where there is none.
    pub filter: Reasons,
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
pub struct RuleReport {
    /// The name.
    pub name: String,
    /// Frames that matched.
    pub packets_matched: u64,
    /// Frames that were above the rule's limit.
    ///
    /// Absent from the reports of relays that had no limits, which the benchmark compares with.
    #[serde(default)]
    pub over_limit: u64,
    /// Frames that the relay's own host should have got as well, and did not.
    ///
    /// Absent from the reports of older relays, which the benchmark compares with.
    #[serde(default)]
    pub local_failed: u64,
    /// In the file's order.
    pub outputs: Vec<OutputReport>,
}

/// One output of a rule.
#[derive(Debug, Clone, Deserialize)]
pub struct OutputReport {
    /// The interface.
    pub interface: String,
    /// The destination group, or the prefix of groups.
    pub group: String,
    /// The destination port, or the ports.
    pub port: Ports,
    /// Frames that left.
    pub packets_sent: u64,
    /// Frames that did not leave, by reason.
    pub dropped: Reasons,
}

/// One port, a range or any port, as the report has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Ports {
    /// A number.
    One(u16),
    /// A text.
    Several(String),
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            Self::Several(ports) => ports.fmt(f),
        }
    }
}

/// Where the chunks of one worker are: the chunks of its UMEM, or its receive buffers.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkerReport {
    /// Frames that reached the worker.
    pub packets_received: u64,
    /// All chunks.
    pub chunks_total: u64,
    /// In the free list.
    pub chunks_free: u64,
    /// In the FILL ring, or the ring of receive buffers.
    pub chunks_fill: u64,
    /// In frames that have not left yet.
    pub chunks_in_flight: u64,
}

impl Report {
    /// Frames dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Frames dropped for one reason.
    pub fn dropped_for(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }

    /// All outputs, interface by interface, and there in the order of the rules.
    pub fn outputs_by_interface(&self) -> Vec<&OutputReport> {
        let mut outputs: Vec<_> = self.rules.iter().flat_map(|rule| &rule.outputs).collect();
        outputs.sort_by(|one, other| one.interface.cmp(&other.interface));
        outputs
    }

    /// The part about an interface.
    pub fn interface(&self, name: &str) -> Result<&InterfaceReport> {
        let mut interfaces = self.interfaces.iter();
        interfaces
            .find(|interface| interface.name == name)
            .with_context(|| format!("the report has no interface {name}: {self:?}"))
    }

    /// A counter of the XDP program or socket filter on an interface, 0 if there is none.
    pub fn filter(&self, interface: &str, counter: &str) -> u64 {
        let found = self.interfaces.iter().find(|i| i.name == interface);
        found
            .and_then(|i| i.filter.get(counter))
            .copied()
            .unwrap_or(0)
    }

    /// Frames that matched a rule and that the kernel had no room for: the worker was slower than
    /// the feed.
    pub fn dropped_before_the_worker(&self) -> u64 {
        let reasons = ["rx_ring_full", "rx_fill_ring_empty", "rx_socket_full"];
        reasons.iter().map(|reason| self.dropped_for(reason)).sum()
    }

    /// Fails unless every interface is on `backend`, and only AF_XDP sockets have a mode.
    pub fn ensure_all_on(&self, backend: Backend) -> Result<()> {
        for interface in &self.interfaces {
            ensure!(
                interface.backend == backend,
                "{} must be on {}: {interface:?}",
                interface.name,
                backend.name()
            );
            ensure!(
                backend == Backend::Xdp || interface.mode.is_none(),
                "{} has a mode without AF_XDP: {interface:?}",
                interface.name
            );
        }
        Ok(())
    }

    /// Fails unless the copies of all outputs of `rules` left by the TX method `expected`.
    #[track_caller]
    pub fn assert_tx_method(&self, rules: &[Rule], expected: &str) -> Result<()> {
        for output in rules.iter().flat_map(|rule| &rule.outputs) {
            let interface = self.interface(&output.interface)?;
            let used = interface.tx_method.as_deref();
            assert_eq!(used, Some(expected), "{interface:?}");
        }
        Ok(())
    }

    /// Fails unless the accounts balance: every frame that the XDP program redirected, or that the
    /// socket filter let through, was received by the worker or dropped by the kernel; totals are
    /// the sums of their parts; every matched frame was sent or dropped for one reason at each
    /// output; and no chunk is missing.
    #[track_caller]
    pub fn assert_balanced(&self) {
        let redirected: u64 = self
            .interfaces
            .iter()
            .map(|interface| self.filter(&interface.name, "redirected"))
            .sum();
        let in_the_kernel = self.dropped_before_the_worker() + self.dropped_for("rx_dropped");
        assert_eq!(
            redirected,
            self.packets_received + in_the_kernel,
            "redirected against received and dropped in the kernel: {self:#?}"
        );
        let outputs = || self.rules.iter().flat_map(|rule| &rule.outputs);
        let matched: u64 = self.rules.iter().map(|rule| rule.packets_matched).sum();
        assert_eq!(
            self.packets_matched, matched,
            "matched in all and by rule: {self:#?}"
        );
        let sent: u64 = outputs().map(|output| output.packets_sent).sum();
        assert_eq!(
            self.packets_sent + self.dropped_for("device_dropped"),
            sent,
            "sent in all, and by output, where drops of devices are not subtracted: {self:#?}"
        );
        for rule in &self.rules {
            for output in &rule.outputs {
                let accounted = output.packets_sent + output.dropped.values().sum::<u64>();
                assert_eq!(
                    accounted, rule.packets_matched,
                    "sent and dropped by {} {}:{} against matched by rule {}: {self:#?}",
                    output.interface, output.group, output.port, rule.name
                );
            }
        }
        self.assert_no_chunk_missing();
    }

    /// Fails unless every chunk of every worker has come back: none is in flight at the end.
    #[track_caller]
    pub fn assert_no_chunk_missing(&self) {
        assert!(!self.workers.is_empty(), "no worker in {self:#?}");
        for worker in &self.workers {
            assert_eq!(
                worker.chunks_in_flight, 0,
                "chunks that never came back: {worker:?}"
            );
            let found = worker.chunks_free + worker.chunks_fill;
            assert_eq!(
                found, worker.chunks_total,
                "chunks that are free or lent, against all: {worker:?}"
            );
        }
    }

    /// Fails unless each rule matched `counts[i]` frames and sent each of them once by each of its
    /// outputs, nothing was dropped, and the accounts balance.
    #[track_caller]
    pub fn assert_exact(&self, counts: &[u64]) {
        assert_eq!(self.rules.len(), counts.len(), "rules in {self:#?}");
        assert_eq!(self.dropped_total(), 0, "nothing is dropped: {self:#?}");
        for (rule, &count) in self.rules.iter().zip(counts) {
            assert_eq!(
                rule.packets_matched, count,
                "matched by rule {}: {self:#?}",
                rule.name
            );
            for output in &rule.outputs {
                assert_eq!(
                    output.packets_sent, count,
                    "sent by {} {}:{}: {self:#?}",
                    output.interface, output.group, output.port
                );
            }
        }
        let all: u64 = counts.iter().sum();
        assert_eq!(self.packets_received, all, "received: {self:#?}");
        self.assert_balanced();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    /// A report whose accounts balance: one rule with two outputs, and ten datagrams.
    fn balanced() -> Report {
        let output = |group| {
            serde_json::json!({
                "interface": "out0", "group": group, "port": 6000, "packets_sent": 10,
                "dropped": {}
            })
        };
        let report = serde_json::json!({
            "uptime_seconds": 1.0,
            "packets_received": 10, "packets_matched": 10, "packets_sent": 20, "dropped": {},
            "interfaces": [{
                "name": "in0", "backend": "xdp", "reason": "", "missed": 0,
                "filter": { "redirected": 10 }
            }],
            "rules": [{
                "name": "feed", "packets_matched": 10,
                "outputs": [output("239.2.0.1"), output("239.2.0.2")]
            }],
            "workers": [{
                "packets_received": 10, "chunks_total": 8, "chunks_free": 5, "chunks_fill": 3,
                "chunks_in_flight": 0
            }]
        });
        serde_json::from_value(report).unwrap()
    }

    fn is_balanced(report: &Report) -> bool {
        catch_unwind(|| report.assert_balanced()).is_ok()
    }

    /// Without one datagram, whatever else balances.
    fn is_exact(report: &Report, count: u64) -> bool {
        catch_unwind(|| report.assert_exact(&[count])).is_ok()
    }

    #[test]
    fn each_number_that_does_not_fit_the_others_is_noticed() {
        assert!(is_balanced(&balanced()));
        let one_more: [fn(&mut Report); 11] = [
            |report| report.packets_received += 1,
            |report| report.packets_matched += 1,
            |report| report.packets_sent += 1,
            |report| *report.interfaces[0].filter.get_mut("redirected").unwrap() += 1,
            |report| report.rules[0].packets_matched += 1,
            |report| report.rules[0].outputs[0].packets_sent += 1,
            |report| report.rules[0].outputs[1].packets_sent += 1,
            |report| {
                let dropped = &mut report.rules[0].outputs[1].dropped;
                dropped.insert("ring_full".into(), 1);
            },
            |report| {
                report.dropped.insert("rx_ring_full".into(), 1);
            },
            |report| report.workers[0].chunks_free -= 1,
            |report| report.workers.clear(),
        ];
        for (number, change) in one_more.iter().enumerate() {
            let mut report = balanced();
            change(&mut report);
            assert!(!is_balanced(&report), "{number}: {report:#?}");
        }
        let mut in_flight = balanced();
        in_flight.workers[0].chunks_in_flight = 1;
        in_flight.workers[0].chunks_free = 4;
        assert!(!is_balanced(&in_flight));
    }

    #[test]
    fn what_balances_and_is_not_what_was_sent_is_not_exact() {
        assert!(is_exact(&balanced(), 10));
        assert!(!is_exact(&balanced(), 11));
        let mut lost = balanced();
        lost.packets_sent = 19;
        lost.rules[0].outputs[1].packets_sent = 9;
        let dropped = Reasons::from([("ring_full".to_owned(), 1)]);
        lost.rules[0].outputs[1].dropped = dropped.clone();
        lost.dropped = dropped;
        assert!(is_balanced(&lost), "all of it is accounted for");
        assert!(!is_exact(&lost, 10));
    }
}
