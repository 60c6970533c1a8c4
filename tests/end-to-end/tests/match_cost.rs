//! What the XDP program costs per frame, in time (`BPF_PROG_TEST_RUN`), by the flows that are open:
//! the figures of docs/decisions/0027. For figures run it alone, in release, on a quiet machine:
//! `cargo test --release -p relay-tests --test match_cost -- --nocapture`. The verdict leaves room
//! for other work on the machine: what a scan of all flows would cost is far beyond it.
#![expect(clippy::expect_used, reason = "frames in memory, in a test")]

mod kernel_program;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use etherparse::PacketBuilder;
use kernel_program::program;
use relay::config::rules::{PortMatch, Prefix};
use relay::kernel::{FlowMaps, Interfaces};
use relay::matching::MatchKey;
use relay_common::{
    abi::{self, Counter, InterfaceValue},
    matching::FlowValue,
    wire::{ETHERNET_LEN, Vlan, ethernet::field as ethernet, ipv4::field as ipv4},
};

/// `BPF_PROG_TEST_RUN` says that frames came in by the loopback device of the namespace.
const LOOPBACK: u32 = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const RUNS: u32 = 100_000;
const FLOWS: u32 = 10_000;
/// What all prices are compared with.
const ONE: &str = "1 exact: its frame";

struct Loaded {
    ebpf: Ebpf,
    flows: FlowMaps,
    counters: PerCpuArray<MapData, u64>,
}

fn interface() -> InterfaceValue {
    InterfaceValue::new(0, MAC)
}

impl Loaded {
    fn new(is_served: bool) -> Result<Self> {
        let mut ebpf = relay::kernel::load()?;
        program::<Xdp>(&mut ebpf, abi::PROGRAM)?.load()?;
        if is_served {
            Interfaces::take_from(&mut ebpf)?.serve(LOOPBACK, "lo", interface())?;
        }
        let counters = ebpf.take_map(abi::COUNTERS).context("no counters")?;
        Ok(Self {
            counters: PerCpuArray::try_from(counters)?,
            flows: FlowMaps::take_from(&mut ebpf)?,
            ebpf,
        })
    }

    fn open(&mut self, key: MatchKey) -> Result<()> {
        Ok(self.flows.open(key, FlowValue::new(1, None), "a")?)
    }

    /// Nanoseconds per run.
    fn run(&self, frame: &[u8], times: u32) -> Result<u64> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = times;
        let program: &Xdp = self
            .ebpf
            .program(abi::PROGRAM)
            .context("none")?
            .try_into()?;
        Ok(program.test_run(options)?.duration.as_nanos() as u64)
    }

    /// Whether a flow takes the frame. It has no socket to go to.
    fn takes(&self, frame: &[u8]) -> Result<bool> {
        let at = interface().counter(Counter::PassNoSocket);
        let taken = || -> Result<u64> { Ok(self.counters.get(&at, 0)?.iter().sum()) };
        let before = taken()?;
        self.run(frame, 1)?;
        Ok(taken()? > before)
    }

    /// The least of several, in nanoseconds per run.
    fn cost(&self, frame: &[u8]) -> Result<u64> {
        let runs = (0..5).map(|_| self.run(frame, RUNS));
        Ok(runs
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .min()
            .expect("runs"))
    }
}

fn v4(group: u32, source: [u8; 4], port: u16) -> Vec<u8> {
    let group = group.to_be_bytes();
    let [_, b, c, d] = group;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, b & 0x7f, c, d])
        .ipv4(source, group, 9)
        .udp(40_000, port)
        .write(&mut frame, &[7; 1000])
        .expect("a frame in memory");
    frame
}

fn v6(group: u128, port: u16) -> Vec<u8> {
    let group = group.to_be_bytes();
    let [.., a, b, c, d] = group;
    let mut source = [0; 16];
    source[0] = 0x20;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x33, 0x33, a, b, c, d])
        .ipv6(source, group, 9)
        .udp(40_000, port)
        .write(&mut frame, &[7; 1000])
        .expect("a frame in memory");
    frame
}

fn key(group: IpAddr, len: u8, ports: PortMatch, source: Option<IpAddr>) -> MatchKey {
    MatchKey {
        slot: 0,
        vlan: Vlan::UNTAGGED,
        group: Prefix::around(group, len).expect("a length"),
        ports,
        source,
    }
}

fn exact(number: u32) -> MatchKey {
    key(group(number).into(), 32, PortMatch::One(5001), None)
}

/// 239.1.0.0 and what follows.
fn group(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xef01_0000 + number)
}

const SOURCE: [u8; 4] = [10, 1, 1, 7];
const HOST: [u8; 4] = [10, 1, 0, 1];
const GROUP6: u128 = 0xff3e_u128 << 112;

/// How many times the price of one rule's frame a frame may cost where there are 10,000 flows.
const MOST: u64 = 3;

#[test]
fn ten_thousand_flows_cost_little_more_than_one() -> Result<()> {
    let mut prices = Vec::new();
    let mut row = |what: &'static str, program: &Loaded, frame: &[u8]| -> Result<()> {
        // A flow that is not found would be cheaper.
        let is_passed = what.ends_with("passed");
        assert_eq!(program.takes(frame)?, !is_passed, "{what}");
        let price = program.cost(frame)?;
        println!("{price:>4} ns  {what}");
        prices.push((what, price));
        Ok(())
    };
    let frame = v4(0xef01_0001, SOURCE, 5001);
    let other_port = v4(0xef01_0001, SOURCE, 7);
    let mut tcp = frame.clone();
    tcp[ETHERNET_LEN..][ipv4::PROTOCOL] = 6;

    row("not served: passed", &Loaded::new(false)?, &frame)?;
    let mut one = Loaded::new(true)?;
    row("not UDP: passed", &one, &tcp)?;
    row("no flow: passed", &one, &frame)?;
    one.open(exact(1))?;
    row(ONE, &one, &frame)?;
    row("1 exact: passed", &one, &other_port)?;
    let group6 = Ipv6Addr::from_bits(GROUP6 + 1).into();
    one.open(key(group6, 128, PortMatch::One(5001), None))?;
    row("1 exact over IPv6: its frame", &one, &v6(GROUP6 + 1, 5001))?;

    // To a host, by the address of the input.
    let to_host = |port| {
        let mut frame = v4(u32::from_be_bytes(HOST), SOURCE, port);
        frame[ethernet::DESTINATION].copy_from_slice(&MAC);
        frame
    };
    row("1 exact: to a host, passed", &one, &to_host(5001))?;
    one.open(key(IpAddr::from(HOST), 32, PortMatch::One(5001), None))?;
    row("1 to a host: its frame", &one, &to_host(5001))?;
    row("1 to a host: another port, passed", &one, &to_host(7))?;
    row("1 to a host: not UDP, passed", &one, &tcp)?;
    row("1 to a host: the frame of a group", &one, &frame)?;

    let mut many = Loaded::new(true)?;
    (0..FLOWS).try_for_each(|number| many.open(exact(number)))?;
    row("10,000 exact: the frame of one", &many, &frame)?;
    row("10,000 exact: passed", &many, &other_port)?;

    let source = Some(IpAddr::from(Ipv4Addr::from(SOURCE)));
    let stranger = v4(0xef01_0001, [10, 9, 9, 9], 5001);
    let mut ssm = Loaded::new(true)?;
    (0..FLOWS).try_for_each(|number| {
        ssm.open(MatchKey {
            source,
            ..exact(number)
        })
    })?;
    row("10,000 with sources: the frame of one", &ssm, &frame)?;
    row(
        "10,000 with sources: another source, passed",
        &ssm,
        &stranger,
    )?;
    row("10,000 with sources: passed", &ssm, &other_port)?;

    let mut mixed = Loaded::new(true)?;
    for number in 0..FLOWS / 4 {
        mixed.open(exact(number))?;
        mixed.open(MatchKey {
            source,
            ..exact(number)
        })?;
        let net = Ipv4Addr::from_bits(0xea00_0000 + (number << 8));
        let first = 5000 + (number % 50 * 100) as u16;
        mixed.open(key(
            net.into(),
            24,
            PortMatch::Range(first, first + 99),
            None,
        ))?;
        let net = Ipv4Addr::from_bits(0xeb00_0000 + (number << 4));
        mixed.open(key(net.into(), 28, PortMatch::Any, None))?;
    }
    row(
        "10,000 mixed: exact, with sources beside it",
        &mixed,
        &stranger,
    )?;
    row("10,000 mixed: with a source", &mixed, &frame)?;
    row(
        "10,000 mixed: /28, any port (first shape)",
        &mixed,
        &v4(0xeb00_0011, SOURCE, 7),
    )?;
    row(
        "10,000 mixed: /24, range (second shape)",
        &mixed,
        &v4(0xea00_0011, SOURCE, 5001),
    )?;
    row(
        "10,000 mixed: passed",
        &mixed,
        &v4(0xe900_0011, SOURCE, 5001),
    )?;
    row("10,000 mixed: not UDP, passed", &mixed, &tcp)?;

    let of_one = prices.iter().find(|(what, _)| *what == ONE);
    let &(_, of_one) = of_one.context("no price of one rule's frame")?;
    for (what, price) in prices {
        assert!(
            price <= MOST * of_one,
            "{what}: {price} ns, {ONE}: {of_one} ns"
        );
    }
    Ok(())
}
