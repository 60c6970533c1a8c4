//! An interface that goes down and comes up again under traffic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::payload::payload;
use crate::rules::{GROUP_IN, PORT_IN};
use crate::scenario::Receivers;
use crate::sender::{Pacer, UdpSender};
use crate::tally::{Stream, Tally};
use crate::topology::Testbed;
use crate::veth::{Endpoint, wait_for_carrier};

/// Bytes of payload of every datagram.
const SIZE: usize = 500;

/// How fast traffic runs, and when the interface goes down and must be back.
#[derive(Debug, Clone, Copy)]
pub struct Flap {
    /// Datagrams per second, of flow 0 to the usual group.
    pub rate: u32,
    /// Datagrams that have arrived at every output before the interface goes down.
    pub warm_up: u64,
    /// How long after the first datagram that arrives again every datagram has to arrive.
    pub settled: Duration,
    /// For how long to send after that.
    pub after: Duration,
}

/// The datagrams that were sent.
#[derive(Debug, Clone, Copy)]
pub struct Flapped {
    /// Datagrams before the interface went down.
    pub before: u64,
    /// The first one that has to arrive again.
    pub resumed: u64,
    /// How many were sent in all.
    pub sent: u64,
}

impl Flapped {
    /// Fails if anything is missing but what was sent while the interface was down.
    #[track_caller]
    pub fn assert_only_the_gap_is_missing(&self, tally: &Tally) {
        let part = |first, end| Stream::new(0, end - first, SIZE).starting_at(first);
        let before = tally.missing(&part(0, self.before));
        assert_eq!(before, [0; 0], "before: {tally}");
        let after = tally.missing(&part(self.resumed, self.sent));
        assert_eq!(after, [0; 0], "after: {tally}");
    }
}

impl Flap {
    /// Takes the relay's interface `near` down and up again while traffic runs. Fails unless
    /// datagrams arrive at every output within a second after the carrier is back.
    pub fn run(&self, bed: &Testbed, receivers: &Receivers, near: &Endpoint) -> Result<Flapped> {
        let sender = UdpSender::open(&bed.sources[0])?;
        self.run_with(bed, receivers, near, |number, size| {
            sender.send_one(GROUP_IN, PORT_IN, &payload(0, number, size))
        })
    }

    /// The same, where `send(number, size)` sends each datagram.
    pub fn run_with(
        &self,
        bed: &Testbed,
        receivers: &Receivers,
        near: &Endpoint,
        send: impl Fn(u64, usize) -> Result<()> + Sync,
    ) -> Result<Flapped> {
        let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let now = || sent.load(Ordering::Relaxed);
        let (before, resumed) = thread::scope(|scope| -> Result<_> {
            let sending = scope.spawn(|| -> Result<()> {
                let mut pacer = Pacer::new(self.rate, 16);
                while !over.load(Ordering::Relaxed) {
                    pacer.wait();
                    send(now(), SIZE)?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let faulty = || -> Result<_> {
                receivers.wait_until_each(|_, tally| tally.received >= self.warm_up);
                let before = now();
                receivers.wait_until_each(|_, tally| tally.received >= before);
                bed.relay.ip(&format!("link set {} down", near.interface))?;
                thread::sleep(Duration::from_millis(300));
                let tallies = receivers.tallies();
                let while_down = tallies.iter().map(|(_, tally)| tally.received).max();
                bed.relay.ip(&format!("link set {} up", near.interface))?;
                wait_for_carrier(&bed.relay, &near.interface)?;
                let up = Instant::now();
                let flows = receivers.wait_until_each(|_, tally| Some(tally.received) > while_down);
                let took = up.elapsed();
                assert!(flows && took < Duration::from_secs(3), "took {took:?}");
                thread::sleep(self.settled);
                let resumed = now();
                thread::sleep(self.after);
                Ok((before, resumed))
            };
            let numbers = faulty();
            over.store(true, Ordering::Relaxed);
            let ended = sending.join();
            assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
            numbers
        })?;
        receivers.settle();
        Ok(Flapped {
            before,
            resumed,
            sent: now(),
        })
    }
}
