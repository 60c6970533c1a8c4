//! The thread of one tap: takes the records of the workers, and sends them to the client.
//!
//! After the reply to `Tap` the connection carries nothing but records. The client has enough when
//! it sends no more or is gone. A client that reads slowly is waited for, and meanwhile the rings
//! lose what comes and count it: neither the workers nor the control thread notice. The last record
//! is the end: what was counted, and what the tap lost.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::IDLE;
use crate::{
    daemon::{
        requests::{Handle, Refusal, Request, TapRequest},
        taps::{Source, Tapping, summary::Summary},
    },
    datapath::tap::record::{ALIGN, Header},
};

/// How often the rings are looked at. Nothing wakes this thread for a record: that would be a
/// system call of the worker.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes that are taken from the rings at once.
const AT_ONCE: usize = 256 << 10;
/// How long the client may take to read what is left at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// One tap and its client.
pub struct TapStream {
    stream: UnixStream,
    tapping: Tapping,
    source: Source,
    handle: Handle,
    /// Records that the client has still to read, and how much of them it has.
    unsent: Vec<u8>,
    sent: usize,
    /// When the client last read something, or had nothing to read.
    moved: Instant,
    /// The client has enough.
    is_over: bool,
    /// The client is gone, or has not read for too long.
    is_gone: bool,
    /// The main thread was asked to end the tap, and has not refused that.
    asked: Arc<AtomicBool>,
}

/// Makes the main thread end a tap that has no client.
pub fn end(tapping: &Tapping, handle: &Handle) {
    let request = Request::Tap(TapRequest::End(tapping.id()));
    handle.ask(request, Box::new(|_| {}));
}

impl TapStream {
    /// Serves `tapping` on a thread of its own, which ends with the tap.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread; the tap is to be [ended](end).
    pub fn start(stream: UnixStream, tapping: &Tapping, handle: Handle) -> io::Result<()> {
        let Some(source) = tapping.take_source() else {
            return Ok(());
        };
        let this = Self {
            stream,
            tapping: tapping.clone(),
            source,
            handle,
            unsent: Vec::new(),
            sent: 0,
            moved: Instant::now(),
            is_over: false,
            is_gone: false,
            asked: Arc::default(),
        };
        let thread = thread::Builder::new().name("relay-tap".into());
        thread.spawn(move || this.run()).map(drop)
    }

    fn run(mut self) {
        loop {
            if let Some(summary) = self.tapping.end() {
                self.say_goodbye(summary);
                return;
            }
            if self.is_over && !self.asked.swap(true, Relaxed) {
                self.ask_for_the_end();
            }
            self.wait();
            self.collect();
            self.flush();
        }
    }

    /// Too many requests may wait just then: it is asked for again.
    fn ask_for_the_end(&self) {
        let request = Request::Tap(TapRequest::End(self.tapping.id()));
        let asked = Arc::clone(&self.asked);
        let reply = move |answer| {
            if answer == Err(Refusal::Busy) {
                asked.store(false, Release);
            }
        };
        self.handle.ask(request, Box::new(reply));
    }

    /// Waits a moment for the client, or for frames of a packet socket.
    fn wait(&mut self) {
        let mut events = PollFlags::empty();
        if !self.is_over {
            events |= PollFlags::POLLIN;
        }
        if !self.unsent.is_empty() {
            events |= PollFlags::POLLOUT;
        }
        let timeout = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::ZERO);
        if self.is_over && self.unsent.is_empty() || self.is_gone {
            thread::sleep(LOOK_EVERY);
            return;
        }
        let mut set = vec![PollFd::new(self.stream.as_fd(), events)];
        if let Source::Passed(passed) = &self.source
            && self.unsent.is_empty()
        {
            set.push(PollFd::new(passed.fd(), PollFlags::POLLIN));
        }
        if poll(&mut set, timeout).is_err() {
            thread::sleep(LOOK_EVERY);
            return;
        }
        let got = set.first().and_then(PollFd::revents);
        drop(set);
        let got = got.unwrap_or(PollFlags::empty());
        if got.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            self.is_over = true;
            self.is_gone = true;
        } else if got.contains(PollFlags::POLLIN) {
            self.hear();
        } else if !got.contains(PollFlags::POLLOUT) && matches!(self.source, Source::Passed(_)) {
            // A packet socket is readable as long as frames come; records are sent in portions.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The client says nothing but that it has enough.
    fn hear(&mut self) {
        let mut ignored = [0; 512];
        match self.stream.read(&mut ignored) {
            Ok(0) => self.is_over = true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.is_over = true;
                self.is_gone = true;
            }
        }
    }

    /// Takes records, unless the client has still to read some.
    fn collect(&mut self) {
        if self.sent < self.unsent.len() {
            return;
        }
        self.unsent.clear();
        self.sent = 0;
        self.moved = Instant::now();
        match &mut self.source {
            Source::Workers(parts) => {
                let each = AT_ONCE / parts.len().max(1);
                for part in parts {
                    part.reader.read(&mut self.unsent, each);
                }
            }
            Source::Passed(passed) => passed.read(&mut self.unsent, AT_ONCE),
        }
        if self.is_gone {
            self.unsent.clear();
        }
    }

    /// Sends what the client takes now.
    fn flush(&mut self) {
        while let Some(rest) = self.unsent.get(self.sent..)
            && !rest.is_empty()
            && !self.is_gone
        {
            match self.stream.write(rest) {
                Ok(count) if count > 0 => {
                    self.sent += count;
                    self.moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && self.moved.elapsed() < IDLE =>
                {
                    return;
                }
                _ => {
                    self.is_over = true;
                    self.is_gone = true;
                }
            }
        }
    }

    /// Sends what is left, and the end.
    fn say_goodbye(&mut self, mut summary: Summary) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            self.collect();
            if self.unsent.is_empty() || !self.send_all(deadline) {
                break;
            }
        }
        [summary.lost_in, summary.lost_out] = match &mut self.source {
            Source::Workers(parts) => parts.iter().fold([0, 0], |[came, left], part| {
                let [lost_in, lost_out] = part.lost();
                [came + lost_in, left + lost_out]
            }),
            Source::Passed(passed) => [passed.lost(), 0],
        };
        let text = serde_json::to_vec(&summary).unwrap_or_default();
        let header = Header::end(text.len() as u32);
        self.unsent.extend_from_slice(&header.bytes());
        self.unsent.extend_from_slice(&text);
        let whole = self.unsent.len().next_multiple_of(ALIGN);
        self.unsent.resize(whole, 0);
        self.send_all(deadline);
    }

    /// Sends everything. False if the client does not read it until `deadline`.
    fn send_all(&mut self, deadline: Instant) -> bool {
        loop {
            self.flush();
            if self.sent >= self.unsent.len() {
                return !self.is_gone;
            }
            if self.is_gone || Instant::now() >= deadline {
                return false;
            }
            let mut set = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
            let timeout = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut set, timeout);
        }
    }
}

impl Drop for TapStream {
    /// The tap ends with its thread, however that ends.
    fn drop(&mut self) {
        if !self.asked.load(Acquire) {
            end(&self.tapping, &self.handle);
        }
    }
}
