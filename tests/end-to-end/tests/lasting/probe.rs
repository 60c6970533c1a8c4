//! One datagram for every rule, and what arrives of them at every far end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::inspect;
use relay_tests::sender::UdpSender;
use relay_tests::sys::{Batch, Receives};
use relay_tests::veth::Endpoint;

use super::model::{Link, Model};
use super::system::System;
use super::universe::{self, Form, INTERFACES, RULES};

/// How long the datagrams of one round have to arrive.
const ARRIVAL: Duration = Duration::from_millis(500);
/// How many rounds are sent until all arrive: what is under test is the state that was reached, and
/// a change that the relay makes by itself at this moment may cost a round.
const ROUNDS: u32 = 10;

/// One copy: the relay's interface that it left through, where it went to, and the round and the
/// rule that it is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    interface: &'static str,
    group: IpAddr,
    port: u16,
    round: u32,
    rule: u32,
}

/// The sockets at one far end.
#[derive(Debug)]
struct Open {
    index: u32,
    listener: OwnedFd,
    sender: UdpSender,
}

/// Sends and listens at all far ends.
#[derive(Default)]
pub struct Probe {
    open: BTreeMap<&'static str, Open>,
    round: u32,
    /// Copies that may arrive later: they wait in the TX ring of an interface that is down.
    late: BTreeSet<Copy>,
    /// Rounds in which not all arrived.
    pub repeated: u32,
}

impl Probe {
    /// Sends a datagram for every rule that there could be, and fails unless exactly what `model`
    /// says arrives.
    pub fn run(&mut self, system: &System, model: &Model) -> Result<()> {
        self.open_sockets(system, model)?;
        // Other traffic may have filled the sockets since.
        self.receive(&BTreeSet::new())?;
        let mut last = BTreeSet::new();
        for _ in 0..ROUNDS {
            self.round += 1;
            let expected = self.send(model)?;
            let missing = self.receive(&expected)?;
            if missing.is_empty() {
                return Ok(());
            }
            self.repeated += 1;
            // They may still come.
            self.late.extend(missing.iter().cloned());
            last = missing;
        }
        anyhow::bail!("{ROUNDS} datagrams in a row did not arrive: {last:?}")
    }

    /// Opens sockets at the ends of wires that are new.
    fn open_sockets(&mut self, system: &System, model: &Model) -> Result<()> {
        for interface in INTERFACES {
            if model.link(interface) == Link::Absent {
                self.open.remove(interface);
                continue;
            }
            let far: &Endpoint = &system.wire(interface)?.far;
            if self
                .open
                .get(interface)
                .is_some_and(|open| open.index == far.index)
            {
                continue;
            }
            let open = Open {
                index: far.index,
                listener: far.packet_socket(Receives::Arriving)?,
                sender: UdpSender::open(far)?,
            };
            self.open.insert(interface, open);
        }
        Ok(())
    }

    /// Sends a round, and returns what must arrive.
    fn send(&mut self, model: &Model) -> Result<BTreeSet<Copy>> {
        let active = model.active();
        let mut expected = BTreeSet::new();
        for number in 0..RULES {
            let rule = universe::rule(number, Form::A);
            if model.link(&rule.interface) != Link::Up {
                continue;
            }
            let open = self.open.get(rule.interface.as_str()).context("a source")?;
            let payload = [b"rule".as_slice(), &self.payload(number)].concat();
            open.sender.send_one(rule.group, rule.port, &payload)?;
            let mine = active.iter().filter(|(entry, _)| entry.number == number);
            for output in mine.flat_map(|(_, rule)| &rule.outputs) {
                let interface = INTERFACES.iter().find(|name| **name == output.interface);
                let copy = Copy {
                    interface: interface.context("an interface")?,
                    group: output.group,
                    port: output.port,
                    round: self.round,
                    rule: number as u32,
                };
                match model.link(&output.interface) {
                    Link::Up => expected.insert(copy),
                    _ => self.late.insert(copy),
                };
            }
        }
        Ok(expected)
    }

    fn payload(&self, number: usize) -> [u8; 8] {
        let [a, b, c, d] = self.round.to_be_bytes();
        let [e, f, g, h] = (number as u32).to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Takes what arrives until `expected` is complete, or its time is over. Returns what is
    /// missing; fails on anything else than `expected` and what may be late.
    fn receive(&mut self, expected: &BTreeSet<Copy>) -> Result<BTreeSet<Copy>> {
        let deadline = Instant::now() + ARRIVAL;
        let mut missing = expected.clone();
        let mut batch = Batch::new(16, 2048);
        // One more look after the last: a copy too many would come with it.
        let mut complete = false;
        loop {
            let mut emptied = BTreeSet::new();
            let mut sockets = self.open.iter().cycle();
            while emptied.len() < self.open.len()
                && let Some((interface, open)) = sockets.next()
            {
                let count = match batch.receive(open.listener.as_fd()) {
                    Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => 0,
                    count => count.context("receiving")?,
                };
                if count == 0 {
                    emptied.insert(interface);
                    continue;
                }
                emptied.remove(interface);
                let messages = batch.messages().take(count);
                let seen = messages.filter_map(|message| {
                    inspect::datagram(message.bytes, message.partial_checksum)
                });
                for datagram in seen {
                    let Some((b"rule", numbers)) = datagram.payload.split_first_chunk() else {
                        continue;
                    };
                    let number = |at: usize| -> Option<u32> {
                        Some(u32::from_be_bytes(*numbers.get(at..)?.first_chunk()?))
                    };
                    let copy = Copy {
                        interface,
                        group: datagram.destination,
                        port: datagram.port,
                        round: number(0).unwrap_or_default(),
                        rule: number(4).unwrap_or_default(),
                    };
                    ensure!(
                        missing.remove(&copy) || self.late.remove(&copy),
                        "{copy:?} arrived, and must not, or not again; of this round: {expected:?}"
                    );
                }
            }
            if complete || Instant::now() > deadline {
                return Ok(missing);
            }
            complete = missing.is_empty();
            thread::sleep(Duration::from_millis(2));
        }
    }
}
