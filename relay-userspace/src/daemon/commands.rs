//! What operators ask for by command: each is a new set of desired rules, and one way to apply it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use log::{info, warn};

use super::{
    desired::Desired,
    error::RunError,
    reconcile::{OnRefusal, State},
    refusals,
    requests::{Answer, Change, Refusal, Request},
    running::Applied,
    signals::Signals,
};
use crate::{
    config::{self, Mistakes},
    observe::snapshot::{self, Changes, LastChange},
    plan,
};

/// The changes made so far, as far as they can be taken back.
pub struct Commands {
    /// The rule file, which a reload without another one reads.
    file: PathBuf,
    /// The rules before the last change.
    former: Option<Desired>,
    /// Until when the last change must be confirmed.
    confirm_by: Option<Instant>,
    /// The last change, for the status.
    pub last_change: Option<LastChange>,
    /// How often rules were changed.
    pub changes: Changes,
}

/// A set of rules that shall run, and how the change is called in the log and the status.
struct Wanted {
    what: String,
    /// The only rule that it is about; empty if it is not about one alone.
    rule: String,
    desired: Desired,
    dry_run: bool,
    confirm_within: Option<Duration>,
}

impl Wanted {
    fn now(what: String, desired: Desired) -> Self {
        Self {
            what,
            rule: String::new(),
            desired,
            dry_run: false,
            confirm_within: None,
        }
    }

    /// About one rule.
    fn of(self, rule: &str) -> Self {
        let rule = rule.to_owned();
        Self { rule, ..self }
    }
}

impl Commands {
    /// No change was made yet. `file` is the rule file.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            former: None,
            confirm_by: None,
            last_change: None,
            changes: Changes {
                applied_at: snapshot::now(),
                ..Changes::default()
            },
        }
    }

    /// When an unconfirmed change is taken back.
    pub fn confirm_by(&self) -> Option<Instant> {
        self.confirm_by
    }

    /// Does what `request` asks for. [`Request::Stop`] and [`Request::Tap`] are the caller's.
    ///
    /// # Errors
    ///
    /// Why not. Everything is as before then.
    pub fn carry_out(
        &mut self,
        request: Request,
        state: &mut State,
        signals: &Signals,
    ) -> Result<Answer, Refusal> {
        let is_change = request.changes_rules() || matches!(request, Request::Undo);
        let what = is_change.then(|| request.verb());
        let answer = self.answer(request, state, signals);
        if let (Err(refusal), Some(what)) = (&answer, what) {
            self.note_refused(what, refusal);
        }
        answer
    }

    /// What rules paused for is the last change, too, although nobody asked for it.
    pub fn note_pause(&mut self, what: String, pause: Duration) {
        self.last_change = Some(LastChange {
            when: snapshot::now(),
            what,
            result: "applied".into(),
            pause_milliseconds: pause.as_millis() as u64,
        });
    }

    /// What was refused is the last change, too.
    fn note_refused(&mut self, what: &str, refusal: &Refusal) {
        self.changes.refused += 1;
        self.changes.last_was_refused = true;
        self.last_change = Some(LastChange {
            when: snapshot::now(),
            what: what.to_owned(),
            result: format!("refused: {refusal}"),
            pause_milliseconds: 0,
        });
    }

    fn answer(
        &mut self,
        request: Request,
        state: &mut State,
        signals: &Signals,
    ) -> Result<Answer, Refusal> {
        if self.confirm_by.is_some() && request.changes_rules() {
            return Err(Refusal::Unconfirmed);
        }
        let wanted = match request {
            Request::Reload {
                text,
                dry_run,
                confirm_within,
                discard_runtime,
            } => Wanted {
                dry_run,
                confirm_within,
                ..self.reload(text, discard_runtime, state)?
            },
            Request::Add { label, text } => {
                let fragment = config::parse(&label, &text).map_err(mistakes)?;
                let desired = state.desired.with(&fragment).map_err(mistakes)?;
                Wanted::now(format!("add {label}"), desired)
            }
            Request::Remove { name } => {
                let desired = state.desired.without(&name).ok_or_else(|| no_rule(&name))?;
                Wanted::now(format!("remove {}", config::quoted(&name)), desired).of(&name)
            }
            Request::Enable { name } => self.switch(&name, true, state)?,
            Request::Disable { name } => self.switch(&name, false, state)?,
            Request::Confirm => {
                self.confirm_by.take().ok_or(Refusal::NothingToConfirm)?;
                info!("the last change is confirmed");
                return Ok(Answer::Confirmed);
            }
            Request::Undo => {
                let desired = self.former.clone().ok_or(Refusal::NothingToUndo)?;
                Wanted::now("undo".into(), desired)
            }
            Request::Save => {
                return Ok(Answer::Rules(state.desired.to_toml()));
            }
            Request::Explain {
                interface,
                group,
                port,
                source,
                vlan,
                text,
            } => {
                let datagram = plan::Datagram {
                    interface: &interface,
                    group,
                    port,
                    source,
                    vlan,
                };
                let explained = match &text {
                    Some((label, text)) => {
                        let document = config::parse(label, text).map_err(mistakes)?;
                        plan::explain(&document, None, &datagram)
                    }
                    None => {
                        let now = Some(&state.arrangement);
                        plan::explain(state.desired.rules(), now, &datagram)
                    }
                };
                return Ok(Answer::Explained(explained.to_string()));
            }
            // These two are the caller's.
            Request::Tap(_) => return Err(Refusal::Busy),
            Request::Stop => return Ok(Answer::Stopping),
        };
        self.change(wanted, state, signals)
    }

    /// Reads the rule file anew, or takes the text of another one.
    fn reload(
        &self,
        text: Option<(String, String)>,
        discard_runtime: bool,
        state: &State,
    ) -> Result<Wanted, Refusal> {
        let document = match &text {
            Some((label, text)) => config::parse(label, text),
            None => config::load_at_once(&self.file),
        };
        let document = document.map_err(mistakes)?;
        let discards = state.desired.discarded_by(&document);
        if !discard_runtime && !discards.is_empty() {
            return Err(Refusal::WouldDiscard(discards));
        }
        let label = text.map_or_else(|| self.file.display().to_string(), |(label, _)| label);
        Ok(Wanted::now(
            format!("reload {label}"),
            Desired::of(document),
        ))
    }

    fn switch(&self, name: &str, enabled: bool, state: &State) -> Result<Wanted, Refusal> {
        let desired = state.desired.with_enabled(name, enabled);
        let desired = desired.ok_or_else(|| no_rule(name))?;
        let what = if enabled { "enable" } else { "disable" };
        Ok(Wanted::now(format!("{what} {}", config::quoted(name)), desired).of(name))
    }

    /// Applies a change, or, on a dry run, says what it would do.
    fn change(
        &mut self,
        wanted: Wanted,
        state: &mut State,
        signals: &Signals,
    ) -> Result<Answer, Refusal> {
        let Wanted {
            what,
            rule,
            desired,
            dry_run,
            confirm_within,
        } = wanted;
        let difference = plan::diff(state.desired.rules(), desired.rules());
        let lines: Vec<String> = difference.to_string().lines().map(str::to_owned).collect();
        let waiting = state.waiting();
        let former = std::mem::replace(&mut state.desired, desired);
        let known = state.known();
        state.refresh();
        if dry_run {
            let foreseen = state.foresee();
            state.desired = former;
            state.know(known);
            let foreseen = foreseen.map_err(|error| refused(error, true))?;
            return Ok(Answer::Changed(Change {
                lines,
                pauses: foreseen.pauses,
                applied: false,
                pending: foreseen.waiting,
                confirm_within_seconds: None,
            }));
        }
        let result = state.reconcile(OnRefusal::Restore, signals);
        match result {
            Ok(applied) => {
                self.former = Some(former);
                self.confirm_by = confirm_within.map(|within| Instant::now() + within);
                let change = self.report((&what, &rule), lines, &applied, state, confirm_within);
                Ok(Answer::Changed(change))
            }
            Err(error) => {
                state.desired = former;
                state.know(known);
                state.refresh();
                // Where the former rules could not come back at once, they wait and come later.
                let restored =
                    state.reconcile(OnRefusal::Wait, signals).is_ok() && state.waiting() <= waiting;
                let now = if restored {
                    "the rules are as before"
                } else {
                    "not all that ran before runs again"
                };
                let interface = refusals::interface(&error).unwrap_or_default();
                warn!(rule = &rule[..], interface = interface; "{what}: {error}; {now}");
                Err(refused(error, restored))
            }
        }
    }

    fn report(
        &mut self,
        (what, rule): (&str, &str),
        lines: Vec<String>,
        applied: &Applied,
        state: &State,
        confirm_within: Option<Duration>,
    ) -> Change {
        let paused = applied.pauses();
        let pending = state.waiting_lines();
        let interfaces: Vec<&str> = applied.paused.iter().map(String::as_str).collect();
        info!(
            rule = rule, interface = &interfaces.join(", ")[..];
            "{what}: {}; workers kept {}, started {}, ended {}{}",
            lines.first().map_or("nothing changed", String::as_str),
            applied.kept,
            applied.started,
            applied.ended,
            paused
                .iter()
                .map(|text| format!("; {text}"))
                .collect::<String>()
        );
        self.changes.applied += 1;
        self.changes.last_was_refused = false;
        self.changes.applied_at = snapshot::now();
        self.last_change = Some(LastChange {
            when: snapshot::now(),
            what: what.to_owned(),
            result: "applied".into(),
            pause_milliseconds: applied.pause.as_millis() as u64,
        });
        Change {
            lines,
            pauses: paused,
            applied: true,
            pending,
            confirm_within_seconds: confirm_within.map(|within| within.as_secs()),
        }
    }

    /// Takes back a change that was not confirmed in time. Where the former rules are refused, they
    /// stay within reach of `undo`.
    pub fn take_back(&mut self, state: &mut State, signals: &Signals) {
        self.confirm_by = None;
        let Some(desired) = self.former.clone() else {
            return;
        };
        warn!("the last change was not confirmed in time: the former rules come back");
        let what = "not confirmed in time, taken back";
        match self.change(Wanted::now(what.into(), desired), state, signals) {
            Ok(_) => self.former = None,
            Err(refusal) => {
                self.note_refused(what, &refusal);
                warn!("the former rules cannot come back: {refusal}");
            }
        }
    }
}

fn mistakes(found: Mistakes) -> Refusal {
    Refusal::Mistakes(found.to_string())
}

fn refused(error: RunError, restored: bool) -> Refusal {
    match error {
        RunError::Rules(found) => mistakes(found),
        error => Refusal::Refused {
            reason: error.to_string(),
            restored,
        },
    }
}

fn no_rule(name: &str) -> Refusal {
    Refusal::NoSuchRule(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, run};

    fn rules(input: &str) -> String {
        format!(
            "[[rules]]\nname = \"r\"\ninput = {{ interface = \"{input}\", group = \"239.1.1.1\", \
             port = 1 }}\noutputs = [{{ interface = \"out0\" }}]\n"
        )
    }

    /// Otherwise the next look at the interfaces would try again what the kernel has refused, and
    /// pause the rules for that.
    #[test]
    fn what_the_kernel_has_refused_stands_after_other_rules_were_tried_without_that_interface() {
        in_namespace(|| {
            for name in ["in0", "in1", "out0"] {
                run(&format!(
                    "ip link add name {name} type veth peer name far-{name}"
                ));
            }
            let document = config::parse("relay.toml", &rules("in0")).unwrap();
            let mut state = State::new(Desired::of(document), None);
            state.refresh();
            let refusal = plan::Refusal {
                interface: "in0".into(),
                reason: "zero copy was refused".into(),
            };
            state.constraints.without_zero_copy.push(refusal.clone());
            state.refresh();
            assert_eq!(state.constraints.without_zero_copy.len(), 1);
            let signals = Signals::handle().unwrap();
            let mut commands = Commands::new("relay.toml".into());
            let dry_run = Request::Reload {
                text: Some(("other.toml".into(), rules("in1"))),
                dry_run: true,
                confirm_within: None,
                discard_runtime: false,
            };
            let answer = commands.carry_out(dry_run, &mut state, &signals);
            assert!(answer.is_ok(), "{answer:?}");
            state.refresh();
            assert_eq!(state.constraints.without_zero_copy, [refusal]);
            assert!(state.facts.interfaces.contains_key("in0"));
        });
    }
}
