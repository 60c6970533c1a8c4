//! What the main loop does when something has changed, or a client asks for it: news of interfaces,
//! another rule file, requests. Each change is told before it begins and after it has ended, so that
//! a client that asks meanwhile gets an answer.

use std::{sync::Arc, time::Instant};

use log::{Level, info};

use super::{AGAIN, ANSWERING, LOG, MOST_NEWS, SETTLE, Service};
use crate::{
    daemon::{
        file_watch::FileWatch,
        reconcile::OnRefusal,
        refusals,
        requests::{Answer, Refusal, Request},
    },
    events::Event,
};

impl Service {
    /// Takes the watcher's news.
    pub(super) fn hear(&mut self) {
        self.news.silence();
        let events = self.watcher.take_events();
        self.state.running.forget_interfaces(&events.gone);
        let next_hops = &mut self.state.running.next_hops;
        if events.doubt_next_hops {
            next_hops.doubt_all();
        }
        if events.unresolved || events.doubt_next_hops {
            next_hops.tend(Instant::now());
        }
        let room = MOST_NEWS.saturating_sub(self.news_told.len());
        self.news_told.extend(events.why.into_iter().take(room));
        if events.changed {
            self.refresh_at.get_or_insert(Instant::now() + SETTLE);
        }
    }

    /// Reloads the rule file if it has changed. While a change waits for its confirmation a reload
    /// would be refused, so it comes after that.
    pub(super) fn watch_file(&mut self) {
        let changed = self.file_watch.as_mut().is_some_and(FileWatch::changed);
        let waits = self.commands.confirm_by().is_some();
        if changed && waits {
            let text = "the rule file has changed; it is read once the last change is confirmed or \
                        taken back";
            Event::new(LOG, Level::Info, "rule file", text)
                .turn("waits")
                .say();
        }
        self.file_changed |= changed;
        if self.file_changed && !waits {
            self.file_changed = false;
            self.reload("the rule file has changed");
        }
    }

    /// Looks at the interfaces anew, and adapts what runs.
    pub(super) fn refresh(&mut self) {
        self.before_change();
        self.state.refresh();
        for name in self.state.detached_by_force() {
            let text = format!(
                "another process detached the XDP program of the relay from {name} by force"
            );
            Event::new(LOG, Level::Warn, "XDP program", &text)
                .interface(name)
                .say();
        }
        let before = self.state.waiting_lines();
        let former = Arc::clone(&self.state.running.plan);
        match self.state.reconcile(OnRefusal::Wait, &self.signals) {
            Ok(applied) if applied.changed => {
                self.say_adapted(&applied);
                self.say_moved_sources(&former);
            }
            Ok(_) => self.news_told.clear(),
            Err(error) => {
                let interface = refusals::interface(&error).unwrap_or_default();
                let text = format!(
                    "{error}. What runs goes on; trying again in {} s",
                    AGAIN.as_secs()
                );
                Event::new(LOG, Level::Warn, "refusal", &text)
                    .interface(interface)
                    .by_text()
                    .say();
                self.refresh_at = Some(Instant::now() + AGAIN);
            }
        }
        self.state.log_waiting_since(&before);
        self.changed();
    }

    /// Answers the requests that wait, one after the other, for a while: whoever asks without end
    /// must not keep signals and the watchdog waiting. The mailbox rings for those that are left.
    pub(super) fn answer(&mut self) {
        let began = Instant::now();
        while began.elapsed() < ANSWERING
            && let Some((request, reply)) = self.mailbox.take()
        {
            if matches!(request, Request::Stop) {
                info!("a command asks for the end");
                reply(Ok(Answer::Stopping));
                self.stop = true;
                return;
            }
            let request = match request {
                Request::Tap(request) => {
                    reply(self.taps.carry_out(request, &mut self.state));
                    continue;
                }
                other => other,
            };
            let changes = request.is_change();
            if changes {
                self.before_change();
            }
            let reloads = matches!(request, Request::Reload { .. });
            if reloads {
                self.manager.reloading();
            }
            let answer = self
                .commands
                .carry_out(request, &mut self.state, &self.signals);
            if changes {
                self.changed();
            }
            if reloads {
                self.ready_again();
            }
            reply(answer);
        }
        if self.mailbox.snapshot_is_wanted() {
            self.publish();
        }
    }

    /// Reloads the rule file for another reason than a command.
    pub(super) fn reload(&mut self, why: &str) {
        self.before_change();
        let text = format!("{why}: reading the rule file anew");
        Event::new(LOG, Level::Info, "reload", &text)
            .by_text()
            .say();
        self.manager.reloading();
        let request = Request::Reload {
            text: None,
            dry_run: false,
            confirm_within: None,
            discard_runtime: false,
        };
        let answer = self
            .commands
            .carry_out(request, &mut self.state, &self.signals);
        if let Err(refusal) = answer {
            let text = match refusal {
                Refusal::Mistakes(mistakes) => {
                    format!("the rule file has mistakes, and the rules are as before:\n{mistakes}")
                }
                refusal => format!("the rules are as before: {refusal}"),
            };
            Event::new(LOG, Level::Error, "refused reload", &text)
                .by_text()
                .say();
        }
        self.changed();
        self.ready_again();
    }
}
