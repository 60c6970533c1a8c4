//! Receiving in a kernel thread (threaded NAPI): the frames of a wire arrive in a softirq on the
//! CPU that sends them, and what receiving costs shows only on a CPU of its own.

use std::{collections::BTreeSet, fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use nix::{sched::sched_setaffinity, unistd::Pid};
use relay_tests::netns::Namespace;

use super::command;
use crate::job::Job;

/// The kernel thread that receives on the input instead of a softirq; a softirq again on drop.
#[derive(Debug)]
pub struct NapiThread {
    namespace: Arc<Namespace>,
    interface: String,
    pid: u32,
}

impl NapiThread {
    /// Makes the kernel start one, and pins it to the job's CPU.
    ///
    /// # Errors
    ///
    /// The kernel does not start one, or does not let it be pinned.
    pub fn start(job: &Job) -> Result<Self> {
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

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid
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
