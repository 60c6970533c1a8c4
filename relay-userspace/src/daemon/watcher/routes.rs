//! The routes of unicast outputs: tells control when one of them leads elsewhere.
//!
//! The kernel tells of every route of the host, and not of all that moves one: an interface that
//! goes down takes its IPv4 routes along without a word. So any news makes the relay look its own
//! ones up again, not more often than it can afford: where routes change all the time, as where a
//! router speaks BGP, that takes at most a fiftieth of a CPU.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use log::{
    Level::{self, Debug, Info, Warn},
    debug,
};

use super::{changes::LOG, mailbox::Events};
use crate::{
    events::Event,
    host::{
        RouteAnswer,
        routes::{NoRoute, Route, RouteQuery, Routing},
        watch::Questions,
    },
};

/// How long it waits for more news before it looks.
const SETTLE: Duration = Duration::from_millis(10);
/// The least time between two looks, and as a multiple of what the last one took.
const LEAST: Duration = Duration::from_millis(100);
const TIMES: u32 = 50;
/// How often it looks without news: redirects by routers are not told.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The routes of unicast outputs.
pub struct Routes {
    routing: Option<Routing>,
    known: Vec<RouteAnswer>,
    /// When to look next.
    due: Instant,
    /// Not before.
    earliest: Instant,
}

impl Routes {
    /// None yet.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            routing: None,
            known: Vec::new(),
            due: now,
            earliest: now,
        }
    }

    /// Replaces what is followed, with the answers that control acted upon.
    pub fn follow(&mut self, known: Vec<RouteAnswer>) {
        self.known = known;
        // What changed since control asked is told.
        self.due = Instant::now();
        if self.known.is_empty() {
            self.routing = None;
        } else if self.routing.is_none() {
            self.routing = Routing::open()
                .inspect_err(|error| debug!("cannot open a netlink socket for routes: {error}"))
                .ok();
        }
    }

    /// When it is to look next; `None` if there are none.
    pub fn due(&self) -> Option<Instant> {
        (!self.known.is_empty()).then_some(self.due.max(self.earliest))
    }

    /// Something has changed that they may depend on.
    pub fn doubt(&mut self, now: Instant) {
        self.due = self.due.min(now + SETTLE);
    }

    /// Looks if it is time, and tells what leads elsewhere.
    pub fn look(&mut self, questions: &mut Questions, events: &mut Events) {
        let began = Instant::now();
        let Some(routing) = self.routing.as_mut() else {
            return;
        };
        if self.due.max(self.earliest) > began {
            return;
        }
        let mut moved = Vec::new();
        for known in &mut self.known {
            let now = routing.look_up(&known.query);
            if now != known.answer {
                let before = std::mem::replace(&mut known.answer, now.clone());
                moved.push((known.query, before, now));
            }
        }
        let end = Instant::now();
        self.earliest = end + LEAST.max(TIMES * end.duration_since(began));
        self.due = end + LOOK_EVERY;
        let mut names = HashMap::new();
        for (query, before, now) in &moved {
            let (level, turn, text) = line(query, before, now, questions, &mut names);
            Event::new(LOG, level, "route", &text)
                .which(&format!("to {}", query.destination))
                .turn(turn)
                .say();
            events.add(&text);
        }
    }
}

/// Names of interfaces by index.
type Names = HashMap<u32, String>;

fn line(
    query: &RouteQuery,
    before: &Result<Route, NoRoute>,
    now: &Result<Route, NoRoute>,
    questions: &mut Questions,
    names: &mut Names,
) -> (Level, &'static str, String) {
    let mut way = |route: &Route| {
        let interface = names.entry(route.interface).or_insert_with(|| {
            let link = questions.link(route.interface).ok().flatten();
            link.map_or_else(
                || format!("interface {}", route.interface),
                |link| link.name,
            )
        });
        match route.gateway {
            Some(gateway) => format!("{interface}, {gateway}"),
            None => interface.clone(),
        }
    };
    let to = query.destination;
    match (before, now) {
        (Ok(before), Ok(now)) => {
            let (was, is) = (way(before), way(now));
            if was == is {
                // Control knows which copies leave with it.
                let text = "the kernel has another source address for the route to";
                (Debug, "", format!("{text} {to} now"))
            } else {
                let text =
                    format!("the route to {to} leads through {is} now, through {was} before");
                (Info, "elsewhere", text)
            }
        }
        (Err(_), Ok(now)) => {
            let now = way(now);
            let text = format!("there is a route to {to} now, through {now}");
            (Info, "there", text)
        }
        (Ok(_), Err(why)) => {
            let text = format!("no copies reach {to} any more: {why}");
            (Warn, "none", text)
        }
        (Err(_), Err(why)) => {
            let text = format!("still no copies reach {to}: {why}");
            (Info, "still none", text)
        }
    }
}
