//! Traffic that goes on while a test does something else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Result, anyhow};
use relay_tests::payload::payload;
use relay_tests::rules::Rule;
use relay_tests::sender::{Pacer, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::veth::Endpoint;

/// Bytes of payload of every datagram.
const SIZE: usize = 500;

/// Datagrams that may be sent at once after a pause: less than the emulated wires reorder.
const BURST: u32 = 8;

/// Becomes true when this is dropped.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The datagrams of one rule. Their numbers go on from one [`Self::during`] to the next.
pub struct Feed<'a> {
    sender: UdpSender,
    rule: &'a Rule,
    flow: u32,
    /// Datagrams per second.
    rate: u32,
    sent: AtomicU64,
}

impl<'a> Feed<'a> {
    /// Datagrams of flow `flow` for `rule` from `source`.
    pub fn new(source: &Endpoint, rule: &'a Rule, flow: u32, rate: u32) -> Result<Self> {
        Ok(Self {
            sender: UdpSender::open(source)?,
            rule,
            flow,
            rate,
            sent: AtomicU64::new(0),
        })
    }

    /// How many were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The datagrams with numbers from `first` up to and without `end`.
    pub fn part(&self, first: u64, end: u64) -> Stream {
        Stream::new(self.flow, end.saturating_sub(first), SIZE).starting_at(first)
    }

    /// All that were sent so far.
    pub fn all(&self) -> Stream {
        self.part(0, self.sent())
    }

    /// Sends while `work` runs, within `window`. Returns what `work` returned.
    pub fn during<T>(&self, window: &Window<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(|| -> Result<()> {
                let mut pacer = Pacer::new(self.rate, BURST);
                while !over.load(Ordering::Relaxed) {
                    pacer.wait();
                    window.take(1);
                    let bytes = payload(self.flow, self.sent(), SIZE);
                    let Rule { group, port, .. } = *self.rule;
                    self.sender.send_one(group, port, &bytes)?;
                    self.sent.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let done = {
                // Also where an assertion in `work` panics: the sender must not send for ever.
                let _ends = SetOnDrop(&over);
                work()
            };
            sending
                .join()
                .map_err(|_| anyhow!("the sender panicked"))??;
            done
        })
    }
}
