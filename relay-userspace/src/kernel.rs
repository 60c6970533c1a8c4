//! The kernel side: load the XDP program, fill its maps, attach it, read its counters.
//!
//! The program is attached through a `bpf_link` and nothing else, so the kernel detaches it when this
//! process ends, however it ends. Order matters: attach, bind the sockets, and only then
//! [`Kernel::open`] the flows, so that no frame is matched before there is somebody to take it.

mod occupant;

use std::os::fd::{BorrowedFd, RawFd};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, Map, MapData, PerCpuArray, XskMap},
    programs::{Xdp, XdpMode, links::FdLink},
};
use aya_log::EbpfLogger;
use relay_common::{
    abi::{self, Counter, FlowKey, FlowValue, InterfaceValue},
    wire::Datagram,
};
use thiserror::Error;

use crate::plan::{Backend, Flow, Plan};

/// The XDP program as `cargo xtask build-ebpf` made it. Empty where only `cargo build` ran.
#[cfg(relay_ebpf_embedded)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay.o"));
#[cfg(not(relay_ebpf_embedded))]
static OBJECT: &[u8] = &[];

/// Why the kernel side could not be set up.
#[derive(Debug, Error)]
pub enum KernelError {
    /// A build without the program.
    #[error("this build of relay has no XDP program in it: build it with `cargo xtask build`")]
    NotEmbedded,
    /// The program was refused, or one of its maps.
    #[error(
        "cannot load the XDP program: {0}; `RUST_LOG=debug` shows the verifier's words. Linux 5.10 or later is needed"
    )]
    Load(String),
    /// A map is not as this program expects: the object is of another version.
    #[error(
        "the XDP program has no usable map {0}: it was built from other sources, run `cargo xtask build`"
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
    /// The interface that refuses native XDP, where another backend could do without it.
    #[must_use]
    pub fn refused_interface(&self) -> Option<&str> {
        match self {
            Self::Attach { interface, .. } => Some(interface),
            _ => None,
        }
    }
}

/// The loaded program, its maps and its links. Dropping it detaches.
pub struct Kernel {
    /// Detached first. By position in [`Plan::interfaces`]; `None` where nothing is attached.
    links: Vec<Option<FdLink>>,
    sockets: XskMap<MapData>,
    flows: HashMap<MapData, FlowKey, FlowValue>,
    counters: PerCpuArray<MapData, u64>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Keeps the program loaded.
    _ebpf: Ebpf,
}

impl Kernel {
    /// Loads the program and attaches it to every input interface of the plan.
    ///
    /// # Errors
    ///
    /// The first thing that the kernel refused; what was attached before is detached again.
    pub fn attach(plan: &Plan) -> Result<Self, KernelError> {
        if plan.interfaces.len() > abi::MAX_INTERFACES as usize {
            return Err(KernelError::TooManyInterfaces(plan.interfaces.len()));
        }
        let mut ebpf = load()?;
        let log = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::debug!("no messages from the XDP program: {error}"))
            .ok();
        let sockets = XskMap::try_from(take(&mut ebpf, abi::SOCKETS)?)
            .map_err(|_| KernelError::Map(abi::SOCKETS))?;
        let flows = hash_map(&mut ebpf, abi::FLOWS)?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, abi::COUNTERS)?)
            .map_err(|_| KernelError::Map(abi::COUNTERS))?;
        let mut interfaces: HashMap<MapData, u32, InterfaceValue> =
            hash_map(&mut ebpf, abi::INTERFACES)?;
        let program: &mut Xdp = ebpf
            .program_mut(abi::PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Map(abi::PROGRAM))?;
        program
            .load()
            .map_err(|error| KernelError::Load(chain(&error)))?;

        let mut links = Vec::with_capacity(plan.interfaces.len());
        for (slot, interface) in plan.interfaces.iter().enumerate() {
            if !interface.is_input || interface.backend != Backend::Xdp {
                links.push(None);
                continue;
            }
            let value = InterfaceValue { slot: slot as u32 };
            interfaces
                .insert(interface.index, value, 0)
                .map_err(|error| KernelError::MapWrite {
                    map: abi::INTERFACES,
                    what: interface.name.clone(),
                    reason: chain(&error),
                })?;
            links.push(Some(attach_link(
                program,
                &interface.name,
                interface.index,
            )?));
        }
        Ok(Self {
            links,
            sockets,
            flows,
            counters,
            log,
            _ebpf: ebpf,
        })
    }

    /// Puts the socket filter on a packet socket.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn attach_filter(&self, _socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        Ok(())
    }

    /// Sends the matching frames of `queue` of an interface (a position in [`Plan::interfaces`]) to `socket`.
    ///
    /// # Errors
    ///
    /// The map's refusal.
    pub fn set_socket(
        &mut self,
        plan: &Plan,
        interface: usize,
        queue: u32,
        socket: RawFd,
    ) -> Result<(), KernelError> {
        let name = || {
            plan.interfaces
                .get(interface)
                .map_or_else(String::new, |interface| interface.name.clone())
        };
        let value = InterfaceValue {
            slot: interface as u32,
        };
        let index = value
            .socket(queue)
            .ok_or_else(|| KernelError::TooManyQueues {
                interface: name(),
                queue,
            })?;
        self.sockets
            .set(index, socket, 0)
            .map_err(|error| KernelError::MapWrite {
                map: abi::SOCKETS,
                what: format!("the socket of queue {queue} of {}", name()),
                reason: chain(&error),
            })
    }

    /// Makes every flow of the plan match. From here on frames are redirected.
    ///
    /// # Errors
    ///
    /// The map's refusal.
    pub fn open(&mut self, plan: &Plan) -> Result<(), KernelError> {
        for (rule, flow) in plan.flows.iter().enumerate() {
            let Some(key) = key(plan, flow) else {
                continue;
            };
            let value = FlowValue { rule: rule as u32 };
            self.flows
                .insert(key, value, 0)
                .map_err(|error| KernelError::MapWrite {
                    map: abi::FLOWS,
                    what: format!("the rule \"{}\"", flow.rule),
                    reason: chain(&error),
                })?;
        }
        Ok(())
    }

    /// Ends every match: frames go to the Linux stack again. A flow that is missing already is as good.
    pub fn close(&mut self, plan: &Plan) {
        for flow in &plan.flows {
            if let Some(key) = key(plan, flow) {
                let _ = self.flows.remove(&key);
            }
        }
    }

    /// What the program counted for an interface (a position in [`Plan::interfaces`]), summed over all
    /// CPUs. `None` where it is not attached.
    #[must_use]
    pub fn counters(&self, interface: usize) -> Option<[u64; Counter::COUNT as usize]> {
        self.links.get(interface)?.as_ref()?;
        let value = InterfaceValue {
            slot: interface as u32,
        };
        let mut sums = [0; Counter::COUNT as usize];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let per_cpu = self.counters.get(&value.counter(counter), 0).ok()?;
            *sum = per_cpu.iter().sum();
        }
        Some(sums)
    }

    /// Hands the program's messages to the log.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

/// Loads the embedded object into the kernel, not attached to anything. Also what the packet tables of the
/// tests run.
///
/// # Errors
///
/// When there is no object, or the kernel refuses it.
pub fn load() -> Result<Ebpf, KernelError> {
    if OBJECT.is_empty() {
        return Err(KernelError::NotEmbedded);
    }
    EbpfLoader::new()
        .load(OBJECT)
        .map_err(|error| KernelError::Load(chain(&error)))
}

/// What the program matches `flow` by.
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

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Map(name))
}

fn hash_map<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(|_| KernelError::Map(name))
}

/// Attaches in native mode, by a link. aya falls back to netlink where the kernel refuses a link, and a
/// program attached so would outlive a killed relay: that is taken back and reported.
fn attach_link(program: &mut Xdp, interface: &str, index: u32) -> Result<FdLink, KernelError> {
    let refused = |reason: String, remedy: &'static str| KernelError::Attach {
        interface: interface.to_owned(),
        reason,
        remedy,
    };
    let id = program
        .attach_to_if_index(index, XdpMode::Driver)
        .map_err(|error| match os_error(&error) {
            Some(libc::EBUSY | libc::EEXIST) => KernelError::Occupied {
                interface: interface.to_owned(),
                holder: occupant::describe(interface, index),
            },
            code => refused(chain(&error), remedy(code)),
        })?;
    program
        .take_link(id)
        .map_err(|error| refused(chain(&error), ""))?
        .try_into()
        .map_err(|_| {
            refused(
                "the kernel refused a bpf_link".into(),
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
