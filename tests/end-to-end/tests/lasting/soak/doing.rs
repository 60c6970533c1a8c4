//! What is done to the relay: one action of a round, and the change that the model follows.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use relay_tests::abuse::abuse;
use relay_tests::background::eventually;
use relay_tests::veth::Endpoint;

use super::{AGREES, Run, action::Action, excursion, hostile, traffic};
use crate::model::{Entry, Link, Step};
use crate::system::{System, Wire};
use crate::universe::{INTERFACES, WITNESS};

/// Datagrams that touch every chunk of a worker, so that all of its memory is in RAM.
const TOUCH: u32 = 20_000;

impl Run {
    /// Makes a change that the model follows.
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        let before = self.model.clone();
        let possible = self.model.apply(step);
        let system = self.system.as_mut().context("there is no relay")?;
        let done = system.apply(step, &before)?;
        ensure!(
            done == possible,
            "{step:?}: it was {}: {}",
            if done { "done" } else { "refused" },
            self.log()
        );
        self.account.changed(&before.desired, &self.model.desired);
        Ok(())
    }

    pub(super) fn act(&mut self, action: &Action) -> Result<()> {
        self.note(format_args!("{action:?}"));
        *self.record.actions.entry(action.kind()).or_default() += 1;
        match action {
            Action::Step(step) => self.step(step)?,
            Action::HangUp(entries) => self.hang_up(entries)?,
            Action::Storm(reloads) => {
                for reload in reloads {
                    self.step(reload)?;
                }
            }
            Action::Mistakes => {
                let answer = self.system()?.relay.reload("[[rules]]\nname = 7\n")?;
                ensure!(answer.code == Some(78), "{answer:?}");
            }
            Action::Mtu(at, mtu) => excursion::other_mtu(&self.wire(*at)?, &self.model, *mtu)?,
            Action::Address(at) => excursion::without_address(&self.wire(*at)?, &self.model)?,
            Action::NextHop(at) => excursion::other_next_hop(&self.wire(*at)?, &self.model)?,
            Action::Hostile(kind, at, seed) => {
                let wire = self.wire(*at)?;
                if self.model.link(&wire.near.interface) == Link::Up {
                    let own = self.system()?.wires.iter().map(|one| one.near.clone());
                    let own: Vec<Endpoint> =
                        own.filter(|one| one.index != wire.near.index).collect();
                    let sent = hostile::send(*kind, *seed, &wire, &own)?;
                    self.count("hostile", sent);
                }
            }
            Action::Clients => abuse(&self.system()?.relay, &[0, 1])?,
            Action::Pause(milliseconds) => {
                let paused = self.system()?.relay.pause()?;
                thread::sleep(Duration::from_millis(*milliseconds));
                drop(paused);
            }
        }
        self.agree()?;
        self.sample(false)
    }

    /// The wire at an interface that changes.
    pub(super) fn wire(&self, at: usize) -> Result<Wire> {
        let name = INTERFACES.get(at).context("an interface")?;
        Ok(self.system()?.wire(name)?.clone())
    }

    /// SIGHUP never discards what was changed by command, so that is in the file first.
    pub(super) fn hang_up(&mut self, entries: &[Entry]) -> Result<()> {
        let reload = |entries: &[Entry]| {
            let entries = entries.iter();
            Step::Reload(
                entries
                    .map(|one| (one.number, one.form, one.enabled))
                    .collect(),
            )
        };
        let now = reload(&self.model.desired);
        self.step(&now)?;
        let before = self.model.clone();
        self.model.apply(&reload(entries));
        self.account.changed(&before.desired, &self.model.desired);
        let system = self.system()?;
        let what = |system: &System| -> Option<serde_json::Value> {
            let status = system.relay.status().ok()?;
            Some(status["last_change"]["what"].clone())
        };
        let last = what(system);
        system.hang_up(entries)?;
        let came = eventually(AGREES, || {
            let now = what(system);
            now.is_some() && now != last
        });
        ensure!(
            came.is_some(),
            "SIGHUP: nothing was read anew: {}",
            self.log()
        );
        Ok(())
    }

    /// Has every chunk of every worker written to.
    pub(super) fn touch(&mut self) -> Result<()> {
        let system = self.system()?;
        thread::scope(|scope| -> Result<()> {
            let mut sending = Vec::new();
            for (name, rule) in [("in0", 0), ("in1", 2), ("in2", WITNESS)] {
                let wire = system.wire(name)?;
                let send = move || traffic::send_steadily(wire, rule, TOUCH, 1_000, TOUCH);
                sending.push(scope.spawn(send));
            }
            for thread in sending {
                thread.join().map_err(|_| anyhow!("a sender panicked"))??;
            }
            Ok(())
        })
    }
}
