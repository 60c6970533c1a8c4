//! What NICs drop before anybody sees it.
//!
//! A NIC that has no buffer to receive into drops the frame by itself. In zero copy its buffers are the relay's chunks,
//! so this is where frames go when a worker is slower than its feed. Nobody can tell what they were, a rule's or not, so
//! they are a number of the interface, beside the reasons that frames are dropped for.

/// One interface's counter (`rx_missed_errors`, struct rtnl_link_stats64 in include/uapi/linux/if_link.h). It depends on
/// the driver whether it counts there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missed {
    /// When the relay began.
    since: Option<u64>,
    now: u64,
}

impl Missed {
    /// Takes the counter as it is `now`; the first one is where counting begins.
    pub fn take(&mut self, now: u64) {
        self.since.get_or_insert(now);
        self.now = now;
    }

    /// Frames that the NIC dropped since the relay began.
    #[must_use]
    pub fn frames(&self) -> u64 {
        // A driver may begin anew when it is reset.
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
