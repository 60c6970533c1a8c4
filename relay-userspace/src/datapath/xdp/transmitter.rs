//! Frames that leave through one TX ring: queued, submitted, counted, and their chunks taken back.
//!
//! A copy counts as sent when the kernel has taken its descriptor off the TX ring, and not before.
//! The transmitter therefore remembers, in ring order, which output each descriptor belongs to, and
//! reads after every kick how far the kernel came ([`Transmitter::kick`]). In copy mode the kernel
//! works within the kick and says what became of the frames; in zero copy the device takes them
//! when it likes, and is kicked only when it asks for it. Descriptors that the ring does not take
//! stay staged, in order, until it does.
//!
//! A frame may be two descriptors, headers and payload. It counts with the second one: the first
//! has no output (`PART`). Both are put on the ring at once, but the kernel may take one of them
//! with one call, and the other with the next.
//!
//! The rings are behind [`Rings`], so that tests can put a simulated kernel there.

mod giving_up;
mod telling;

use nix::errno::Errno;

use super::{
    ring_sizes::TX_SIZE,
    tx_ring_account::{Ledger, Taken, slot},
    tx_rings::Descriptor,
    umem::Chunks,
};
use crate::{
    datapath::stats::{Dropped, OutputStats, Outputs},
    plan::Mode,
};

/// Frames that make another kick worth its system call when a round brings more than the ring
/// holds: twice what the kernel takes per call in copy mode (`TX_BATCH_SIZE`, net/xdp/xsk.c).
const WORTH_A_KICK: u32 = 64;
/// The most frames that the kernel takes per call in copy mode (`TX_BATCH_SIZE`).
const BUDGET: u32 = 32;
/// In place of an output: the frame goes on in the next descriptor, and counts with that.
const PART: u32 = u32::MAX;
/// Completions that are read at once.
const COMPLETIONS: usize = 256;

/// A TX ring, its completion ring, and the call that makes the kernel look at them.
pub trait Rings {
    /// An entry of the rings.
    type Desc: Copy + Default;

    /// Free entries of the TX ring, as far as the kernel has published them.
    fn free(&mut self) -> u32;

    /// Puts the descriptors of both slices on the TX ring at once, no more than [`Rings::free`].
    /// Returns how many it took: all or none.
    ///
    /// # Safety
    ///
    /// The chunks of `descs` must not be written to until they are completed.
    unsafe fn submit(&mut self, descs: [&[Self::Desc]; 2]) -> u32;

    /// Whether the kernel asks for a kick.
    fn needs_wakeup(&self) -> bool;

    /// Kicks: makes the kernel look at the TX ring.
    ///
    /// # Errors
    ///
    /// The kernel's reason, which in copy mode also says what became of a frame.
    fn wake(&mut self) -> Result<(), Errno>;

    /// Takes descriptors off the completion ring. Returns how many.
    fn complete(&mut self, descs: &mut [Self::Desc]) -> usize;
}

/// Where completed descriptors go.
pub trait Home<Desc> {
    /// Takes back one descriptor; others may still name the same chunk.
    fn completed(&mut self, desc: &Desc);

    /// What a descriptor names, as long as it has not been [completed](Self::completed).
    fn bytes(&self, _desc: &Desc) -> &[u8] {
        &[]
    }
}

impl Home<Descriptor> for Chunks {
    #[inline]
    fn completed(&mut self, desc: &Descriptor) {
        self.completed(desc);
    }

    fn bytes(&self, desc: &Descriptor) -> &[u8] {
        self.named_by(desc)
    }
}

/// The state of the device, as a kick found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// It takes frames.
    Ready,
    /// It is down; frames wait in the TX ring.
    Down,
    /// It is gone (`ENXIO`): deleted, or moved to another namespace, and the socket is of no more
    /// use. Or, in zero copy, its driver has taken the queue away for a moment.
    Gone,
}

/// The transmitting half of a port.
#[derive(Debug)]
pub struct Transmitter<R: Rings> {
    rings: R,
    mode: Mode,
    ledger: Ledger,
    /// The descriptors that the ledger counts, each in its slot.
    descs: Box<[R::Desc; TX_SIZE as usize]>,
    /// The output that each of them belongs to.
    outputs: Box<[u32; TX_SIZE as usize]>,
    device: Device,
    /// The device is gone for good, and all descriptors are accounted for: completions are ignored
    /// now.
    closed: bool,
    /// The kernel publishes late: one call showed more frames as taken than a call can take.
    publishes_late: bool,
    /// It was kicked for room in this round.
    kicked: bool,
    /// The ledger's `queued` at the last kick.
    queued_then: u32,
    /// Its device takes frames of two parts.
    shares: bool,
    /// Room for descriptors from the completion ring.
    batch: Box<[R::Desc]>,
}

impl<R: Rings> Transmitter<R> {
    /// A transmitter with nothing queued.
    pub fn new(rings: R, mode: Mode) -> Self {
        Self {
            rings,
            mode,
            ledger: Ledger::default(),
            descs: Box::new([R::Desc::default(); TX_SIZE as usize]),
            outputs: Box::new([0; TX_SIZE as usize]),
            device: Device::Ready,
            closed: false,
            publishes_late: false,
            kicked: false,
            queued_then: 0,
            shares: false,
            batch: vec![R::Desc::default(); COMPLETIONS].into(),
        }
    }

    /// The same for a device that takes frames of two parts, if it `shares`.
    #[must_use]
    pub fn sharing(self, shares: bool) -> Self {
        Self { shares, ..self }
    }

    /// Whether its device takes frames of two parts.
    #[inline]
    pub fn shares(&self) -> bool {
        self.shares
    }

    /// The state of the device, as the last kick found it.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Descriptors that have not come back.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.ledger.outstanding()
    }

    /// Descriptors that the kernel has not taken yet.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.ledger.waiting()
    }

    /// Descriptors ever queued; the number wraps.
    pub fn queued(&self) -> u32 {
        self.ledger.queued()
    }

    /// Whether every descriptor is accounted for that had been queued when [`Self::queued`] was
    /// `then`: sent, or dropped. `then` must be of the last 2³¹ descriptors.
    pub fn has_accounted(&self, then: u32) -> bool {
        self.ledger.has_taken(then)
    }

    /// Whether a frame of so many descriptors may be queued. The limit counts descriptors that have
    /// not come back, so that neither the TX ring nor the completion ring can overflow.
    #[inline]
    pub fn has_room(&self, descriptors: u32) -> bool {
        self.ledger.has_room(descriptors)
    }

    /// Begins a round: takes completions, so that a full ring may have room again.
    #[inline]
    pub fn begin_round(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        self.kicked = false;
        self.take_back(home, stats);
    }

    /// Takes completions, and counts the frames that they are of. Whoever queues frames then needs
    /// both: a slot is not used again before what was in it is counted.
    #[inline]
    pub fn take_back(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        if self.outstanding() > 0 {
            self.come_back(home, stats, false);
        }
    }

    /// Takes completions and counts the frames that the kernel has taken, as [`Self::settle`].
    #[inline]
    fn come_back(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs, refused: bool) -> u32 {
        if stats.taps().is_on() {
            return self.come_back_told(home, stats, refused);
        }
        self.reap(home);
        self.settle(stats, refused).count()
    }

    /// Looks for room for so many descriptors if there is none: one round may bring more frames
    /// than the ring holds, and the device works meanwhile. It kicks once per round for that, and
    /// again after every 64 descriptors that found room.
    #[inline]
    pub fn make_room(&mut self, descriptors: u32, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        if !self.has_room(descriptors) {
            self.look_for_room(descriptors, home, stats);
        }
    }

    #[cold]
    fn look_for_room(&mut self, descriptors: u32, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        self.take_back(home, stats);
        if self.has_room(descriptors) {
            return;
        }
        let fresh = self.ledger.queued().wrapping_sub(self.queued_then);
        if !self.kicked || fresh >= WORTH_A_KICK {
            self.kick(home, stats);
            self.take_back(home, stats);
            self.kicked = true;
        }
    }

    /// Queues a frame for `output`, to be submitted by the next [`Transmitter::kick`]. Only after
    /// [`Transmitter::has_room`].
    #[inline]
    pub fn queue(&mut self, desc: R::Desc, output: u32) {
        let slot = self.ledger.queue();
        if let (Some(place), Some(of)) = (self.descs.get_mut(slot), self.outputs.get_mut(slot)) {
            *place = desc;
            *of = output;
        }
    }

    /// Queues a frame of two parts for `output`. Only after [`Transmitter::has_room`] for two.
    #[inline]
    pub fn queue_parts(&mut self, first: R::Desc, last: R::Desc, output: u32) {
        self.queue(first, PART);
        self.queue(last, output);
    }

    /// Queues frames of two parts for `output`. Only after [`Transmitter::has_room`] for all of
    /// them.
    #[inline(always)]
    pub fn queue_all_parts(&mut self, frames: impl Iterator<Item = [R::Desc; 2]>, output: u32) {
        let (first, mut count) = (self.ledger.queued(), 0);
        let (descs, outputs) = (&mut *self.descs, &mut *self.outputs);
        for [headers, payload] in frames {
            let at = slot(first.wrapping_add(count));
            descs[at] = headers;
            outputs[at] = PART;
            let at = slot(first.wrapping_add(count + 1));
            descs[at] = payload;
            outputs[at] = output;
            count += 2;
        }
        self.ledger.queue_many(count);
    }

    /// Submits the queued descriptors, makes the kernel work on the TX ring, and counts those that
    /// it took.
    ///
    /// In copy mode this repeats while the kernel makes progress, which takes 32 frames per call
    /// and stops at a refused one. In zero copy the device goes on by itself.
    pub fn kick(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        self.queued_then = self.ledger.queued();
        let copies = self.mode == Mode::Copy;
        if !self.is_lost() {
            self.submit();
        }
        let mut unseen = 0;
        while self.waiting() > 0 && !self.is_lost() {
            // In copy mode the kernel always asks for a kick.
            let result = if self.rings.needs_wakeup() {
                self.rings.wake()
            } else {
                Ok(())
            };
            self.device = match result {
                Ok(()) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EBUSY | Errno::EINTR) => {
                    Device::Ready
                }
                Err(Errno::ENXIO | Errno::ENODEV | Errno::EBADF) => Device::Gone,
                // In zero copy the driver answers: ENETDOWN, or another error while it resets.
                Err(_) => Device::Down,
            };
            let taken = if copies {
                // A descriptor that came back was taken, even if the kernel publishes that later.
                self.come_back(home, stats, result == Err(Errno::EBUSY))
            } else {
                self.settle_told(home, stats)
            };
            let submitted = self.submit();
            if !copies {
                break;
            }
            self.publishes_late |= taken > BUDGET;
            if taken + submitted > 0 {
                unseen = 0;
            } else if result == Err(Errno::EAGAIN) && self.may_have_taken(unseen) {
                unseen += BUDGET;
            } else {
                break;
            }
        }
        if self.is_lost() {
            self.refuse_what_waits(home, stats);
        }
    }

    /// Whether a call that shows no progress may have taken frames, after earlier such calls that
    /// can have taken `unseen`.
    fn may_have_taken(&self, unseen: u32) -> bool {
        self.publishes_late && unseen < self.waiting()
    }

    /// Whether the device is gone and the socket of no more use: in copy mode the kernel unbinds it
    /// for good (`xsk_notifier`, net/xdp/xsk.c).
    fn is_lost(&self) -> bool {
        self.device == Device::Gone && self.mode == Mode::Copy
    }

    /// Puts staged descriptors on the ring, as many whole frames as have room. Returns how many.
    fn submit(&mut self) -> u32 {
        let staged = self.ledger.staged();
        if staged == 0 {
            return 0;
        }
        let mut count = staged.min(self.rings.free());
        if count > 0 && self.is_part(self.ledger.staged_slot(count)) {
            count -= 1;
        }
        let [first, second] = self.ledger.next_staged(count);
        let (Some(first), Some(second)) = (self.descs.get(first), self.descs.get(second)) else {
            return 0;
        };
        if count == 0 {
            return 0;
        }
        // SAFETY: the descriptors are of chunks and header slots of this socket's UMEM that left
        // the worker's hands, so nothing writes to what they name until they complete.
        let submitted = unsafe { self.rings.submit([first, second]) };
        self.ledger.submitted(submitted);
        submitted
    }

    /// Whether the frame of the descriptor in `slot` goes on in the next one.
    #[inline]
    fn is_part(&self, slot: usize) -> bool {
        self.outputs.get(slot) == Some(&PART)
    }

    /// Counts the frames that the kernel has taken since the last call as sent, but the last one as
    /// refused if `refused`. Returns the descriptors that it took.
    ///
    /// Kernels publish how far they came when they have sent something (`__xsk_generic_xmit`,
    /// net/xdp/xsk.c), so a refusal right at the start may show as no progress although one frame
    /// was taken. Linux 6.18.44 publishes it at once.
    fn settle(&mut self, stats: &Outputs, refused: bool) -> Taken {
        let least = match refused {
            true => 1 + u32::from(self.is_part(self.ledger.next_taken())),
            false => 0,
        };
        let taken = self.ledger.settle(self.rings.free(), least);
        let mut slots = taken.slots();
        let stats: &[OutputStats] = stats;
        if refused && let Some(slot) = slots.by_ref().rev().find(|&slot| !self.is_part(slot)) {
            self.count(slot, stats, Dropped::DeviceRefused);
        }
        for slot in slots {
            if let Some(output) = self.output_in(slot, stats) {
                output.sent.add(1);
            }
        }
        taken
    }

    /// The counters of the output that the descriptor in `slot` belongs to.
    #[inline]
    fn output_in<'a>(&self, slot: usize, stats: &'a [OutputStats]) -> Option<&'a OutputStats> {
        stats.get(*self.outputs.get(slot)? as usize)
    }

    fn count(&self, slot: usize, stats: &[OutputStats], reason: Dropped) {
        if let Some(output) = self.output_in(slot, stats) {
            output.drops.add(reason, 1);
        }
    }

    /// Takes completions: chunks whose last descriptor came back are free again.
    pub fn reap(&mut self, home: &mut impl Home<R::Desc>) {
        while self.outstanding() > 0 && !self.closed {
            let count = self.rings.complete(&mut self.batch);
            for desc in self.batch.iter().take(count) {
                home.completed(desc);
            }
            self.ledger.completed(count as u32);
            if count < self.batch.len() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
