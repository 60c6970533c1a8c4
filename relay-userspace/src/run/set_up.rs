//! Bringing a plan up, and the way down from XDP to io_uring where the kernel refuses it.
//!
//! What drivers promise is not all: some refusals come only when a program is attached or a socket bound. Then
//! everything is taken down again, the refusal becomes a fact of the plan, and the plan is built anew.

use log::{info, warn};

use super::RunError;
use crate::{
    backend::{self, Fanouts, SetupError, Worker, uring},
    config::Document,
    device_drops::DeviceDrops,
    kernel::Kernel,
    nic::Survey,
    plan::{self, Backend, Choice, Plan, Refusal},
    report::Way,
};

/// A plan that is up: attached and bound, not yet joined or running. Fields are dropped in this order.
pub struct Ready {
    /// Bound, one a worker of the plan.
    pub workers: Vec<Worker>,
    /// Attached.
    pub kernel: Kernel,
    /// What is known of the interfaces.
    pub status: Status,
    /// What is up.
    pub plan: Plan,
}

/// What is known of the interfaces while the relay runs.
pub struct Status {
    /// By position in the plan.
    pub ways: Vec<Way>,
    /// Of those that super-frames leave by.
    pub device_drops: DeviceDrops,
}

/// Brings `plan` up, or what it becomes where the kernel refuses XDP and `choice` leaves the backend open.
///
/// # Errors
///
/// What stands against the last plan. Nothing is left attached or bound.
pub fn set_up(
    document: &Document,
    survey: &Survey,
    mut choice: Choice,
    mut plan: Plan,
) -> Result<Ready, RunError> {
    loop {
        let error = match try_plan(&plan) {
            Ok((kernel, status, workers)) => {
                for (interface, way) in plan.interfaces.iter().zip(&status.ways) {
                    info!("{}: {way}", interface.name);
                }
                return Ok(Ready {
                    workers,
                    kernel,
                    status,
                    plan,
                });
            }
            Err(error) => error,
        };
        // Every round takes one more interface off XDP, so there are at most as many as interfaces.
        let open = choice.forced.is_none() && survey.super_frames;
        let refused = refused_interface(&error).filter(|name| open && is_on_xdp(&plan, name));
        let Some(interface) = refused.map(str::to_owned) else {
            return Err(error);
        };
        warn!(
            "{error}. XDP was tried on {interface}; io_uring takes over there, and on all interfaces that rules \
             connect with it"
        );
        choice.refused.push(Refusal {
            interface,
            reason: error.to_string(),
        });
        plan = plan::build(document, survey, &choice)?;
    }
}

/// The interface where the kernel refused the XDP backend, if packet sockets may do better there. They would not
/// where the interface has gone or a privilege is missing.
fn refused_interface(error: &RunError) -> Option<&str> {
    match error {
        RunError::Kernel(error) => error.refused_interface(),
        RunError::Setup(SetupError::Bind {
            interface, error, ..
        }) => match error.raw_os_error() {
            Some(libc::ENODEV | libc::EPERM | libc::EACCES) => None,
            _ => Some(interface),
        },
        _ => None,
    }
}

fn is_on_xdp(plan: &Plan, name: &str) -> bool {
    let mut interfaces = plan.interfaces.iter();
    interfaces.any(|interface| interface.name == name && interface.backend == Backend::Xdp)
}

/// Attaches and binds. On an error everything is released, sockets before the program is detached.
fn try_plan(plan: &Plan) -> Result<(Kernel, Status, Vec<Worker>), RunError> {
    if plan.is_on(Backend::IoUring) {
        uring::probe()?;
    }
    let mut kernel = Kernel::attach(plan)?;
    let mut status = Status {
        ways: plan.interfaces.iter().map(Way::planned).collect(),
        device_drops: DeviceDrops::default(),
    };
    let workers = bind(plan, &mut kernel, &mut status)?;
    Ok((kernel, status, workers))
}

/// Binds all workers; on XDP, fills their rings and puts their sockets into the XSKMAP.
fn bind(plan: &Plan, kernel: &mut Kernel, status: &mut Status) -> Result<Vec<Worker>, RunError> {
    let Status { ways, device_drops } = status;
    let mut workers = Vec::with_capacity(plan.workers.len());
    let mut fanouts = Fanouts::default();
    for planned in &plan.workers {
        let mut bound = backend::bind(plan, planned, kernel, &mut fanouts)?;
        if let Worker::Xdp(worker) = &mut bound.worker {
            worker.fill().map_err(|error| RunError::System {
                what: "fill the FILL rings",
                error,
            })?;
            for socket in worker.receiving_sockets() {
                kernel.set_socket(plan, socket.interface, socket.queue, socket.fd)?;
            }
        }
        if let Some((mode, reason)) = &bound.mode {
            for port in &bound.planned.ports {
                if let Some(way) = ways.get_mut(port.interface) {
                    way.mode = Some(*mode);
                    way.reason.clone_from(reason);
                }
            }
        }
        for (at, way) in ways.iter_mut().enumerate() {
            way.engine = way.engine.or(bound.planned.engine(plan, at));
        }
        let senders = bound.planned.senders.iter();
        for (&interface, cut) in senders.zip(bound.worker.devices()) {
            device_drops.watch(plan, interface, cut);
        }
        workers.push(bound.worker);
    }
    device_drops.refresh();
    Ok(workers)
}
