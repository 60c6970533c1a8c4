//! Frames that NICs drop before the kernel or the relay sees them.
//!
//! A NIC without a free receive buffer drops the frame. In zero copy its buffers are the relay's
//! chunks, so these are the frames lost when a worker is slower than its feed. The NIC does not say
//! whether a rule matched them, so the report has them per interface, beside the drop reasons.

/// One interface's counter (`rx_missed_errors`, struct rtnl_link_stats64 in
/// include/uapi/linux/if_link.h). Not every driver counts there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missed {
    /// The counter when the relay began.
    since: Option<u64>,
    now: u64,
}

impl Missed {
    /// Takes the counter, which is `now`; counting begins at the first value.
    pub fn take(&mut self, now: u64) {
        self.since.get_or_insert(now);
        self.now = now;
    }

    /// Frames that the NIC dropped since the relay began.
    #[must_use]
    pub fn frames(&self) -> u64 {
        // A driver may restart its counter when it is reset.
        self.now.saturating_sub(self.since.unwrap_or(self.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_start_and_a_counter_that_begins_anew_is_none() {
        let mut missed = Missed::default();
        for (now, expected) in [(100, 0), (130, 30), (131, 31), (2, 0)] {
            missed.take(now);
            assert_eq!(missed.frames(), expected);
        }
    }
}
