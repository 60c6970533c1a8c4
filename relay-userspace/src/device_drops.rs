//! What devices drop after the kernel has taken it, where nobody else can tell.
//!
//! Where the kernel cuts GSO packets apart in front of a device, `sendmmsg` does not say how many of the parts
//! the device refused. Its own counter of drops does, one a frame. So the watcher reads it once a second and at the end,
//! and it is reported as `device_dropped`. While a device takes GSO packets whole, refusals are counted where they
//! happen, and its counter is left alone.

/// The drops of one device while the kernel cut GSO packets apart in front of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceDrops {
    /// The device's counter when last read, while the kernel cuts.
    last: Option<u64>,
    /// What the counter has risen by meanwhile.
    risen: u64,
    /// What workers had been told when it was last read, and of that, while the kernel cut.
    told: u64,
    counted: u64,
    dropped: u64,
}

impl DeviceDrops {
    /// Takes the device's counter as it is `now`. `cut` is whether the kernel cuts from now on; `told` is how many of the
    /// drops its workers were told of and have counted, since they began.
    pub fn take(&mut self, now: u64, cut: bool, told: u64) {
        if let Some(last) = self.last {
            // A driver may begin anew when it is reset.
            self.risen += now.saturating_sub(last);
            self.counted += told.saturating_sub(self.told);
        }
        self.told = told;
        self.last = cut.then_some(now);
        // A worker may have been told of a drop that the counter, read a moment before, does not have yet.
        self.dropped = self.dropped.max(self.risen.saturating_sub(self.counted));
    }

    /// Frames that the device dropped and no worker was told of.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_count_while_the_kernel_cuts_less_those_that_a_worker_was_told_of() {
        let mut drops = DeviceDrops::default();
        /// The counter, whether the kernel cuts from now on, what workers were told, and what is reported then.
        type Step = (u64, bool, u64, u64);
        #[rustfmt::skip]
        let steps: [Step; 9] = [
            (100, false, 0, 0),
            (150, true, 0, 0),   // counted where they happened
            (160, true, 0, 10),
            (170, true, 5, 15),
            (170, true, 8, 15),  // told before the counter was read with them
            (180, true, 8, 22),
            (185, false, 8, 27),
            (500, true, 8, 27),
            (10, true, 8, 27),   // begun anew
        ];
        for (step, (now, cut, told, expected)) in steps.into_iter().enumerate() {
            drops.take(now, cut, told);
            assert_eq!(drops.frames(), expected, "step {step}");
        }
    }
}
