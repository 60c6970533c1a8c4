//! TX methods, that is how copies leave, on both backends: a scenario about faults or overload is
//! one function that runs on each, because each learns in another way what the kernel took.
//!
//! | TX method | what leaves | what reports the result |
//! |---|---|---|
//! | [`TxMethod::Ring`] | descriptors on an AF_XDP TX ring | the kick, for each frame |
//! | [`TxMethod::Shared`] | descriptors of headers, each with that of a payload that all copies share | the same |
//! | [`TxMethod::Whole`] | GSO packets that the device takes whole | the system call, for each packet |
//! | [`TxMethod::Cut`] | GSO packets that the kernel cuts | the device's counter of drops |
//! | [`TxMethod::Frames`] | frames, each a message of its own | the system call, for each frame |

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::backend::Backend;
use crate::payload::payload;
use crate::relay::{RelayProcess, RuleFile};
use crate::report::Report;
use crate::rules::{Rule, transmit_by};
use crate::scenario::{far_end, forward_exactly_from};
use crate::sender::{Pacer, UdpSender};
use crate::tally::Stream;
use crate::topology::Testbed;
use crate::veth::Endpoint;

/// Senders of a flow that take turns, so many that the relay joins no two of their datagrams: it
/// keeps the last four senders of a flow apart, and has no run for a fifth one.
const NEVER_JOINED: u16 = 5;

/// How copies leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxMethod {
    /// By TX rings, each frame whole.
    Ring,
    /// By TX rings, in two parts where the payload is shared, as in zero copy on some NICs: by the
    /// relay that overwrites what becomes free ([`crate::relay::poisoned`]).
    Shared,
    /// In GSO packets that devices take whole.
    Whole,
    /// In GSO packets that the kernel cuts in front of the device.
    Cut,
    /// Frame by frame.
    Frames,
}

/// A TX method on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// The backend.
    pub backend: Backend,
    /// The TX method.
    pub tx: TxMethod,
}

/// Makes a test of each function `fn(Method) -> anyhow::Result<()>` for every method:
/// `xdp::ring::NAME`, `io_uring::whole::NAME`, and so on.
///
/// A function that is in no list is dead code, which the compiler reports and `cargo xtask test`
/// refuses.
#[macro_export]
macro_rules! on_all_methods {
    ($($scenario:ident),+ $(,)?) => {
        mod xdp {
            $crate::on_methods! { Xdp, ring Ring, $($scenario),+ }
            $crate::on_methods! { Xdp, shared Shared, $($scenario),+ }
            $crate::on_methods! { Xdp, whole Whole, $($scenario),+ }
            $crate::on_methods! { Xdp, cut Cut, $($scenario),+ }
            $crate::on_methods! { Xdp, frames Frames, $($scenario),+ }
        }

        mod io_uring {
            $crate::on_methods! { IoUring, whole Whole, $($scenario),+ }
            $crate::on_methods! { IoUring, cut Cut, $($scenario),+ }
            $crate::on_methods! { IoUring, frames Frames, $($scenario),+ }
        }
    };
}

/// One method's module of [`on_all_methods`].
#[doc(hidden)]
#[macro_export]
macro_rules! on_methods {
    ($backend:ident, $module:ident $tx:ident, $($scenario:ident),+) => {
        mod $module {
            const METHOD: $crate::methods::Method = $crate::methods::Method {
                backend: $crate::backend::Backend::$backend,
                tx: $crate::methods::TxMethod::$tx,
            };
            $(
                #[test]
                fn $scenario() -> anyhow::Result<()> {
                    super::super::$scenario(METHOD)
                }
            )+
        }
    };
}

/// The relay's interfaces that copies of `rules` leave through.
fn output_interfaces<'a>(bed: &'a Testbed, rules: &[Rule]) -> Vec<&'a Endpoint> {
    let outputs = rules.iter().flat_map(|rule| &rule.outputs);
    let names: BTreeSet<&str> = outputs.map(|output| output.interface.as_str()).collect();
    let all = bed.inputs.iter().chain(&bed.outputs);
    all.filter(|near| names.contains(near.interface.as_str()))
        .collect()
}

impl Method {
    /// Starts a relay whose copies leave by this method, after it has set up the outputs'
    /// interfaces for that.
    pub fn start(self, bed: &Testbed, rules: &[Rule]) -> Result<RelayProcess> {
        for near in output_interfaces(bed, rules) {
            self.set_up(near)?;
        }
        let file = RuleFile::with(rules, &self.tables(rules))?;
        match self.tx {
            TxMethod::Shared => RelayProcess::start_sharing(&bed.relay, file),
            _ => RelayProcess::start_file(&bed.relay, self.backend, file),
        }
    }

    /// Sets up the relay's end of a wire so that copies leave it by this method.
    pub fn set_up(self, near: &Endpoint) -> Result<()> {
        let io_uring_frames = self.tx == TxMethod::Frames && self.backend == Backend::IoUring;
        if self.tx == TxMethod::Cut || io_uring_frames {
            near.set_checksum_offload(false)?;
        }
        if io_uring_frames {
            // Behind a queue the relay could not learn what became of the parts of a GSO packet, so
            // it sends frames.
            let queue = ["qdisc", "replace", "dev", &near.interface, "root", "pfifo"];
            near.namespace.tool("tc", &queue)?;
        }
        Ok(())
    }

    /// The tables of a rule file that make copies of `rules` leave by this method.
    pub fn tables(self, rules: &[Rule]) -> String {
        match (self.backend, self.tx) {
            (Backend::IoUring, _) => String::new(),
            (Backend::Xdp, TxMethod::Ring | TxMethod::Shared) => transmit_by(rules, "xsk"),
            (Backend::Xdp, _) => transmit_by(rules, "segmented"),
        }
    }

    /// How many sockets of a sender take turns.
    pub fn sockets(self) -> u16 {
        if self.tx == TxMethod::Frames {
            NEVER_JOINED
        } else {
            1
        }
    }

    /// The source port of datagram `number` of a flow, counted from that of its first one.
    pub fn port(self, number: u64) -> u16 {
        (number % u64::from(self.sockets())) as u16
    }

    /// Runs a relay with `rules`, sends every rule's stream, and fails unless every output is exact
    /// with right headers, the relay counted the same, and copies left by this method.
    #[track_caller]
    pub fn forward_exactly(self, bed: &Testbed, rules: &[Rule], streams: &[Stream]) -> Result<()> {
        let relay = self.start(bed, rules)?;
        let stopped = forward_exactly_from(relay, bed, rules, streams, self.sockets())?;
        self.assert_used(&stopped.report, rules)
    }

    /// Opens the sockets of a source of the usual feed whose datagrams leave the relay by this
    /// method.
    pub fn source(self, at: &Endpoint) -> Result<Source> {
        self.source_of(at, &Rule::feed())
    }

    /// The same of a source of what `rule` takes.
    pub fn source_of(self, at: &Endpoint, rule: &Rule) -> Result<Source> {
        let ports = 40_000..40_000 + self.sockets();
        let sockets = ports.map(|port| match rule.tags.as_slice() {
            [] => UdpSender::open(at),
            tags => UdpSender::open_tagged(at, tags, port),
        });
        Ok(Source {
            sockets: sockets.collect::<Result<_>>()?,
            to: (rule.group, rule.port),
        })
    }

    /// Opens a source for each of `rules`, at the far end of its input.
    pub fn sources(self, bed: &Testbed, rules: &[Rule]) -> Result<Sources> {
        let of = |rule: &Rule| self.source_of(far_end(bed, &rule.interface)?, rule);
        Ok(Sources(rules.iter().map(of).collect::<Result<_>>()?))
    }

    /// Fails unless the report says that the copies of `rules` left by this method.
    #[track_caller]
    pub fn assert_used(self, report: &Report, rules: &[Rule]) -> Result<()> {
        report.assert_tx_method(rules, self.name())
    }

    /// As the relay calls it.
    fn name(self) -> &'static str {
        match (self.backend, self.tx) {
            (_, TxMethod::Ring | TxMethod::Shared) => "xsk",
            (Backend::IoUring, TxMethod::Frames) => "frames",
            _ => "segmented",
        }
    }
}

/// A source of one feed.
#[derive(Debug)]
pub struct Source {
    sockets: Vec<UdpSender>,
    to: (IpAddr, u16),
}

impl Source {
    /// Sends datagram `number` of a flow, of `size` bytes.
    pub fn send_one(&self, flow: u32, number: u64, size: usize) -> Result<()> {
        let at = number as usize % self.sockets.len().max(1);
        let socket = self.sockets.get(at).context("a source without sockets")?;
        let (group, port) = self.to;
        socket.send_one(group, port, &payload(flow, number, size))
    }

    /// Sends a stream at `rate` datagrams per second.
    pub fn send(&self, stream: &Stream, rate: u32) -> Result<()> {
        let mut pacer = Pacer::new(rate, 16);
        for number in stream.first..stream.first + stream.count {
            pacer.wait();
            self.send_one(stream.flow, number, stream.size)?;
        }
        Ok(())
    }

    /// Sends datagrams of `size` bytes for `time`, as fast as one thread can, `joined` of them in a
    /// system call. Returns how many.
    pub fn flood(&self, size: usize, joined: usize, time: Duration) -> Result<u64> {
        let bytes = payload(9, 0, size).repeat(joined);
        for socket in &self.sockets {
            socket.cut_into(size)?;
        }
        let (group, port) = self.to;
        let (end, mut sent) = (Instant::now() + time, 0);
        while Instant::now() < end {
            for socket in &self.sockets {
                socket.send_one(group, port, &bytes)?;
                sent += joined as u64;
            }
        }
        Ok(sent)
    }

    /// Sends a stream while the relay is stopped by a signal, so that all of it is there when the
    /// relay goes on.
    pub fn send_in_one_burst(&self, stream: &Stream, relay: &RelayProcess) -> Result<()> {
        let paused = relay.pause()?;
        for number in stream.first..stream.first + stream.count {
            self.send_one(stream.flow, number, stream.size)?;
        }
        drop(paused);
        Ok(())
    }
}

/// Sources of several feeds, which send in turn. The flow of each is its position.
#[derive(Debug)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Sends datagram `number`, of `size` bytes, of every feed.
    pub fn send_one(&self, number: u64, size: usize) -> Result<()> {
        let mut numbered = (0..).zip(&self.0);
        numbered.try_for_each(|(flow, source)| source.send_one(flow, number, size))
    }

    /// Sends a stream of every feed, each at `rate` datagrams per second.
    pub fn send(&self, stream: &Stream, rate: u32) -> Result<()> {
        let mut pacer = Pacer::new(rate, 16);
        for number in stream.first..stream.first + stream.count {
            pacer.wait();
            self.send_one(number, stream.size)?;
        }
        Ok(())
    }

    /// Sends a stream of every feed while the relay is stopped by a signal, so that all of it is
    /// there when the relay goes on.
    pub fn send_in_one_burst(&self, stream: &Stream, relay: &RelayProcess) -> Result<()> {
        let paused = relay.pause()?;
        for number in stream.first..stream.first + stream.count {
            self.send_one(number, stream.size)?;
        }
        drop(paused);
        Ok(())
    }
}
