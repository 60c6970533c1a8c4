//! The XDP program: loaded, attached by links, and the XSKMAP that leads to the workers' sockets.

use std::{os::fd::RawFd, thread, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, XskMap},
    programs::{Xdp, XdpMode, links::FdLink},
};
use aya_log::EbpfLogger;
use relay_common::abi::{self, InterfaceValue};

use super::{
    KernelError, chain, loading,
    maps::{Maps, take},
    occupant, os_error,
};
use crate::plan::{Interface, Mode, Plan};

/// What errors call it.
pub const NAME: &str = "the XDP program";

/// How long the kernel may need to take queues away from the UMEM after their sockets were closed: it does so later, by a
/// work queue (`xp_put_pool`, net/xdp/xsk_buff_pool.c), and 12-74 ms were seen. Nothing tells when it has.
const RELEASE: Duration = Duration::from_millis(150);

/// The loaded program, its maps and its links. Dropping it detaches.
pub struct XdpProgram {
    /// Detached first.
    _links: Vec<FdLink>,
    /// The program's id, where the kernel tells it.
    id: Option<u32>,
    /// Where it is attached: positions in the plan.
    attached: Vec<usize>,
    /// Devices share a UMEM with the relay, or did.
    zero_copy: bool,
    pub maps: Maps,
    sockets: XskMap<MapData>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Keeps the program loaded.
    _ebpf: Ebpf,
}

impl XdpProgram {
    /// Loads the program and attaches it where `plan` needs it.
    pub fn attach(plan: &Plan) -> Result<Self, KernelError> {
        let mut ebpf = super::load_object(
            NAME,
            super::object::XDP,
            super::limits(plan).flatten().count(),
        )?;
        let log = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::debug!("no messages from the XDP program: {error}"))
            .ok();
        let sockets = XskMap::try_from(take(&mut ebpf, abi::SOCKETS)?)
            .map_err(|_| KernelError::Map(abi::SOCKETS))?;
        let mut maps = Maps::take_from(&mut ebpf)?;
        maps.disown(plan)?;
        let program: &mut Xdp = ebpf
            .program_mut(abi::PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Map(abi::PROGRAM))?;
        program.load().map_err(|error| loading(NAME, &error))?;

        let id = program.info().ok().map(|info| info.id());
        let mut links = Vec::with_capacity(plan.interfaces.len());
        let mut attached = Vec::with_capacity(plan.interfaces.len());
        let interfaces = plan.interfaces.iter().enumerate();
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

    /// Sends the matching frames of `queue` of `interface`, whose position in the plan is `slot`, to `socket`.
    pub fn set_socket(
        &mut self,
        slot: usize,
        interface: &Interface,
        queue: u32,
        socket: RawFd,
    ) -> Result<(), KernelError> {
        let name = &interface.name;
        let value = InterfaceValue::new(slot as u16, interface.mac);
        let index = value
            .socket(queue)
            .ok_or_else(|| KernelError::TooManyQueues {
                interface: name.clone(),
                queue,
            })?;
        self.sockets
            .set(index, socket, 0)
            .map_err(|error| KernelError::MapWrite {
                map: abi::SOCKETS,
                what: format!("the socket of queue {queue} of {name}"),
                reason: chain(&error),
            })
    }

    /// The program's id if it is attached to an interface, a position in the plan.
    pub fn program_on(&self, slot: usize) -> Option<u32> {
        self.id.filter(|_| self.attached.contains(&slot))
    }

    /// Hands the program's messages to the log.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

impl Drop for XdpProgram {
    /// Waits until the queues are the device's own again: a detach before has crashed a kernel in virtio-net.
    fn drop(&mut self) {
        if self.zero_copy {
            thread::sleep(RELEASE);
        }
    }
}

/// Attaches in native mode, by a link. aya falls back to netlink where the kernel refuses a link, and a
/// program attached so would outlive a killed relay: that is taken back and reported.
fn attach_link(program: &mut Xdp, interface: &str, index: u32) -> Result<FdLink, KernelError> {
    let refused = |reason: String, code: Option<i32>, remedy: &'static str| KernelError::Attach {
        interface: interface.to_owned(),
        reason,
        code,
        remedy,
    };
    let id = program
        .attach_to_if_index(index, XdpMode::Driver)
        .map_err(|error| match os_error(&error) {
            Some(libc::EBUSY | libc::EEXIST) => KernelError::Occupied {
                interface: interface.to_owned(),
                holder: occupant::describe(interface, index),
            },
            code => refused(chain(&error), code, remedy(code)),
        })?;
    program
        .take_link(id)
        .map_err(|error| refused(chain(&error), os_error(&error), ""))?
        .try_into()
        .map_err(|_| {
            refused(
                "the kernel refused a bpf_link".into(),
                None,
                "; Linux 5.9 or later is needed",
            )
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
        Some(libc::ENODEV) => "; the interface has gone: `ip link show` lists what there is",
        _ => "",
    }
}
