//! The loop of the control thread: waits for clients and for the main thread, and never for one of
//! them alone. Each client gets one read, one call and one write per round.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Acquire},
    },
    thread,
    time::{Duration, Instant},
};

use log::Level::{Info, Warn};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

mod reading;

use self::reading::{Reader, Wants};
use super::{
    MOST_CLIENTS, MOST_GUEST_REQUESTS, MOST_GUESTS, MOST_LARGE, WATCH_EVERY,
    connection::{Connection, Doing},
    fault::Fault,
    interface,
    listener::Listener,
    message::{self, Call},
    methods::{self, Asked},
    permits::{Permit, Permits},
    rights::{Owners, Rights},
    status_texts::StatusTexts,
    tap_stream::{self, TapStream},
};
use crate::{
    daemon::{
        requests::{Answer, Handle, Refusal, Request},
        taps::Tapping,
    },
    events::Event,
    host::Bell,
};

/// The target of the lines.
const LOG: &str = module_path!();
/// How long no client is accepted after the system has refused one, for want of descriptors, and
/// how long none is served after it has refused to wait for them.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last replies may take.
const FAREWELL: Duration = Duration::from_millis(200);

/// Answers of the main thread, on their way to the clients that asked.
pub struct Answers {
    queue: Mutex<Vec<(u64, Result<Answer, Refusal>)>>,
    /// Rung for an answer, and for the end.
    pub bell: Bell,
}

impl Answers {
    /// None yet.
    pub fn new(bell: Bell) -> Self {
        let queue = Mutex::default();
        Self { queue, bell }
    }

    fn put(&self, number: u64, answer: Result<Answer, Refusal>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push((number, answer));
        drop(queue);
        self.bell.ring();
    }

    fn take(&self) -> Vec<(u64, Result<Answer, Refusal>)> {
        self.bell.silence();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut queue)
    }
}

/// Everything that the control thread has.
pub struct Service {
    handle: Handle,
    listener: Arc<Listener>,
    owners: Owners,
    answers: Arc<Answers>,
    clients: Vec<Connection>,
    readers: Vec<Reader>,
    next_number: u64,
    texts: StatusTexts,
    large: Permits,
    guest_requests: Permits,
    /// How long a client may go without progress.
    idle: Duration,
    /// Until then no client is accepted.
    pause: Option<Instant>,
}

impl Service {
    /// Serves no client yet.
    pub fn new(
        handle: Handle,
        listener: Arc<Listener>,
        owners: Owners,
        answers: Arc<Answers>,
        idle: Duration,
    ) -> Self {
        handle.tell(answers.bell.clone());
        Self {
            handle,
            listener,
            owners,
            answers,
            clients: Vec::new(),
            readers: Vec::new(),
            next_number: 0,
            texts: StatusTexts::default(),
            large: Permits::new(MOST_LARGE),
            guest_requests: Permits::new(MOST_GUEST_REQUESTS),
            idle,
            pause: None,
        }
    }

    /// Serves until `stop` is set and the bell rung.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Acquire) {
            let looked = match self.wait() {
                Ok(looked) => looked,
                Err(error) => {
                    self.cannot_wait(&error);
                    continue;
                }
            };
            self.deliver();
            self.call_all();
            self.tick();
            self.hand_out_snapshots();
            self.close_those_that_are_over(looked);
        }
        self.say_goodbye();
    }

    /// The kernel does not let this thread wait: it has no memory, or more clients are connected
    /// than the limit of open files is now.
    fn cannot_wait(&mut self, error: &io::Error) {
        let text = format!(
            "control socket: cannot wait for clients: {error}; their connections are closed. Free \
             memory, or raise the limit of open files"
        );
        Event::new(LOG, Warn, "control socket", &text)
            .turn("wait")
            .say();
        self.clients.clear();
        self.readers.clear();
        thread::sleep(PAUSE);
    }

    /// Waits until there is something to do, and reads and writes what the clients let it. Returns
    /// when it looked: what clients have sent since is not known yet.
    fn wait(&mut self) -> io::Result<Instant> {
        let now = Instant::now();
        self.pause = self.pause.filter(|until| *until > now);
        let deadlines = self.clients.iter().filter_map(Connection::deadline);
        let readers = self.readers.iter().map(|reader| reader.until);
        let next = deadlines.chain(self.pause).chain(readers).min();
        let mut set = vec![PollFd::new(self.answers.bell.fd(), PollFlags::POLLIN)];
        set.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(client.stream().as_fd(), client.events(&self.large))),
        );
        let listens = self.pause.is_none();
        if listens {
            let listener = self.listener.socket().as_fd();
            set.push(PollFd::new(listener, PollFlags::POLLIN));
        }
        match poll(&mut set, timeout(next, now)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(now),
            Err(error) => return Err(error.into()),
        }
        let looked = Instant::now();
        let got = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let events: Vec<PollFlags> = set.iter().skip(1).map(got).collect();
        drop(set);
        for (client, events) in self.clients.iter_mut().zip(&events) {
            client.serve(*events, &self.large);
        }
        let knocks = events.get(self.clients.len());
        if knocks.is_some_and(|events| !events.is_empty()) {
            self.accept();
        }
        Ok(looked)
    }

    /// Takes the clients that wait, up to a bound per round.
    fn accept(&mut self) {
        for _ in 0..MOST_CLIENTS {
            let stream = match self.listener.accept() {
                Ok(stream) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    let text = format!("control socket: cannot accept a client: {error}");
                    Event::new(LOG, Warn, "control socket", &text)
                        .turn("accept")
                        .say();
                    self.pause = Some(Instant::now() + PAUSE);
                    return;
                }
            };
            // Without credentials there are no rights.
            let Ok(rights) = self.owners.rights(&stream) else {
                continue;
            };
            self.admit(stream, rights);
        }
    }

    fn admit(&mut self, mut stream: UnixStream, rights: Rights) {
        let is_guest = |rights: &Rights| matches!(rights, Rights::Guest { .. });
        let guests = self
            .clients
            .iter()
            .filter(|client| is_guest(&client.rights));
        let too_many = |limit: usize| Fault::TooManyClients {
            limit: limit as u64,
        };
        let fault = if self.clients.len() >= MOST_CLIENTS {
            Some(too_many(MOST_CLIENTS))
        } else if is_guest(&rights) && guests.count() >= MOST_GUESTS {
            Some(too_many(MOST_GUESTS))
        } else {
            None
        };
        if let Some(fault) = fault {
            let text = format!("control socket: a client was refused: {fault}");
            Event::new(LOG, Info, "refused control clients", &text)
                .by_text()
                .say();
            // A new socket has room for it.
            let _ = stream.write(&message::message(&fault));
            return;
        }
        self.next_number += 1;
        let client = Connection::new(self.next_number, stream, rights, self.idle);
        self.clients.push(client);
    }

    /// Hands the main thread's answers out.
    fn deliver(&mut self) {
        for (number, answer) in self.answers.take() {
            let at = self.clients.iter().position(|one| one.number == number);
            if let Ok(Answer::Tapping(tapping)) = &answer {
                self.hand_to_tap(at, tapping);
                continue;
            }
            // The client may have closed.
            let Some(client) = at.and_then(|at| self.clients.get_mut(at)) else {
                continue;
            };
            let oneway = client.doing == Doing::Waiting { oneway: true };
            client.doing = Doing::Nothing;
            match answer {
                _ if oneway => {}
                Ok(answer) => client.send(methods::reply(answer)),
                Err(refusal) => client.refuse(&refusal.into()),
            }
        }
    }

    /// Answers the client at this position, and gives its connection to the tap that has begun.
    fn hand_to_tap(&mut self, at: Option<usize>, tapping: &Tapping) {
        let client = at.map(|at| self.clients.swap_remove(at));
        let begun = client.and_then(|mut client| {
            client.doing = Doing::Nothing;
            client.send(methods::reply(Answer::Tapping(tapping.clone())));
            client.into_stream()
        });
        let Some(stream) = begun else {
            tap_stream::end(tapping, &self.handle);
            return;
        };
        if let Err(error) = TapStream::start(stream, tapping, self.handle.clone()) {
            let text = format!("control socket: cannot start the thread of a tap: {error}");
            Event::new(LOG, Warn, "control socket", &text)
                .turn("tap")
                .say();
            tap_stream::end(tapping, &self.handle);
        }
    }

    /// Deals with at most one call of each client.
    fn call_all(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            if let Some((call, permit)) = client.next_call() {
                self.call(client, &call, permit);
            }
        }
        self.clients = clients;
    }

    fn call(&mut self, client: &mut Connection, bytes: &[u8], permit: Option<Permit>) {
        let call: Call<'_> = match serde_json::from_slice(bytes) {
            Ok(call) => call,
            Err(error) => {
                let reason = error.to_string();
                client.refuse_and_close(&Fault::NotACall { reason });
                return;
            }
        };
        let oneway = call.oneway == Some(true);
        let more = call.more == Some(true);
        let asked = methods::asked(&call).and_then(|asked| self.permit(client.rights, asked));
        let result = match asked {
            Ok(Asked::Request(request)) => {
                self.ask(client, request, oneway, permit);
                return;
            }
            // Nothing but a request has an effect.
            _ if oneway => return,
            Ok(Asked::Status) => {
                let next = more.then(|| Instant::now() + WATCH_EVERY);
                self.read(client, Wants::Status { next });
                Ok(())
            }
            Ok(Asked::Rules { name }) => {
                self.read(client, Wants::Rules { name });
                Ok(())
            }
            Ok(Asked::Info) => {
                client.send(interface::info());
                Ok(())
            }
            Ok(Asked::Description { interface }) => {
                interface::description(&interface).map(|description| client.send(description))
            }
            Err(fault) => Err(fault),
        };
        if let Err(fault) = result {
            client.doing = Doing::Nothing;
            client.refuse(&fault);
        }
    }

    /// Passes on what a client with these rights may ask for.
    fn permit(&self, rights: Rights, asked: Asked) -> Result<Asked, Fault> {
        match (rights, &asked) {
            (Rights::Guest { uid }, Asked::Request(request)) if request.is_change() => {
                let message = self.owners.refusal(uid);
                Err(Fault::NotPermitted { message })
            }
            _ => Ok(asked),
        }
    }

    /// Puts a request into the main thread's mailbox. The permits last until it is answered, even
    /// if the client closes before.
    fn ask(&self, client: &mut Connection, request: Request, oneway: bool, large: Option<Permit>) {
        let guest = match client.rights {
            Rights::Owner => None,
            Rights::Guest { .. } => match self.guest_requests.take() {
                Some(permit) => Some(permit),
                None => {
                    if !oneway {
                        client.refuse(&Fault::Busy);
                    }
                    return;
                }
            },
        };
        client.doing = Doing::Waiting { oneway };
        let number = client.number;
        let answers = Arc::clone(&self.answers);
        let reply = move |answer| {
            drop((large, guest));
            answers.put(number, answer);
        };
        self.handle.ask(request, Box::new(reply));
    }

    /// Sends the status to the clients that watch it.
    fn tick(&mut self) {
        let now = Instant::now();
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            match client.doing {
                Doing::Watching { next } if next <= now && client.is_flushed() => {
                    let next = Some((next + WATCH_EVERY).max(now));
                    self.read(client, Wants::Status { next });
                }
                _ => {}
            }
        }
        self.clients = clients;
    }

    fn close_those_that_are_over(&mut self, looked: Instant) {
        self.clients.retain(|client| !client.is_over(looked));
        while let Some(text) = self.texts.excess() {
            self.clients.retain(|client| !client.holds(&text));
        }
    }

    /// Hands out the answers that are there, and tells the others that the relay ends.
    fn say_goodbye(&mut self) {
        self.deliver();
        for client in &mut self.clients {
            if client.doing == (Doing::Waiting { oneway: false }) {
                client.refuse(&Fault::Ending);
            }
        }
        let end = Instant::now() + FAREWELL;
        loop {
            self.clients.retain(|client| !client.is_flushed());
            let now = Instant::now();
            if self.clients.is_empty() || now >= end {
                return;
            }
            let streams = self.clients.iter().map(|client| client.stream().as_fd());
            let mut set: Vec<_> = streams
                .map(|stream| PollFd::new(stream, PollFlags::POLLOUT))
                .collect();
            if poll(&mut set, timeout(Some(end), now)).is_err() {
                return;
            }
            self.clients.iter_mut().for_each(Connection::flush);
        }
    }
}

/// The time until `next`, rounded up to a millisecond.
fn timeout(next: Option<Instant>, now: Instant) -> PollTimeout {
    let Some(next) = next else {
        return PollTimeout::NONE;
    };
    let left = next.saturating_duration_since(now);
    let milliseconds = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}
