//! The relay's numbers, look after look: while it runs, none of them falls.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::relay::RelayProcess;
use crate::report::Report;

/// Every number of one moment that may only rise, by what it counts.
type Numbers = BTreeMap<String, u64>;

/// The numbers of the last look.
#[derive(Debug, Default)]
pub struct Counters {
    last: Numbers,
    looks: u64,
}

impl Counters {
    /// Asks for the status. Fails if a number is less than at the last look; those of rules,
    /// outputs and interfaces count only where the last look had them, too.
    pub fn look(&mut self, relay: &RelayProcess) -> Result<()> {
        let status = relay.status()?;
        self.take(of_status(&status)?)
            .with_context(|| format!("{status}\n{}", relay.log()))
    }

    /// The same with the report at the end.
    pub fn end(&mut self, report: &Report) -> Result<()> {
        self.take(of_report(report))
            .with_context(|| format!("{report:#?}"))
    }

    /// How often it has looked.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// A number of the last look, by what it counts; 0 if there is none.
    pub fn last(&self, what: &str) -> u64 {
        self.last.get(what).copied().unwrap_or(0)
    }

    fn take(&mut self, now: Numbers) -> Result<()> {
        for (what, number) in &now {
            let before = self.last(what);
            ensure!(before <= *number, "{what}: {before} and then {number}");
        }
        // Totals are there from the first look to the last.
        for what in self.last.keys().filter(|what| what.starts_with("total ")) {
            ensure!(now.contains_key(what), "{what} is not there any more");
        }
        self.last = now;
        self.looks += 1;
        Ok(())
    }
}

/// The sums of all rules. What devices dropped is taken off what was sent as soon as it is known,
/// so of the two only the sum never falls, and that of drops.
fn totals(numbers: &mut Numbers, [received, matched, sent]: [u64; 3], dropped: &Numbers) {
    for (reason, number) in dropped {
        numbers.insert(format!("total {reason}"), *number);
    }
    let by_devices = dropped.get("device_dropped").copied().unwrap_or(0);
    numbers.insert("total received".to_owned(), received);
    numbers.insert("total matched".to_owned(), matched);
    numbers.insert("total taken by the kernel".to_owned(), sent + by_devices);
}

fn of_status(status: &Value) -> Result<Numbers> {
    let mut numbers = Numbers::new();
    let all = &status["totals"];
    let sums = ["packets_received", "packets_matched", "packets_sent"];
    let sums = sums.map(|key| all[key].as_u64().unwrap_or(0));
    totals(&mut numbers, sums, &named(&all["dropped"])?);
    for rule in status["rules"].as_array().context("rules")? {
        let of = format!("rule {}", rule["name"]);
        for key in ["packets_matched", "over_limit", "local_failed"] {
            numbers.insert(format!("{of} {key}"), number(&rule[key])?);
        }
        for output in rule["outputs"].as_array().context("outputs")? {
            let [interface, group, port] = ["interface", "group", "port"].map(|key| &output[key]);
            let of = format!("{of} {interface} {group} {port}").replace('"', "");
            numbers.insert(format!("{of} sent"), number(&output["packets_sent"])?);
            for (reason, number) in named(&output["dropped"])? {
                numbers.insert(format!("{of} {reason}"), number);
            }
        }
    }
    for interface in status["interfaces"].as_array().context("interfaces")? {
        for (counter, number) in named(&interface["filter"])? {
            numbers.insert(format!("{} {counter}", interface["name"]), number);
        }
    }
    Ok(numbers)
}

fn of_report(report: &Report) -> Numbers {
    let mut numbers = Numbers::new();
    let sums = [
        report.packets_received,
        report.packets_matched,
        report.packets_sent,
    ];
    totals(&mut numbers, sums, &report.dropped);
    for rule in &report.rules {
        let of = format!("rule {:?}", rule.name);
        numbers.insert(format!("{of} packets_matched"), rule.packets_matched);
        for output in &rule.outputs {
            let of = format!("{of} {} {} {}", output.interface, output.group, output.port);
            numbers.insert(format!("{} sent", of.replace('"', "")), output.packets_sent);
        }
    }
    numbers
}

fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("no number: {value}"))
}

fn named(value: &Value) -> Result<Numbers> {
    let object = value.as_object().context("numbers by name")?;
    object
        .iter()
        .map(|(name, value)| Ok((name.clone(), number(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(sent: u64, dropped: u64, of_output: u64) -> Numbers {
        of_status(&json!({
            "totals": {
                "packets_received": 10, "packets_matched": 10, "packets_sent": sent,
                "dropped": { "device_dropped": dropped }
            },
            "rules": [{
                "name": "feed", "packets_matched": 10, "over_limit": 0, "local_failed": 0,
                "outputs": [{
                    "interface": "out0", "group": "239.2.0.1", "port": 6000,
                    "packets_sent": of_output, "dropped": {}
                }]
            }],
            "interfaces": [{ "name": "in0", "filter": { "redirected": 10 } }]
        }))
        .unwrap()
    }

    #[test]
    fn a_number_that_falls_is_noticed() {
        let takes = |first: Numbers, second: Numbers| {
            let mut counters = Counters::default();
            counters.take(first).unwrap();
            counters.take(second).is_ok()
        };
        assert!(takes(status(10, 0, 10), status(10, 0, 10)));
        // Seven of those that were sent turn out to be dropped.
        assert!(takes(status(10, 0, 10), status(3, 7, 10)));
        assert!(!takes(status(10, 0, 10), status(3, 6, 10)), "in all");
        assert!(!takes(status(3, 7, 10), status(10, 0, 10)), "drops");
        assert!(!takes(status(10, 0, 10), status(10, 0, 9)), "of an output");
        let mut gone = status(10, 0, 10);
        gone.retain(|what, _| !what.contains("device_dropped"));
        assert!(!takes(status(10, 0, 10), gone), "a total that is gone");
        let mut without = status(10, 0, 10);
        without.retain(|what, _| !what.contains("out0"));
        assert!(takes(status(10, 0, 10), without), "an output that is gone");
    }
}
