//! What the main loop tells others: a status to those who ask for one, and to the service manager
//! how the relay does.

use std::time::Instant;

use log::Level::{Info, Warn};

use super::{LOG, Service};
use crate::{
    config::{quoted, rules::Written},
    daemon::{running::Applied, status::Turn},
    events::Event,
    plan::{self, Plan},
};

impl Service {
    /// Tells the service manager how the relay does.
    pub(super) fn set_status(&mut self) {
        let problems = self.observer.problems(&self.state, &self.watcher);
        self.manager.set_status(&match problems.first() {
            None => format!("{} rules run", self.state.desired.rules().rules.rules.len()),
            Some(first) => format!("{} problems: {first}", problems.len()),
        });
    }

    /// Makes the counters and states known to those who ask for the status.
    pub(super) fn publish(&mut self) {
        self.state.running.settle();
        let last_change = self.commands.last_change.clone();
        let status = self.observer.snapshot(
            &self.state,
            last_change,
            self.commands.changes,
            &self.watcher,
        );
        self.mailbox.publish(status);
    }

    /// A change may take long: meanwhile those who ask for the status get the one of now.
    pub(super) fn before_change(&mut self) {
        if !self.mailbox.snapshot_is_fresh() {
            self.publish();
        }
        self.mailbox.changing();
    }

    /// Logs what a look at the interfaces has changed. What paused is the last change, with the
    /// reason, as it is after a command.
    pub(super) fn say_adapted(&mut self, applied: &Applied) {
        let news = std::mem::take(&mut self.news_told).join("; ");
        let pauses: String = applied
            .pauses()
            .iter()
            .map(|text| format!("; {text}"))
            .collect();
        let why = match pauses.is_empty() || news.is_empty() {
            true => String::new(),
            false => format!(", because {news}"),
        };
        let paused = Vec::from_iter(applied.paused.iter().map(String::as_str)).join(", ");
        let text = format!(
            "adapted to the interfaces: workers kept {}, started {}, ended {}{pauses}{why}",
            applied.kept, applied.started, applied.ended
        );
        Event::new(LOG, Info, "changes", &text)
            .interface(&paused)
            .say();
        if !pauses.is_empty() {
            let what = match news.is_empty() {
                true => "interfaces changed".to_owned(),
                false => news,
            };
            self.commands.note_pause(what, applied.pause);
        }
    }

    /// Logs which copies leave with another source address than by the plan `former`.
    pub(super) fn say_moved_sources(&mut self, former: &Plan) {
        for moved in plan::moved_sources(former, &self.state.running.plan) {
            Event::new(LOG, Warn, "source addresses", &moved.to_string())
                .interface(&moved.interface)
                .by_text()
                .say();
        }
    }

    /// Has metrics served where the rules say.
    pub(super) fn follow_metrics(&mut self) {
        let wanted = self.state.desired.rules().rules.metrics.as_ref();
        self.metrics.follow(wanted, Instant::now());
        let problem = self.metrics.problem().map(str::to_owned);
        self.observer.note_metrics(problem);
    }

    /// Logs which feeds have stopped, and which have come again.
    pub(super) fn say_silence(&mut self, turns: &[Turn]) {
        for turn in turns {
            let rule = quoted(&turn.rule);
            let (level, name, text) = match turn.over_after {
                None => (
                    Warn,
                    "silent",
                    format!(
                        "rule {rule} is silent: no datagram has come for {}",
                        Written(turn.after)
                    ),
                ),
                Some(time) => (
                    Info,
                    "over",
                    format!(
                        "datagrams of rule {rule} come again, after {:.3} s",
                        time.as_secs_f64()
                    ),
                ),
            };
            Event::new(LOG, level, "silence", &text)
                .rule(&turn.rule)
                .turn(name)
                .say();
        }
        if !turns.is_empty() {
            self.mailbox.changed();
        }
    }

    /// Tells the service manager that a reload is over.
    pub(super) fn ready_again(&mut self) {
        let status = match self.state.waiting() {
            0 => "all rules run".to_owned(),
            waiting => format!("{waiting} rules or outputs wait"),
        };
        self.manager.ready(&status);
    }

    /// Lets everybody know that something may run differently now.
    pub(super) fn changed(&mut self) {
        self.follow();
        self.follow_metrics();
        self.taps.follow(&mut self.state);
        let turns = self.observer.changed(&self.state);
        self.say_silence(&turns);
        self.mailbox.changed();
        self.set_status();
    }
}
