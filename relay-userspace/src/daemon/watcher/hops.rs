//! What the log says of next hops: found, lost, or at another Ethernet address.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use log::Level::{Debug, Info, Warn};

use super::budget::{Budget, Line};
use crate::{datapath::next_hops::NextHops, host::neighbours::OnLink, plan::Mac};

/// The next hops as the log has them.
pub struct Hops {
    table: Arc<NextHops>,
    said: BTreeMap<OnLink, Option<[u8; 6]>>,
    lines: Budget,
}

impl Hops {
    /// Nothing is said yet.
    pub fn new(table: Arc<NextHops>) -> Self {
        Self {
            table,
            said: BTreeMap::new(),
            lines: Budget::new(Instant::now()),
        }
    }

    /// Says what has changed. `name` has the names of interfaces by index.
    pub fn look(&mut self, name: impl Fn(u32) -> Option<String>) {
        let now = Instant::now();
        self.lines.tick(now, "next hops");
        let all = self.table.all();
        let mut said = BTreeMap::new();
        for (host, known) in all {
            let before = self.said.get(&host).copied();
            said.insert(host, known.mac());
            if before != Some(known.mac()) {
                let on = name(host.interface).unwrap_or_else(|| host.interface.to_string());
                let line = line(host, &on, before, known.mac());
                self.lines.say(now, &on, &line);
            }
        }
        self.said = said;
    }
}

fn line(
    host: OnLink,
    interface: &str,
    before: Option<Option<[u8; 6]>>,
    now: Option<[u8; 6]>,
) -> Line {
    let hop = format!("next hop {} on {interface}", host.address);
    let (level, text) = match (before, now) {
        (None, Some(now)) => (Debug, format!("{hop} is at {}", Mac(now))),
        (Some(None), Some(now)) => (Info, format!("{hop} answers now, at {}", Mac(now))),
        (Some(Some(before)), Some(now)) => {
            let (before, now) = (Mac(before), Mac(now));
            (Info, format!("{hop} is at {now} now, at {before} before"))
        }
        (_, None) => {
            let text = format!(
                "{hop} does not answer: copies that go through it are counted as no_neighbour until \
                 it does"
            );
            (Warn, text)
        }
    };
    Line {
        level,
        text,
        matters: false,
    }
}
