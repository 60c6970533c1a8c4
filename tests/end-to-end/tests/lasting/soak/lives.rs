//! The lives of a run: the process of one relay from its start to its end, the way home in between,
//! and the next one.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use relay_tests::relay::{RuleFile, binary};
use relay_tests::rules::to_toml;
use relay_tests::soak::Life;

use super::{
    Run,
    account::{Account, Numbers},
    action::Ending,
    home,
};
use crate::model::Step;
use crate::universe::{self, CHANGING, Form, RULES};

/// Rounds between two moments at home.
const ROUNDS_PER_HOME: u64 = 3;

impl Run {
    pub(super) fn live(&mut self, rounds: u64) -> Result<()> {
        for round in 0..rounds {
            if self.is_over() {
                break;
            }
            self.round()?;
            if (round + 1).is_multiple_of(ROUNDS_PER_HOME) {
                self.go_home()?;
            }
        }
        if !rounds.is_multiple_of(ROUNDS_PER_HOME) || self.is_over() {
            self.go_home()?;
        }
        Ok(())
    }

    /// Brings all back to where it began, from nothing: a group that was once wanted of one source
    /// may have a socket of its own.
    pub(super) fn go_home(&mut self) -> Result<()> {
        self.note("home");
        for at in 0..CHANGING {
            self.step(&Step::Create(at))?;
            self.step(&Step::Up(at))?;
        }
        self.step(&Step::Unlead)?;
        self.step(&Step::Reload(home()))?;
        self.agree().context("on the way home")?;
        for step in [
            Step::Delete(0),
            Step::Delete(1),
            Step::Create(0),
            Step::Create(1),
        ] {
            self.step(&step)?;
            self.agree()
                .with_context(|| format!("at home, after {step:?}"))?;
        }
        self.touch()?;
        self.quiet().context("at home")?;
        ensure!(self.model.all_up());
        self.sample(true)
    }

    pub(super) fn end_life(&mut self, ending: Ending) -> Result<()> {
        let how = match ending {
            Ending::Terminated => {
                self.note("SIGTERM");
                let system = self.system.take().context("there is no relay")?;
                self.model.restart();
                let (system, report) = system.relaunch(&self.model)?;
                self.settle_report(&Numbers::of_report(&report))?;
                self.system = Some(system);
                "SIGTERM"
            }
            Ending::Killed(actions, after) => {
                let (background, witness) = self.start_traffic()?;
                for action in actions {
                    self.act(&action)
                        .with_context(|| format!("in {action:?}"))?;
                }
                self.note(format_args!("SIGKILL {after} ms after a reload has begun"));
                let rules: Vec<_> = (0..RULES).map(|one| universe::rule(one, Form::B)).collect();
                let file = RuleFile::new(&to_toml(&rules))?;
                let system = self.system.take().context("there is no relay")?;
                let mut reload = Command::new(binary()?)
                    .arg("reload")
                    .arg(file.path())
                    .arg("--discard-runtime")
                    .arg("--control")
                    .arg(system.relay.control())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?;
                thread::sleep(Duration::from_millis(after));
                self.model.restart();
                let relaunched = system.relaunch_killed(&self.model);
                reload.wait()?;
                self.system = Some(relaunched?);
                self.count("sent in the background", background.stop());
                let sent = witness.cut_off()?;
                self.witnessed += sent;
                self.count("sent by the witness", sent);
                "SIGKILL"
            }
        };
        self.close_life(how);
        self.account = Account::new(self.backend, &self.model.desired);
        self.begin_life();
        self.agree().context("after a new start")?;
        Ok(())
    }

    pub(super) fn begin_life(&mut self) {
        self.first = None;
        self.record.lives.push(Life {
            began: self.started.elapsed().as_secs_f64(),
            ended: String::new(),
            samples: Vec::new(),
        });
    }

    pub(super) fn close_life(&mut self, how: &str) {
        if let Some(life) = self.record.lives.last_mut() {
            life.ended = how.to_owned();
        }
        let Some(last) = self.account.last.take() else {
            return;
        };
        self.count("received by the relay", last.received);
        self.count("copies that left", last.sent);
        for (reason, count) in last.dropped {
            self.count(&format!("dropped: {reason}"), count);
        }
    }
}
