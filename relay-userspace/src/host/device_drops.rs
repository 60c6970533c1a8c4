//! Frames that a device drops after the kernel has accepted them, where no error reports it.
//!
//! If the kernel cuts GSO packets into datagrams in front of a device, `sendmmsg` does not say how
//! many of them the device refused. The device's own drop counter does, with one count per frame.
//! So the watcher reads it once per second and at the end, and the report has it as
//! `device_dropped`. While a device takes GSO packets whole, the workers count refusals themselves,
//! and the watcher ignores the device's counter.

/// The drops of one device while the kernel cut GSO packets in front of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceDrops {
    /// The device's counter when it was last read; `None` while the kernel does not cut.
    last: Option<u64>,
    /// The sum of the counter's increases while the kernel cut.
    risen: u64,
    /// Drops that workers had counted when the counter was last read.
    told: u64,
    /// Drops that workers counted while the kernel cut.
    counted: u64,
    /// The reported number, which never decreases.
    dropped: u64,
}

impl DeviceDrops {
    /// Takes the device's counter, which is `now`. `cut` says whether the kernel cuts GSO packets
    /// from now on; `told` is the number of drops that the kernel reported to the workers, and that
    /// they have counted, since they began.
    pub fn take(&mut self, now: u64, cut: bool, told: u64) {
        if let Some(last) = self.last {
            // A driver may restart its counter when it is reset.
            self.risen += now.saturating_sub(last);
            self.counted += told.saturating_sub(self.told);
        }
        self.told = told;
        self.last = cut.then_some(now);
        // A worker may have counted a drop that the device's counter, read a moment earlier, did
        // not have yet.
        self.dropped = self.dropped.max(self.risen.saturating_sub(self.counted));
    }

    /// Counting ends until the next [`DeviceDrops::take`]: nothing of the relay is sent there. The
    /// number stays. `told` is as above, of the workers that will send there.
    pub fn pause(&mut self, told: u64) {
        self.last = None;
        self.told = told;
    }

    /// Other workers send there from now on, and those that stay have counted `told` drops. Take
    /// the counter right before.
    pub fn recount(&mut self, told: u64) {
        self.told = told;
    }

    /// Frames that the device dropped and that no worker counted.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_in_a_pause_does_not_count_and_other_workers_change_nothing() {
        let mut drops = DeviceDrops::default();
        drops.take(100, true, 7);
        drops.take(110, true, 7);
        assert_eq!(drops.frames(), 10);
        // A worker that had counted 5 of the 7 ends.
        drops.recount(2);
        drops.take(115, true, 3);
        assert_eq!(drops.frames(), 14);
        drops.pause(0);
        drops.take(200, true, 0);
        assert_eq!(drops.frames(), 14);
        drops.take(201, true, 0);
        assert_eq!(drops.frames(), 15);
    }

    #[test]
    fn drops_count_while_the_kernel_cuts_less_those_that_a_worker_was_told_of() {
        let mut drops = DeviceDrops::default();
        /// The device's counter, whether the kernel cuts from now on, the workers' count, and the
        /// expected result.
        type Step = (u64, bool, u64, u64);
        #[rustfmt::skip]
        let steps: [Step; 9] = [
            (100, false, 0, 0),
            (150, true, 0, 0),   // the workers count these
            (160, true, 0, 10),
            (170, true, 5, 15),
            (170, true, 8, 15),  // the workers counted them before the device's counter rose
            (180, true, 8, 22),
            (185, false, 8, 27),
            (500, true, 8, 27),
            (10, true, 8, 27),   // the driver restarted its counter
        ];
        for (step, (now, cut, told, expected)) in steps.into_iter().enumerate() {
            drops.take(now, cut, told);
            assert_eq!(drops.frames(), expected, "step {step}");
        }
    }
}
