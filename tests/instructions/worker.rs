//! What a worker of the relay holds while it forwards, but for its sockets: a plan's flows, chunks with frames in
//! them, and what the frames become on their way.

use std::net::Ipv4Addr;

use relay::{
    backend::{
        batch::Batch,
        copies,
        flows::Flows,
        xdp::{
            fanout,
            messages::{HandOver, Messages, Queue},
            receive,
            umem::{Chunk, Chunks},
        },
    },
    plan::{self, Backend, Engine, Plan},
    rewrite::Known,
    rules::{Transmit, Ttl},
    stats::WorkerStats,
};
use relay_common::{abi::FlowKey, wire::Datagram};

use crate::frames::{self, Checksum};

/// Frames of a receive batch.
pub const FRAMES: u32 = 64;
/// The kernel's index of the interface that the frames come in by.
const INPUT: u32 = 3;
/// The port that the frames come for.
const PORT: u16 = 5001;

/// The group of a flow: counted up from 239.1.0.0.
fn group(flow: u32) -> [u8; 4] {
    (0xef01_0000 | flow).to_be_bytes()
}

/// What the XDP program matches a flow's frames by.
pub fn key(flow: u32) -> FlowKey {
    FlowKey {
        interface: INPUT,
        group: group(flow),
        port: PORT,
        vlan: Datagram::UNTAGGED,
    }
}

/// The flows of a worker that sends `outputs` copies of each in super-frames.
pub fn flows(flows: u32, outputs: u8) -> Flows {
    let plan = plan(flows, outputs);
    Flows::new(&plan, &plan.workers[0])
}

fn plan(flows: u32, outputs: u8) -> Plan {
    let output = |number: u8| plan::Output {
        interface: 1,
        group: Ipv4Addr::new(239, 2, 2, number),
        port: 5002,
        ttl: Ttl::Decrement,
        source: Ipv4Addr::new(10, 2, 0, 1),
        destination_mac: [1, 0, 0x5e, 2, 2, number],
    };
    let flow = |number: u32| plan::Flow {
        rule: format!("feed-{number}"),
        interface: 0,
        group: group(number).into(),
        port: PORT,
        outputs: (0..outputs).map(output).collect(),
    };
    Plan {
        interfaces: vec![
            interface("in0", INPUT, None),
            interface("out0", INPUT + 1, Some(Engine::Segmented)),
        ],
        flows: (0..flows).map(flow).collect(),
        workers: vec![plan::Worker {
            backend: Backend::Xdp,
            cpu: None,
            ports: vec![plan::Port {
                interface: 0,
                queue: 0,
                receives: true,
                transmits: false,
            }],
            input: None,
            senders: vec![1],
            flows: (0..flows as usize).collect(),
        }],
        notes: Vec::new(),
    }
}

fn interface(name: &str, index: u32, engine: Option<Engine>) -> plan::Interface {
    plan::Interface {
        name: name.into(),
        index,
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
        address: engine.map(|_| Ipv4Addr::new(10, 2, 0, 1)),
        driver: "veth".into(),
        backend: Backend::Xdp,
        reason: String::new(),
        is_input: engine.is_none(),
        is_output: engine.is_some(),
        rx_queues: vec![0],
        checksums: None,
        zero_copy: false,
        expected_mode: None,
        transmit: Transmit::Auto,
        engine,
        super_frames: true,
        segments_udp: true,
        queueless: true,
    }
}

/// A worker without sockets.
pub struct Worker {
    chunks: Chunks,
    flows: Flows,
    batch: Batch<Chunk>,
    queue: Queue,
    received: Vec<Chunk>,
    stats: WorkerStats,
}

/// A worker that has received [`FRAMES`] frames of 1000 bytes and not looked at them yet: of so many flows in turn,
/// each with so many outputs.
pub fn received(flows: u32, outputs: u8, checksum: Checksum) -> &'static mut Worker {
    let mut chunks = Chunks::new(2048, 2 * FRAMES).unwrap();
    let fill = |at: u32| {
        let mut chunk = chunks.take().unwrap();
        let frame = frames::frame(group(at % flows), 1000 - 42, checksum);
        let mut place = chunks.frame_mut(&mut chunk);
        place.cursor().set_pos(frame.len());
        place.contents_mut().copy_from_slice(&frame);
        chunk
    };
    let received = (0..FRAMES).map(fill).collect();
    Box::leak(Box::new(Worker {
        chunks,
        flows: self::flows(flows, outputs),
        batch: Batch::new(FRAMES as usize, flows as usize),
        queue: Queue::default(),
        received,
        stats: WorkerStats::new(flows as usize, flows as usize * usize::from(outputs)),
    }))
}

/// The same after it has sorted the frames into runs, one a flow.
pub fn sorted(flows: u32, outputs: u8) -> &'static mut Worker {
    let worker = received(flows, outputs, Checksum::Complete);
    worker.sort();
    assert_eq!(worker.stats.matched.get(), u64::from(FRAMES));
    assert_eq!(worker.batch.runs().0.len(), flows as usize);
    worker
}

/// The same after it has sent everything.
pub fn sent() -> &'static mut Worker {
    let worker = sorted(1, 4);
    worker.make(|_| ());
    worker
}

impl Worker {
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
            take,
        };
        copies::make(
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
        for frame in self.batch.end() {
            fanout::forward(frame, &self.flows, &mut self.chunks, &mut [], &self.stats);
        }
    }
}
