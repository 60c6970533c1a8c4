//! Bringing a plan up, and the ladder: zero copy, copy mode, io_uring.
//!
//! What drivers promise is not all: some refusals come only when a program is attached or a socket bound. Then
//! everything is taken down again, the refusal becomes a fact of the plan, and the plan is built anew.

use log::{error, info, warn};

use super::{RunError, carrier::Carriers, watcher::Watch};
use crate::{
    backend::{self, Fanouts, SetupError, Worker, uring},
    config::Document,
    kernel::{Kernel, KernelError},
    nic::Survey,
    plan::{self, Backend, Choice, Mode, Plan, Refusal},
    report::Way,
    stop::Stop,
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
    /// Looks after all of them.
    pub watch: Watch,
}

/// Brings `plan` up, or what it becomes where the kernel refuses zero copy, and then XDP, if `choice` leaves the backend
/// open.
///
/// # Errors
///
/// What stands against the last plan. Nothing is left attached or bound.
pub fn set_up(
    document: &Document,
    survey: &Survey,
    mut choice: Choice,
    mut plan: Plan,
    stop: &Stop,
) -> Result<Ready, RunError> {
    loop {
        let error = match try_plan(&plan, stop) {
            Ok((kernel, status, workers)) => {
                for (interface, way) in plan.interfaces.iter().zip(&status.ways) {
                    info!("{} (driver {}): {way}", interface.name, interface.driver);
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
        // Every round takes one more interface off zero copy or off XDP, so there are at most twice as many as interfaces.
        let Some((name, rung)) = refused(&error, &plan) else {
            return Err(error);
        };
        let refusal = Refusal {
            interface: name.to_owned(),
            reason: error.to_string(),
        };
        match rung {
            Rung::ZeroCopy => {
                warn!("{error}. Zero copy was tried on {name}; it goes on without");
                choice.without_zero_copy.push(refusal);
            }
            Rung::Xdp if choice.forced.is_none() && survey.super_frames => {
                warn!(
                    "{error}. XDP was tried on {name}; io_uring takes over there, and on all interfaces that rules \
                     connect with it"
                );
                choice.refused.push(refusal);
            }
            Rung::Xdp => return Err(error),
        }
        plan = plan::build(document, survey, &choice)?;
    }
}

/// What the kernel refused on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    ZeroCopy,
    Xdp,
}

/// The interface where the kernel refused something that can be done without, and what it is. There is no way without
/// where the interface has gone, or a privilege or a file descriptor is missing.
fn refused<'a>(error: &'a RunError, plan: &Plan) -> Option<(&'a str, Rung)> {
    let (name, mode) = match error {
        RunError::Kernel(KernelError::Occupied { interface, .. }) => (&interface[..], None),
        RunError::Kernel(error) => (error.refused_interface()?, None),
        RunError::Setup(SetupError::Bind {
            interface,
            error,
            mode,
            ..
        }) => match error.raw_os_error() {
            Some(libc::ENODEV | libc::EPERM | libc::EACCES | libc::EMFILE | libc::ENFILE) => {
                return None;
            }
            _ => (&interface[..], Some(*mode)),
        },
        _ => return None,
    };
    let mut interfaces = plan.interfaces.iter();
    let interface = interfaces.find(|interface| interface.name == name)?;
    if interface.backend != Backend::Xdp {
        return None;
    }
    // Where nothing is received, the program is there for zero copy alone.
    let attaching_for_zero_copy = mode.is_none() && !interface.is_input;
    if mode == Some(Mode::ZeroCopy) || attaching_for_zero_copy {
        return Some((name, Rung::ZeroCopy));
    }
    // Two programs that both want an input are for people to sort out.
    let occupied = matches!(error, RunError::Kernel(KernelError::Occupied { .. }));
    (!occupied).then_some((name, Rung::Xdp))
}

/// Attaches and binds. On an error everything is released, sockets before the program is detached.
fn try_plan(plan: &Plan, stop: &Stop) -> Result<(Kernel, Status, Vec<Worker>), RunError> {
    if plan.is_on(Backend::IoUring)
        && let Err(refusal) = uring::probe()
    {
        let interfaces = plan.interfaces.iter();
        for interface in interfaces.filter(|interface| interface.backend == Backend::IoUring) {
            error!("{} needs io_uring: {}", interface.name, interface.reason);
        }
        return Err(refusal.into());
    }
    let carriers = Carriers::before_attaching(plan);
    let mut kernel = Kernel::attach(plan)?;
    carriers.wait(stop);
    let mut ways: Vec<_> = plan.interfaces.iter().map(Way::planned).collect();
    let workers = bind(plan, &mut kernel, &mut ways)?;
    // Some drivers reset again when a queue is bound.
    carriers.wait(stop);
    // Not before: a reset drops frames as well.
    let links = workers.iter().flat_map(Worker::links).collect();
    let watch = Watch::begin(plan, |at| kernel.program_on(at), links);
    let watch = watch.map_err(|error| RunError::System {
        what: "watch the interfaces (netlink)",
        error,
    })?;
    Ok((kernel, Status { ways, watch }, workers))
}

/// Binds all workers; on XDP, fills their rings and puts their sockets into the XSKMAP.
fn bind(plan: &Plan, kernel: &mut Kernel, ways: &mut [Way]) -> Result<Vec<Worker>, RunError> {
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
        for port in &planned.ports {
            if let Some(way) = ways.get_mut(port.interface) {
                way.mode = bound.mode;
            }
        }
        for (at, way) in ways.iter_mut().enumerate() {
            way.engine = way.engine.or(planned.engine(plan, at));
        }
        workers.push(bound.worker);
    }
    Ok(workers)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        config,
        nic::{Facts, XdpFeatures, fixture::igb},
    };

    /// `in0` and `out0`, both with zero copy where `bits` say so.
    fn plan(bits: u64, forced: Option<Backend>) -> Plan {
        let text = "[[rules]]\nname = \"r\"\n\
                    input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n\
                    outputs = [{ interface = \"out0\", group = \"239.2.1.1\", port = 5002 }]\n";
        let facts = ["in0", "out0"]
            .into_iter()
            .zip(1..)
            .map(|(name, index)| Facts {
                xdp: Some(XdpFeatures::from_bits(bits)),
                ..igb(name, index)
            });
        let survey = Survey {
            interfaces: facts.map(|facts| (facts.name.clone(), facts)).collect(),
            cpus: 2,
            super_frames: true,
            ..Survey::default()
        };
        let choice = Choice {
            forced,
            ..Choice::default()
        };
        let document = config::parse("relay.toml", text).unwrap();
        plan::build(&document, &survey, &choice).unwrap()
    }

    fn bind(interface: &str, mode: Mode, code: i32) -> RunError {
        RunError::Setup(SetupError::Bind {
            interface: interface.into(),
            queue: 0,
            mode,
            error: io::Error::from_raw_os_error(code),
        })
    }

    fn attach(interface: &str, code: i32) -> RunError {
        RunError::Kernel(KernelError::Attach {
            interface: interface.into(),
            reason: String::new(),
            code: Some(code),
            remedy: "",
        })
    }

    fn occupied(interface: &str) -> RunError {
        RunError::Kernel(KernelError::Occupied {
            interface: interface.into(),
            holder: String::new(),
        })
    }

    #[test]
    fn every_refusal_of_zero_copy_leads_to_copy_mode_and_every_one_of_copy_mode_to_io_uring() {
        const ENOTSUPP: i32 = 524;
        let all = XdpFeatures::BASIC | XdpFeatures::REDIRECT | XdpFeatures::XSK_ZEROCOPY;
        let plan = plan(all, None);
        for code in [
            libc::EOPNOTSUPP,
            libc::EINVAL,
            ENOTSUPP,
            libc::EBUSY,
            libc::ENXIO,
            libc::ENOMEM,
            libc::EIO,
        ] {
            for name in ["in0", "out0"] {
                let error = bind(name, Mode::ZeroCopy, code);
                assert_eq!(
                    refused(&error, &plan),
                    Some((name, Rung::ZeroCopy)),
                    "{error}"
                );
                let error = bind(name, Mode::Copy, code);
                assert_eq!(refused(&error, &plan), Some((name, Rung::Xdp)), "{error}");
            }
        }
        for code in [
            libc::ENODEV,
            libc::EPERM,
            libc::EACCES,
            libc::EMFILE,
            libc::ENFILE,
        ] {
            assert_eq!(refused(&bind("in0", Mode::ZeroCopy, code), &plan), None);
            assert_eq!(refused(&attach("out0", code), &plan), None);
        }
        let error = bind("eth7", Mode::Copy, libc::EINVAL);
        assert_eq!(refused(&error, &plan), None, "not of this plan");
    }

    #[test]
    fn a_program_that_is_there_for_zero_copy_alone_can_be_done_without() {
        let all = XdpFeatures::BASIC | XdpFeatures::REDIRECT | XdpFeatures::XSK_ZEROCOPY;
        let plan = plan(all, None);
        assert_eq!(
            refused(&attach("out0", libc::ERANGE), &plan),
            Some(("out0", Rung::ZeroCopy))
        );
        assert_eq!(
            refused(&occupied("out0"), &plan),
            Some(("out0", Rung::ZeroCopy))
        );
        assert_eq!(
            refused(&attach("in0", libc::ERANGE), &plan),
            Some(("in0", Rung::Xdp))
        );
        assert_eq!(refused(&occupied("in0"), &plan), None);
    }

    #[test]
    fn below_io_uring_there_is_no_rung() {
        let plan = plan(0, Some(Backend::IoUring));
        assert_eq!(refused(&bind("in0", Mode::Copy, libc::EINVAL), &plan), None);
    }
}
