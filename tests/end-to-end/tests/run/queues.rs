//! Several queues: each belongs to one worker, whatever their numbers, and a frame on a queue that
//! the relay does not use is left to the stack and counted. On XDP only: a packet socket receives
//! from all queues.

use std::fs;

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::relay::RelayProcess;
use relay_tests::report::Report;
use relay_tests::rules::feeds;
use relay_tests::scenario::{
    ARRIVAL, Receivers, forward_exactly, forward_exactly_by, send, streams,
};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// So many feeds that the hash of a multi-queue sender reaches every queue: with 32 feeds on 2
/// queues it misses one in 1 of 2^31 runs.
const FEEDS: u16 = 32;
const COUNT: u64 = 50;

/// Runs the relay with feeds and more `tables` in the rule file; fails unless all feeds are exact.
fn forward_with(bed: &Testbed, tables: &str) -> Result<Report> {
    let rules = feeds(FEEDS);
    let relay = RelayProcess::start_with(&bed.relay, Backend::Xdp, &rules, tables)?;
    let streams = streams(&rules, COUNT, 500);
    Ok(forward_exactly_by(relay, bed, &rules, &streams)?.report)
}

fn worker_loads(report: &Report) -> Vec<u64> {
    report
        .workers
        .iter()
        .map(|worker| worker.packets_received)
        .collect()
}

#[test]
fn two_queues_have_two_workers_and_all_feeds_are_exact() -> Result<()> {
    let bed = Testbed::builder().queues(2).without_capture().build()?;
    let report = forward_exactly(&bed, Backend::Xdp, &feeds(FEEDS), COUNT, 500)?.report;
    let loads = worker_loads(&report);
    assert_eq!(loads.len(), 2, "{loads:?}");
    assert!(loads.iter().all(|&load| load > 0), "{loads:?}");
    Ok(())
}

#[test]
fn four_input_queues_and_one_output_queue_have_one_worker_and_are_exact() -> Result<()> {
    let bed = Testbed::builder().queues(4).without_capture().build()?;
    let report = forward_with(
        &bed,
        "\n[[interfaces]]\nname = \"out0\"\nqueues = [2]\ntransmit = \"xsk\"\n",
    )?;
    assert_eq!(worker_loads(&report), [u64::from(FEEDS) * COUNT]);
    Ok(())
}

#[test]
fn gso_packets_of_four_workers_leave_by_one_interface_and_are_exact() -> Result<()> {
    let bed = Testbed::builder().queues(4).without_capture().build()?;
    let report = forward_with(&bed, "\n[[interfaces]]\nname = \"out0\"\nqueues = [2]\n")?;
    assert_eq!(report.workers.len(), 4);
    let used = report.interface("out0")?.tx_method.as_deref();
    assert_eq!(used, Some("segmented"));
    Ok(())
}

#[test]
fn workers_pinned_to_cpus_are_exact() -> Result<()> {
    let bed = Testbed::builder().queues(2).without_capture().build()?;
    let rules = feeds(FEEDS);
    let tables = "\n[[interfaces]]\nname = \"in0\"\ncpus = [1, 0]\n";
    let relay = RelayProcess::start_with(&bed.relay, Backend::Xdp, &rules, tables)?;
    let pinned = || {
        let mut cpus = cpus_of_workers(&relay).unwrap_or_default();
        cpus.sort();
        cpus == ["0", "1"]
    };
    let settled = eventually(ARRIVAL, pinned);
    assert!(settled.is_some(), "{:?}", cpus_of_workers(&relay)?);
    let report = forward_exactly_by(relay, &bed, &rules, &streams(&rules, COUNT, 500))?.report;
    assert_eq!(report.workers.len(), 2);
    Ok(())
}

/// The CPUs that each worker of a running relay may use, as `/proc` lists them.
fn cpus_of_workers(relay: &RelayProcess) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", relay.id()))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("relay-worker") {
            let status = fs::read_to_string(task.join("status"))?;
            let mut lines = status.lines();
            let cpus = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            all.push(cpus.context("no CPUs in the status")?.trim().to_owned());
        }
    }
    Ok(all)
}

/// A TX socket sends through the TX queue of its worker's CPU. If a worker moved between CPUs,
/// later frames on one queue could overtake earlier ones on another.
#[test]
fn where_an_output_has_several_tx_queues_a_worker_stays_on_one_cpu() -> Result<()> {
    let everywhere = fs::read_to_string("/proc/thread-self/status")?;
    let everywhere = everywhere
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let everywhere = everywhere.context("no CPUs in the status")?.trim();
    for (queues, backend, workers) in [
        (2, Backend::Xdp, 2),
        (2, Backend::IoUring, 1),
        (1, Backend::Xdp, 1),
        (1, Backend::IoUring, 1),
    ] {
        let bed = Testbed::builder()
            .queues(queues)
            .without_capture()
            .build()?;
        let rules = feeds(FEEDS);
        let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
        // A worker first gives itself its name, and then chooses its CPU.
        let is_right = |cpus: &String| {
            if queues > 1 {
                cpus.parse::<usize>().is_ok()
            } else {
                cpus == everywhere
            }
        };
        let settled = eventually(ARRIVAL, || {
            let cpus = cpus_of_workers(&relay).unwrap_or_default();
            cpus.len() == workers && cpus.iter().all(is_right)
        });
        let cpus = cpus_of_workers(&relay)?;
        assert!(settled.is_some(), "{backend:?}, {queues} queues: {cpus:?}");
        forward_exactly_by(relay, &bed, &rules, &streams(&rules, COUNT, 500))?;
    }
    Ok(())
}

#[test]
fn frames_on_a_queue_that_is_not_listed_are_counted_and_reported() -> Result<()> {
    let bed = Testbed::builder().queues(2).without_capture().build()?;
    let rules = feeds(FEEDS);
    let only_one = "\n[[interfaces]]\nname = \"in0\"\nqueues = [1]\n";
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start_with(&bed.relay, Backend::Xdp, &rules, only_one)?;
    let streams: Vec<Stream> = streams(&rules, COUNT, 500);
    let sent = u64::from(FEEDS) * COUNT;
    send(&bed, &rules, &streams, || sent)?;
    receivers.settle();
    let stopped = relay.stop()?;
    let (report, log) = (stopped.report, stopped.log);
    let missed = report.filter("in0", "pass_no_socket");
    assert!(missed > 0 && report.packets_received > 0, "{report:#?}");
    assert_eq!(missed + report.packets_received, sent, "{report:#?}");
    report.assert_balanced();
    assert!(log.contains("queue 0, which no socket"), "{log}");
    Ok(())
}
