//! The two ends of every trial, wired to each other: every generated frame arrives and is right,
//! and the sinks notice everything that is wrong with a frame.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    os::fd::AsFd as _,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use relay_bench::{
    framing::{Framing, SOURCE6, group6},
    generator::{Generator, Traffic},
    programs::abi::{MAGIC, SlotState, Stamp},
    sink::{Expected, NextHop, Sink},
    unmatched::{self, Kind},
    wire::{Shape, Wires},
};
use relay_tests::{
    capture::target_directory,
    inspect::{self, UdpChecksum},
    relay::binary,
    sys::{self, Batch, Receives},
};
use socket2::{Domain, Protocol, Socket, Type};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 2, 0, 1);
const PORT: u16 = 6000;
const PAYLOAD: usize = 100;
const CPU: usize = 1;

/// The kernel programs that `cargo xtask test` has compiled.
fn programs() -> PathBuf {
    target_directory().join("ebpf/bench.o")
}

fn wires() -> Result<Wires> {
    Wires::new(Shape {
        interfaces: 1,
        mtu: 1500,
        ipv6: false,
    })
}

fn traffic(rate: u64, seconds: f64, flows: usize) -> Traffic {
    let flow = |n: usize| (Ipv4Addr::new(239, 1, 0, n as u8 + 1), 5001);
    Traffic {
        rate,
        seconds,
        payload: PAYLOAD,
        flows: (0..flows).map(flow).collect(),
        senders: 1,
        framing: Framing::Ipv4,
    }
}

/// A sink at the contender's input, with nothing between it and the generator.
fn direct(wires: &Wires, traffic: &Traffic, next_hop: NextHop) -> Result<Sink> {
    let mut sink = Sink::attach(&programs(), std::slice::from_ref(&wires.input), next_hop)?;
    let expected: Vec<Expected> = (0..)
        .zip(&traffic.flows)
        .map(|(flow, &(group, port))| Expected {
            wire: 0,
            group,
            port,
            flows: flow..flow + 1,
            ipv6: traffic.framing == Framing::Ipv6,
        })
        .collect();
    sink.expect(&expected, traffic.payload)?;
    Ok(sink)
}

fn everything_arrives(framing: Framing, next_hop: NextHop) -> Result<()> {
    let traffic = Traffic {
        framing,
        ..traffic(50_000, 0.5, 3)
    };
    let wires = wires()?;
    let mut sink = direct(&wires, &traffic, next_hop)?;
    let mut generator = Generator::new(&programs(), &wires.source, CPU)?;
    let sent = generator.run(&traffic)?;
    sink.settle()?;
    assert_eq!(sent.frames, 25_000);
    assert_eq!(sent.per_flow, [8334, 8333, 8333]);
    assert_eq!(wires.refused()?, 0);
    let received = sink.read()?;
    for (slot, &count) in received.slots.iter().zip(&sent.per_flow) {
        let exact = SlotState {
            next: count,
            received: count,
            ..SlotState::default()
        };
        assert_eq!(*slot, exact);
    }
    assert_eq!(received.latency.count(), 25_000);
    assert!(received.latency.per_mille(500.0) > Some(0));
    Ok(())
}

#[test]
fn a_plain_host_counts_every_frame_that_was_generated() -> Result<()> {
    everything_arrives(Framing::Ipv4, NextHop::Host)?;
    everything_arrives(Framing::Ipv6, NextHop::Host)
}

#[test]
fn a_host_with_xdp_counts_every_frame_that_was_generated() -> Result<()> {
    everything_arrives(Framing::Ipv4, NextHop::Xdp)?;
    everything_arrives(Framing::Ipv6, NextHop::Xdp)
}

#[test]
fn the_generator_is_not_faster_than_asked() -> Result<()> {
    let (wires, traffic) = (wires()?, traffic(20_000, 0.5, 1));
    let _sink = direct(&wires, &traffic, NextHop::Xdp)?;
    let start = std::time::Instant::now();
    let sent = Generator::new(&programs(), &wires.source, CPU)?.run(&traffic)?;
    // Slower is no fault, because the machine may have other work; but the rate must show it.
    assert!(start.elapsed() >= Duration::from_millis(499));
    assert!(sent.seconds >= 0.499, "{sent:?}");
    assert!(sent.seconds <= start.elapsed().as_secs_f64(), "{sent:?}");
    Ok(())
}

#[test]
fn a_generated_frame_is_valid_to_the_last_byte() -> Result<()> {
    let wires = wires()?;
    let mut generator = Generator::new(&programs(), &wires.source, CPU)?;
    let payloads = [24, 64, 999, 1472].map(|payload| (Framing::Ipv4, payload));
    // The packet socket gets tagged frames without their tag.
    for (framing, payload) in payloads.into_iter().chain([(Framing::Tagged, 999)]) {
        let traffic = Traffic {
            framing,
            payload,
            ..traffic(10_000, 0.05, 2)
        };
        let socket = wires.input.packet_socket(Receives::Arriving)?;
        generator.run(&traffic)?;
        let mut batch = Batch::new(1000, 2048);
        let mut frames = 0_u64;
        while batch.receive(socket.as_fd())? > 0 {
            for message in batch.messages() {
                let Some(found) = inspect::datagram(message.bytes, message.partial_checksum) else {
                    continue;
                };
                let (flow, sequence) = (frames % 2, frames / 2);
                assert!(found.ip_checksum_valid, "{found:?}");
                assert_eq!(found.checksum, UdpChecksum::Valid, "{found:?}");
                assert_eq!(found.destination, traffic.flows[flow as usize].0);
                assert_eq!(u64::from(found.identification), sequence);
                assert_eq!(found.source_mac, wires.source.mac);
                assert_eq!(found.payload.len(), payload);
                let stamp = Stamp::new(flow as u32, sequence, 0).to_bytes();
                assert_eq!(found.payload[..16], stamp[..16]);
                // RTP version 2, without padding, extension and sources; then its number.
                assert_eq!(found.payload[0], 0x80);
                assert_eq!(found.payload[2..4], (sequence as u16).to_be_bytes());
                frames += 1;
            }
        }
        assert_eq!(frames, 500);
    }
    Ok(())
}

#[test]
fn a_generated_frame_over_ipv6_is_valid_to_the_last_byte() -> Result<()> {
    let wires = wires()?;
    let traffic = Traffic {
        framing: Framing::Ipv6,
        ..traffic(10_000, 0.05, 2)
    };
    let socket = wires.input.packet_socket(Receives::Arriving)?;
    Generator::new(&programs(), &wires.source, CPU)?.run(&traffic)?;
    let mut batch = Batch::new(1000, 2048);
    let mut frames = 0_usize;
    while batch.receive(socket.as_fd())? > 0 {
        for message in batch.messages() {
            let found = SlicedPacket::from_ethernet(message.bytes)?;
            let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) =
                (&found.net, &found.transport)
            else {
                continue;
            };
            let flow = frames % 2;
            let header = ip.header();
            assert_eq!(header.source_addr(), SOURCE6);
            assert_eq!(header.destination_addr(), group6(traffic.flows[flow].0));
            let right = udp
                .to_header()
                .calc_checksum_ipv6(&header.to_header(), udp.payload())?;
            assert_eq!(udp.checksum(), right);
            assert_eq!(udp.payload().len(), PAYLOAD);
            assert_eq!(udp.payload()[..2], MAGIC.to_ne_bytes());
            frames += 1;
        }
    }
    assert_eq!(frames, 500);
    Ok(())
}

#[test]
fn senders_take_turns_each_with_an_address_and_a_port() -> Result<()> {
    let wires = wires()?;
    let traffic = Traffic {
        senders: 2,
        ..traffic(10_000, 0.05, 1)
    };
    let socket = wires.input.packet_socket(Receives::Arriving)?;
    let sent = Generator::new(&programs(), &wires.source, CPU)?.run(&traffic)?;
    assert_eq!(sent.per_flow, [250, 250]);
    let mut batch = Batch::new(1000, 2048);
    let mut sources = Vec::new();
    while batch.receive(socket.as_fd())? > 0 {
        for message in batch.messages() {
            let Some(found) = inspect::datagram(message.bytes, message.partial_checksum) else {
                continue;
            };
            assert!(found.ip_checksum_valid, "{found:?}");
            assert_eq!(found.checksum, UdpChecksum::Valid, "{found:?}");
            assert_eq!(found.destination, traffic.flows[0].0);
            sources.push((found.source_mac, found.source, found.source_port));
        }
    }
    assert_eq!(sources.len(), 500);
    let (one, other) = (sources[0], sources[1]);
    let differ = one.0 != other.0 && one.1 != other.1 && one.2 != other.2;
    assert!(differ, "{one:?} and {other:?}");
    assert!(sources.chunks(2).all(|pair| pair == [one, other]));
    Ok(())
}

#[test]
fn what_is_lost_on_the_way_is_missing() -> Result<()> {
    // Long enough for the link to come up again before the end: other tests on the machine can hold
    // the kernel's one lock for links (rtnl) for a second.
    let (wires, traffic) = (wires()?, traffic(10_000, 4.0, 1));
    let mut sink = direct(&wires, &traffic, NextHop::Host)?;
    let mut generator = Generator::new(&programs(), &wires.source, CPU)?;
    let sent = thread::scope(|scope| {
        let running = scope.spawn(|| generator.run(&traffic));
        thread::sleep(Duration::from_millis(300));
        wires.relay.ip("link set in0 down")?;
        wires.relay.ip("link set in0 up")?;
        running
            .join()
            .map_err(|_| anyhow::anyhow!("the generator panicked"))?
    })?;
    sink.settle()?;
    let slot = sink.read()?.slots[0];
    assert!(slot.missing > 0, "{slot:?}");
    assert!(slot.received > 0, "{slot:?}");
    assert_eq!(slot.next, sent.frames, "the end arrived: {slot:?}");
    assert_eq!(slot.received + slot.missing, sent.frames, "{slot:?}");
    assert_eq!((slot.late, slot.bad), (0, 0));
    Ok(())
}

/// A sender at the contender's place, and the sink at the far end of its output.
struct Sender {
    wires: Wires,
    sink: Sink,
    socket: Socket,
}

impl Sender {
    /// The sink expects one flow, number 7.
    fn new(next_hop: NextHop) -> Result<Self> {
        Self::of_flows(next_hop, 7..8)
    }

    fn of_flows(next_hop: NextHop, flows: Range<u32>) -> Result<Self> {
        let wires = wires()?;
        let mut sink = Sink::attach(&programs(), &wires.sinks, next_hop)?;
        let expected = Expected {
            wire: 0,
            group: GROUP,
            port: PORT,
            flows,
            ipv6: false,
        };
        sink.expect(&[expected], PAYLOAD)?;
        let socket = wires.relay.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_multicast_if_v4(&wires.outputs[0].address)?;
            Ok(socket)
        })?;
        Ok(Self {
            wires,
            sink,
            socket,
        })
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        self.socket
            .send_to(bytes, &SocketAddrV4::new(GROUP, PORT).into())?;
        Ok(())
    }

    fn received(&mut self) -> Result<SlotState> {
        self.sink.settle()?;
        Ok(self.sink.read()?.slots[0])
    }

    /// Frames, or GSO packets, that the sink's interface has received.
    fn frames(&self) -> Result<u64> {
        let shown = self.wires.sinks[0]
            .namespace
            .tool("cat", &["/proc/net/dev"])?;
        let line = shown
            .lines()
            .find_map(|line| line.trim().strip_prefix("sink0:"));
        let packets = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(packets.context("no sink0 in /proc/net/dev")?.parse()?)
    }
}

fn payload(flow: u32, sequence: u64) -> Vec<u8> {
    let mut bytes = Stamp::new(flow, sequence, 0).to_bytes().to_vec();
    bytes.resize(PAYLOAD, 0);
    bytes
}

/// `UDP_SEGMENT` (linux/udp.h).
const UDP_SEGMENT: i32 = 103;

fn segments_are_counted(next_hop: NextHop) -> Result<()> {
    let mut sender = Sender::new(next_hop)?;
    sys::set_option(
        sender.socket.as_fd(),
        libc::SOL_UDP,
        UDP_SEGMENT,
        &(PAYLOAD as i32),
    )?;
    for first in [0, 32] {
        sender.send(
            &(first..first + 32)
                .flat_map(|n| payload(7, n))
                .collect::<Vec<_>>(),
        )?;
    }
    let exact = SlotState {
        next: 64,
        received: 64,
        ..SlotState::default()
    };
    assert_eq!(sender.received()?, exact);
    Ok(())
}

#[test]
fn every_segment_of_a_gso_packet_is_counted() -> Result<()> {
    segments_are_counted(NextHop::Host)
}

#[test]
fn gso_packets_that_the_kernel_cuts_for_xdp_are_counted() -> Result<()> {
    segments_are_counted(NextHop::Xdp)
}

#[test]
fn a_plain_host_gets_gso_packets_whole() -> Result<()> {
    let sender = Sender::new(NextHop::Host)?;
    let before = sender.frames()?;
    let size = &(PAYLOAD as i32);
    sys::set_option(sender.socket.as_fd(), libc::SOL_UDP, UDP_SEGMENT, size)?;
    sender.send(&[0; 32 * PAYLOAD])?;
    assert_eq!(sender.frames()? - before, 1);
    Ok(())
}

#[test]
fn wrong_datagrams_are_told_apart() -> Result<()> {
    for next_hop in [NextHop::Host, NextHop::Xdp] {
        let mut sender = Sender::new(next_hop)?;
        sender.send(&payload(7, 0))?;
        sender.send(&payload(7, 3))?;
        // Out of order, and a second time.
        sender.send(&payload(7, 1))?;
        sender.send(&payload(7, 3))?;
        // Another flow, another length, no stamp.
        sender.send(&payload(8, 4))?;
        sender.send(&payload(7, 4)[..PAYLOAD - 1])?;
        sender.send(&[0; PAYLOAD])?;
        sender.send(b"short")?;
        let expected = SlotState {
            next: 4,
            received: 4,
            missing: 2,
            late: 2,
            bad: 4,
        };
        assert_eq!(sender.received()?, expected, "{next_hop:?}");
        sender.sink.drain()?;
        assert_eq!(sender.received()?, SlotState::default());
    }
    Ok(())
}

#[test]
fn each_senders_order_is_its_own() -> Result<()> {
    for next_hop in [NextHop::Host, NextHop::Xdp] {
        let mut sender = Sender::of_flows(next_hop, 7..9)?;
        let size = &(PAYLOAD as i32);
        sys::set_option(sender.socket.as_fd(), libc::SOL_UDP, UDP_SEGMENT, size)?;
        let datagrams = [
            (7, 0),
            (8, 0),
            (8, 1),
            (7, 1),
            (8, 3),
            (8, 2),
            (6, 0),
            (9, 0),
        ];
        let datagrams = datagrams.map(|(flow, sequence)| payload(flow, sequence));
        sender.send(&datagrams.concat())?;
        sender.sink.settle()?;
        let one = SlotState {
            next: 2,
            received: 2,
            ..SlotState::default()
        };
        let other = SlotState {
            next: 4,
            received: 4,
            missing: 1,
            late: 1,
            bad: 0,
        };
        let slots = sender.sink.read()?.slots;
        // Those of neither may count as wrong at either.
        assert_eq!(slots.iter().map(|slot| slot.bad).sum::<u64>(), 2);
        let good: Vec<_> = slots
            .iter()
            .map(|slot| SlotState { bad: 0, ..*slot })
            .collect();
        assert_eq!(good, [one, other], "{next_hop:?}");
    }
    Ok(())
}

#[test]
fn two_outputs_that_look_the_same_are_refused() -> Result<()> {
    let wires = wires()?;
    let mut sink = Sink::attach(&programs(), &wires.sinks, NextHop::Host)?;
    let one = Expected {
        wire: 0,
        group: GROUP,
        port: PORT,
        flows: 0..1,
        ipv6: false,
    };
    let error = sink.expect(&[one.clone(), one], PAYLOAD).unwrap_err();
    assert!(error.to_string().contains("twice"), "{error:#}");
    Ok(())
}

#[test]
fn frames_that_no_rule_takes_reach_the_stack_at_a_rate() -> Result<()> {
    let relay = binary()?;
    for kind in &Kind::ALL {
        let pairs = unmatched::measure(kind, &relay, &programs(), 1, 0.05)?;
        assert_eq!(pairs.len(), 1);
        for pair in pairs {
            // Both do little for a frame, whatever else the machine does.
            assert!(pair.pass > 10_000.0, "{}: {pair:?}", kind.name);
            assert!(pair.relay > pair.pass / 10.0, "{}: {pair:?}", kind.name);
        }
    }
    Ok(())
}
