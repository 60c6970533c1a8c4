//! The kernel side: load the kernel programs, fill their maps, attach them, read their counters.
//!
//! Inputs on AF_XDP have the XDP program, inputs on io_uring have packet sockets with the socket
//! filter; each is loaded when the first interface needs it, and stays loaded. Outputs in zero copy
//! have the XDP program as well, which passes all frames that arrive there. It is attached through
//! a `bpf_link` and nothing else, so the kernel detaches it when this process ends, however it
//! ends.
//!
//! Everything is done interface by interface and flow by flow, and what is done for one leaves the
//! others alone. Order matters: [`Kernel::serve`], [`Kernel::attach`], bind the sockets and
//! [`Kernel::set_socket`], and only then [`Kernel::open`] the flows, so that no frame is matched
//! before a socket can receive it; down again in reverse.

mod attached_program;
mod bpf_link;
mod came_back;
mod error;
mod filter;
mod flow_maps;
mod flows;
mod interfaces;
mod limits;
mod local_device;
mod maps;
mod marks;
mod object;
mod own_maps;
mod own_sources;
mod presence_bits;
mod quiet;
mod slots;
mod whole_plan;
mod xdp;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{BorrowedFd, RawFd},
    sync::Arc,
};

pub use self::{
    came_back::{CameBack, Destination},
    error::KernelError,
    flow_maps::FlowMaps,
    interfaces::Interfaces,
    maps::Counters,
    marks::{Marked, Marks},
    object::{load, load_filter, load_filter_with, load_with},
    own_maps::OwnMaps,
    own_sources::OwnSource,
};
use self::{
    filter::Filter,
    maps::Maps,
    slots::{Slots, State, Taken},
    xdp::XdpProgram,
};
use crate::{
    config::rules::Limit,
    matching::MatchKey,
    plan::{Backend, FlowKey, Interface},
};

/// The least number of limits that a program has room for: rules that come later may have some.
const MIN_LIMITS: usize = 4096;

/// The programs and what they hold. Dropping it detaches the XDP program everywhere, so drop the
/// AF_XDP sockets first; packet sockets keep their filter until they are closed.
#[derive(Default)]
pub struct Kernel {
    xdp: Option<XdpProgram>,
    filter: Option<Filter>,
    /// Both programs have the same slots.
    slots: Slots,
    /// By name, the counters of interfaces whose slots others have now.
    former: BTreeMap<String, Counters>,
    own_sources: BTreeSet<OwnSource>,
    /// How many limits are expected.
    limits: usize,
}

impl Kernel {
    /// Loads nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for twice as many limits as `limits`, and for 4096 at least, in each program that
    /// is loaded from now on. The room of a loaded program does not change.
    pub const fn expect_limits(&mut self, limits: usize) {
        self.limits = limits;
    }

    /// Attaches the XDP program to an interface, and loads it before if it was not. Where it is
    /// attached already, it stays. Frames that arrive go to the Linux stack, uncounted, unless the
    /// interface is served.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program, or the interface's driver does.
    pub fn attach(&mut self, interface: &Interface) -> Result<(), KernelError> {
        self.xdp_program()?.attach(interface)
    }

    /// Detaches the XDP program from interfaces, given by their indices, and from no others. Their
    /// AF_XDP sockets must be closed. Also for interfaces that have gone, so that nothing holds
    /// them. Interfaces that it is not attached to are no error.
    ///
    /// Where one of them had zero copy, this takes 150 ms, in which the kernel releases the queues
    /// from the UMEM: once for all of them.
    pub fn detach(&mut self, interfaces: &[u32]) {
        if let Some(xdp) = &mut self.xdp {
            xdp.detach(interfaces);
        }
    }

    /// Makes the program of an interface's backend count the frames that arrive there, and match
    /// them with the flows that are open; loads the program before if it was not. The counters of
    /// an interface that was served before go on; those of a new one start at 0. Serving an
    /// interface again changes its Ethernet address or its backend.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program or a map entry, or every slot serves another interface.
    pub fn serve(&mut self, interface: &Interface) -> Result<(), KernelError> {
        let (index, name) = (interface.index, &interface.name);
        let taken = self
            .slots
            .choose(index)
            .ok_or_else(|| KernelError::TooManyInterfaces {
                interface: name.clone(),
            })?;
        let slot = taken.number();
        self.load(interface.backend)?;
        if let Taken::Reused(slot) = taken {
            self.keep_counters(slot);
            for maps in self.all_maps() {
                maps.zero(slot, name)?;
                maps.flows.close_slot(slot as u8);
                maps.came_back.forget_slot(slot as u8);
            }
        }
        if let Some((_, before)) = self.slots.get(index)
            && before.state != State::Served(interface.backend)
        {
            self.unserve(index);
        }
        if let Some(maps) = self.maps_mut(interface.backend) {
            maps.serve(slot, interface)?;
        }
        self.slots.serve(taken, index, name, interface.backend);
        Ok(())
    }

    /// Makes the programs ignore frames that arrive on an interface, given by its index, and takes
    /// its sockets out of the XSKMAP. Close its flows before. An interface that is not served is no
    /// error.
    pub fn unserve(&mut self, interface: u32) {
        let Some(slot) = self.slots.release(interface) else {
            return;
        };
        for maps in self.all_maps() {
            maps.unserve(interface);
        }
        if let Some(xdp) = &mut self.xdp {
            xdp.clear_sockets(slot);
        }
    }

    /// Makes the programs ignore frames on all interfaces, at once and for good. Their sockets stay.
    pub fn match_nothing(&mut self) {
        let served: Vec<u32> = self.slots.served().collect();
        for maps in self.all_maps() {
            served.iter().for_each(|&index| maps.unserve(index));
        }
    }

    /// Sends the matching frames of an interface's `queue` to `socket`, an AF_XDP socket that is
    /// bound there; `interface` is the interface's index.
    ///
    /// # Errors
    ///
    /// The map refused the entry, or the XDP program does not serve the interface.
    pub fn set_socket(
        &mut self,
        interface: u32,
        queue: u32,
        socket: RawFd,
    ) -> Result<(), KernelError> {
        match (&mut self.xdp, self.slots.get(interface)) {
            (Some(xdp), Some((number, slot))) if slot.state == State::Served(Backend::Xdp) => {
                xdp.set_socket(number, &slot.name, queue, socket)
            }
            _ => Err(KernelError::NotLoaded(object::XDP)),
        }
    }

    /// Leaves the matching frames of an interface's `queue` to the Linux stack; `interface` is the
    /// interface's index. The kernel does the same when the socket is closed.
    pub fn clear_socket(&mut self, interface: u32, queue: u32) {
        if let (Some(xdp), Some((slot, _))) = (&mut self.xdp, self.slots.get(interface)) {
            xdp.clear_socket(slot, queue);
        }
    }

    /// Attaches the socket filter to a packet socket, which must not be bound to an interface yet:
    /// frames that it receives before are not filtered. The socket keeps the filter until it is
    /// closed.
    ///
    /// # Errors
    ///
    /// The socket refused the filter, or no interface on io_uring was served.
    pub fn attach_filter(&self, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        self.filter
            .as_ref()
            .ok_or(KernelError::NotLoaded(object::FILTER))?
            .attach(socket)
    }

    /// Makes the programs take frames from `sources`, and no others, for copies of this relay that
    /// came back: they are not matched. Also in a program that is loaded later.
    ///
    /// # Errors
    ///
    /// A map refused an entry; the sources are as before.
    pub fn set_own_sources(&mut self, sources: &BTreeSet<OwnSource>) -> Result<(), KernelError> {
        if let Some(xdp) = &mut self.xdp {
            xdp.maps.own.set(sources)?;
        }
        if let Some(filter) = &mut self.filter
            && let Err(error) = filter.maps.own.set(sources)
        {
            if let Some(xdp) = &mut self.xdp {
                xdp.maps.own.set(&self.own_sources)?;
            }
            return Err(error);
        }
        self.own_sources.clone_from(sources);
        Ok(())
    }

    /// Makes a flow match in the program of `backend`, or changes the rule and the limit of one
    /// that does, without missing a frame. From here on the kernel delivers its frames to the
    /// relay. Of flows that are equally specific, the one that was opened last takes the datagrams
    /// of both.
    ///
    /// `rule` is the rule's number, for people who dump the map, and `name` its name: the flows of
    /// one rule share its limit. A limit that is as before goes on from where it is; another one
    /// starts with its full burst.
    ///
    /// # Errors
    ///
    /// The program is not loaded or does not serve the interface, a map refused an entry, there is
    /// no room for the limit, or the interface's flows have too many shapes. The flow is as before.
    pub fn open(
        &mut self,
        key: &FlowKey,
        backend: Backend,
        rule: u32,
        name: &str,
        limit: Option<Limit>,
    ) -> Result<(), KernelError> {
        let key = self.match_key(key).ok_or_else(|| KernelError::NotServed {
            rule: name.to_owned(),
        })?;
        let program = match backend {
            Backend::Xdp => object::XDP,
            Backend::IoUring => object::FILTER,
        };
        let maps = self.maps_mut(backend);
        let maps = maps.ok_or(KernelError::NotLoaded(program))?;
        maps.flows.open(key, rule, name, limit)
    }

    /// Makes a flow stop matching in the program of `backend`: the Linux stack alone gets its
    /// frames again. With the last flow of its rule in that program, returns how many datagrams
    /// were above the rule's limits, otherwise 0. A flow that is not open is no error.
    pub fn close(&mut self, key: &FlowKey, backend: Backend) -> u64 {
        let key = self.match_key(key);
        match (key, self.maps_mut(backend)) {
            (Some(key), Some(maps)) => maps.flows.close(&key),
            _ => 0,
        }
    }

    /// The kernel programs' counters of an interface, given by its index, summed over all CPUs and
    /// since the interface was first served. `None` if it never was, or so long ago that its slot
    /// has another interface now.
    #[must_use]
    pub fn counters(&self, interface: u32) -> Option<Counters> {
        let (slot, _) = self.slots.get(interface)?;
        self.slot_counters(slot)
    }

    /// The same of all interfaces that have had this name, one after the other: those of an
    /// interface that was deleted and made anew go on. `None` if there was none.
    #[must_use]
    pub fn counters_of(&self, name: &str) -> Option<Counters> {
        let slots = self.slots.named(name);
        let counters = slots.filter_map(|slot| self.slot_counters(slot));
        counters.chain(self.former.get(name).copied()).reduce(sum)
    }

    /// The number of datagrams above the limits that each rule has had since its first flow was
    /// opened, with the rule's name. Rules that never had a limit are left out.
    pub fn over_limits(&self) -> impl Iterator<Item = (&str, u64)> {
        let programs = [self.maps(Backend::Xdp), self.maps(Backend::IoUring)];
        let loaded = programs.into_iter().flatten();
        loaded.flat_map(|maps| maps.flows.over_limits())
    }

    /// Where the program of a backend marks frames; `None` if it is not loaded.
    #[must_use]
    pub fn marks(&self, backend: Backend) -> Option<Arc<Marks>> {
        self.maps(backend).map(|maps| Arc::clone(&maps.marks))
    }

    /// Where copies of this relay came back, each with the last of these.
    #[must_use]
    pub fn came_back(&self) -> Vec<CameBack> {
        let programs = [self.maps(Backend::Xdp), self.maps(Backend::IoUring)];
        let loaded = programs.into_iter().flatten();
        let noted = loaded.flat_map(|maps| maps.came_back.all());
        let told = noted.filter_map(|(key, last)| {
            let (index, _) = self.slots.interface(key.slot().into())?;
            Some(CameBack::new(index, key, last))
        });
        told.collect()
    }

    /// Forgets that copies came back to a destination, which makes room for others.
    pub fn forget_came_back(&mut self, to: &Destination) {
        for maps in self.all_maps() {
            maps.came_back.forget(to);
        }
    }

    /// The indices of the interfaces that are served.
    #[must_use]
    pub fn served(&self) -> BTreeSet<u32> {
        self.slots.served().collect()
    }

    /// The indices of the interfaces that the XDP program was attached to; some may have gone.
    #[must_use]
    pub fn attached(&self) -> BTreeSet<u32> {
        let attached = self.xdp.iter().flat_map(XdpProgram::attached);
        attached.collect()
    }

    /// The kernel's id of the relay's XDP program if the relay has attached it to an interface,
    /// given by the interface's index.
    #[must_use]
    pub fn program_on(&self, interface: u32) -> Option<u32> {
        self.xdp.as_ref()?.program_on(interface)
    }

    /// Whether the XDP program is attached to an interface, given by its index, and neither the
    /// interface went nor an administrator detached it by force.
    #[must_use]
    pub fn is_attached(&self, interface: u32) -> bool {
        self.xdp
            .as_ref()
            .is_some_and(|xdp| xdp.is_attached(interface))
    }

    /// Writes the XDP program's messages to the log; the socket filter has none.
    pub fn flush_log(&mut self) {
        if let Some(xdp) = &mut self.xdp {
            xdp.flush_log();
        }
    }

    /// What a flow matches, by the slot of its interface; `None` if that has none.
    fn match_key(&self, key: &FlowKey) -> Option<MatchKey> {
        let (slot, _) = self.slots.get(key.interface)?;
        Some(key.at(u8::try_from(slot).ok()?))
    }

    /// The counters of a slot in both programs: an interface may change its backend.
    fn slot_counters(&self, slot: u16) -> Option<Counters> {
        let programs = [self.maps(Backend::Xdp), self.maps(Backend::IoUring)];
        let loaded = programs.into_iter().flatten();
        let counters = loaded.filter_map(|maps| maps.counters(slot));
        counters.reduce(sum)
    }

    /// Before another interface gets the slot.
    fn keep_counters(&mut self, slot: u16) {
        if let (Some((_, name)), Some(counters)) =
            (self.slots.interface(slot), self.slot_counters(slot))
        {
            let before = self.former.entry(name.to_owned()).or_default();
            *before = sum(*before, counters);
        }
    }

    /// Loads the program of a backend if it is not loaded. [`Self::attach`] and [`Self::serve`] do
    /// that too; it takes some 20 ms, which are out of the way if this comes first.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program.
    pub fn load(&mut self, backend: Backend) -> Result<(), KernelError> {
        match backend {
            Backend::Xdp => self.xdp_program().map(|_| ()),
            Backend::IoUring => self.socket_filter().map(|_| ()),
        }
    }

    fn xdp_program(&mut self) -> Result<&mut XdpProgram, KernelError> {
        let loaded = match self.xdp.take() {
            Some(loaded) => loaded,
            None => {
                let mut loaded = XdpProgram::load(self.room())?;
                loaded.maps.own.set(&self.own_sources)?;
                loaded
            }
        };
        Ok(self.xdp.insert(loaded))
    }

    fn socket_filter(&mut self) -> Result<&mut Filter, KernelError> {
        let loaded = match self.filter.take() {
            Some(loaded) => loaded,
            None => {
                let mut loaded = Filter::load(self.room())?;
                loaded.maps.own.set(&self.own_sources)?;
                loaded
            }
        };
        Ok(self.filter.insert(loaded))
    }

    /// How many limits a program has room for.
    fn room(&self) -> u32 {
        MIN_LIMITS.max(2 * self.limits) as u32
    }

    /// The maps of a backend's program, if it is loaded.
    fn maps(&self, backend: Backend) -> Option<&Maps> {
        match backend {
            Backend::Xdp => self.xdp.as_ref().map(|xdp| &xdp.maps),
            Backend::IoUring => self.filter.as_ref().map(|filter| &filter.maps),
        }
    }

    /// [`Self::maps`], mutably.
    fn maps_mut(&mut self, backend: Backend) -> Option<&mut Maps> {
        match backend {
            Backend::Xdp => self.xdp.as_mut().map(|xdp| &mut xdp.maps),
            Backend::IoUring => self.filter.as_mut().map(|filter| &mut filter.maps),
        }
    }

    /// The maps of all loaded programs.
    fn all_maps(&mut self) -> impl Iterator<Item = &mut Maps> {
        let xdp = self.xdp.iter_mut().map(|xdp| &mut xdp.maps);
        xdp.chain(self.filter.iter_mut().map(|filter| &mut filter.maps))
    }
}

fn sum(mut counters: Counters, more: Counters) -> Counters {
    counters
        .iter_mut()
        .zip(more)
        .for_each(|(sum, one)| *sum += one);
    counters
}
