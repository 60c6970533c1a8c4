//! The far end of every trial: programs that count and check frames in front of the stack.

use std::{
    net::Ipv4Addr,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, PerCpuArray, PerCpuValues},
    programs::{
        SchedClassifier, TcAttachType, Xdp, XdpMode, links::LinkOrder, tc::TcAttachOptions,
    },
};
use relay_tests::veth::Endpoint;

use crate::{
    framing::group6,
    histogram::Histogram,
    programs::{
        self, Data,
        abi::{BUCKETS, Latencies, MAX_SLOTS, Slot, SlotKey, SlotState},
    },
};

/// If counts have not changed for this long, they will not change any more.
const QUIET: Duration = Duration::from_millis(100);
/// A frame that has not arrived this long after the last one was sent is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);
/// How long a contender may send what is in its queues after it was offered too much.
const DRAINED_AFTER: Duration = Duration::from_secs(10);

/// The host at the far end of an output.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum NextHop {
    /// A host without XDP: GSO packets arrive whole.
    Host,
    /// A host with a native XDP program: the kernel cuts GSO packets in front of it.
    Xdp,
}

/// One output of one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The position of the wire among the sinks.
    pub wire: usize,
    /// The destination: a group, or a host.
    pub group: Ipv4Addr,
    /// The destination port.
    pub port: u16,
    /// The position of the flow in the generator's traffic, of each sender: the counts of all of
    /// them must be right, and each one's order.
    pub flows: Range<u32>,
    /// Whether it leaves over IPv6: then the group stands for its [`group6`].
    pub ipv6: bool,
}

/// What arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// By output and sender, in the order of [`Sink::expect`].
    pub slots: Vec<SlotState>,
    /// Of all datagrams.
    pub latency: Histogram,
}

/// The sinks at all outputs' far ends.
#[derive(Debug)]
pub struct Sink {
    ebpf: Ebpf,
    ends: Vec<Endpoint>,
    states: u32,
    /// Copies that arrived and are no longer in the map.
    before: u64,
}

impl Sink {
    /// Loads the programs and attaches them.
    pub fn attach(object: &Path, ends: &[Endpoint], next_hop: NextHop) -> Result<Self> {
        let mut ebpf = programs::load(object)?;
        for end in ends {
            let name = end.interface.as_str();
            end.namespace
                .run(|| match next_hop {
                    NextHop::Host => attach_skb(&mut ebpf, name),
                    NextHop::Xdp => attach_xdp(&mut ebpf, name),
                })
                .with_context(|| format!("attaching a sink to {name}"))?;
        }
        let ends = ends.to_vec();
        Ok(Self {
            ebpf,
            ends,
            states: 0,
            before: 0,
        })
    }

    /// Sets what must arrive, in datagrams with `payload` bytes, in place of what was set before.
    pub fn expect(&mut self, expected: &[Expected], payload: usize) -> Result<()> {
        let states: usize = expected.iter().map(|one| one.flows.len()).sum();
        ensure!(
            states <= MAX_SLOTS as usize,
            "{states} flows, outputs and senders: there can be {MAX_SLOTS}"
        );
        let mut slots: HashMap<Data<'_>, SlotKey, Slot> = programs::map(&mut self.ebpf, "SLOTS")?;
        let old: Vec<SlotKey> = slots.keys().collect::<Result<_, _>>()?;
        for key in old {
            slots.remove(&key)?;
        }
        let mut index = 0;
        for one in expected {
            let end = self
                .ends
                .get(one.wire)
                .with_context(|| format!("there is no sink {}", one.wire))?;
            let key = SlotKey {
                interface: end.index,
                group: one.group.octets(),
                port: one.port.to_be_bytes(),
                scope: match group6(one.group).octets() {
                    [first, second, ..] if one.ipv6 => [first, second],
                    _ => [0; 2],
                },
            };
            let slot = Slot {
                index,
                flow: one.flows.start,
                payload: payload as u32,
                senders: one.flows.len() as u32,
            };
            index += slot.senders;
            // BPF_NOEXIST: the sink could not tell two outputs apart that look the same.
            slots.insert(key, slot, 1).with_context(|| {
                format!(
                    "{}:{} is expected twice at {}",
                    one.group, one.port, end.interface
                )
            })?;
        }
        self.states = index;
        self.reset()
    }

    /// Starts counting from zero. Only while nothing arrives.
    fn reset(&mut self) -> Result<()> {
        self.before = self.arrived()?;
        let mut states: Array<Data<'_>, SlotState> = programs::map(&mut self.ebpf, "STATES")?;
        for index in 0..self.states {
            states.set(index, SlotState::default(), 0)?;
        }
        let mut latencies: PerCpuArray<Data<'_>, Latencies> =
            programs::map(&mut self.ebpf, "LATENCIES")?;
        let none = Latencies {
            buckets: [0; BUCKETS],
        };
        let cpus = latencies.get(&0, 0)?.len();
        latencies.set(0, PerCpuValues::try_from(vec![none; cpus])?, 0)?;
        Ok(())
    }

    /// Waits until no frame of this trial arrives any more. Returns whether nothing does: a
    /// contender may still send what was late already.
    pub fn settle(&mut self) -> Result<bool> {
        self.wait_until_quiet(LOST_AFTER)
    }

    /// Waits until no frame of earlier traffic can be mistaken for later traffic, and starts
    /// counting from zero.
    pub fn drain(&mut self) -> Result<()> {
        self.wait_until_quiet(DRAINED_AFTER)?;
        self.reset()
    }

    fn wait_until_quiet(&mut self, at_most: Duration) -> Result<bool> {
        let start = Instant::now();
        let mut last = self.states()?;
        while start.elapsed() < at_most {
            std::thread::sleep(QUIET);
            let now = self.states()?;
            if now == last {
                return Ok(true);
            }
            last = now;
        }
        Ok(false)
    }

    /// Copies that have arrived since the sinks were attached; counting from zero does not change
    /// that.
    pub fn arrived(&mut self) -> Result<u64> {
        let now = self.states()?;
        Ok(self.before + now.iter().map(|state| state.received).sum::<u64>())
    }

    /// What has arrived so far.
    pub fn read(&mut self) -> Result<Received> {
        let slots = self.states()?;
        let latencies: PerCpuArray<Data<'_>, Latencies> =
            programs::map(&mut self.ebpf, "LATENCIES")?;
        let mut latency = Histogram::default();
        for counted in latencies.get(&0, 0)?.iter() {
            latency.add(counted);
        }
        Ok(Received { slots, latency })
    }

    fn states(&mut self) -> Result<Vec<SlotState>> {
        let count = self.states;
        let states: Array<Data<'_>, SlotState> = programs::map(&mut self.ebpf, "STATES")?;
        let states: Result<Vec<_>, _> = (0..count).map(|index| states.get(&index, 0)).collect();
        Ok(states?)
    }
}

fn attach_skb(ebpf: &mut Ebpf, interface: &str) -> Result<()> {
    let program: &mut SchedClassifier = ebpf
        .program_mut("count_skb")
        .context("the object has no program `count_skb`")?
        .try_into()?;
    if program.fd().is_err() {
        program.load().context("loading `count_skb`")?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .context("TCX needs Linux 6.6")?;
    Ok(())
}

fn attach_xdp(ebpf: &mut Ebpf, interface: &str) -> Result<()> {
    let program: &mut Xdp = ebpf
        .program_mut("count_xdp")
        .context("the object has no program `count_xdp`")?
        .try_into()?;
    if program.fd().is_err() {
        program.load().context("loading `count_xdp`")?;
    }
    program.attach(interface, XdpMode::Driver)?;
    Ok(())
}
