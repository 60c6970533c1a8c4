//! Everything that happens to a relay in months, at random, in an hour or less: traffic, reloads,
//! interfaces that go and come, hostile frames and clients, `kill -9`.
//!
//! Rounds of [`action`]s under traffic end with quiet points, at which every frame is accounted for
//! ([`account`]), what the relay holds is what its rules need, and the witness has lost nothing
//! ([`traffic`]). Now and then all is brought back to where it began, and at the end what the relay
//! held at these moments must be flat ([`judge`]).
//!
//! All choices follow from a seed, which is printed: `RELAY_TESTS_SEED=N` makes them again. For how
//! many minutes it goes on is said by `RELAY_SOAK_MINUTES`; without it there are a few rounds.
//! `RELAY_SOAK_RECORD=FILE` gets what was measured, with the name of the backend in front of the
//! extension.

mod account;
mod action;
mod excursion;
mod hostile;
mod judge;
mod traffic;

use std::env;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use relay_tests::abuse::abuse;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::holdings::Held;
use relay_tests::relay::{RuleFile, binary};
use relay_tests::rules::to_toml;
use relay_tests::soak::{Life, Record, Sample};
use relay_tests::veth::Endpoint;

use self::account::{Account, Numbers};
use self::action::{Action, Ending};
use self::traffic::{Background, Witness};
use crate::model::{Entry, Link, Model, Step};
use crate::probe::Probe;
use crate::system::{System, Wire};
use crate::universe::{self, CHANGING, Form, INTERFACES, RULES, WITNESS};

/// How long the relay may take until all is as it must be, under floods on a machine with few CPUs.
const AGREES: Duration = Duration::from_secs(20);
/// How long the accounts may take until they are settled.
const SETTLES: Duration = Duration::from_secs(15);
/// Rounds between two moments at home.
const ROUNDS_PER_HOME: u64 = 3;
/// How often what the relay holds is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Datagrams that touch every chunk of a worker, so that all of its memory is in RAM.
const TOUCH: u32 = 20_000;
/// How many rounds of the first life are in a minute: with those it lasts for about half of the
/// run.
const FIRST_LIFE: f64 = 6.0;
/// The rounds of the short form, and its seed.
const SHORT: u64 = 3;
const SHORT_SEED: u64 = 1;
/// How many actions are printed when it fails.
const LAST_ACTIONS: usize = 30;

/// How long to go on, and with which choices.
#[derive(Debug)]
struct Plan {
    seed: u64,
    /// `None` for the short form.
    minutes: Option<f64>,
    record: Option<PathBuf>,
}

impl Plan {
    fn of_environment() -> Result<Self> {
        let number = |name: &str| env::var(name).ok();
        let minutes = number("RELAY_SOAK_MINUTES").map(|text| text.parse().context("minutes"));
        let minutes: Option<f64> = minutes.transpose()?;
        let seed = number("RELAY_TESTS_SEED").map(|text| text.parse().context("a seed"));
        let seed = match (seed.transpose()?, minutes) {
            (Some(seed), _) => seed,
            (None, None) => SHORT_SEED,
            (None, Some(_)) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        };
        Ok(Self {
            seed,
            minutes,
            record: env::var_os("RELAY_SOAK_RECORD").map(PathBuf::from),
        })
    }
}

/// A run.
struct Run {
    plan: Plan,
    backend: Backend,
    started: Instant,
    choices: TestRunner,
    model: Model,
    /// `None` while the relay is exchanged.
    system: Option<System>,
    probe: Probe,
    account: Account,
    /// What was done, and when.
    journal: Vec<String>,
    record: Record,
    sampled: Instant,
    /// What this process held when it was at home for the first time.
    first: Option<(Held, Option<usize>)>,
    /// Datagrams that the witness has sent.
    witnessed: u64,
}

/// The rules at home: all of them.
fn home() -> Vec<(usize, Form, bool)> {
    (0..=WITNESS)
        .map(|number| (number, Form::A, true))
        .collect()
}

fn every_frame_is_accounted_for_and_nothing_grows_whatever_happens(backend: Backend) -> Result<()> {
    let plan = Plan::of_environment()?;
    let seed = plan.seed;
    println!("seed {seed}, {backend:?}, {:?} minutes", plan.minutes);
    let mut run = Run::new(backend, plan)?;
    let result = run.go().and_then(|()| run.judge());
    run.record.failure = result.as_ref().err().map(|error| format!("{error:#}"));
    run.write_record()?;
    result.with_context(|| run.last_words())
}

impl Run {
    fn new(backend: Backend, plan: Plan) -> Result<Self> {
        let entries = home().into_iter().map(|(number, form, enabled)| Entry {
            number,
            form,
            enabled,
        });
        let model = Model::new(entries.collect());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let record = Record {
            backend,
            seed: plan.seed,
            minutes: plan.minutes.unwrap_or(0.0),
            seconds: 0.0,
            kernel: kernel.trim().to_owned(),
            actions: Default::default(),
            frames: Default::default(),
            settled: 0,
            lives: Vec::new(),
            verdicts: Vec::new(),
            failure: None,
        };
        let choices = TestRunner::new(Config {
            rng_seed: RngSeed::Fixed(plan.seed),
            failure_persistence: None,
            ..Config::default()
        });
        let system = System::start(backend, &model)?;
        for name in ["out0", "out1", "out2"] {
            excursion::announce_changes(&system.wire(name)?.far)?;
        }
        let now = Instant::now();
        let mut run = Self {
            plan,
            backend,
            started: now,
            choices,
            account: Account::new(backend, &model.desired),
            model,
            system: Some(system),
            probe: Probe::default(),
            journal: Vec::new(),
            record,
            sampled: now,
            first: None,
            witnessed: 0,
        };
        run.begin_life();
        Ok(run)
    }

    fn system(&self) -> Result<&System> {
        self.system.as_ref().context("there is no relay")
    }

    /// One of what `strategy` has.
    fn choose<S: Strategy>(&mut self, strategy: &S) -> Result<S::Value> {
        let tree = strategy.new_tree(&mut self.choices);
        Ok(tree.map_err(|error| anyhow!("{error}"))?.current())
    }

    fn note(&mut self, what: impl Display) {
        let line = format!("{:8.2} s: {what}", self.started.elapsed().as_secs_f64());
        println!("{line}");
        self.journal.push(line);
    }

    fn is_over(&self) -> bool {
        let minutes = self.plan.minutes;
        minutes.is_some_and(|minutes| self.started.elapsed().as_secs_f64() > minutes * 60.0)
    }

    /// All lives.
    fn go(&mut self) -> Result<()> {
        self.go_home()?;
        let rounds = self
            .plan
            .minutes
            .map_or(SHORT, |minutes| (minutes * FIRST_LIFE).max(1.0) as u64);
        let (_, mut ending) = self.choose(&action::life())?;
        let mut rounds = rounds;
        loop {
            self.live(rounds)?;
            if self.is_over() || self.plan.minutes.is_none() {
                break;
            }
            self.end_life(ending)?;
            self.go_home()?;
            (rounds, ending) = self.choose(&action::life())?;
        }
        let system = self.system.take().context("there is no relay")?;
        let report = system.stop()?;
        self.settle_report(&Numbers::of_report(&report))?;
        self.close_life("the end of the run");
        Ok(())
    }

    fn live(&mut self, rounds: u64) -> Result<()> {
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

    /// Actions under traffic, and then a quiet point.
    fn round(&mut self) -> Result<()> {
        let actions = self.choose(&action::round())?;
        let (background, witness) = self.start_traffic()?;
        for action in actions {
            self.act(&action)
                .with_context(|| format!("in {action:?}"))?;
        }
        self.count("sent in the background", background.stop());
        let sent = witness.exact();
        let sent = sent.with_context(|| self.log())?;
        self.witnessed += sent;
        self.count("sent by the witness", sent);
        self.quiet()
    }

    fn start_traffic(&mut self) -> Result<(Background, Witness)> {
        let seed = self.choose(&proptest::num::u64::ANY)?;
        let system = self.system()?;
        let wires = [system.wire("in0")?.clone(), system.wire("in1")?.clone()];
        let (source, far) = (&system.wire("in2")?.far, &system.wire("out3")?.far);
        let witness = Witness::start(source, far, self.witnessed)?;
        Ok((Background::start(&wires, seed), witness))
    }

    fn count(&mut self, what: &str, count: u64) {
        *self.record.frames.entry(what.to_owned()).or_default() += count;
    }

    fn log(&self) -> String {
        let Some(system) = &self.system else {
            return String::new();
        };
        let log = system.relay.log();
        let lines: Vec<&str> = log.lines().rev().take(80).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("the end of the relay's log:\n{}", lines.join("\n"))
    }

    /// Makes a change that the model follows.
    fn step(&mut self, step: &Step) -> Result<()> {
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

    /// Waits until what the relay holds is as the model says.
    fn agree(&self) -> Result<()> {
        self.system()?.agree_within(&self.model, AGREES)
    }

    fn act(&mut self, action: &Action) -> Result<()> {
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
    fn wire(&self, at: usize) -> Result<Wire> {
        let name = INTERFACES.get(at).context("an interface")?;
        Ok(self.system()?.wire(name)?.clone())
    }

    /// SIGHUP never discards what was changed by command, so that is in the file first.
    fn hang_up(&mut self, entries: &[Entry]) -> Result<()> {
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

    /// Nothing is sent any more. Fails unless every frame is accounted for, and the state is what
    /// the model says: what the relay holds, and where a datagram of each rule arrives.
    fn quiet(&mut self) -> Result<()> {
        self.settle()?;
        self.agree()?;
        let (Some(system), model) = (&self.system, &self.model) else {
            bail!("there is no relay");
        };
        let arrives = self.probe.run(system, model);
        self.probe.close();
        arrives.with_context(|| self.log())
    }

    /// Waits until the accounts can be settled.
    fn settle(&mut self) -> Result<()> {
        let seconds = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map(|now| now.as_secs())
        };
        let (quiet, deadline) = (seconds()?, Instant::now() + SETTLES);
        let mut before = None;
        let mut why = "no status".to_owned();
        while Instant::now() < deadline {
            let status = self.system()?.relay.status()?;
            let numbers = Numbers::of_status(&status)?;
            let is_new = status["taken_at"].as_u64() > Some(quiet);
            if is_new && before.as_ref() == Some(&numbers) {
                match self.account.settle(&numbers, &self.model, false) {
                    Ok(()) => {
                        self.record.settled += 1;
                        return Ok(());
                    }
                    Err(wrong) => why = wrong,
                }
            }
            before = Some(numbers);
            thread::sleep(Duration::from_millis(250));
        }
        bail!(
            "the accounts cannot be settled {SETTLES:?} after the traffic: {why}\n{:#?}\n{}",
            before,
            self.log()
        )
    }

    /// The same with the numbers of a relay that has ended.
    fn settle_report(&mut self, numbers: &Numbers) -> Result<()> {
        let settled = self.account.settle(numbers, &self.model, true);
        settled
            .map_err(|why| anyhow!("the accounts of a relay that ended: {why}\n{numbers:#?}"))?;
        self.record.settled += 1;
        Ok(())
    }

    /// Brings all back to where it began, from nothing: a group that was once wanted of one source
    /// may have a socket of its own.
    fn go_home(&mut self) -> Result<()> {
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

    /// Has every chunk of every worker written to.
    fn touch(&mut self) -> Result<()> {
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

    fn end_life(&mut self, ending: Ending) -> Result<()> {
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

    fn begin_life(&mut self) {
        self.first = None;
        self.record.lives.push(Life {
            began: self.started.elapsed().as_secs_f64(),
            ended: String::new(),
            samples: Vec::new(),
        });
    }

    fn close_life(&mut self, how: &str) {
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

    /// Looks at what the relay holds: at home always, and else now and then.
    fn sample(&mut self, at_home: bool) -> Result<()> {
        if !at_home && self.sampled.elapsed() < SAMPLE_EVERY {
            return Ok(());
        }
        self.sampled = Instant::now();
        let relay = &self.system()?.relay;
        let mut held = relay.held()?;
        let mut map_entries = relay.map_entries().ok();
        if at_home && let Some((first, entries)) = &self.first {
            // Connections of commands are closed in a moment, and the notes of copies that came
            // back are forgotten after ten seconds.
            let same = eventually(AGREES, || {
                held = relay.held().unwrap_or_else(|_| held.clone());
                map_entries = relay.map_entries().ok();
                held == *first && map_entries == *entries
            });
            ensure!(
                same.is_some(),
                "at home the relay held {first:?} at first and {entries:?} map entries, and holds \
                 {held:?} and {map_entries:?}"
            );
        }
        let sample = Sample {
            at: self.started.elapsed().as_secs_f64(),
            resident_kib: relay.resident_kib()?,
            locked_kib: relay.locked_kib()?,
            descriptors: held.files.values().sum(),
            threads: held.threads.values().sum(),
            map_entries,
            at_home,
        };
        if at_home {
            println!("at home: {sample:?}");
            self.first.get_or_insert((held, map_entries));
        }
        let life = self.record.lives.last_mut().context("there is no relay")?;
        life.samples.push(sample);
        Ok(())
    }

    /// Fails if a life grew.
    fn judge(&mut self) -> Result<()> {
        let mut grew = Vec::new();
        for (number, life) in (1..).zip(&self.record.lives) {
            let (said, judged) = match judge::judge(life) {
                Ok(said) => (said, true),
                Err(why) => (why, false),
            };
            let said = format!(
                "life {number}, from {:.0} s to {}: {said}",
                life.began, life.ended
            );
            println!("{said}");
            if !judged {
                grew.push(said.clone());
            }
            self.record.verdicts.push(said);
        }
        ensure!(grew.is_empty(), "{}", grew.join("\n"));
        println!("{:?}\n{:?}", self.record.actions, self.record.frames);
        Ok(())
    }

    fn write_record(&mut self) -> Result<()> {
        self.record.seconds = self.started.elapsed().as_secs_f64();
        let Some(path) = &self.plan.record else {
            return Ok(());
        };
        let extension = format!("{}.json", self.backend.name());
        let path = path.with_extension(extension);
        let text = serde_json::to_string_pretty(&self.record)?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }

    fn last_words(&self) -> String {
        let from = self.journal.len().saturating_sub(LAST_ACTIONS);
        let last = self.journal.get(from..).unwrap_or_default();
        format!(
            "seed {}, {:?}; the last actions:\n{}",
            self.plan.seed,
            self.backend,
            last.join("\n")
        )
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.last_words());
        }
    }
}

relay_tests::on_both_backends! {
    every_frame_is_accounted_for_and_nothing_grows_whatever_happens,
}
