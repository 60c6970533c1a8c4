//! Random sequences of changes. After each of them, what the relay holds of the kernel, what it
//! says of itself and where datagrams arrive is what the model says.
//!
//! What a change loses on its way is not judged here, only the state that it leaves. A sequence
//! that fails is cut down, by leaving out steps as long as it still fails, and printed with its
//! seed. `RELAY_TESTS_SEED=N` runs the sequence of one seed.

use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use relay_tests::backend::Backend;
use relay_tests::holdings::Held;

use super::is_long;
use super::model::{self, Entry, Model, Step};
use super::probe::Probe;
use super::system::System;
use super::universe::{Form, INTERFACES};

/// How many steps a sequence has.
const STEPS: usize = 30;
/// The sequences of the short form.
const SEEDS: [u64; 3] = [1, 2, 3];
/// For how long the long form goes on.
const LONG: Duration = Duration::from_secs(600);
/// How long a sequence that fails is cut down.
const CUTTING: Duration = Duration::from_secs(120);

/// A sequence that failed.
struct Failed {
    /// The step after which it did, or the number of steps for its end.
    at: usize,
    error: anyhow::Error,
}

/// The rules that the relay is started with.
fn first() -> Vec<Entry> {
    let entry = |number| Entry {
        number,
        form: Form::A,
        enabled: true,
    };
    vec![entry(0), entry(2)]
}

fn what_runs_is_what_the_model_says_after_random_changes(backend: Backend) -> Result<()> {
    let seed = env::var("RELAY_TESTS_SEED").ok();
    if let Some(seed) = seed {
        return check(backend, seed.parse().context("RELAY_TESTS_SEED")?);
    }
    if !is_long() {
        return SEEDS.iter().try_for_each(|&seed| check(backend, seed));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let (first, started) = (now.as_secs(), Instant::now());
    let mut count = 0;
    while started.elapsed() < LONG {
        check(backend, first + count)?;
        count += 1;
    }
    println!("{count} sequences of {STEPS} changes from seed {first} on");
    Ok(())
}

/// Runs the sequence of a seed.
fn check(backend: Backend, seed: u64) -> Result<()> {
    println!("seed {seed}");
    let mut runner = TestRunner::new(Config {
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    });
    let strategy = prop::collection::vec(model::step(), STEPS);
    let tree = strategy.new_tree(&mut runner);
    let steps = tree.map_err(|error| anyhow!("{error}"))?.current();
    let Err(failed) = run(backend, &steps) else {
        return Ok(());
    };
    println!(
        "seed {seed} fails at step {}: {:#}",
        failed.at, failed.error
    );
    let (fewer, failed) = cut_down(backend, steps, failed);
    Err(failed.error.context(format!(
        "seed {seed}, after the last of these changes:\n{fewer:#?}"
    )))
}

/// Leaves out steps, half of them at first, then one at a time, as long as the sequence still
/// fails.
fn cut_down(backend: Backend, mut steps: Vec<Step>, mut failed: Failed) -> (Vec<Step>, Failed) {
    let deadline = Instant::now() + CUTTING;
    steps.truncate(failed.at + 1);
    if let Err(again) = run(backend, &[]) {
        return (Vec::new(), again);
    }
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < steps.len() && Instant::now() < deadline {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match run(backend, &fewer) {
                Ok(()) => at += size,
                Err(again) => {
                    fewer.truncate(again.at + 1);
                    (steps, failed) = (fewer, again);
                }
            }
        }
        size /= 2;
    }
    (steps, failed)
}

/// Makes all changes, and looks after each of them.
fn run(backend: Backend, steps: &[Step]) -> Result<(), Failed> {
    let at = |at| move |error| Failed { at, error };
    let mut model = Model::new(first());
    let mut system = System::start(backend, &model).map_err(at(0))?;
    let mut probe = Probe::default();
    agree(&system, &model, &mut probe).map_err(at(0))?;
    for (number, step) in steps.iter().enumerate() {
        let mut one = || -> Result<()> {
            let before = model.clone();
            let possible = model.apply(step);
            let done = system.apply(step, &before)?;
            ensure!(
                done == possible,
                "{step:?}: it was {}: {}",
                if done { "done" } else { "refused" },
                system.relay.log()
            );
            agree(&system, &model, &mut probe).with_context(|| format!("after {step:?}"))
        };
        one().map_err(at(number))?;
    }
    end(system, model, probe).map_err(at(steps.len()))
}

/// Waits until all is as `model` says, datagrams included, and fails if it is not.
pub fn agree(system: &System, model: &Model, probe: &mut Probe) -> Result<()> {
    system.agree(model)?;
    let sent = probe.run(system, model);
    sent.with_context(|| system.relay.log())
}

/// Brings everything back to where it began: then the relay holds as many files and threads as at
/// the beginning. Stops it.
fn end(mut system: System, mut model: Model, mut probe: Probe) -> Result<()> {
    let mut go = |system: &mut System, step: &Step| -> Result<()> {
        let before = model.clone();
        model.apply(step);
        system.apply(step, &before)?;
        agree(system, &model, &mut probe).with_context(|| format!("at the end, after {step:?}"))
    };
    for at in 0..INTERFACES.len() {
        go(&mut system, &Step::Create(at))?;
        go(&mut system, &Step::Up(at))?;
    }
    let rules = first().into_iter().map(|one| (one.number, one.form, true));
    let back = Step::Reload(rules.collect());
    go(&mut system, &back)?;
    // From nothing: a group that was once wanted of one source may have a socket of its own.
    let mut anew = |system: &mut System| -> Result<Held> {
        for step in [
            Step::Delete(0),
            Step::Delete(1),
            Step::Create(0),
            Step::Create(1),
        ] {
            go(system, &step)?;
        }
        go(system, &back)?;
        thread::sleep(Duration::from_millis(100));
        system.relay.held()
    };
    let before = anew(&mut system)?;
    let after = anew(&mut system)?;
    ensure!(before == after, "before {before:?}, after {after:?}");
    ensure!(model.all_up());
    if probe.repeated > 0 {
        println!("{} rounds of datagrams were sent again", probe.repeated);
    }
    let report = system.stop()?;
    probe.check(&report)
}

relay_tests::on_both_backends! {
    what_runs_is_what_the_model_says_after_random_changes,
}
