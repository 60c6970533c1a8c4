//! Starts contenders: in the job's namespace, on the job's CPU, with their files in a folder that
//! is removed afterwards.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};
use relay_tests::{netns::Namespace, process::Process};

use crate::job::Job;

/// How long a contender may take until it forwards. DPDK takes seconds, and so do 10,000 rules.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for the end of a program that gives up: it first writes the reason.
const GRACE: Duration = Duration::from_millis(200);

/// How long it may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

static NEXT_FOLDER: AtomicU32 = AtomicU32::new(0);

/// A set of one CPU.
pub fn only(cpu: u32) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(cpu as usize)
        .with_context(|| format!("there is no CPU {cpu}"))?;
    Ok(set)
}

/// Gives a process, 0 for the calling one, the highest priority that is not real-time: the CPU is
/// the contender's, and most other work there can wait. (A real-time priority would keep the
/// kernel's own threads from the CPU.)
pub fn undisturb(process: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, process, -20) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// A command in the job's namespace whose threads are all pinned to the job's CPU, with a high
/// priority.
pub fn pinned(job: &Job, program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = job.namespace.command(program);
    let cpus = only(job.cpu)?;
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            sched_setaffinity(Pid::from_raw(0), &cpus).map_err(io::Error::from)?;
            undisturb(0)
        });
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// One of the benchmark's own programs, in the folder of the running one.
pub fn own(name: &str) -> Result<PathBuf> {
    let path = env::current_exe()
        .context("looking up the running program")?
        .with_file_name(name);
    if !path.is_file() {
        bail!(
            "there is no {}; build it: cargo build --release -p relay-bench",
            path.display()
        );
    }
    Ok(path)
}

/// Waits until the log of a program that starts contains `text`.
pub fn wait_for_log(process: &mut Process, text: &str) -> Result<()> {
    if process.wait_for_log(text, START_TIMEOUT) {
        return Ok(());
    }
    bail!("{}", not_ready(process, text)?)
}

/// The message about a program that did not get ready or did not end.
pub fn not_ready(process: &mut Process, what: &str) -> Result<String> {
    let ended = process.wait(GRACE)?;
    let state = ended.map_or("it still runs".to_owned(), |s| format!("it ended with {s}"));
    Ok(format!(
        "waited in vain for `{what}`; {state}, and its log is:\n{}",
        process.log()
    ))
}

/// Sends SIGTERM and waits for the end.
pub fn terminate(process: &mut Process) -> Result<()> {
    process.signal(Signal::SIGTERM)?;
    match process.wait(STOP_TIMEOUT)? {
        Some(_) => Ok(()),
        None => Err(anyhow!(
            "it ignored SIGTERM for {STOP_TIMEOUT:?}; its log is:\n{}",
            process.log()
        )),
    }
}

/// Detaches an XDP program that a killed process left behind: what libxdp attaches stays attached.
pub fn detach_xdp(namespace: &Namespace, interface: &str) {
    // Errors are ignored: usually there is no program, or the namespace is already gone.
    let _ = namespace.ip(&format!("link set dev {interface} xdp off"));
}

/// A folder of one contender, removed on drop.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes an empty one.
    pub fn new() -> Result<Self> {
        let n = NEXT_FOLDER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("relay-bench-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    /// The name of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Writes the job for one of the benchmark's own programs.
    pub fn write_work(&self, job: &Job) -> Result<PathBuf> {
        let text = serde_json::to_string(&job.work()).context("writing the work as JSON")?;
        self.write("work.json", &text)
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
