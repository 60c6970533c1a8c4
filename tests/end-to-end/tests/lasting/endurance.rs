//! The same changes over and over, while datagrams flow: memory, files, threads, sockets, groups
//! and map entries are then as before, and no chunk is missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use relay_tests::backend::Backend;
use relay_tests::sender::{Pacer, UdpSender};

use super::is_long;
use super::model::{Entry, Model, Step};
use super::probe::Probe;
use super::random_changes::agree;
use super::system::System;
use super::universe::{self, Form};

/// How much more memory the relay may have at the end, in KiB: what the allocator keeps varies. So
/// the short form, of 20 rounds, notices leaks of 25 KiB a round and more, and the long one smaller
/// ones.
const GROWTH: u64 = 512;
/// How often the changes are made before more memory after each time counts as a leak: the
/// allocator reaches its size in steps of 4 MB, and the last of them may come late.
const ATTEMPTS: u32 = 4;
/// Datagrams per second for the first rule.
const RATE: u32 = 1_000;
/// Datagrams that touch every chunk of a worker, so that all of its memory is in RAM.
const TOUCH: u32 = 20_000;

/// How often something is done: first until memory has its size (after a few new workers the
/// allocator keeps as much as it ever will), then until it counts.
#[derive(Debug, Clone, Copy)]
struct Rounds {
    warm_up: usize,
    long: usize,
    short: usize,
}

/// The rules 0, 2 and 3 in their first form, or in others.
fn rules(forms: &[(usize, Form)]) -> Step {
    let entries = forms.iter().map(|&(number, form)| (number, form, true));
    Step::Reload(entries.collect())
}

const BASE: [(usize, Form); 3] = [(0, Form::A), (2, Form::A), (3, Form::A)];

/// Rules are added, removed and changed; two of the four connect the inputs and separate them
/// again, so on XDP workers end and begin.
fn x8_reloads_leave_nothing_behind(backend: Backend) -> Result<()> {
    let steps = [
        rules(&[(0, Form::B), (1, Form::B), (2, Form::B), (4, Form::B)]),
        rules(&[(0, Form::B), (2, Form::A)]),
        rules(&[(5, Form::A), (0, Form::A), (3, Form::B)]),
        rules(&BASE),
    ];
    let rounds = Rounds {
        warm_up: 20,
        long: 1_000,
        short: 20,
    };
    endures(backend, rounds, &steps)
}

fn x8_flaps_of_an_input_and_an_output_leave_nothing_behind(backend: Backend) -> Result<()> {
    let rounds = Rounds {
        warm_up: 20,
        long: 1_000,
        short: 100,
    };
    endures(backend, rounds, &[Step::Flap(0), Step::Flap(2)])
}

fn x8_deletions_of_an_input_and_an_output_leave_nothing_behind(backend: Backend) -> Result<()> {
    let steps = [
        Step::Replug(0),
        Step::Replug(2),
        Step::Delete(1),
        Step::Create(1),
        Step::Delete(4),
        Step::Create(4),
    ];
    let rounds = Rounds {
        warm_up: 24,
        long: 300,
        short: 18,
    };
    endures(backend, rounds, &steps)
}

/// Makes the changes in turn. `rounds` are multiples of how many there are, so that the end is the
/// beginning.
fn endures(backend: Backend, rounds: Rounds, steps: &[Step]) -> Result<()> {
    let entries = BASE.map(|(number, form)| Entry {
        number,
        form,
        enabled: true,
    });
    let mut model = Model::new(entries.to_vec());
    let mut system = System::start(backend, &model)?;
    let mut probe = Probe::default();
    // The allocator reaches its size in steps of 4 MB, the last of them late.
    let (warm_up, counted) = match is_long() {
        true => (5 * rounds.warm_up, rounds.long),
        false => (rounds.warm_up, rounds.short),
    };
    let go = |system: &mut System, model: &mut Model, count: usize| -> Result<()> {
        for step in steps.iter().cycle().take(count) {
            let before = model.clone();
            model.apply(step);
            ensure!(
                system.apply(step, &before)?,
                "{step:?}: {}",
                system.relay.log()
            );
            if matches!(step, Step::Delete(_) | Step::Create(_) | Step::Replug(_)) {
                // The relay must have seen each, or two would be one for it.
                system.agree(model)?;
            }
        }
        Ok(())
    };
    let go_under_traffic = |system: &mut System, model: &mut Model, count| -> Result<()> {
        let source = system.wire("in0")?.far.clone();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut pacer = Pacer::new(RATE, 16);
                let rule = universe::rule(0, Form::A);
                while !over.load(Ordering::Relaxed) {
                    // The interface that it sends through may be gone.
                    let Ok(sender) = UdpSender::open(&source) else {
                        thread::sleep(Duration::from_millis(10));
                        continue;
                    };
                    for _ in 0..RATE / 4 {
                        pacer.wait();
                        let _ = sender.send_one(rule.group, rule.port, &[0; 300]);
                    }
                }
            });
            let done = go(system, model, count);
            over.store(true, Ordering::Relaxed);
            done
        })
    };
    let first = universe::rule(0, Form::A);
    let sender = UdpSender::open(&system.wire("in0")?.far)?;
    let mut pacer = Pacer::new(TOUCH, 16);
    for _ in 0..TOUCH {
        pacer.wait();
        sender.send_one(first.group, first.port, &[0; 1000])?;
    }
    go_under_traffic(&mut system, &mut model, warm_up)?;
    agree(&system, &model, &mut probe)?;
    let (held, mut kib) = (system.relay.held()?, system.relay.resident_kib()?);
    for _ in 0..ATTEMPTS {
        let started = Instant::now();
        go_under_traffic(&mut system, &mut model, counted)?;
        let took = started.elapsed();
        agree(&system, &model, &mut probe)?;
        let (held_now, kib_now) = (system.relay.held()?, system.relay.resident_kib()?);
        println!(
            "{backend:?}: {counted} changes in {took:.1?}: {kib} KiB before, {kib_now} KiB after, {held_now:?}"
        );
        ensure!(held_now == held, "before {held:?}, after {held_now:?}");
        if kib_now < kib + GROWTH {
            let report = system.stop()?;
            // Also under traffic: what the source could not send is not told there.
            ensure!(report.packets_matched > u64::from(TOUCH), "{report:#?}");
            return Ok(());
        }
        kib = kib_now;
    }
    bail!("the memory grew {ATTEMPTS} times in a row, to {kib} KiB")
}

relay_tests::on_both_backends! {
    x8_reloads_leave_nothing_behind,
    x8_flaps_of_an_input_and_an_output_leave_nothing_behind,
    x8_deletions_of_an_input_and_an_output_leave_nothing_behind,
}
