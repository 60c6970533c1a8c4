//! What a worker of the relay holds while it forwards, without its sockets: the flows of a plan,
//! chunks with frames in them, and what is made from the frames.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use relay::{
    config::rules::{Header, Match, PortMatch, Transmit, Ttl, Vlan},
    datapath::{
        batch::Batch,
        flow_table::{Flows, Ports},
        gso_packets,
        open_runs::OpenRuns,
        output_link::Links,
        slots::Slots,
        stats::WorkerStats,
        xdp::{
            receive,
            ring_outputs::{self, Prepared},
            ring_sizes::TX_SIZE,
            sendmmsg::{HandOver, Messages, Queue},
            transmitter::{Rings, Transmitter},
            tx_rings::Descriptor,
            umem::{Chunk, Chunks},
        },
    },
    host::GsoLimits,
    packet::Known,
    plan::{self, Backend, FlowId, InterfaceId, LinkDestination, Mode, Plan, TxMethod},
};
use relay_common::wire::{self, Addresses, Datagram};

use crate::frames::{self, Checksum, Version};

/// Frames of a receive batch.
pub const FRAMES: u32 = 64;
/// The kernel's index of the interface that the frames arrive on.
pub const INPUT: u32 = 3;
/// The destination port of the frames.
const PORT: u16 = 5001;

/// A datagram of a flow.
pub fn datagram(version: Version, flow: u32) -> Datagram {
    let source = match version {
        Version::V4 => Ipv4Addr::new(10, 1, 0, 2).into(),
        Version::V6 => frames::SOURCE6.into(),
    };
    Datagram {
        addresses: Addresses::between(source, version.group(flow)).unwrap(),
        port: PORT,
        vlan: wire::Vlan::UNTAGGED,
        ttl: 16,
        network: 14,
        payload_len: 958,
    }
}

/// The flows of a worker that sends `outputs` copies of each in GSO packets.
pub fn flows(version: Version, flows: u32, outputs: u8) -> Flows {
    flows_by(TxMethod::Segmented, version, flows, outputs)
}

fn flows_by(tx_method: TxMethod, version: Version, flows: u32, outputs: u8) -> Flows {
    let plan = plan(tx_method, version, flows, outputs);
    let worker = &plan.workers[0];
    let links = Links::of(&plan, worker, &Links::default());
    Flows::new(
        &plan,
        worker,
        &Slots::in_order(&plan, worker),
        &links,
        &Ports::planned(&plan, worker),
    )
}

fn plan(tx_method: TxMethod, version: Version, flows: u32, outputs: u8) -> Plan {
    let output = |number: u8| {
        let (group, source) = version.output(number);
        plan::Output {
            position: number.into(),
            interface: InterfaceId::new(1),
            group: group.into(),
            port: PortMatch::One(5002),
            is_routed: false,
            source: Some(source),
            header: Header {
                ttl: Ttl::Decrement,
                ..Header::default()
            },
            to: LinkDestination::Group(plan::of_group(group)),
        }
    };
    let flow = |number: u32| plan::Flow {
        rule: format!("feed-{number}"),
        interface: InterfaceId::new(0),
        matches: Match {
            group: version.group(number).into(),
            ports: PortMatch::One(PORT),
            sources: Vec::new(),
            vlan: Vlan::Untagged,
        },
        join: true,
        local: false,
        limit: None,
        monitor: None,
        pending: Vec::new(),
        outputs: (0..outputs).map(output).collect(),
    };
    Plan {
        interfaces: vec![
            interface("in0", INPUT, None),
            interface("out0", INPUT + 1, Some(tx_method)),
        ]
        .into(),
        flows: (0..flows).map(flow).collect(),
        own_sources: std::collections::BTreeSet::new(),
        workers: vec![plan::WorkerPlan {
            backend: Backend::Xdp,
            cpu: None,
            ports: match tx_method {
                // The benchmarks transmit only.
                TxMethod::Xsk => vec![port(1, false)],
                _ => vec![port(0, true)],
            },
            input: None,
            tx_sockets: match tx_method {
                TxMethod::Xsk => Vec::new(),
                _ => vec![InterfaceId::new(1)],
            },
            flows: (0..flows as usize).map(FlowId::new).collect(),
        }],
        notes: Vec::new(),
    }
}

fn port(interface: usize, receives: bool) -> plan::Port {
    plan::Port {
        interface: InterfaceId::new(interface),
        queue: 0,
        receives,
        transmits: !receives,
    }
}

fn interface(name: &str, index: u32, tx_method: Option<TxMethod>) -> plan::Interface {
    plan::Interface {
        name: name.into(),
        index,
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
        address: tx_method.map(|_| Ipv4Addr::new(10, 2, 0, 1)),
        ipv6_sources: Vec::new(),
        driver: "veth".into(),
        backend: Backend::Xdp,
        reason: String::new(),
        is_input: tx_method.is_none(),
        is_output: tx_method.is_some(),
        rx_queues: vec![0],
        igmp: None,
        checksums: None,
        tx_queues: 1,
        zero_copy: false,
        expected_mode: None,
        shares_payloads: false,
        transmit: Transmit::Auto,
        tx_method,
        offloads: Default::default(),
        strips_tags: false,
        gso_packets: true,
        segments_udp: true,
        queueless: true,
        gso: GsoLimits::default(),
    }
}

/// Rings of a kernel that takes 32 frames per system call and completes them at once, as in copy
/// mode on a veth pair.
struct Kernel {
    ring: Box<[Descriptor]>,
    produced: usize,
    taken: usize,
    completed: usize,
}

impl Kernel {
    fn new() -> Self {
        Self {
            ring: vec![Descriptor::default(); TX_SIZE as usize].into(),
            produced: 0,
            taken: 0,
            completed: 0,
        }
    }
}

impl Rings for Kernel {
    type Desc = Descriptor;

    fn free(&mut self) -> u32 {
        TX_SIZE - (self.produced - self.taken) as u32
    }

    unsafe fn submit(&mut self, descs: [&[Descriptor]; 2]) -> u32 {
        let before = self.produced;
        for descs in descs {
            self.ring[self.produced..self.produced + descs.len()].copy_from_slice(descs);
            self.produced += descs.len();
        }
        (self.produced - before) as u32
    }

    fn needs_wakeup(&self) -> bool {
        true
    }

    fn wake(&mut self) -> Result<(), Errno> {
        self.taken = self.produced.min(self.taken + 32);
        Ok(())
    }

    fn complete(&mut self, descs: &mut [Descriptor]) -> usize {
        let count = descs.len().min(self.taken - self.completed);
        descs[..count].copy_from_slice(&self.ring[self.completed..self.completed + count]);
        self.completed += count;
        count
    }
}

/// A worker without sockets.
pub struct Worker {
    chunks: Chunks,
    flows: Flows,
    batch: Batch<Chunk>,
    queue: Queue,
    ports: Vec<Transmitter<Kernel>>,
    received: Vec<Chunk>,
    prepared: Vec<Prepared>,
    stats: WorkerStats,
}

/// A worker that has received [`FRAMES`] frames of 1000 bytes and not decoded them yet: of `flows`
/// flows in turn, each with `outputs` outputs.
pub fn received(
    version: Version,
    flows: u32,
    outputs: u8,
    checksum: Checksum,
) -> &'static mut Worker {
    received_by(
        TxMethod::Segmented,
        false,
        version,
        flows,
        outputs,
        checksum,
    )
}

fn received_by(
    tx_method: TxMethod,
    shares: bool,
    version: Version,
    flows: u32,
    outputs: u8,
    checksum: Checksum,
) -> &'static mut Worker {
    let copies = match tx_method {
        TxMethod::Xsk => FRAMES * u32::from(outputs),
        _ => FRAMES,
    };
    let header_slots = if shares { copies } else { 0 };
    let mut chunks = Chunks::new(2048, FRAMES + copies, header_slots).unwrap();
    let fill = |at: u32| {
        let mut chunk = chunks.take().unwrap();
        let payload = 1000 - version.headers_len();
        let frame = frames::frame(version.group(at % flows), payload, checksum);
        chunks.put(&mut chunk, &frame);
        chunk
    };
    let received = (0..FRAMES).map(fill).collect();
    Box::leak(Box::new(Worker {
        chunks,
        flows: flows_by(tx_method, version, flows, outputs),
        batch: Batch::new(FRAMES as usize, OpenRuns::new(flows as usize)),
        queue: Queue::with_pieces(),
        ports: match tx_method {
            TxMethod::Xsk => vec![Transmitter::new(Kernel::new(), Mode::Copy).sharing(shares)],
            _ => Vec::new(),
        },
        received,
        prepared: Vec::with_capacity(FRAMES as usize),
        stats: WorkerStats::new(flows as usize, flows as usize * usize::from(outputs)).unwrap(),
    }))
}

/// The same after it has sorted the frames into runs, one per flow.
pub fn sorted(version: Version, flows: u32, outputs: u8) -> &'static mut Worker {
    let worker = received(version, flows, outputs, Checksum::Complete);
    worker.sort();
    assert_eq!(worker.stats.matched.get(), u64::from(FRAMES));
    assert_eq!(worker.batch.runs().0.len(), flows as usize);
    worker
}

/// The same after it has sent everything.
pub fn sent() -> &'static mut Worker {
    let worker = sorted(Version::V4, 1, 4);
    worker.make(|_| ());
    worker
}

/// A worker that has sorted [`FRAMES`] frames of one flow, whose copies leave through the TX ring
/// of one port.
pub fn for_a_ring(version: Version, outputs: u8) -> &'static mut Worker {
    ready_for_a_ring(false, version, outputs)
}

/// The same where copies share the payload.
pub fn for_a_sharing_ring(version: Version, outputs: u8) -> &'static mut Worker {
    ready_for_a_ring(true, version, outputs)
}

fn ready_for_a_ring(shares: bool, version: Version, outputs: u8) -> &'static mut Worker {
    let checksum = Checksum::Complete;
    let worker = received_by(TxMethod::Xsk, shares, version, 1, outputs, checksum);
    worker.sort();
    worker
}

/// The same after it has queued all copies on the port.
pub fn queued(outputs: u8) -> &'static mut Worker {
    let worker = for_a_ring(Version::V4, outputs);
    worker.end();
    assert_eq!(worker.ports[0].waiting(), FRAMES * u32::from(outputs));
    worker
}

impl Worker {
    /// Submits all copies, makes the kernel take them, and counts them.
    pub fn kick(&mut self) {
        for port in &mut self.ports {
            port.kick(&mut self.chunks, &self.stats.outputs);
        }
    }

    /// Decodes, looks up, reads and sorts what was received.
    pub fn sort(&mut self) {
        receive::add_all(
            receive::Source {
                interface: INPUT,
                known: Known::Nothing,
            },
            &mut self.received,
            &mut self.batch,
            &mut self.chunks,
            &mut self.flows,
            &self.stats,
        );
    }

    /// Makes the messages of the one sender.
    pub fn make(&mut self, take: impl FnMut(Messages<'_>)) {
        let mut outbox = HandOver {
            queue: &mut self.queue,
            limits: GsoLimits::default(),
            take,
        };
        gso_packets::make(
            0,
            &mut self.batch,
            &self.flows,
            &self.chunks,
            &self.stats,
            &mut outbox,
        );
    }

    /// Ends the batch: the chunks are free again.
    pub fn end(&mut self) {
        ring_outputs::forward_all(
            &mut self.batch,
            &mut self.prepared,
            &self.flows,
            &mut self.chunks,
            &mut self.ports,
            &self.stats,
        );
    }
}
