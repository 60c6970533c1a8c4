//! Instructions that the forwarding loop costs, counted by callgrind: everything but the system
//! calls.
//!
//! One group for each step with a frame: decode it, find its flow, read what its outputs share,
//! write each output's headers; the group `poll_once` for a whole batch, from frames in chunks to
//! messages for `sendmmsg`; the group `ring` from frames in chunks through a TX ring, with a kernel
//! that does nothing; and the group `io_uring` from receive buffers to messages in their slots,
//! without a ring. A count does not depend on the machine's load, so `cargo xtask test` compares it
//! with `baseline.json`. Only the call under test is counted: set-up leaks what it makes, so that
//! nothing is freed inside a count.

#![expect(
    missing_docs,
    unused_qualifications,
    reason = "what the macros of gungraun expand to"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a set-up that does not give what the benchmark is named after must stop the run"
)]

mod frames;
mod uring;
mod worker;

use std::hint::black_box;

use frames::{
    Checksum::{Complete, Partial},
    Version::{self, V4, V6},
    decoded, tagged, untagged,
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use relay::{
    config::rules::{Counter, Header, Match, Monitor, Order, PortMatch, Ttl, Vlan},
    datapath::{
        flow_table::Flows,
        monitor::{self, FlowMonitor},
    },
    packet::{HEADERS_ROOM, Known, Received, Target, Template},
};
use relay_common::wire::{Datagram, IPV4_HEADERS_LEN, Skip};
use worker::{FRAMES, Worker, for_a_ring, for_a_sharing_ring, queued, received, sent, sorted};

#[library_benchmark]
#[bench::untagged(untagged(V4))]
#[bench::tagged(tagged())]
#[bench::ipv6(untagged(V6))]
fn decode(frame: &'static [u8]) -> Result<Datagram, Skip> {
    relay_common::wire::decode(black_box(frame))
}

library_benchmark_group!(name = wire, benchmarks = [decode]);

/// The flows of a worker, and the datagrams that arrive.
type LookUp = (&'static mut Flows, &'static mut [Datagram; FRAMES as usize]);

/// Look-ups of the same flow, except for the first one, among a hundred.
fn hit(version: Version) -> LookUp {
    let (flows, datagrams) = cycle(version, 100);
    // One of those that `cycle` has looked up.
    datagrams.fill(worker::datagram(version, 7));
    (flows, datagrams)
}

/// Look-ups, each of another flow than the one before, spread over all flows.
fn cycle(version: Version, flows: u32) -> LookUp {
    // The stride and the numbers of flows have no common divisor.
    let datagrams: [Datagram; FRAMES as usize] =
        std::array::from_fn(|at| worker::datagram(version, at as u32 * 37 % flows));
    // By others than those that are counted, which know no datagram yet.
    let mut tried = worker::flows(version, flows, 1);
    let input = tried.input(worker::INPUT).unwrap();
    let found = |datagram| tried.look_up(input, datagram).is_some();
    assert!(datagrams.iter().all(found));
    let flows = worker::flows(version, flows, 1);
    (Box::leak(Box::new(flows)), Box::leak(Box::new(datagrams)))
}

#[library_benchmark]
#[bench::hit(hit(V4))]
#[bench::hit_ipv6(hit(V6))]
#[bench::cycle_100(cycle(V4, 100))]
#[bench::cycle_100_ipv6(cycle(V6, 100))]
#[bench::cycle_10000(cycle(V4, 10_000))]
fn look_up_64((flows, datagrams): LookUp) {
    let input = flows.input(worker::INPUT).unwrap();
    for datagram in datagrams {
        black_box(flows.look_up(input, black_box(datagram)));
    }
}

library_benchmark_group!(name = flows, benchmarks = [look_up_64]);

#[library_benchmark]
#[bench::complete(decoded(V4, 1000, Complete))]
#[bench::complete_ipv6(decoded(V6, 1000, Complete))]
#[bench::partial(decoded(V4, 1000, Partial))]
#[bench::partial_ipv6(decoded(V6, 1000, Partial))]
fn read((frame, datagram): (&'static [u8], Datagram)) -> Option<Received> {
    Received::read(black_box(frame), black_box(&datagram), Known::Nothing)
}

/// What was read from a frame, and its payload.
type Read = (Received, &'static [u8]);

fn read_partial(payload: usize) -> Read {
    let (frame, datagram) = decoded(V4, payload, Partial);
    let received = Received::read(frame, &datagram, Known::Nothing).unwrap();
    assert_ne!(
        received.udp_sum(&frame[IPV4_HEADERS_LEN..]),
        received.udp_sum(&[])
    );
    (received, &frame[IPV4_HEADERS_LEN..])
}

#[library_benchmark]
#[bench::bytes_64(read_partial(64))]
#[bench::bytes_1000(read_partial(1000))]
#[bench::bytes_1400(read_partial(1400))]
fn udp_sum_partial((received, payload): Read) -> Option<u32> {
    black_box(&received).udp_sum(black_box(payload))
}

fn read_complete(version: Version, payload: usize) -> Read {
    let (frame, datagram) = decoded(version, payload, Complete);
    let received = Received::read(frame, &datagram, Known::Nothing).unwrap();
    assert!(received.checksum_ok(&frame[version.headers_len()..]));
    assert!(!received.checksum_ok(&[]));
    (received, &frame[version.headers_len()..])
}

#[library_benchmark]
#[bench::bytes_64(read_complete(V4, 64))]
#[bench::bytes_1000(read_complete(V4, 1000))]
#[bench::bytes_1400(read_complete(V4, 1400))]
fn checksum_ok((received, payload): Read) -> bool {
    black_box(&received).checksum_ok(black_box(payload))
}

/// The templates of some outputs, a received datagram, and where each output's headers go.
type Outputs = (
    &'static [Template],
    &'static Received,
    &'static mut [[u8; HEADERS_ROOM]],
);

fn outputs(version: Version, count: u8) -> Outputs {
    let template = |output: u8| {
        let (group, source) = version.output(output);
        let header = Header {
            ttl: Ttl::Decrement,
            ..Header::default()
        };
        Template::new(&Target {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: relay::plan::of_group(group),
            source: Some(source),
            group: group.into(),
            port: PortMatch::One(5002),
            header: &header,
            input: &Match {
                group: version.group(0).into(),
                ports: PortMatch::One(5001),
                sources: Vec::new(),
                vlan: Vlan::Untagged,
            },
        })
        .unwrap()
    };
    let templates: Vec<Template> = (0..count).map(template).collect();
    let (received, _) = read_complete(version, 1000);
    let headers = vec![[0; HEADERS_ROOM]; usize::from(count)];
    (
        templates.leak(),
        Box::leak(Box::new(received)),
        headers.leak(),
    )
}

#[library_benchmark]
#[bench::outputs_1(outputs(V4, 1))]
#[bench::outputs_4(outputs(V4, 4))]
#[bench::outputs_16(outputs(V4, 16))]
#[bench::outputs_16_ipv6(outputs(V6, 16))]
fn write((templates, received, headers): Outputs) {
    let udp_sum = received.udp_sum(&[]);
    for (template, header) in templates.iter().zip(headers) {
        let received = black_box(received);
        if let Some(ttl) = template.ttl(received) {
            template.write(black_box(header), received, ttl, black_box(udp_sum));
        }
    }
}

#[library_benchmark]
#[bench::outputs_1(outputs(V4, 1))]
#[bench::outputs_4(outputs(V4, 4))]
#[bench::outputs_16(outputs(V4, 16))]
#[bench::outputs_16_ipv6(outputs(V6, 16))]
fn write_joined((templates, received, headers): Outputs) {
    for (template, header) in templates.iter().zip(headers) {
        let received = black_box(received);
        if let Some(ttl) = template.ttl(received) {
            template.write_joined(black_box(header), received, ttl, black_box(64_000));
        }
    }
}

library_benchmark_group!(
    name = packet,
    benchmarks = [read, udp_sum_partial, checksum_ok, write, write_joined]
);

/// A monitor that knows its source, and the payloads that come next.
type Monitored = (&'static FlowMonitor, &'static [Vec<u8>]);

/// `payload` gives the payload with a number.
fn monitored(monitor: Monitor, payload: fn(u32) -> Vec<u8>) -> Monitored {
    let monitor = Box::leak(Box::new(FlowMonitor::new(monitor)));
    for number in 0..FRAMES {
        monitor.see(SOURCE, &payload(number), 0);
    }
    let payloads: Vec<Vec<u8>> = (FRAMES..2 * FRAMES).map(payload).collect();
    (monitor, payloads.leak())
}

/// The source of what is monitored, 10.1.1.2.
const SOURCE: monitor::Source = ([0, 0x0201_010a_ffff_0000], 40_000);

fn rtp(number: u32) -> Vec<u8> {
    let mut payload = vec![0x80, 33];
    payload.extend((number as u16).to_be_bytes());
    payload.extend((number * 90).to_be_bytes());
    payload.resize(1000, 1);
    payload
}

fn mpeg_ts(number: u32) -> Vec<u8> {
    let packet = |packet: u32| {
        let continuity = (number * 7 + packet) as u8 % 16;
        let mut bytes = vec![0x47, 1, 0, 0x10 | continuity];
        bytes.resize(188, 0xff);
        bytes
    };
    (0..7).flat_map(packet).collect()
}

fn moldudp64(number: u32) -> Vec<u8> {
    let mut payload = b"SESSION  1".to_vec();
    payload.extend(u64::from(number).to_be_bytes());
    payload.extend([0, 1, 0, 4]);
    payload.resize(1000, 1);
    payload
}

fn counter(number: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(1000, 1);
    payload
}

const COUNTER: Counter = Counter {
    offset: 0,
    bytes: 4,
    order: Order::Big,
};

#[library_benchmark]
#[bench::rtp(monitored(Monitor::Rtp, rtp))]
#[bench::mpeg_ts(monitored(Monitor::MpegTs, mpeg_ts))]
#[bench::moldudp64(monitored(Monitor::MoldUdp64, moldudp64))]
#[bench::counter(monitored(Monitor::Counter(COUNTER), counter))]
fn see_64((monitor, payloads): Monitored) {
    for payload in payloads {
        black_box(monitor).see(black_box(SOURCE), black_box(payload), black_box(1_000_000));
    }
}

library_benchmark_group!(name = monitors, benchmarks = [see_64]);

#[library_benchmark]
#[bench::of_1_flow(received(V4, 1, 1, Complete))]
#[bench::of_1_flow_ipv6(received(V6, 1, 1, Complete))]
#[bench::of_1_flow_partial(received(V4, 1, 1, Partial))]
#[bench::of_64_flows(received(V4, 64, 1, Complete))]
#[bench::of_64_flows_ipv6(received(V6, 64, 1, Complete))]
fn sort_64_frames(worker: &'static mut Worker) {
    black_box(worker).sort();
}

#[library_benchmark]
#[bench::to_1_output(sorted(V4, 1, 1))]
#[bench::to_4_outputs(sorted(V4, 1, 4))]
#[bench::to_16_outputs(sorted(V4, 1, 16))]
#[bench::to_16_outputs_ipv6(sorted(V6, 1, 16))]
fn make_1_run_of_64(worker: &'static mut Worker) {
    black_box(worker).make(|messages| {
        black_box(messages);
    });
}

#[library_benchmark]
#[bench::to_1_output(sorted(V4, 64, 1))]
#[bench::to_4_outputs(sorted(V4, 64, 4))]
#[bench::to_16_outputs(sorted(V4, 64, 16))]
#[bench::to_16_outputs_ipv6(sorted(V6, 64, 16))]
fn make_64_runs_of_1(worker: &'static mut Worker) {
    black_box(worker).make(|messages| {
        black_box(messages);
    });
}

#[library_benchmark]
#[bench::segmented(sent())]
fn end_64_frames(worker: &'static mut Worker) {
    black_box(worker).end();
}

#[library_benchmark]
#[bench::to_1_output(for_a_ring(V4, 1))]
#[bench::to_1_output_ipv6(for_a_ring(V6, 1))]
#[bench::to_4_outputs(for_a_ring(V4, 4))]
#[bench::to_16_outputs(for_a_ring(V4, 16))]
#[bench::to_16_outputs_ipv6(for_a_ring(V6, 16))]
fn forward_64_frames_to_a_port(worker: &'static mut Worker) {
    black_box(worker).end();
}

#[library_benchmark]
#[bench::to_1_output(for_a_sharing_ring(V4, 1))]
#[bench::to_4_outputs(for_a_sharing_ring(V4, 4))]
#[bench::to_16_outputs(for_a_sharing_ring(V4, 16))]
#[bench::to_16_outputs_ipv6(for_a_sharing_ring(V6, 16))]
fn ring_copy_with_shared_payload(worker: &'static mut Worker) {
    black_box(worker).end();
}

#[library_benchmark]
#[bench::of_64_frames(queued(1))]
#[bench::of_1024_frames(queued(16))]
fn kick_a_port(worker: &'static mut Worker) {
    black_box(worker).kick();
}

#[library_benchmark]
#[bench::of_1_flow(uring::received(V4, 1, 1))]
#[bench::of_1_flow_ipv6(uring::received(V6, 1, 1))]
#[bench::of_64_flows(uring::received(V4, 64, 1))]
fn uring_sort_64_frames(worker: &'static mut uring::Worker) {
    black_box(worker).sort();
}

#[library_benchmark]
#[bench::of_1_run_to_1_output(uring::sorted(V4, 1, 1))]
#[bench::of_1_run_to_16_outputs(uring::sorted(V4, 1, 16))]
#[bench::of_64_runs_to_1_output(uring::sorted(V4, 64, 1))]
#[bench::of_64_runs_to_1_output_ipv6(uring::sorted(V6, 64, 1))]
fn uring_post_64_frames(worker: &'static mut uring::Worker) {
    black_box(worker).post();
}

#[library_benchmark]
#[bench::of_16_messages(uring::posted(1, 16))]
#[bench::of_64_messages(uring::posted(64, 1))]
fn uring_complete(worker: &'static mut uring::Worker) {
    black_box(worker).complete();
}

library_benchmark_group!(
    name = io_uring,
    benchmarks = [uring_sort_64_frames, uring_post_64_frames, uring_complete]
);

library_benchmark_group!(
    name = ring,
    benchmarks = [
        forward_64_frames_to_a_port,
        ring_copy_with_shared_payload,
        kick_a_port
    ]
);

library_benchmark_group!(
    name = poll_once,
    benchmarks = [
        sort_64_frames,
        make_1_run_of_64,
        make_64_runs_of_1,
        end_64_frames
    ]
);

main!(
    library_benchmark_groups = wire,
    flows,
    packet,
    monitors,
    poll_once,
    ring,
    io_uring
);
