//! Loads the XDP program, attaches it by links, and fills the XSKMAP with the workers' sockets.
//!
//! The program is attached by links only, so that it cannot outlive a killed relay.

use std::{
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
    error::{KernelError, chain, loading, map_write},
    maps::{Maps, take},
    object,
};
use crate::plan::{Interface, InterfaceId, Mode, Plan};

/// How long the kernel may take to release queues from the UMEM after their sockets were closed. It
/// does so later, in a work queue (`xp_put_pool`, net/xdp/xsk_buff_pool.c); 12-74 ms were measured,
/// and the kernel does not report when it is done.
const RELEASE: Duration = Duration::from_millis(150);

/// The loaded program, its maps and its links. Dropping it detaches the program.
pub struct XdpProgram {
    /// Dropped first, which detaches the program.
    _links: Vec<Link>,
    /// The program's id, if the kernel reports it.
    id: Option<u32>,
    /// The ids of the interfaces that the program is attached to.
    attached: Vec<InterfaceId>,
    /// At least one device shares, or may have shared, a UMEM with the relay.
    zero_copy: bool,
    pub maps: Maps,
    sockets: XskMap<MapData>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Keeps the program loaded.
    _ebpf: Ebpf,
}

impl XdpProgram {
    /// Loads the program and attaches it to the interfaces of `plan` that need it.
    pub fn attach(plan: &Plan) -> Result<Self, KernelError> {
        let mut ebpf = object::load_xdp(plan.limits().flatten().count())?;
        let log = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::debug!("no messages from the XDP program: {error}"))
            .ok();
        let sockets = XskMap::try_from(take(&mut ebpf, abi::SOCKETS)?)
            .map_err(|_| KernelError::Map(abi::SOCKETS))?;
        let mut maps = Maps::take_from(&mut ebpf)?;
        maps.disown(plan)?;
        let program: &mut Xdp = object::program(&mut ebpf, abi::PROGRAM)?;
        program
            .load()
            .map_err(|error| loading(object::XDP, &error))?;

        let id = program.info().ok().map(|info| info.id());
        let mut links = Vec::with_capacity(plan.interfaces.len());
        let mut attached = Vec::with_capacity(plan.interfaces.len());
        let interfaces = plan.interfaces.with_ids();
        for (slot, interface) in interfaces.filter(|(_, interface)| interface.needs_program()) {
            if interface.is_input {
                maps.serve(slot, interface)?;
            }
            links.push(attach_link(program, &interface.name, interface.index)?);
            attached.push(slot);
        }
        let mut interfaces = plan.interfaces.iter();
        Ok(Self {
            _links: links,
            id,
            attached,
            zero_copy: interfaces.any(|facts| facts.expected_mode == Some(Mode::ZeroCopy)),
            maps,
            sockets,
            log,
            _ebpf: ebpf,
        })
    }

    /// Sends the matching frames of `queue` of `interface` to `socket`; `slot` is the interface's
    /// id.
    pub fn set_socket(
        &mut self,
        slot: InterfaceId,
        interface: &Interface,
        queue: u32,
        socket: RawFd,
    ) -> Result<(), KernelError> {
        let name = &interface.name;
        let value = InterfaceValue::new(slot.position() as u16, interface.mac);
        let index = value
            .socket(queue)
            .ok_or_else(|| KernelError::TooManyQueues {
                interface: name.clone(),
                queue,
            })?;
        self.sockets.set(index, socket, 0).map_err(|error| {
            map_write(
                abi::SOCKETS,
                format!("the socket of queue {queue} of {name}"),
                &error,
            )
        })
    }

    /// The program's id if it is attached to an interface; `slot` is the interface's id.
    pub fn program_on(&self, slot: InterfaceId) -> Option<u32> {
        self.id.filter(|_| self.attached.contains(&slot))
    }

    /// Writes the program's messages to the log.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

impl Drop for XdpProgram {
    /// Waits until the kernel has released the queues from the UMEM: a detach before that has
    /// crashed a kernel in virtio-net.
    fn drop(&mut self) {
        if self.zero_copy {
            thread::sleep(RELEASE);
        }
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
            "; its MTU, or on veth the peer's, may be too large for XDP: try `ip link set mtu 1500`; offloads such as \
             LRO must be off"
        }
        Some(libc::EPERM | libc::EACCES) => "; CAP_NET_ADMIN and CAP_BPF are needed",
        Some(libc::ENODEV) => "; the interface has gone: `ip link show` lists the interfaces",
        _ => "",
    }
}
