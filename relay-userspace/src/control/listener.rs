//! The socket file: made, replaced if a dead relay left it, and removed.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
        socket, sockopt::PeerCredentials,
    },
    unistd::{Gid, Group, chown},
};

use super::{
    DEFAULT_MODE, MOST_CLIENTS,
    server::{ControlError, SocketOptions},
};
use crate::config::quoted;

/// The mode of the folder.
const FOLDER_MODE: u32 = 0o755;
/// How long a relay waits for others that make their sockets in the same folder.
const LOCKED: Duration = Duration::from_secs(1);

/// The socket that clients connect to. Dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

/// A socket file that this process has made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another relay may have replaced the file.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // If this fails, the next relay replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Listener {
    /// Makes the socket.
    ///
    /// # Errors
    ///
    /// Another relay serves at this path, or the system refuses it.
    pub fn new(options: &SocketOptions, group: Option<Gid>) -> Result<Self, ControlError> {
        let path = options.path.as_path();
        make_folder(path)?;
        // Until the socket listens, it looks like one that a dead relay left.
        let _lock = lock_folder(path);
        clear(path)?;
        let refused = |error: Errno| ControlError::Bind {
            path: path.into(),
            error: error.into(),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(refused)?;
        let address = UnixAddr::new(path).map_err(refused)?;
        bind(socket.as_raw_fd(), &address).map_err(refused)?;
        let file = SocketFile {
            path: path.into(),
            identity: identity(path).map_err(|error| ControlError::Bind {
                path: path.into(),
                error,
            })?,
        };
        // No client connects before the rights are set: the socket does not listen yet.
        let of_path = |error| ControlError::Rights {
            path: path.into(),
            error,
        };
        if group.is_some() {
            chown(path, None, group).map_err(|error| of_path(error.into()))?;
        }
        let mode = options.mode.unwrap_or(DEFAULT_MODE);
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(of_path)?;
        let backlog = Backlog::new(MOST_CLIENTS as i32).unwrap_or(Backlog::MAXCONN);
        listen(&socket, backlog).map_err(refused)?;
        let listener = UnixListener::from(socket);
        Ok(Self { listener, file })
    }

    /// The socket, to wait for clients.
    pub fn socket(&self) -> &UnixListener {
        &self.listener
    }

    /// The next client that waits, on a socket that does not block.
    ///
    /// # Errors
    ///
    /// None waits, or the system refuses it.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// The group that the user named, by name or number.
///
/// # Errors
///
/// There is no such group.
pub fn group(name: &str) -> Result<Gid, ControlError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(ControlError::NoSuchGroup { name: quoted(name) }),
    }
}

/// The folder that `path` names; `None` if that is the working folder.
fn folder_of(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
}

fn make_folder(path: &Path) -> Result<(), ControlError> {
    let Some(folder) = folder_of(path) else {
        return Ok(());
    };
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        // The umask may have taken some of it.
        .and_then(|()| fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)));
    made.map_err(|error| ControlError::Folder {
        folder: folder.into(),
        error,
    })
}

/// Keeps other relays that start at the same time out of the folder for as long as it lives. Where
/// the folder cannot be locked, or somebody does not let go of it, it goes without: the lock only
/// closes a gap of microseconds.
fn lock_folder(path: &Path) -> Option<Flock<File>> {
    let mut folder = File::open(folder_of(path).unwrap_or(Path::new("."))).ok()?;
    let until = Instant::now() + LOCKED;
    while Instant::now() < until {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => folder = back,
            Err(_) => return None,
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Removes the file that a dead relay left at `path`.
fn clear(path: &Path) -> Result<(), ControlError> {
    let refused = |error| ControlError::Bind {
        path: path.into(),
        error,
    };
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
    };
    if !file.file_type().is_socket() {
        return Err(ControlError::NotASocket { path: path.into() });
    }
    if let Some(process) = server_at(path).map_err(refused)? {
        return Err(ControlError::InUse {
            path: path.into(),
            process,
        });
    }
    fs::remove_file(path).map_err(refused)
}

/// The process that listens at `path`; `None` if none does.
fn server_at(path: &Path) -> io::Result<Option<String>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => {
            let pid = getsockopt(&socket, PeerCredentials)?.pid();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Ok(Some(format!("process {pid} ({})", quoted(name.trim_end()))))
        }
        // More clients wait than the server has room for.
        Err(Errno::EAGAIN) => Ok(Some("a process that is busy".into())),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
