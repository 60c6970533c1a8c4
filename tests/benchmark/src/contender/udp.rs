//! Contenders that receive by UDP sockets: the benchmark's own two, and socat.
//!
//! The kernel counts what their sockets drop in the column `drops` of `/proc/net/udp`, as long as
//! the sockets are open, so that is read before the contender is stopped.

use std::{collections::BTreeSet, fs, sync::Arc};

use anyhow::{Context, Result};
use relay_tests::{netns::Namespace, process::Process};

use super::{active::Active, command};
use crate::{
    drops::Drops,
    job::{Flow, Job},
    peer,
};

pub(super) const SOCAT: &str = "socat";

/// `SO_RCVBUFFORCE` (asm-generic/socket.h), for socat, which has no name for it. It has to be set
/// by `setsockopt-listen`: `setsockopt-int` is for sockets that connect.
const SO_RCVBUFFORCE: u32 = 33;

struct Udp {
    process: Process,
    namespace: Arc<Namespace>,
    ports: BTreeSet<u16>,
    /// Whether it answers with a report of its own.
    reports: bool,
    _scratch: Option<command::Scratch>,
}

/// Starts `two-threads` or `sendmmsg-fanout`.
pub(super) fn start_own(job: &Job, name: &str) -> Result<Box<dyn Active>> {
    let scratch = command::Scratch::new()?;
    let mut command = command::pinned(job, command::own(name)?)?;
    command.arg(scratch.write_work(job)?);
    let process = Process::spawn(command)?;
    start(job, process, peer::READY, Some(scratch))
}

/// socat copies from one socket to one other.
pub(super) fn socat_can(job: &Job) -> Result<(), String> {
    match &job.flows[..] {
        [flow] if flow.outputs.len() == 1 => Ok(()),
        _ => Err("socat copies one flow to one output".into()),
    }
}

pub(super) fn start_socat(job: &Job) -> Result<Box<dyn Active>> {
    let (flow, output) = only_copy(job)?;
    let address = job.namespace.run(|| peer::address_of(&output.interface))?;
    let mut command = command::pinned(job, SOCAT)?;
    command.args(["-d", "-d", "-u", "-b", "2048"]);
    command.arg(format!(
        "UDP4-RECV:{port},bind={group},reuseaddr,ip-add-membership={group}:{input},\
         setsockopt-listen={level}:{SO_RCVBUFFORCE}:i{buffer}",
        port = flow.port,
        group = flow.group,
        input = job.input,
        level = libc::SOL_SOCKET,
        buffer = peer::BUFFER,
    ));
    command.arg(format!(
        "UDP4-DATAGRAM:{group}:{port},ip-multicast-if={address},ip-multicast-ttl=64,\
         ip-multicast-loop=0",
        group = output.group,
        port = output.port,
    ));
    let process = Process::spawn_logging(command)?;
    start(job, process, "starting data transfer loop", None)
}

fn only_copy(job: &Job) -> Result<(&Flow, &crate::job::Output)> {
    let flow = job.flows.first().context("a job without flows")?;
    let output = flow.outputs.first().context("a flow without outputs")?;
    Ok((flow, output))
}

fn start(
    job: &Job,
    mut process: Process,
    ready: &str,
    scratch: Option<command::Scratch>,
) -> Result<Box<dyn Active>> {
    command::wait_for_log(&mut process, ready)?;
    Ok(Box::new(Udp {
        process,
        namespace: Arc::clone(&job.namespace),
        ports: job.flows.iter().map(|flow| flow.port).collect(),
        reports: scratch.is_some(),
        _scratch: scratch,
    }))
}

impl Active for Udp {
    fn pids(&self) -> Vec<u32> {
        vec![self.process.id()]
    }

    fn stop(mut self: Box<Self>) -> Result<Drops> {
        let full = self.namespace.run(|| {
            let path = "/proc/thread-self/net/udp";
            let table = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
            Ok(drops_in(&table, &self.ports))
        })?;
        command::terminate(&mut self.process)?;
        let mut drops = Drops::from([("receive_buffer_full".to_owned(), full)]);
        if self.reports {
            let answer = self.process.stdout();
            let own: Drops = serde_json::from_str(&answer).with_context(|| {
                format!(
                    "reading the report `{answer}`; the log is:\n{}",
                    self.process.log()
                )
            })?;
            drops.extend(own);
        }
        Ok(drops)
    }
}

/// The sum of the last column over the sockets that are bound to one of `ports`.
fn drops_in(table: &str, ports: &BTreeSet<u16>) -> u64 {
    let of_line = |line: &str| -> Option<u64> {
        let mut columns = line.split_whitespace();
        let (_, port) = columns.nth(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let drops = columns.last()?.parse().ok()?;
        ports.contains(&port).then_some(drops)
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_summed_over_the_sockets_of_the_ports() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             
   21: 010101EF:1389 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 00000000eba0b28d 17        
   21: 020101EF:1389 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2 2 00000000eba0b28e 4         
   22: 00000000:138A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 3 2 00000000eba0b28f 99        
";
        assert_eq!(drops_in(table, &BTreeSet::from([5001])), 21);
        assert_eq!(drops_in(table, &BTreeSet::from([5002])), 99);
        assert_eq!(drops_in(table, &BTreeSet::from([1])), 0);
    }
}
