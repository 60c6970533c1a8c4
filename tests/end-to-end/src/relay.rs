//! The relay as users run it: the binary, a rule file, signals, and what it prints.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;

use crate::backend::Backend;
use crate::background::eventually;
use crate::capture::target_directory;
use crate::netns::Namespace;
use crate::process::Process;
use crate::report::Report;
use crate::rules::{Rule, to_toml};

/// How long a start may take: loading and attaching on a machine that is busy with other tests.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an orderly end may take. The promise is a second; this is for a machine that is busy
/// with other tests.
pub const STOP_IN_TIME: Duration = Duration::from_secs(4);

/// How long a relay may take to end after a signal before the test gives up.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

static NEXT_FILE: AtomicU32 = AtomicU32::new(0);

/// The relay binary: `RELAY_BIN`, else the one built beside the running program.
pub fn binary() -> Result<PathBuf> {
    named_or_built("RELAY_BIN", "relay")
}

/// The relay that overwrites every chunk and header slot that becomes free, and whose workers panic
/// at a datagram that asks for it, built with the feature `poison-chunks`: `RELAY_POISONED_BIN`,
/// else the one built beside the running program.
pub fn poisoned() -> Result<PathBuf> {
    named_or_built("RELAY_POISONED_BIN", "relay-poisoned")
}

fn named_or_built(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        anyhow::ensure!(
            path.is_file(),
            "{variable} names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    let target = target_directory();
    let candidates = ["release", "debug"].map(|profile| target.join(profile).join(name));
    let built = |path: &&PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    candidates
        .iter()
        .filter(|path| built(path).is_some())
        .max_by_key(built)
        .cloned()
        .ok_or_else(|| {
            anyhow!(
                "no {name} in {}; run the tests by `cargo xtask test`",
                target.display()
            )
        })
}

/// A rule file that exists for as long as this value.
#[derive(Debug)]
pub struct RuleFile {
    path: PathBuf,
}

impl RuleFile {
    /// Writes `text` to a new file.
    pub fn new(text: &str) -> Result<Self> {
        let n = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("relay-test-{}-{n}.toml", std::process::id()));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path })
    }

    /// Writes `rules` to a new file.
    pub fn of(rules: &[Rule]) -> Result<Self> {
        Self::with(rules, "")
    }

    /// Writes `rules` and more `tables` to a new file.
    pub fn with(rules: &[Rule], tables: &str) -> Result<Self> {
        Self::new(&(to_toml(rules) + tables))
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RuleFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// How a command of the relay ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

impl Finished {
    /// Fails unless it reports a mistake at `line` of `file` with every one of `words` in the
    /// message, and a remedy in the next line.
    #[track_caller]
    pub fn assert_mistake(&self, file: &RuleFile, line: usize, words: &[&str]) {
        let text = format!("{}{}", self.stdout, self.stderr);
        let place = format!("{}:{line}:", file.path().display());
        let mut lines = text.lines();
        let message =
            lines.find(|l| l.contains(&place) && words.iter().all(|word| l.contains(word)));
        assert!(
            message.is_some(),
            "a message with `{place}` and {words:?} in:\n{text}"
        );
        let remedy = lines.next().unwrap_or_default();
        assert!(
            remedy.starts_with("    ") && remedy.trim().len() > 10,
            "a remedy after {message:?}:\n{text}"
        );
    }
}

/// Runs `relay ARGUMENTS...` in a host to its end, at most 20 s.
pub fn relay(namespace: &Namespace, arguments: &[&str]) -> Result<Finished> {
    let mut command = namespace.command(binary()?);
    command.args(arguments);
    finish(command)
}

/// Runs a command to its end, at most 20 s.
pub fn finish(mut command: Command) -> Result<Finished> {
    command.stdin(Stdio::null());
    let mut running = Process::spawn(command)?;
    let Some(status) = running.wait(START_TIMEOUT)? else {
        bail!(
            "the command was still running after {START_TIMEOUT:?}: {}",
            running.log()
        );
    };
    let stdout = running.stdout();
    Ok(Finished {
        code: status.code(),
        stdout,
        stderr: running.log(),
    })
}

/// The arguments of `relay` in front of the rule file that make it run on `backend`.
pub fn run_arguments(backend: Backend) -> [&'static str; 5] {
    ["run", "--json", "--progress", "--backend", backend.name()]
}

/// `relay run` with the arguments of [`run_arguments`] and `file`, in a host, without standard
/// input.
pub fn run_command(namespace: &Namespace, backend: Backend, file: &RuleFile) -> Result<Command> {
    let mut command = namespace.command(binary()?);
    command
        .args(run_arguments(backend))
        .arg(file.path())
        .stdin(Stdio::null());
    Ok(command)
}

/// Ends a relay, which was started as a plain process, by SIGTERM, and returns its report. Fails
/// unless the relay ends without an error within [`STOP_IN_TIME`].
pub fn stop_in_time(mut relay: Process) -> Result<Report> {
    let started = Instant::now();
    relay.signal(Signal::SIGTERM)?;
    let status = relay.wait(Duration::from_secs(10))?;
    let took = started.elapsed();
    let status = status.context("SIGTERM did not end the relay")?;
    anyhow::ensure!(status.success(), "the relay ended with {status}");
    anyhow::ensure!(took < STOP_IN_TIME, "the relay took {took:?} to end");
    let stdout = relay.stdout();
    serde_json::from_str(&stdout).with_context(|| format!("reading the report `{stdout}`"))
}

/// How a relay ended that a signal stopped.
#[derive(Debug)]
pub struct Stopped {
    /// How it ended.
    pub status: ExitStatus,
    /// From the signal to the end of the process.
    pub took: Duration,
    /// Its final report.
    pub report: Report,
    /// What it logged.
    pub log: String,
}

/// A relay that SIGSTOP has stopped; goes on when this is dropped.
#[derive(Debug)]
pub struct Paused<'a>(&'a RelayProcess);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let _ = self.0.running.signal(Signal::SIGCONT);
    }
}

/// A relay that forwards; killed on drop.
#[derive(Debug)]
pub struct RelayProcess {
    running: Process,
    /// Its control socket.
    pub(crate) control: PathBuf,
    /// What every interface must report.
    backend: Option<Backend>,
    _file: Option<RuleFile>,
}

impl RelayProcess {
    /// Runs the relay with `rules` in `namespace` on `backend` and waits until it forwards.
    pub fn start(namespace: &Namespace, backend: Backend, rules: &[Rule]) -> Result<Self> {
        Self::start_file(namespace, backend, RuleFile::of(rules)?)
    }

    /// The same with more `tables` in the rule file.
    pub fn start_with(
        namespace: &Namespace,
        backend: Backend,
        rules: &[Rule],
        tables: &str,
    ) -> Result<Self> {
        Self::start_file(namespace, backend, RuleFile::with(rules, tables)?)
    }

    /// The same with any file.
    pub fn start_file(namespace: &Namespace, backend: Backend, file: RuleFile) -> Result<Self> {
        let command = run_command(namespace, backend, &file)?;
        let mut relay = Self::start_command(command)?.expecting(backend);
        relay._file = Some(file);
        Ok(relay)
    }

    /// The same on XDP with a relay whose ring outputs share payloads, though it is in copy mode.
    pub fn start_sharing(namespace: &Namespace, file: RuleFile) -> Result<Self> {
        let variables = ["RELAY_SHARE_PAYLOADS"];
        Self::start_poisoned(namespace, Backend::Xdp, file, &variables)
    }

    /// The same on `backend` with the relay that [`poisoned`] finds, and these variables set.
    pub fn start_poisoned(
        namespace: &Namespace,
        backend: Backend,
        file: RuleFile,
        variables: &[&str],
    ) -> Result<Self> {
        let mut command = namespace.command(poisoned()?);
        command
            .args(run_arguments(backend))
            .arg(file.path())
            .envs(variables.iter().map(|variable| (variable, "1")));
        let mut relay = Self::start_command(command)?.expecting(backend);
        relay._file = Some(file);
        Ok(relay)
    }

    /// The same, and the relay chooses the backend by itself.
    pub fn start_unforced(namespace: &Namespace, file: RuleFile) -> Result<Self> {
        let mut command = namespace.command(binary()?);
        command
            .args(["run", "--json", "--progress"])
            .arg(file.path());
        let mut relay = Self::start_command(command)?;
        relay._file = Some(file);
        Ok(relay)
    }

    /// Runs `command`, which ends in `relay run --json FILE`, and waits until it forwards.
    pub fn start_command(mut command: Command) -> Result<Self> {
        let n = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let control = env::temp_dir().join(format!("relay-test-{}-{n}.sock", std::process::id()));
        command.arg("--control").arg(&control);
        Self::start_ready(command, control)
    }

    /// The same with a relay of a commit that may be older than the control socket.
    pub fn start_of_any_age(binary: &Path, command: Command) -> Result<Self> {
        let help = Command::new(binary).args(["run", "--help"]).output();
        let help = help.with_context(|| format!("asking {} for its help", binary.display()))?;
        if String::from_utf8_lossy(&help.stdout).contains("--control") {
            return Self::start_command(command);
        }
        Self::start_ready(command, PathBuf::new())
    }

    fn start_ready(mut command: Command, control: PathBuf) -> Result<Self> {
        command.stdin(Stdio::null());
        let mut running = Process::spawn(command)?;
        if !running.wait_for_log("ready:", START_TIMEOUT) {
            let status = running.wait(Duration::ZERO)?;
            let ended = status.map_or("is still running".to_owned(), |s| format!("ended with {s}"));
            bail!(
                "the relay was not ready and {ended}; its log:\n{}",
                running.log()
            );
        }
        Ok(Self {
            running,
            control,
            backend: None,
            _file: None,
        })
    }

    /// From now on [`Self::stop`] fails unless the report names `backend` at every interface.
    #[must_use]
    pub fn expecting(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.running.log()
    }

    /// Waits until the log contains `text`; false if it does not in time, or the relay ends before.
    pub fn wait_for_log(&self, text: &str) -> bool {
        self.running.wait_for_log(text, START_TIMEOUT)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// Stops all of its threads by SIGSTOP until the returned value is dropped.
    pub fn pause(&self) -> Result<Paused<'_>> {
        self.running.signal(Signal::SIGSTOP)?;
        let stopped = eventually(STOP_TIMEOUT, || {
            let states = self.of_threads("State:");
            states.is_ok_and(|states| states.iter().all(|state| state.starts_with('T')))
        });
        let paused = Paused(self);
        anyhow::ensure!(stopped.is_some(), "the relay does not stop");
        Ok(paused)
    }

    /// How often its threads have gone to sleep since they started, in all.
    pub fn times_asleep(&self) -> Result<u64> {
        let counts = self.of_threads("voluntary_ctxt_switches:")?;
        let mut sum = 0;
        for count in counts {
            let count: u64 = count.parse().with_context(|| format!("reading {count}"))?;
            sum += count;
        }
        Ok(sum)
    }

    /// For how long its workers have run on a CPU so far, all together.
    pub fn cpu_time_of_workers(&self) -> Result<Duration> {
        let (names, ids) = (self.of_threads("Name:")?, self.of_threads("Pid:")?);
        let workers = names.iter().zip(ids);
        let workers = workers.filter(|(name, _)| name.starts_with("relay-worker"));
        let mut sum = Duration::ZERO;
        for (_, id) in workers {
            let path = format!("/proc/{}/task/{id}/schedstat", self.id());
            let read = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            let first = read.split_whitespace().next().unwrap_or_default();
            let nanoseconds = first.parse().with_context(|| format!("reading {read}"))?;
            sum += Duration::from_nanos(nanoseconds);
        }
        Ok(sum)
    }

    /// The value of `key` in `/proc/PID/task/TID/status` for each of its threads.
    pub fn of_threads(&self, key: &str) -> Result<Vec<String>> {
        let mut values = Vec::new();
        let tasks = format!("/proc/{}/task", self.id());
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let path = task?.path().join("status");
            let status =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(key));
            let value = value.with_context(|| format!("no {key} in {}", path.display()))?;
            values.push(value.trim().to_owned());
        }
        Ok(values)
    }

    /// The id of its thread `name`; waits until the thread has given itself that name.
    pub fn thread(&self, name: &str) -> Result<u32> {
        let mut found = None;
        eventually(START_TIMEOUT, || {
            let (Ok(names), Ok(ids)) = (self.of_threads("Name:"), self.of_threads("Pid:")) else {
                return false;
            };
            let mut threads = names.into_iter().zip(ids);
            found = threads.find(|(its, _)| its == name);
            found.is_some()
        });
        let (_, id) =
            found.with_context(|| format!("no thread {name}; its log:\n{}", self.log()))?;
        id.parse().with_context(|| format!("reading {id}"))
    }

    /// Sends SIGTERM and waits for the report.
    pub fn stop(self) -> Result<Stopped> {
        self.stop_by(Signal::SIGTERM)
    }

    /// Sends `signal` and waits for the report.
    pub fn stop_by(self, signal: Signal) -> Result<Stopped> {
        self.running.signal(signal)?;
        self.await_end(signal.as_str())
    }

    /// Waits for the end that `asked` has asked for, and for the report.
    fn await_end(mut self, asked: &str) -> Result<Stopped> {
        let start = Instant::now();
        let Some(status) = self.running.wait(STOP_TIMEOUT)? else {
            bail!(
                "the relay ignored {asked} for {STOP_TIMEOUT:?}; its log:\n{}",
                self.log()
            );
        };
        let took = start.elapsed();
        let (stdout, log) = (self.running.stdout(), self.running.log());
        let report: Report = serde_json::from_str(&stdout).with_context(|| {
            format!(
                "reading the report of a relay that ended with {status}: `{stdout}`; its log:\n\
                 {log}"
            )
        })?;
        if let Some(backend) = self.backend {
            report.ensure_all_on(backend)?;
        }
        Ok(Stopped {
            status,
            took,
            report,
            log,
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.signal(signal)
    }

    /// Waits until it ends by itself, and reads its report.
    pub fn ended(self) -> Result<Stopped> {
        self.await_end("a command")
    }

    /// Kills it as `kill -9` does and waits until the process is gone.
    pub fn kill(mut self) -> Result<()> {
        self.running.signal(Signal::SIGKILL)?;
        let ended = self.running.wait(STOP_TIMEOUT)?;
        anyhow::ensure!(ended.is_some(), "the killed relay is still there");
        Ok(())
    }
}
