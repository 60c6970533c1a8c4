//! What happens to a relay: the changes of [`model`], and what they do not have.

use proptest::prelude::*;

use crate::model::{self, Entry, Step};
use crate::universe::{CHANGING, Form, WITNESS};

use super::hostile::Kind;

/// One action. Those that are no [`Step`] leave the rules and the interfaces as they were.
#[derive(Debug, Clone)]
pub enum Action {
    /// A change that the model follows.
    Step(Step),
    /// The rule file is written anew, with these rules, and the relay is sent SIGHUP.
    HangUp(Vec<Entry>),
    /// Reloads one after the other.
    Storm(Vec<Step>),
    /// A reload of a file with mistakes.
    Mistakes,
    /// The interface has this MTU for a while.
    Mtu(usize, u32),
    /// The interface has no address for a while.
    Address(usize),
    /// The host behind the interface has another Ethernet address for a while.
    NextHop(usize),
    /// What a hostile segment sends to one of the inputs.
    Hostile(Kind, usize, u64),
    /// Hostile clients of the control socket.
    Clients,
    /// The relay is stopped for so many milliseconds.
    Pause(u64),
}

impl Action {
    /// What it is counted as.
    pub fn kind(&self) -> String {
        let of = |debug: String| {
            let end = debug.find(['(', ' ']).unwrap_or(debug.len());
            debug.get(..end).unwrap_or_default().to_lowercase()
        };
        match self {
            Self::Step(step) => of(format!("{step:?}")),
            Self::Hostile(kind, ..) => format!("hostile: {}", of(format!("{kind:?}"))),
            other => of(format!("{other:?}")),
        }
    }
}

/// A file with these rules always has the witness, too.
fn with_witness(step: Step) -> Step {
    match step {
        Step::Reload(mut entries) => {
            entries.push((WITNESS, Form::A, true));
            Step::Reload(entries)
        }
        other => other,
    }
}

/// Reloads only.
fn reload() -> impl Strategy<Value = Step> {
    let is_reload = |step: &Step| matches!(step, Step::Reload(_));
    let reload = model::step().prop_filter("a reload", is_reload);
    reload.prop_map(with_witness)
}

/// The rules of a reload.
fn entries(reload: &Step) -> Vec<Entry> {
    let Step::Reload(entries) = reload else {
        return Vec::new();
    };
    let entries = entries.iter().map(|&(number, form, enabled)| Entry {
        number,
        form,
        enabled,
    });
    entries.collect()
}

/// Any action.
pub fn action() -> impl Strategy<Value = Action> {
    let interface = || 0..CHANGING;
    let output = || 2..CHANGING;
    let mtu = prop::sample::select(vec![1280u32, 1400, 1499, 1900, 3000]);
    let kind = prop::sample::select(Kind::ALL.to_vec());
    let storm = prop::collection::vec(reload(), 2..6);
    prop_oneof![
        30 => model::step().prop_map(|step| Action::Step(with_witness(step))),
        2 => reload().prop_map(|step| Action::HangUp(entries(&step))),
        2 => storm.prop_map(Action::Storm),
        1 => Just(Action::Mistakes),
        2 => (interface(), mtu).prop_map(|(at, mtu)| Action::Mtu(at, mtu)),
        2 => interface().prop_map(Action::Address),
        2 => output().prop_map(Action::NextHop),
        15 => (kind, 0..2usize, any::<u64>())
            .prop_map(|(kind, at, seed)| Action::Hostile(kind, at, seed)),
        1 => Just(Action::Clients),
        2 => (50..500u64).prop_map(Action::Pause),
    ]
}

/// The actions of a round.
pub fn round() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 4..9)
}

/// How the process ends.
#[derive(Debug, Clone)]
pub enum Ending {
    /// By SIGTERM, at a quiet moment: its report must settle all accounts.
    Terminated,
    /// By SIGKILL, after these actions under traffic, so many milliseconds after a reload has
    /// begun.
    Killed(Vec<Action>, u64),
}

/// A life after the first: how many rounds it has, and how it ends.
pub fn life() -> impl Strategy<Value = (u64, Ending)> {
    let ending = prop_oneof![
        1 => Just(Ending::Terminated),
        2 => (prop::collection::vec(action(), 0..5), 0..60u64)
            .prop_map(|(actions, after)| Ending::Killed(actions, after)),
    ];
    (2..=10u64, ending)
}
