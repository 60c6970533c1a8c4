//! The kernel's multicast routing as a contender. smcroute only writes the routes; the kernel
//! forwards in the softirq that receives.
//!
//! It rewrites only the TTL and the MAC addresses, so it can copy to several interfaces, but not to
//! several groups.

use std::{collections::BTreeSet, fmt::Write as _, fs, net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use nix::{sched::sched_setaffinity, unistd::Pid};
use relay_tests::{background::eventually, netns::Namespace, process::Process};

use super::{active::Active, command};
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
        self.thread.iter().map(|thread| thread.pid).collect()
    }

    fn stop(mut self: Box<Self>) -> Result<Drops> {
        command::terminate(&mut self.process)?;
        Ok(Drops::new())
    }
}

/// The kernel thread that receives on the input instead of a softirq; a softirq again on drop.
struct NapiThread {
    namespace: Arc<Namespace>,
    interface: String,
    pid: u32,
}

impl NapiThread {
    /// Makes the kernel start one, and pins it to the job's CPU.
    fn start(job: &Job) -> Result<Self> {
        let interface = job.input.as_str();
        // A veth without an XDP program receives by NAPI only with GRO.
        job.namespace
            .tool("ethtool", &["-K", interface, "gro", "on"])?;
        let before = napi_threads(interface)?;
        set_threaded(&job.namespace, interface, true)?;
        // Constructed first, so that a failure below switches it off again.
        let mut thread = Self {
            namespace: Arc::clone(&job.namespace),
            interface: interface.to_owned(),
            pid: 0,
        };
        let new: Vec<u32> = napi_threads(interface)?
            .difference(&before)
            .copied()
            .collect();
        ensure!(
            new.len() == 1,
            "expected one new kernel thread `napi/{interface}-*`, found {}",
            new.len()
        );
        for pid in new {
            let raw = i32::try_from(pid).context("process id")?;
            sched_setaffinity(Pid::from_raw(raw), &command::only(job.cpu)?)
                .with_context(|| format!("pinning the kernel thread {pid}"))?;
            command::undisturb(pid)
                .with_context(|| format!("the priority of kernel thread {pid}"))?;
            thread.pid = pid;
        }
        Ok(thread)
    }
}

impl Drop for NapiThread {
    fn drop(&mut self) {
        // Errors are ignored: the namespace is removed with the setting.
        let _ = set_threaded(&self.namespace, &self.interface, false);
    }
}

/// /sys shows the interfaces of the namespace that it was mounted in; `ip netns exec` mounts it
/// anew.
fn set_threaded(namespace: &Namespace, interface: &str, on: bool) -> Result<()> {
    let write = format!(
        "echo {} > /sys/class/net/{interface}/threaded",
        u8::from(on)
    );
    namespace
        .tool(
            "ip",
            &["netns", "exec", namespace.name(), "sh", "-c", &write],
        )
        .map(drop)
}

/// The kernel threads that receive on interfaces of this name, in all namespaces.
fn napi_threads(interface: &str) -> Result<BTreeSet<u32>> {
    let prefix = format!("napi/{interface}-");
    let processes = fs::read_dir("/proc").context("listing the processes")?;
    Ok(processes
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            name.starts_with(&prefix).then_some(pid)
        })
        .collect())
}
