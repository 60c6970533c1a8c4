//! Hosts of the testbed: network namespaces with unique names.
//!
//! They are bound under `/run/netns` as iproute2 does it, so `ip netns` sees them and
//! `cargo xtask clean-net` finds what a killed run left behind. Dropping one removes it; the kernel
//! destroys the interfaces in it when the last socket is closed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::background::eventually;

/// Where iproute2 keeps the names of namespaces.
const NETNS_DIR: &str = "/run/netns";

/// Every name begins with this.
pub const PREFIX: &str = "relay-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One network namespace, removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    handle: File,
}

impl Namespace {
    /// Creates `relay-<pid>-<n>-<role>` with the loopback interface up, IPv6 off (no neighbour
    /// discovery beside the traffic under test) and no reverse path filter.
    pub fn new(role: &str) -> Result<Self> {
        prepare_directory().with_context(|| format!("preparing {NETNS_DIR}, are you root?"))?;
        let (name, path) = reserve_name(role)?;
        let bound = {
            let path = path.clone();
            thread::spawn(move || bind_new_namespace(&path)).join()
        };
        let opened = match bound {
            Ok(Ok(())) => File::open(&path).context("opening the new namespace"),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(anyhow!("the thread that creates the namespace panicked")),
        };
        let handle = match opened {
            Ok(handle) => handle,
            Err(e) => {
                remove(&path);
                return Err(e.context(format!("creating network namespace {name}")));
            }
        };
        let namespace = Self { name, path, handle };
        namespace.ip("link set lo up")?;
        for (key, value) in [
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        Ok(namespace)
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it opens stay in the namespace
    /// and may be used from any thread afterwards.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering network namespace {}", self.name))?;
                work()
            });
            worker
                .join()
                .map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    /// A command that will run inside the namespace and that the kernel kills when the thread that
    /// started it ends, so that a killed test run leaves no process behind.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = self.handle.as_raw_fd();
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        // The descriptor is open for as long as `self` lives; if the caller spawns later than that,
        // `setns` fails and so does the spawn.
        unsafe {
            command.pre_exec(move || {
                let killed = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if killed < 0 || libc::setns(handle, libc::CLONE_NEWNET) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    /// Runs a tool inside the namespace to its end and returns what it printed.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null());
        let what = || {
            format!(
                "`{program} {}` in namespace {}",
                arguments.join(" "),
                self.name
            )
        };
        let output = command
            .output()
            .with_context(|| format!("running {}", what()))?;
        if !output.status.success() {
            bail!(
                "{} ended with {}: {}",
                what(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ip` with the words of `arguments`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.tool("ip", &arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// How many packet sockets are open here.
    pub fn packet_sockets(&self) -> Result<usize> {
        let path = "/proc/thread-self/net/packet";
        self.run(|| {
            let table = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
            Ok(table.lines().skip(1).count())
        })
    }

    /// Waits until none is open here, at most for five seconds: io_uring's own references go a
    /// moment after the process, by a work queue (`io_ring_exit_work`).
    pub fn wait_for_no_packet_socket(&self) -> Result<()> {
        let none_is_open = || self.packet_sockets().is_ok_and(|open| open == 0);
        match eventually(Duration::from_secs(5), none_is_open) {
            Some(_) => Ok(()),
            None => bail!("{} packet sockets stay open", self.packet_sockets()?),
        }
    }

    /// Writes `/proc/sys/net/<key>`, with slashes.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| match fs::write(&path, value) {
            // A kernel without IPv6 has nothing to switch off.
            Err(e) if e.kind() == io::ErrorKind::NotFound && key.starts_with("ipv6/") => Ok(()),
            result => result.with_context(|| format!("writing {value} to {path}")),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Makes `/run/netns` a shared mount, as `ip netns add` does, so that names added here and by
/// iproute2 stay visible to each other.
fn prepare_directory() -> Result<()> {
    fs::create_dir_all(NETNS_DIR).with_context(|| format!("creating {NETNS_DIR}"))?;
    let directory = File::open(NETNS_DIR).with_context(|| format!("opening {NETNS_DIR}"))?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .with_context(|| format!("locking {NETNS_DIR}"))?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, NETNS_DIR, None::<&str>, flags, None::<&str>)
    };
    match share() {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(
                Some(NETNS_DIR),
                NETNS_DIR,
                None::<&str>,
                flags,
                None::<&str>,
            )
            .with_context(|| format!("binding {NETNS_DIR} to itself"))?;
            share().with_context(|| format!("sharing {NETNS_DIR}"))
        }
        Err(e) => Err(e).with_context(|| format!("sharing {NETNS_DIR}")),
    }
}

/// Creates the file of the name; the process that creates it owns the name.
fn reserve_name(role: &str) -> Result<(String, PathBuf)> {
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{n}-{role}", std::process::id());
        let path = Path::new(NETNS_DIR).join(&name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => return Ok((name, path)),
            // A killed process that had the same id left it behind.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("creating {}", path.display())),
        }
    }
}

/// Moves the calling thread, which must end afterwards, into a new namespace and binds it to
/// `path`.
fn bind_new_namespace(path: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET), are you root?")?;
    let source = Some("/proc/thread-self/ns/net");
    mount(source, path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding the namespace to {}", path.display()))
}

/// Removes a name. Errors are ignored: `clean-net` removes what stays.
fn remove(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}
