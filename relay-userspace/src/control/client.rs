//! The client: one connection to a running relay, one call at a time.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket,
            sockopt::{ReceiveTimeout, SendTimeout},
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{
    MOST_BYTES,
    fault::Fault,
    interface::CONTROL,
    message::{self, Call, END, Reply},
    methods::{self, RulesParameters, TapReply},
    tap_client::TapClient,
};
use crate::{
    config::quoted,
    daemon::requests::{Answer, Refusal, Request, TapRequest},
    observe::snapshot::{RuleStatus, Snapshot},
};

/// How long the relay may be silent while the client waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The bytes of a reply: more than the status of as many rules as a file may have takes.
const MOST_REPLY: usize = 256 << 20;

/// What follows a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// One reply.
    One,
    /// Replies until the client closes.
    More,
    /// One reply, and then another protocol.
    Upgrade,
}

/// Why a call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No relay serves there.
    #[error(
        "no relay serves {}: {error}; start one with `relay run`, or name it with `--name` or \
         `--control`",
        path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The system or the relay does not permit it.
    #[error("not permitted on {}: {message}", path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
        /// Who may.
        message: String,
    },
    /// The relay refused it.
    #[error(transparent)]
    Refused(#[from] RefusedBy),
    /// The relay answered with another error.
    #[error("{0}")]
    Fault(Fault),
    /// The connection failed.
    #[error("the connection to {} failed: {error}; `relay status` tells whether it still runs", path.display())]
    Connection {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The request is larger than the relay reads.
    #[error(
        "the request has {bytes} bytes, and the relay reads at most {MOST_BYTES}; split the rule file"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// What serves there is no relay, or one of another version.
    #[error("{} does not answer like this version of the relay: {what}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What was expected or came.
        what: String,
    },
}

/// A refusal, as an error.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct RefusedBy(pub Refusal);

/// A connection to a running relay.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    received: Vec<u8>,
}

#[derive(Deserialize)]
struct StatusReply {
    status: Snapshot,
}

#[derive(Deserialize)]
struct RulesReply {
    rules: Vec<RuleStatus>,
}

impl Client {
    /// Connects to the relay that serves at `path`.
    ///
    /// # Errors
    ///
    /// None does, or this user may not connect.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = open(path).map_err(|error| match error {
            Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR => ClientError::NotRunning {
                path: path.into(),
                error: error.into(),
            },
            Errno::EACCES | Errno::EPERM => ClientError::NotPermitted {
                path: path.into(),
                message: format!("{}; use `sudo`", error.desc()),
            },
            error => ClientError::Connection {
                path: path.into(),
                error: error.into(),
            },
        })?;
        Ok(Self {
            stream,
            path: path.into(),
            received: Vec::new(),
        })
    }

    /// The status.
    ///
    /// # Errors
    ///
    /// The call failed.
    pub fn status(&mut self) -> Result<Snapshot, ClientError> {
        self.send("Status", None, After::One)?;
        Ok(self.receive::<StatusReply>("a status")?.status)
    }

    /// The status, once per second.
    ///
    /// # Errors
    ///
    /// The call failed.
    pub fn watch(
        mut self,
    ) -> Result<impl Iterator<Item = Result<Snapshot, ClientError>>, ClientError> {
        self.send("Status", None, After::More)?;
        Ok(std::iter::from_fn(move || {
            let reply = self.receive::<StatusReply>("a status");
            Some(reply.map(|reply| reply.status))
        }))
    }

    /// All rules, or the one of this name.
    ///
    /// # Errors
    ///
    /// The call failed, or there is no such rule.
    pub fn rules(&mut self, name: Option<&str>) -> Result<Vec<RuleStatus>, ClientError> {
        let name = name.map(str::to_owned);
        let parameters = serde_json::value::to_raw_value(&RulesParameters { name });
        let parameters = parameters.map_err(|error| self.protocol(error.to_string()))?;
        self.send("Rules", Some(&parameters), After::One)?;
        Ok(self.receive::<RulesReply>("rules")?.rules)
    }

    /// Asks for something that the main thread does.
    ///
    /// # Errors
    ///
    /// The call failed, or the relay refused it.
    pub fn ask(&mut self, request: Request) -> Result<Answer, ClientError> {
        let call = methods::call(request).map_err(|error| self.protocol(error.to_string()));
        let (method, parameters) = call?;
        self.send(method, parameters.as_deref(), After::One)?;
        let parameters: Box<RawValue> = self.receive("parameters")?;
        methods::answer(method, parameters.get())
            .ok_or_else(|| self.protocol(format!("to `{method}`, {}", quoted(parameters.get()))))
    }

    /// Begins a tap.
    ///
    /// # Errors
    ///
    /// The call failed, or the relay refused it.
    pub fn tap(mut self, request: TapRequest) -> Result<TapClient, ClientError> {
        let call = methods::call(Request::Tap(request));
        let (method, parameters) = call.map_err(|error| self.protocol(error.to_string()))?;
        self.send(method, parameters.as_deref(), After::Upgrade)?;
        let TapReply { interfaces } = self.receive("the interfaces of a tap")?;
        let Self {
            stream,
            path,
            received,
        } = self;
        let tap = TapClient::new(stream, received, interfaces);
        tap.map_err(|error| ClientError::Connection { path, error })
    }

    fn send(
        &mut self,
        method: &str,
        parameters: Option<&RawValue>,
        after: After,
    ) -> Result<(), ClientError> {
        let message = message::message(&Call {
            method: format!("{CONTROL}.{method}").into(),
            parameters,
            more: (after == After::More).then_some(true),
            oneway: None,
            upgrade: (after == After::Upgrade).then_some(true),
        });
        if message.len() > MOST_BYTES {
            let bytes = message.len();
            return Err(ClientError::TooLarge { bytes });
        }
        match self.stream.write_all(&message) {
            // The relay may have refused the client, and closed: its reply says so. The kernel says
            // the one or the other, as the relay had read all that was sent or had not.
            Err(error) if is_closed(&error) => Ok(()),
            result => result.map_err(|error| self.connection(error)),
        }
    }

    fn receive<T: DeserializeOwned>(&mut self, expected: &str) -> Result<T, ClientError> {
        let message = self.message()?;
        let reply: Reply<'_> = serde_json::from_slice(&message)
            .map_err(|error| self.protocol(format!("{error} in its reply")))?;
        if let Some(name) = reply.error {
            return Err(match serde_json::from_slice::<Fault>(&message) {
                Ok(fault) => self.fault(fault),
                Err(_) => self.protocol(format!("error {}", quoted(&name))),
            });
        }
        let parameters = reply.parameters.map_or("{}", RawValue::get);
        serde_json::from_str(parameters)
            .map_err(|error| self.protocol(format!("instead of {expected}: {error}")))
    }

    /// The next message, without its end.
    fn message(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut searched = 0;
        loop {
            let unsearched = self.received.get(searched..).unwrap_or_default();
            if let Some(at) = unsearched.iter().position(|byte| *byte == END) {
                let end = searched + at;
                let rest = self.received.split_off(end + 1);
                let mut message = std::mem::replace(&mut self.received, rest);
                message.truncate(end);
                return Ok(message);
            }
            searched = self.received.len();
            if searched > MOST_REPLY {
                return Err(self.protocol(format!("more than {MOST_REPLY} bytes")));
            }
            let mut chunk = [0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.connection(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    let chunk = chunk.get(..count).unwrap_or_default();
                    self.received.extend_from_slice(chunk);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.connection(error)),
            }
        }
    }

    fn fault(&self, fault: Fault) -> ClientError {
        match fault.into_refusal() {
            Ok(refusal) => RefusedBy(refusal).into(),
            Err(Fault::NotPermitted { message }) => ClientError::NotPermitted {
                path: self.path.clone(),
                message,
            },
            // Only who may change nothing has a smaller limit, and a request that large is a change.
            Err(Fault::TooLarge { limit }) if limit < MOST_BYTES as u64 => {
                ClientError::NotPermitted {
                    path: self.path.clone(),
                    message: format!(
                        "this user may only ask: the relay reads at most {limit} bytes of a \
                         message from users who may change nothing; run this as root, as the \
                         relay's user, or as a member of the socket's group"
                    ),
                }
            }
            Err(fault) => ClientError::Fault(fault),
        }
    }

    fn connection(&self, error: io::Error) -> ClientError {
        let error = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer for {} s", PATIENCE.as_secs()),
            ),
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), "the relay closed it without an answer")
            }
            _ => error,
        };
        ClientError::Connection {
            path: self.path.clone(),
            error,
        }
    }

    fn protocol(&self, what: String) -> ClientError {
        ClientError::Protocol {
            path: self.path.clone(),
            what,
        }
    }
}

/// Whether the other end has closed the connection.
fn is_closed(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Connects; the timeout holds for this as well, where a server's queue is full.
fn open(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
    setsockopt(&socket, SendTimeout, &patience)?;
    setsockopt(&socket, ReceiveTimeout, &patience)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}
