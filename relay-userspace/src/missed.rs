//! What NICs drop before anybody sees it.
//!
//! A NIC that has no buffer to receive into drops the frame by itself. In zero copy its buffers are the relay's chunks, so this is where
//! frames go when a worker is slower than its feed. Nobody can tell what they were, a rule's or not, so they are a number of the
//! interface, beside the reasons that frames are dropped for.

use std::collections::HashMap;

use crate::{nic, plan::Plan};

/// The counters of all interfaces of a plan (`rx_missed_errors`, struct rtnl_link_stats64 in include/uapi/linux/if_link.h). It depends on
/// the driver whether it counts there.
#[derive(Debug, Default)]
pub struct Missed {
    /// By position in the plan.
    interfaces: Vec<Counter>,
}

#[derive(Debug)]
struct Counter {
    index: u32,
    /// When the relay began.
    since: u64,
    now: u64,
}

impl Missed {
    /// Begins to count.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let counters = nic::rx_missed();
        let interfaces = plan.interfaces.iter().map(|interface| {
            let since = counters.get(&interface.index).copied().unwrap_or(0);
            Counter {
                index: interface.index,
                since,
                now: since,
            }
        });
        Self {
            interfaces: interfaces.collect(),
        }
    }

    /// Reads the counters.
    pub fn refresh(&mut self) {
        self.take(&nic::rx_missed());
    }

    /// What an interface has now, by index; one that has gone keeps what it had.
    fn take(&mut self, counters: &HashMap<u32, u64>) {
        for interface in &mut self.interfaces {
            if let Some(&now) = counters.get(&interface.index) {
                interface.now = now;
            }
        }
    }

    /// Frames that the NIC of an interface, a position in the plan, dropped since the relay began.
    #[must_use]
    pub fn of(&self, interface: usize) -> u64 {
        let counter = self.interfaces.get(interface);
        // A driver may begin anew when it is reset.
        counter.map_or(0, |counter| counter.now.saturating_sub(counter.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_start_and_keeps_what_is_known_of_an_interface_that_has_gone() {
        let counter = |index, since| Counter {
            index,
            since,
            now: since,
        };
        let mut missed = Missed {
            interfaces: vec![counter(7, 100), counter(9, 0)],
        };
        assert_eq!((missed.of(0), missed.of(1), missed.of(2)), (0, 0, 0));
        missed.take(&HashMap::from([(7, 130), (9, 5)]));
        missed.take(&HashMap::from([(7, 131)]));
        assert_eq!((missed.of(0), missed.of(1)), (31, 5));
        missed.take(&HashMap::from([(7, 2)]));
        assert_eq!(missed.of(0), 0, "begun anew");
    }
}
