//! The ways in which copies can leave, on both backends: a scenario about faults or overload is one
//! function that runs on each, because each has its own idea of what the kernel took.
//!
//! | way | what leaves | who says what became of it |
//! |---|---|---|
//! | [`Way::Ring`] | descriptors on an AF_XDP TX ring | the kick, frame by frame |
//! | [`Way::Whole`] | super-frames, which the device takes whole | the call, super-frame by super-frame |
//! | [`Way::Cut`] | super-frames, which the kernel cuts apart | the device's counter of drops |
//! | [`Way::Frames`] | frames, each a message of its own | the call, frame by frame |

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::backend::Backend;
use crate::payload::payload;
use crate::relay::{RelayProcess, RuleFile};
use crate::report::Report;
use crate::rules::{GROUP_IN, PORT_IN, Rule, to_toml, transmit_by};
use crate::sender::{Pacer, UdpSender};
use crate::tally::Stream;
use crate::topology::Testbed;
use crate::veth::Endpoint;

/// How copies leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By TX rings.
    Ring,
    /// As super-frames that devices take whole.
    Whole,
    /// As super-frames that the kernel cuts apart.
    Cut,
    /// Frame by frame.
    Frames,
}

/// A way on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// The backend.
    pub backend: Backend,
    /// The way.
    pub way: Way,
}

/// Makes a test of each function `fn(Method) -> anyhow::Result<()>` for every method:
/// `xdp::ring::NAME`, `io_uring::whole::NAME`, and so on.
///
/// A function that is not listed is dead code, which clippy refuses.
#[macro_export]
macro_rules! on_all_methods {
    ($($scenario:ident),+ $(,)?) => {
        mod xdp {
            $crate::on_methods! { Xdp, ring Ring, $($scenario),+ }
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
    ($backend:ident, $module:ident $way:ident, $($scenario:ident),+) => {
        mod $module {
            const METHOD: $crate::methods::Method = $crate::methods::Method {
                backend: $crate::backend::Backend::$backend,
                way: $crate::methods::Way::$way,
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

/// The interfaces that copies of `rules` leave by, at the relay.
fn output_interfaces<'a>(bed: &'a Testbed, rules: &[Rule]) -> Vec<&'a Endpoint> {
    let outputs = rules.iter().flat_map(|rule| &rule.outputs);
    let names: BTreeSet<&str> = outputs.map(|output| output.interface.as_str()).collect();
    let all = bed.inputs.iter().chain(&bed.outputs);
    all.filter(|near| names.contains(near.interface.as_str()))
        .collect()
}

impl Method {
    /// Starts a relay whose copies leave like that. Makes the outputs' interfaces such that they
    /// do.
    pub fn start(self, bed: &Testbed, rules: &[Rule]) -> Result<RelayProcess> {
        for near in output_interfaces(bed, rules) {
            let io_uring_frames = self.way == Way::Frames && self.backend == Backend::IoUring;
            if self.way == Way::Cut || io_uring_frames {
                near.set_checksum_offload(false)?;
            }
            if io_uring_frames {
                // Behind a queue nobody could tell what became of the parts of a super-frame.
                let queue = ["qdisc", "replace", "dev", &near.interface, "root", "pfifo"];
                bed.relay.tool("tc", &queue)?;
            }
        }
        let keys = match (self.backend, self.way) {
            (Backend::IoUring, _) => String::new(),
            (Backend::Xdp, Way::Ring) => transmit_by(rules, "xsk"),
            (Backend::Xdp, _) => transmit_by(rules, "segmented"),
        };
        let file = RuleFile::new(&format!("{}{keys}", to_toml(rules)))?;
        RelayProcess::start_file(&bed.relay, self.backend, file)
    }

    /// Opens the sockets of a source whose datagrams leave the relay like that.
    pub fn source(self, at: &Endpoint) -> Result<Source> {
        // Datagrams of two senders in turn are never joined.
        let count = if self.way == Way::Frames { 2 } else { 1 };
        let sockets = (0..count).map(|_| UdpSender::open(at));
        Ok(Source {
            sockets: sockets.collect::<Result<_>>()?,
        })
    }

    /// Fails unless the report says that the copies of `rules` left like that.
    #[track_caller]
    pub fn assert_used(self, report: &Report, rules: &[Rule]) -> Result<()> {
        let engine = match (self.backend, self.way) {
            (_, Way::Ring) => "xsk",
            (Backend::IoUring, Way::Frames) => "frames",
            _ => "segmented",
        };
        report.assert_engines(rules, engine)
    }
}

/// A source of the usual feed.
#[derive(Debug)]
pub struct Source {
    sockets: Vec<UdpSender>,
}

impl Source {
    /// Sends datagram `number` of a flow, of `size` bytes.
    pub fn send_one(&self, flow: u32, number: u64, size: usize) -> Result<()> {
        let at = number as usize % self.sockets.len().max(1);
        let socket = self.sockets.get(at).context("a source without sockets")?;
        socket.send_one(GROUP_IN, PORT_IN, &payload(flow, number, size))
    }

    /// Sends a stream at `rate` datagrams a second.
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
        let (end, mut sent) = (Instant::now() + time, 0);
        while Instant::now() < end {
            for socket in &self.sockets {
                socket.send_one(GROUP_IN, PORT_IN, &bytes)?;
                sent += joined as u64;
            }
        }
        Ok(sent)
    }

    /// Sends a stream while the relay stands still, so that all of it is there when the relay goes
    /// on.
    pub fn send_in_one_burst(&self, stream: &Stream, relay: &RelayProcess) -> Result<()> {
        let paused = relay.pause()?;
        for number in stream.first..stream.first + stream.count {
            self.send_one(stream.flow, number, stream.size)?;
        }
        drop(paused);
        Ok(())
    }
}
