//! The control thread: started with its socket, ended and cleaned up when its [`Server`] is
//! dropped.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Release},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use thiserror::Error;

use super::{
    IDLE,
    listener::{self, Listener},
    rights::Owners,
    service::{Answers, Service},
};
use crate::{
    daemon::{helper_thread, privileges::give_up, requests::Handle},
    host::{Bell, limits},
};

/// Where the control socket is, and who may open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// The socket file.
    pub path: PathBuf,
    /// The name or number of the file's group, whose members may change things; `None` leaves the
    /// relay's own.
    pub group: Option<String>,
    /// The file's mode; `None` means [`super::DEFAULT_MODE`].
    pub mode: Option<u32>,
}

/// Why there is no control socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The folder of the socket cannot be made.
    #[error(
        "cannot make the folder {} of the control socket: {error}; make it, or give another path \
         with `--control`",
        folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Another process serves there.
    #[error(
        "{process} serves the control socket {} already; stop it, or give this relay a name of its \
         own with `--name`",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The process.
        process: String,
    },
    /// The file there is something else.
    #[error(
        "{} is not a socket, so the relay leaves it; give another path with `--control`",
        path.display()
    )]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The group does not exist.
    #[error("there is no group {name}; `getent group` lists them")]
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// The socket cannot be made.
    #[error(
        "cannot make the control socket {}: {error}; give another path with `--control`",
        path.display()
    )]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Group or mode cannot be set.
    #[error(
        "cannot set group and mode of the control socket {}: {error}; run the relay as a member of \
         that group, or leave `--control-group` out",
        path.display()
    )]
    Rights {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The thread cannot be started.
    #[error(
        "cannot start the thread of the control socket: {0}{remedy}",
        remedy = limits::of_threads()
    )]
    Thread(#[source] io::Error),
}

/// The control socket, served by a thread of its own. Dropping it hands out the answers that are
/// there, ends the thread and removes the socket file.
#[derive(Debug)]
pub struct Server {
    listener: Arc<Listener>,
    stop: Arc<AtomicBool>,
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves at once. What clients ask for goes to `handle`.
    ///
    /// # Errors
    ///
    /// Another relay serves at this path, or the system refuses the socket or the thread.
    pub fn start(handle: Handle, options: SocketOptions) -> Result<Self, ControlError> {
        Self::with_idle(handle, &options, IDLE)
    }

    /// As [`Server::start`], with another bound for clients without progress.
    pub(super) fn with_idle(
        handle: Handle,
        options: &SocketOptions,
        idle: Duration,
    ) -> Result<Self, ControlError> {
        let group = options.group.as_deref().map(listener::group).transpose()?;
        let listener = Arc::new(Listener::new(options, group)?);
        let bell = Bell::new().map_err(ControlError::Thread)?;
        let answers = Arc::new(Answers::new(bell.clone()));
        let owners = Owners::new(group);
        let service = Service::new(handle, Arc::clone(&listener), owners, answers, idle);
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let work = move || {
            give_up::all_of_server("control socket");
            service.run(&stops);
        };
        let thread = thread::Builder::new()
            .name("relay-control".into())
            .spawn(work)
            .map_err(ControlError::Thread)?;
        Ok(Self {
            listener,
            stop,
            bell,
            thread: Some(thread),
        })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.listener.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            helper_thread::join(thread);
        }
    }
}
