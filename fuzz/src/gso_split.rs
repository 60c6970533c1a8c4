//! GSO packets: received ones are cut into their datagrams, and what leaves is joined again.
//!
//! Input: a byte that says whether the rest is what the kernel wrote to a receive buffer, or the
//! choices that make packets. Those go through the batch of a worker with three rules; whatever
//! leaves is cut as the kernel cuts it, and compared with each datagram alone.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use arbitrary::{Result, Unstructured};
use relay::{
    config,
    datapath::{
        batch::{Batch, Frame, Memory},
        flow_table::{Flows, Ports},
        gso_packets::{self, Message, Outbox},
        open_runs::OpenRuns,
        output_link::Links,
        slots::Slots,
        stats::WorkerStats,
        uring::{
            buffers::{Buffers, Held, SIZE},
            receive::{Arrival, CONTROL_LEN, Datagrams},
        },
        vnet_header::VnetHeader,
    },
    host::GsoLimits,
    plan::{self, Constraints, Plan},
};

use crate::{
    frames::{Checksum, Fields, mac_of},
    hosts,
};

/// The rules: a feed with outputs that differ in what may be joined, a line-up, and a feed over
/// IPv6.
const RULES: &str = r#"
[[rules]]
name = "feed"
input = { interface = "in0", group = "239.1.1.1", port = 5001 }
outputs = [
  { interface = "out0", group = "239.2.1.1", port = 6001 },
  { interface = "out0", group = "239.2.1.2", port = 6002, ttl = "decrement", dscp = 46 },
  { interface = "out0", group = "239.2.1.3", port = 6003, source = "keep", vlan = 9 },
]
[[rules]]
name = "line-up"
input = { interface = "in0", group = "239.1.2.0/30", port = 5001 }
outputs = [{ interface = "out0", group = "239.2.2.0/30", port = 6004 }]
[[rules]]
name = "six"
input = { interface = "in0", group = "ff3e::8000:1", port = 5001 }
outputs = [{ interface = "out0", group = "ff3e::8000:2", port = 6005, source = "keep" }]
[[interfaces]]
name = "out0"
transmit = "segmented"
"#;
/// Frames that a batch holds.
const BATCH: usize = 32;
/// The rules, and the outputs of all of them.
const FLOWS: usize = 3;
const OUTPUTS: usize = 5;
const MTU: usize = 1500;
/// Bytes of a `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h).
const VNET_LEN: usize = 10;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_UDP_L4: u8 = 5;

/// Runs the target.
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, received)) => Bench::new().take_any_bytes(received),
        Some((_, choices)) => {
            let _ = Bench::new().take_packets(&mut Unstructured::new(choices));
        }
        None => {}
    }
}

/// A packet as it is received: one datagram, or a GSO packet of several.
#[derive(Debug)]
struct Packet {
    fields: Fields,
    /// Bytes of payload of each datagram; 0 unless a GSO packet.
    size: usize,
    flags: u8,
}

/// What tells the datagrams apart whose order counts: the output, the sender, and where they go.
type Stream = (u32, u16, IpAddr);
type Streams = BTreeMap<Stream, Vec<Fields>>;

/// A worker without ring and sockets.
struct Bench {
    plan: Plan,
    flows: Flows,
    buffers: Buffers,
    message: libc::msghdr,
    stats: WorkerStats,
}

impl Bench {
    fn new() -> Self {
        let document = config::parse("relay.toml", RULES).unwrap();
        let host = hosts::of(&document);
        let plan = plan::build(&document, &host, &Constraints::default()).unwrap();
        let worker = &plan.workers[0];
        assert_eq!(worker.tx_sockets.len(), 1);
        let links = Links::of(&plan, worker, &Links::default());
        let slots = Slots::in_order(&plan, worker);
        let ports = Ports::planned(&plan, worker);
        let flows = Flows::new(&plan, worker, &slots, &links, &ports);
        // SAFETY: all zeros is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_controllen = CONTROL_LEN;
        Self {
            flows,
            buffers: Buffers::without_ring(BATCH as u16).unwrap(),
            message,
            stats: WorkerStats::new(FLOWS, OUTPUTS).unwrap(),
            plan,
        }
    }

    /// The kernel's index of in0.
    fn input(&self) -> u32 {
        let mut interfaces = self.plan.interfaces.iter();
        interfaces.find(|one| one.is_input).unwrap().index
    }

    /// Whatever is in a buffer: no datagram has a byte outside of what the kernel wrote.
    fn take_any_bytes(mut self, received: &[u8]) {
        let arrival = self.arrive(received);
        let input = self.input();
        let Self {
            buffers,
            message,
            flows,
            stats,
            ..
        } = &mut self;
        let datagrams = Datagrams::read(&arrival, input, message, buffers, flows, stats);
        let all = buffers
            .bytes(&arrival.held, 0..arrival.len as usize)
            .as_ptr_range();
        if let Some(mut datagrams) = datagrams {
            let mut count = 0;
            let _ = datagrams.kept(&arrival, message, buffers, flows);
            while let Some(frame) = datagrams.next(&arrival.held, buffers) {
                let payload = frame.payload(buffers).as_ptr_range();
                assert!(frame.payload_len() == 0 || all.start <= payload.start);
                assert!(frame.payload_len() == 0 || payload.end <= all.end);
                assert_eq!(
                    frame.payload(buffers).len(),
                    usize::from(frame.payload_len())
                );
                count += 1;
                buffers.release(frame.place);
            }
            assert_eq!(count, datagrams.count());
            assert_eq!(stats.received.get(), count);
        }
        buffers.release(arrival.held);
        assert_eq!(buffers.held(), 0);
    }

    fn arrive(&mut self, bytes: &[u8]) -> Arrival {
        let free = (0..BATCH as u16).find_map(|number| self.buffers.received(number));
        let held = free.unwrap();
        self.buffers.write(&held, bytes);
        Arrival {
            held,
            len: bytes.len().min(SIZE) as u32,
        }
    }

    fn take_packets(mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let limits = GsoLimits {
            bytes: *u.choose(&[65_536, 65_536, 3000, 1500])?,
            segments: *u.choose(&[65_535, 64, 3, 1])?,
        };
        let mut sent = Sent {
            limits,
            vnet_header: VnetHeader::EMPTY,
            before: Vec::new(),
            streams: Streams::new(),
        };
        let mut expected = Streams::new();
        let mut batch = Batch::new(BATCH, OpenRuns::new(FLOWS));
        let mut senders = [0_u16; 3];
        let mut datagrams = 0;
        for _ in 0..u.int_in_range(1..=24)? {
            let Ok(packet) = packet(u, &mut senders) else {
                break;
            };
            for datagram in packet.cut() {
                datagrams += 1;
                for (stream, copy) in copies(&datagram) {
                    expected.entry(stream).or_default().push(copy);
                }
            }
            self.add(&packet, &mut batch, &mut sent);
        }
        self.end(&mut batch, &mut sent);
        assert_eq!(self.buffers.held(), 0);
        assert_eq!(self.stats.received.get(), datagrams);
        assert_eq!(self.stats.matched.get(), datagrams);
        let (found, expected) = (sent.streams, expected);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        for (stream, found) in &found {
            let expected = &expected[stream];
            assert_eq!(found.len(), expected.len(), "{stream:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(comparable(found, expected), *expected, "{stream:?}");
            }
        }
        Ok(())
    }

    /// Receives a packet, as a worker does.
    fn add(&mut self, packet: &Packet, batch: &mut Batch<Held>, sent: &mut Sent) {
        let arrival = self.arrive(&packet.as_received());
        let input = self.input();
        let datagrams = Datagrams::read(
            &arrival,
            input,
            &self.message,
            &mut self.buffers,
            &mut self.flows,
            &self.stats,
        );
        let mut datagrams = datagrams.unwrap();
        while let Some(frame) = datagrams.next(&arrival.held, &self.buffers) {
            if batch.is_full() {
                self.end(batch, sent);
            }
            let keeps = self.flows.keep_any()
                && batch.keep(datagrams.kept(&arrival, &self.message, &self.buffers, &self.flows));
            batch.add(frame, keeps, &self.buffers, &self.flows, &self.stats);
        }
        self.buffers.release(arrival.held);
        if self.buffers.provided() == 0 {
            self.end(batch, sent);
        }
    }

    /// Sends what is in the batch.
    fn end(&mut self, batch: &mut Batch<Held>, sent: &mut Sent) {
        gso_packets::make(0, batch, &self.flows, &self.buffers, &self.stats, sent);
        for frame in batch.end().0 {
            self.buffers.release(frame.place);
        }
    }
}

/// The messages, cut as the kernel cuts them.
struct Sent {
    limits: GsoLimits,
    /// The same for every message, so that nothing of one may be left in the next.
    vnet_header: VnetHeader,
    /// The payloads of the message before.
    before: Vec<*const u8>,
    streams: Streams,
}

impl Outbox<Buffers> for Sent {
    fn limits(&self) -> GsoLimits {
        self.limits
    }

    unsafe fn post<'a, W, F>(&mut self, message: Message<W, F>, buffers: &'a Buffers)
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<Held>> + Clone,
    {
        let len = (message.write)(&mut self.vnet_header);
        let (vnet, headers) = self.vnet_header.bytes(len).split_at(VNET_LEN);
        let payloads: Vec<&[u8]> = message.frames.map(|frame| frame.payload(buffers)).collect();
        assert_eq!(payloads.len(), usize::from(message.count));
        let places: Vec<_> = payloads.iter().map(|payload| payload.as_ptr()).collect();
        if message.in_run.repeats {
            assert_eq!(places, self.before);
        }
        self.before = places;
        let frame = [headers, &payloads.concat()].concat();
        for datagram in self.cut(vnet, headers.len(), &frame, message.count) {
            let stream = (message.output, datagram.source_port, datagram.destination);
            self.streams.entry(stream).or_default().push(datagram);
        }
    }

    fn finish(&mut self) {
        self.before.clear();
    }
}

impl Sent {
    /// The datagrams that the kernel makes of a frame with a vnet header (`__udp_gso_segment` in
    /// net/ipv4/udp_offload.c).
    fn cut(&self, vnet: &[u8], headers: usize, frame: &[u8], count: u16) -> Vec<Fields> {
        let half = |at: usize| u16::from_ne_bytes([vnet[at], vnet[at + 1]]);
        let (flags, kind) = (vnet[0], vnet[1]);
        let fields = Fields::read(frame);
        if count == 1 {
            assert!(vnet.iter().all(|&byte| byte == 0), "{vnet:?}");
            return vec![fields];
        }
        let [hdr_len, gso_size, csum_start, csum_offset] = [2, 4, 6, 8].map(half);
        assert_eq!((flags, kind), (NEEDS_CSUM, GSO_UDP_L4));
        assert_eq!(usize::from(hdr_len), headers);
        assert_eq!((usize::from(csum_start), csum_offset), (headers - 8, 6));
        let partial = u16::from_be_bytes([frame[headers - 2], frame[headers - 1]]);
        assert_eq!(partial, fields.pseudo_sum());
        assert!(
            fields.payload.len() > usize::from(gso_size),
            "nothing to cut"
        );
        assert!(self.limits.take(count, frame.len()));
        let cut = Packet {
            fields,
            size: gso_size.into(),
            flags,
        };
        let cut = cut.cut();
        assert_eq!(cut.len(), usize::from(count));
        cut
    }
}

impl Packet {
    /// Its datagrams.
    fn cut(&self) -> Vec<Fields> {
        if self.size == 0 {
            return vec![self.fields.clone()];
        }
        let parts = self.fields.payload.chunks(self.size);
        let part = |(number, payload): (u16, &[u8])| Fields {
            id: match self.fields.destination {
                IpAddr::V4(_) => self.fields.id.wrapping_add(number),
                IpAddr::V6(_) => 0,
            },
            checksum: Checksum::Right,
            payload: payload.to_vec(),
            ..self.fields.clone()
        };
        (0..).zip(parts).map(part).collect()
    }

    /// What the kernel writes to a receive buffer: lengths, control data, and the message.
    fn as_received(&self) -> Vec<u8> {
        let frame = self.fields.write();
        let lengths = [0, 0, (VNET_LEN + frame.len()) as u32, 0];
        let mut bytes: Vec<u8> = lengths.into_iter().flat_map(u32::to_ne_bytes).collect();
        bytes.resize(bytes.len() + CONTROL_LEN, 0);
        let kind = if self.size == 0 { 0 } else { GSO_UDP_L4 };
        // A partial checksum covers the datagram, and its field is six bytes behind the start.
        let udp = frame.len() - self.fields.payload.len() - 8;
        let start = if self.flags == NEEDS_CSUM { udp } else { 0 };
        bytes.extend([self.flags, kind, 0, 0]);
        bytes.extend(
            [self.size, start, 6]
                .map(|number| (number as u16).to_ne_bytes())
                .concat(),
        );
        bytes.extend(frame);
        bytes
    }
}

/// The next packet of one of the senders, each of which numbers its datagrams.
fn packet(u: &mut Unstructured<'_>, senders: &mut [u16; 3]) -> Result<Packet> {
    let sender = u.choose_index(senders.len())?;
    let destination: IpAddr = match u.int_in_range(0..=5)? {
        0..=2 => Ipv4Addr::new(239, 1, 1, 1).into(),
        3 | 4 => Ipv4Addr::new(239, 1, 2, u.int_in_range(0..=3)?).into(),
        _ => Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 1).into(),
    };
    let is_v4 = destination.is_ipv4();
    let size = *u.choose(&[100_usize, 100, 100, 99, 1, 0, 700, 1472])?;
    let count = *u.choose(&[1_usize, 1, 1, 1, 2, 3, 7, 40])?;
    let is_gso = count > 1 && size > 0 && count * size < 60_000;
    let len = match is_gso {
        true => count * size - u.int_in_range(0..=size - 1)?,
        false => size,
    };
    // Now and then one is missing, or out of order.
    let skipped = *u.choose(&[0_u16, 0, 0, 0, 0, 1, 65_535])?;
    let number = &mut senders[sender];
    *number = number.wrapping_add(skipped);
    let id = if is_v4 { *number } else { 0 };
    *number = number.wrapping_add(if is_gso { len.div_ceil(size) as u16 } else { 1 });
    let (checksum, flags) = match is_gso {
        true => (Checksum::Partial, NEEDS_CSUM),
        false => *u.choose(&[
            (Checksum::Right, 0),
            (Checksum::Right, DATA_VALID),
            (Checksum::Partial, NEEDS_CSUM),
            (Checksum::Wrong, 0),
            (Checksum::Absent, 0),
        ])?,
    };
    let checksum = if is_v4 || checksum != Checksum::Absent {
        checksum
    } else {
        Checksum::Right
    };
    let first: u8 = u.arbitrary()?;
    Ok(Packet {
        fields: Fields {
            destination_mac: mac_of(destination),
            source_mac: [2, 0, 0, 0, 0, 1],
            tags: vec![],
            source: match is_v4 {
                true => Ipv4Addr::new(10, 1, 0, 2).into(),
                false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
            },
            destination,
            class: *u.choose(&[0, 0, 0, 0xb9])?,
            id,
            dont_fragment: is_v4 && u.ratio(1, 4)?,
            label: if is_v4 {
                0
            } else {
                *u.choose(&[0, 0, 0xabcde])?
            },
            ttl: *u.choose(&[9, 9, 9, 33, 1])?,
            source_port: 40_000 + sender as u16,
            port: 5001,
            checksum,
            payload: (0..len)
                .map(|at| first.wrapping_add((at / 7) as u8))
                .collect(),
        },
        size: if is_gso { size } else { 0 },
        flags,
    })
}

/// The copies of a datagram, each with its output, as [`RULES`] say.
fn copies(datagram: &Fields) -> Vec<(Stream, Fields)> {
    let own = Ipv4Addr::new(10, 0, 2, 1).into();
    let auto = if datagram.ttl == 33 { None } else { Some(64) };
    let less = Some(datagram.ttl - 1).filter(|&ttl| ttl > 0);
    let copy = |output: u32, destination: IpAddr, port, source: IpAddr, ttl: Option<u8>| {
        let room = if destination.is_ipv4() {
            MTU - 28
        } else {
            MTU - 48
        };
        let fields = Fields {
            destination_mac: mac_of(destination),
            source_mac: [2, 0, 0, 0, 0, 2],
            source,
            destination,
            ttl: ttl?,
            port,
            checksum: match datagram.checksum {
                Checksum::Partial => Checksum::Right,
                other => other,
            },
            ..datagram.clone()
        };
        let leaves = datagram.payload.len() <= room;
        leaves.then_some(((output, datagram.source_port, destination), fields))
    };
    let all = match datagram.destination {
        IpAddr::V4(group) if group.octets()[2] == 1 => {
            let to = |last| Ipv4Addr::new(239, 2, 1, last).into();
            let second = copy(1, to(2), 6002, own, less).map(|(stream, copy)| {
                let class = 46 << 2 | copy.class & 3;
                (stream, Fields { class, ..copy })
            });
            let third = copy(2, to(3), 6003, datagram.source, auto).map(|(stream, copy)| {
                let tags = vec![(0x8100, 9)];
                (stream, Fields { tags, ..copy })
            });
            vec![copy(0, to(1), 6001, own, auto), second, third]
        }
        IpAddr::V4(group) => {
            let to = Ipv4Addr::new(239, 2, 2, group.octets()[3]);
            vec![copy(3, to.into(), 6004, own, auto)]
        }
        IpAddr::V6(_) => {
            let to = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 2);
            vec![copy(4, to.into(), 6005, datagram.source, auto)]
        }
    };
    all.into_iter().flatten().collect()
}

/// What was sent, with what may differ from the datagram alone where it left in a GSO packet made
/// the same: whoever cuts it numbers atomic datagrams anew (RFC 6864), and computes a checksum
/// where there was none.
fn comparable(found: &Fields, expected: &Fields) -> Fields {
    let mut found = found.clone();
    if expected.dont_fragment {
        found.id = expected.id;
    }
    if expected.checksum == Checksum::Absent && found.checksum == Checksum::Right {
        found.checksum = Checksum::Absent;
    }
    found
}
