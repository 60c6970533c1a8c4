//! What taps are told of frames that leave through a TX ring: once the kernel has taken them, or
//! when they are given up. Their bytes stay what they were until their completions are dealt with,
//! so these wait while a tap is on.

use super::{Home, PART, Rings, Transmitter};
use crate::datapath::{
    stats::{Dropped, Outputs},
    tap::Fate,
    xdp::tx_ring_account::Taken,
};

impl<R: Rings> Transmitter<R> {
    /// [`Transmitter::come_back`] while a tap is on. Where the last frame was refused, which only
    /// the last look can tell apart, the taps get those whose completions did not fit into one look
    /// once their chunks are free again: nothing has written to these meanwhile.
    #[cold]
    pub(super) fn come_back_told(
        &mut self,
        home: &mut impl Home<R::Desc>,
        stats: &Outputs,
        refused: bool,
    ) -> u32 {
        let mut taken = 0;
        loop {
            let count = match self.outstanding() > 0 && !self.closed {
                true => self.rings.complete(&mut self.batch),
                false => 0,
            };
            self.ledger.completed(count as u32);
            let is_last = count < self.batch.len();
            if is_last || !refused {
                taken += self.settle_and_tell(home, stats, refused && is_last);
            }
            for desc in self.batch.iter().take(count) {
                home.completed(desc);
            }
            if is_last {
                return taken;
            }
        }
    }

    /// Counts the frames that the kernel has taken as sent. Returns how many descriptors it took.
    #[inline]
    pub(super) fn settle_told(&mut self, home: &impl Home<R::Desc>, stats: &Outputs) -> u32 {
        if stats.taps().is_on() {
            return self.settle_and_tell(home, stats, false);
        }
        self.settle(stats, false).count()
    }

    #[cold]
    fn settle_and_tell(
        &mut self,
        home: &impl Home<R::Desc>,
        stats: &Outputs,
        refused: bool,
    ) -> u32 {
        let taken = self.settle(stats, refused);
        let refused = refused.then(|| taken.slots().rfind(|&slot| !self.is_part(slot)));
        self.tell(taken, refused.flatten(), None, home, stats);
        taken.count()
    }

    /// Tells the taps what became of frames: `fate`, but the one in slot `refused` was refused.
    #[cold]
    pub(super) fn tell(
        &self,
        descriptors: Taken,
        refused: Option<usize>,
        fate: Fate,
        home: &impl Home<R::Desc>,
        stats: &Outputs,
    ) {
        let mut first = None;
        for slot in descriptors.slots() {
            let (Some(desc), Some(&output)) = (self.descs.get(slot), self.outputs.get(slot)) else {
                continue;
            };
            if output == PART {
                first = Some(desc);
                continue;
            }
            // The kernel may have taken the first part with an earlier call.
            let before = slot.checked_sub(1).unwrap_or(self.outputs.len() - 1);
            let before = (self.outputs.get(before) == Some(&PART))
                .then(|| self.descs.get(before))
                .flatten();
            let first = first.take().or(before);
            let parts = [
                first.map_or(&[][..], |first| home.bytes(first)),
                home.bytes(desc),
            ];
            let fate = match refused == Some(slot) {
                true => Some(Dropped::DeviceRefused),
                false => fate,
            };
            stats.taps().frame(output, fate, parts);
        }
    }
}
