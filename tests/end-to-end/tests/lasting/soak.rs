//! Everything that happens to a relay in months, at random, in an hour or less: traffic, reloads,
//! interfaces that go and come, hostile frames and clients, `kill -9`.
//!
//! Rounds of [`action`]s under traffic end with quiet points, at which every frame is accounted for
//! ([`account`]), what the relay holds is what its rules need, and the witness has lost nothing
//! ([`traffic`]). Now and then all is brought back to where it began, and at the end what the relay
//! held at these moments must be flat ([`judge`]).
//!
//! [`doing`] has what is done, [`lives`] the processes one after the other, and [`record`] what is
//! written down.
//!
//! All choices follow from a seed, which is printed: `RELAY_TESTS_SEED=N` makes them again. For how
//! many minutes it goes on is said by `RELAY_SOAK_MINUTES`; without it there are a few rounds.
//! `RELAY_SOAK_RECORD=FILE` gets what was measured, with the name of the backend in front of the
//! extension.

mod account;
mod action;
mod doing;
mod excursion;
mod hostile;
mod judge;
mod lives;
mod record;
mod traffic;

use std::env;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use relay_tests::backend::Backend;
use relay_tests::holdings::Held;
use relay_tests::soak::Record;

use self::account::{Account, Numbers};
use self::traffic::{Background, Witness};
use crate::model::{Entry, Model};
use crate::probe::Probe;
use crate::system::System;
use crate::universe::{Form, WITNESS};

/// How long the relay may take until all is as it must be, under floods on a machine with few CPUs.
const AGREES: Duration = Duration::from_secs(20);
/// How long the accounts may take until they are settled.
const SETTLES: Duration = Duration::from_secs(15);
/// How many rounds of the first life are in a minute: with those it lasts for about half of the
/// run.
const FIRST_LIFE: f64 = 6.0;
/// The rounds of the short form, and its seed.
const SHORT: u64 = 3;
const SHORT_SEED: u64 = 1;

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

    /// Waits until what the relay holds is as the model says.
    fn agree(&self) -> Result<()> {
        self.system()?.agree_within(&self.model, AGREES)
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
