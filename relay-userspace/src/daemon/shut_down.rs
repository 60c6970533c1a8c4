//! Ends the workers, and reads a last time what the kernel dropped in front of them.

use std::{collections::BTreeSet, sync::Arc, thread};

use relay_common::abi::Counter;

use super::threads::Thread;
use crate::{
    datapath::{Worker, socket_drops::KernelDrops, stats::WorkerStats},
    kernel::Kernel,
    observe::report::WorkerView,
    plan::{InterfaceId, Plan},
};

/// All workers, ended. Their sockets stay open until this is dropped.
pub struct Ended {
    workers: Vec<thread::Result<Worker>>,
    stats: Vec<Arc<WorkerStats>>,
    accounts: Vec<EndedWorker>,
}

impl Ended {
    /// Waits for the workers, which must have been asked to stop, and reads what the kernel dropped
    /// in front of them.
    pub fn join(threads: Vec<Thread>, plan: &Plan, kernel: &Kernel) -> Self {
        let mut ended = Self {
            workers: Vec::new(),
            stats: Vec::new(),
            accounts: Vec::new(),
        };
        for (mut thread, planned) in threads.into_iter().zip(&plan.workers) {
            let joined = thread.handle.join();
            if joined.is_ok() {
                thread.drops.read();
            }
            ended.accounts.push(EndedWorker {
                interface: planned.input,
                drained: joined.is_ok(),
                received: thread.stats.received.get(),
                drops: thread.drops.sum(),
            });
            ended.workers.push(joined);
            ended.stats.push(thread.stats);
        }
        settle(&mut ended.accounts, |interface| {
            redirected(kernel, interface)
        });
        ended
    }

    /// How many of them panicked.
    pub fn defects(&self) -> usize {
        self.workers.iter().filter(|joined| joined.is_err()).count()
    }

    /// Their counters, in the plan's order.
    pub fn views(&self) -> Vec<WorkerView<'_>> {
        self.stats
            .iter()
            .zip(&self.accounts)
            .map(|(stats, account)| WorkerView {
                stats,
                kernel: account.drops,
            })
            .collect()
    }
}

/// Datagrams that the kernel program matched on the interface with this id.
fn redirected(kernel: &Kernel, interface: InterfaceId) -> u64 {
    let counters = kernel.counters(interface);
    counters
        .and_then(|counters| counters.get(Counter::Redirected as usize).copied())
        .unwrap_or(0)
}

/// One worker at the end.
#[derive(Debug)]
struct EndedWorker {
    /// The id of the interface that it received from through a packet socket.
    interface: Option<InterfaceId>,
    /// It ended without a panic, and had read everything that had arrived.
    drained: bool,
    /// Datagrams that reached it.
    received: u64,
    /// Frames that the kernel dropped in front of it.
    drops: KernelDrops,
}

/// Turns drops of packet sockets from GSO packets into datagrams: once all workers of an interface
/// have drained their sockets, the datagrams that the filter `redirected` and no worker received
/// were dropped. Sockets that dropped nothing are left alone, so that a frame lost elsewhere does
/// not count as one of these.
fn settle(inputs: &mut [EndedWorker], redirected: impl Fn(InterfaceId) -> u64) {
    let interfaces: BTreeSet<InterfaceId> = inputs.iter().filter_map(|i| i.interface).collect();
    for interface in interfaces {
        let mut mine: Vec<&mut EndedWorker> = inputs
            .iter_mut()
            .filter(|input| input.interface == Some(interface))
            .collect();
        let dropped: u64 = mine.iter().map(|input| input.drops.rx_socket_full).sum();
        if dropped == 0 || mine.iter().any(|input| !input.drained) {
            continue;
        }
        let received: u64 = mine.iter().map(|input| input.received).sum();
        let missing = redirected(interface).saturating_sub(received);
        // The kernel does not tell which of them dropped the rest.
        if let Some(first) = mine.first_mut() {
            first.drops.rx_socket_full += missing.saturating_sub(dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(
        interface: Option<InterfaceId>,
        drained: bool,
        received: u64,
        dropped: u64,
    ) -> EndedWorker {
        EndedWorker {
            interface,
            drained,
            received,
            drops: KernelDrops {
                rx_socket_full: dropped,
                ..KernelDrops::default()
            },
        }
    }

    #[test]
    fn drops_of_gso_packets_become_datagrams_once_all_workers_of_the_interface_have_drained() {
        /// Received, dropped, drained.
        type Worker = (u64, u64, bool);
        // Datagrams that the filter redirected, the workers, and the drops that result.
        #[rustfmt::skip]
        let cases: &[(u64, &[Worker], u64)] = &[
            (100, &[(100, 0, true)], 0),
            (100, &[(90, 0, true)], 0),
            (100, &[(40, 2, true)], 60),
            (100, &[(97, 3, true)], 3),
            (100, &[(99, 3, true)], 3),
            (100, &[(40, 2, false)], 2),
            (100, &[(30, 0, true), (30, 1, true)], 40),
            (100, &[(30, 4, true), (30, 1, false)], 5),
        ];
        for (redirected, workers, expected) in cases {
            let id = |position| Some(InterfaceId::new(position));
            let mut inputs = vec![input(None, true, 7, 0), input(id(3), true, 50, 0)];
            inputs.extend(
                workers
                    .iter()
                    .map(|&(r, d, drained)| input(id(1), drained, r, d)),
            );
            settle(&mut inputs, |at| {
                if Some(at) == id(1) { *redirected } else { 1000 }
            });
            let (others, mine) = inputs.split_at(2);
            assert!(others.iter().all(|i| i.drops.rx_socket_full == 0));
            let sum: u64 = mine.iter().map(|i| i.drops.rx_socket_full).sum();
            assert_eq!(sum, *expected, "{redirected} {workers:?}");
        }
    }
}
