//! The relay as users run it: the binary, a rule file, signals, and what it prints.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::background::eventually;
use crate::capture::target_directory;
use crate::netns::Namespace;
use crate::report::Report;
use crate::rules::{Rule, to_toml};

/// How long a start may take: loading and attaching on a machine that is busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The slack over the promised second before a relay that was told to stop is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

static NEXT_FILE: AtomicU32 = AtomicU32::new(0);

/// The relay binary: `RELAY_BIN`, else the one built beside the running program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("RELAY_BIN") {
        let path = PathBuf::from(path);
        anyhow::ensure!(
            path.is_file(),
            "RELAY_BIN names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    let target = target_directory();
    let candidates = [target.join("release/relay"), target.join("debug/relay")];
    let built = |path: &&PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    candidates
        .iter()
        .filter(|path| built(path).is_some())
        .max_by_key(built)
        .cloned()
        .ok_or_else(|| {
            anyhow!(
                "no relay binary in {}; run the tests by `cargo xtask test`",
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
        Self::new(&to_toml(rules))
    }

    /// Where it is.
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

/// Runs `relay ARGUMENTS...` in a host to its end, at most 20 s.
pub fn relay(namespace: &Namespace, arguments: &[&str]) -> Result<Finished> {
    let mut command = namespace.command(binary()?);
    command.args(arguments);
    finish(command)
}

/// Runs a command to its end, at most 20 s.
pub fn finish(mut command: Command) -> Result<Finished> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running::spawn(command)?;
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

#[derive(Debug, Default)]
struct Log {
    text: String,
    ended: bool,
}

/// A child whose output is collected; killed on drop.
#[derive(Debug)]
struct Running {
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn spawn(mut command: Command) -> Result<Self> {
        // A Ctrl-C at a terminal must not stop the relay before its sender.
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let stderr = child.stderr.take().map(|pipe| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    lock(&log.0).text += &String::from_utf8_lossy(&line);
                    log.1.notify_all();
                    line.clear();
                }
                lock(&log.0).ended = true;
                log.1.notify_all();
            })
        });
        let stdout = child.stdout.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        Ok(Self {
            child,
            log,
            stdout,
            stderr,
        })
    }

    fn log(&self) -> String {
        lock(&self.log.0).text.clone()
    }

    /// Waits until the log holds `text`; false if it ends or time runs out before.
    fn wait_for_log(&self, text: &str, timeout: Duration) -> bool {
        let waiting = |log: &mut Log| !log.ended && !log.text.contains(text);
        let waited = self
            .log
            .1
            .wait_timeout_while(lock(&self.log.0), timeout, waiting);
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .text
            .contains(text)
    }

    /// Waits for the end of the process and of its log.
    fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let mut result = Ok(None);
        eventually(timeout, || {
            result = self.child.try_wait();
            !matches!(result, Ok(None))
        });
        let status = result.context("waiting for the process")?;
        if status.is_some()
            && let Some(thread) = self.stderr.take()
        {
            let _ = thread.join();
        }
        Ok(status)
    }

    fn stdout(&mut self) -> String {
        self.stdout
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(|_| anyhow!("process id"))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("sending {signal} to {pid}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("log of the relay:\n{}", self.log());
        }
    }
}

/// How a relay that was told to stop has ended.
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

/// A relay that forwards; killed on drop.
#[derive(Debug)]
pub struct RelayProcess {
    running: Running,
    _file: Option<RuleFile>,
}

impl RelayProcess {
    /// Runs the relay with `rules` in `namespace` and waits until it forwards.
    pub fn start(namespace: &Namespace, rules: &[Rule]) -> Result<Self> {
        Self::start_file(namespace, RuleFile::of(rules)?)
    }

    /// The same with any file.
    pub fn start_file(namespace: &Namespace, file: RuleFile) -> Result<Self> {
        let mut command = namespace.command(binary()?);
        command.args(["run", "--json"]).arg(file.path());
        let mut relay = Self::start_command(command)?;
        relay._file = Some(file);
        Ok(relay)
    }

    /// Runs `command`, which ends in `relay run --json FILE`, and waits until it forwards.
    pub fn start_command(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Running::spawn(command)?;
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
            _file: None,
        })
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.running.log()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.running.child.id()
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.running.child.try_wait(), Ok(None))
    }

    /// Sends SIGTERM and waits for the report.
    pub fn stop(self) -> Result<Stopped> {
        self.stop_by(Signal::SIGTERM)
    }

    /// Sends `signal` and waits for the report.
    pub fn stop_by(mut self, signal: Signal) -> Result<Stopped> {
        let start = Instant::now();
        self.running.signal(signal)?;
        let Some(status) = self.running.wait(STOP_TIMEOUT)? else {
            bail!(
                "the relay ignored {signal} for {STOP_TIMEOUT:?}; its log:\n{}",
                self.log()
            );
        };
        let took = start.elapsed();
        let (stdout, log) = (self.running.stdout(), self.running.log());
        let report = serde_json::from_str(&stdout).with_context(|| {
            format!("reading the report of a relay that ended with {status}: `{stdout}`; its log:\n{log}")
        })?;
        Ok(Stopped {
            status,
            took,
            report,
            log,
        })
    }

    /// Kills it as `kill -9` does and waits until the process is gone.
    pub fn kill(mut self) -> Result<()> {
        self.running.signal(Signal::SIGKILL)?;
        self.running
            .child
            .wait()
            .context("waiting for the killed relay")?;
        Ok(())
    }
}
