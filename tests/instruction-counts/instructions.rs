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

use std::{hint::black_box, net::Ipv4Addr};

use frames::{
    Checksum::{Complete, Partial},
    decoded, tagged, untagged,
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use relay::{
    config::rules::Ttl,
    datapath::flow_table::Flows,
    packet::{Known, Received, Target, Template},
};
use relay_common::wire::{Datagram, IPV4_HEADERS_LEN, Skip};
use worker::{FRAMES, Worker, for_a_ring, queued, received, sent, sorted};

#[library_benchmark]
#[bench::untagged(untagged())]
#[bench::tagged(tagged())]
fn decode(frame: &'static [u8]) -> Result<Datagram, Skip> {
    relay_common::wire::decode(black_box(frame))
}

library_benchmark_group!(name = wire, benchmarks = [decode]);

/// The flows of a worker, and the datagrams that arrive.
type LookUp = (&'static mut Flows, &'static mut [Datagram; FRAMES as usize]);

/// Look-ups of the same flow, except for the first one, among a hundred.
fn hit() -> LookUp {
    let (flows, datagrams) = cycle(100);
    datagrams.fill(worker::datagram(7));
    (flows, datagrams)
}

/// Look-ups, each of another flow than the one before, spread over all flows.
fn cycle(flows: u32) -> LookUp {
    // The stride and the numbers of flows have no common divisor.
    let datagrams = std::array::from_fn(|at| worker::datagram(at as u32 * 37 % flows));
    let flows = worker::flows(flows, 1);
    (Box::leak(Box::new(flows)), Box::leak(Box::new(datagrams)))
}

#[library_benchmark]
#[bench::hit(hit())]
#[bench::cycle_100(cycle(100))]
#[bench::cycle_10000(cycle(10_000))]
fn look_up_64((flows, datagrams): LookUp) {
    let input = flows.input(worker::INPUT).unwrap();
    for datagram in datagrams {
        black_box(flows.look_up(input, black_box(datagram)));
    }
}

library_benchmark_group!(name = flows, benchmarks = [look_up_64]);

#[library_benchmark]
#[bench::complete(decoded(1000, Complete))]
#[bench::partial(decoded(1000, Partial))]
fn read((frame, datagram): (&'static [u8], Datagram)) -> Option<Received> {
    Received::read(black_box(frame), black_box(&datagram), Known::Nothing)
}

/// What was read from a frame, and its payload.
type Read = (Received, &'static [u8]);

fn read_partial(payload: usize) -> Read {
    let (frame, datagram) = decoded(payload, Partial);
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

fn read_complete(payload: usize) -> Read {
    let (frame, datagram) = decoded(payload, Complete);
    let received = Received::read(frame, &datagram, Known::Nothing).unwrap();
    assert!(received.checksum_ok(&frame[IPV4_HEADERS_LEN..]));
    assert!(!received.checksum_ok(&[]));
    (received, &frame[IPV4_HEADERS_LEN..])
}

#[library_benchmark]
#[bench::bytes_64(read_complete(64))]
#[bench::bytes_1000(read_complete(1000))]
#[bench::bytes_1400(read_complete(1400))]
fn checksum_ok((received, payload): Read) -> bool {
    black_box(&received).checksum_ok(black_box(payload))
}

/// The templates of some outputs, a received datagram, and where each output's headers go.
type Outputs = (
    &'static [Template],
    &'static Received,
    &'static mut [[u8; IPV4_HEADERS_LEN]],
);

fn outputs(count: u8) -> Outputs {
    let template = |output: u8| {
        Template::new(&Target {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: [1, 0, 0x5e, 2, 2, output],
            source: Ipv4Addr::new(10, 2, 0, 1),
            destination: Ipv4Addr::new(239, 2, 2, output),
            port: 5002,
            ttl: Ttl::Decrement,
        })
    };
    let templates: Vec<Template> = (0..count).map(template).collect();
    let (received, _) = read_complete(1000);
    let headers = vec![[0; IPV4_HEADERS_LEN]; usize::from(count)];
    (
        templates.leak(),
        Box::leak(Box::new(received)),
        headers.leak(),
    )
}

#[library_benchmark]
#[bench::outputs_1(outputs(1))]
#[bench::outputs_4(outputs(4))]
#[bench::outputs_16(outputs(16))]
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
#[bench::outputs_1(outputs(1))]
#[bench::outputs_4(outputs(4))]
#[bench::outputs_16(outputs(16))]
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

#[library_benchmark]
#[bench::of_1_flow(received(1, 1, Complete))]
#[bench::of_1_flow_partial(received(1, 1, Partial))]
#[bench::of_64_flows(received(64, 1, Complete))]
fn sort_64_frames(worker: &'static mut Worker) {
    black_box(worker).sort();
}

#[library_benchmark]
#[bench::to_1_output(sorted(1, 1))]
#[bench::to_4_outputs(sorted(1, 4))]
#[bench::to_16_outputs(sorted(1, 16))]
fn make_1_run_of_64(worker: &'static mut Worker) {
    black_box(worker).make(|messages| {
        black_box(messages);
    });
}

#[library_benchmark]
#[bench::to_1_output(sorted(64, 1))]
#[bench::to_4_outputs(sorted(64, 4))]
#[bench::to_16_outputs(sorted(64, 16))]
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
#[bench::to_1_output(for_a_ring(1))]
#[bench::to_4_outputs(for_a_ring(4))]
#[bench::to_16_outputs(for_a_ring(16))]
fn forward_64_frames_to_a_port(worker: &'static mut Worker) {
    black_box(worker).end();
}

#[library_benchmark]
#[bench::of_64_frames(queued(1))]
#[bench::of_1024_frames(queued(16))]
fn kick_a_port(worker: &'static mut Worker) {
    black_box(worker).kick();
}

#[library_benchmark]
#[bench::of_1_flow(uring::received(1, 1))]
#[bench::of_64_flows(uring::received(64, 1))]
fn uring_sort_64_frames(worker: &'static mut uring::Worker) {
    black_box(worker).sort();
}

#[library_benchmark]
#[bench::of_1_run_to_1_output(uring::sorted(1, 1))]
#[bench::of_1_run_to_16_outputs(uring::sorted(1, 16))]
#[bench::of_64_runs_to_1_output(uring::sorted(64, 1))]
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
    benchmarks = [forward_64_frames_to_a_port, kick_a_port]
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
    poll_once,
    ring,
    io_uring
);
