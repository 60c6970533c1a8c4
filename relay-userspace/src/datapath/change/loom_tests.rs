//! The hand-over in every order that the steps of control and of the worker may have.
//!
//! Of the worker, a test has the rounds; the bell is outside of the model, so a test rings by one
//! more round after control has done its part.

use loom::{
    sync::atomic::AtomicU64,
    thread::{self, JoinHandle},
};

use super::*;
use crate::{
    datapath::{flow_table::Ports, output_link::Links, slots::Slots},
    plan::{Backend, Plan, WorkerPlan},
};

/// A change without flows.
fn change(generation: u64) -> Box<Change> {
    let worker = WorkerPlan {
        backend: Backend::Xdp,
        cpu: None,
        ports: Vec::new(),
        input: None,
        tx_sockets: Vec::new(),
        flows: Vec::new(),
    };
    let (plan, links) = (Plan::default(), Links::default());
    Box::new(Change {
        generation,
        flows: Flows::new(&plan, &worker, &Slots::default(), &links, &Ports::default()),
        open: OpenRuns::new(0),
        tx_sockets: NewTxSockets::new(Box::default(), Vec::new()),
        ports: None,
        send_slots: None,
    })
}

/// The worker: which change it forwards by, and what it counts for the table before.
struct Worker {
    inbox: Inbox,
    runs: u64,
    /// Written by the worker alone, as the counters are.
    counted: Arc<AtomicU64>,
}

impl Worker {
    /// A round. What it takes settles at once, or with the next round.
    fn round(&mut self, settles: bool) {
        if self.inbox.calls() {
            let runs = &mut self.runs;
            self.inbox.take(|change| *runs = change.generation);
            let counted = &self.counted;
            self.inbox.settle(|_| {
                // The last copy of the table before leaves.
                counted.store(counted.load(Relaxed) + 1, Relaxed);
                settles
            });
        }
    }
}

/// A worker on a thread of its own that makes two rounds.
fn worker(exchange: &Arc<Exchange>, settles: bool) -> (JoinHandle<Worker>, Arc<AtomicU64>) {
    let counted = Arc::new(AtomicU64::new(0));
    let mut worker = Worker {
        inbox: Inbox::new(Arc::clone(exchange)),
        runs: 0,
        counted: Arc::clone(&counted),
    };
    let thread = thread::spawn(move || {
        worker.round(settles);
        worker.round(true);
        worker
    });
    (thread, counted)
}

#[test]
fn a_change_is_never_lost_and_comes_back_when_it_is_taken() {
    loom::model(|| {
        let exchange = Arc::new(Exchange::new().unwrap());
        let (thread, _) = worker(&exchange, true);
        exchange.send(change(1));
        let seen_taken = exchange.taken() == 1;
        if seen_taken {
            assert_eq!(exchange.back().unwrap().generation, 1);
        }
        let mut worker = thread.join().unwrap();
        // The bell has rung.
        worker.round(true);
        assert_eq!(
            (worker.runs, exchange.taken(), exchange.settled()),
            (1, 1, 1)
        );
        assert_eq!(exchange.back().is_some(), !seen_taken);
        assert!(!worker.inbox.calls());
    });
}

#[test]
fn what_was_counted_before_a_change_settled_is_seen_by_whoever_sees_that_it_has() {
    loom::model(|| {
        let exchange = Arc::new(Exchange::new().unwrap());
        exchange.send(change(1));
        let (thread, counted) = worker(&exchange, false);
        if exchange.settled() == 1 {
            assert_eq!(counted.load(Relaxed), 2);
        }
        let worker = thread.join().unwrap();
        assert_eq!((worker.runs, exchange.settled()), (1, 1));
    });
}

#[test]
fn a_second_change_may_follow_as_soon_as_the_first_is_taken() {
    loom::model(|| {
        let exchange = Arc::new(Exchange::new().unwrap());
        exchange.send(change(1));
        // The first has not settled when the second comes: the worker looks anyway.
        let (thread, _) = worker(&exchange, false);
        let followed = exchange.taken() == 1;
        if followed {
            drop(exchange.back());
            exchange.send(change(2));
        }
        let mut worker = thread.join().unwrap();
        worker.round(true);
        let last = if followed { 2 } else { 1 };
        assert_eq!(
            (worker.runs, exchange.taken(), exchange.settled()),
            (last, last, last)
        );
    });
}
