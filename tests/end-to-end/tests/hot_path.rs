//! The forwarding loop, run inside the test's process, where a test sees what it does to memory: it
//! allocates nothing, it shares one chunk between identical outputs, it goes on without free
//! chunks, and every chunk comes back.

#[path = "in_process/set_up.rs"]
mod set_up;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use relay::datapath::Worker;
use relay::datapath::stats::{Count, Dropped, WorkerStats};
use relay::datapath::tap::Tap;
use relay::datapath::tap::record::Header;
use relay::datapath::tap::ring::ring;
use relay::datapath::xdp::ring_sizes::{FILL_SIZE, TX_SIZE};
use relay::plan::Plan;
use relay_tests::backend::Backend;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml, transmit_by};
use relay_tests::scenario::{Receivers, streams, tx_methods};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{wait_for_carrier, wait_for_no_carrier};
use set_up::{Feeds, SetUp, share_payloads};

/// Counts the allocations of threads that have switched that on.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Held by a test that counts allocations: they share the counter.
static COUNTING: Mutex<()> = Mutex::new(());

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if COUNTED.get() {
        ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A relay with one worker in this process, in the testbed's relay host.
struct InProcess {
    stats: Arc<WorkerStats>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Worker>>,
    feeds: Feeds,
}

impl InProcess {
    /// With `chunks` chunks, or as many as the plan wants. With `counted` the worker's allocations
    /// are counted from its first batch on.
    fn start(
        bed: &Testbed,
        backend: Backend,
        text: &str,
        chunks: Option<u32>,
        counted: bool,
    ) -> Result<Self> {
        Self::altered(bed, backend, text, chunks, counted, |_| ())
    }

    /// The same with a plan that `alter` has changed.
    fn altered(
        bed: &Testbed,
        backend: Backend,
        text: &str,
        chunks: Option<u32>,
        counted: bool,
        alter: impl FnOnce(&mut Plan) + Send,
    ) -> Result<Self> {
        let SetUp { mut worker, feeds } = SetUp::altered(bed, backend, text, chunks, alter)?;
        let (stats, stop) = (worker.stats(), Arc::new(AtomicBool::new(false)));
        let own_stop = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            COUNTED.set(counted);
            drop(black_box(Box::new(1))); // on purpose: the counter has to see it
            worker.run(&own_stop, false);
            COUNTED.set(false);
            worker
        });
        Ok(Self {
            stats,
            stop,
            thread: Some(thread),
            feeds,
        })
    }

    fn wait_for_matched(&self, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.stats.matched.get() < count && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.stats.matched.get(), count);
    }

    fn dropped(&self, output: usize, reason: Dropped) -> u64 {
        let drops = &self.stats.outputs[output].drops;
        drops
            .iter()
            .find(|(dropped, _)| *dropped == reason)
            .map_or(0, |(_, count)| count)
    }

    /// Stops the worker and checks that all of its chunks have come back.
    fn stop(mut self) -> Result<Worker> {
        self.stop.store(true, Relaxed);
        let worker = self
            .thread
            .take()
            .context("still running")?
            .join()
            .map_err(|_| anyhow!("the worker panicked"))?;
        let chunks = &self.stats.chunks;
        assert_eq!(chunks.in_flight.get(), 0, "{chunks:?}");
        assert_eq!(chunks.header_slots.get(), 0, "{chunks:?}");
        assert_eq!(
            chunks.free.get() + chunks.fill.get(),
            chunks.total.get(),
            "{chunks:?}"
        );
        Ok(worker)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(bed: &Testbed, stream: Stream) -> Result<()> {
    UdpSender::open(&bed.sources[0])?.send(&Traffic::new(GROUP_IN, PORT_IN, stream), 10_000)
}

/// Sends the next datagram when the last one has been matched, so that no chunk but the one just
/// received is outside the FILL ring.
fn send_one_by_one(bed: &Testbed, stream: Stream, relay: &InProcess) -> Result<()> {
    let traffic = Traffic::new(GROUP_IN, PORT_IN, stream);
    let before = relay.stats.matched.get();
    let window = Window::new(1, || relay.stats.matched.get() - before);
    UdpSender::open(&bed.sources[0])?.send_interleaved(&[traffic], 2_000, 1, &window)?;
    relay.wait_for_matched(before + stream.count);
    Ok(())
}

/// How the copies of `rules` leave: the tables of a rule file, the TX method, and whether the
/// copies of a ring output share payloads.
fn methods(backend: Backend, rules: &[Rule]) -> Vec<(String, &'static str, bool)> {
    let alone = tx_methods(backend, rules).into_iter();
    let shared = (backend == Backend::Xdp).then(|| (transmit_by(rules, "xsk"), "xsk", true));
    alone
        .map(|(tables, method)| (tables, method, false))
        .chain(shared)
        .collect()
}

/// Makes ring outputs share payloads if `shares`.
fn sharing(shares: bool) -> impl FnOnce(&mut Plan) + Send {
    move |plan| {
        if shares {
            share_payloads(plan);
        }
    }
}

#[test]
fn forwarding_allocates_nothing_however_many_frames_there_are() -> Result<()> {
    let _counting = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let feed = Rule::feed().outputs("out0", 4);
    let local = format!("group = \"{GROUP_IN}\", port = {PORT_IN}, local = true");
    let kinds = [feed.clone(), feed.takes(&local)].map(|rule| [rule]);
    let with = |backend| {
        let methods = methods(backend, &kinds[0]);
        methods.into_iter().map(move |tx| (backend, tx))
    };
    let all = Backend::ALL.into_iter().flat_map(with);
    for ((backend, (tables, method, shares)), rules) in
        all.flat_map(|one| kinds.iter().map(move |rules| (one.clone(), rules)))
    {
        let bed = Testbed::builder().without_capture().build()?;
        let before = ALLOCATIONS.load(Relaxed);
        let text = to_toml(rules) + &tables;
        let relay = InProcess::altered(&bed, backend, &text, None, true, sharing(shares))?;
        send(&bed, Stream::new(0, 100, 1000))?;
        relay.wait_for_matched(100);
        let at_the_start = ALLOCATIONS.load(Relaxed);
        assert!(at_the_start > before, "the counter sees allocations");
        send(&bed, Stream::new(0, 20_000, 1000))?;
        relay.wait_for_matched(20_100);
        let now = ALLOCATIONS.load(Relaxed);
        assert_eq!(
            now - at_the_start,
            0,
            "{backend:?}, {method}, {rules:?}: for 20,000 frames"
        );
        // So it does while a tap looks, which has room for some of the frames and not for all.
        let (writer, mut reader) = ring(4 << 20);
        let outputs = (0..4).map(|slot| (slot, 1 + slot as u16)).collect();
        let tap = Tap::new(1, 0, 0, outputs, writer);
        assert!(relay.stats.outputs.taps().begin(tap));
        send(&bed, Stream::new(0, 5_000, 1000))?;
        relay.wait_for_matched(25_100);
        let now = ALLOCATIONS.load(Relaxed);
        assert_eq!(now - at_the_start, 0, "{backend:?}, {method}: with a tap");
        let stats = Arc::clone(&relay.stats);
        relay.stop()?;
        let sent: u64 = stats.outputs.iter().map(|output| output.sent.get()).sum();
        assert_eq!(sent, 4 * 25_100, "{backend:?}, {method}");
        let mut records = Vec::new();
        while reader.read(&mut records, usize::MAX) {}
        // All are of one length.
        let first = records.first_chunk().and_then(Header::read);
        let each = first.context("a record")?.record_len();
        let (kept, [lost_in, lost_out]) = (records.len() / each, reader.lost());
        assert_eq!(kept as u64 + lost_in + lost_out, 5 * 5_000, "{method}");
        assert!(lost_in > 0 && lost_out > 0, "{method}: {kept}");
        let failed: u64 = stats.local_failed.iter().map(Count::get).sum();
        assert_eq!(failed, 0, "{method}");
    }
    Ok(())
}

/// The worker swaps what control has allocated, and control frees what it gets back.
#[test]
fn taking_another_table_allocates_and_frees_nothing() -> Result<()> {
    let _counting = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let rules = [Rule::feed().outputs("out0", 4)];
    for (backend, (tables, method, shares)) in Backend::ALL.into_iter().flat_map(|backend| {
        methods(backend, &rules)
            .into_iter()
            .map(move |tx| (backend, tx))
    }) {
        let bed = Testbed::builder().outputs(2).without_capture().build()?;
        let text = to_toml(&rules) + &tables;
        let mut relay = InProcess::altered(&bed, backend, &text, None, true, sharing(shares))?;
        send(&bed, Stream::new(0, 100, 1000))?;
        relay.wait_for_matched(100);
        let at_the_start = ALLOCATIONS.load(Relaxed);
        for round in 1..=10 {
            // By TX rings the worker's ports would be others.
            let interface = if method == "xsk" { "out0" } else { "out1" };
            let more = [
                rules[0].clone().outputs(interface, round % 3),
                Rule::new("more", "in0", [239, 7, 7, 7], 7).outputs(interface, 20 * round),
            ];
            let text = match backend {
                Backend::Xdp => to_toml(&more) + &transmit_by(&more, method),
                Backend::IoUring => to_toml(&more),
            };
            relay.feeds.change(&bed, backend, &text)?;
            send(&bed, Stream::new(0, 100, 1000))?;
            relay.wait_for_matched(100 * (round as u64 + 1));
        }
        let now = ALLOCATIONS.load(Relaxed);
        assert_eq!(now - at_the_start, 0, "{backend:?}, {method}");
        relay.stop()?;
    }
    Ok(())
}

/// One batch has 2400 copies, and the ring holds 2048. The device refuses each copy as soon as the
/// kernel takes it from the ring, so there is room for the others within the batch.
#[test]
fn x4_a_round_with_more_copies_than_a_ring_holds_is_refused_by_a_dead_wire_to_the_last_copy()
-> Result<()> {
    refused_to_the_last_copy(false)?;
    refused_to_the_last_copy(true)
}

fn refused_to_the_last_copy(shares: bool) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 24)];
    let text = to_toml(&rules) + &transmit_by(&rules, "xsk");
    let SetUp {
        mut worker,
        feeds: _feeds,
    } = SetUp::altered(&bed, Backend::Xdp, &text, None, sharing(shares))?;
    let far = &bed.receivers[0];
    far.namespace
        .ip(&format!("link set {} down", far.interface))?;
    wait_for_no_carrier(&bed.relay, "out0")?;
    send(&bed, Stream::new(0, 100, 1000))?;
    while worker.poll_once() {}
    let stats = worker.stats();
    assert_eq!(stats.matched.get(), 100, "{stats:?}");
    for output in &stats.outputs {
        let mut drops = output.drops.iter();
        let refused = drops.find(|(reason, _)| *reason == Dropped::DeviceRefused);
        assert_eq!(refused, Some((Dropped::DeviceRefused, 100)), "{output:?}");
        assert_eq!(output.sent.get(), 0, "{output:?}");
    }
    assert_eq!(stats.chunks.in_flight.get(), 0, "{stats:?}");
    assert_eq!(stats.chunks.header_slots.get(), 0, "{stats:?}");
    Ok(())
}

/// The interface is down, and its ring would hold all copies, but there are chunks for a few of
/// them only. The others are counted, the other interface loses nothing, and when the copies that
/// wait have left, no chunk is short any more.
#[test]
fn x5_when_chunks_run_out_copies_are_counted_and_when_they_are_back_all_is_as_before() -> Result<()>
{
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = [Rule::feed()
        .outputs("out0", 1)
        .output("out1", [239, 9, 9, 9], 5009)];
    let receivers = Receivers::start(&bed, &rules)?;
    let text = to_toml(&rules) + &transmit_by(&rules, "xsk");
    let chunks = FILL_SIZE + CHUNKS_FOR_COPIES;
    let relay = InProcess::start(&bed, Backend::Xdp, &text, Some(chunks), false)?;
    let part = |number: u64| Stream::new(0, 200, 1000).starting_at(number * 200);
    bed.relay.ip("link set out0 down")?;
    send_one_by_one(&bed, part(0), &relay)?;
    let exhausted = relay.dropped(0, Dropped::BufferExhaustion);
    assert!(
        exhausted >= 200 - u64::from(CHUNKS_FOR_COPIES),
        "{exhausted}"
    );
    assert!(exhausted < 200, "some chunks there were: {exhausted}");
    bed.relay.ip("link set out0 up")?;
    wait_for_carrier(&bed.relay, "out0")?;
    let waited = 200 - exhausted;
    receivers.wait_until_each(|output, tally| output == 1 || tally.received >= waited);
    send_one_by_one(&bed, part(1), &relay)?;
    receivers.wait_until_each(|_, tally| tally.has(399));
    receivers.settle();
    let tallies = receivers.tallies();
    assert_eq!(tallies[0].1.received, waited + 200, "{}", tallies[0].1);
    assert_eq!(tallies[0].1.missing(&part(1)), [0; 0]);
    tallies[1].1.assert_exact(&Stream::new(0, 400, 1000));
    assert_eq!(relay.dropped(0, Dropped::BufferExhaustion), exhausted);
    assert_eq!(relay.dropped(1, Dropped::BufferExhaustion), 0);
    let sent = relay.stats.outputs[0].sent.get();
    assert_eq!(sent, waited + 200);
    relay.stop()?;
    Ok(())
}

/// So few chunks that all of them are in the FILL ring, and none is left for a copy.
const NO_CHUNK_FOR_COPIES: u32 = 64;
/// Chunks beyond those that the FILL ring takes.
const CHUNKS_FOR_COPIES: u32 = 16;

/// By TX rings: no other TX method needs a chunk for a copy.
fn start_short_of_chunks(bed: &Testbed, rules: &[Rule]) -> Result<InProcess> {
    let text = to_toml(rules) + &transmit_by(rules, "xsk");
    InProcess::start(bed, Backend::Xdp, &text, Some(NO_CHUNK_FOR_COPIES), false)
}

#[test]
fn without_a_free_chunk_every_copy_is_counted_and_the_last_output_still_leaves() -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = [Rule::feed()
        .outputs("out0", 1)
        .output("out1", [239, 9, 9, 9], 5009)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = start_short_of_chunks(&bed, &rules)?;
    let stream = streams(&rules, 200, 1000)[0];
    send_one_by_one(&bed, stream, &relay)?;
    receivers.settle();
    let tallies = receivers.tallies();
    // Not before: the worker counts a frame as matched first, and then what becomes of its copies.
    let exhausted = relay.dropped(0, Dropped::BufferExhaustion);
    assert!(exhausted > 0, "no copy was ever short of a chunk");
    assert_eq!(tallies[0].1.received + exhausted, 200, "one or the other");
    assert_eq!(
        tallies[1].1.received, 200,
        "the last output leaves in place"
    );
    assert_eq!(relay.dropped(1, Dropped::BufferExhaustion), 0);
    relay.stop()?;
    Ok(())
}

#[test]
fn identical_outputs_share_one_chunk_and_need_no_copy() -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    // Two interfaces with one MAC and one address: their frames are the same to the last byte.
    let (first, second) = (&bed.outputs[0], &bed.outputs[1]);
    let mac = relay_tests::veth::format_mac(first.mac);
    bed.relay.ip(&format!("link set dev out1 address {mac}"))?;
    bed.relay
        .ip(&format!("address del {}/24 dev out1", second.address))?;
    bed.relay
        .ip(&format!("address add {}/32 dev out1", first.address))?;
    let rules =
        [Rule::feed()
            .output("out0", [239, 9, 9, 9], 5009)
            .output("out1", [239, 9, 9, 9], 5009)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = start_short_of_chunks(&bed, &rules)?;
    let stream = streams(&rules, 200, 1000)[0];
    send_one_by_one(&bed, stream, &relay)?;
    receivers.settle();
    receivers.assert_exact(&[stream]);
    for output in 0..2 {
        assert_eq!(relay.dropped(output, Dropped::BufferExhaustion), 0);
    }
    relay.stop()?;
    Ok(())
}

/// Copies wait on the ring of an interface that is down: each has a header slot and half of the
/// ring's two entries for it, and all of them hold the one chunk of their datagram.
#[test]
fn copies_that_share_a_payload_need_no_chunk_and_all_comes_back() -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = [Rule::feed()
        .outputs("out0", 3)
        .output("out1", [239, 9, 9, 9], 5009)];
    let receivers = Receivers::start(&bed, &rules)?;
    let text = to_toml(&rules) + &transmit_by(&rules, "xsk");
    let chunks = Some(FILL_SIZE + CHUNKS_FOR_COPIES);
    let relay = InProcess::altered(&bed, Backend::Xdp, &text, chunks, false, share_payloads)?;
    bed.relay.ip("link set out0 down")?;
    let part = |number: u64| Stream::new(0, 200, 1000).starting_at(number * 200);
    send_one_by_one(&bed, part(0), &relay)?;
    receivers.wait_until_each(|output, tally| output < 3 || tally.received >= 200);
    let chunks = &relay.stats.chunks;
    wait_for(|| chunks.header_slots.get() == 600);
    assert_eq!(chunks.in_flight.get(), 200, "{chunks:?}");
    bed.relay.ip("link set out0 up")?;
    wait_for_carrier(&bed.relay, "out0")?;
    send_one_by_one(&bed, part(1), &relay)?;
    receivers.wait_until_each(|_, tally| tally.has(399));
    receivers.settle();
    for (_, tally) in receivers.tallies() {
        assert_eq!(tally.missing(&part(1)), [0; 0], "{tally}");
    }
    for output in 0..4 {
        assert_eq!(relay.dropped(output, Dropped::BufferExhaustion), 0);
    }
    relay.stop()?;
    Ok(())
}

fn wait_for(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_so() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(is_so());
}

/// Each datagram takes three entries of the ring: headers and payload for one output, a whole frame
/// for the other. In the end two are left, for the first output only.
#[test]
fn a_ring_full_of_frames_in_two_parts_refuses_copies_and_the_others_leave_in_order() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let text = to_toml(&rules) + &transmit_by(&rules, "xsk");
    let relay = InProcess::altered(&bed, Backend::Xdp, &text, None, false, share_payloads)?;
    bed.relay.ip("link set out0 down")?;
    let frames = u64::from(TX_SIZE) / 3;
    assert_eq!(TX_SIZE % 3, 2);
    send_one_by_one(&bed, Stream::new(0, 1000, 1000), &relay)?;
    let full = |output| relay.dropped(output, Dropped::RingFull);
    wait_for(|| full(1) == 1000 - frames);
    assert_eq!(full(0), full(1) - 1);
    bed.relay.ip("link set out0 up")?;
    wait_for_carrier(&bed.relay, "out0")?;
    let more = Stream::new(0, 100, 1000).starting_at(1000);
    send_one_by_one(&bed, more, &relay)?;
    receivers.wait_until_each(|_, tally| tally.has(1099));
    receivers.settle();
    for (output, (_, tally)) in receivers.tallies().into_iter().enumerate() {
        assert_eq!(tally.received, 1100 - full(output), "{tally}");
        assert_eq!((tally.unique, tally.out_of_order), (tally.received, 0));
        assert_eq!(relay.stats.outputs[output].sent.get(), tally.received);
    }
    relay.stop()?;
    Ok(())
}
