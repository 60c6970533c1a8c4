//! The kernel's multicast routing as a contender. smcroute only writes the routes; the kernel
//! forwards in the softirq that receives.
//!
//! It rewrites only the TTL and the MAC addresses, so it can copy to several interfaces, but not to
//! several groups.

use std::{collections::BTreeSet, fmt::Write as _, fs, net::Ipv4Addr};

use anyhow::{Context, Result, bail};
use relay_tests::{background::eventually, process::Process};

use super::{active::Active, command, napi_thread::NapiThread};
use crate::{drops::Drops, job::Job, peer};

pub(super) const SMCROUTED: &str = "smcrouted";

/// Interfaces that the kernel routes multicast between, at most (`MAXVIFS`, linux/mroute.h), input
/// included.
const MAX_INTERFACES: usize = 32;

/// The host part of the address at the far end of every wire, where the feeds come from.
const SOURCE_HOST: u8 = 2;

struct Routing {
    process: Process,
    thread: Option<NapiThread>,
    _scratch: command::Scratch,
}

/// One copy per interface.
pub(super) fn can(job: &Job) -> Result<(), String> {
    for flow in &job.flows {
        let interfaces: BTreeSet<_> = flow.outputs.iter().map(|o| &o.interface).collect();
        if interfaces.len() != flow.outputs.len() {
            return Err("the kernel sends one copy an interface, and rewrites no group".into());
        }
    }
    if job.output_interfaces().len() >= MAX_INTERFACES {
        return Err(format!(
            "the kernel routes multicast between {MAX_INTERFACES} interfaces"
        ));
    }
    Ok(())
}

pub(super) fn start(job: &Job, threaded: bool) -> Result<Box<dyn Active>> {
    // With the default smcroute, which has one socket for all joins, could join 20 groups only.
    job.namespace
        .sysctl("ipv4/igmp_max_memberships", "100000")?;
    let scratch = command::Scratch::new()?;
    let mut command = command::pinned(job, SMCROUTED)?;
    command
        .arg("-n")
        .arg("-f")
        .arg(scratch.write("smcroute.conf", &configuration(job)?)?)
        .arg("-P")
        .arg(scratch.path("pid"))
        .arg("-u")
        .arg(scratch.path("socket"));
    let mut process = Process::spawn_logging(command)?;
    let routes = || job.namespace.run(count_routes).unwrap_or(0);
    if eventually(command::START_TIMEOUT, || routes() >= job.flows.len()).is_none() {
        let what = format!("{} multicast routes", job.flows.len());
        bail!("{}", command::not_ready(&mut process, &what)?);
    }
    let thread = threaded.then(|| NapiThread::start(job)).transpose()?;
    Ok(Box::new(Routing {
        process,
        thread,
        _scratch: scratch,
    }))
}

/// One route per flow, from the one source there is: the daemon would make a route from any source
/// only after the first frame has arrived, and frames would be lost until then.
fn configuration(job: &Job) -> Result<String> {
    let [a, b, c, _] = job.namespace.run(|| peer::address_of(&job.input))?.octets();
    let source = Ipv4Addr::new(a, b, c, SOURCE_HOST);
    let mut text = String::new();
    for flow in &job.flows {
        let (input, group) = (&job.input, flow.group);
        let outputs: Vec<_> = flow.outputs.iter().map(|o| o.interface.as_str()).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "mgroup from {input} group {group}");
        let _ = writeln!(
            text,
            "mroute from {input} source {source} group {group} to {}",
            outputs.join(" ")
        );
    }
    Ok(text)
}

/// Routes in the calling thread's namespace.
fn count_routes() -> Result<usize> {
    let path = "/proc/thread-self/net/ip_mr_cache";
    let table = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(table.lines().skip(1).count())
}

impl Active for Routing {
    fn pids(&self) -> Vec<u32> {
        self.thread.iter().map(NapiThread::id).collect()
    }

    fn stop(mut self: Box<Self>) -> Result<Drops> {
        command::terminate(&mut self.process)?;
        Ok(Drops::new())
    }
}
