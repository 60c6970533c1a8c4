//! Ports come to a worker and go from it between two rounds: no chunk is lost, and copies that
//! cannot leave any more are counted.

use std::time::{Duration, Instant};

use super::set_up::{Feeds, SetUp, plan};
use anyhow::{Context, Result, ensure};
use relay::datapath::Worker;
use relay::datapath::stats::Dropped;
use relay::plan::Plan;
use relay_tests::backend::Backend;
use relay_tests::rules::{Rule, on_one_worker, to_toml, transmit_by};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// The most that a step may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Datagrams that are sent at once.
const SENT: u64 = 20;

/// A worker that runs in this thread, and the two plans between which it changes.
struct Changing {
    bed: Testbed,
    worker: Worker,
    feeds: Feeds,
    both: Plan,
    one: Plan,
}

impl Changing {
    fn new(transmit: &str) -> Result<Self> {
        let bed = Testbed::builder()
            .inputs(2)
            .outputs(2)
            .without_capture()
            .build()?;
        let text = |rules: &[Rule]| to_toml(rules) + &transmit_by(rules, transmit);
        let rules = on_one_worker();
        let both = text(&rules);
        let SetUp { worker, feeds } = SetUp::new(&bed, Backend::Xdp, &both, None)?;
        Ok(Self {
            both: bed.relay.run(|| plan(Backend::Xdp, &both))?,
            one: bed.relay.run(|| plan(Backend::Xdp, &text(&rules[1..])))?,
            bed,
            worker,
            feeds,
        })
    }

    /// Lets the worker work until something is so.
    fn work_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Feeds) -> bool) -> Result<()> {
        let started = Instant::now();
        while !is_so(&mut self.feeds) {
            self.worker.poll_once();
            ensure!(started.elapsed() < PATIENCE, "not so in time: {what}");
        }
        Ok(())
    }

    /// Takes the ports away that only the other rule needs, as control does.
    fn lose(&mut self) -> Result<()> {
        let index = |name: &str| {
            let mut interfaces = self.both.interfaces.iter();
            let found = interfaces.find(|one| one.name == name);
            found.map(|one| (one.index, 0)).context("the interface")
        };
        let mut lost = vec![index("in1")?];
        let out1 = index("out1")?;
        let has_port = |at: (u32, u32)| {
            let ports = self.both.workers[0].ports.iter();
            let mut ports = ports.filter_map(|port| self.both.interfaces.get(port.interface));
            ports.any(|interface| interface.index == at.0)
        };
        if has_port(out1) {
            lost.push(out1);
        }
        for (interface, queue) in &lost {
            self.feeds.kernel.clear_socket(*interface, *queue);
        }
        let (remote, one) = (&mut self.feeds.remote, &self.one);
        let prepared = self
            .bed
            .relay
            .run(|| Ok(remote.prepare_without(one, &one.workers[0], &lost)?))?;
        assert!(remote.send(prepared));
        self.work_until("taken", |feeds| feeds.remote.is_taken())?;
        self.work_until("closed", |feeds| feeds.remote.close_ports())?;
        // It frees what the closed ones had.
        self.worker.poll_once();
        Ok(())
    }

    /// Gives the ports back.
    fn gain(&mut self) -> Result<()> {
        let (remote, both) = (&mut self.feeds.remote, &self.both);
        let prepared = self.bed.relay.run(|| -> Result<_> {
            let mut prepared = remote.prepare(both, &both.workers[0])?;
            remote.bind_missing(both, &mut prepared)?;
            Ok(prepared)
        })?;
        assert!(remote.send(prepared));
        self.work_until("taken", |feeds| feeds.remote.is_taken())?;
        let sockets: Vec<_> = self.feeds.remote.receiving_sockets().collect();
        for socket in sockets {
            let kernel = &mut self.feeds.kernel;
            kernel.set_socket(socket.interface, socket.queue, socket.fd)?;
        }
        Ok(())
    }

    fn send(&self, rule: &Rule, from: usize, first: u64) -> Result<()> {
        let stream = Stream::new(0, SENT, 300).starting_at(first);
        let sender = UdpSender::open(&self.bed.sources[from])?;
        sender.send(&Traffic::new(rule.group, rule.port, stream), 100_000)
    }

    /// Chunks that are free and chunks that are lent, once none is in flight; they must be all.
    fn chunks(&mut self) -> Result<(u64, u64)> {
        let stats = self.worker.stats();
        let chunks = &stats.chunks;
        self.work_until("nothing in flight", |_| chunks.in_flight.get() == 0)?;
        let found = (chunks.free.get(), chunks.fill.get());
        assert_eq!(found.0 + found.1, chunks.total.get(), "{found:?}");
        Ok(found)
    }

    fn matched(&self, rule: &str) -> u64 {
        let flow = self.feeds.remote.flow(rule);
        flow.map_or(0, |flow| flow.matched)
    }
}

fn ports_go_and_come_a_hundred_times(transmit: &str) -> Result<()> {
    let mut on = Changing::new(transmit)?;
    let [other, steady] = on_one_worker();
    let with_both = on.chunks()?;
    let mut with_one = None;
    let mut sent = 0;
    for round in 0..100_u64 {
        on.lose().with_context(|| format!("round {round}"))?;
        on.send(&steady, 0, sent)?;
        on.send(&other, 1, sent)?;
        sent += SENT;
        on.work_until("the rule forwards", |feeds| {
            feeds
                .remote
                .flow("steady")
                .is_some_and(|flow| flow.matched == sent)
        })?;
        let now = on.chunks()?;
        assert!(now.1 < with_both.1, "{now:?} after {with_both:?}");
        assert_eq!(*with_one.get_or_insert(now), now, "round {round}");
        on.gain().with_context(|| format!("round {round}"))?;
        assert_eq!(on.matched("other"), 0, "nothing reached it");
        on.send(&other, 1, sent)?;
        on.work_until("the other rule forwards", |feeds| {
            feeds
                .remote
                .flow("other")
                .is_some_and(|flow| flow.matched == SENT)
        })?;
        assert_eq!(on.chunks()?, with_both, "round {round}");
    }
    let flow = on.feeds.remote.flow("steady").context("the rule")?;
    assert_eq!(flow.outputs[0].sent, sent);
    Ok(())
}

#[test]
fn with_tx_rings_ports_go_and_come_a_hundred_times_and_no_chunk_is_lost() -> Result<()> {
    ports_go_and_come_a_hundred_times("xsk")
}

#[test]
fn with_tx_sockets_ports_go_and_come_a_hundred_times_and_no_chunk_is_lost() -> Result<()> {
    ports_go_and_come_a_hundred_times("segmented")
}

/// The port of an output whose interface is down goes with copies in its TX ring.
#[test]
fn copies_that_wait_in_a_port_that_goes_are_counted_and_their_chunks_come_back() -> Result<()> {
    let mut on = Changing::new("xsk")?;
    let [other, _] = on_one_worker();
    let with_both = on.chunks()?;
    on.bed.relay.ip("link set out1 down")?;
    on.send(&other, 1, 0)?;
    on.work_until("the frames have arrived", |feeds| {
        feeds
            .remote
            .flow("other")
            .is_some_and(|flow| flow.matched == SENT)
    })?;
    let stats = on.worker.stats();
    assert_eq!(stats.chunks.in_flight.get(), SENT, "they wait");
    on.lose()?;
    let retired = on.feeds.remote.retired();
    assert_eq!(retired.len(), 1, "{retired:?}");
    let [first, second] = &retired[0].outputs[..] else {
        panic!("{retired:?}");
    };
    assert_eq!((retired[0].matched, first.sent), (Some(SENT), SENT));
    assert_eq!(
        (second.sent, second.drops[Dropped::UnsentAtExit as usize]),
        (0, SENT)
    );
    let now = on.chunks()?;
    assert!(now.1 < with_both.1, "{now:?}");
    on.bed.relay.ip("link set out1 up")?;
    on.gain()?;
    on.send(&other, 1, 0)?;
    on.work_until("both outputs forward", |feeds| {
        let flow = feeds.remote.flow("other");
        flow.is_some_and(|flow| flow.outputs.iter().all(|output| output.sent == SENT))
    })?;
    assert_eq!(on.chunks()?, with_both);
    Ok(())
}
