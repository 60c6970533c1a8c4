//! The life of a running relay: brings a plan up, watches it, takes it down.
//!
//! Up: attach the program, bind the sockets, fill the rings, wait for carriers, join the groups,
//! give up the capabilities that running does not need, start the workers, and only then let frames
//! match. Down is the reverse, so that the relay takes no frame that it cannot send: close the
//! flows, let the workers finish, close the sockets, detach.

mod affinity;
mod carrier;
pub mod claim;
pub mod descriptors;
mod error;
pub mod memberships;
pub mod privileges;
mod set_up;
mod shut_down;
mod signals;
pub mod this_machine;
mod threads;
mod watcher;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use log::{debug, error, info, warn};
use relay_common::abi::Counter;

pub use self::error::RunError;
use self::{
    claim::Claims, memberships::Memberships, privileges::give_up::Asked, set_up::Ready,
    shut_down::Ended, signals::Stop, threads::Thread, watcher::Watcher,
};
use crate::{
    config::Document,
    host::socket_options,
    kernel::Kernel,
    observe::{
        log_line::Lines,
        report::{FramePath, InterfaceReport, Report, WorkerView},
    },
    plan::{self, Backend, Constraints, InterfaceId, List, Mode, Plan},
};

/// How often the relay writes a line to the log, if there is something to say.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// The interfaces' paths and counters while workers run.
struct Watching {
    /// One per interface of the plan.
    paths: List<InterfaceId, FramePath>,
    watcher: Watcher,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The final report.
    pub report: Report,
    /// Workers that ended by a defect of the relay.
    pub defects: usize,
}

/// Runs the rules until SIGTERM or SIGINT. `forced` is the backend that the user asked for, if any.
///
/// # Errors
///
/// The reason why the relay cannot run. In any case nothing is left attached, bound, joined or
/// claimed.
pub fn run(document: &Document, forced: Option<Backend>) -> Result<Outcome, RunError> {
    let host_facts = this_machine::host_facts(document);
    let constraints = Constraints {
        forced,
        ..Constraints::default()
    };
    let plan = plan::build(document, &host_facts, &constraints)?;
    privileges::check(&plan)?;
    descriptors::check("running these rules", descriptors::needed(&plan))?;
    let _claims = Claims::of(&plan)?;
    let stop = Stop::on_signals().map_err(|error| RunError::System {
        what: "handle SIGTERM and SIGINT",
        error,
    })?;
    // Locals are dropped in reverse order: sockets are closed before the program is detached.
    let Ready {
        plan,
        mut kernel,
        status,
        workers,
    } = set_up::set_up(document, &host_facts, constraints, plan, &stop)?;
    let plan = &plan;
    for note in &plan.notes {
        info!("{note}");
    }
    if plan.is_on(Backend::IoUring) && !privileges::may_exceed_buffer_limits() {
        info!(
            "without CAP_NET_ADMIN the packet sockets have buffers of at most `sysctl net.core.rmem_max` and \
             `net.core.wmem_max`: bursts are lost earlier"
        );
    }
    let _memberships = Memberships::join(plan)?;
    // Everything is open by now, and every thread but the log's starts after this.
    give_up_privileges(&kernel, &status.paths);
    let halt = Arc::new(AtomicBool::new(false));
    let watcher = Watcher::start(status.watch).map_err(|error| RunError::System {
        what: "start the thread that watches the interfaces",
        error,
    })?;
    let mut status = Watching {
        paths: status.paths,
        watcher,
    };
    let mut threads = threads::start(plan, workers, &halt)?;
    let opened = kernel.open(plan);
    let started = Instant::now();
    if opened.is_ok() {
        let outputs: usize = plan.flows.iter().map(|flow| flow.outputs.len()).sum();
        info!(
            "ready: rules {}, outputs {outputs}, interfaces {}, workers {}",
            plan.flows.len(),
            plan.interfaces.len(),
            plan.workers.len()
        );
        watch(plan, &mut kernel, &mut threads, &status, &stop, started);
        info!("stopping: no more frames are taken, those on their way still leave");
        kernel.close(plan);
    }

    halt.store(true, Relaxed);
    let ended = Ended::join(threads, plan, &kernel);
    kernel.flush_log();
    status.watcher.end();
    let report = report(plan, &kernel, &status, started, &ended.views());
    let defects = ended.defects();
    drop(ended);
    drop(kernel);
    opened?;
    Ok(Outcome { report, defects })
}

/// Gives up the capabilities that running does not need. A refusal is only logged.
fn give_up_privileges(kernel: &Kernel, paths: &List<InterfaceId, FramePath>) {
    let maps = || kernel.lets_read();
    let mut asked = vec![Asked::maps(&maps)];
    if paths.iter().any(|path| path.mode == Some(Mode::ZeroCopy)) {
        asked.push(Asked::busy_polling(&socket_options::may_busy_poll));
    }
    match privileges::give_up::give_up(&asked) {
        Ok(kept) if kept.is_empty() => {
            debug!("gave up all capabilities: running needs none of them");
        }
        Ok(kept) => info!(
            "kept {}, which this kernel asks for while the relay runs; gave up all other capabilities",
            kept.join(", ")
        ),
        Err(error) => warn!(
            "cannot give up capabilities that running does not need: {error}; a sandbox must allow capset() and prctl()"
        ),
    }
}

/// Reads the counters once per second until a stop signal comes, and logs a line if there is
/// something to say.
fn watch(
    plan: &Plan,
    kernel: &mut Kernel,
    threads: &mut [Thread],
    status: &Watching,
    stop: &Stop,
    started: Instant,
) {
    let mut next = started + LINE_EVERY;
    let mut lines = Lines::default();
    while !stop.comes_before(next) {
        next += LINE_EVERY;
        // After a standstill, such as a suspended machine, log one line, not one per second.
        if next <= Instant::now() {
            next = Instant::now() + LINE_EVERY;
        }
        kernel.flush_log();
        for (number, thread) in threads.iter_mut().enumerate() {
            if thread.handle.is_finished() {
                if !thread.reported_dead {
                    error!(
                        "worker {number} ended because of a defect of the relay; nothing is relayed from its queues, the other workers go on. Restart the relay"
                    );
                    thread.reported_dead = true;
                }
            } else {
                thread.drops.read();
            }
        }
        let views: Vec<_> = threads
            .iter()
            .map(|thread| WorkerView {
                stats: &thread.stats,
                kernel: thread.drops.sum(),
            })
            .collect();
        let now = report(plan, kernel, status, started, &views);
        if let Some(line) = lines.after(now) {
            info!("{line}");
        }
    }
}

fn report(
    plan: &Plan,
    kernel: &Kernel,
    status: &Watching,
    started: Instant,
    workers: &[WorkerView<'_>],
) -> Report {
    let interfaces = plan
        .interfaces
        .with_ids()
        .zip(&status.paths)
        .map(|((id, interface), path)| InterfaceReport {
            name: interface.name.clone(),
            path: path.clone(),
            device_dropped: status.watcher.device_dropped(id),
            missed: status.watcher.missed(id),
            filter: kernel
                .counters(id)
                .map(|counters| {
                    let names = Counter::ALL.into_iter().map(Counter::name);
                    names.zip(counters).collect()
                })
                .unwrap_or_default(),
        })
        .collect();
    let uptime = started.elapsed().as_secs_f64();
    Report::new(plan, uptime, workers, interfaces, &kernel.over_limit(plan))
}
