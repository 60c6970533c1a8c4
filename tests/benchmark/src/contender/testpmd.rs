//! DPDK's testpmd over AF_XDP as a contender: it passes every frame from one port to the other
//! without reading it, so it is the least that a user-space forwarder over AF_XDP can cost.

use std::{process::Stdio, sync::Arc};

use anyhow::{Context, Result};
use relay_tests::{netns::Namespace, process::Process};

use super::{active::Active, command};
use crate::{drops::Drops, job::Job};

pub(super) const TESTPMD: &str = "dpdk-testpmd";

/// The line that it prints after the forwarding thread has started.
const READY: &str = "Press enter to exit";

struct Testpmd {
    process: Process,
    namespace: Arc<Namespace>,
    ports: [String; 2],
}

/// Frames that arrive on a port leave through its neighbour.
pub(super) fn can(job: &Job) -> Result<(), String> {
    let one_copy = job.flows.iter().all(|flow| flow.outputs.len() == 1);
    if one_copy && job.output_interfaces().len() == 1 {
        Ok(())
    } else {
        Err("testpmd forwards one interface to one other, without copies".into())
    }
}

pub(super) fn start(job: &Job) -> Result<Box<dyn Active>> {
    let cpu = job.cpu;
    let input = job.input.as_str();
    let output = job
        .output_interfaces()
        .into_iter()
        .next()
        .context("a job without outputs")?;
    // testpmd writes with stdio, which buffers lines when it writes to a pipe.
    let mut command = command::pinned(job, "stdbuf")?;
    command.args(["-oL", TESTPMD]);
    // No huge pages, no PCI devices, no files. The main thread only waits for its input to end.
    command.args(["--no-huge", "-m", "512", "--no-pci", "--no-shconf"]);
    command.arg("--no-telemetry");
    command.arg(format!("--lcores=0@{cpu},1@{cpu}"));
    // Busy polling needs a NAPI id, which a veth does not have.
    for (port, interface) in [input, output].into_iter().enumerate() {
        command.arg(format!(
            "--vdev=net_af_xdp{port},iface={interface},busy_budget=0"
        ));
    }
    command.args(["--", "--forward-mode=io", "--auto-start"]);
    command.args(["--no-lsc-interrupt", "--burst=64"]);
    command.args(["--rxd=2048", "--txd=2048", "--total-num-mbufs=16384"]);
    command.stdin(Stdio::piped());
    let mut testpmd = Testpmd {
        process: Process::spawn_logging(command)?,
        namespace: Arc::clone(&job.namespace),
        ports: [input.to_owned(), output.to_owned()],
    };
    command::wait_for_log(&mut testpmd.process, READY)?;
    Ok(Box::new(testpmd))
}

impl Active for Testpmd {
    fn pids(&self) -> Vec<u32> {
        vec![self.process.id()]
    }

    fn stop(mut self: Box<Self>) -> Result<Drops> {
        command::terminate(&mut self.process)?;
        let log = self.process.log();
        let all = log
            .split_once("Accumulated forward statistics")
            .with_context(|| format!("testpmd printed no statistics; its log is:\n{log}"))?
            .1;
        Ok(Drops::from([
            ("receive_dropped".to_owned(), number(all, "RX-dropped:")?),
            ("transmit_dropped".to_owned(), number(all, "TX-dropped:")?),
        ]))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        for port in &self.ports {
            command::detach_xdp(&self.namespace, port);
        }
    }
}

/// The number after `name` in the statistics.
fn number(statistics: &str, name: &str) -> Result<u64> {
    statistics
        .split_once(name)
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no `{name}` in the statistics of testpmd:\n{statistics}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_names() {
        let text = "  RX-packets: 10   RX-dropped: 7    RX-total: 17\n  TX-packets: 9  TX-dropped: 1  TX-total: 10\n";
        assert_eq!(number(text, "RX-dropped:").unwrap(), 7);
        assert_eq!(number(text, "TX-dropped:").unwrap(), 1);
        assert!(number(text, "missed:").is_err());
    }
}
