//! One table of packets through both kernel programs (`BPF_PROG_TEST_RUN`) and through the decoder
//! in user space: all must give the expected verdict for each packet, and the same verdict for ten
//! thousand damaged ones.
#![expect(clippy::panic, reason = "frames in memory, in a test")]

mod kernel_program;
mod packets;

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
    programs::{SocketFilter, TestRun as _, TestRunOptions, Xdp},
};
use kernel_program::program;
use packets::{
    Case, INPUT_MAC, OUTPUT_ADDRESS, OUTPUT_MAC, SHORTEST, UDP, fix_header, matching, rules, table,
};
use relay::{
    daemon::taps::judge::{self, Judge},
    kernel::{FlowMaps, Interfaces, OwnMaps, OwnSource},
    matching::{MatchKey, Table},
    plan::Backend,
};
use relay_common::{
    abi::{self, Counter, InterfaceValue},
    matching::FlowValue,
    wire::{ETHERNET_LEN, IPV6_HEADERS_LEN, VLAN_LEN},
};

/// `BPF_PROG_TEST_RUN` says that frames came in by the loopback device of the namespace.
const LOOPBACK: u32 = 1;
const XDP_PASS: u32 = 2;
/// The slot of the interface.
const SLOT: u8 = 7;
/// The bytes of a `__sk_buff` up to its last field here, and where that is (linux/bpf.h).
const SK_BUFF_LEN: usize = 180;
const GSO_SIZE_AT: usize = 176;

/// The counters of a program with one rule and one interface.
struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Fills the maps of a loaded program.
    fn set_up(ebpf: &mut Ebpf) -> Result<Self> {
        let counters = ebpf.take_map(abi::COUNTERS).context("no counters")?;
        let counters = PerCpuArray::try_from(counters)?;
        Interfaces::take_from(ebpf)?.serve(LOOPBACK, "lo", input())?;
        OwnMaps::take_from(ebpf)?.set(&own_sources())?;
        let mut flows = FlowMaps::take_from(ebpf)?;
        for key in keys() {
            flows.open(key, FlowValue::new(0, None), "a")?;
        }
        Ok(Self(counters))
    }

    fn read(&self) -> Result<Vec<u64>> {
        Counter::ALL
            .into_iter()
            .map(|counter| {
                let at = input().counter(counter);
                Ok(self.0.get(&at, 0)?.iter().sum())
            })
            .collect()
    }

    /// What `run` adds to the counters: one verdict, and how often.
    fn verdict(&self, run: impl FnOnce() -> Result<()>) -> Result<(Counter, u64)> {
        let before = self.read()?;
        run()?;
        let after = self.read()?;
        let added: Vec<(Counter, u64)> = Counter::ALL
            .into_iter()
            .map(|counter| {
                let at = counter as usize;
                (counter, after[at] - before[at])
            })
            .filter(|&(_, times)| times > 0)
            .collect();
        match added[..] {
            [(verdict, times)] => Ok((verdict, times)),
            _ => panic!("one frame counted as {added:?}"),
        }
    }
}

/// The XDP program.
struct XdpProgram {
    ebpf: Ebpf,
    counters: Counters,
}

impl XdpProgram {
    fn load() -> Result<Self> {
        let mut ebpf = relay::kernel::load()?;
        program::<Xdp>(&mut ebpf, abi::PROGRAM)?.load()?;
        let counters = Counters::set_up(&mut ebpf)?;
        Ok(Self { ebpf, counters })
    }

    /// What the program makes of `frame`. Also checks that the frame is left as it is.
    fn verdict(&self, frame: &[u8]) -> Result<Counter> {
        let program: &Xdp = self
            .ebpf
            .program(abi::PROGRAM)
            .context("no program")?
            .try_into()?;
        let run = || {
            let mut out = vec![0; frame.len() + 64];
            let mut options = TestRunOptions::new();
            options.data_in = Some(frame);
            options.data_out = Some(&mut out);
            let result = program.test_run(options)?;
            assert_eq!(result.return_value, XDP_PASS);
            assert_eq!(&out[..frame.len()], frame, "the program changed the frame");
            Ok(())
        };
        Ok(match self.counters.verdict(run)? {
            // No socket is bound in a test run.
            (Counter::PassNoSocket, 1) => Counter::Redirected,
            (Counter::Redirected, _) => panic!("redirected without a socket"),
            (verdict, 1) => verdict,
            counted => panic!("one frame counted as {counted:?}"),
        })
    }
}

/// The socket filter.
struct Filter {
    ebpf: Ebpf,
    counters: Counters,
}

impl Filter {
    fn load() -> Result<Self> {
        let mut ebpf = relay::kernel::load_filter()?;
        program::<SocketFilter>(&mut ebpf, abi::FILTER)?.load()?;
        let counters = Counters::set_up(&mut ebpf)?;
        Ok(Self { ebpf, counters })
    }

    /// What the program makes of `frame`, and as how many datagrams it counts where the kernel says
    /// that it joins payloads of `gso_size`. Also checks that exactly the redirected frames are
    /// accepted.
    fn verdict(&self, frame: &[u8], gso_size: u32) -> Result<(Counter, u64)> {
        let program: &SocketFilter = self
            .ebpf
            .program(abi::FILTER)
            .context("no program")?
            .try_into()?;
        // A socket filter is run from behind the Ethernet header on (bpf_prog_test_run_skb,
        // net/bpf/test_run.c), and on a packet socket from the header on: what is in front here is
        // not seen.
        let whole = [&[0; ETHERNET_LEN], frame].concat();
        let mut context = [0; SK_BUFF_LEN];
        context[GSO_SIZE_AT..].copy_from_slice(&gso_size.to_ne_bytes());
        let mut accepted = 0;
        let run = || {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&whole);
            options.ctx_in = Some(&context);
            accepted = program.test_run(options)?.return_value;
            Ok(())
        };
        let counted = self.counters.verdict(run)?;
        let expected = match counted.0 {
            Counter::Redirected => u32::MAX,
            _ => 0,
        };
        assert_eq!(accepted, expected, "{counted:?}");
        Ok(counted)
    }
}

fn input() -> InterfaceValue {
    InterfaceValue::new(SLOT.into(), INPUT_MAC)
}

/// What the copies of the rule leave with.
fn own_sources() -> BTreeSet<OwnSource> {
    BTreeSet::from([
        OwnSource::Mac(OUTPUT_MAC),
        OwnSource::Address(OUTPUT_ADDRESS.into()),
    ])
}

/// What the rules match.
fn keys() -> impl Iterator<Item = MatchKey> {
    rules(LOOPBACK).into_iter().map(|key| key.at(SLOT))
}

/// The rules in user space, as a tap judges by them what the program passes.
fn judge() -> Result<Judge> {
    let keys = rules(LOOPBACK).into_iter();
    let keys = keys.map(|key| key.at(judge::SLOT));
    Ok(Judge {
        mac: INPUT_MAC,
        backend: Backend::IoUring,
        table: Table::new(keys.zip(0..))?,
        local: Vec::new(),
        own: own_sources(),
    })
}

/// The same verdict by the decoder and the look-up in user space.
fn user_space_verdict(frame: &[u8], judge: &mut Judge) -> Counter {
    judge.of(frame, None).unwrap_or(Counter::Redirected)
}

#[test]
fn kernel_and_user_space_agree_with_the_table_on_every_packet() -> Result<()> {
    let (xdp, filter) = (XdpProgram::load()?, Filter::load()?);
    let (table, mut judge) = (table(), judge()?);
    for Case {
        what,
        frame,
        expected,
    } in &table
    {
        let user_space = user_space_verdict(frame, &mut judge);
        assert_eq!(user_space, *expected, "user space: {what}");
        assert_eq!(xdp.verdict(frame)?, *expected, "XDP program: {what}");
        assert_eq!(
            filter.verdict(frame, 0)?,
            (*expected, 1),
            "socket filter: {what}"
        );
    }
    let names: HashSet<_> = table.iter().map(|case| case.expected.name()).collect();
    let received_no_socket_and_over_limit = 3;
    assert_eq!(
        names.len(),
        Counter::ALL.len() - received_no_socket_and_over_limit,
        "every verdict has a packet"
    );
    Ok(())
}

#[test]
fn kernel_and_user_space_agree_on_ten_thousand_damaged_packets() -> Result<()> {
    let (xdp, filter) = (XdpProgram::load()?, Filter::load()?);
    let (table, mut judge) = (table(), judge()?);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        // xorshift64: the same damage in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut seen = HashSet::new();
    for round in 0..10_000 {
        let mut frame = table[random(table.len())].frame.clone();
        for _ in 0..=random(3) {
            let at = random(frame.len().min(IPV6_HEADERS_LEN + 2 * VLAN_LEN));
            frame[at] ^= 1 << random(8);
        }
        // Otherwise nearly everything would end at the checksum of the header.
        if frame.len() >= UDP && frame[ETHERNET_LEN] == 0x45 && random(2) == 0 {
            fix_header(&mut frame);
        }
        frame.truncate(SHORTEST.max(frame.len() - random(3)));
        let expected = user_space_verdict(&frame, &mut judge);
        seen.insert(expected.name());
        let verdicts = (xdp.verdict(&frame)?, filter.verdict(&frame, 0)?);
        assert_eq!(
            verdicts,
            (expected, (expected, 1)),
            "round {round}: {frame:02x?}"
        );
    }
    assert!(seen.len() > 6, "the damage is too uniform: {seen:?}");
    Ok(())
}

#[test]
fn the_socket_filter_counts_a_gso_packet_as_its_datagrams() -> Result<()> {
    let filter = Filter::load()?;
    for (payload, gso_size, datagrams) in [
        (0, 300, 1),
        (1, 300, 1),
        (300, 300, 1),
        (301, 300, 2),
        (900, 300, 3),
        (1000, 300, 4),
        (1472, 1, 1472),
    ] {
        assert_eq!(
            filter.verdict(&matching(&vec![7; payload]), gso_size)?,
            (Counter::Redirected, datagrams),
            "{payload} bytes by {gso_size}"
        );
    }
    Ok(())
}
