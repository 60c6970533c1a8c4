//! Waits for interfaces that were reset.
//!
//! The first XDP program on a physical NIC resets it, and the carrier goes away: for half a second
//! on an emulated igb, for some seconds where a link is negotiated. IGMP reports and copies that
//! would leave meanwhile are lost.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use log::{info, warn};

use super::signals::Signals;
use crate::{host, plan::Interface};

/// How long to wait at most. Copper at 10 Gbit/s negotiates for some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The interfaces that the XDP program is attached to and that had a carrier before.
#[derive(Debug, Default)]
pub struct Carriers {
    /// Index and name.
    interfaces: Vec<(u32, String)>,
}

impl Carriers {
    /// To be called before the program is attached to `interfaces`.
    pub fn before_attaching(interfaces: &[&Interface]) -> Self {
        if interfaces.is_empty() {
            return Self::default();
        }
        let running = running().unwrap_or_default();
        let interfaces = interfaces.iter();
        let interfaces = interfaces.filter(|interface| running.contains(&interface.index));
        Self {
            interfaces: interfaces
                .map(|interface| (interface.index, interface.name.clone()))
                .collect(),
        }
    }

    /// Waits until all have their carrier again, until a signal ends the relay, or for
    /// [`PATIENCE`]: waiting for ever for one wire would serve none of the others.
    pub fn wait(&self, signals: &Signals) {
        let started = Instant::now();
        let mut missing = self.missing();
        if missing.is_empty() {
            return;
        }
        let lost = names(&missing);
        info!(
            interface = &lost[..];
            "{lost} lost the carrier when XDP was set up there, which resets the NIC; waiting for the carrier"
        );
        while !missing.is_empty() && started.elapsed() < PATIENCE {
            if signals.end_before(Instant::now() + LOOK_EVERY) {
                return;
            }
            missing = self.missing();
        }
        if missing.is_empty() {
            info!(
                interface = &lost[..];
                "the carrier is back after {:.1} s",
                started.elapsed().as_secs_f64()
            );
        } else {
            let missing = names(&missing);
            warn!(
                interface = &missing[..];
                "{missing} still without a carrier after {} s; the relay goes on, and serves it when the carrier comes",
                PATIENCE.as_secs()
            );
        }
    }

    fn missing(&self) -> Vec<&str> {
        if self.interfaces.is_empty() {
            return Vec::new();
        }
        // If the kernel does not answer, do not wait.
        let Some(running) = running() else {
            return Vec::new();
        };
        let interfaces = self.interfaces.iter();
        let missing = interfaces.filter(|(index, _)| !running.contains(index));
        missing.map(|(_, name)| name.as_str()).collect()
    }
}

/// The indices of interfaces with a carrier; `None` if the kernel does not answer, which is logged.
fn running() -> Option<HashSet<u32>> {
    host::with_carrier()
        .inspect_err(|error| {
            warn!("cannot look for carriers: {error}; the relay does not wait for them");
        })
        .ok()
}

fn names(interfaces: &[&str]) -> String {
    interfaces.join(", ")
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
        testing::{in_namespace, run},
    };

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
                let interfaces = vec![(index, "va".to_owned())];
                Carriers { interfaces }.wait(&signals);
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
            let of = |interfaces| Carriers { interfaces };
            let timed = |carriers: &Carriers| {
                let started = Instant::now();
                carriers.wait(&signals);
                started.elapsed()
            };
            assert!(timed(&of(vec![(index, "va".to_owned())])) < Duration::from_millis(200));
            run("ip link set vb down");
            assert!(timed(&of(Vec::new())) < Duration::from_millis(200));
            let waited = thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(500));
                    run("ip link set vb up");
                });
                timed(&of(vec![(index, "va".to_owned())]))
            });
            assert!(waited >= Duration::from_millis(400), "{waited:?}");
            assert!(waited < PATIENCE, "{waited:?}");
        });
    }
}
