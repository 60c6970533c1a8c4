//! What the log says of next hops: found, lost, or at another Ethernet address.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use log::Level::{self, Debug, Info, Warn};

use super::changes::LOG;
use crate::{datapath::next_hops::NextHops, events::Event, host::neighbours::OnLink, plan::Mac};

/// How long a new next hop has to answer until the log says that it does not.
const PATIENCE: Duration = Duration::from_secs(1);

/// The next hops as the log has them.
pub struct Hops {
    table: Arc<NextHops>,
    said: BTreeMap<OnLink, Said>,
}

/// What the log has of one.
#[derive(Debug, Clone, Copy)]
struct Said {
    mac: Option<[u8; 6]>,
    /// It has anything at all.
    is_told: bool,
    since: Instant,
}

impl Hops {
    /// Nothing is said yet.
    pub fn new(table: Arc<NextHops>) -> Self {
        Self {
            table,
            said: BTreeMap::new(),
        }
    }

    /// Says what has changed. `name` has the names of interfaces by index.
    pub fn look(&mut self, mut name: impl FnMut(u32) -> Option<String>) {
        let now = Instant::now();
        let mut said = BTreeMap::new();
        for (host, known) in self.table.all() {
            let new = Said {
                mac: None,
                is_told: false,
                since: now,
            };
            let mut of_host = self.said.get(&host).copied().unwrap_or(new);
            let (before, mac) = (of_host, known.mac());
            let is_late = !before.is_told && now.duration_since(before.since) >= PATIENCE;
            if mac != before.mac || mac.is_none() && is_late {
                let on = name(host.interface).unwrap_or_else(|| host.interface.to_string());
                let before = before.is_told.then_some(before.mac);
                let (level, turn, text) = line(host, &on, before, mac);
                Event::new(LOG, level, "next hop", &text)
                    .interface(&on)
                    .which(&host.address.to_string())
                    .turn(turn)
                    .say();
                (of_host.mac, of_host.is_told) = (mac, true);
            }
            said.insert(host, of_host);
        }
        self.said = said;
    }
}

fn line(
    host: OnLink,
    interface: &str,
    before: Option<Option<[u8; 6]>>,
    now: Option<[u8; 6]>,
) -> (Level, &'static str, String) {
    let hop = format!("next hop {} on {interface}", host.address);
    match (before, now) {
        (None, Some(now)) => (Debug, "", format!("{hop} is at {}", Mac(now))),
        (Some(None), Some(now)) => {
            let text = format!("{hop} answers now, at {}", Mac(now));
            (Info, "answers", text)
        }
        (Some(Some(before)), Some(now)) => {
            let (before, now) = (Mac(before), Mac(now));
            let text = format!("{hop} is at {now} now, at {before} before");
            (Info, "moved", text)
        }
        (_, None) => {
            let text = format!(
                "{hop} does not answer: copies that go through it are counted as no_neighbour until \
                 it does"
            );
            (Warn, "silent", text)
        }
    }
}
