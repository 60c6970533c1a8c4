//! Frames that the kernel has not taken and will not take: because the device is gone, because the
//! port goes, or at the end. Each is counted, and its chunk is free as soon as nobody reads it.

use super::{Device, Home, Rings, Transmitter};
use crate::{
    datapath::{
        stats::{Dropped, Outputs},
        xdp::tx_ring_account::Taken,
    },
    plan::Mode,
};

impl<R: Rings> Transmitter<R> {
    /// Gives up the frames that wait for a device that is gone for good; their chunks are needed
    /// elsewhere. Not before all descriptors have come back that the kernel is known to have taken:
    /// where it publishes late, that shows what else it took. But for the headers of a frame whose
    /// payload it never took: it has copied them, and never gives them back (`xs->skb`,
    /// net/xdp/xsk.c).
    pub(super) fn refuse_what_waits(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        self.come_back(home, stats, false);
        let last = self.ledger.last_taken();
        let half = self.waiting() > 0 && self.is_part(last);
        match self.ledger.with_the_kernel() {
            0 => {}
            1 if half => {
                if let Some(headers) = self.descs.get(last) {
                    home.completed(headers);
                }
                self.ledger.completed(1);
            }
            _ => return,
        }
        self.closed = true;
        self.give_up(home, stats, Dropped::DeviceRefused);
    }

    /// At the end, counts the frames that the kernel never took. In zero copy the device may still
    /// read their chunks; in copy mode they are free.
    pub fn abandon(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        // A device takes frames when it likes, also after the last kick.
        self.settle_told(home, stats);
        match self.mode {
            Mode::Copy => self.give_up(home, stats, Dropped::UnsentAtExit),
            Mode::ZeroCopy => {
                let waiting = self.ledger.abandon();
                self.count_all(waiting, home, stats, Dropped::UnsentAtExit);
            }
        }
    }

    /// Before its socket is closed, while others of the UMEM go on, counts the frames that the
    /// kernel has not taken. In zero copy their chunks are among [`Self::not_back`].
    pub fn leave(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs) {
        let reason = match self.device {
            Device::Gone => Dropped::DeviceRefused,
            Device::Ready | Device::Down => Dropped::UnsentAtExit,
        };
        self.settle_told(home, stats);
        match self.mode {
            Mode::Copy => self.give_up(home, stats, reason),
            Mode::ZeroCopy => {
                let waiting = self.ledger.leave();
                self.count_all(waiting, home, stats, reason);
            }
        }
    }

    /// Once its socket is closed, the descriptors that will not come back. None in copy mode, where
    /// they may come back in any order: chunks that the kernel has not given back by then stay in
    /// flight until the worker ends.
    pub fn not_back(&self) -> Box<[R::Desc]> {
        if self.mode == Mode::Copy {
            return Box::default();
        }
        let slots = self.ledger.not_back().slots();
        slots
            .filter_map(|slot| self.descs.get(slot).copied())
            .collect()
    }

    fn give_up(&mut self, home: &mut impl Home<R::Desc>, stats: &Outputs, reason: Dropped) {
        let waiting = self.ledger.abandon();
        self.count_all(waiting, home, stats, reason);
        for desc in waiting.slots().filter_map(|slot| self.descs.get(slot)) {
            home.completed(desc);
        }
    }

    fn count_all(
        &self,
        descriptors: Taken,
        home: &impl Home<R::Desc>,
        stats: &Outputs,
        reason: Dropped,
    ) {
        for slot in descriptors.slots() {
            self.count(slot, stats, reason);
        }
        if stats.taps().is_on() {
            self.tell(descriptors, None, Some(reason), home, stats);
        }
    }
}
