//! Waits for interfaces that were reset.
//!
//! The first XDP program on a physical NIC resets it, and the carrier goes away: for half a second
//! on an emulated igb, for some seconds where a link is negotiated. IGMP reports and copies that
//! would leave meanwhile are lost. Nothing else is done while the relay waits, so news of other
//! interfaces end the wait, and it goes on once control has dealt with them.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use log::{Level, debug};

use super::signals::Signals;
use crate::{events::Event, host, plan::Interface};

/// How long to wait at most. Copper at 10 Gbit/s negotiates for some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The target of the lines.
const LOG: &str = module_path!();

/// The interfaces that the XDP program was attached to, and that had a carrier before.
#[derive(Debug, Default)]
pub struct Carriers {
    interfaces: Vec<Attached>,
    /// The program was attached to one, and no queue bound since.
    are_unbound: bool,
    /// News ended the last wait: it is to go on.
    is_cut_short: bool,
}

/// One of them.
#[derive(Debug)]
struct Attached {
    index: u32,
    name: String,
    since: Instant,
}

impl Carriers {
    /// To be called before the program is attached to `interfaces`.
    pub fn before_attaching(&mut self, interfaces: &[&Interface]) {
        if interfaces.is_empty() {
            return;
        }
        self.are_unbound = true;
        let since = Instant::now();
        let running = running().unwrap_or_default();
        for interface in interfaces {
            self.interfaces.retain(|one| one.index != interface.index);
            if running.contains(&interface.index) {
                self.interfaces.push(Attached {
                    index: interface.index,
                    name: interface.name.clone(),
                    since,
                });
            }
        }
    }

    /// Queues were bound after the program was attached, for which some drivers reset the NIC again:
    /// the time begins anew.
    pub fn are_bound(&mut self) {
        if std::mem::take(&mut self.are_unbound) {
            let now = Instant::now();
            self.interfaces.iter_mut().for_each(|one| one.since = now);
        }
    }

    /// Waits until all have their carrier again, until a signal ends the relay, until there is news
    /// of other interfaces, or for [`PATIENCE`]: waiting for ever for one wire would serve none of
    /// the others.
    pub fn wait(&self, signals: &Signals) {
        let started = Instant::now();
        let mut missing = self.missing();
        if missing.is_empty() {
            return;
        }
        let lost = names(&missing);
        let say = |level, turn, interfaces: &str, text: &str| {
            Event::new(LOG, level, "carrier", text)
                .interface(interfaces)
                .turn(turn)
                .say();
        };
        let text = format!(
            "{lost} lost the carrier when XDP was set up there, which resets the NIC; waiting for the carrier"
        );
        say(Level::Info, "lost", &lost, &text);
        while missing.iter().any(|one| one.since.elapsed() < PATIENCE) {
            if signals.end_before(Instant::now() + LOOK_EVERY) {
                return;
            }
            if signals.has_news() {
                debug!("other interfaces have changed; waiting for {lost} after that");
                return;
            }
            missing = self.missing();
        }
        if missing.is_empty() {
            let seconds = started.elapsed().as_secs_f64();
            let text = format!("the carrier is back after {seconds:.1} s");
            say(Level::Info, "back", &lost, &text);
        } else {
            let missing = names(&missing);
            let text = format!(
                "{missing} still without a carrier after {} s; the relay goes on, and serves it when the carrier comes",
                PATIENCE.as_secs()
            );
            say(Level::Warn, "missing", &missing, &text);
        }
    }

    /// The indices of those that are still worth waiting for. The others are forgotten.
    pub fn settle(&mut self) -> BTreeSet<u32> {
        let missing = self.missing();
        let missing = missing.iter().filter(|one| one.since.elapsed() < PATIENCE);
        let missing: BTreeSet<u32> = missing.map(|one| one.index).collect();
        self.interfaces.retain(|one| missing.contains(&one.index));
        self.is_cut_short = !missing.is_empty();
        missing
    }

    /// An interface that has gone is not waited for.
    pub fn forget(&mut self, index: u32) {
        self.interfaces.retain(|one| one.index != index);
    }

    /// Whether the wait was over too early, and is to go on; once.
    pub fn take_cut_short(&mut self) -> bool {
        std::mem::take(&mut self.is_cut_short)
    }

    fn missing(&self) -> Vec<&Attached> {
        if self.interfaces.is_empty() {
            return Vec::new();
        }
        // If the kernel does not answer, do not wait.
        let Some(running) = running() else {
            return Vec::new();
        };
        let interfaces = self.interfaces.iter();
        let missing = interfaces.filter(|one| !running.contains(&one.index));
        missing.collect()
    }
}

/// The indices of interfaces with a carrier; `None` if the kernel does not answer, which is logged.
fn running() -> Option<HashSet<u32>> {
    host::with_carrier()
        .inspect_err(|error| {
            let text =
                format!("cannot look for carriers: {error}; the relay does not wait for them");
            Event::new(LOG, Level::Warn, "carriers", &text).say();
        })
        .ok()
}

fn names(interfaces: &[&Attached]) -> String {
    let names: Vec<_> = interfaces.iter().map(|one| one.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::{
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixDatagram},
        },
        thread,
        time::Duration,
    };

    use super::*;
    use crate::{
        daemon::service_manager::ServiceManager,
        host::Bell,
        testing::{in_namespace, run},
    };

    fn of(indices: impl IntoIterator<Item = u32>) -> Carriers {
        let attached = |index| Attached {
            index,
            name: "va".to_owned(),
            since: Instant::now(),
        };
        Carriers {
            interfaces: indices.into_iter().map(attached).collect(),
            are_unbound: false,
            is_cut_short: false,
        }
    }

    #[test]
    fn news_of_other_interfaces_end_the_wait_and_it_can_go_on() {
        in_namespace(|| {
            run("ip link add name va type veth peer name vb");
            run("ip link set va up");
            let index = host::facts("va").unwrap().index;
            let mut signals = Signals::handle().unwrap();
            let news = Bell::new().unwrap();
            signals.interrupt_by(news.clone());
            let mut carriers = of([index]);
            let started = Instant::now();
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(200));
                    news.ring();
                });
                carriers.wait(&signals);
            });
            assert!(started.elapsed() >= Duration::from_millis(200));
            assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
            assert_eq!(carriers.settle(), [index].into());
            assert!(carriers.take_cut_short());
            news.silence();
            run("ip link set vb up");
            carriers.wait(&signals);
            assert_eq!(carriers.settle(), [].into());
            assert!(!carriers.take_cut_short());
        });
    }

    #[test]
    fn the_watchdog_gets_its_pings_while_a_carrier_is_waited_for() {
        const INTERVAL: Duration = Duration::from_millis(200);
        in_namespace(|| {
            run("ip link add name va type veth peer name vb");
            run("ip link set va up");
            let index = host::facts("va").unwrap().index;
            let address = SocketAddr::from_abstract_name("manager").unwrap();
            let socket = UnixDatagram::bind_addr(&address).unwrap();
            socket.set_nonblocking(true).unwrap();
            let manager = ServiceManager::at(OsStr::new("@manager"), Some(INTERVAL)).unwrap();
            let mut signals = Signals::handle().unwrap();
            signals.ping_while_waiting(manager.pings());
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(5 * INTERVAL);
                    run("ip link set vb up");
                });
                of([index]).wait(&signals);
            });
            let pings = std::iter::from_fn(|| {
                let mut buffer = [0; 64];
                let len = socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
            });
            let pings: Vec<_> = pings.collect();
            assert!(pings.iter().all(|ping| ping == "WATCHDOG=1"), "{pings:?}");
            // One per half interval, if this thread gets its turns.
            assert!((5..=12).contains(&pings.len()), "{pings:?}");
        });
    }

    #[test]
    fn a_carrier_that_comes_back_is_waited_for_and_one_that_was_never_there_is_not() {
        in_namespace(|| {
            run("ip link add name va type veth peer name vb");
            run("ip link set va up");
            run("ip link set vb up");
            let index = host::facts("va").unwrap().index;
            let signals = Signals::handle().unwrap();
            let timed = |carriers: &Carriers| {
                let started = Instant::now();
                carriers.wait(&signals);
                started.elapsed()
            };
            assert!(timed(&of([index])) < Duration::from_millis(200));
            run("ip link set vb down");
            assert!(timed(&of([])) < Duration::from_millis(200));
            let waited = thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(500));
                    run("ip link set vb up");
                });
                timed(&of([index]))
            });
            assert!(waited >= Duration::from_millis(400), "{waited:?}");
            assert!(waited < PATIENCE, "{waited:?}");
        });
    }
}
