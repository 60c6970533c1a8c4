//! The transmitter against a simulated kernel that does all that kernels may do, so that no
//! particular version is needed.

use std::collections::VecDeque;

use super::*;
use crate::datapath::tap::{
    Fate, Tap,
    record::{HEADER, Header, reason},
    ring::{Reader, ring},
};

/// Outputs of the port.
const OUTPUTS: u32 = 3;
/// In the number of a descriptor: its frame goes on in the next one.
const GOES_ON: u32 = 1 << 31;

/// Numbers that look random and are the same every time (xorshift).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % limit
    }

    fn one_in(&mut self, chances: u32) -> bool {
        chances > 0 && self.below(chances) == 0
    }
}

/// When the kernel publishes how far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publishes {
    /// With the call that sent something (Linux 6.17).
    AtOnce,
    /// When it has used up the entries that it had seen (before 6.17; `xskq_cons_get_entries`).
    InBatches,
}

/// How the simulated kernel behaves. A chance `n` means one in `n`; 0 means never.
#[derive(Debug, Clone, Copy)]
struct Behaviour {
    publishes: Publishes,
    /// A frame is taken and refused (`EBUSY`).
    refuses: u32,
    /// A frame finds the driver busy and stays (`EAGAIN`).
    is_busy: u32,
    /// A call finds the device down.
    is_down: u32,
    /// A sent frame is completed at once; if not, with a later call.
    completes_at_once: u32,
    /// The most frames that a later call completes.
    completes_later: u32,
}

/// A device that is down; frames given to it wait.
const DOWN: Behaviour = Behaviour {
    publishes: Publishes::AtOnce,
    refuses: 0,
    is_busy: 0,
    is_down: 1,
    completes_at_once: 1,
    completes_later: 0,
};

/// `__xsk_generic_xmit` of net/xdp/xsk.c, and a device. Descriptors are numbers of frames.
#[derive(Debug)]
struct CopyMode {
    behaviour: Behaviour,
    random: Random,
    /// Descriptors on the ring that it has not taken.
    ring: VecDeque<u32>,
    produced: u32,
    /// How far the kernel came, what it has published of that, and what it has seen on the ring.
    consumed: u32,
    published: u32,
    seen: u32,
    /// A frame that it has taken the first part of (`xs->skb`).
    half: Option<u32>,
    on_the_wire: Vec<u32>,
    refused: Vec<u32>,
    on_their_way: VecDeque<u32>,
    completions: VecDeque<u32>,
    calls: u32,
    gone: bool,
}

impl CopyMode {
    fn new(behaviour: Behaviour, seed: u64) -> Self {
        Self {
            behaviour,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            ring: VecDeque::new(),
            produced: 0,
            consumed: 0,
            published: 0,
            seen: 0,
            half: None,
            on_the_wire: Vec::new(),
            refused: Vec::new(),
            on_their_way: VecDeque::new(),
            completions: VecDeque::new(),
            calls: 0,
            gone: false,
        }
    }

    fn peek(&mut self) -> bool {
        if self.seen == self.consumed {
            self.published = self.consumed;
            self.seen = self.produced;
        }
        self.seen != self.consumed
    }

    fn transmit(&mut self) -> (Result<(), Errno>, bool) {
        let mut sent = false;
        for _ in 0..BUDGET {
            if !self.peek() {
                return (Ok(()), sent);
            }
            if self.random.one_in(self.behaviour.is_busy) {
                return (Err(Errno::EAGAIN), sent);
            }
            let frame = self.ring.pop_front().unwrap();
            self.consumed += 1;
            if frame & GOES_ON != 0 {
                assert_eq!(self.half.replace(frame), None);
                continue;
            }
            let first = self.half.take();
            assert!(first.is_none_or(|first| first == frame | GOES_ON));
            let parts = first.into_iter().chain([frame]);
            if self.random.one_in(self.behaviour.refuses) {
                self.refused.push(frame);
                self.completions.extend(parts);
                return (Err(Errno::EBUSY), sent);
            }
            sent = true;
            self.on_the_wire.push(frame);
            if self.random.one_in(self.behaviour.completes_at_once) {
                self.completions.extend(parts);
            } else {
                self.on_their_way.extend(parts);
            }
        }
        let more = self.peek();
        (if more { Err(Errno::EAGAIN) } else { Ok(()) }, sent)
    }

    /// Completes some of the frames in flight, in any order.
    fn complete_some(&mut self, at_most: u32) {
        for _ in 0..self.random.below(at_most + 1) {
            let at = self.random.below(self.on_their_way.len().max(1) as u32) as usize;
            self.completions
                .extend(self.on_their_way.swap_remove_back(at));
        }
    }
}

impl Rings for CopyMode {
    type Desc = u32;

    fn free(&mut self) -> u32 {
        TX_SIZE - (self.produced - self.published)
    }

    unsafe fn submit(&mut self, descs: [&[u32]; 2]) -> u32 {
        let count = descs.iter().map(|descs| descs.len() as u32).sum();
        if count > self.free() {
            return 0;
        }
        self.ring.extend(descs.into_iter().flatten());
        self.produced += count;
        count
    }

    fn needs_wakeup(&self) -> bool {
        true
    }

    fn wake(&mut self) -> Result<(), Errno> {
        self.calls += 1;
        if self.gone {
            return Err(Errno::ENXIO);
        }
        if self.random.one_in(self.behaviour.is_down) {
            return Err(Errno::ENETDOWN);
        }
        let (result, sent) = self.transmit();
        if sent && self.behaviour.publishes == Publishes::AtOnce {
            self.published = self.consumed;
        }
        self.complete_some(self.behaviour.completes_later);
        result
    }

    fn complete(&mut self, descs: &mut [u32]) -> usize {
        let count = descs.len().min(self.completions.len());
        for (place, frame) in descs.iter_mut().zip(self.completions.drain(..count)) {
            *place = frame;
        }
        count
    }
}

/// The descriptors that came back, in order.
#[derive(Debug, Default)]
struct Came(Vec<u32>, Names);

/// What descriptors name: their numbers.
#[derive(Debug)]
struct Names(Vec<[u8; 4]>);

impl Default for Names {
    fn default() -> Self {
        let most = if cfg!(miri) { 100 } else { 64 * TX_SIZE };
        Self((0..most).map(u32::to_le_bytes).collect())
    }
}

impl Home<u32> for Came {
    fn completed(&mut self, desc: &u32) {
        self.0.push(*desc);
    }

    fn bytes(&self, desc: &u32) -> &[u8] {
        let Self(came, Names(names)) = self;
        // What has come back may have been written to.
        let is_there = *desc & GOES_ON == 0 && !came.contains(desc);
        let name = names.get(*desc as usize).filter(|_| is_there);
        name.map_or(&[], |name| &name[..])
    }
}

fn outputs() -> Outputs {
    Outputs::new(OUTPUTS as usize).unwrap()
}

fn dropped(stats: &OutputStats, reason: Dropped) -> u64 {
    let mut drops = stats.drops.iter();
    drops.find(|(of, _)| *of == reason).unwrap().1
}

fn sum(stats: &[OutputStats], of: impl Fn(&OutputStats) -> u64) -> u64 {
    stats.iter().map(of).sum()
}

/// A transmitter and all that it works with.
struct Setup<R: Rings<Desc = u32>> {
    transmitter: Transmitter<R>,
    home: Came,
    stats: Outputs,
    /// Frames that were queued, and the number of those that found no room.
    queued: Vec<u32>,
    no_room: u32,
    /// One in so many frames has two parts; 0 means none.
    in_two: u32,
    /// The descriptors of all queued frames.
    descriptors: Vec<u32>,
}

impl<R: Rings<Desc = u32>> Setup<R> {
    fn new(rings: R, mode: Mode) -> Self {
        Self {
            transmitter: Transmitter::new(rings, mode),
            home: Came::default(),
            stats: outputs(),
            queued: Vec::new(),
            no_room: 0,
            in_two: 0,
            descriptors: Vec::new(),
        }
    }

    /// Queues frames as ring outputs do in one round; frame `n` is for output `n % OUTPUTS`.
    fn forward(&mut self, frames: u32) {
        for _ in 0..frames {
            let frame = self.queued.len() as u32 + self.no_room;
            let parts = 1 + u32::from(frame.checked_rem(self.in_two) == Some(0));
            let transmitter = &mut self.transmitter;
            transmitter.make_room(parts, &mut self.home, &self.stats);
            if transmitter.has_room(parts) {
                if parts == 2 {
                    transmitter.queue_parts(frame | GOES_ON, frame, frame % OUTPUTS);
                    self.descriptors.push(frame | GOES_ON);
                } else {
                    transmitter.queue(frame, frame % OUTPUTS);
                }
                self.descriptors.push(frame);
                self.queued.push(frame);
            } else {
                self.no_room += 1;
            }
        }
    }

    /// One round of a worker with so many frames.
    fn round(&mut self, frames: u32) {
        self.transmitter.begin_round(&mut self.home, &self.stats);
        self.forward(frames);
        if self.transmitter.waiting() > 0 {
            self.transmitter.kick(&mut self.home, &self.stats);
        }
    }

    fn sent(&self) -> u64 {
        sum(&self.stats, |output| output.sent.get())
    }

    fn refused(&self) -> u64 {
        sum(&self.stats, |output| {
            dropped(output, Dropped::DeviceRefused)
        })
    }
}

fn behaviours(publishes: Publishes, random: &mut Random) -> Behaviour {
    let mut one_in = |choices: &[u32]| choices[random.below(choices.len() as u32) as usize];
    Behaviour {
        publishes,
        refuses: one_in(&[0, 1, 2, 50, 500]),
        is_busy: one_in(&[0, 0, 20, 200]),
        is_down: one_in(&[0, 0, 5]),
        completes_at_once: one_in(&[0, 1, 2, 10]),
        completes_later: one_in(&[0, 2 * BUDGET]),
    }
}

/// What a tap of all outputs has of each frame: its number, if its bytes were still there, and what
/// became of it.
fn told(mut reader: Reader) -> Vec<(Option<u32>, Fate)> {
    assert_eq!(reader.lost(), [0, 0]);
    let mut bytes = Vec::new();
    while reader.read(&mut bytes, usize::MAX) {}
    let (mut rest, mut told) = (&bytes[..], Vec::new());
    while let Some((header, frame)) = rest.split_first_chunk() {
        let header = Header::read(header).unwrap();
        let (len, whole) = (header.len as usize, header.record_len() - HEADER);
        let number = frame[..len].try_into().ok().map(u32::from_le_bytes);
        told.push((number, reason(header.why)));
        rest = &frame[whole..];
    }
    told
}

/// While a tap is on, it is told of every frame once, with the fate that is counted, and while its
/// bytes are still there, but for those that come back in a great number with a refusal.
fn a_tap_is_told(seed: u64, publishes: Publishes) {
    let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95) | 1);
    let behaviour = behaviours(publishes, &mut random);
    let mut setup = Setup::new(CopyMode::new(behaviour, seed), Mode::Copy);
    setup.in_two = random.below(4);
    let (writer, reader) = ring(1 << 21);
    let all = (0..OUTPUTS).map(|output| (output, output as u16));
    let tap = Tap::new(1, 0, 0, all.collect(), writer);
    assert!(setup.stats.taps().begin(tap));
    for _ in 0..8 {
        let frames = random.below(300);
        setup.round(frames);
        setup.transmitter.rings.complete_some(100);
    }
    setup.transmitter.abandon(&mut setup.home, &setup.stats);
    let told = told(reader);
    let of = |fate: Fate| told.iter().filter(|(_, other)| *other == fate).count() as u64;
    let unsent = sum(&setup.stats, |output| {
        dropped(output, Dropped::UnsentAtExit)
    });
    assert_eq!(of(None), setup.sent(), "seed {seed}");
    assert_eq!(
        of(Some(Dropped::DeviceRefused)),
        setup.refused(),
        "seed {seed}"
    );
    assert_eq!(of(Some(Dropped::UnsentAtExit)), unsent, "seed {seed}");
    assert_eq!(told.len(), setup.queued.len(), "seed {seed}");
    for ((number, fate), queued) in told.iter().zip(&setup.queued) {
        let number = number.unwrap_or(*queued);
        assert_eq!(number, *queued, "seed {seed}: in order, {fate:?}");
    }
    let kernel = &setup.transmitter.rings;
    if publishes == Publishes::AtOnce {
        assert!(
            told.iter().all(|(number, _)| number.is_some()),
            "seed {seed}"
        );
        let refused = told
            .iter()
            .filter(|(_, fate)| *fate == Some(Dropped::DeviceRefused));
        let refused = refused.filter_map(|(number, _)| *number);
        assert!(refused.eq(kernel.refused.iter().copied()), "seed {seed}");
    }
}

#[test]
fn a_tap_is_told_of_every_frame_once_with_the_fate_that_is_counted() {
    for seed in 0..100 {
        a_tap_is_told(seed, Publishes::AtOnce);
        a_tap_is_told(100 + seed, Publishes::InBatches);
    }
}

/// Bursts of up to two rings come and go. Every frame leaves once and in order, or is counted under
/// what became of it; and every descriptor comes back once.
fn nothing_is_lost(seed: u64, publishes: Publishes) {
    let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95) | 1);
    let behaviour = behaviours(publishes, &mut random);
    let mut setup = Setup::new(CopyMode::new(behaviour, seed), Mode::Copy);
    setup.in_two = random.below(4);
    for _ in 0..8 {
        let frames = match random.below(4) {
            0 => 0,
            1 => random.below(2 * TX_SIZE),
            _ => random.below(200),
        };
        setup.round(frames);
        setup.transmitter.rings.complete_some(100);
    }
    let quiet = Behaviour {
        is_busy: 0,
        is_down: 0,
        completes_at_once: 1,
        ..behaviour
    };
    setup.transmitter.rings.behaviour = quiet;
    let mut rounds = 0;
    while setup.transmitter.outstanding() > 0 || setup.transmitter.waiting() > 0 {
        setup.transmitter.rings.complete_some(TX_SIZE);
        setup.round(0);
        rounds += 1;
        assert!(rounds < 1000, "seed {seed}: {behaviour:?}, never quiet");
    }
    let kernel = &setup.transmitter.rings;
    let mut all = kernel.on_the_wire.clone();
    assert!(all.is_sorted(), "seed {seed}: order");
    all.extend(&kernel.refused);
    all.sort_unstable();
    let lost = setup.queued.len() - all.len();
    assert_eq!(lost, 0, "seed {seed}: descriptors lost, {behaviour:?}");
    assert_eq!(all, setup.queued, "seed {seed}");
    setup.home.0.sort_unstable();
    setup.descriptors.sort_unstable();
    assert_eq!(setup.home.0, setup.descriptors, "seed {seed}: came home");
    assert_eq!(setup.sent(), kernel.on_the_wire.len() as u64, "seed {seed}");
    assert_eq!(setup.refused(), kernel.refused.len() as u64, "seed {seed}");
    if publishes == Publishes::AtOnce {
        // Then the counters of each output are exact, too.
        for (output, stats) in (0..OUTPUTS).zip(setup.stats.iter()) {
            let of = |frames: &[u32]| {
                let mine = frames.iter().filter(|frame| **frame % OUTPUTS == output);
                mine.count() as u64
            };
            let refused = dropped(stats, Dropped::DeviceRefused);
            assert_eq!(stats.sent.get(), of(&kernel.on_the_wire), "seed {seed}");
            assert_eq!(refused, of(&kernel.refused), "seed {seed}");
        }
    }
}

#[test]
fn nothing_is_lost_and_everything_counted_whatever_the_kernel_does() {
    for seed in 0..200 {
        nothing_is_lost(seed, Publishes::AtOnce);
        nothing_is_lost(200 + seed, Publishes::InBatches);
    }
}

/// A dead wire refuses each frame at once, and the kernel publishes nothing: its ring looks full.
#[test]
fn a_burst_of_two_rings_on_a_dead_wire_is_refused_to_the_last_frame() {
    for publishes in [Publishes::AtOnce, Publishes::InBatches] {
        let dead = Behaviour {
            publishes,
            refuses: 1,
            is_busy: 0,
            is_down: 0,
            completes_at_once: 1,
            completes_later: 0,
        };
        let mut setup = Setup::new(CopyMode::new(dead, 1), Mode::Copy);
        setup.round(2 * TX_SIZE);
        assert_eq!(setup.no_room, 0, "{publishes:?}");
        assert_eq!(setup.refused(), u64::from(2 * TX_SIZE), "{publishes:?}");
        assert_eq!(setup.sent(), 0, "{publishes:?}");
        assert_eq!(setup.transmitter.outstanding(), 0, "{publishes:?}");
    }
}

/// Where neither published progress nor completions show what the kernel took, a burst leaves in
/// one round all the same, once the transmitter has learned that the kernel publishes late.
#[test]
fn a_burst_leaves_in_one_round_where_the_kernel_publishes_late() {
    let late = Behaviour {
        publishes: Publishes::InBatches,
        refuses: 0,
        is_busy: 0,
        is_down: 0,
        completes_at_once: 0,
        completes_later: 0,
    };
    let mut setup = Setup::new(CopyMode::new(late, 1), Mode::Copy);
    setup.round(64);
    while setup.transmitter.waiting() > 0 {
        setup.round(0);
    }
    setup.round(1024);
    assert_eq!(setup.transmitter.waiting(), 0);
    assert_eq!(setup.sent(), 64 + 1024);
    let calls = setup.transmitter.rings.calls;
    assert!(calls <= 3 + 1024 / BUDGET + 1, "{calls} calls");
    // A busy kernel is not asked forever.
    setup.transmitter.rings.behaviour.is_busy = 1;
    setup.round(100);
    let calls = setup.transmitter.rings.calls - calls;
    assert!(calls <= 100 / BUDGET + 2, "{calls} calls");
}

/// Frames on the ring of a deleted device never leave. They are counted, their chunks come back,
/// and none waits and keeps the worker awake.
#[test]
fn nothing_waits_for_a_device_that_is_gone() {
    let mut setup = Setup::new(CopyMode::new(DOWN, 1), Mode::Copy);
    setup.round(500);
    assert_eq!(setup.transmitter.device(), Device::Down);
    assert_eq!(setup.transmitter.waiting(), 500);
    setup.transmitter.rings.gone = true;
    setup.round(3000);
    assert_eq!(setup.transmitter.device(), Device::Gone);
    let transmitter = &setup.transmitter;
    assert_eq!((transmitter.waiting(), transmitter.outstanding()), (0, 0));
    assert_eq!((setup.no_room, setup.refused()), (0, 3500));
    assert_eq!(setup.home.0.len(), 3500);
    let calls = setup.transmitter.rings.calls;
    // Taken before the device went, and never published.
    setup.transmitter.rings.completions.push_back(7);
    setup.round(100);
    assert_eq!(setup.refused(), 3600);
    assert_eq!(setup.home.0.len(), 3600, "none comes home twice");
    assert_eq!(setup.transmitter.rings.calls, calls, "nobody is asked");
}

/// The kernel has taken the headers of a frame when the device goes: they never come back, and
/// nothing waits for them.
#[test]
fn half_a_frame_at_a_device_that_is_gone_is_counted_and_comes_home() {
    let mut setup = Setup::new(CopyMode::new(DOWN, 1), Mode::Copy);
    setup.in_two = 1;
    setup.transmitter.queue(999, 0);
    setup.forward(50);
    let all_is_well = Behaviour { is_down: 0, ..DOWN };
    // A first call takes 32 descriptors: a whole frame, 15 in two parts, and half of one.
    setup.transmitter.rings.behaviour = all_is_well;
    setup.transmitter.submit();
    setup.transmitter.rings.wake().unwrap_err();
    assert!(setup.transmitter.rings.half.is_some());
    setup.transmitter.rings.gone = true;
    setup.round(0);
    let transmitter = &setup.transmitter;
    assert_eq!((transmitter.waiting(), transmitter.outstanding()), (0, 0));
    assert_eq!((setup.sent(), setup.refused()), (16, 35));
    assert_eq!(setup.home.0.len(), 1 + 2 * 50);
}

#[test]
fn what_waits_at_the_end_is_counted_and_its_chunks_are_free() {
    let mut setup = Setup::new(CopyMode::new(DOWN, 1), Mode::Copy);
    setup.round(100);
    setup.transmitter.abandon(&mut setup.home, &setup.stats);
    let unsent = sum(&setup.stats, |output| {
        dropped(output, Dropped::UnsentAtExit)
    });
    assert_eq!((unsent, setup.home.0.len()), (100, 100));
    assert_eq!(setup.transmitter.outstanding(), 0);
}

/// A device in zero copy, which takes and transmits frames by itself.
#[derive(Debug)]
struct ZeroCopy {
    ring: VecDeque<u32>,
    completions: VecDeque<u32>,
    /// The most frames that it transmits at a time.
    at_a_time: u32,
    /// Frames that the test has queued while it transmits.
    came: u32,
    /// It asks for a kick, and transmits only then.
    sleeps: bool,
    calls: u32,
}

impl ZeroCopy {
    fn transmit(&mut self) {
        let count = self.ring.len().min(self.at_a_time as usize);
        self.completions.extend(self.ring.drain(..count));
    }
}

impl Rings for ZeroCopy {
    type Desc = u32;

    fn free(&mut self) -> u32 {
        TX_SIZE - self.ring.len() as u32
    }

    unsafe fn submit(&mut self, descs: [&[u32]; 2]) -> u32 {
        let before = self.ring.len();
        self.ring.extend(descs.into_iter().flatten());
        (self.ring.len() - before) as u32
    }

    fn needs_wakeup(&self) -> bool {
        self.sleeps
    }

    fn wake(&mut self) -> Result<(), Errno> {
        self.calls += 1;
        self.transmit();
        Ok(())
    }

    fn complete(&mut self, descs: &mut [u32]) -> usize {
        let count = descs.len().min(self.completions.len());
        for (place, frame) in descs.iter_mut().zip(self.completions.drain(..count)) {
            *place = frame;
        }
        count
    }
}

fn zero_copy(at_a_time: u32, sleeps: bool) -> Setup<ZeroCopy> {
    let device = ZeroCopy {
        ring: VecDeque::new(),
        completions: VecDeque::new(),
        at_a_time,
        came: 0,
        sleeps,
        calls: 0,
    };
    Setup::new(device, Mode::ZeroCopy)
}

/// A round brings more frames than the ring has room for, while the device transmits as fast as
/// frames come: 64 at a time, and none yet when room is first looked for.
#[test]
fn in_zero_copy_what_the_device_transmits_within_a_round_makes_room_within_it() {
    let mut setup = zero_copy(64, false);
    setup.round(TX_SIZE);
    setup.transmitter.begin_round(&mut setup.home, &setup.stats);
    for _ in 0..640 {
        setup.forward(1);
        let device = &mut setup.transmitter.rings;
        device.came += 1;
        if device.came % device.at_a_time == 1 {
            device.transmit();
        }
    }
    assert_eq!(setup.no_room, 1, "of 640 frames");
}

/// A ring that was full has other frames in its slots before the next kick. What left before that
/// counts for its own output.
#[test]
fn in_zero_copy_a_frame_counts_for_its_own_output_though_its_slot_is_used_again() {
    let mut setup = zero_copy(TX_SIZE, false);
    for _ in 0..TX_SIZE {
        setup.transmitter.queue(0, 0);
    }
    setup.round(0);
    setup.transmitter.rings.transmit();
    setup.transmitter.begin_round(&mut setup.home, &setup.stats);
    for _ in 0..TX_SIZE {
        assert!(setup.transmitter.has_room(1));
        setup.transmitter.queue(0, 1);
    }
    setup.transmitter.kick(&mut setup.home, &setup.stats);
    assert_eq!(setup.stats[0].sent.get(), u64::from(TX_SIZE));
    assert_eq!(setup.stats[1].sent.get(), 0);
}

/// A device that sleeps is kicked for room, and no more often than is worth it.
#[test]
fn in_zero_copy_a_device_that_sleeps_is_woken_up_within_a_round() {
    let mut setup = zero_copy(64, true);
    setup.round(10 * TX_SIZE);
    assert_eq!(setup.no_room, 0);
    let calls = setup.transmitter.rings.calls;
    assert!(calls <= 10 * TX_SIZE / WORTH_A_KICK, "{calls} calls");
}

/// If the device transmits nothing, frames that find no room cost no call.
#[test]
fn a_port_that_stays_full_is_kicked_once_a_round() {
    let mut setup = zero_copy(0, true);
    setup.round(TX_SIZE);
    let before = setup.transmitter.rings.calls;
    setup.round(5000);
    assert_eq!(setup.no_room, 5000);
    let calls = setup.transmitter.rings.calls - before;
    assert!(calls <= 2, "{calls}: for room, and at the end");
}

/// The device takes frames when it likes: also between the last kick and the end.
#[test]
fn in_zero_copy_what_the_device_took_after_the_last_kick_counts_as_sent_at_the_end() {
    type End = fn(&mut Transmitter<ZeroCopy>, &mut Came, &Outputs);
    let ends: [End; 2] = [Transmitter::abandon, Transmitter::leave];
    for end in ends {
        let mut setup = zero_copy(3, false);
        setup.round(5);
        setup.transmitter.rings.transmit();
        setup.transmitter.reap(&mut setup.home);
        end(&mut setup.transmitter, &mut setup.home, &setup.stats);
        let unsent = sum(&setup.stats, |output| {
            dropped(output, Dropped::UnsentAtExit)
        });
        assert_eq!((setup.sent(), unsent), (3, 2));
    }
}
