//! Frames that NICs drop before the kernel or the relay sees them.
//!
//! A NIC without a free receive buffer drops the frame. In zero copy its buffers are the relay's
//! chunks, so these are the frames lost when a worker is slower than its feed. The NIC does not say
//! whether a rule matched them, so the report has them per interface, beside the drop reasons.

/// One interface's counter (`rx_missed_errors`, struct rtnl_link_stats64 in
/// include/uapi/linux/if_link.h). Not every driver counts there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missed {
    /// The counter when it was last read; `None` while nothing is received there.
    last: Option<u64>,
    frames: u64,
}

impl Missed {
    /// Takes the counter, which is `now`; counting begins at the first value.
    pub fn take(&mut self, now: u64) {
        if let Some(last) = self.last {
            // A driver may restart its counter when it is reset.
            self.frames += now.saturating_sub(last);
        }
        self.last = Some(now);
    }

    /// Counting ends until the next [`Missed::take`]: the relay receives nothing there. The number
    /// stays.
    pub fn pause(&mut self) {
        self.last = None;
    }

    /// Frames that the NIC dropped while the relay received there.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_start_and_neither_a_new_counter_nor_a_pause_counts() {
        let mut missed = Missed::default();
        for (now, expected) in [(100, 0), (130, 30), (131, 31), (2, 31), (4, 33)] {
            missed.take(now);
            assert_eq!(missed.frames(), expected);
        }
        missed.pause();
        missed.take(50);
        assert_eq!(missed.frames(), 33);
    }
}
