//! What a worker does when its time is over: each copy leaves or is counted, and none does both.

use super::*;

/// Frames that `interface` has received.
fn received_by(interface: &str) -> u64 {
    // "vb: BYTES PACKETS …"
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let mut lines = devices.lines().map(str::split_whitespace);
    let mut line =
        lines.find_map(|mut line| (line.next()? == format!("{interface}:")).then_some(line));
    line.as_mut()
        .and_then(|line| line.nth(1))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn what_is_posted_when_the_time_is_over_leaves_and_counts_once_and_nothing_follows() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        bench.send(&payloads(20));
        assert!(bench.worker.poll_once());
        bench.send(&payloads(10));
        // One more round submits what is posted, and posts what has arrived.
        bench.worker.end(Instant::now());
        assert_eq!(bench.matched(), 30);
        assert_eq!(bench.sent(), 30 * OUTPUTS as u64);
        assert_eq!(bench.dropped(Dropped::UnsentAtExit), 0);
        bench.assert_all_buffers_provided();
        let (left, stats) = (received_by("vb"), bench.worker.stats());
        bench.send(&payloads(10));
        drop(bench.worker);
        assert_eq!((received_by("vb"), stats.matched.get()), (left, 30));
    });
}

#[test]
fn frames_that_a_worker_does_not_get_to_before_its_end_are_counted_with_all_their_copies() {
    in_namespace(|| {
        let mut bench = Bench::new(4, None);
        bench.send(&payloads(50));
        bench.worker.end(Instant::now());
        assert_eq!(
            (bench.worker.stats.received.get(), bench.matched()),
            (50, 50)
        );
        let unsent = bench.dropped(Dropped::UnsentAtExit);
        assert!(unsent > 0, "it had the time for all");
        assert_eq!(bench.sent() + unsent, 50 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
    });
}
