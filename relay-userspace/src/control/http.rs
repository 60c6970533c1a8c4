//! Metrics, health and status over HTTP, for programs: read only, and off unless the rule file has
//! a table `[metrics]`.
//!
//! A thread of its own serves them, with hyper on a runtime that has no other thread. It reads the
//! snapshots that the main thread makes for the control socket as well, so all views show the same
//! numbers. Whatever clients do costs a bounded number of connections, each for a bounded time, and
//! a bounded number of texts: the datapath never waits for any of it.

mod answer;
mod server;
#[cfg(test)]
mod tests;
mod texts;

use super::server::ControlError;
use crate::{
    config::rules::{Listen, Metrics},
    daemon::requests::Handle,
};

pub use self::server::HttpError;
use self::server::HttpServer;

/// Serves what the rules ask for, as they change.
pub struct HttpServers {
    handle: Handle,
    serves: Option<(Metrics, HttpServer)>,
}

impl HttpServers {
    /// Serves nothing yet. What it will show comes from `handle`.
    #[must_use]
    pub const fn new(handle: Handle) -> Self {
        Self {
            handle,
            serves: None,
        }
    }

    /// Serves what `metrics` asks for from now on; nothing without it. Says where, if that is new.
    ///
    /// # Errors
    ///
    /// It cannot listen there; what was served before is served still, unless it was at the same
    /// place.
    pub fn follow(&mut self, metrics: Option<&Metrics>) -> Result<Option<Listen>, HttpError> {
        let Some(wanted) = metrics else {
            self.serves = None;
            return Ok(None);
        };
        match &self.serves {
            Some((served, _)) if served == wanted => return Ok(None),
            // The place must be free before it can be taken again.
            Some((served, _)) if served.listen == wanted.listen => self.serves = None,
            _ => {}
        }
        let server = HttpServer::start(self.handle.clone(), wanted)?;
        self.serves = Some((wanted.clone(), server));
        Ok(Some(wanted.listen.clone()))
    }
}

/// Why there is no Unix socket, in the words of this module.
fn of_socket(error: &ControlError) -> String {
    match error {
        ControlError::InUse { process, .. } => format!("{process} listens there already"),
        ControlError::NotASocket { .. } => "the file there is not a socket".into(),
        ControlError::Folder { error, .. }
        | ControlError::Bind { error, .. }
        | ControlError::Rights { error, .. }
        | ControlError::Thread(error) => error.to_string(),
        ControlError::NoSuchGroup { .. } => error.to_string(),
    }
}
