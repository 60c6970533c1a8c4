//! Programs that a test runs: the log as it grows, and a certain end.
//!
//! Whatever happens to the test, the program does not outlive its [`Process`].

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::background::eventually;
use crate::sys;

#[derive(Debug, Default)]
struct Log {
    text: String,
    ended: bool,
}

/// A child whose output is collected; killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts a program whose answer is its standard output and whose log is its standard error.
    pub fn spawn(mut command: Command) -> Result<Self> {
        Self::keep_from_terminal(&mut command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Self::start(&mut command)?;
        process.stderr = process
            .child
            .stderr
            .take()
            .map(|pipe| process.collect(pipe));
        process.collect_stdout();
        Ok(process)
    }

    /// Starts a program whose answer is its standard output, and whose log goes to `stderr`.
    pub fn spawn_with_stderr(mut command: Command, stderr: impl Into<Stdio>) -> Result<Self> {
        Self::keep_from_terminal(&mut command);
        command.stdout(Stdio::piped()).stderr(stderr);
        let mut process = Self::start(&mut command)?;
        process.collect_stdout();
        Ok(process)
    }

    /// Starts a program whose log is its standard error, and whose answer goes to `stdout`.
    pub fn spawn_with_stdout(mut command: Command, stdout: impl Into<Stdio>) -> Result<Self> {
        Self::keep_from_terminal(&mut command);
        command.stdout(stdout).stderr(Stdio::piped());
        let mut process = Self::start(&mut command)?;
        let stderr = process.child.stderr.take();
        process.stderr = stderr.map(|pipe| process.collect(pipe));
        Ok(process)
    }

    /// As [`Self::spawn_with_stderr`], with `terminal` as its standard error and as the controlling
    /// terminal of its session.
    pub fn spawn_on_terminal(mut command: Command, terminal: OwnedFd) -> Result<Self> {
        sys::lead_session_of_stderr(&mut command);
        command.stdout(Stdio::piped()).stderr(terminal);
        let mut process = Self::start(&mut command)?;
        process.collect_stdout();
        Ok(process)
    }

    /// Starts a program whose log is everything that it prints.
    pub fn spawn_logging(mut command: Command) -> Result<Self> {
        Self::keep_from_terminal(&mut command);
        let (reader, writer) = io::pipe().context("creating a pipe")?;
        command.stdout(writer.try_clone().context("copying a pipe")?);
        command.stderr(writer);
        let mut process = Self::start(&mut command)?;
        process.stderr = Some(process.collect(reader));
        Ok(process)
    }

    /// Ctrl-C at a terminal must not end the program before the test that started it.
    fn keep_from_terminal(command: &mut Command) {
        command.process_group(0);
    }

    fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self {
            child,
            log: Arc::default(),
            stdout: None,
            stderr: None,
        })
    }

    /// A thread that keeps what comes out of the standard output.
    fn collect_stdout(&mut self) {
        self.stdout = self.child.stdout.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
    }

    /// A thread that appends what comes out of `pipe` to the log.
    fn collect(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = Arc::clone(&self.log);
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
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        lock(&self.log.0).text.clone()
    }

    /// Waits until the log contains `text`; false if the log ends or time runs out before.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) -> bool {
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
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
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

    /// Its answer, once it has ended.
    pub fn stdout(&mut self) -> String {
        self.stdout
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(|_| anyhow!("process id"))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("sending {signal} to {pid}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("log of process {}:\n{}", self.id(), self.log());
        }
    }
}
