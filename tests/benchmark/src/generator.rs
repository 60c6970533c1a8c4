//! The source of every trial: frames made in the kernel, at a rate, onto a wire.
//!
//! `BPF_PROG_TEST_RUN` with live frames calls the program `generate` for each frame and redirects
//! it to the wire. No other sender is always faster than every contender.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::Array,
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use relay_tests::veth::Endpoint;

use crate::{
    cpu,
    framing::Framing,
    programs::{
        self, Data,
        abi::{INTERVAL_FRACTION_BITS, MAX_FLOWS, Pace, STAMP_LEN},
    },
    template::{self, Feed},
};

/// Frames that leave together, at most.
const MAX_BATCH: u64 = 64;
/// How many times per second the program reads the clock, if the rate is high enough.
const BATCHES_PER_SECOND: u64 = 20_000;

/// What to send.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Frames per second, all flows together.
    pub rate: u64,
    /// For how long, in seconds.
    pub seconds: f64,
    /// Bytes of UDP payload.
    pub payload: usize,
    /// Group and port of each flow; they take turns.
    pub flows: Vec<(Ipv4Addr, u16)>,
    /// Senders of each flow; they take turns, too.
    pub senders: u16,
    /// The headers of its frames.
    pub framing: Framing,
}

/// What was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Frames in all.
    pub frames: u64,
    /// Frames of each flow's senders: all of the first flow, then all of the second one.
    pub per_flow: Vec<u64>,
    /// From the first frame to the end of the last interval.
    pub seconds: f64,
}

impl Sent {
    /// Frames per second that were really offered.
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.seconds
    }
}

/// The generator at one end of a wire.
#[derive(Debug)]
pub struct Generator {
    ebpf: Ebpf,
    from: Endpoint,
    cpu: usize,
}

impl Generator {
    /// A generator whose programs will run on `cpu`.
    pub fn new(object: &Path, from: &Endpoint, cpu: usize) -> Result<Self> {
        let ebpf = programs::load(object)?;
        let from = from.clone();
        Ok(Self { ebpf, from, cpu })
    }

    /// Sends, and returns when all is sent.
    pub fn run(&mut self, traffic: &Traffic) -> Result<Sent> {
        let frames = self.prepare(traffic)?;
        let first = traffic.flows.first().context("no flow to send")?;
        let feed = Feed::new(&self.from, *first, 0, traffic);
        let frame = template::frame(&feed, 0)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.repeat = frames;
        options.attrs = TestRunAttrs::new().xdp_live_frames(batch(traffic.rate) as u32);
        let program = program(&mut self.ebpf, traffic.framing)?;
        if program.fd().is_err() {
            program.load().context("loading the generator")?;
        }
        let cpu = self.cpu;
        self.from.namespace.run(|| {
            // A real wire would not wait for other work of this CPU either.
            cpu::only_for_us(cpu)
                .with_context(|| format!("taking CPU {cpu} for the generator, are you root?"))?;
            program
                .test_run(options)
                .context("generating frames (BPF_PROG_TEST_RUN with live frames, Linux 5.18)")?;
            Ok(())
        })?;
        self.sent(traffic)
    }

    /// Writes what the program reads, and returns how many frames there will be.
    fn prepare(&mut self, traffic: &Traffic) -> Result<u32> {
        let senders = traffic.flows.iter().flat_map(|flow| {
            let senders = 0..traffic.senders;
            senders.map(move |sender| (*flow, sender))
        });
        let flows = senders.clone().count();
        ensure!(
            (1..=MAX_FLOWS as usize).contains(&flows),
            "{flows} flows and senders: there can be 1 to {MAX_FLOWS}"
        );
        ensure!(
            traffic.payload >= STAMP_LEN,
            "a payload of {} bytes has no room for the stamp of {STAMP_LEN}",
            traffic.payload
        );
        // The program cannot wait longer than that for one frame.
        ensure!(
            traffic.rate >= 100,
            "the lowest rate is 100 frames per second"
        );
        let frames = (traffic.rate as f64 * traffic.seconds).round();
        ensure!(
            (1.0..=f64::from(u32::MAX)).contains(&frames),
            "{frames} frames: one run can have 1 to {}",
            u32::MAX
        );
        let mut templates: Array<Data<'_>, _> = programs::map(&mut self.ebpf, "TEMPLATES")?;
        for (index, (flow, sender)) in (0..).zip(senders) {
            let feed = Feed::new(&self.from, flow, sender, traffic);
            templates.set(index, template::template(&feed, index)?, 0)?;
        }
        let mut pace: Array<Data<'_>, Pace> = programs::map(&mut self.ebpf, "PACE")?;
        let start = Pace {
            interface: self.from.index,
            flows: flows as u32,
            batch: batch(traffic.rate) as u32,
            interval: (1_000_000_000 << INTERVAL_FRACTION_BITS) / traffic.rate,
            ..Pace::default()
        };
        pace.set(0, start, 0)?;
        Ok(frames as u32)
    }

    /// Reads what the program did.
    fn sent(&mut self, traffic: &Traffic) -> Result<Sent> {
        let pace: Array<Data<'_>, Pace> = programs::map(&mut self.ebpf, "PACE")?;
        let pace = pace.get(&0, 0)?;
        let per_flow = (0..pace.flows)
            .map(|flow| pace.sequence + u64::from(flow < pace.flow))
            .collect();
        let between = pace.last_ns.saturating_sub(pace.first_ns) as f64 / 1e9;
        Ok(Sent {
            frames: pace.count,
            per_flow,
            seconds: between + 1.0 / traffic.rate as f64,
        })
    }
}

fn program(ebpf: &mut Ebpf, framing: Framing) -> Result<&mut Xdp> {
    let name = framing.program();
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program `{name}`"))?
        .try_into()
        .with_context(|| format!("`{name}` is no XDP program"))
}

/// How many frames leave together at a rate.
fn batch(rate: u64) -> u64 {
    (rate / BATCHES_PER_SECOND).clamp(1, MAX_BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_feeds_leave_frame_by_frame_and_fast_ones_in_bounded_bursts() {
        assert_eq!(batch(100), 1);
        assert_eq!(batch(100_000), 5);
        assert_eq!(batch(10_000_000), 64);
    }
}
