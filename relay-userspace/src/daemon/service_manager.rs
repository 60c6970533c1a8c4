//! Tells the service manager (systemd) how the relay does, see sd_notify(3) and systemd.service(5),
//! `Type=notify-reload`.
//!
//! Where the environment names no socket (`NOTIFY_SOCKET`), nothing is sent. A service manager that
//! does not read keeps the relay for a moment at most, and costs it nothing but the message.

use std::{
    cell::Cell,
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    rc::Rc,
    time::{Duration, Instant},
};

use log::{debug, warn};
use sd_notify::NotifyState;

/// How long a message may wait for room in the service manager's socket.
const PATIENCE: Duration = Duration::from_millis(200);

/// The service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    pings: Pings,
    /// The last status that was sent.
    status: String,
}

/// Pings its watchdog. Clones share what they know of the last ping.
#[derive(Debug, Clone, Default)]
pub struct Pings {
    channel: Option<Rc<Channel>>,
    /// It ends the relay if no ping arrives for this long.
    interval: Option<Duration>,
    pinged: Rc<Cell<Option<Instant>>>,
}

#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ServiceManager {
    /// The one that the environment names: `NOTIFY_SOCKET`, and for the watchdog `WATCHDOG_USEC`
    /// and `WATCHDOG_PID`. A socket that cannot be used is logged, and nothing is sent.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else {
            return Self::none();
        };
        Self::at(&address, sd_notify::watchdog_enabled()).unwrap_or_else(|error| {
            warn!(
                "cannot tell the service manager how the relay does: NOTIFY_SOCKET is `{}`: {error}; it must be an \
                 absolute path, or `@` and a name",
                address.display()
            );
            Self::none()
        })
    }

    /// None: nothing is ever sent.
    #[must_use]
    pub fn none() -> Self {
        Self {
            pings: Pings::default(),
            status: String::new(),
        }
    }

    /// The one that listens at `address`: an absolute path, or `@` and an abstract name. `interval`
    /// is its watchdog's, if it has one.
    ///
    /// # Errors
    ///
    /// The address is none, or the kernel refuses a socket.
    pub fn at(address: &OsStr, interval: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            pings: Pings {
                channel: Some(Rc::new(Channel { socket, address })),
                interval,
                pinged: Rc::default(),
            },
            status: String::new(),
        })
    }

    /// The relay is up, or has finished a reload. `status` is one line for people.
    pub fn ready(&mut self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
        status.clone_into(&mut self.status);
    }

    /// A reload begins, however it was asked for; [`ServiceManager::ready`] ends it, also if it
    /// changed nothing.
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            // Without the time, systemd would wait for it until the reload has failed.
            Err(error) => debug!("reading the monotonic clock: {error}"),
        }
    }

    /// One line for people that says how the relay does. Sent only if it differs from the last one.
    pub fn set_status(&mut self, status: &str) {
        if self.status != status {
            self.send(&[NotifyState::Status(&one_line(status))]);
            status.clone_into(&mut self.status);
        }
    }

    /// The relay ends.
    pub fn stopping(&mut self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// The watchdog's interval, if it watches the relay.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.pings.interval
    }

    /// What pings the watchdog.
    #[must_use]
    pub fn pings(&self) -> Pings {
        self.pings.clone()
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        self.pings.send(states);
    }
}

impl Pings {
    /// Tells the watchdog that control and all workers turn, if half of its interval has passed.
    /// Only to be called if they do: see [`super::watchdog::Watchdog`], which says how often; or
    /// while control waits for something on purpose, and not for long.
    pub fn ping(&self, now: Instant) {
        let Some(interval) = self.interval else {
            return;
        };
        let due = |last: Instant| now.saturating_duration_since(last) >= interval / 2;
        if self.pinged.get().is_none_or(due) {
            self.send(&[NotifyState::Watchdog]);
            self.pinged.set(Some(now));
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(channel) = &self.channel else {
            return;
        };
        let Channel { socket, address } = &**channel;
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        let message = lines.join("\n");
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            debug!("the service manager does not take `{message}`: {error}");
        }
    }
}

/// A message has one assignment per line.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use super::*;

    fn receive(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..len].to_vec()).unwrap())
    }

    fn listening(name: &str) -> (UnixDatagram, ServiceManager) {
        let name = format!("relay-{name}-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let interval = Some(Duration::from_secs(4));
        let manager = ServiceManager::at(OsStr::new(&format!("@{name}")), interval).unwrap();
        (socket, manager)
    }

    #[test]
    fn it_is_told_of_the_start_of_a_reload_and_of_the_end() {
        let (socket, mut manager) = listening("states");
        manager.ready("3 rules,\n1 pending");
        let ready = receive(&socket).unwrap();
        assert_eq!(ready, "READY=1\nSTATUS=3 rules, 1 pending");
        manager.reloading();
        let reloading = receive(&socket).unwrap();
        let time = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(time.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
        manager.set_status("3 rules");
        manager.set_status("3 rules");
        assert_eq!(receive(&socket).unwrap(), "STATUS=3 rules");
        manager.stopping();
        assert_eq!(receive(&socket).unwrap(), "STOPPING=1");
        assert_eq!(receive(&socket), None);
    }

    #[test]
    fn the_watchdog_gets_a_ping_per_half_interval() {
        let (socket, manager) = listening("watchdog");
        let start = Instant::now();
        let mut pings = Vec::new();
        for second in 0..=6 {
            manager.pings().ping(start + Duration::from_secs(second));
            if let Some(message) = receive(&socket) {
                assert_eq!(message, "WATCHDOG=1");
                pings.push(second);
            }
        }
        assert_eq!(pings, [0, 2, 4, 6]);
    }

    #[test]
    fn a_path_is_an_address_and_a_service_manager_that_does_not_read_is_not_waited_for() {
        let path = env::temp_dir().join(format!("relay-notify-{}", process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = ServiceManager::at(path.as_os_str(), None).unwrap();
        assert_eq!(manager.interval(), None);
        let started = Instant::now();
        // More than the socket holds.
        let mut number = 0;
        while started.elapsed() < PATIENCE {
            number += 1;
            manager.set_status(&format!("{number}"));
        }
        let took = started.elapsed();
        assert!(took < 4 * PATIENCE, "{took:?} for {number}");
        drop(socket);
        fs::remove_file(&path).unwrap();
        manager.stopping();
        assert!(ServiceManager::at(OsStr::new("relative"), None).is_err());
        assert!(ServiceManager::at(OsStr::new(""), None).is_err());
        ServiceManager::none().ready("");
    }
}
