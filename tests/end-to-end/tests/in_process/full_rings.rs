//! Devices without room: a frame that their ring refuses waits or is counted once, and leaves at
//! most once.
//!
//! The output is a tap device: the test chooses the size of its ring, and when to empty it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::set_up::SetUp;
use anyhow::{Result, anyhow, ensure};
use relay::datapath::Worker;
use relay::datapath::output_link::State;
use relay::datapath::stats::{Dropped, WorkerStats};
use relay_tests::backend::Backend;
use relay_tests::frames::UdpFrame;
use relay_tests::payload::payload;
use relay_tests::raw::RawSender;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::{Stream, Tally};
use relay_tests::tap::{Cuts, Tap};
use relay_tests::topology::Testbed;

/// How long copies wait for a device at most.
const PATIENCE: Duration = Duration::from_millis(100);
const TAP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn tap(bed: &Testbed, ring: u32, cuts: Cuts) -> Result<Tap> {
    Tap::new(&bed.relay, "tap0", TAP, ring, cuts)
}

/// The rule file with TX sockets for all outputs, also where the relay would choose TX rings.
fn by_tx_sockets(rules: &[Rule]) -> String {
    let tables = "[[interfaces]]\nname = \"tap0\"\ntransmit = \"segmented\"\n";
    format!("{}{tables}", to_toml(rules))
}

/// What was counted under `reason`, over all outputs.
fn dropped(stats: &WorkerStats, reason: Dropped) -> u64 {
    let drops = stats.outputs.iter().flat_map(|o| o.drops.iter());
    drops
        .filter(|(why, _)| *why == reason)
        .map(|(_, count)| count)
        .sum()
}

fn sent(stats: &WorkerStats) -> u64 {
    stats.outputs.iter().map(|output| output.sent.get()).sum()
}

/// Whether the datagrams can leave joined in GSO packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Joined,
    Alone,
}

/// Sends datagrams of flow 0 to the relay, from number `first` on; they wait in its input.
fn send(bed: &Testbed, first: u64, count: u64, size: usize, leave: Leave) -> Result<()> {
    let sender = RawSender::open(&bed.sources[0])?;
    for n in first..first + count {
        let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, n, size));
        frame.identification = n as u16;
        // Different TTLs in turn keep datagrams apart.
        frame.ttl += u8::from(leave == Leave::Alone && n % 2 == 0);
        sender.send(&frame.build()?)?;
    }
    Ok(())
}

/// A worker in this process with outputs on a tap device.
struct OnTap {
    bed: Testbed,
    tap: Tap,
    worker: Worker,
    stats: Arc<WorkerStats>,
    _feeds: super::set_up::Feeds,
}

impl OnTap {
    fn new(backend: Backend, outputs: usize, ring: u32, cuts: Cuts) -> Result<Self> {
        let bed = Testbed::builder().without_capture().build()?;
        let tap = tap(&bed, ring, cuts)?;
        let rules = [Rule::feed().outputs("tap0", outputs)];
        let SetUp { worker, feeds } = SetUp::new(&bed, backend, &by_tx_sockets(&rules), None)?;
        let stats = worker.stats();
        tap.read_all()?; // what the host sends by itself when a device comes up
        Ok(Self {
            bed,
            tap,
            worker,
            stats,
            _feeds: feeds,
        })
    }
}

/// 600 datagrams find room for 4 GSO packets. The rest waits, and leaves in order when the test
/// empties the ring.
fn what_a_full_ring_refuses_waits_and_leaves_in_order(backend: Backend) -> Result<()> {
    const COUNT: u64 = 600;
    // Try again if the machine was too busy to empty the ring in time.
    for _ in 0..20 {
        let OnTap {
            bed,
            tap,
            mut worker,
            stats,
            _feeds,
        } = OnTap::new(backend, 1, 4, Cuts::Itself)?;
        send(&bed, 0, COUNT, 1000, Leave::Joined)?;
        let (mut tally, start) = (Tally::new("tap0", 0), Instant::now());
        while worker.poll_once() {}
        let left = sent(&stats);
        assert!(left < COUNT, "the ring was never full");
        while sent(&stats) < COUNT && start.elapsed() < PATIENCE {
            for payload in tap.read_all()? {
                tally.record(&payload, None);
            }
            worker.poll_once();
        }
        if start.elapsed() >= PATIENCE {
            continue;
        }
        for payload in tap.read_all()? {
            tally.record(&payload, None);
        }
        tally.assert_exact(&Stream::new(0, COUNT, 1000));
        assert_eq!(stats.chunks.in_flight.get(), 0, "{:?}", stats.chunks);
        return Ok(());
    }
    anyhow::bail!("never within {PATIENCE:?}")
}

/// The test never empties the ring: copies that find no room are counted, those that still waited
/// when the relay ended too, and the other output loses nothing.
fn a_ring_that_stays_full_drops_and_counts_and_the_other_output_loses_nothing(
    backend: Backend,
) -> Result<()> {
    const COUNT: u64 = 6000;
    let bed = Testbed::builder().without_capture().build()?;
    let tap = tap(&bed, 16, Cuts::Itself)?;
    let rules = [Rule::feed().outputs("tap0", 1).outputs("out0", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let file = RuleFile::new(&by_tx_sockets(&rules))?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    let before = tap.read_all()?.len();
    assert_eq!(before, 0, "nothing is relayed yet");
    let stream = Stream::new(0, COUNT, 1000);
    let window = Window::new(512, || receivers.progress());
    let sender = UdpSender::open(&bed.sources[0])?;
    sender.send_interleaved(
        &[Traffic::new(GROUP_IN, PORT_IN, stream)],
        10_000,
        64,
        &window,
    )?;
    receivers.assert_exact(&[stream]);
    let report = relay.stop()?.report;
    report.assert_balanced();
    let [full, other] = &report.rules[0].outputs[..] else {
        anyhow::bail!("two outputs: {report:#?}");
    };
    assert_eq!(other.packets_sent, COUNT, "{report:#?}");
    let left = tap.read_all()?.len() as u64;
    assert_eq!(left, full.packets_sent, "{report:#?}");
    let why: Vec<&str> = full.dropped.keys().map(String::as_str).collect();
    let expected = |why: &&str| ["ring_full", "unsent_at_exit"].contains(why);
    ensure!(why.iter().all(expected), "{why:?}");
    assert!(full.dropped["ring_full"] > COUNT / 2, "{report:#?}");
    Ok(())
}

/// Where the kernel cuts, a GSO packet may leave in part, and only the device counts the frames of
/// it that did not leave. No frame leaves twice and no drop is counted twice, in GSO packets and
/// alone.
fn where_the_kernel_cuts_no_frame_is_sent_or_counted_twice(backend: Backend) -> Result<()> {
    const COUNT: u64 = 600;
    const OUTPUTS: u64 = 4;
    let mut on_tap = OnTap::new(backend, OUTPUTS as usize, 450, Cuts::Kernel)?;
    // First the ring becomes full in the middle of a GSO packet or of a system call, and stays
    // full. Then it is emptied all the time.
    let cases = [Leave::Joined, Leave::Alone].map(|leave| [(leave, false), (leave, true)]);
    for ((leave, empties), first) in cases
        .into_iter()
        .flatten()
        .zip((0..).step_by(COUNT as usize))
    {
        let before = on_tap.tap.dropped()?;
        send(&on_tap.bed, first, COUNT, 200, leave)?;
        let OnTap {
            tap, worker, stats, ..
        } = &mut on_tap;
        let stop = AtomicBool::new(false);
        let mut arrived = thread::scope(|scope| {
            let reading = scope.spawn(|| -> Result<_> {
                let mut arrived = Vec::new();
                while empties && !stop.load(Relaxed) {
                    arrived.extend(tap.read()?.unwrap_or_default());
                }
                Ok(arrived)
            });
            let deadline = Instant::now() + ARRIVAL;
            let all = first + COUNT;
            while (worker.poll_once() || stats.matched.get() < all) && Instant::now() < deadline {}
            stop.store(true, Relaxed);
            reading.join().map_err(|_| anyhow!("the reader panicked"))?
        })?;
        arrived.extend(tap.read_all()?);
        assert_eq!(on_tap.stats.matched.get(), first + COUNT);
        let lost = on_tap.tap.dropped()? - before;
        let all = arrived.len() as u64 + lost;
        let alone = leave == Leave::Alone;
        let what = format!(
            "alone: {alone}, empties: {empties}, {} arrived",
            arrived.len()
        );
        assert_eq!(all, COUNT * OUTPUTS, "{what}");
        let mut copies = HashMap::new();
        for payload in arrived {
            *copies.entry(payload).or_insert(0) += 1;
        }
        let most = copies.values().max().copied().unwrap_or(0);
        assert!(most <= OUTPUTS, "{what}: a frame left {most} times");
    }
    assert_eq!(
        sent(&on_tap.stats),
        4 * COUNT * OUTPUTS,
        "what the device drops, it counts"
    );
    Ok(())
}

/// Whether a message is a GSO packet is decided when it is made. A device that has stopped taking
/// GSO packets refuses it whole, and then its datagrams leave the other way, once.
fn a_device_that_changes_between_two_batches_gets_every_frame_once(backend: Backend) -> Result<()> {
    const EACH: u64 = 120;
    let OnTap {
        bed,
        tap,
        mut worker,
        stats,
        _feeds,
    } = OnTap::new(backend, 1, 1000, Cuts::Kernel)?;
    let links = worker.links();
    let mut tally = Tally::new("tap0", 0);
    for round in 0..4 {
        // The worker looks at its device's state once per millisecond at most.
        thread::sleep(Duration::from_millis(2));
        // The kernel cuts all the time; the state that the worker reads changes.
        for link in &links {
            link.update(|state| State {
                takes_gso: round % 2 == 0,
                ..state
            });
        }
        send(&bed, round * EACH, EACH, 400, Leave::Joined)?;
        // On io_uring this round's messages are submitted by the next one.
        let deadline = Instant::now() + ARRIVAL;
        while stats.matched.get() < (round + 1) * EACH && Instant::now() < deadline {
            worker.poll_once();
        }
        assert_eq!(stats.matched.get(), (round + 1) * EACH);
    }
    let deadline = Instant::now() + ARRIVAL;
    while sent(&stats) < 4 * EACH && Instant::now() < deadline {
        worker.poll_once();
    }
    for payload in tap.read_all()? {
        tally.record(&payload, None);
    }
    assert_eq!(sent(&stats), 4 * EACH, "{stats:?}");
    assert_eq!(
        (tally.unique, tally.received),
        (4 * EACH, 4 * EACH),
        "{tally}"
    );
    assert_eq!(dropped(&stats, Dropped::DeviceRefused), 0, "{stats:?}");
    assert_eq!(stats.chunks.in_flight.get(), 0, "{:?}", stats.chunks);
    Ok(())
}

relay_tests::on_both_backends! {
    what_a_full_ring_refuses_waits_and_leaves_in_order,
    a_ring_that_stays_full_drops_and_counts_and_the_other_output_loses_nothing,
    where_the_kernel_cuts_no_frame_is_sent_or_counted_twice,
    a_device_that_changes_between_two_batches_gets_every_frame_once,
}
