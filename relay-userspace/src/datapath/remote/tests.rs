//! What control sees of a worker that does exactly what a test says: no socket, no thread.

use super::*;
use crate::{
    config,
    host::{XdpFeatures, fixture::in0_and_out0},
    plan::Constraints,
};

/// A rule: its name, the last byte of its group, and the last bytes of its outputs' groups.
type Rule = (&'static str, u8, &'static [u8]);

/// A plan for `rules`, whose copies leave through TX rings, so that no socket is needed.
fn plan(rules: &[Rule]) -> Plan {
    let rule = |&(name, group, outputs): &Rule| {
        let output =
            |n: &u8| format!("{{ interface = \"out0\", group = \"239.2.1.{n}\", port = 5002 }}");
        let outputs: Vec<_> = outputs.iter().map(output).collect();
        format!(
            "[[rules]]\nname = \"{name}\"\n\
             input = {{ interface = \"in0\", group = \"239.1.1.{group}\", port = 5001 }}\n\
             outputs = [{}]\n",
            outputs.join(", ")
        )
    };
    let text: String = rules.iter().map(rule).collect();
    plan_of(&text)
}

fn plan_of(text: &str) -> Plan {
    let all = XdpFeatures::BASIC | XdpFeatures::REDIRECT | XdpFeatures::XSK_ZEROCOPY;
    let host_facts = in0_and_out0(all);
    let document = config::parse("relay.toml", text).unwrap();
    let arranged = plan::arrange(&document, &host_facts, &Constraints::default()).unwrap();
    Arc::unwrap_or_clone(arranged.plan)
}

/// A worker that does nothing by itself.
struct Worker {
    remote: Remote,
    inbox: Inbox,
    flows: Flows,
    stats: Arc<WorkerStats>,
}

impl Worker {
    fn new(rules: &[Rule]) -> Self {
        Self::holding(Holds::Rounds(16), rules)
    }

    fn holding(holds: Holds, rules: &[Rule]) -> Self {
        let plan = plan(rules);
        let (remote, first) =
            Remote::new(&plan, &plan.workers[0], holds, None, None, &Arc::default()).unwrap();
        Self {
            remote,
            inbox: first.inbox,
            flows: first.flows,
            stats: first.stats,
        }
    }

    fn send(&mut self, rules: &[Rule]) {
        let plan = plan(rules);
        let prepared = self.remote.prepare(&plan, &plan.workers[0]).unwrap();
        assert!(self.remote.send(prepared));
    }

    /// What a round does in between two batches.
    fn attend(&mut self, is_settled: bool) {
        if self.inbox.calls() {
            let flows = &mut self.flows;
            self.inbox
                .take(None, |change| std::mem::swap(flows, &mut change.flows));
            self.inbox.settle(|_| is_settled);
        }
    }

    fn change(&mut self, rules: &[Rule], is_settled: bool) {
        self.send(rules);
        assert!(!self.remote.is_taken());
        self.attend(is_settled);
        assert!(self.remote.is_taken());
    }

    fn slots(&self, rule: &str) -> (u32, Vec<u32>) {
        let entry = self.remote.book.get(rule).unwrap();
        let outputs = entry.outputs.iter().map(|&(_, slot)| slot).collect();
        (entry.flow, outputs)
    }

    fn count(&self, rule: &str, frames: u64) {
        let (flow, outputs) = self.slots(rule);
        self.stats.flows[flow as usize].matched.add(frames);
        for output in outputs {
            self.stats.outputs[output as usize].sent.add(frames);
        }
    }

    fn sent(&self, rule: &str) -> Vec<u64> {
        let counters = self.remote.flow(rule).unwrap();
        counters.outputs.iter().map(|output| output.sent).collect()
    }
}

#[test]
fn what_does_not_change_keeps_its_slots_and_its_numbers_wherever_it_stands() {
    let mut worker = Worker::new(&[("a", 1, &[1, 2]), ("b", 2, &[3])]);
    assert_eq!(worker.slots("a"), (0, vec![0, 1]));
    assert_eq!(worker.slots("b"), (1, vec![2]));
    worker.count("a", 5);
    worker.count("b", 7);
    // Another order of the rules and of the outputs, another input, and one more of each.
    worker.change(
        &[("c", 3, &[9]), ("b", 4, &[8, 3]), ("a", 1, &[2, 1])],
        true,
    );
    assert_eq!(worker.slots("a"), (0, vec![1, 0]));
    assert_eq!(worker.slots("b").1[1], 2);
    assert_eq!(worker.sent("a"), [5, 5]);
    assert_eq!(worker.sent("b"), [0, 7]);
    assert_eq!(worker.remote.flow("b").unwrap().matched, 7);
    assert_eq!(worker.remote.flow("c").unwrap().matched, 0);
    assert_eq!(worker.remote.retired(), []);
    assert_eq!(worker.remote.flow("d"), None);
}

#[test]
fn a_slot_is_given_to_another_only_when_nothing_in_flight_counts_there() {
    let mut worker = Worker::new(&[("a", 1, &[1, 2]), ("b", 2, &[3])]);
    worker.count("a", 5);
    worker.count("b", 7);
    worker.change(&[("a", 1, &[1])], false);
    assert_eq!(worker.remote.retired(), []);
    // A copy for the output that is gone leaves.
    worker.stats.outputs[2].sent.add(1);
    worker.change(&[("a", 1, &[1]), ("c", 3, &[4])], false);
    assert_eq!(worker.slots("c"), (2, vec![3]), "not those that are in use");
    assert!(!worker.remote.is_settled());
    worker.attend(true);
    assert!(worker.remote.is_settled());
    let retired = worker.remote.retired();
    let numbers = |retired: &Retired| {
        let sent: Vec<u64> = retired.outputs.iter().map(|output| output.sent).collect();
        (retired.rule.clone(), retired.matched, sent)
    };
    let mut numbers: Vec<_> = retired.iter().map(numbers).collect();
    numbers.sort();
    assert_eq!(
        numbers,
        [("a".into(), None, vec![5]), ("b".into(), Some(7), vec![8])]
    );
    assert_eq!(worker.remote.retired(), [], "once each");
    worker.change(&[("a", 1, &[1]), ("c", 3, &[4]), ("d", 4, &[5, 6])], true);
    let (flow, mut outputs) = worker.slots("d");
    outputs.sort_unstable();
    assert_eq!((flow, outputs), (1, vec![1, 2]));
    assert_eq!(worker.sent("d"), [0, 0]);
    assert_eq!(worker.sent("a"), [5]);
}

#[test]
fn a_rule_that_comes_back_before_its_last_copies_have_left_begins_at_zero() {
    let mut worker = Worker::new(&[("a", 1, &[1])]);
    worker.count("a", 5);
    worker.change(&[("b", 2, &[2])], false);
    worker.change(&[("a", 1, &[1])], false);
    assert_eq!(worker.sent("a"), [0]);
    worker.attend(true);
    let retired = worker.remote.retired();
    let of_a = retired.iter().find(|retired| retired.rule == "a").unwrap();
    assert_eq!((of_a.matched, of_a.outputs[0].sent), (Some(5), 5));
}

#[test]
fn what_is_prepared_and_not_sent_changes_nothing() {
    let mut worker = Worker::new(&[("a", 1, &[1])]);
    let other = plan(&[("b", 2, &[2])]);
    for _ in 0..3 {
        drop(worker.remote.prepare(&other, &other.workers[0]).unwrap());
    }
    worker.attend(true);
    assert_eq!(worker.slots("a"), (0, vec![0]));
    assert!(worker.remote.is_taken());
    // Of two that were prepared at a time, only the first can be sent.
    let first = worker.remote.prepare(&other, &other.workers[0]).unwrap();
    let second = worker.remote.prepare(&other, &other.workers[0]).unwrap();
    assert!(worker.remote.send(first));
    assert!(!worker.remote.send(second));
    let untaken = worker.remote.prepare(&other, &other.workers[0]);
    assert!(matches!(untaken, Err(SetupError::Untaken)));
    worker.attend(true);
    assert!(worker.remote.is_taken());
    assert_eq!(worker.remote.flow("a"), None);
    assert_eq!(worker.slots("b"), (1, vec![1]));
}

#[test]
fn a_thousand_changes_need_no_more_slots_than_two_tables_and_leave_nothing_behind() {
    let mut worker = Worker::new(&[("a", 1, &[1, 2])]);
    // Miri is slow.
    let rounds = if cfg!(miri) { 10 } else { 1000 };
    for round in 0..rounds {
        worker.count("a", 1);
        let rules: &[Rule] = match round % 2 {
            0 => &[("b", 2, &[3, 4, 5]), ("a", 1, &[1, 2])],
            _ => &[("a", 1, &[1, 2]), ("c", 3, &[6])],
        };
        worker.change(rules, true);
        worker.remote.retired();
    }
    assert_eq!(worker.sent("a"), [rounds, rounds]);
    assert!(worker.stats.flows.len() <= 3 && worker.stats.outputs.len() <= 6);
    let Remote {
        leaving, retired, ..
    } = &worker.remote;
    assert!(leaving.is_empty() && retired.is_empty());
    assert!(worker.remote.exchange.back().is_none());
    let last = worker.remote.into_last();
    let of_a = last.iter().find(|last| last.rule == "a").unwrap();
    assert_eq!(of_a.matched, Some(rounds));
}

#[test]
fn links_stay_the_same_and_new_outputs_follow_what_they_know() {
    let mut worker = Worker::new(&[("a", 1, &[1])]);
    let link = worker.remote.links().next().unwrap();
    link.update(|state| crate::datapath::output_link::State { mtu: 900, ..state });
    worker.change(&[("b", 2, &[2])], true);
    let links: Vec<_> = worker.remote.links().collect();
    assert!(links.len() == 1 && Arc::ptr_eq(&links[0], &link));
    worker.flows.follow_links();
    let (flow, _) = worker.slots("b");
    let copies = worker.flows.ring_copies(flow);
    let of_copies = worker.flows.ring_outputs(&copies[0]);
    assert_eq!(of_copies[0].max_payload, 900 - 28);
}

#[test]
fn a_worker_has_dealt_with_what_had_arrived_after_two_empty_rounds_or_full_rings() {
    let worker = Worker::new(&[("a", 1, &[1])]);
    let progress = &worker.stats.progress;
    let mark = worker.remote.mark();
    progress.empty_rounds.add(1);
    assert!(!worker.remote.drained(&mark), "it began before the mark");
    progress.empty_rounds.add(1);
    assert!(worker.remote.drained(&mark));
    let mark = worker.remote.mark();
    progress.rounds.add(16);
    assert!(!worker.remote.drained(&mark));
    progress.rounds.add(1);
    assert!(worker.remote.drained(&mark));
}

#[test]
fn what_a_socket_holds_is_counted_in_packets_and_not_in_the_datagrams_of_gso_packets() {
    let worker = Worker::holding(Holds::Arrivals(1000), &[("a", 1, &[1])]);
    let (received, progress) = (&worker.stats.received, &worker.stats.progress);
    let mark = worker.remote.mark();
    received.add(64 * 999);
    progress.arrivals.add(999);
    assert!(!worker.remote.drained(&mark), "one more may wait");
    received.add(64);
    progress.arrivals.add(1);
    assert!(worker.remote.drained(&mark));
}

#[test]
fn what_a_waiting_output_misses_is_there_although_the_worker_never_takes_the_next_table() {
    let text = "[[rules]]\nname = \"a\"\n\
                input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n\
                outputs = [\n\
                { interface = \"out0\", group = \"239.2.1.1\", port = 5002 },\n\
                { interface = \"gone0\", group = \"239.2.1.2\", port = 5002 },\n\
                ]\n";
    let mut worker = Worker::new(&[("b", 2, &[2])]);
    let plan = plan_of(text);
    let send = |worker: &mut Worker| {
        let prepared = worker.remote.prepare(&plan, &plan.workers[0]).unwrap();
        assert!(worker.remote.send(prepared));
    };
    send(&mut worker);
    worker.attend(true);
    assert!(worker.remote.is_taken());
    let (flow, _) = worker.slots("a");
    worker.stats.flows[flow as usize].matched.add(10);
    let pending = |outputs: &[OutputCounters]| -> u64 {
        let drops = outputs.iter();
        drops.map(|one| one.drops[Dropped::Pending as usize]).sum()
    };
    let now = |worker: &Worker| pending(&worker.remote.flow("a").unwrap().outputs);
    assert_eq!(now(&worker), 10);
    send(&mut worker);
    assert_eq!(now(&worker), 10, "while the worker has the table before");
    worker.stats.flows[flow as usize].matched.add(1);
    let last = worker.remote.into_last();
    let of_a = last.iter().find(|last| last.rule == "a").unwrap();
    assert_eq!(pending(&of_a.outputs), 11);
}

#[test]
fn a_worker_that_finds_the_lock_taken_goes_on_and_looks_again() {
    let mut worker = Worker::new(&[("a", 1, &[1])]);
    worker.send(&[("b", 2, &[2])]);
    let exchange = Arc::clone(&worker.remote.exchange);
    exchange.while_locked(|| worker.attend(true));
    assert!(worker.inbox.calls() && worker.remote.exchange.taken() == 0);
    worker.attend(true);
    assert!(worker.remote.is_taken());
}
