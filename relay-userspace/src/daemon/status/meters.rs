//! Rates of the last second and the time of the last frame, for each rule and output.
//!
//! Once per second the counters of all slots are read into flat arrays: no name is looked at and
//! nothing is allocated, so that many rules cost little while nothing asks for the status. Which
//! slot counts for which rule is found out anew after each change.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    daemon::reconcile::State,
    datapath::{LastExpired, Latency, OutputIdentity, Sample, stats::WorkerStats},
};

/// The least time that rates are taken over.
const SECOND: Duration = Duration::from_millis(900);

/// The meters of all rules that are wanted, in their order.
#[derive(Debug, Default)]
pub struct Meters {
    /// When rates were last taken.
    at: Option<Instant>,
    rules: Vec<RuleMeter>,
    /// Positions in `rules`.
    by_name: HashMap<String, usize>,
    outputs: Vec<Meter>,
    workers: Vec<WorkerCells>,
}

/// What was counted since the last second ended, and how much that was per second before.
#[derive(Debug, Default, Clone, Copy)]
struct Meter {
    counted: u64,
    rate: f64,
}

#[derive(Debug, Default)]
struct RuleMeter {
    matched: Meter,
    bytes: Meter,
    last_frame: Option<Instant>,
    /// The same in seconds since the epoch.
    last_frame_at: Option<f64>,
    outputs: Range<usize>,
}

/// The slots of one worker.
#[derive(Debug)]
struct WorkerCells {
    number: usize,
    /// Readable also after the worker has ended.
    stats: Arc<WorkerStats>,
    /// In the order of their slots.
    flows: Vec<Cell>,
    outputs: Vec<Cell>,
    /// How many samples of senders were read.
    sampled: u64,
    /// How many latencies were read.
    latencies: u64,
    /// The versions of what was last seen to expire, by the flow's slot.
    expired: HashMap<u32, u64>,
}

/// One slot: its number, whom it counts for, and what it has been read up to.
#[derive(Debug, Clone, Copy)]
struct Cell {
    slot: u32,
    meter: usize,
    read: u64,
    /// Of a flow, the same for its bytes.
    bytes_read: u64,
}

/// One rule in the last second.
#[derive(Debug, Clone, Copy)]
pub struct RuleRates<'a> {
    /// Frames per second that matched.
    pub rate: f64,
    /// Bits of UDP payload per second in them.
    pub bit_rate: f64,
    /// When the last frame was seen to have come.
    pub last_frame: Option<Instant>,
    /// The same in seconds since the epoch.
    pub last_frame_at: Option<f64>,
    outputs: &'a [Meter],
}

impl RuleRates<'_> {
    /// Copies per second of the output at this position.
    pub fn output(&self, position: usize) -> f64 {
        self.outputs.get(position).map_or(0.0, |meter| meter.rate)
    }

    /// Bits of UDP payload per second in them: the copies are as long as the frames that matched.
    pub fn bit_rate_of_output(&self, position: usize) -> f64 {
        if self.rate == 0.0 {
            return 0.0;
        }
        self.output(position) * self.bit_rate / self.rate
    }
}

impl Meters {
    /// Finds out anew which slots count for which rule. To be called after each change, before
    /// anything is read.
    pub fn arrange(&mut self, state: &State) {
        // Also of workers that have ended since.
        self.read();
        let before = std::mem::take(self);
        self.at = before.at;
        let mut identities = Vec::new();
        for rule in &state.desired.rules().rules.rules {
            let known = before.by_name.get(&rule.name);
            let known = known.and_then(|&at| before.rules.get(at));
            let first = self.outputs.len();
            self.outputs
                .resize(first + rule.outputs.len(), Meter::default());
            self.by_name.insert(rule.name.clone(), self.rules.len());
            self.rules.push(RuleMeter {
                matched: known.map_or_else(Meter::default, |known| known.matched),
                bytes: known.map_or_else(Meter::default, |known| known.bytes),
                last_frame: known.and_then(|known| known.last_frame),
                last_frame_at: known.and_then(|known| known.last_frame_at),
                outputs: first..self.outputs.len(),
            });
            identities.push(OutputIdentity::of_rule(rule));
        }
        for worker in &state.running.workers {
            let mut former = before.workers.iter();
            let former = former.find(|former| former.number == worker.number);
            let (mut flows, mut outputs) = (Vec::new(), Vec::new());
            for (rule, entry) in worker.remote.entries() {
                let Some(&at) = self.by_name.get(rule) else {
                    continue;
                };
                let (Some(meter), Some(identities)) = (self.rules.get(at), identities.get(at))
                else {
                    continue;
                };
                let known = former.and_then(|former| find(&former.flows, entry.flow));
                flows.push(Cell::new(entry.flow, at, known));
                for (position, (identity, slot)) in entry.outputs.iter().enumerate() {
                    let same = identities.get(position) == Some(identity);
                    let position = match same {
                        true => Some(position),
                        false => identities.iter().position(|one| one == identity),
                    };
                    let Some(position) = position else { continue };
                    let at = meter.outputs.start + position;
                    let known = former.and_then(|former| find(&former.outputs, *slot));
                    let meter = known.and_then(|known| before.outputs.get(known.meter));
                    if let (Some(meter), Some(place)) = (meter, self.outputs.get_mut(at)) {
                        *place = *meter;
                    }
                    outputs.push(Cell::new(*slot, at, known));
                }
            }
            flows.sort_unstable_by_key(|cell| cell.slot);
            outputs.sort_unstable_by_key(|cell| cell.slot);
            self.workers.push(WorkerCells {
                number: worker.number,
                stats: Arc::clone(worker.remote.stats()),
                flows,
                outputs,
                sampled: former.map_or(0, |former| former.sampled),
                latencies: former.map_or(0, |former| former.latencies),
                expired: former.map_or_else(HashMap::new, |former| former.expired.clone()),
            });
        }
    }

    /// Reads the counters.
    fn read(&mut self) {
        for worker in &mut self.workers {
            let stats = &worker.stats;
            for cell in &mut worker.flows {
                let flow = stats.flows.get(cell.slot as usize);
                let (now, bytes) =
                    flow.map_or((0, 0), |flow| (flow.matched.get(), flow.bytes.get()));
                if let Some(rule) = self.rules.get_mut(cell.meter) {
                    rule.matched.counted += cell.read_up_to(now);
                    rule.bytes.counted += bytes.saturating_sub(cell.bytes_read);
                    cell.bytes_read = bytes;
                }
            }
            for cell in &mut worker.outputs {
                let output = stats.outputs.get(cell.slot as usize);
                let now = output.map_or(0, |output| output.sent.get());
                if let Some(output) = self.outputs.get_mut(cell.meter) {
                    output.counted += cell.read_up_to(now);
                }
            }
        }
    }

    /// Reads the counters, and takes rates if the last were taken a second ago or earlier. Returns
    /// how many seconds they are over.
    pub fn take(&mut self, now: Instant) -> Option<f64> {
        let passed = self.at.map(|at| now.duration_since(at));
        if passed.is_some_and(|passed| passed < SECOND) {
            return None;
        }
        self.at = Some(now);
        self.read();
        // Before the first second is over there are no rates.
        let seconds = passed.map_or(f64::INFINITY, |passed| passed.as_secs_f64());
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // To the millisecond: it is known to the second, and any reader of JSON reads it alike.
        let epoch = epoch.map_or(0.0, |since| since.as_millis() as f64 / 1e3);
        for rule in &mut self.rules {
            if rule.matched.counted > 0 {
                rule.last_frame = Some(now);
                rule.last_frame_at = Some(epoch);
            }
            rule.matched.end(seconds);
            rule.bytes.end(seconds);
        }
        for output in &mut self.outputs {
            output.end(seconds);
        }
        Some(seconds)
    }

    /// The rates of the rule at a position among those that are wanted.
    pub fn of(&self, position: usize) -> RuleRates<'_> {
        let rule = self.rules.get(position);
        let outputs = rule.and_then(|rule| self.outputs.get(rule.outputs.clone()));
        RuleRates {
            rate: rule.map_or(0.0, |rule| rule.matched.rate),
            bit_rate: rule.map_or(0.0, |rule| 8.0 * rule.bytes.rate),
            last_frame: rule.and_then(|rule| rule.last_frame),
            last_frame_at: rule.and_then(|rule| rule.last_frame_at),
            outputs: outputs.unwrap_or_default(),
        }
    }

    /// Bits of UDP payload per second that matched any rule.
    pub fn bit_rate(&self) -> f64 {
        let rates = self.rules.iter().map(|rule| rule.bytes.rate);
        8.0 * rates.sum::<f64>()
    }

    /// What has expired since the last call, each with the position of its rule.
    pub fn expired(&mut self) -> Vec<(usize, LastExpired)> {
        let mut all = Vec::new();
        for worker in &mut self.workers {
            for last in worker.stats.expired.last() {
                let seen = worker.expired.insert(last.flow, last.version);
                let rule = find(&worker.flows, last.flow);
                if let (true, Some(cell)) = (seen != Some(last.version), rule) {
                    all.push((cell.meter, last));
                }
            }
        }
        all
    }
}

impl Meters {
    /// Calls `see` with the position of its rule for each sample of a sender since the last call.
    pub fn sampled(&mut self, mut see: impl FnMut(usize, Sample)) {
        for worker in &mut self.workers {
            let (samples, taken) = worker.stats.sampled.since(worker.sampled);
            for sample in samples {
                if let Some(cell) = find(&worker.flows, sample.flow) {
                    see(cell.meter, sample);
                }
            }
            worker.sampled = taken;
        }
    }

    /// Calls `see` for each latency that was sampled since the last call.
    pub fn latencies(&mut self, mut see: impl FnMut(Latency)) {
        for worker in &mut self.workers {
            let (samples, taken) = worker.stats.latencies.since(worker.latencies);
            samples.for_each(&mut see);
            worker.latencies = taken;
        }
    }
}

impl Meter {
    fn end(&mut self, seconds: f64) {
        self.rate = self.counted as f64 / seconds;
        self.counted = 0;
    }
}

impl Cell {
    /// A slot that counts for `meter`, and has been read as far as `known`.
    fn new(slot: u32, meter: usize, known: Option<&Self>) -> Self {
        // A slot that was not in use before begins with zero.
        let read = known.map_or(0, |known| known.read);
        let bytes_read = known.map_or(0, |known| known.bytes_read);
        Self {
            slot,
            meter,
            read,
            bytes_read,
        }
    }

    /// What was counted since the last call. A slot that has another user now begins with zero.
    fn read_up_to(&mut self, now: u64) -> u64 {
        let counted = now.saturating_sub(self.read);
        self.read = now;
        counted
    }
}

/// The cell of a slot, in the order of slots.
fn find(cells: &[Cell], slot: u32) -> Option<&Cell> {
    let at = cells.binary_search_by_key(&slot, |cell| cell.slot).ok()?;
    cells.get(at)
}
