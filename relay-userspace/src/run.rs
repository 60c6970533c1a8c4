//! `relay run`: brings a plan up, watches over it, takes it down.
//!
//! Up: attach the program, bind the sockets, fill the rings, join the groups, start the workers, and only
//! then let frames match. Down is the reverse, so that no frame is taken that cannot be sent: close the
//! flows, let the workers finish, close the sockets, detach.

use std::{
    io::{self, Write},
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use log::{error, info, warn};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use relay_common::abi::Counter;
use thiserror::Error;

use crate::{
    backend::{self, SetupError, sockopt, xdp::Worker},
    device_drops::DeviceDrops,
    exit,
    kernel::{Kernel, KernelError},
    membership::{MembershipError, Memberships},
    plan::Plan,
    privileges::{self, MissingPrivilege},
    report::{InterfaceReport, KernelDrops, Report, Way, WorkerView},
    stats::WorkerStats,
    stop::Stop,
};

/// How often the log says what happened.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Why the relay did not run, or did not run to its end.
#[derive(Debug, Error)]
pub enum RunError {
    /// A capability is missing.
    #[error(transparent)]
    Privilege(#[from] MissingPrivilege),
    /// The XDP program could not be set up.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The sockets could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A group could not be joined.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A system call failed that never fails on a healthy system.
    #[error("cannot {what}: {error}")]
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

impl RunError {
    /// The exit code that it stands for.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Privilege(_) => exit::NO_PERMISSION,
            Self::Kernel(_) | Self::Setup(_) => exit::UNAVAILABLE,
            Self::Membership(_) | Self::System { .. } => exit::OS_ERROR,
            Self::Defect(_) => exit::SOFTWARE,
        }
    }
}

/// A worker's thread, and what can be read of it from outside.
struct Thread {
    handle: JoinHandle<Worker>,
    stats: Arc<WorkerStats>,
    /// The sockets that receive, valid while the thread runs.
    sockets: Vec<RawFd>,
    /// What the kernel counted when last asked.
    kernel: KernelDrops,
    reported_dead: bool,
}

/// What is known of the interfaces while the relay runs.
struct Status {
    /// By position in the plan.
    ways: Vec<Way>,
    device_drops: DeviceDrops,
}

/// Runs `plan` until SIGTERM or SIGINT, then prints the final report on standard output.
///
/// # Errors
///
/// Nothing is left attached, bound or joined.
pub fn run(plan: &Plan, json: bool) -> Result<(), RunError> {
    privileges::check()?;
    let stop = Stop::on_signals().map_err(|error| RunError::System {
        what: "handle SIGTERM and SIGINT",
        error,
    })?;
    for note in &plan.notes {
        info!("{note}");
    }

    // Locals are dropped in reverse order: sockets before the program is detached.
    let mut kernel = Kernel::attach(plan)?;
    let mut status = Status {
        ways: vec![Way::default(); plan.interfaces.len()],
        device_drops: DeviceDrops::default(),
    };
    let workers = bind(plan, &mut kernel, &mut status)?;
    let _memberships = Memberships::join(plan)?;
    let halt = Arc::new(AtomicBool::new(false));
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
        watch(plan, &mut kernel, &mut threads, &mut status, &stop, started);
        info!("stopping: no more frames are taken, those on their way still leave");
        kernel.close(plan);
    }

    halt.store(true, Relaxed);
    let mut ended = Vec::new();
    let mut counters = Vec::new();
    let mut defects = 0;
    for thread in threads {
        let mut drops = thread.kernel;
        match thread.handle.join() {
            Ok(worker) => {
                drops = kernel_drops(&thread.sockets).unwrap_or(drops);
                ended.push(worker);
            }
            Err(_) => defects += 1,
        }
        counters.push((thread.stats, drops));
    }
    let views: Vec<_> = counters
        .iter()
        .map(|(stats, drops)| WorkerView {
            stats,
            kernel: *drops,
        })
        .collect();
    kernel.flush_log();
    status.device_drops.refresh();
    let report = report(plan, &kernel, &status, started, &views);
    drop(ended);
    drop(kernel);
    opened?;
    print(&report, json)?;
    if defects > 0 {
        return Err(RunError::Defect(defects));
    }
    Ok(())
}

/// Binds all workers, fills their rings and puts their sockets into the XSKMAP.
fn bind(plan: &Plan, kernel: &mut Kernel, status: &mut Status) -> Result<Vec<Worker>, RunError> {
    let Status { ways, device_drops } = status;
    let mut workers = Vec::with_capacity(plan.workers.len());
    for planned in &plan.workers {
        let mut bound = backend::bind(plan, planned)?;
        bound.worker.fill().map_err(|error| RunError::System {
            what: "fill the FILL rings",
            error,
        })?;
        for socket in bound.worker.receiving_sockets() {
            kernel.set_socket(plan, socket.interface, socket.queue, socket.fd)?;
        }
        for port in &bound.planned.ports {
            if let Some(way) = ways.get_mut(port.interface) {
                way.mode = Some(bound.mode);
                way.reason.clone_from(&bound.reason);
            }
        }
        for (at, way) in ways.iter_mut().enumerate() {
            way.engine = way.engine.or(bound.planned.engine(plan, at));
        }
        for (&interface, flag) in bound
            .planned
            .senders
            .iter()
            .zip(bound.worker.segmented_devices())
        {
            device_drops.watch(plan, interface, flag);
        }
        workers.push(bound.worker);
    }
    device_drops.refresh();
    for (interface, way) in plan.interfaces.iter().zip(ways) {
        info!("{}: {way}", interface.name);
    }
    Ok(workers)
}

/// Starts a thread a worker.
fn start(
    plan: &Plan,
    workers: Vec<Worker>,
    halt: &Arc<AtomicBool>,
) -> Result<Vec<Thread>, RunError> {
    let mut threads: Vec<Thread> = Vec::with_capacity(workers.len());
    for (number, (mut worker, planned)) in workers.into_iter().zip(&plan.workers).enumerate() {
        let stats = worker.stats();
        let sockets = worker.receiving_sockets().map(|socket| socket.fd).collect();
        let (cpu, own_halt) = (planned.cpu, Arc::clone(halt));
        let handle = thread::Builder::new()
            .name(format!("relay-worker-{number}"))
            .spawn(move || {
                if let Some(cpu) = cpu {
                    pin(number, cpu);
                }
                worker.run(&own_halt, cpu.is_some());
                worker
            });
        match handle {
            Ok(handle) => threads.push(Thread {
                handle,
                stats,
                sockets,
                kernel: KernelDrops::default(),
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

/// Pins this thread. A refusal costs speed, not frames, so it is only told.
fn pin(number: usize, cpu: u32) {
    let mut set = CpuSet::new();
    let pinned = set
        .set(cpu as usize)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    match pinned {
        Ok(()) => info!("worker {number} runs on CPU {cpu}"),
        Err(error) => warn!(
            "cannot pin worker {number} to CPU {cpu}: {error}; it runs unpinned. `cpus` must name CPUs this process may use"
        ),
    }
}

/// Writes a line a second until a stop signal comes.
fn watch(
    plan: &Plan,
    kernel: &mut Kernel,
    threads: &mut [Thread],
    status: &mut Status,
    stop: &Stop,
    started: Instant,
) {
    let mut next = started + LINE_EVERY;
    let mut last: Option<Report> = None;
    while !stop.comes_before(next) {
        next += LINE_EVERY;
        kernel.flush_log();
        for (number, thread) in threads.iter_mut().enumerate() {
            if thread.handle.is_finished() {
                if !thread.reported_dead {
                    error!(
                        "worker {number} has ended by a defect; its queues are dead, the other workers go on. Restart the relay"
                    );
                    thread.reported_dead = true;
                }
            } else if let Some(drops) = kernel_drops(&thread.sockets) {
                thread.kernel = drops;
            }
        }
        let views: Vec<_> = threads
            .iter()
            .map(|thread| WorkerView {
                stats: &thread.stats,
                kernel: thread.kernel,
            })
            .collect();
        status.device_drops.refresh();
        let now = report(plan, kernel, status, started, &views);
        info!("{}", now.line(last.as_ref()));
        last = Some(now);
    }
}

fn report(
    plan: &Plan,
    kernel: &Kernel,
    status: &Status,
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
            device_dropped: status.device_drops.of(at),
            xdp: kernel
                .counters(at)
                .map(|counters| {
                    let names = Counter::ALL.into_iter().map(Counter::name);
                    names.zip(counters).collect()
                })
                .unwrap_or_default(),
        })
        .collect();
    Report::new(plan, started.elapsed().as_secs_f64(), workers, interfaces)
}

fn print(report: &Report, json: bool) -> Result<(), RunError> {
    let mut out = io::stdout().lock();
    let printed = if json {
        serde_json::to_writer(&mut out, report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{report}")
    };
    match printed.and_then(|()| out.flush()) {
        // The reader has gone; there is nobody to tell.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(RunError::System {
            what: "print the report",
            error,
        }),
        Ok(()) => Ok(()),
    }
}

/// What the kernel dropped in front of these sockets; `None` once one of them is closed.
fn kernel_drops(sockets: &[RawFd]) -> Option<KernelDrops> {
    let mut sum = KernelDrops::default();
    for &socket in sockets {
        let drops = sockopt::drops(socket).ok()?;
        sum.rx_ring_full += drops.rx_ring_full;
        sum.rx_fill_ring_empty += drops.rx_fill_ring_empty;
        sum.rx_dropped += drops.rx_dropped;
    }
    Some(sum)
}
