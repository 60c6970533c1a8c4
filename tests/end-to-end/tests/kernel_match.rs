//! Random flows in the maps of both kernel programs, and random frames through them
//! (`BPF_PROG_TEST_RUN`): the flow that takes a frame is the most specific one, after every change.
//!
//! Each flow has a limit that is used up, whose count tells which flow took the frame.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "frames in memory, in a test"
)]

mod kernel_program;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
    programs::{SocketFilter, TestRun as _, TestRunOptions, Xdp},
};
use etherparse::PacketBuilder;
use kernel_program::program;
use relay::config::rules::{PortMatch, Prefix};
use relay::kernel::{FlowMaps, Interfaces};
use relay::matching::{Index, MatchKey, Write};
use relay_common::{
    abi::{self, Counter, InterfaceValue, LimitValue},
    matching::{FlowPresence, FlowValue},
    wire::{ETHERNET_LEN, Vlan, ethernet::field as ethernet},
};

/// `BPF_PROG_TEST_RUN` says that frames came in by the loopback device of the namespace.
const LOOPBACK: u32 = 1;
const SLOT: u8 = 3;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Flows that are open at once, at most.
const MOST: u32 = 64;

/// The same numbers in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Groups, and addresses of the host.
const GROUPS: [&str; 13] = [
    "239.1.1.0",
    "239.1.1.1",
    "239.1.1.2",
    "239.1.2.1",
    "232.0.0.1",
    "ff3e::1",
    "ff3e::2",
    "ff3e::1:1",
    "ff3e:0:0:1::1",
    "ff15::1",
    "10.1.0.1",
    "10.1.0.2",
    "2a01:db8::1",
];
const PORTS: [u16; 8] = [1, 2, 3, 4, 5, 9, 65534, 65535];

fn source(random: &mut Random, is_v6: bool) -> IpAddr {
    address(if is_v6 {
        random.one_of(&["2001:db8::7", "2001:db8::8", "2001:db8::9"])
    } else {
        random.one_of(&["10.1.1.7", "10.1.1.8", "10.1.1.9"])
    })
}

fn vlan(random: &mut Random) -> Vlan {
    random.one_of(&[
        Vlan::UNTAGGED,
        Vlan::UNTAGGED,
        Vlan::tag(5),
        Vlan::double(5, 6),
    ])
}

fn key(random: &mut Random) -> MatchKey {
    let group = address(random.one_of(&GROUPS));
    let (a, b) = (random.one_of(&PORTS), random.one_of(&PORTS));
    let lengths: &[u8] = match group {
        IpAddr::V4(_) if !group.is_multicast() => &[32],
        IpAddr::V6(_) if !group.is_multicast() => &[128],
        IpAddr::V4(_) => &[4, 8, 24, 30, 31, 32, 32],
        IpAddr::V6(_) => &[4, 8, 32, 64, 127, 128, 128],
    };
    MatchKey {
        slot: SLOT,
        vlan: vlan(random),
        group: Prefix::around(group, random.one_of(lengths)).expect("a length"),
        ports: match random.below(4) {
            0 | 1 => PortMatch::One(a),
            2 => PortMatch::Range(a.min(b), a.max(b)),
            _ => PortMatch::Any,
        },
        source: match random.below(2) {
            0 => None,
            _ => Some(source(random, group.is_ipv6())),
        },
    }
}

/// Whether two flows are equally specific and could take one datagram.
fn conflict(one: &MatchKey, other: &MatchKey) -> bool {
    let overlap = match (one.ports, other.ports) {
        (PortMatch::One(a), PortMatch::One(b)) => a == b,
        (PortMatch::Range(a, b), PortMatch::Range(c, d)) => a <= d && c <= b,
        (PortMatch::Any, PortMatch::Any) => true,
        _ => false,
    };
    overlap
        && MatchKey {
            ports: one.ports,
            ..*other
        } == *one
}

/// A frame, as far as flows are about it.
#[derive(Debug, Clone, Copy)]
struct Probe {
    group: IpAddr,
    source: IpAddr,
    port: u16,
    vlan: Vlan,
}

impl Probe {
    fn new(random: &mut Random) -> Self {
        let group = address(random.one_of(&GROUPS));
        Self {
            group,
            source: source(random, group.is_ipv6()),
            port: random.one_of(&PORTS),
            vlan: vlan(random),
        }
    }

    fn frame(&self) -> Vec<u8> {
        let mac = match self.group {
            host if !host.is_multicast() => MAC,
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                [1, 0, 0x5e, b & 0x7f, c, d]
            }
            IpAddr::V6(group) => {
                let [.., a, b, c, d] = group.octets();
                [0x33, 0x33, a, b, c, d]
            }
        };
        let mut frame = Vec::new();
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac);
        let ip = match (self.source, self.group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                link.ipv4(source.octets(), group.octets(), 9)
            }
            (IpAddr::V6(source), IpAddr::V6(group)) => {
                link.ipv6(source.octets(), group.octets(), 9)
            }
            _ => panic!("a source of another version"),
        };
        ip.udp(40_000, self.port)
            .write(&mut frame, b"payload")
            .expect("a frame in memory");
        let mut tag = |tpid: u16, id: u16| {
            let [a, b] = tpid.to_be_bytes();
            let [c, d] = id.to_be_bytes();
            let at = ethernet::TYPE.start;
            frame.splice(at..at, [a, b, c, d]);
        };
        match self.vlan.ids() {
            (0, 0) => {}
            (0, id) => tag(0x8100, id),
            (outer, inner) => {
                tag(0x8100, inner);
                tag(0x88a8, outer);
            }
        }
        frame
    }

    /// The rule in one sentence: of the flows that match, the one that names the source, with the
    /// longest prefix, with one port, or else a range, or else any.
    fn taken_by(&self, flows: &[(MatchKey, u32)]) -> Option<u32> {
        let matching = flows.iter().filter(|(key, _)| {
            key.vlan == self.vlan
                && key.group.contains(self.group)
                && key.ports.contains(self.port)
                && key.source.is_none_or(|source| source == self.source)
        });
        let specific = |key: &MatchKey| {
            let form = match key.ports {
                PortMatch::One(_) => 2,
                PortMatch::Range(..) => 1,
                PortMatch::Any => 0,
            };
            (key.source.is_some(), key.group.length(), form)
        };
        matching
            .max_by_key(|(key, _)| specific(key))
            .map(|&(_, number)| number)
    }
}

/// A program with its maps.
struct Loaded {
    ebpf: Ebpf,
    flows: FlowMaps,
    counters: PerCpuArray<MapData, u64>,
    over: PerCpuArray<MapData, u64>,
    presence: Array<MapData, u64>,
    is_xdp: bool,
}

impl Loaded {
    fn new(is_xdp: bool) -> Result<Self> {
        let mut ebpf = if is_xdp {
            relay::kernel::load_with(MOST)?
        } else {
            relay::kernel::load_filter_with(MOST)?
        };
        if is_xdp {
            program::<Xdp>(&mut ebpf, abi::PROGRAM)?.load()?;
        } else {
            program::<SocketFilter>(&mut ebpf, abi::FILTER)?.load()?;
        }
        let map = |ebpf: &mut Ebpf, name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name}"))
        };
        // A handle of its own: the other one belongs to the maps of flows.
        let presence = ebpf.map(abi::PRESENCE).context("no presence bits")?;
        let aya::maps::Map::Array(presence) = presence else {
            anyhow::bail!("the presence bits are no array");
        };
        let presence = MapData::from_id(presence.info()?.id())?;
        let presence = Array::try_from(aya::maps::Map::Array(presence))?;
        let counters = PerCpuArray::try_from(map(&mut ebpf, abi::COUNTERS)?)?;
        let over = PerCpuArray::try_from(map(&mut ebpf, abi::OVER_LIMIT)?)?;
        let mut limits: Array<_, LimitValue> = Array::try_from(map(&mut ebpf, abi::LIMITS)?)?;
        for at in 0..MOST {
            // Due in the far future, so that every datagram is above it.
            let used_up = LimitValue {
                due: 1 << 63,
                interval: 1,
                slack: 0,
            };
            limits.set(at, used_up, 0)?;
        }
        Interfaces::take_from(&mut ebpf)?.serve(LOOPBACK, "lo", interface())?;
        Ok(Self {
            flows: FlowMaps::take_from(&mut ebpf)?,
            ebpf,
            counters,
            over,
            presence,
            is_xdp,
        })
    }

    fn run(&self, frame: &[u8]) -> Result<()> {
        let mut options = TestRunOptions::new();
        if self.is_xdp {
            options.data_in = Some(frame);
            let program: &Xdp = self
                .ebpf
                .program(abi::PROGRAM)
                .context("none")?
                .try_into()?;
            program.test_run(options)?;
        } else {
            // A socket filter is run from behind the Ethernet header on.
            let whole = [&[0; ETHERNET_LEN], frame].concat();
            options.data_in = Some(&whole);
            let program: &SocketFilter =
                self.ebpf.program(abi::FILTER).context("none")?.try_into()?;
            program.test_run(options)?;
        }
        Ok(())
    }

    /// How many presence bits are set.
    fn present(&self) -> Result<u32> {
        let words = (0..FlowPresence::WORDS).map(|at| Ok(self.presence.get(&at, 0)?.count_ones()));
        words.sum()
    }

    /// Runs a frame and checks that the flow with this number took it, or none.
    fn check(&self, probe: &Probe, expected: Option<u32>) -> Result<()> {
        let sum = |map: &PerCpuArray<MapData, u64>, at: u32| -> Result<u64> {
            Ok(map.get(&at, 0)?.iter().sum())
        };
        let (map, at) = match expected {
            Some(flow) => (&self.over, flow),
            None if !probe.group.is_multicast() => {
                let counter = interface().counter(Counter::PassNotMulticast);
                (&self.counters, counter)
            }
            None if probe.vlan == Vlan::UNTAGGED => {
                (&self.counters, interface().counter(Counter::PassNoRule))
            }
            None => (&self.counters, interface().counter(Counter::PassVlan)),
        };
        let before = sum(map, at)?;
        self.run(&probe.frame())?;
        let what = if self.is_xdp { "XDP" } else { "the filter" };
        assert_eq!(
            sum(map, at)? - before,
            1,
            "{what}: {probe:?} by {expected:?}"
        );
        Ok(())
    }
}

fn interface() -> InterfaceValue {
    InterfaceValue::new(SLOT.into(), MAC)
}

#[test]
fn the_most_specific_flow_takes_a_frame_after_every_change() -> Result<()> {
    let mut programs = [Loaded::new(true)?, Loaded::new(false)?];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut flows: Vec<(MatchKey, u32)> = Vec::new();
    let (mut taken, mut left) = (0, 0);
    for _ in 0..600 {
        let key = key(&mut random);
        let free = (0..MOST).find(|number| flows.iter().all(|(_, used)| used != number));
        match free {
            Some(number) if random.below(5) > 0 => {
                if flows.iter().any(|(other, _)| conflict(&key, other)) {
                    continue;
                }
                flows.push((key, number));
                for program in &mut programs {
                    let value = FlowValue::new(number, Some(number));
                    program.flows.open(key, value, "a")?;
                }
            }
            _ if flows.is_empty() => continue,
            _ => {
                let (key, _) = flows.swap_remove(random.below(flows.len()));
                for program in &mut programs {
                    program.flows.close(&key);
                }
            }
        }
        for _ in 0..20 {
            let probe = Probe::new(&mut random);
            let expected = probe.taken_by(&flows);
            match expected {
                Some(_) => taken += 1,
                None => left += 1,
            }
            for program in &programs {
                program.check(&probe, expected)?;
            }
        }
    }
    assert!(taken > 1000 && left > 1000, "{taken} taken, {left} left");
    for program in &mut programs {
        assert!(program.present()? > 0, "no flow has its bit");
        for (key, _) in &flows {
            program.flows.close(key);
        }
        assert_eq!(program.present()?, 0, "bits that no flow has");
    }
    Ok(())
}

/// Two flows with a source that share their presence bit.
fn two_with_one_bit(is_v6: bool) -> (MatchKey, MatchKey) {
    let mut known = HashMap::new();
    // Groups that follow one another share no bit.
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..1 << 16 {
        let number = random.below(1 << 24) as u32;
        let (group, length) = if is_v6 {
            (
                Ipv6Addr::from_bits(0xff3e << 112 | u128::from(number)).into(),
                128,
            )
        } else {
            (Ipv4Addr::from_bits(232 << 24 | number).into(), 32)
        };
        let key = MatchKey {
            slot: SLOT,
            vlan: Vlan::UNTAGGED,
            group: Prefix::around(group, length).expect("a length"),
            ports: PortMatch::One(1),
            source: Some(address(if is_v6 { "2001:db8::7" } else { "10.1.1.7" })),
        };
        let writes = Index::default().open(key, FlowValue::new(0, None));
        let mut bits = writes.expect("room").into_iter().filter_map(|write| {
            Some(match write {
                Write::Shaped4(key, _) => FlowPresence::from(&key),
                Write::Shaped6(key, _) => FlowPresence::from(&key),
                _ => return None,
            })
        });
        if let Some(other) = known.insert(bits.next().expect("an entry"), key) {
            return (other, key);
        }
    }
    panic!("no two flows share a bit");
}

#[test]
fn a_flow_is_found_as_long_as_it_is_open_also_when_one_that_shares_its_presence_bit_goes()
-> Result<()> {
    for is_v6 in [false, true] {
        let (one, other) = two_with_one_bit(is_v6);
        let probe = |key: &MatchKey| Probe {
            group: key.group.address(),
            source: key.source.expect("a source"),
            port: 1,
            vlan: Vlan::UNTAGGED,
        };
        for mut program in [Loaded::new(true)?, Loaded::new(false)?] {
            for (key, number) in [(one, 1), (other, 2)] {
                let value = FlowValue::new(number, Some(number));
                program.flows.open(key, value, "a")?;
            }
            // The one that they share, and one of each in the exact table.
            assert_eq!(program.present()?, 3);
            program.check(&probe(&one), Some(1))?;
            program.check(&probe(&other), Some(2))?;
            // Another value, and the same entry.
            program.flows.open(other, FlowValue::new(3, Some(3)), "a")?;
            program.flows.close(&one);
            program.check(&probe(&one), None)?;
            program.check(&probe(&other), Some(3))?;
            program.flows.close(&other);
            program.check(&probe(&other), None)?;
            assert_eq!(program.present()?, 0);
        }
    }
    Ok(())
}

#[test]
fn every_address_of_the_test_is_one_that_a_frame_can_have() {
    for group in GROUPS.map(address) {
        match group {
            IpAddr::V4(group) => assert!(group.is_multicast() || group.is_private()),
            IpAddr::V6(group) => {
                let special = group.is_loopback() || group.is_unspecified();
                let local = group.is_unicast_link_local();
                assert!(group.is_multicast() || !(special || local), "{group}");
            }
        }
    }
}
