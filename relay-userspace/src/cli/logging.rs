//! The log: lines on standard error, filtered by `RUST_LOG`.
//!
//! While the relay runs, no thread of it waits for the reader of the log: lines go into a queue,
//! and a separate thread writes them out. Lines that do not fit into the queue are counted, and the
//! next line that the reader gets is their number. So a reader that stops reading costs lines of
//! the log and nothing else.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    env,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
    panic,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use env_logger::{Builder, Target, WriteStyle};
use log::warn;

use super::{
    journal::Journal,
    log_filter,
    log_format::LogFormat,
    output::{PATIENCE, STANDSTILL, write_all},
};
use crate::{daemon::privileges, events};

/// Bytes of lines that may wait, plus one more line: as many as an ordinary pipe holds, and more
/// than ten minutes of one line per second.
const LIMIT: usize = 64 << 10;

/// Set once a thread writes it out.
static QUEUE: OnceLock<&Queue> = OnceLock::new();

/// Starts a log that writes at once and waits for its reader, for commands that end by themselves.
pub fn start() {
    let (mut builder, wrong) = builder();
    builder.init();
    report(wrong);
}

/// Starts a log in `format` that no other thread waits for. Panics go into it as well.
///
/// # Errors
///
/// Its thread cannot be started.
pub fn start_queued(format: LogFormat) -> io::Result<()> {
    let (format, journal) = match format {
        LogFormat::Journal => match Journal::behind_stderr() {
            Some(journal) => (LogFormat::Entry, Some(journal)),
            None => (format, None),
        },
        other => (other, None),
    };
    let queue: &'static Queue = Box::leak(Box::new(Queue {
        format,
        ..Queue::default()
    }));
    thread::Builder::new()
        .name("relay-log".into())
        .spawn(move || {
            // This thread needs no capability. If the kernel refuses, the main thread reports it
            // later.
            let _ = privileges::give_up::give_up(&[]);
            queue.write_out(|line| match &journal {
                Some(journal) => journal.send(line),
                None => write_all(io::stderr().as_fd(), line),
            });
        })?;
    let queue = *QUEUE.get_or_init(|| queue);
    let (mut builder, wrong) = builder();
    builder.target(Target::Pipe(Box::new(IntoQueue(queue))));
    if format != LogFormat::Text {
        builder.write_style(WriteStyle::Never);
        builder.format(move |to, record| format.write(to, record));
    } else if wants_colours() {
        builder.write_style(WriteStyle::Always);
    }
    builder.init();
    report(wrong);
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        say(&format!("thread `{name}` {panic}{trace}"));
    }));
    Ok(())
}

/// A log as the environment asks for it, and what is wrong with that.
fn builder() -> (Builder, Option<String>) {
    let (filter, wrong) = log_filter::from_environment();
    let mut builder = Builder::new();
    builder.parse_filters(&filter);
    if let Ok(style) = env::var("RUST_LOG_STYLE") {
        builder.parse_write_style(&style);
    }
    (builder, wrong)
}

fn report(wrong: Option<String>) {
    if let Some(wrong) = wrong {
        warn!("{wrong}");
    }
}

/// Decides as env_logger does for a terminal, which it cannot see through the queue.
fn wants_colours() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let decided = matches!(
        env::var("RUST_LOG_STYLE").as_deref(),
        Ok("always" | "never")
    );
    let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
    !decided && !set("NO_COLOR") && !dumb && io::stderr().is_terminal()
}

/// Prints a text that is not a line of the log, after the lines that still wait.
pub fn say(text: &str) {
    match QUEUE.get() {
        Some(queue) => queue.put(queue.format.say(text)),
        None => eprintln!("{text}"),
    }
}

/// Waits, before the process ends, until the queue is written out, as long as its reader reads.
pub fn finish() {
    events::finish();
    if let Some(queue) = QUEUE.get() {
        queue.wait_until_empty(STANDSTILL);
    }
}

/// Lines on their way to standard error.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    format: LogFormat,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// The bytes in `lines`.
    bytes: usize,
    /// Lines that found the queue full. While this is above 0, the queue takes no line, so the
    /// reader gets one gap with one number instead of many.
    lost: u64,
    /// Lines that were taken out, and whether the last of them is still being written.
    taken: u64,
    writing: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: Vec<u8>) {
        let mut state = self.state();
        if state.lost > 0 || state.bytes >= LIMIT {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Writes lines out, for ever. A line that cannot be written is dropped.
    fn write_out(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
        loop {
            let line = self.take();
            let _ = write(&line);
        }
    }

    /// Waits for the next line. The caller has written the one before.
    fn take(&self) -> Vec<u8> {
        let mut state = self.state();
        state.writing = false;
        self.changed.notify_all();
        loop {
            let line = match state.lines.pop_front() {
                Some(line) => {
                    state.bytes -= line.len();
                    Some(line)
                }
                None => state.take_gap(self.format),
            };
            if let Some(line) = line {
                state.taken += 1;
                state.writing = true;
                return line;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all lines are written. Gives up when none was taken for `standstill`, or after
    /// [`PATIENCE`].
    fn wait_until_empty(&self, standstill: Duration) {
        let started = Instant::now();
        let mut state = self.state();
        let (mut taken, mut moved) = (state.taken, Instant::now());
        while state.writing || !state.lines.is_empty() || state.lost > 0 {
            if moved.elapsed() >= standstill || started.elapsed() >= PATIENCE {
                return;
            }
            let waited = self.changed.wait_timeout(state, standstill);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.taken != taken {
                (taken, moved) = (state.taken, Instant::now());
            }
        }
    }
}

impl State {
    /// The line that reports the lost ones.
    fn take_gap(&mut self, format: LogFormat) -> Option<Vec<u8>> {
        let lost = std::mem::take(&mut self.lost);
        let plural = if lost == 1 { "" } else { "s" };
        let said = format!("relay: {lost} line{plural} lost, because nothing read stderr");
        (lost > 0).then(|| format.say(&said))
    }
}

/// Takes env_logger's lines; each arrives whole, in one call.
struct IntoQueue(&'static Queue);

impl Write for IntoQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn line(number: u32) -> Vec<u8> {
        format!("{number:99}\n").into_bytes()
    }

    /// A queue whose thread writes one line for each message that the test sends.
    fn queue() -> (
        &'static Queue,
        std::sync::mpsc::Sender<()>,
        std::sync::mpsc::Receiver<String>,
    ) {
        let queue: &'static Queue = Box::leak(Box::default());
        let (let_one, lets) = channel();
        let (written, read) = channel();
        thread::spawn(move || {
            queue.write_out(|line| {
                // The test has ended.
                if lets.recv().is_err() {
                    thread::park();
                }
                let _ = written.send(String::from_utf8_lossy(line).into_owned());
                Ok(())
            });
        });
        (queue, let_one, read)
    }

    #[test]
    fn what_a_standing_reader_loses_is_counted_once_and_in_its_place() {
        let (queue, let_one, read) = queue();
        let most = (LIMIT / 100 + 2) as u32;
        for number in 0..most + 500 {
            queue.put(line(number));
        }
        let state = queue.state();
        assert!(state.bytes <= LIMIT + 100, "{}", state.bytes);
        let lost = state.lost;
        drop(state);
        // The writer may have taken one line already.
        assert!((499..=502).contains(&lost), "{lost}");
        let kept = u64::from(most + 500) - lost;
        for number in 0..kept as u32 {
            let_one.send(()).unwrap();
            assert_eq!(read.recv().unwrap().as_bytes(), line(number));
        }
        let_one.send(()).unwrap();
        assert_eq!(
            read.recv().unwrap(),
            format!("relay: {lost} lines lost, because nothing read stderr\n")
        );
        queue.put(line(7));
        let_one.send(()).unwrap();
        assert_eq!(read.recv().unwrap().as_bytes(), line(7));
    }

    #[test]
    fn the_end_waits_for_a_reader_that_reads_and_not_for_one_that_stands_still() {
        let (queue, let_one, read) = queue();
        for number in 0..20 {
            queue.put(line(number));
        }
        let reader = thread::spawn(move || {
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(20));
                let_one.send(()).unwrap();
            }
            let_one
        });
        queue.wait_until_empty(PATIENCE);
        assert_eq!(read.try_iter().count(), 20);
        let _let_one = reader.join().unwrap();

        queue.put(line(0));
        let started = Instant::now();
        queue.wait_until_empty(STANDSTILL);
        let waited = started.elapsed();
        assert!(waited >= STANDSTILL, "{waited:?}");
        assert!(waited < PATIENCE, "{waited:?}");
    }
}
