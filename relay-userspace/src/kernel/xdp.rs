//! Loads the XDP program, attaches it by links, and fills the XSKMAP with the workers' sockets.
//!
//! The program is attached by links only, so that it cannot outlive a killed relay.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, RawFd},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, XskMap},
    programs::Xdp,
};
use aya_log::EbpfLogger;
use relay_common::abi::{self, InterfaceValue};

use super::{
    attached_program,
    bpf_link::Link,
    error::{KernelError, chain, map_write},
    local_device::LocalDevice,
    maps::{Maps, take},
    object, quiet,
};
use crate::{
    events,
    plan::{Interface, Mode},
};

/// How long the kernel may take to release queues from the UMEM after their sockets were closed. It
/// does so later, in a work queue (`xp_put_pool`, net/xdp/xsk_buff_pool.c); 12-74 ms were measured,
/// and the kernel does not report when it is done.
const RELEASE: Duration = Duration::from_millis(150);

/// The program says of nothing else.
const NO_SOCKET: events::Logger = events::Logger {
    kind: "frames of queues without a socket",
};

/// The loaded program, its maps and its links. Dropping it detaches the program.
pub struct XdpProgram {
    /// By the index of the interface.
    attached: BTreeMap<u32, Attached>,
    /// The program's id, if the kernel reports it.
    id: Option<u32>,
    pub maps: Maps,
    sockets: XskMap<MapData>,
    /// The entries of `sockets` that were written, by slot.
    queues: BTreeMap<u16, BTreeSet<u32>>,
    log: Option<EbpfLogger<events::Logger>>,
    local_device: Option<LocalDevice>,
    /// Keeps the program loaded.
    ebpf: Ebpf,
}

/// The program on one interface.
struct Attached {
    link: Link,
    /// The device shares, or may have shared, a UMEM with the relay.
    zero_copy: bool,
}

impl XdpProgram {
    /// Loads the program, with room for `limits` limits.
    pub fn load(limits: u32) -> Result<Self, KernelError> {
        let mut ebpf = object::load_xdp(limits)?;
        let log = EbpfLogger::init_with_logger(&mut ebpf, NO_SOCKET)
            .inspect_err(|error| log::debug!("no messages from the XDP program: {error}"))
            .ok();
        let sockets = XskMap::try_from(take(&mut ebpf, abi::SOCKETS)?)
            .map_err(|_| KernelError::Map(abi::SOCKETS))?;
        let maps = Maps::take_from(&mut ebpf)?;
        let program: &mut Xdp = object::program(&mut ebpf, abi::PROGRAM)?;
        quiet::load(object::XDP, || program.load())?;
        Ok(Self {
            attached: BTreeMap::new(),
            id: program.info().ok().map(|info| info.id()),
            maps,
            sockets,
            queues: BTreeMap::new(),
            log,
            local_device: None,
            ebpf,
        })
    }

    /// Attaches the program to an interface, unless it is attached there.
    pub fn attach(&mut self, interface: &Interface) -> Result<(), KernelError> {
        let index = interface.index;
        let zero_copy = interface.expected_mode == Some(Mode::ZeroCopy);
        match self.attached.get_mut(&index) {
            Some(attached) if attached.link.is_attached(index) => {
                attached.zero_copy |= zero_copy;
                return Ok(());
            }
            _ => {}
        }
        let program: &mut Xdp = object::program(&mut self.ebpf, abi::PROGRAM)?;
        let link = attach_link(program, &interface.name, index)?;
        self.attached.insert(index, Attached { link, zero_copy });
        Ok(())
    }

    /// Detaches the program from interfaces, given by their indices. Their sockets must be closed.
    /// Interfaces that it is not attached to are no error.
    ///
    /// With zero copy on one of them, waits until the kernel has released the queues from the UMEM:
    /// a detach before that has crashed a kernel in virtio-net. It waits once for all of them.
    pub fn detach(&mut self, interfaces: &[u32]) {
        let attached = interfaces
            .iter()
            .filter_map(|&index| Some((index, self.attached.remove(&index)?)));
        let attached: Vec<_> = attached.collect();
        let holds_umem =
            |(index, one): &(u32, Attached)| one.zero_copy && one.link.is_attached(*index);
        if attached.iter().any(holds_umem) {
            thread::sleep(RELEASE);
        }
        drop(attached);
    }

    /// See [`super::Kernel::open_local_device`].
    pub fn open_local_device(&mut self, interface: &str) -> Result<u32, KernelError> {
        if let Some(index) = self.local_device() {
            return Ok(index);
        }
        self.close_local_device();
        let device = LocalDevice::new(&mut self.ebpf, interface)?;
        let index = device.made_as();
        self.local_device = Some(device);
        Ok(index)
    }

    /// The index of the local device, if it is there.
    pub fn local_device(&self) -> Option<u32> {
        self.local_device.as_ref().and_then(LocalDevice::index)
    }

    /// Whether another process has removed the local device.
    pub fn lost_local_device(&self) -> bool {
        let device = self.local_device.as_ref();
        device.is_some_and(|device| device.index().is_none())
    }

    /// Removes the local device, if there is one.
    pub fn close_local_device(&mut self) {
        if let Some(device) = self.local_device.take() {
            device.remove(&mut self.ebpf);
        }
    }

    /// Sends the matching frames of `queue` of `interface`, which has this slot, to `socket`.
    pub fn set_socket(
        &mut self,
        slot: u16,
        interface: &str,
        queue: u32,
        socket: RawFd,
    ) -> Result<(), KernelError> {
        let index = InterfaceValue::new(slot, [0; 6])
            .socket(queue)
            .ok_or_else(|| KernelError::TooManyQueues {
                interface: interface.to_owned(),
                queue,
            })?;
        self.sockets.set(index, socket, 0).map_err(|error| {
            map_write(
                abi::SOCKETS,
                format!("the socket of queue {queue} of {interface}"),
                &error,
            )
        })?;
        self.queues.entry(slot).or_default().insert(queue);
        Ok(())
    }

    /// Leaves the matching frames of `queue` to the Linux stack; `slot` is its interface's. The
    /// kernel has done that already if the socket is closed.
    pub fn clear_socket(&mut self, slot: u16, queue: u32) {
        if let Some(index) = InterfaceValue::new(slot, [0; 6]).socket(queue) {
            let _ = self.sockets.unset(index);
        }
        if let Some(queues) = self.queues.get_mut(&slot) {
            queues.remove(&queue);
        }
    }

    /// [`Self::clear_socket`] for every queue of an interface, which has this slot.
    pub fn clear_sockets(&mut self, slot: u16) {
        for queue in self.queues.remove(&slot).unwrap_or_default() {
            self.clear_socket(slot, queue);
        }
    }

    /// The program's id if it was attached to an interface, given by its index.
    pub fn program_on(&self, interface: u32) -> Option<u32> {
        self.id.filter(|_| self.attached.contains_key(&interface))
    }

    /// The indices of the interfaces that the program was attached to.
    pub fn attached(&self) -> impl Iterator<Item = u32> {
        self.attached.keys().copied()
    }

    /// Whether the program is attached to an interface, given by its index, and was not detached
    /// by force.
    pub fn is_attached(&self, interface: u32) -> bool {
        let attached = self.attached.get(&interface);
        attached.is_some_and(|attached| attached.link.is_attached(interface))
    }

    /// Writes the program's messages to the log.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

impl Drop for XdpProgram {
    /// Detaches the program from every interface, see [`Self::detach`].
    fn drop(&mut self) {
        let all: Vec<u32> = self.attached.keys().copied().collect();
        self.detach(&all);
    }
}

/// Attaches in native mode, by a link.
fn attach_link(program: &Xdp, interface: &str, index: u32) -> Result<Link, KernelError> {
    let refused = |reason: String, code: Option<i32>, remedy: &'static str| KernelError::Attach {
        interface: interface.to_owned(),
        reason,
        code,
        remedy,
    };
    let program = program
        .fd()
        .map_err(|error| refused(chain(&error), None, ""))?;
    Link::attach(program.as_fd(), index).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => KernelError::Occupied {
            interface: interface.to_owned(),
            holder: attached_program::describe(interface, index),
        },
        code => refused(
            format!("`bpf_link_create` failed: {error}"),
            code,
            remedy(code),
        ),
    })
}

fn remedy(code: Option<i32>) -> &'static str {
    match code {
        Some(libc::EOPNOTSUPP) => "; its driver has no native XDP: use another interface",
        Some(libc::ENOSPC) => {
            "; it has fewer RX queues than its peer has TX queues: make them equal with `ethtool -L`"
        }
        Some(libc::ERANGE | libc::EINVAL) => {
            "; its MTU, or on veth the peer's, may be too large for XDP: try `ip link set mtu 1500`; \
             offloads such as LRO must be off; or it is going away just now"
        }
        Some(libc::EPERM | libc::EACCES) => "; CAP_NET_ADMIN and CAP_BPF are needed",
        Some(libc::ENODEV) => "; the interface has gone: `ip link show` lists the interfaces",
        _ => "",
    }
}
