//! Every error that a reply can carry, with its name and parameters on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{config::quoted, daemon::requests::Refusal};

/// An error reply. Its JSON is the whole reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Fault {
    /// The rules have mistakes, as `relay check` prints them.
    #[serde(rename = "io.github.relay.Control.Mistakes")]
    Mistakes {
        /// The mistakes.
        text: String,
    },
    /// A reload would discard what was changed by command.
    #[serde(rename = "io.github.relay.Control.WouldDiscard")]
    WouldDiscard {
        /// The rules, each with what was done.
        changes: Vec<String>,
    },
    /// There is no rule of this name.
    #[serde(rename = "io.github.relay.Control.NoSuchRule")]
    NoSuchRule {
        /// The name.
        name: String,
    },
    /// Too many requests wait.
    #[serde(rename = "io.github.relay.Control.Busy")]
    Busy,
    /// The last change waits for its confirmation.
    #[serde(rename = "io.github.relay.Control.Unconfirmed")]
    Unconfirmed,
    /// No change waits for its confirmation.
    #[serde(rename = "io.github.relay.Control.NothingToConfirm")]
    NothingToConfirm,
    /// There is no change to take back.
    #[serde(rename = "io.github.relay.Control.NothingToUndo")]
    NothingToUndo,
    /// There is nothing to tap, or too much is tapped already.
    #[serde(rename = "io.github.relay.Control.CannotTap")]
    CannotTap {
        /// Why, and what to do.
        reason: String,
    },
    /// The kernel, or this machine, refused it.
    #[serde(rename = "io.github.relay.Control.Refused")]
    Refused {
        /// What was tried, on what, and what to do.
        reason: String,
        /// Whether everything is as before.
        restored: bool,
    },
    /// The relay ends.
    #[serde(rename = "io.github.relay.Control.Ending")]
    Ending,
    /// The client may not do this.
    #[serde(rename = "io.github.relay.Control.NotPermitted")]
    NotPermitted {
        /// Who may.
        message: String,
    },
    /// The relay is still starting and has no status yet.
    #[serde(rename = "io.github.relay.Control.NotReady")]
    NotReady,
    /// As many clients as the relay serves are connected.
    #[serde(rename = "io.github.relay.Control.TooManyClients")]
    TooManyClients {
        /// How many it serves.
        limit: u64,
    },
    /// The message is larger than the relay reads from this client.
    #[serde(rename = "io.github.relay.Control.TooLarge")]
    TooLarge {
        /// The most bytes of a message.
        limit: u64,
    },
    /// The message is no call.
    #[serde(rename = "io.github.relay.Control.NotACall")]
    NotACall {
        /// Why not.
        reason: String,
    },
    /// There is no such method.
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    MethodNotFound {
        /// The method.
        method: String,
    },
    /// There is no such interface.
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    InterfaceNotFound {
        /// The interface.
        interface: String,
    },
    /// A parameter is wrong, missing or unknown.
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    InvalidParameter {
        /// Which, and why.
        parameter: String,
    },
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Mistakes(text) => Self::Mistakes { text },
            Refusal::WouldDiscard(changes) => Self::WouldDiscard { changes },
            Refusal::NoSuchRule(name) => Self::NoSuchRule { name },
            Refusal::Busy => Self::Busy,
            Refusal::Unconfirmed => Self::Unconfirmed,
            Refusal::NothingToConfirm => Self::NothingToConfirm,
            Refusal::NothingToUndo => Self::NothingToUndo,
            Refusal::CannotTap(reason) => Self::CannotTap { reason },
            Refusal::Refused { reason, restored } => Self::Refused { reason, restored },
            Refusal::Ending => Self::Ending,
        }
    }
}

impl Fault {
    /// The refusal that this error carries.
    ///
    /// # Errors
    ///
    /// The error itself, if the request did not reach the main thread.
    pub fn into_refusal(self) -> Result<Refusal, Self> {
        Ok(match self {
            Self::Mistakes { text } => Refusal::Mistakes(text),
            Self::WouldDiscard { changes } => Refusal::WouldDiscard(changes),
            Self::NoSuchRule { name } => Refusal::NoSuchRule(name),
            Self::Busy => Refusal::Busy,
            Self::Unconfirmed => Refusal::Unconfirmed,
            Self::NothingToConfirm => Refusal::NothingToConfirm,
            Self::NothingToUndo => Refusal::NothingToUndo,
            Self::CannotTap { reason } => Refusal::CannotTap(reason),
            Self::Refused { reason, restored } => Refusal::Refused { reason, restored },
            Self::Ending => Refusal::Ending,
            other => return Err(other),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted { message } => f.write_str(message),
            Self::NotReady => f.write_str("the relay is still starting; try again in a second"),
            Self::TooManyClients { limit } => write!(
                f,
                "the relay serves {limit} clients at once, and as many are connected; try again"
            ),
            Self::TooLarge { limit } => {
                write!(f, "the relay reads at most {limit} bytes from this client")
            }
            Self::NotACall { reason } => write!(f, "the message is no varlink call: {reason}"),
            Self::MethodNotFound { method } => write!(
                f,
                "this relay has no method {}; it may be older than this command",
                quoted(method)
            ),
            Self::InterfaceNotFound { interface } => {
                write!(f, "this relay has no interface {}", quoted(interface))
            }
            Self::InvalidParameter { parameter } => write!(
                f,
                "this relay does not take the parameters ({}); it may be older than this command",
                quoted(parameter)
            ),
            other => match other.clone().into_refusal() {
                Ok(refusal) => refusal.fmt(f),
                Err(_) => Ok(()),
            },
        }
    }
}
