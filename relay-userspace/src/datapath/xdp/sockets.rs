//! The AF_XDP sockets of a worker, as control knows them: binds them, at the start and while the
//! worker runs, and closes them.
//!
//! All sockets of a worker share one UMEM. The kernel lets a further socket share it by the file
//! descriptor of one that is bound, and libxdp always names the first one, which it never closes
//! while the UMEM lives (`xsk_socket__create_shared`, `xsk_socket__delete` in lib/libxdp/xsk.c). So
//! when the first port goes, its descriptor is made to refer to the socket of a port that stays:
//! that closes the first socket, and the UMEM stays shared.
//!
//! In zero copy the device goes on to use the chunks of a closed socket until the kernel has taken
//! the UMEM from its driver, in a work queue (`xp_put_pool`, net/xdp/xsk_buff_pool.c): 12-74 ms
//! were seen. Until then the worker must not use them.

use std::{
    io,
    os::fd::RawFd,
    time::{Duration, Instant},
};

use nix::{errno::Errno, net::if_::if_indextoname};
use xsk_rs::Umem;

use super::{
    BIND_PATIENCE,
    port::Port,
    port_change::{Input, PortChange},
    sharing,
    umem::{Chunks, Closed},
    umem_sizes,
};
use crate::{
    datapath::error::SetupError,
    packet::Known,
    plan::{self, Checksums, Mode, Plan},
};

/// Bytes of the one chunk that [`is_released`] has: a page, the least that a UMEM can have.
const PROBE_CHUNK: u32 = 4096;

/// After so long a device no longer uses what a closed socket had, although its queue is bound:
/// somebody else has bound it. The work queue that takes a UMEM from a driver waits for the RTNL
/// lock, which the reset of another NIC may hold for seconds.
const RELEASED: Duration = Duration::from_secs(30);

/// A socket that receives, for an entry of the XSKMAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivingSocket {
    /// The kernel's index of the interface.
    pub interface: u32,
    /// The queue.
    pub queue: u32,
    /// The socket, valid as long as its worker has the port.
    pub fd: RawFd,
}

/// A port that is bound, or about to be.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The kernel's index of the interface.
    interface: u32,
    queue: u32,
    receives: bool,
    /// What its chunks are known by.
    tag: u16,
    fd: RawFd,
}

/// What a closed port had that the device may still use.
#[derive(Debug)]
struct Releasing {
    /// The kernel's index of the interface.
    interface: u32,
    queue: u32,
    /// When the socket was closed.
    since: Instant,
    closed: Closed,
}

/// The sockets of one worker.
#[derive(Debug)]
pub struct Sockets {
    umem: Umem,
    /// How many chunks it has.
    chunks: u32,
    mode: Mode,
    /// Its TX rings take frames of two parts, where the interface does.
    shares: bool,
    /// In the worker's order.
    places: Vec<Place>,
    /// Ports that the worker has not handed back yet.
    leaving: Vec<u16>,
    /// What closed ports had that the device may still use.
    releasing: Vec<Releasing>,
    /// [`Port::accounted`] of closed ports, until it is asked for.
    accounted: Vec<(u32, u64)>,
    /// The descriptor by which libxdp lets others share the UMEM.
    shared: RawFd,
    /// The tag of the port whose socket it refers to.
    sharer: u16,
}

/// The ports of a table that is being prepared.
#[derive(Debug)]
pub struct Prepared {
    places: Vec<Place>,
    leaving: Vec<u16>,
    /// The ports that are not bound yet, with how many chunks they lend.
    missing: Vec<(plan::Port, u32)>,
}

impl Prepared {
    /// The ports, in the worker's order: the kernel's index of the interface, and the queue.
    pub fn keys(&self) -> impl Iterator<Item = (u32, u32)> {
        self.places
            .iter()
            .map(|place| (place.interface, place.queue))
    }
}

impl Sockets {
    /// Binds all ports of `worker` in `mode`. Returns what control keeps, and the worker's part.
    ///
    /// # Errors
    ///
    /// The first refusal; all ports bound before it are released.
    pub fn bind(
        chunks: &Chunks,
        plan: &Plan,
        worker: &plan::WorkerPlan,
        mode: Mode,
    ) -> Result<(Self, Vec<Port>, Vec<Input>), SetupError> {
        let mut sockets = Self {
            umem: chunks.umem().clone(),
            chunks: chunks.total() as u32,
            mode,
            shares: chunks.has_header_slots(),
            places: Vec::new(),
            leaving: Vec::new(),
            releasing: Vec::new(),
            accounted: Vec::new(),
            shared: -1,
            sharer: 0,
        };
        let mut ports = Vec::with_capacity(worker.ports.len());
        for (planned, tag) in worker.ports.iter().zip(0..) {
            let Some(interface) = plan.interfaces.get(planned.interface) else {
                continue;
            };
            let lends = umem_sizes::lends(worker, planned, mode);
            let port = sockets.bind_one(plan, planned, lends, tag)?;
            if ports.is_empty() {
                (sockets.shared, sockets.sharer) = (port.fd(), tag);
            }
            sockets.places.push(Place {
                interface: interface.index,
                queue: planned.queue,
                receives: planned.receives,
                tag,
                fd: port.fd(),
            });
            ports.push(port);
        }
        let inputs = inputs(plan, worker, &sockets.places);
        Ok((sockets, ports, inputs))
    }

    /// The sockets that receive.
    pub fn receiving(&self) -> impl Iterator<Item = ReceivingSocket> {
        let receiving = self.places.iter().filter(|place| place.receives);
        receiving.map(|place| ReceivingSocket {
            interface: place.interface,
            queue: place.queue,
            fd: place.fd,
        })
    }

    /// Whether the UMEM has chunks enough for the ports of `worker`.
    pub fn has_room_for(&self, worker: &plan::WorkerPlan) -> bool {
        umem_sizes::has_room_for(worker, self.mode, self.chunks)
    }

    /// Makes ready the ports of `worker` of `plan`: those that the worker has already but for
    /// `lost`, given by interface and queue, and if nothing is lost those that it has not.
    pub fn prepare(
        &self,
        plan: &Plan,
        worker: &plan::WorkerPlan,
        lost: &[(u32, u32)],
    ) -> (Prepared, PortChange) {
        let stays = |place: &Place| !lost.contains(&(place.interface, place.queue));
        let planned = |place: &Place| {
            let mut ports = worker.ports.iter();
            ports.find(|port| is_at(plan, port, place.interface, place.queue))
        };
        let lends = |port: &plan::Port| umem_sizes::lends_of(worker, port, self.mode, self.chunks);
        let mut places: Vec<Place> = self.places.iter().copied().filter(stays).collect();
        for place in &mut places {
            place.receives = planned(place).is_some_and(|port| port.receives);
        }
        let mut all_lend: Vec<u32> = places
            .iter()
            .map(|place| planned(place).map_or(0, lends))
            .collect();
        let mut missing = Vec::new();
        for port in worker.ports.iter().filter(|_| lost.is_empty()) {
            let Some(interface) = plan.interfaces.get(port.interface) else {
                continue;
            };
            let (index, queue) = (interface.index, port.queue);
            if places
                .iter()
                .any(|place| (place.interface, place.queue) == (index, queue))
            {
                continue;
            }
            missing.push((*port, lends(port)));
            all_lend.push(lends(port));
            places.push(Place {
                interface: index,
                queue,
                receives: port.receives,
                tag: self.free_tag(&places),
                fd: -1,
            });
        }
        let mut leaving = self.leaving.clone();
        let goes = self.places.iter().filter(|place| !stays(place));
        leaving.extend(goes.map(|place| place.tag));
        let inputs = inputs(plan, worker, &places);
        let change = PortChange {
            stays: self.places.iter().map(stays).collect(),
            added: Vec::with_capacity(missing.len()),
            lends: all_lend.into(),
            ports: Vec::with_capacity(places.len()),
            leaving: Vec::with_capacity(leaving.len()),
            poll_set: Vec::with_capacity(inputs.len() + 1),
            inputs,
        };
        let prepared = Prepared {
            places,
            leaving,
            missing,
        };
        (prepared, change)
    }

    /// Binds the ports of a prepared table that are missing.
    ///
    /// # Errors
    ///
    /// The first refusal; all ports bound before it are released with `change`.
    pub fn bind_missing(
        &self,
        plan: &Plan,
        prepared: &mut Prepared,
        change: &mut PortChange,
    ) -> Result<(), SetupError> {
        let first = prepared.places.len().saturating_sub(prepared.missing.len());
        let places = prepared.places.iter_mut().skip(first);
        for ((port, lends), place) in prepared.missing.drain(..).zip(places) {
            let port = self.bind_one(plan, &port, lends, place.tag)?;
            place.fd = port.fd();
            change.added.push(port);
        }
        Ok(())
    }

    /// The worker gets a prepared table.
    pub fn commit(&mut self, prepared: Prepared) {
        self.places = prepared.places;
        self.leaving = prepared.leaving;
    }

    /// Whether ports that go are not closed yet, or their devices may still use what they had.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty() || !self.releasing.is_empty()
    }

    /// Closes ports that the worker has handed back. Returns what closed ports had, as soon as
    /// nobody uses it.
    pub fn close(&mut self, gone: Vec<Port>) -> Vec<Closed> {
        for port in gone {
            let (interface, queue) = port.key();
            let (tag, in_flight) = (port.tag(), port.not_back());
            self.leaving.retain(|&leaving| leaving != tag);
            self.accounted.push(port.accounted());
            drop(port);
            if tag == self.sharer {
                self.share_by_another();
            }
            self.releasing.push(Releasing {
                interface,
                queue,
                since: Instant::now(),
                closed: Closed::new(tag, in_flight, self.chunks),
            });
        }
        let (mode, places) = (self.mode, &self.places);
        let is_released = |one: &mut Releasing| {
            let is_there =
                |place: &Place| (place.interface, place.queue) == (one.interface, one.queue);
            mode == Mode::Copy
                || one.since.elapsed() >= RELEASED
                // It has been bound since: the table had to be without it first.
                || places.iter().any(is_there)
                || is_released(one.interface, one.queue)
        };
        let released = self.releasing.extract_if(.., is_released);
        released.map(|one| one.closed).collect()
    }

    /// What [`Port::accounted`] said of ports when they were closed, each once.
    pub fn take_accounted(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.accounted)
    }

    /// Whether the worker has handed back all ports that go.
    pub fn has_all_back(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Makes the descriptor by which the UMEM is shared refer to the socket of a port that stays.
    fn share_by_another(&mut self) {
        let Some(place) = self.places.first() else {
            return;
        };
        // SAFETY: both are open descriptors of sockets of this UMEM. libxdp, which owns `shared`,
        // uses it only to ask for the layout of the rings, to share the UMEM, and to close it when
        // the UMEM goes.
        let result = unsafe { libc::dup3(place.fd, self.shared, libc::O_CLOEXEC) };
        match Errno::result(result) {
            Ok(_) => self.sharer = place.tag,
            Err(error) => log::error!(
                "cannot close an AF_XDP socket: dup3 failed: {error}; its queue stays bound until \
                 the worker ends"
            ),
        }
    }

    fn free_tag(&self, places: &[Place]) -> u16 {
        let is_used = |tag: &u16| {
            let mut releasing = self.releasing.iter();
            self.leaving.contains(tag)
                || releasing.any(|one| one.closed.tag() == *tag)
                || self
                    .places
                    .iter()
                    .chain(places)
                    .any(|place| place.tag == *tag)
        };
        (0..=u16::MAX).find(|tag| !is_used(tag)).unwrap_or(u16::MAX)
    }

    /// Binds, and retries for a while if a closed socket still holds the queue.
    fn bind_one(
        &self,
        plan: &Plan,
        port: &plan::Port,
        lends: u32,
        tag: u16,
    ) -> Result<Port, SetupError> {
        let planned = plan.interfaces.get(port.interface);
        let planned = planned.ok_or(SetupError::NoInterface)?;
        let shares = self.shares && sharing::by(planned);
        let deadline = Instant::now() + BIND_PATIENCE;
        loop {
            let (umem, index) = (&self.umem, planned.index);
            match Port::bind(
                umem,
                (&planned.name, index),
                port.queue,
                self.mode,
                lends,
                tag,
                shares,
            ) {
                Err(SetupError::Bind { error, .. })
                    if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => return other,
            }
        }
    }
}

/// Whether a queue, whose socket is closed, no longer has the UMEM: until then no other one can be
/// bound to it. An interface that is gone has none.
fn is_released(interface: u32, queue: u32) -> bool {
    let Ok(name) = if_indextoname(interface) else {
        return true;
    };
    let name = name.to_string_lossy();
    let probe = Chunks::new(PROBE_CHUNK, 1, 0);
    // In copy mode a bind does not touch the driver.
    let bound = probe.and_then(|probe| {
        let umem = probe.umem();
        Port::bind(umem, (&name, interface), queue, Mode::Copy, 0, 0, false)
    });
    match bound {
        Err(SetupError::Bind { error, .. }) => is_free(&error),
        Err(_) => false,
        Ok(_) => true,
    }
}

/// Whether a bind to a queue was refused for another reason than that the queue has a UMEM: the
/// kernel looks for that first (`xp_assign_dev`, net/xdp/xsk_buff_pool.c). What it refuses before
/// it looks, such as memory or a descriptor, says nothing.
fn is_free(refusal: &io::Error) -> bool {
    let known = [libc::EINVAL, libc::ENODEV, libc::ENXIO, libc::EOPNOTSUPP];
    refusal
        .raw_os_error()
        .is_some_and(|error| known.contains(&error))
}

/// Whether a port of `plan` is the queue of the interface with this index.
fn is_at(plan: &Plan, port: &plan::Port, interface: u32, queue: u32) -> bool {
    let planned = plan.interfaces.get(port.interface);
    port.queue == queue && planned.is_some_and(|planned| planned.index == interface)
}

/// The ports of `worker` that receive, with their positions among `places`.
fn inputs(plan: &Plan, worker: &plan::WorkerPlan, places: &[Place]) -> Vec<Input> {
    let receiving = worker.ports.iter().filter(|port| port.receives);
    let inputs = receiving.filter_map(|port| {
        let interface = plan.interfaces.get(port.interface)?;
        let mut places = places.iter();
        let key = (interface.index, port.queue);
        Some(Input {
            port: places.position(|place| (place.interface, place.queue) == key)?,
            index: interface.index,
            known: known(interface),
        })
    });
    inputs.collect()
}

/// What is known of the UDP checksums of frames that an XDP program gets from `interface`.
fn known(interface: &plan::Interface) -> Known {
    match interface.checksums {
        Some(Checksums::Complete) => Known::Complete,
        Some(Checksums::ByValue | Checksums::Told) | None => Known::Nothing,
    }
}

#[cfg(test)]
mod tests;
