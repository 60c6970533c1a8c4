//! `relay run`: brings a plan up, watches over it, takes it down.
//!
//! Up: attach the program, bind the sockets, fill the rings, wait for carriers, join the groups, give up the capabilities
//! that running does not need, start the workers, and only then let frames match. Down is the reverse, so that no frame is
//! taken that cannot be sent: close the flows, let the workers finish, close the sockets, detach.

mod affinity;
mod carrier;
mod drops;
mod set_up;
mod watcher;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use log::{debug, error, info, warn};
use relay_common::abi::Counter;
use thiserror::Error;

use self::{
    affinity::Home,
    drops::{Input, KernelCounter},
    set_up::Ready,
    watcher::Watcher,
};
use crate::{
    backend::{SetupError, Worker, sockopt},
    claim::{ClaimError, Claims},
    config::{Document, Mistakes},
    descriptors::{self, TooFew},
    exit,
    kernel::{Kernel, KernelError},
    membership::{MembershipError, Memberships},
    output::print_or_give_up,
    plan::{self, Backend, Choice, Mode, Plan},
    privileges::{self, MissingPrivilege, drop::Asked},
    report::{InterfaceReport, Lines, Report, Way, WorkerView},
    stats::WorkerStats,
    stop::Stop,
};

/// How often the log says what happened, if something did.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Why the relay did not run, or did not run to its end.
#[derive(Debug, Error)]
pub enum RunError {
    /// The rules cannot run on this machine.
    #[error(transparent)]
    Rules(#[from] Mistakes),
    /// A capability is missing.
    #[error(transparent)]
    Privilege(#[from] MissingPrivilege),
    /// More files would be open than are allowed.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// Another relay receives on an input interface.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The kernel program could not be set up.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The sockets could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A group could not be joined.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A system call failed that never fails on a healthy system.
    #[error("cannot {what}: {error}{}", remedy(error))]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// Workers ended by a defect of the relay.
    #[error(
        "{0} of the workers ended by a defect; the messages above say where. Please report them"
    )]
    Defect(usize),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "; raise the limit of threads, `ulimit -u`, or `TasksMax` of the unit"
        }
        Some(libc::EMFILE) => {
            "; raise the limit of open files, `ulimit -n`, or `LimitNOFILE` of the unit"
        }
        Some(libc::ENFILE) => "; raise `sysctl fs.file-max`",
        _ => "",
    }
}

impl RunError {
    /// The exit code that it stands for.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Rules(mistakes) => mistakes.exit_code(),
            Self::Privilege(_) => exit::NO_PERMISSION,
            Self::Claim(_) | Self::Kernel(_) | Self::Setup(_) => exit::UNAVAILABLE,
            Self::Descriptors(_) | Self::Membership(_) | Self::System { .. } => exit::OS_ERROR,
            Self::Defect(_) => exit::SOFTWARE,
        }
    }
}

/// A worker's thread, and what can be read of it from outside.
struct Thread {
    handle: JoinHandle<Worker>,
    stats: Arc<WorkerStats>,
    /// What the kernel drops in front of it.
    drops: KernelCounter,
    reported_dead: bool,
}

/// What is known of the interfaces while workers run.
struct Watching {
    /// By position in the plan.
    ways: Vec<Way>,
    watcher: Watcher,
}

/// Runs the rules until SIGTERM or SIGINT, then prints the final report on standard output. `forced` is the backend
/// that was asked for.
///
/// # Errors
///
/// Nothing is left attached, bound, joined or claimed.
pub fn run(document: &Document, forced: Option<Backend>, json: bool) -> Result<(), RunError> {
    // All is free again before the report is printed, which may wait for its reader.
    let (report, defects) = relay(document, forced)?;
    print(&report, json)?;
    if defects > 0 {
        return Err(RunError::Defect(defects));
    }
    Ok(())
}

/// Runs the rules until a signal comes; returns the report, and how many workers ended by a defect.
fn relay(document: &Document, forced: Option<Backend>) -> Result<(Report, usize), RunError> {
    let survey = plan::survey(document);
    let choice = Choice {
        forced,
        ..Choice::default()
    };
    let plan = plan::build(document, &survey, &choice)?;
    privileges::check(&plan)?;
    descriptors::check("running these rules", descriptors::needed(&plan))?;
    let _claims = Claims::of(&plan)?;
    let stop = Stop::on_signals().map_err(|error| RunError::System {
        what: "handle SIGTERM and SIGINT",
        error,
    })?;
    // Locals are dropped in reverse order: sockets before the program is detached.
    let Ready {
        plan,
        mut kernel,
        status,
        workers,
    } = set_up::set_up(document, &survey, choice, plan, &stop)?;
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
    // Everything is open, and all threads but the one of the log start after this.
    give_up_privileges(&kernel, &status.ways);
    let halt = Arc::new(AtomicBool::new(false));
    let watcher = Watcher::start(status.watch).map_err(|error| RunError::System {
        what: "start the thread that watches the interfaces",
        error,
    })?;
    let mut status = Watching {
        ways: status.ways,
        watcher,
    };
    let mut threads = start(plan, workers, &halt)?;
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
    let mut ended = Vec::new();
    let mut inputs = Vec::new();
    let mut all_stats = Vec::new();
    for (mut thread, planned) in threads.into_iter().zip(&plan.workers) {
        let joined = thread.handle.join();
        if joined.is_ok() {
            thread.drops.read();
        }
        inputs.push(Input {
            interface: planned.input,
            drained: joined.is_ok(),
            received: thread.stats.received.get(),
            drops: thread.drops.sum(),
        });
        ended.push(joined);
        all_stats.push(thread.stats);
    }
    let defects = ended.iter().filter(|joined| joined.is_err()).count();
    drops::settle(&mut inputs, |interface| redirected(&kernel, interface));
    let views: Vec<_> = all_stats
        .iter()
        .zip(&inputs)
        .map(|(stats, input)| WorkerView {
            stats,
            kernel: input.drops,
        })
        .collect();
    kernel.flush_log();
    status.watcher.end();
    let report = report(plan, &kernel, &status, started, &views);
    drop(ended);
    drop(kernel);
    opened?;
    Ok((report, defects))
}

/// Gives up what running does not need. Nothing ends where that is forbidden.
fn give_up_privileges(kernel: &Kernel, ways: &[Way]) {
    let maps = || kernel.lets_read();
    let mut asked = vec![Asked::maps(&maps)];
    if ways.iter().any(|way| way.mode == Some(Mode::ZeroCopy)) {
        asked.push(Asked::busy_polling(&sockopt::may_busy_poll));
    }
    match privileges::drop::give_up(&asked) {
        Ok(kept) if kept.is_empty() => debug!("no capability is left: none is needed to run"),
        Ok(kept) => info!(
            "this kernel needs {} to run; no other is left",
            kept.join(", ")
        ),
        Err(error) => warn!(
            "cannot give up capabilities that running does not need: {error}; a sandbox must allow capset() and prctl()"
        ),
    }
}

/// Starts a thread a worker.
fn start(
    plan: &Plan,
    workers: Vec<Worker>,
    halt: &Arc<AtomicBool>,
) -> Result<Vec<Thread>, RunError> {
    let mut threads: Vec<Thread> = Vec::with_capacity(workers.len());
    let homes = affinity::homes(plan);
    for (number, (mut worker, home)) in workers.into_iter().zip(homes).enumerate() {
        let stats = worker.stats();
        let drops = KernelCounter::new(worker.receivers());
        let own_halt = Arc::clone(halt);
        let handle = thread::Builder::new()
            .name(format!("relay-worker-{number}"))
            .spawn(move || {
                if let Some(home) = home {
                    home.settle(number);
                }
                worker.run(&own_halt, home.is_some_and(Home::is_own));
                worker
            });
        match handle {
            Ok(handle) => threads.push(Thread {
                handle,
                stats,
                drops,
                reported_dead: false,
            }),
            Err(error) => {
                halt.store(true, Relaxed);
                for thread in threads {
                    let _ = thread.handle.join();
                }
                return Err(RunError::System {
                    what: "start a worker's thread",
                    error,
                });
            }
        }
    }
    Ok(threads)
}

/// Looks once a second until a stop signal comes, and writes a line where there is something to say.
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
        // After a standstill, such as a suspended machine, there is one line and not one for each second of it.
        if next <= Instant::now() {
            next = Instant::now() + LINE_EVERY;
        }
        kernel.flush_log();
        for (number, thread) in threads.iter_mut().enumerate() {
            if thread.handle.is_finished() {
                if !thread.reported_dead {
                    error!(
                        "worker {number} has ended by a defect; its queues are dead, the other workers go on. Restart the relay"
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
        .iter()
        .zip(&status.ways)
        .enumerate()
        .map(|(at, (interface, way))| InterfaceReport {
            name: interface.name.clone(),
            way: way.clone(),
            device_dropped: status.watcher.device_dropped(at),
            missed: status.watcher.missed(at),
            filter: kernel
                .counters(at)
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

fn print(report: &Report, json: bool) -> Result<(), RunError> {
    let text = if json {
        serde_json::to_vec(report).map(|mut text| {
            text.push(b'\n');
            text
        })
    } else {
        Ok(report.to_string().into_bytes())
    };
    let printed = text.map_err(io::Error::from).and_then(print_or_give_up);
    printed.map_err(|error| RunError::System {
        what: "print the report",
        error,
    })
}

/// Datagrams that the kernel program matched on an interface, a position in the plan.
fn redirected(kernel: &Kernel, interface: usize) -> u64 {
    let counters = kernel.counters(interface);
    counters
        .and_then(|counters| counters.get(Counter::Redirected as usize).copied())
        .unwrap_or(0)
}
