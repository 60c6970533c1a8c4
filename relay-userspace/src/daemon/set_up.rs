//! Brings a plan up, and goes down the ladder where it must: zero copy, copy mode, io_uring.
//!
//! A driver may refuse what it announces, and only when a program is attached or a socket is bound.
//! Then the relay takes everything down again, adds the refusal to the constraints, and builds the
//! plan anew.

use log::{error, info, warn};

use super::{RunError, carrier::Carriers, signals::Stop, watcher::Watch};
use crate::{
    config::Document,
    datapath::{self, Fanouts, SetupError, Worker, uring},
    host::HostFacts,
    kernel::{Kernel, KernelError},
    observe::report::FramePath,
    plan::{self, Backend, Constraints, InterfaceId, List, Mode, Plan, Refusal},
};

/// A plan that is up: attached and bound, but not joined and not running yet. Fields are dropped in
/// this order.
pub struct Ready {
    /// Bound, one per worker of the plan.
    pub workers: Vec<Worker>,
    /// Attached.
    pub kernel: Kernel,
    /// The paths of the interfaces, and their watch.
    pub status: Status,
    /// The plan that is up.
    pub plan: Plan,
}

/// The paths of the interfaces, and their watch.
pub struct Status {
    /// One per interface of the plan.
    pub paths: List<InterfaceId, FramePath>,
    /// Watches all of them.
    pub watch: Watch,
}

/// Brings `plan` up. Where the kernel refuses zero copy, and then XDP if `constraints` leaves the
/// backend open, brings up the plan without it.
///
/// # Errors
///
/// The refusal that ended the last attempt. Nothing is left attached or bound.
pub fn set_up(
    document: &Document,
    host_facts: &HostFacts,
    mut constraints: Constraints,
    mut plan: Plan,
    stop: &Stop,
) -> Result<Ready, RunError> {
    loop {
        let error = match try_plan(&plan, stop) {
            Ok((kernel, status, workers)) => {
                for (interface, path) in plan.interfaces.iter().zip(&status.paths) {
                    info!("{} (driver {}): {path}", interface.name, interface.driver);
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
        // Every round takes one more interface off zero copy or off XDP, so there are at most twice
        // as many rounds as interfaces.
        let Some((name, rung)) = refused(&error, &plan) else {
            return Err(error);
        };
        let refusal = Refusal {
            interface: name.to_owned(),
            reason: error.to_string(),
        };
        match rung {
            Rung::ZeroCopy => {
                warn!("{error}. Zero copy was tried on {name}; the relay goes on without it there");
                constraints.without_zero_copy.push(refusal);
            }
            Rung::Xdp if constraints.forced.is_none() && host_facts.gso_packets => {
                warn!(
                    "{error}. XDP was tried on {name}; io_uring takes over there, and on all interfaces that rules \
                     connect with it"
                );
                constraints.refused.push(refusal);
            }
            Rung::Xdp => return Err(error),
        }
        plan = plan::build(document, host_facts, &constraints)?;
    }
}

/// The rung of the ladder that the kernel refused on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    ZeroCopy,
    Xdp,
}

/// The interface where the kernel refused a rung that the relay can do without, and the rung.
/// `None` where no other rung would help: the interface has gone, or a privilege or a file
/// descriptor is missing.
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
    // On an interface that is only an output, the program is there for zero copy alone.
    let attaching_for_zero_copy = mode.is_none() && !interface.is_input;
    if mode == Some(Mode::ZeroCopy) || attaching_for_zero_copy {
        return Some((name, Rung::ZeroCopy));
    }
    // If another program holds an input, the operator decides which of the two gets it.
    let occupied = matches!(error, RunError::Kernel(KernelError::Occupied { .. }));
    (!occupied).then_some((name, Rung::Xdp))
}

/// Attaches and binds. On an error everything is released: the sockets, and then the program.
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
    let mut paths: List<InterfaceId, FramePath> =
        plan.interfaces.iter().map(FramePath::planned).collect();
    let workers = bind(plan, &mut kernel, &mut paths)?;
    // Some drivers reset the NIC again when a queue is bound.
    carriers.wait(stop);
    // Not earlier: the resets drop frames, too.
    let links = workers.iter().flat_map(Worker::links).collect();
    let watch = Watch::begin(plan, |at| kernel.program_on(at), links);
    let watch = watch.map_err(|error| RunError::System {
        what: "watch the interfaces (netlink)",
        error,
    })?;
    Ok((kernel, Status { paths, watch }, workers))
}

/// Binds all workers; on XDP, fills their rings and puts their sockets into the XSKMAP.
fn bind(
    plan: &Plan,
    kernel: &mut Kernel,
    paths: &mut List<InterfaceId, FramePath>,
) -> Result<Vec<Worker>, RunError> {
    let mut workers = Vec::with_capacity(plan.workers.len());
    let mut fanouts = Fanouts::default();
    for planned in &plan.workers {
        let mut bound = datapath::bind(plan, planned, kernel, &mut fanouts)?;
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
            if let Some(path) = paths.get_mut(port.interface) {
                path.mode = bound.mode;
            }
        }
        for (id, path) in paths.ids().zip(paths.iter_mut()) {
            path.tx_method = path.tx_method.or(planned.tx_method(plan, id));
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
        host::{InterfaceFacts, XdpFeatures, fixture::igb},
    };

    /// `in0` and `out0`, both with the XDP features `bits`.
    fn plan(bits: u64, forced: Option<Backend>) -> Plan {
        let text = "[[rules]]\nname = \"r\"\n\
                    input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n\
                    outputs = [{ interface = \"out0\", group = \"239.2.1.1\", port = 5002 }]\n";
        let facts = ["in0", "out0"]
            .into_iter()
            .zip(1..)
            .map(|(name, index)| InterfaceFacts {
                xdp: Some(XdpFeatures::from_bits(bits)),
                ..igb(name, index)
            });
        let host_facts = HostFacts {
            interfaces: facts.map(|facts| (facts.name.clone(), facts)).collect(),
            cpus: 2,
            gso_packets: true,
            ..HostFacts::default()
        };
        let constraints = Constraints {
            forced,
            ..Constraints::default()
        };
        let document = config::parse("relay.toml", text).unwrap();
        plan::build(&document, &host_facts, &constraints).unwrap()
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
