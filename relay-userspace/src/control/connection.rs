//! One client: what it has sent, what it still has to read, and what it waits for.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::poll::PollFlags;

use super::{
    MOST_BYTES, SMALL,
    fault::Fault,
    inbox::{Got, Inbox},
    message,
    outbox::Outbox,
    permits::{Permit, Permits},
    rights::Rights,
};

/// What the relay does for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Nothing: it may call.
    Nothing,
    /// The main thread deals with its request.
    Waiting {
        /// Whether it wants no reply.
        oneway: bool,
    },
    /// It gets the status from time to time.
    Watching {
        /// When it gets it next.
        next: Instant,
    },
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    /// Never the same for two clients.
    pub number: u64,
    /// What the client may do.
    pub rights: Rights,
    /// What the relay does for it.
    pub doing: Doing,
    stream: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    /// Held while a large message arrives, and until it is answered.
    large: Option<Permit>,
    /// When the client last sent or read something, or got an answer.
    moved: Instant,
    /// How long it may go without that.
    idle: Duration,
    /// The client sends no more.
    has_ended: bool,
    /// It is closed once it has read what is left.
    is_closing: bool,
    is_gone: bool,
}

impl Connection {
    /// A client that has connected.
    pub fn new(number: u64, stream: UnixStream, rights: Rights, idle: Duration) -> Self {
        Self {
            number,
            rights,
            doing: Doing::Nothing,
            stream,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            large: None,
            moved: Instant::now(),
            idle,
            has_ended: false,
            is_closing: false,
            is_gone: false,
        }
    }

    /// The client's socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The client's socket, for another protocol than this one; `None` if the client has still to
    /// read something.
    pub fn into_stream(self) -> Option<UnixStream> {
        let is_free = self.outbox.is_empty() && !self.is_gone;
        is_free.then_some(self.stream)
    }

    /// What to wait for.
    pub fn events(&self, permits: &Permits) -> PollFlags {
        let mut events = PollFlags::empty();
        if !self.outbox.is_empty() {
            events |= PollFlags::POLLOUT;
        }
        if self.reads() && !self.inbox.has_message() && (!self.lacks_permit() || permits.are_left())
        {
            events |= PollFlags::POLLIN;
        }
        events
    }

    /// When to look again, whatever happens.
    pub fn deadline(&self) -> Option<Instant> {
        if self.has_call() {
            return Some(Instant::now());
        }
        match self.doing {
            Doing::Watching { next } if self.outbox.is_empty() => Some(next),
            Doing::Waiting { .. } if self.outbox.is_empty() => None,
            _ => Some(self.moved + self.idle),
        }
    }

    /// Whether it may call now.
    fn reads(&self) -> bool {
        self.doing == Doing::Nothing
            && self.outbox.is_empty()
            && !self.is_closing
            && !self.has_ended
    }

    /// Whether its next message is larger than it may be without a permit.
    fn lacks_permit(&self) -> bool {
        self.large.is_none() && self.inbox.first_len() >= SMALL && self.rights == Rights::Owner
    }

    /// Whether a call is there that can be dealt with now.
    fn has_call(&self) -> bool {
        self.doing == Doing::Nothing
            && self.outbox.is_empty()
            && !self.is_closing
            && self.inbox.has_message()
    }

    /// Reads and writes what `events` allow.
    pub fn serve(&mut self, events: PollFlags, permits: &Permits) {
        if events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP)
            && !events.contains(PollFlags::POLLIN)
        {
            self.is_gone = true;
            return;
        }
        if events.contains(PollFlags::POLLOUT) {
            self.flush();
        }
        if events.contains(PollFlags::POLLIN) && self.reads() {
            match self.read(permits) {
                Ok(()) => {}
                Err(_) => self.is_gone = true,
            }
        }
    }

    fn read(&mut self, permits: &Permits) -> io::Result<()> {
        if self.lacks_permit() {
            self.large = permits.take();
            if self.large.is_none() {
                return Ok(());
            }
            self.inbox.expect_large();
        }
        match self.inbox.read_from(&self.stream)? {
            Got::Some => self.moved = Instant::now(),
            Got::Nothing => {}
            Got::End => self.has_ended = true,
        }
        let limit = match self.rights {
            Rights::Owner => MOST_BYTES,
            Rights::Guest { .. } => SMALL,
        };
        if self.inbox.first_len() > limit {
            let limit = limit as u64;
            self.refuse_and_close(&Fault::TooLarge { limit });
        }
        Ok(())
    }

    /// The next call, and the permit that it holds if it is a large one.
    pub fn next_call(&mut self) -> Option<(Vec<u8>, Option<Permit>)> {
        if !self.has_call() {
            return None;
        }
        let call = self.inbox.take()?;
        Some((call, self.large.take()))
    }

    /// Sends a whole reply.
    pub fn send(&mut self, reply: Vec<u8>) {
        self.send_parts([Arc::new(reply)]);
    }

    /// Sends a reply in parts.
    pub fn send_parts(&mut self, parts: impl IntoIterator<Item = Arc<Vec<u8>>>) {
        self.moved = Instant::now();
        for part in parts {
            self.outbox.push(part);
        }
        self.flush();
    }

    /// Sends an error.
    pub fn refuse(&mut self, fault: &Fault) {
        self.send(message::message(fault));
    }

    /// Sends an error, and closes.
    pub fn refuse_and_close(&mut self, fault: &Fault) {
        self.is_closing = true;
        self.large = None;
        self.inbox = Inbox::default();
        self.refuse(fault);
    }

    /// Writes what the client takes now.
    pub fn flush(&mut self) {
        match self.outbox.write_to(&self.stream) {
            Ok(true) => self.moved = Instant::now(),
            Ok(false) => {}
            Err(_) => self.is_gone = true,
        }
    }

    /// Whether everything was sent.
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty() || self.is_gone
    }

    /// Whether it still has to read `part`.
    pub fn holds(&self, part: &Arc<Vec<u8>>) -> bool {
        self.outbox.holds(part)
    }

    /// Whether the relay closes it, by what it knew when it `looked` last.
    pub fn is_over(&self, looked: Instant) -> bool {
        let waits = matches!(self.doing, Doing::Waiting { .. }) && self.outbox.is_empty();
        let is_watching = matches!(self.doing, Doing::Watching { .. }) && self.outbox.is_empty();
        let has_more =
            self.doing != Doing::Nothing || !self.outbox.is_empty() || self.inbox.has_message();
        self.is_gone
            || self.is_closing && self.outbox.is_empty()
            || self.has_ended && !has_more
            || !waits && !is_watching && looked >= self.moved + self.idle
    }
}
