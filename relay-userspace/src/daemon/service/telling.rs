//! What the main loop tells others: a status to those who ask for one, and to the service manager
//! how the relay does.

use std::time::Instant;

use log::{Level::Warn, info};

use super::Service;
use crate::{
    daemon::{running::Applied, watcher::budget::Line},
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
        let status = self
            .observer
            .snapshot(&self.state, last_change, &self.watcher);
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
        info!(
            interface = &paused[..];
            "adapted to the interfaces: workers kept {}, started {}, ended {}{pauses}{why}",
            applied.kept, applied.started, applied.ended
        );
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
        let now = Instant::now();
        for moved in plan::moved_sources(former, &self.state.running.plan) {
            let line = Line {
                level: Warn,
                about: moved.interface.clone(),
                text: moved.to_string(),
                matters: false,
            };
            self.lines.say(now, &moved.interface, &line);
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
        self.observer.changed(&self.state);
        self.mailbox.changed();
        self.set_status();
    }
}
