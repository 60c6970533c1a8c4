//! How long frames are in the relay: from the moment when the kernel program saw one until the
//! worker has handed its copies to the kernel, of a few frames.
//!
//! The worker asks the program for one frame of a queue ([`crate::kernel::Marks`]). Once the program
//! has marked it, the worker looks for it among what arrives, and takes the time when the round is
//! over that forwards it. A batch costs one comparison and one look at the mark, which changes with
//! one frame in 64 at most; only a batch in which a frame is looked for costs more.
//!
//! Which frame it is must not depend on what the worker does just then: otherwise those that wait
//! while it is held up would be left out, and these are the ones that matter. So it always asks, and
//! for a frame some way ahead, by chance.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use relay_common::abi::{Mark, mark::print};

use super::clock;
use crate::kernel::{Marked, Marks};

/// About one frame in so many batches is asked for.
const EVERY: u64 = 16;
/// For how many batches the worker looks for a frame. More than rings or sockets hold.
const PATIENCE: u32 = 256;
/// The time of a frame that was not found: none takes so little.
const MISSED: u64 = 0;
/// How many samples are kept until control gathers them, once per second.
const PLACES: usize = 1024;

/// What samples the latencies of one queue's frames.
#[derive(Debug)]
pub struct Sampler {
    /// The kernel's index of the interface.
    interface: u32,
    /// 0 on io_uring, where all frames of an interface count as one queue's.
    queue: u32,
    state: State,
    /// A moving average of frames per batch.
    frames: u64,
    random: u64,
}

#[derive(Debug)]
enum State {
    /// It will ask.
    Idle,
    /// It has asked for a frame.
    Asked,
    /// It looks for the frame, in so many batches already.
    Sought(Marked, u32),
    /// The frame is in this round, and arrived at this time.
    Found(u64),
}

impl Sampler {
    /// For the frames of a queue, which the marks know by these numbers.
    pub const fn new(interface: u32, queue: u32) -> Self {
        Self {
            interface,
            queue,
            state: State::Idle,
            frames: 1,
            random: 0,
        }
    }

    /// Shows all frames of a batch, at least one, before anything is made of them.
    #[inline]
    pub fn look<'f>(
        &mut self,
        marks: &Marks,
        frames: impl ExactSizeIterator<Item = &'f [u8]>,
        latencies: &Latencies,
    ) {
        self.frames = (7 * self.frames + frames.len() as u64).div_ceil(8);
        if matches!(self.state, State::Asked) {
            match marks.marked(self.interface, self.queue) {
                None => return,
                // It is in no batch that was shown: it came after the worker asked, and after it
                // last saw no mark.
                Some(marked) => self.state = State::Sought(marked, 0),
            }
        }
        self.go_on(marks, frames, latencies);
    }

    /// Asks for a frame, or looks for the one that it has asked for.
    #[inline(never)]
    fn go_on<'f>(
        &mut self,
        marks: &Marks,
        frames: impl Iterator<Item = &'f [u8]>,
        latencies: &Latencies,
    ) {
        self.state = match self.state {
            State::Idle => {
                let ahead = self.by_chance() % (2 * EVERY * self.frames / Mark::EVERY).max(1);
                marks.ask(self.interface, self.queue, 1 + ahead);
                State::Asked
            }
            State::Sought(marked, batches) => {
                let is_it = |frame: &&[u8]| print(*frame) == Some(marked.print);
                match frames.filter(is_it).take(2).count() {
                    1 => State::Found(marked.time),
                    0 if batches < PATIENCE => State::Sought(marked, batches + 1),
                    // It was dropped in front of the worker, or went to another one; or which of
                    // several it is cannot be told.
                    _ => {
                        latencies.note(self.interface, MISSED);
                        State::Idle
                    }
                }
            }
            State::Asked | State::Found(_) => return,
        };
    }

    /// The copies of all frames that were shown have been handed over.
    #[inline]
    pub fn handed_over(&mut self, latencies: &Latencies) {
        if let State::Found(arrived) = self.state {
            let time = clock().saturating_sub(arrived);
            latencies.note(self.interface, time.max(MISSED + 1));
            self.state = State::Idle;
        }
    }

    /// A number of 32 bits by chance (xorshift64*: Vigna, 2016).
    fn by_chance(&mut self) -> u64 {
        let mut next = self.random;
        if next == 0 {
            next = clock() | 1;
        }
        next ^= next >> 12;
        next ^= next << 25;
        next ^= next >> 27;
        self.random = next;
        next.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }
}

/// The last latencies of a worker.
#[derive(Debug)]
pub struct Latencies {
    /// Samples so far; the next one's place.
    taken: AtomicU64,
    /// Each with the interface in its upper half and nanoseconds in its lower one.
    places: [AtomicU64; PLACES],
}

/// How long a frame was in the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// The kernel's index of the interface that it arrived on.
    pub interface: u32,
    /// Nanoseconds; 4.29 seconds stand for more, too. `None` for a frame that was asked for and not
    /// found.
    pub nanoseconds: Option<u32>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            taken: AtomicU64::new(0),
            places: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Latencies {
    /// Notes a latency. Only the owning worker may call this.
    fn note(&self, interface: u32, nanoseconds: u64) {
        let taken = self.taken.load(Relaxed);
        if let Some(place) = self.places.get(taken as usize % PLACES) {
            let nanoseconds = nanoseconds.min(u32::MAX.into());
            place.store(u64::from(interface) << 32 | nanoseconds, Relaxed);
        }
        self.taken.store(taken + 1, Release);
    }

    /// The samples behind the first `known`, as far as they are still there, and how many there
    /// were in all.
    pub fn since(&self, known: u64) -> (impl Iterator<Item = Latency> + '_, u64) {
        let taken = self.taken.load(Acquire);
        let first = known.max(taken.saturating_sub(PLACES as u64));
        let samples = (first..taken).filter_map(|number| {
            let place = self.places.get(number as usize % PLACES)?;
            let sample = place.load(Relaxed);
            fence(Acquire);
            // The worker may write the one that has this place next.
            let is_old = self.taken.load(Relaxed) >= number + PLACES as u64;
            (!is_old).then_some(Latency {
                interface: (sample >> 32) as u32,
                nanoseconds: Some(sample as u32).filter(|&time| u64::from(time) != MISSED),
            })
        });
        (samples, taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERFACE: u32 = 3;
    const QUEUE: u32 = 1;
    const MISS: Latency = Latency {
        interface: INTERFACE,
        nanoseconds: None,
    };

    /// A frame with a number in it.
    fn frame(number: u32) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[38..42].copy_from_slice(&number.to_ne_bytes());
        frame
    }

    fn all(latencies: &Latencies, known: u64) -> Vec<Latency> {
        latencies.since(known).0.collect()
    }

    struct Worker {
        sampler: Sampler,
        marks: Marks,
        latencies: Latencies,
    }

    impl Worker {
        fn new() -> Self {
            Self {
                sampler: Sampler::new(INTERFACE, QUEUE),
                marks: Marks::without_program().unwrap(),
                latencies: Latencies::default(),
            }
        }

        /// One that has asked for a frame, which is marked with this number.
        fn asked(number: u32) -> Self {
            let mut worker = Self::new();
            worker.round(&[0, 1]);
            worker.mark(number);
            worker
        }

        fn mark(&self, number: u32) {
            let print = print(&frame(number)[..]).unwrap();
            let time = clock() - 5_000_000;
            self.marks.mark(INTERFACE, QUEUE, Marked { time, print });
        }

        fn look(&mut self, numbers: &[u32]) {
            let frames: Vec<_> = numbers.iter().map(|&number| frame(number)).collect();
            let frames = frames.iter().map(Vec::as_slice);
            self.sampler.look(&self.marks, frames, &self.latencies);
        }

        fn round(&mut self, numbers: &[u32]) {
            self.look(numbers);
            self.sampler.handed_over(&self.latencies);
        }
    }

    #[test]
    fn a_frame_that_was_marked_is_found_and_its_time_taken_when_the_round_is_over() {
        let mut worker = Worker::asked(7);
        worker.round(&[5, 6]);
        assert_eq!(all(&worker.latencies, 0), [], "it has not come");
        worker.look(&[7, 8]);
        assert_eq!(all(&worker.latencies, 0), [], "it has not left");
        worker.sampler.handed_over(&worker.latencies);
        let [latency] = all(&worker.latencies, 0)[..] else {
            panic!("one sample: {:?}", all(&worker.latencies, 0));
        };
        assert_eq!(latency.interface, INTERFACE);
        let ms = latency.nanoseconds.unwrap() / 1_000_000;
        assert!((5..5000).contains(&ms), "{latency:?}");
        worker.sampler.handed_over(&worker.latencies);
        assert_eq!(all(&worker.latencies, 1), [], "once");
        // The next one.
        worker.round(&[9]);
        worker.mark(10);
        worker.round(&[10]);
        assert_eq!(all(&worker.latencies, 1).len(), 1);
    }

    #[test]
    fn a_frame_like_others_or_one_that_never_comes_is_no_sample() {
        let mut worker = Worker::asked(7);
        worker.round(&[7, 7]);
        assert_eq!(all(&worker.latencies, 0), [MISS]);
        let mut worker = Worker::asked(7);
        for _ in 0..PATIENCE {
            worker.round(&[8]);
            assert_eq!(all(&worker.latencies, 0), []);
        }
        worker.round(&[8]);
        assert_eq!(all(&worker.latencies, 0), [MISS]);
    }

    #[test]
    fn the_more_frames_there_are_the_further_ahead_is_the_one_that_is_asked_for() {
        let mut worker = Worker::new();
        let mut ahead = |frames: u32| -> Vec<u64> {
            let numbers: Vec<u32> = (1..=frames).collect();
            let asks = (0..200).map(|_| {
                worker.sampler.state = State::Idle;
                worker.look(&numbers);
                worker.marks.left(INTERFACE, QUEUE)
            });
            asks.skip(100).collect()
        };
        assert_eq!(ahead(1), vec![1; 100]);
        let many = ahead(512);
        let mean = many.iter().sum::<u64>() / 100;
        assert!((85..172).contains(&mean), "{mean}: {many:?}");
        assert!(many.iter().all(|left| (1..=260).contains(left)), "{many:?}");
    }

    #[test]
    fn the_newest_of_many_samples_are_kept_and_long_times_are_cut() {
        let latencies = Latencies::default();
        for number in 1..=1500 {
            latencies.note(9, number);
        }
        let kept = all(&latencies, 100);
        assert_eq!(kept.len(), PLACES - 1, "one may be written just now");
        assert_eq!(kept.last().unwrap().nanoseconds, Some(1500));
        latencies.note(u32::MAX, u64::MAX);
        let longest = Latency {
            interface: u32::MAX,
            nanoseconds: Some(u32::MAX),
        };
        assert_eq!(all(&latencies, 1500), [longest]);
    }
}
