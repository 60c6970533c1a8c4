//! The loops that rules are in: since when each was seen, and by which frame.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use log::Level::{Info, Warn};

use crate::{
    config::quoted,
    events::Event,
    observe::snapshot::{LoopKind, LoopStatus},
};

/// The target of the lines.
const LOG: &str = module_path!();
/// How long after its last frame a loop is over.
pub const OVER_AFTER: Duration = Duration::from_secs(10);
/// The most loops that are known at once.
const MOST: usize = 1000;

/// The loops.
#[derive(Debug, Default)]
pub struct Loops {
    all: BTreeMap<(String, LoopKind), Found>,
}

#[derive(Debug)]
struct Found {
    last: Instant,
    status: LoopStatus,
}

impl Loops {
    /// Takes the loops that were seen in the last second, and logs those that begin or are over.
    pub fn see(&mut self, now: Instant, seen: impl IntoIterator<Item = LoopStatus>) {
        for status in seen {
            let key = (status.rule.clone(), status.kind);
            let is_known = self.all.contains_key(&key);
            if !is_known && self.all.len() >= MOST {
                continue;
            }
            if !is_known {
                let text = status.to_string();
                let event = Event::new(LOG, Warn, kind(status.kind), &text);
                let event = event.rule(&status.rule).interface(&status.interface);
                event.turn("begins").say();
            }
            self.all.insert(key, Found { last: now, status });
        }
        self.all.retain(|(rule, of), found| {
            let stays = now.duration_since(found.last) < OVER_AFTER;
            if !stays {
                let interface = &found.status.interface;
                let what = match of {
                    LoopKind::OwnFrames => "sees no more of its own frames",
                    LoopKind::Expired => "has no more datagrams that expire",
                };
                let text = format!("rule {} {what} on {interface}", quoted(rule));
                let event = Event::new(LOG, Info, kind(*of), &text);
                event.rule(rule).interface(interface).turn("over").say();
            }
            stays
        });
    }

    /// The loops that there are, of rules that are wanted.
    pub fn now(&self, wanted: impl Fn(&str) -> bool) -> Vec<LoopStatus> {
        let wanted = self.all.iter().filter(|((rule, _), _)| wanted(rule));
        wanted
            .map(|(_, found)| LoopStatus {
                last_seconds_ago: found.last.elapsed().as_secs_f64(),
                ..found.status.clone()
            })
            .collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// What events about loops of a kind are about.
const fn kind(kind: LoopKind) -> &'static str {
    match kind {
        LoopKind::OwnFrames => "own frames",
        LoopKind::Expired => "expired datagrams",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::PortMatch;

    fn status(rule: &str, kind: LoopKind) -> LoopStatus {
        LoopStatus {
            rule: rule.into(),
            kind,
            interface: "in0".into(),
            group: [239, 1, 1, 1].into(),
            port: PortMatch::One(5001),
            source: [10, 0, 0, 1].into(),
            source_mac: "02:00:00:00:00:01".into(),
            last_seconds_ago: 0.0,
        }
    }

    #[test]
    fn a_loop_is_over_ten_seconds_after_its_last_frame() {
        let mut loops = Loops::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let names = |loops: &Loops| {
            let now = loops.now(|rule| rule != "removed").into_iter();
            now.map(|one| (one.rule, one.kind)).collect::<Vec<_>>()
        };
        loops.see(
            at(0),
            [
                status("a", LoopKind::OwnFrames),
                status("a", LoopKind::Expired),
                status("removed", LoopKind::Expired),
            ],
        );
        loops.see(at(5), [status("a", LoopKind::Expired)]);
        loops.see(at(9), []);
        let both = [LoopKind::OwnFrames, LoopKind::Expired];
        assert_eq!(names(&loops), both.map(|kind| ("a".to_owned(), kind)));
        loops.see(at(10), []);
        assert_eq!(names(&loops), [("a".to_owned(), LoopKind::Expired)]);
        loops.see(at(15), []);
        assert!(loops.is_empty());
    }
}
