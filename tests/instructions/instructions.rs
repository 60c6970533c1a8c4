//! Instructions that the arithmetic of the forwarding loop costs, counted by callgrind.
//!
//! One group for each step of the way of a frame: decode it, find its flow, read what its outputs have in common,
//! write each output's headers. A count does not depend on the machine's load, so `cargo xtask test` compares
//! it with `baseline.json`. Only the call under test is counted: set-up leaks what it makes, so that
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

use std::{hint::black_box, net::Ipv4Addr};

use etherparse::PacketBuilder;
use gungraun::{library_benchmark, library_benchmark_group, main};
use relay::{
    rewrite::{Received, Target, Template},
    rules::Ttl,
};
use relay_common::{
    abi::FlowKey,
    wire::{Datagram, IPV4_HEADERS_LEN, Skip},
};
use rustc_hash::FxHashMap;

/// Frames that a look-up benchmark looks up, each of the next flow: feeds that interleave.
const LOOK_UPS: u32 = 64;

/// A received frame with `payload` bytes behind its headers and a complete checksum, as a NIC delivers it.
fn frame(payload: usize) -> &'static mut [u8] {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
        .ipv4([10, 1, 0, 2], [239, 1, 1, 1], 16)
        .udp(40_000, 5001)
        .write(&mut frame, &vec![0x5a; payload])
        .unwrap();
    frame.leak()
}

/// A frame of 1000 bytes, its header included.
fn untagged() -> &'static [u8] {
    let frame = frame(1000 - IPV4_HEADERS_LEN);
    assert_eq!(frame.len(), 1000);
    assert!(relay_common::wire::decode(frame).is_ok());
    frame
}

/// The same with an 802.1Q tag, and 4 bytes of payload less.
fn tagged() -> &'static [u8] {
    let mut frame = untagged().to_vec();
    frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    let frame = frame.leak();
    assert_eq!(relay_common::wire::decode(frame).unwrap().vlan, 7);
    frame
}

#[library_benchmark]
#[bench::untagged(untagged())]
#[bench::tagged(tagged())]
fn decode(frame: &'static [u8]) -> Result<Datagram, Skip> {
    relay_common::wire::decode(black_box(frame))
}

library_benchmark_group!(name = wire, benchmarks = [decode]);

/// The flows of a worker as the loop keeps them, and the keys of the frames that come in.
type LookUp = (
    &'static FxHashMap<FlowKey, u32>,
    &'static [FlowKey; LOOK_UPS as usize],
);

/// `flows` groups on one interface, counted up from 239.1.0.0, and look-ups spread over them.
fn among(flows: u32) -> LookUp {
    let key = |flow: u32| FlowKey {
        interface: 3,
        group: (0xef01_0000 | flow).to_be_bytes(),
        port: 5001,
        vlan: Datagram::UNTAGGED,
    };
    let by_key = (0..flows).map(|flow| (key(flow), flow)).collect();
    // The stride has no divisor in common with the numbers of flows.
    let keys = std::array::from_fn(|at| key(at as u32 * 37 % flows));
    (Box::leak(Box::new(by_key)), Box::leak(Box::new(keys)))
}

#[library_benchmark]
#[bench::in_1(among(1))]
#[bench::in_100(among(100))]
#[bench::in_10000(among(10_000))]
fn look_up_64((by_key, keys): LookUp) {
    for key in keys {
        black_box(by_key.get(black_box(key)));
    }
}

library_benchmark_group!(name = flows, benchmarks = [look_up_64]);

/// A frame with `payload` bytes whose checksum is complete, decoded.
fn complete(payload: usize) -> (&'static [u8], Datagram) {
    let frame = frame(payload);
    (frame, relay_common::wire::decode(frame).unwrap())
}

/// The same with a partial checksum, as a local socket sends it over veth: the folded sum of the pseudo-header.
fn partial(payload: usize) -> (&'static [u8], Datagram) {
    let frame = frame(payload);
    let pseudo: u32 = frame[26..34]
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum::<u32>()
        + 17
        + payload as u32
        + 8;
    let folded = (pseudo & 0xffff) + (pseudo >> 16);
    frame[40..42].copy_from_slice(&u16::try_from(folded).unwrap().to_be_bytes());
    (frame, relay_common::wire::decode(frame).unwrap())
}

#[library_benchmark]
#[bench::bytes_1000(complete(1000))]
fn read_complete((frame, datagram): (&'static [u8], Datagram)) -> Option<Received> {
    Received::read(black_box(frame), black_box(&datagram))
}

#[library_benchmark]
#[bench::bytes_64(partial(64))]
#[bench::bytes_1000(partial(1000))]
#[bench::bytes_1400(partial(1400))]
fn read_partial((frame, datagram): (&'static [u8], Datagram)) -> Option<Received> {
    Received::read(black_box(frame), black_box(&datagram))
}

/// The templates of some outputs, a received datagram, and where each output's headers go.
type Outputs = (
    &'static [Template],
    &'static Received,
    &'static mut [[u8; IPV4_HEADERS_LEN]],
);

fn outputs(count: u8) -> Outputs {
    let template = |output: u8| {
        let group = Ipv4Addr::new(239, 2, 2, output);
        Template::new(&Target {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: [1, 0, 0x5e, 2, 2, output],
            source: Ipv4Addr::new(10, 2, 0, 1),
            destination: group,
            port: 5002,
            ttl: Ttl::Decrement,
        })
    };
    let templates: Vec<Template> = (0..count).map(template).collect();
    let (frame, datagram) = complete(1000);
    let received = Received::read(frame, &datagram).unwrap();
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
    for (template, header) in templates.iter().zip(headers) {
        let received = black_box(received);
        if let Some(ttl) = template.ttl(received) {
            template.write(black_box(header), received, ttl);
        }
    }
}

library_benchmark_group!(
    name = rewrite,
    benchmarks = [read_complete, read_partial, write]
);

main!(library_benchmark_groups = wire, flows, rewrite);
