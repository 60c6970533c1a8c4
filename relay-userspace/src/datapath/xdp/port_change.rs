//! Ports that come and go while a worker runs, as the worker sees it.
//!
//! Control binds a new port to the worker's UMEM and hands it over; the worker fills its FILL ring.
//! A port that goes is not used by the new flow table any more. The worker lets its copies leave,
//! and hands it back, because only control closes sockets, which takes milliseconds. What the port
//! has not given back by then is free when its socket is closed ([`Closed`]).

use std::time::Duration;

use nix::poll::PollFd;

use super::{
    port::Port,
    receive::Source,
    umem::{Chunk, Chunks, Closed},
};
use crate::{
    datapath::stats::{Dropped, Outputs, WorkerStats},
    packet::Known,
};

/// How long copies may take to leave through a port that goes.
pub const LEAVING: Duration = Duration::from_millis(200);

/// A port that receives.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// The port's position in the worker's ports.
    pub port: usize,
    /// The kernel's index of the interface.
    pub index: u32,
    /// What is known of the UDP checksums of its frames.
    pub known: Known,
}

impl Input {
    /// What its frames are taken for.
    #[inline]
    pub fn source(&self) -> Source {
        Source {
            interface: self.index,
            known: self.known,
        }
    }
}

/// The ports that a flow table refers to: those that the worker has already, and new ones behind
/// them. After the swap it holds what the worker had before.
#[derive(Debug)]
pub struct PortChange {
    /// For each port that the worker has, whether it stays.
    pub stays: Box<[bool]>,
    /// The new ones.
    pub added: Vec<Port>,
    /// By the port's position afterwards, how many chunks its FILL ring shall hold.
    pub lends: Box<[u32]>,
    /// The ports that receive.
    pub inputs: Vec<Input>,
    /// Empty, with room for all ports.
    pub ports: Vec<Port>,
    /// Empty, with room for all ports that go or have not gone yet.
    pub leaving: Vec<Port>,
    /// Empty, with room for one entry per input, and for the bell.
    pub poll_set: Vec<PollFd<'static>>,
}

/// The ports of a worker.
#[derive(Debug)]
pub struct Ports {
    /// In the order that the flow table knows.
    pub all: Vec<Port>,
    /// Those that receive.
    pub inputs: Vec<Input>,
    /// Ports that go, whose copies have not left yet.
    pub leaving: Vec<Port>,
    /// Room for what `poll` waits for.
    pub poll_set: Vec<PollFd<'static>>,
}

impl Ports {
    /// Puts a change into effect, between two batches. Returns how many of the last ports are new.
    #[cold]
    pub fn swap(&mut self, change: &mut PortChange) -> usize {
        let new = change.added.len();
        for (at, port) in self.all.drain(..).enumerate() {
            if change.stays.get(at) == Some(&true) {
                change.ports.push(port);
            } else {
                change.leaving.push(port);
            }
        }
        change.ports.append(&mut change.added);
        for (port, &lends) in change.ports.iter_mut().zip(&change.lends) {
            port.set_lends(lends);
        }
        change.leaving.append(&mut self.leaving);
        std::mem::swap(&mut self.all, &mut change.ports);
        std::mem::swap(&mut self.inputs, &mut change.inputs);
        std::mem::swap(&mut self.leaving, &mut change.leaving);
        std::mem::swap(&mut self.poll_set, &mut change.poll_set);
        self.poll_set.clear();
        new
    }

    /// Counts the frames that are still in the RX rings of the ports that go: no rule of the table
    /// takes them. `received` is empty, and has room for a batch.
    #[cold]
    pub fn discard(&mut self, chunks: &mut Chunks, received: &mut Vec<Chunk>, stats: &WorkerStats) {
        for port in &mut self.leaving {
            loop {
                port.receive(chunks, received);
                if received.is_empty() {
                    break;
                }
                for chunk in received.drain(..) {
                    stats.received.add(1);
                    stats.drops.add(Dropped::NoRule, 1);
                    chunks.give_back(chunk);
                }
            }
        }
    }

    /// Lets copies leave through the ports that go.
    #[cold]
    pub fn work_off(&mut self, chunks: &mut Chunks, outputs: &Outputs) {
        for port in &mut self.leaving {
            if port.waiting() > 0 {
                port.kick(chunks, outputs);
            }
            port.take_back(chunks, outputs);
        }
    }

    /// Whether all copies have left through the ports that go, or have had the time to.
    #[cold]
    pub fn have_left(&self, waited: Duration) -> bool {
        waited >= LEAVING || self.leaving.iter().all(|port| port.outstanding() == 0)
    }

    /// Counts the copies that have not left through the ports that go.
    #[cold]
    pub fn give_up(&mut self, chunks: &mut Chunks, outputs: &Outputs) {
        for port in &mut self.leaving {
            port.leave(chunks, outputs);
        }
    }
}

/// Ports on their way between a worker and control.
#[derive(Debug, Default)]
pub struct PortMail {
    /// From the worker to control, to be closed.
    pub gone: Vec<Port>,
    /// From control to the worker: what the closed ones had.
    pub closed: Vec<Closed>,
    /// The worker has freed the chunks of all of `closed`.
    pub is_reclaimed: bool,
}

impl PortMail {
    /// The worker frees what closed ports had.
    #[cold]
    pub fn reclaim(&mut self, chunks: &mut Chunks) {
        if !self.is_reclaimed {
            self.closed
                .iter_mut()
                .for_each(|closed| chunks.reclaim(closed));
            self.is_reclaimed = true;
        }
    }

    /// The worker hands back the ports that have gone, if there are any and control has fetched the
    /// ones before. Returns whether it still has some.
    #[cold]
    pub fn hand_back(&mut self, gone: &mut Vec<Port>) -> bool {
        if self.gone.is_empty() {
            std::mem::swap(&mut self.gone, gone);
        }
        !gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::datapath::change::{Exchange, Inbox};

    #[test]
    fn what_a_closed_port_had_is_free_before_a_port_of_the_next_table_gets_its_tag() {
        const TAG: u16 = 1;
        let mut chunks = Chunks::new(2048, 16, 0).unwrap();
        let lend = |chunks: &mut Chunks| {
            for _ in 0..4 {
                chunks.fill_one(TAG).unwrap();
            }
        };
        lend(&mut chunks);
        let exchange = Arc::new(Exchange::new().unwrap());
        let mut inbox = Inbox::new(Arc::clone(&exchange));
        exchange.closed(vec![Closed::new(TAG, Box::default(), 16)]);
        inbox.take(Some(&mut chunks), |_| ());
        // Control is at the mail just when the worker would hand ports back.
        exchange.while_locked(|| inbox.hand_back(&mut Vec::new()));
        lend(&mut chunks);
        inbox.take(Some(&mut chunks), |_| ());
        inbox.hand_back(&mut Vec::new());
        assert_eq!((chunks.free(), chunks.fill()), (12, 4));
    }
}
