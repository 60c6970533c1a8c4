//! The accounts of one relay process: what became of every frame that its kernel programs matched,
//! and of every copy.
//!
//! They can be settled when nothing is sent and nothing is on its way. Totals of the relay never go
//! backwards, so an account that cannot be settled now, because an interface is down with frames in
//! its TX ring or is not shown, is settled at a later moment with everything since.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::report::Report;
use serde_json::Value;

use crate::model::{Entry, Link, Model};
use crate::universe::{self, INTERFACES, Out, Vlan, WITNESS};

/// The reasons for frames that are no copies of an output.
const IN_FRONT_OF_WORKERS: [&str; 4] = [
    "rx_ring_full",
    "rx_fill_ring_empty",
    "rx_dropped",
    "rx_socket_full",
];

/// What the relay counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// Frames that reached a worker.
    pub received: u64,
    /// Of those, frames that matched a rule.
    pub matched: u64,
    /// Copies that left.
    pub sent: u64,
    /// What did not leave, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Frames that the kernel programs matched; `None` if an input is not shown.
    redirected: Option<u64>,
    /// Each enabled rule.
    rules: Vec<RuleNumbers>,
}

/// What the relay counts of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RuleNumbers {
    name: String,
    matched: u64,
    /// For each output the copies that left, and those that did not.
    outputs: Vec<(u64, u64)>,
}

impl Numbers {
    /// Those of `relay status --json`.
    pub fn of_status(status: &Value) -> Result<Self> {
        let number = |of: &Value, key: &str| {
            let number = of[key].as_u64();
            number.with_context(|| format!("no number {key} in {of}"))
        };
        let list = |of: &Value, key: &str| {
            let list = of[key].as_array().cloned();
            list.with_context(|| format!("no {key} in {of}"))
        };
        let interfaces = list(status, "interfaces")?;
        let redirected = |name: &str| -> Option<u64> {
            let mut interfaces = interfaces.iter();
            let shown = interfaces.find(|one| one["name"] == name && one["state"] == "active")?;
            Some(shown["filter"]["redirected"].as_u64().unwrap_or(0))
        };
        let mut rules = Vec::new();
        for rule in list(status, "rules")? {
            if rule["state"] == "disabled" {
                continue;
            }
            let mut outputs = Vec::new();
            for output in list(&rule, "outputs")? {
                let dropped = reasons(&output["dropped"])?.into_values().sum();
                outputs.push((number(&output, "packets_sent")?, dropped));
            }
            let name = rule["name"].as_str().context("a rule without a name")?;
            rules.push(RuleNumbers {
                name: name.to_owned(),
                matched: number(&rule, "packets_matched")?,
                outputs,
            });
        }
        let totals = &status["totals"];
        Ok(Self {
            received: number(totals, "packets_received")?,
            matched: number(totals, "packets_matched")?,
            sent: number(totals, "packets_sent")?,
            dropped: reasons(&totals["dropped"])?,
            redirected: inputs().map(redirected).sum(),
            rules,
        })
    }

    /// Those of the report at the end.
    pub fn of_report(report: &Report) -> Self {
        let redirected = |name: &str| {
            let mut interfaces = report.interfaces.iter();
            let shown = interfaces.find(|one| one.name == name)?;
            Some(shown.filter.get("redirected").copied().unwrap_or(0))
        };
        let rules = report.rules.iter().map(|rule| {
            let outputs = rule.outputs.iter();
            let outputs = outputs.map(|one| (one.packets_sent, one.dropped.values().sum()));
            RuleNumbers {
                name: rule.name.clone(),
                matched: rule.packets_matched,
                outputs: outputs.collect(),
            }
        });
        Self {
            received: report.packets_received,
            matched: report.packets_matched,
            sent: report.packets_sent,
            dropped: report.dropped.clone(),
            redirected: inputs().map(redirected).sum(),
            rules: rules.collect(),
        }
    }

    /// What did not leave for one reason.
    pub fn dropped_for(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }
}

/// The interfaces that rules receive from.
fn inputs() -> impl Iterator<Item = &'static str> {
    INTERFACES.into_iter().filter(|name| name.starts_with("in"))
}

fn reasons(of: &Value) -> Result<BTreeMap<String, u64>> {
    let reasons = of.as_object();
    let reasons = reasons.with_context(|| format!("no reasons in {of}"))?;
    let numbers = reasons.iter();
    let numbers = numbers.map(|(reason, number)| {
        let number = number.as_u64();
        let number = number.with_context(|| format!("no numbers in {of}"))?;
        Ok((reason.clone(), number))
    });
    numbers.collect()
}

/// The accounts.
#[derive(Debug)]
pub struct Account {
    backend: Backend,
    /// By rule and output, how many more frames the rule has matched than the output has accounted
    /// for: those from before the output was added. `None` until that is known.
    before: BTreeMap<(usize, String), Option<u64>>,
    /// Settlements without those of frames between kernel program and worker.
    pub without_inputs: u64,
    /// The numbers of the last settlement.
    pub last: Option<Numbers>,
}

impl Account {
    /// Those of a process that begins with these rules.
    pub fn new(backend: Backend, desired: &[Entry]) -> Self {
        let mut account = Self {
            backend,
            before: BTreeMap::new(),
            without_inputs: 0,
            last: None,
        };
        account.changed(&[], desired);
        account
    }

    /// The rules are others now. The numbers of a rule begin with it, and those of an output with
    /// the output.
    pub fn changed(&mut self, before: &[Entry], after: &[Entry]) {
        let of = |entries: &[Entry], number: usize| {
            let mut entries = entries.iter();
            entries.find(|one| one.number == number).copied()
        };
        for number in 0..=WITNESS {
            let was = of(before, number).map(outputs);
            match (of(after, number).map(outputs), was) {
                (Some(new), None) => {
                    let new = new.into_iter().map(|output| ((number, output), Some(0)));
                    self.before.extend(new);
                }
                (Some(new), Some(was)) => {
                    for output in was.iter().filter(|one| !new.contains(one)) {
                        self.before.remove(&(number, output.clone()));
                    }
                    for output in new.into_iter().filter(|one| !was.contains(one)) {
                        self.before.insert((number, output), None);
                    }
                }
                (None, _) => self.before.retain(|(of, _), _| *of != number),
            }
        }
    }

    /// Settles the accounts, if `numbers` allow it; otherwise says what is wrong. `exactly` is for a
    /// relay that has ended.
    pub fn settle(
        &mut self,
        numbers: &Numbers,
        model: &Model,
        exactly: bool,
    ) -> Result<(), String> {
        let Numbers {
            received, matched, ..
        } = *numbers;
        let mut wrong = Vec::new();
        let no_rule = numbers.dropped_for("no_rule") + numbers.dropped_for("malformed");
        if received != matched + no_rule {
            wrong.push(format!(
                "{received} received, {matched} matched, {no_rule} dropped between"
            ));
        }
        if let Some(redirected) = numbers.redirected {
            let reasons = IN_FRONT_OF_WORKERS.map(|reason| numbers.dropped_for(reason));
            let accounted = received + reasons.iter().sum::<u64>();
            // A packet socket counts a GSO packet that it has no room for as one drop. The relay
            // knows how many datagrams that were when the worker has ended.
            let in_gso_packets = self.backend == Backend::IoUring
                && !exactly
                && numbers.dropped_for("rx_socket_full") > 0;
            if redirected != accounted && !(in_gso_packets && redirected > accounted) {
                wrong.push(format!(
                    "{redirected} redirected, {received} received, {reasons:?} dropped for \
                     {IN_FRONT_OF_WORKERS:?}: {} unaccounted for",
                    redirected as i64 - accounted as i64
                ));
            }
        }
        let outputs = self.outputs(numbers, model, &mut wrong);
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        self.before.extend(outputs);
        self.without_inputs += u64::from(numbers.redirected.is_none());
        self.last = Some(numbers.clone());
        Ok(())
    }

    /// Compares the copies of each output with what its rule matched. Returns what is known now of
    /// outputs that are new.
    fn outputs(
        &self,
        numbers: &Numbers,
        model: &Model,
        wrong: &mut Vec<String>,
    ) -> Vec<((usize, String), Option<u64>)> {
        let is_down = |name: &str| model.link(name) == Link::Down;
        let any_down = INTERFACES.into_iter().any(is_down);
        let mut learnt = Vec::new();
        let enabled = model.desired.iter().filter(|entry| entry.enabled);
        for (entry, rule) in enabled.zip(&numbers.rules) {
            let RuleNumbers {
                name,
                matched,
                outputs,
            } = rule;
            if *name != universe::name(entry.number) {
                wrong.push(format!("rule {name} where {entry:?} must be"));
                continue;
            }
            for (out, &(sent, dropped)) in entry.outputs().iter().zip(outputs) {
                // Copies wait in the TX ring of an interface that is down.
                if is_down(out.interface) || out.interface.is_empty() && any_down {
                    continue;
                }
                let key = (entry.number, identity(out));
                let Some(more) = matched.checked_sub(sent + dropped) else {
                    wrong.push(format!(
                        "{name} matched {matched}, and {} has {sent} sent and {dropped} dropped",
                        key.1
                    ));
                    continue;
                };
                match self.before.get(&key) {
                    Some(Some(before)) if *before != more => wrong.push(format!(
                        "{name} matched {matched}, {before} of them before the output {} was \
                         there, which has {sent} sent and {dropped} dropped: {} unaccounted for",
                        key.1,
                        more as i64 - *before as i64
                    )),
                    Some(Some(_)) => {}
                    _ => learnt.push((key, Some(more))),
                }
                if entry.number == WITNESS && dropped > 0 {
                    wrong.push(format!("{dropped} copies of the witness were dropped"));
                }
            }
        }
        learnt
    }
}

fn outputs(entry: Entry) -> Vec<String> {
    entry.outputs().iter().map(identity).collect()
}

/// What makes two outputs of a rule the same for the relay, whose numbers go on then.
fn identity(out: &Out) -> String {
    let vlan = match out.vlan {
        Vlan::Untagged => String::new(),
        Vlan::Kept => " tags kept".to_owned(),
        Vlan::One(id) => format!(" in VLAN {id}"),
        Vlan::Two(outer, inner) => format!(" in VLAN {inner} of {outer}"),
    };
    format!("{}:{} by {:?}{vlan}", out.to, out.port, out.interface)
}

#[test]
fn a_frame_or_a_copy_without_an_account_is_noticed() {
    let desired = vec![Entry {
        number: WITNESS,
        form: universe::Form::A,
        enabled: true,
    }];
    let model = Model::new(desired.clone());
    let settle = |change: fn(&mut Numbers)| {
        let mut numbers = Numbers {
            received: 9,
            matched: 9,
            sent: 18,
            dropped: BTreeMap::from([("rx_ring_full".to_owned(), 1)]),
            redirected: Some(10),
            rules: vec![RuleNumbers {
                name: universe::name(WITNESS),
                matched: 9,
                outputs: vec![(9, 0), (9, 0)],
            }],
        };
        change(&mut numbers);
        Account::new(Backend::Xdp, &desired).settle(&numbers, &model, true)
    };
    assert_eq!(settle(|_| {}), Ok(()));
    type Change = fn(&mut Numbers);
    let wrong: [(Change, &str); 5] = [
        (|one| one.redirected = Some(11), "1 unaccounted for"),
        (|one| one.matched = 8, "9 received, 8 matched"),
        (|one| one.rules[0].outputs[1] = (8, 0), "1 unaccounted for"),
        (|one| one.rules[0].outputs[1] = (10, 0), "10 sent"),
        (|one| one.rules[0].outputs[1] = (8, 1), "of the witness"),
    ];
    for (change, expected) in wrong {
        let settled = settle(change);
        assert!(
            settled.as_ref().is_err_and(|why| why.contains(expected)),
            "{expected}: {settled:?}"
        );
    }
}
