//! The kernel side: load the kernel programs, fill their maps, attach them, read their counters.
//!
//! Inputs on AF_XDP have the XDP program, inputs on io_uring packet sockets with the socket filter; each is loaded
//! only where the plan has such an input. Outputs in zero copy have the XDP program as well, which passes all that
//! comes in there. It is attached through a `bpf_link` and nothing else, so the
//! kernel detaches it when this process ends, however it ends. Order matters: attach, bind the sockets, and only
//! then [`Kernel::open`] the flows, so that no frame is matched before there is somebody to take it.

mod filter;
mod maps;
mod occupant;
mod xdp;

use std::os::fd::{BorrowedFd, RawFd};

use aya::{Ebpf, EbpfLoader};
use relay_common::{
    abi::{self, Counter, FlowKey},
    wire::Datagram,
};
use thiserror::Error;

use self::{filter::Filter, maps::Maps, xdp::XdpProgram};
use crate::{
    plan::{Backend, Flow, Interface, Plan},
    rules::Limit,
};

/// The kernel programs as `cargo xtask build-ebpf` made them. Empty where only `cargo build` ran.
#[cfg(relay_ebpf_embedded)]
mod object {
    pub static XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay.o"));
    pub static FILTER: &[u8] =
        aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay-filter.o"));
}
#[cfg(not(relay_ebpf_embedded))]
mod object {
    pub static XDP: &[u8] = &[];
    pub static FILTER: &[u8] = &[];
}

/// Why the kernel side could not be set up.
#[derive(Debug, Error)]
pub enum KernelError {
    /// A build without the programs.
    #[error("this build of relay has no kernel programs in it: build it with `cargo xtask build`")]
    NotEmbedded,
    /// A program was refused, or one of its maps.
    #[error("cannot load {program}: {reason}{remedy}")]
    Load {
        /// Which of the programs.
        program: &'static str,
        /// The kernel's reason.
        reason: String,
        /// What to do, behind a semicolon.
        remedy: &'static str,
    },
    /// A map is not as this program expects: the object is of another version.
    #[error(
        "the kernel programs have no usable map {0}: they were built from other sources, run `cargo xtask build`"
    )]
    Map(&'static str),
    /// A map could not be written.
    #[error("cannot write {what} into the map {map}: {reason}")]
    MapWrite {
        /// The map's name.
        map: &'static str,
        /// What was written.
        what: String,
        /// The kernel's reason.
        reason: String,
    },
    /// Something was asked of a program that the plan does not need.
    #[error(
        "{0} is not loaded: no input interface of the plan needs it. Please report this defect"
    )]
    NotLoaded(&'static str),
    /// Somebody else's program is attached.
    #[error("cannot attach to {interface}: {holder}")]
    Occupied {
        /// The interface's name.
        interface: String,
        /// Who holds it, and what to do.
        holder: String,
    },
    /// The interface refused the program.
    #[error("cannot attach the XDP program to {interface} in native mode: {reason}{remedy}")]
    Attach {
        /// The interface's name.
        interface: String,
        /// The kernel's reason.
        reason: String,
        /// The kernel's reason as a number, where there is one.
        code: Option<i32>,
        /// What to do, behind a semicolon.
        remedy: &'static str,
    },
    /// A packet socket refused the filter.
    #[error("cannot attach the socket filter to a packet socket: {reason}{remedy}")]
    AttachFilter {
        /// The kernel's reason.
        reason: String,
        /// What to do, behind a semicolon.
        remedy: &'static str,
    },
    /// More interfaces than the maps hold.
    #[error("{0} interfaces, and one relay can serve {max}: run a second relay for the rest", max = abi::MAX_INTERFACES)]
    TooManyInterfaces(usize),
    /// A queue beyond the XSKMAP.
    #[error("{interface} has a queue {queue}, and one relay can serve queues below {max}", max = abi::MAX_QUEUES)]
    TooManyQueues {
        /// The interface's name.
        interface: String,
        /// The queue.
        queue: u32,
    },
}

impl KernelError {
    /// The interface that refuses native XDP, for whatever reason of its own: io_uring can serve it. `None` for errors
    /// that this would not help against, such as an occupied or vanished interface or a missing privilege.
    #[must_use]
    pub fn refused_interface(&self) -> Option<&str> {
        match self {
            Self::Attach {
                code: Some(libc::EPERM | libc::EACCES | libc::ENODEV | libc::EMFILE | libc::ENFILE),
                ..
            } => None,
            Self::Attach { interface, .. } => Some(interface),
            _ => None,
        }
    }
}

/// The loaded programs. Dropping it detaches the XDP program, which must be after the AF_XDP sockets were dropped; packet
/// sockets keep their filter until they are closed.
pub struct Kernel {
    xdp: Option<XdpProgram>,
    filter: Option<Filter>,
    /// What serves each interface, by position in [`Plan::interfaces`]; `None` where nothing is received.
    inputs: Vec<Option<Backend>>,
}

impl Kernel {
    /// Loads the programs that the plan needs, and attaches the XDP program where [`Interface::needs_program`].
    ///
    /// # Errors
    ///
    /// The first thing that the kernel refused; what was attached before is detached again.
    pub fn attach(plan: &Plan) -> Result<Self, KernelError> {
        if plan.interfaces.len() > abi::MAX_INTERFACES as usize {
            return Err(KernelError::TooManyInterfaces(plan.interfaces.len()));
        }
        let needs = |backend| inputs_on(plan, backend).next().is_some();
        Ok(Self {
            xdp: needs(Backend::Xdp)
                .then(|| XdpProgram::attach(plan))
                .transpose()?,
            filter: needs(Backend::IoUring)
                .then(|| Filter::load(plan))
                .transpose()?,
            inputs: plan
                .interfaces
                .iter()
                .map(|interface| interface.is_input.then_some(interface.backend))
                .collect(),
        })
    }

    /// Sends the matching frames of `queue` of an interface (a position in [`Plan::interfaces`]) to `socket`.
    ///
    /// # Errors
    ///
    /// The map's refusal, or that the interface is not one of the XDP program.
    pub fn set_socket(
        &mut self,
        plan: &Plan,
        interface: usize,
        queue: u32,
        socket: RawFd,
    ) -> Result<(), KernelError> {
        match (&mut self.xdp, plan.interfaces.get(interface)) {
            (Some(xdp), Some(facts)) => xdp.set_socket(interface, facts, queue, socket),
            _ => Err(KernelError::NotLoaded(xdp::NAME)),
        }
    }

    /// Puts the socket filter on a packet socket, which must not be bound to an interface yet: what it gets before
    /// is not filtered. The socket keeps the filter until it is closed.
    ///
    /// # Errors
    ///
    /// The socket's refusal, or that no input of the plan is on io_uring.
    pub fn attach_filter(&self, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        self.filter
            .as_ref()
            .ok_or(KernelError::NotLoaded(filter::NAME))?
            .attach(socket)
    }

    /// Makes every flow of the plan match. From here on frames come to the relay.
    ///
    /// # Errors
    ///
    /// The map's refusal.
    pub fn open(&mut self, plan: &Plan) -> Result<(), KernelError> {
        for ((rule, flow), limit) in plan.flows.iter().enumerate().zip(limits(plan)) {
            if let (Some(key), Some(maps)) = (key(plan, flow), self.maps_mut(flow.interface)) {
                maps.open(key, rule, &flow.rule, limit)?;
            }
        }
        Ok(())
    }

    /// Ends every match: frames go to the Linux stack alone again. A flow that is missing already is as good.
    pub fn close(&mut self, plan: &Plan) {
        for flow in &plan.flows {
            if let (Some(key), Some(maps)) = (key(plan, flow), self.maps_mut(flow.interface)) {
                maps.close(&key);
            }
        }
    }

    /// What the interface's program counted for it (a position in [`Plan::interfaces`]), summed over all CPUs. `None`
    /// where nothing is received.
    #[must_use]
    pub fn counters(&self, interface: usize) -> Option<[u64; Counter::COUNT as usize]> {
        self.maps(interface)?.counters(interface)
    }

    /// Datagrams that were above the limit of their rule, by position in [`Plan::flows`].
    #[must_use]
    pub fn over_limit(&self, plan: &Plan) -> Vec<u64> {
        let flows = plan.flows.iter().zip(limits(plan));
        flows
            .map(|(flow, limit)| match (limit, self.maps(flow.interface)) {
                (Some((position, _)), Some(maps)) => maps.over_limit(position),
                _ => 0,
            })
            .collect()
    }

    /// Whether this thread may still read the maps, with the capabilities that it has.
    #[must_use]
    pub fn lets_read(&self) -> bool {
        let input = self.inputs.iter().position(Option::is_some);
        input.is_none_or(|at| self.counters(at).is_some())
    }

    /// The id of the XDP program that is attached to an interface, a position in [`Plan::interfaces`]; `None` where none
    /// is.
    #[must_use]
    pub fn program_on(&self, interface: usize) -> Option<u32> {
        self.xdp.as_ref()?.program_on(interface)
    }

    /// Hands the XDP program's messages to the log; the socket filter has none.
    pub fn flush_log(&mut self) {
        if let Some(xdp) = &mut self.xdp {
            xdp.flush_log();
        }
    }

    /// The maps of the program that serves an interface.
    fn maps(&self, interface: usize) -> Option<&Maps> {
        Some(match (*self.inputs.get(interface)?)? {
            Backend::Xdp => &self.xdp.as_ref()?.maps,
            Backend::IoUring => &self.filter.as_ref()?.maps,
        })
    }

    /// The same, to change them.
    fn maps_mut(&mut self, interface: usize) -> Option<&mut Maps> {
        Some(match (*self.inputs.get(interface)?)? {
            Backend::Xdp => &mut self.xdp.as_mut()?.maps,
            Backend::IoUring => &mut self.filter.as_mut()?.maps,
        })
    }
}

/// Creates the maps of the XDP program in the kernel, with room for one limit; the program itself is loaded by the caller.
/// What the packet tables of the tests run.
///
/// # Errors
///
/// When there is no object, or the kernel refuses it.
pub fn load() -> Result<Ebpf, KernelError> {
    load_object(xdp::NAME, object::XDP, 1)
}

/// The same of the socket filter.
///
/// # Errors
///
/// When there is no object, or the kernel refuses it.
pub fn load_filter() -> Result<Ebpf, KernelError> {
    load_object(filter::NAME, object::FILTER, 1)
}

/// The limit of each flow of the plan, with its position among them.
fn limits(plan: &Plan) -> impl Iterator<Item = Option<(u32, Limit)>> {
    let mut positions = 0..;
    plan.flows.iter().map(move |flow| {
        let limit = flow.limit?;
        Some((positions.next()?, limit))
    })
}

/// With room for so many limits.
fn load_object(program: &'static str, object: &[u8], limits: usize) -> Result<Ebpf, KernelError> {
    if object.is_empty() {
        return Err(KernelError::NotEmbedded);
    }
    let limits = limits.max(1) as u32;
    EbpfLoader::new()
        .map_max_entries(abi::LIMITS, limits)
        .map_max_entries(abi::OVER_LIMIT, limits)
        .load(object)
        .map_err(|error| loading(program, &error))
}

/// What the kernel programs match `flow` by.
#[must_use]
pub fn key(plan: &Plan, flow: &Flow) -> Option<FlowKey> {
    plan.interfaces
        .get(flow.interface)
        .map(|interface| FlowKey {
            interface: interface.index,
            group: flow.group.octets(),
            port: flow.port,
            vlan: Datagram::UNTAGGED,
        })
}

/// The input interfaces of the plan that are on `backend`, with their positions.
fn inputs_on(plan: &Plan, backend: Backend) -> impl Iterator<Item = (usize, &Interface)> {
    plan.interfaces
        .iter()
        .enumerate()
        .filter(move |(_, interface)| interface.is_input && interface.backend == backend)
}

/// The error of a program or map that the kernel refused.
fn loading(program: &'static str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    KernelError::Load {
        program,
        reason: chain(error),
        remedy: match os_error(error) {
            Some(libc::EPERM) => {
                "; CAP_BPF is needed, since `kernel.unprivileged_bpf_disabled` keeps others from loading programs, and in a \
                 container its seccomp profile must allow bpf()"
            }
            Some(libc::EMFILE) => {
                "; raise the limit of open files, `ulimit -n`, or `LimitNOFILE` of the unit"
            }
            Some(libc::ENFILE) => "; raise `sysctl fs.file-max`",
            _ => "; `RUST_LOG=debug` shows the verifier's words. Linux 5.10 or later is needed",
        },
    }
}

/// The system's error number at the end of a chain of errors.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error)
        {
            return Some(code);
        }
        next = error.source();
    }
    None
}

/// An error and what caused it, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interface_that_refuses_native_xdp_itself_asks_for_the_other_backend() {
        let attach = |code| KernelError::Attach {
            interface: "in0".into(),
            reason: String::new(),
            code,
            remedy: "",
        };
        for code in [
            Some(libc::EOPNOTSUPP),
            Some(libc::ERANGE),
            Some(libc::ENOSPC),
            None,
        ] {
            assert_eq!(attach(code).refused_interface(), Some("in0"), "{code:?}");
        }
        for code in [
            libc::EPERM,
            libc::EACCES,
            libc::ENODEV,
            libc::EMFILE,
            libc::ENFILE,
        ] {
            assert_eq!(attach(Some(code)).refused_interface(), None, "{code}");
        }
        let occupied = KernelError::Occupied {
            interface: "in0".into(),
            holder: String::new(),
        };
        assert_eq!(occupied.refused_interface(), None);
        assert_eq!(KernelError::NotEmbedded.refused_interface(), None);
    }
}
