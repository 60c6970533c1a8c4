//! Notices that the rule file was replaced or rewritten.
//!
//! inotify on the file's folder tells at once of a save by rename, of a write in place, and of a
//! symbolic link that is swapped in the folder (a ConfigMap of Kubernetes swaps `..data`). Besides,
//! the file's identity is looked at once per second. So what inotify does not tell is noticed as
//! well: a link swapped elsewhere on the path, a folder that was replaced, a file on a network.
//!
//! A change is reported once the file has rested for 200 ms, so that most half-written files are
//! not read; one that is has mistakes, and changes nothing.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use log::{Level, warn};
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};

use crate::events::Event;

/// How long the file must rest before it is read.
const QUIET: Duration = Duration::from_millis(200);
/// How often its identity is looked at without an event.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The target of the lines.
const LOG: &str = module_path!();

/// Watches one file.
#[derive(Debug)]
pub struct FileWatch {
    file: PathBuf,
    folder: PathBuf,
    name: OsString,
    /// `None` if the kernel refuses it: then the looks must do.
    inotify: Option<Inotify>,
    /// The folder that inotify watches.
    watched: Option<Watched>,
    /// The file as it was at the last look; `None` if there was none.
    seen: Option<Identity>,
    /// When the file was last seen to change, until that is reported.
    changing: Option<Instant>,
    looked: Instant,
    /// The log says already that the file or its folder is missing.
    told_missing: bool,
}

/// A folder that inotify watches.
#[derive(Debug)]
struct Watched {
    descriptor: WatchDescriptor,
    device: u64,
    inode: u64,
}

/// What differs between two versions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// Of the content and of the inode: seconds and nanoseconds.
    times: [i64; 4],
}

impl Identity {
    fn of(file: &Path) -> Option<Self> {
        let meta = fs::metadata(file).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            times: [
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ],
        })
    }
}

impl FileWatch {
    /// Watches `file` from now on. Call it before the file is read for the first time.
    #[must_use]
    pub fn start(file: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.inspect_err(|error| {
            warn!(
                "changes of {} are noticed within a second and not at once: the kernel refuses inotify: {error}; raise \
                 `sysctl fs.inotify.max_user_instances`",
                file.display()
            );
        });
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let seen = Identity::of(file);
        let mut watch = Self {
            folder,
            name: file.file_name().map(OsStr::to_owned).unwrap_or_default(),
            file: file.to_owned(),
            inotify: inotify.ok(),
            watched: None,
            seen,
            changing: None,
            looked: Instant::now(),
            told_missing: false,
        };
        watch.watch_folder();
        watch
    }

    /// The descriptor to wait on, see `daemon::wait`: call [`FileWatch::changed`] when it is
    /// readable. `None` if the kernel refuses inotify.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(Inotify::as_fd)
    }

    /// When [`FileWatch::changed`] must be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let look = self.looked + LOOK_EVERY;
        self.changing.map_or(look, |at| look.min(at + QUIET))
    }

    /// Whether the file has changed and rests now; true once per change.
    pub fn changed(&mut self) -> bool {
        let now = Instant::now();
        let written = self.read_events();
        if written || now >= self.deadline() {
            self.looked = now;
            self.watch_folder();
        }
        let identity = Identity::of(&self.file);
        if written || identity != self.seen {
            self.seen = identity;
            self.changing = Some(now);
            return false;
        }
        self.report_missing(now);
        let rests = self.changing.is_some_and(|at| now >= at + QUIET);
        if rests {
            self.changing = None;
        }
        // A file that has gone changes nothing until there is one again.
        rests && identity.is_some()
    }

    /// Reads the events that wait. Returns whether one is about the file itself: also a version of
    /// the same size that was written within one tick of the file system's clock counts.
    fn read_events(&mut self) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        let mut written = false;
        loop {
            match inotify.read_events() {
                Ok(events) => {
                    let mut ours = events
                        .iter()
                        .filter(|event| event.name.as_deref() == Some(&*self.name));
                    written |= ours.next().is_some();
                    // The kernel has ended the watch: the folder is gone.
                    let ended = |watched: &Watched| {
                        events.iter().any(|event| {
                            event.wd == watched.descriptor
                                && event.mask.contains(AddWatchFlags::IN_IGNORED)
                        })
                    };
                    if self.watched.as_ref().is_some_and(ended) {
                        self.watched = None;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return written,
            }
        }
    }

    /// Lets inotify watch the folder that has the path now.
    fn watch_folder(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let Ok(meta) = fs::metadata(&self.folder) else {
            return;
        };
        let is_it = |one: &Watched| (one.device, one.inode) == (meta.dev(), meta.ino());
        if self.watched.as_ref().is_some_and(is_it) {
            return;
        }
        if let Some(old) = self.watched.take() {
            // It fails if the folder has gone.
            let _ = inotify.rm_watch(old.descriptor);
        }
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ONLYDIR;
        // If it fails, the next look tries again, and the looks notice changes meanwhile.
        if let Ok(descriptor) = inotify.add_watch(&self.folder, flags) {
            self.watched = Some(Watched {
                descriptor,
                device: meta.dev(),
                inode: meta.ino(),
            });
        }
    }

    /// Logs once that the file has gone, and once that it is back.
    fn report_missing(&mut self, now: Instant) {
        let missing = self.seen.is_none();
        let rests = self.changing.is_none_or(|at| now >= at + QUIET);
        if missing == self.told_missing || !rests {
            return;
        }
        self.told_missing = missing;
        let file = self.file.display();
        if missing {
            let text = format!(
                "{file} is not there any more; the relay goes on with its rules, and looks for the file"
            );
            Event::new(LOG, Level::Warn, "rule file", &text)
                .turn("gone")
                .say();
        } else {
            let text = format!("{file} is there again");
            Event::new(LOG, Level::Info, "rule file", &text)
                .turn("there")
                .say();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process};

    use super::*;
    use crate::daemon::wait::wait;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("relay-watch-{name}-{}", process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Waits as a main loop does, until a change is reported or `patience` is over.
    fn reported(watch: &mut FileWatch, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            wait([watch.fd()], watch.deadline().min(end));
            if watch.changed() {
                return true;
            }
        }
        false
    }

    const LONG: Duration = Duration::from_secs(20);
    /// Longer than the rest and a look.
    const SHORT: Duration = Duration::from_millis(1500);

    #[test]
    fn a_save_by_rename_and_a_write_in_place_are_each_reported_once() {
        let folder = Folder::new("saves");
        let file = folder.at("relay.toml");
        fs::write(&file, "one").unwrap();
        let mut watch = FileWatch::start(&file);
        assert!(!reported(&mut watch, SHORT), "nothing has changed");
        fs::write(folder.at("other"), "x").unwrap();
        assert!(!reported(&mut watch, SHORT), "another file");
        fs::write(folder.at(".relay.toml.swp"), "two").unwrap();
        fs::rename(folder.at(".relay.toml.swp"), &file).unwrap();
        assert!(reported(&mut watch, LONG), "renamed");
        assert!(!reported(&mut watch, SHORT), "once");
        fs::write(&file, "two").unwrap();
        assert!(reported(&mut watch, LONG), "written, with the same text");
        assert!(!reported(&mut watch, SHORT), "once");
    }

    #[test]
    fn a_file_that_is_still_written_is_not_reported() {
        use std::io::Write as _;
        let folder = Folder::new("slow");
        let file = folder.at("relay.toml");
        fs::write(&file, "one").unwrap();
        let mut watch = FileWatch::start(&file);
        let mut writing = fs::File::create(&file).unwrap();
        for _ in 0..10 {
            writing.write_all(b"a line\n").unwrap();
            assert!(!reported(&mut watch, Duration::from_millis(100)));
        }
        drop(writing);
        assert!(reported(&mut watch, LONG));
    }

    #[test]
    fn a_config_map_is_reported_when_its_link_is_swapped() {
        let folder = Folder::new("config-map");
        let version = |name: &str, text: &str| {
            fs::create_dir(folder.at(name)).unwrap();
            fs::write(folder.at(name).join("relay.toml"), text).unwrap();
            symlink(name, folder.at("..data_tmp")).unwrap();
            fs::rename(folder.at("..data_tmp"), folder.at("..data")).unwrap();
        };
        version("..1", "one");
        symlink("..data/relay.toml", folder.at("relay.toml")).unwrap();
        let mut watch = FileWatch::start(&folder.at("relay.toml"));
        version("..2", "two");
        fs::remove_dir_all(folder.at("..1")).unwrap();
        let started = Instant::now();
        assert!(reported(&mut watch, LONG));
        assert!(started.elapsed() >= QUIET);
        assert!(!reported(&mut watch, SHORT), "once");
    }

    #[test]
    fn a_folder_that_is_replaced_is_watched_again() {
        let folder = Folder::new("replaced");
        let inner = folder.at("inner");
        let file = inner.join("relay.toml");
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "one").unwrap();
        let mut watch = FileWatch::start(&file);
        fs::remove_dir_all(&inner).unwrap();
        assert!(!reported(&mut watch, SHORT), "gone: nothing to read");
        assert!(watch.told_missing);
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "one").unwrap();
        assert!(reported(&mut watch, LONG), "there again");
        assert!(!reported(&mut watch, SHORT), "once");
        fs::rename(&inner, folder.at("old")).unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "three").unwrap();
        assert!(reported(&mut watch, LONG), "another folder");
        fs::write(&file, "four").unwrap();
        assert!(reported(&mut watch, LONG), "and it is watched");
    }
}
