//! The relay as a service: its rules change while it runs, interfaces come and go, and it answers.

mod changes;
mod clients;
mod defects;
mod headers;
mod health;
mod interfaces;
mod ipv6;
mod latency;
mod local;
mod log_lines;
mod loops;
mod mappings;
mod matches;
mod ports;
mod prometheus;
mod refused;
mod rounds;
mod rule_file;
mod scrapes;
mod taps;
mod totals;
mod unicast;
mod unicast_inputs;
mod upgrade;
mod vlan_offloads;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Result;
use relay_tests::rules::Rule;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::veth::Endpoint;

/// Becomes true when this is dropped.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends datagrams of flow `flow` to the input of `rule` from `source` at `rate` per second while
/// `work` runs. Returns how many were sent, and what `work` returned.
fn under_traffic<T>(
    source: &Endpoint,
    rule: &Rule,
    flow: u32,
    rate: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<(u64, T)> {
    const AT_ONCE: u64 = 200;
    let over = AtomicBool::new(false);
    let sender = UdpSender::open(source)?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                let stream = Stream::new(flow, AT_ONCE, 500).starting_at(sent);
                sender.send(&Traffic::new(rule.group, rule.port, stream), rate)?;
                sent += AT_ONCE;
            }
            Ok(sent)
        });
        let done = {
            // Also where an assertion in `work` panics: the sender must not send for ever.
            let _ends = SetOnDrop(&over);
            work()
        };
        let sent = sending.join();
        let sent = sent.map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok((sent, done?))
    })
}
