//! Taps: copies of what a rule's frames were when they came and what its copies were when they left
//! or were dropped, for those who look.
//!
//! Where no tap is on, a worker looks at one flag per batch and per message queue, and at none per
//! frame. A tap costs a copy of each of its frames into a ring of its own ([`ring`]), and never a
//! frame: what finds no room there is counted as lost by the tap. A worker reaches its taps behind
//! a lock that it takes only if it need not wait; control holds it for a few instructions when a
//! tap begins or ends.
//!
//! A copy is written down where its fate is known, from the bytes that the kernel was given: when
//! the kernel has taken its descriptor, or has answered for its message. A GSO packet is cut into
//! the frames that leave ([`segments::cut`]). Of a copy that was dropped before it was made, the tap
//! makes what it would have been.

mod arrived;
pub mod record;
pub mod ring;

use std::{
    sync::{
        Mutex, MutexGuard, TryLockError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

use self::{
    record::{MOST, Way, why},
    ring::Writer,
};
use super::{stats::Dropped, vnet_header::ReceivedVnetHeader};
use crate::packet::{HEADERS_ROOM, Received, Template, segments};

/// How long control waits before it tries again to get at a worker's taps. The worker has them for
/// a batch at a time.
const TRY_AGAIN: Duration = Duration::from_micros(20);

/// The most taps of one worker at once.
pub const MOST_TAPS: usize = 4;

/// The taps of one worker.
#[derive(Debug, Default)]
pub struct Taps {
    /// There are some.
    on: AtomicBool,
    taps: Mutex<Vec<Tap>>,
    /// Frames that no tap got because control was at the taps just then: in, out.
    missed: [AtomicU64; 2],
}

/// One tap in one worker.
#[derive(Debug)]
pub struct Tap {
    /// Never the same for two taps of a relay.
    id: u64,
    /// The slot of its flow.
    flow: u32,
    /// Which interface of the tap its frames come in through.
    input: u16,
    /// The slots of its outputs, in order, each with the interface of the tap that its copies leave
    /// through.
    outputs: Box<[(u32, u16)]>,
    ring: Writer,
    /// Room for a message.
    room: Box<[u8]>,
}

/// What a copy would have been.
#[derive(Debug)]
pub struct Unmade<'a> {
    /// Its headers, but for what the others say.
    pub template: &'a Template,
    /// What it is made from.
    pub received: &'a Received,
    /// Its TTL.
    pub ttl: u8,
    /// [`Received::udp_sum`] of the payload.
    pub udp_sum: Option<u32>,
    /// Its payload.
    pub payload: &'a [u8],
}

/// What became of a copy.
pub type Fate = Option<Dropped>;

impl Taps {
    /// Whether there are any. To be asked once per batch, before anything is done for them.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Begins a tap. False if there are too many.
    pub fn begin(&self, tap: Tap) -> bool {
        let mut taps = self.lock();
        if taps.len() >= MOST_TAPS {
            return false;
        }
        taps.push(tap);
        self.on.store(true, Release);
        true
    }

    /// Ends the taps that `ends` says.
    pub fn end(&self, ends: impl Fn(u64) -> bool) {
        let mut taps = self.lock();
        let (ended, stay) = std::mem::take(&mut *taps)
            .into_iter()
            .partition(|tap| ends(tap.id));
        *taps = stay;
        self.on.store(!taps.is_empty(), Release);
        drop(taps);
        // Its memory is freed without the lock.
        let ended: Vec<Tap> = ended;
        drop(ended);
    }

    /// Frames that no tap got because control was at the taps just then: those that came in, and
    /// those that left or should have.
    pub fn missed(&self) -> [u64; 2] {
        self.missed.each_ref().map(|missed| missed.load(Acquire))
    }

    /// Control's way to the taps. It tries again and again, and does not queue for the lock: then
    /// the worker would have to wake it. A worker that panicked with the lock left the list whole.
    fn lock(&self) -> MutexGuard<'_, Vec<Tap>> {
        loop {
            match self.taps.try_lock() {
                Ok(taps) => return taps,
                Err(TryLockError::Poisoned(taps)) => return taps.into_inner(),
                Err(TryLockError::WouldBlock) => thread::sleep(TRY_AGAIN),
            }
        }
    }

    /// The worker's way to its taps. `None`, counted as `frames` missed, if control is at them.
    fn for_worker(&self, way: Way, frames: u64) -> Option<MutexGuard<'_, Vec<Tap>>> {
        match self.taps.try_lock() {
            Ok(taps) => Some(taps),
            Err(TryLockError::Poisoned(taps)) => Some(taps.into_inner()),
            Err(TryLockError::WouldBlock) => {
                let [missed_in, missed_out] = &self.missed;
                let missed = if way == Way::Out {
                    missed_out
                } else {
                    missed_in
                };
                missed.fetch_add(frames, Relaxed);
                None
            }
        }
    }

    /// Writes down a frame of `output` that is, or would have been, in these two parts.
    #[cold]
    #[inline(never)]
    pub fn frame(&self, output: u32, fate: Fate, parts: [&[u8]; 2]) {
        self.outgoing(output, 1, &mut |tap, at, time| {
            let Tap { ring, room, .. } = tap;
            match gather(room, parts.into_iter()) {
                Some(frame) => ring.write(time, Way::Out, why(fate), at, frame),
                None => ring.lose(Way::Out, 1),
            }
        });
    }

    /// Writes down a copy that was dropped before it was made. No closure writes its headers: the
    /// code that makes copies would be another one where more of it is called.
    #[cold]
    #[inline(never)]
    pub fn unmade(&self, output: u32, reason: Dropped, unmade: &Unmade<'_>) {
        let Unmade {
            template,
            received,
            ttl,
            udp_sum,
            payload,
        } = unmade;
        let mut headers = [0; HEADERS_ROOM];
        let len = template.write(&mut headers, received, *ttl, *udp_sum);
        let headers = headers.get(..len).unwrap_or_default();
        self.frame(output, Some(reason), [headers, payload]);
    }

    /// Notes that the frames of a message of `output` are not written down.
    #[cold]
    #[inline(never)]
    pub fn lose(&self, output: u32, frames: u64) {
        self.outgoing(output, frames, &mut |tap, _, _| {
            tap.ring.lose(Way::Out, frames);
        });
    }

    /// Writes down the frames of a message of `output`, which begins with a vnet header. It holds
    /// so many frames.
    #[cold]
    pub fn message<'a>(
        &self,
        output: u32,
        frames: u64,
        fate: Fate,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        self.outgoing(output, frames, &mut |tap, at, time| {
            let Tap { ring, room, .. } = tap;
            let Some(message) = gather(room, parts.clone()) else {
                ring.lose(Way::Out, frames);
                return;
            };
            let size = ReceivedVnetHeader::split(message)
                .and_then(|(header, _)| header.segment_len)
                .unwrap_or(0);
            let packet = message.get_mut(ReceivedVnetHeader::LEN..);
            let packet = packet.unwrap_or_default();
            let mut each = |frame: &[u8]| ring.write(time, Way::Out, why(fate), at, frame);
            match size {
                0 => each(packet),
                size => segments::cut(packet, size.into(), each),
            }
        });
    }

    /// Shows `output` to the taps that have it.
    fn outgoing(&self, output: u32, frames: u64, write: &mut dyn FnMut(&mut Tap, u16, u64)) {
        let Some(mut taps) = self.for_worker(Way::Out, frames) else {
            return;
        };
        let mut time = None;
        for tap in taps.iter_mut() {
            if let Some(at) = tap.output(output) {
                write(tap, at, *time.get_or_insert_with(now));
            }
        }
    }
}

impl Tap {
    /// A tap with this identifier of the flow in slot `flow`, which comes in through interface
    /// `input` of the tap, and of `outputs`: their slots, each with its interface of the tap.
    #[must_use]
    pub fn new(id: u64, flow: u32, input: u16, mut outputs: Vec<(u32, u16)>, ring: Writer) -> Self {
        outputs.sort_unstable();
        Self {
            id,
            flow,
            input,
            outputs: outputs.into(),
            ring,
            room: vec![0; ROOM].into(),
        }
    }

    fn output(&self, slot: u32) -> Option<u16> {
        let found = self.outputs.binary_search_by_key(&slot, |(slot, _)| *slot);
        let (_, at) = self.outputs.get(found.ok()?)?;
        Some(*at)
    }
}

/// The longest message: its vnet header, and a GSO packet with its headers.
const ROOM: usize = MOST + ReceivedVnetHeader::LEN + HEADERS_ROOM;

/// Puts the parts one behind another into `room`. `None` if they are longer.
fn gather<'a>(room: &mut [u8], parts: impl Iterator<Item = &'a [u8]>) -> Option<&mut [u8]> {
    let mut len = 0;
    for part in parts {
        let to = room.get_mut(len..)?.get_mut(..part.len())?;
        to.copy_from_slice(part);
        len += part.len();
    }
    room.get_mut(..len)
}

/// Nanoseconds since 1970. A call without a system call (vdso).
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
