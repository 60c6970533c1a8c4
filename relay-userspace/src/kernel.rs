//! The kernel side: load the kernel programs, fill their maps, attach them, read their counters.
//!
//! Inputs on AF_XDP have the XDP program, inputs on io_uring have packet sockets with the socket
//! filter; each is loaded only if the plan has such an input. Outputs in zero copy have the XDP
//! program as well, which passes all frames that arrive there. It is attached through a `bpf_link`
//! and nothing else, so the kernel detaches it when this process ends, however it ends. Order
//! matters: attach, bind the sockets, and only then [`Kernel::open`] the flows, so that no frame is
//! matched before a socket can receive it.

mod attached_program;
mod bpf_link;
mod error;
mod filter;
mod maps;
mod object;
mod xdp;

use std::os::fd::{BorrowedFd, RawFd};

use relay_common::abi::Counter;

pub use self::{
    error::KernelError,
    object::{load, load_filter},
};
use self::{filter::Filter, maps::Maps, xdp::XdpProgram};
use crate::plan::{Backend, InterfaceId, List, Plan};

/// The loaded programs. Dropping them detaches the XDP program, so drop the AF_XDP sockets first;
/// packet sockets keep their filter until they are closed.
pub struct Kernel {
    xdp: Option<XdpProgram>,
    filter: Option<Filter>,
    /// The backend of each input interface, by the interface's id; `None` for other interfaces.
    inputs: List<InterfaceId, Option<Backend>>,
}

impl Kernel {
    /// Loads the programs that the plan needs, and attaches the XDP program to each interface that
    /// needs it (`Interface::needs_program`).
    ///
    /// # Errors
    ///
    /// The kernel's first refusal; programs attached before it are detached again.
    pub fn attach(plan: &Plan) -> Result<Self, KernelError> {
        let needs = |backend| plan.inputs_on(backend).next().is_some();
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

    /// Sends the matching frames of an interface's `queue` to `socket`; `interface` is the
    /// interface's id.
    ///
    /// # Errors
    ///
    /// The map refused the entry, or the XDP program does not serve the interface.
    pub fn set_socket(
        &mut self,
        plan: &Plan,
        interface: InterfaceId,
        queue: u32,
        socket: RawFd,
    ) -> Result<(), KernelError> {
        match (&mut self.xdp, plan.interfaces.get(interface)) {
            (Some(xdp), Some(facts)) => xdp.set_socket(interface, facts, queue, socket),
            _ => Err(KernelError::NotLoaded(object::XDP)),
        }
    }

    /// Attaches the socket filter to a packet socket, which must not be bound to an interface yet:
    /// frames that it receives before are not filtered. The socket keeps the filter until it is
    /// closed.
    ///
    /// # Errors
    ///
    /// The socket refused the filter, or no input of the plan is on io_uring.
    pub fn attach_filter(&self, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        self.filter
            .as_ref()
            .ok_or(KernelError::NotLoaded(object::FILTER))?
            .attach(socket)
    }

    /// Makes every flow of the plan match. From here on the kernel delivers frames to the relay.
    ///
    /// # Errors
    ///
    /// A map refused an entry.
    pub fn open(&mut self, plan: &Plan) -> Result<(), KernelError> {
        for ((rule, flow), limit) in plan.flows.with_ids().zip(plan.limits()) {
            if let (Some(key), Some(maps)) = (plan.flow_key(flow), self.maps_mut(flow.interface)) {
                maps.open(key, rule, &flow.rule, limit)?;
            }
        }
        Ok(())
    }

    /// Makes every flow stop matching: the Linux stack alone gets the frames again. A flow that is
    /// already missing is no error.
    pub fn close(&mut self, plan: &Plan) {
        for flow in &plan.flows {
            if let (Some(key), Some(maps)) = (plan.flow_key(flow), self.maps_mut(flow.interface)) {
                maps.close(&key);
            }
        }
    }

    /// The kernel program's counters of an input interface, given by its id, summed over all CPUs;
    /// `None` for other interfaces.
    #[must_use]
    pub fn counters(&self, interface: InterfaceId) -> Option<[u64; Counter::COUNT as usize]> {
        self.maps(interface)?.counters(interface)
    }

    /// The number of datagrams above the limit of their rule, by position in [`Plan::flows`].
    #[must_use]
    pub fn over_limit(&self, plan: &Plan) -> Vec<u64> {
        let flows = plan.flows.iter().zip(plan.limits());
        flows
            .map(|(flow, limit)| match (limit, self.maps(flow.interface)) {
                (Some((position, _)), Some(maps)) => maps.over_limit(position),
                _ => 0,
            })
            .collect()
    }

    /// Whether this thread may still read the maps with its current capabilities.
    #[must_use]
    pub fn lets_read(&self) -> bool {
        let mut inputs = self.inputs.with_ids().filter(|(_, input)| input.is_some());
        inputs
            .next()
            .is_none_or(|(id, _)| self.counters(id).is_some())
    }

    /// The kernel's id of the relay's XDP program if it is attached to an interface, given by the
    /// interface's id.
    #[must_use]
    pub fn program_on(&self, interface: InterfaceId) -> Option<u32> {
        self.xdp.as_ref()?.program_on(interface)
    }

    /// Writes the XDP program's messages to the log; the socket filter has none.
    pub fn flush_log(&mut self) {
        if let Some(xdp) = &mut self.xdp {
            xdp.flush_log();
        }
    }

    /// The maps of the program that serves an interface.
    fn maps(&self, interface: InterfaceId) -> Option<&Maps> {
        Some(match (*self.inputs.get(interface)?)? {
            Backend::Xdp => &self.xdp.as_ref()?.maps,
            Backend::IoUring => &self.filter.as_ref()?.maps,
        })
    }

    /// [`Self::maps`], mutably.
    fn maps_mut(&mut self, interface: InterfaceId) -> Option<&mut Maps> {
        Some(match (*self.inputs.get(interface)?)? {
            Backend::Xdp => &mut self.xdp.as_mut()?.maps,
            Backend::IoUring => &mut self.filter.as_mut()?.maps,
        })
    }
}
