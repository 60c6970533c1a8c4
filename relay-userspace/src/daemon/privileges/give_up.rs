//! Gives up capabilities once everything is set up, so that an attacker who takes over the relay
//! through a defect holds no more than open sockets and maps.
//!
//! Capabilities belong to threads (capabilities(7)), and a new thread inherits those of the thread
//! that starts it. So a thread that gives them up does so for all threads that it starts later, and
//! for no other.

use std::io;

use log::warn;

use super::{Capability, KEPT, NET_ADMIN, SYS_ADMIN};

/// Something that a running relay asks the kernel for, and that some kernels grant only with a
/// capability.
pub struct Asked<'a> {
    capability: Capability,
    /// Whether the kernel grants it to this thread with the capabilities that are effective now.
    is_granted: &'a dyn Fn() -> bool,
}

impl<'a> Asked<'a> {
    /// Polling the device of a zero-copy socket (`SO_BUSY_POLL`), for which older kernels want
    /// `CAP_NET_ADMIN` (`sk_setsockopt`, net/core/sock.c).
    pub fn busy_polling(is_granted: &'a dyn Fn() -> bool) -> Self {
        let capability = NET_ADMIN;
        Self {
            capability,
            is_granted,
        }
    }
}

/// Gives up the capabilities that neither a reload nor an interface that comes back needs. A
/// refusal is only logged.
pub fn keep_for_running() {
    if let Err(error) = keep(KEPT) {
        warn!(
            "cannot give up capabilities that running does not need: {error}; a sandbox must allow \
             capset() and prctl()"
        );
    }
}

/// Gives up all capabilities of the thread that serves `what`. A refusal is only logged.
pub fn all_of_server(what: &str) {
    if let Err(error) = give_up(&[]) {
        warn!(
            "{what}: its thread cannot give up its capabilities: {error}; a sandbox must allow \
             capset() and prctl()"
        );
    }
}

/// Gives up all capabilities of this thread except those that the kernel turns out to want for what
/// is `asked`; returns their names. Programs that the thread starts get none back, even as root.
///
/// # Errors
///
/// A sandbox forbids the calls. The thread keeps what it has not given up yet, and goes on to work.
pub fn give_up(asked: &[Asked<'_>]) -> io::Result<Vec<&'static str>> {
    no_new_privileges()?;
    let held = Sets::of_this_thread()?;
    empty_bounding_set();
    let wanted = asked.iter().fold(0, |bits, asked| {
        bits | asked.capability.held_as(held.permitted)
    });
    Sets {
        permitted: wanted,
        ..Sets::default()
    }
    .put_on_this_thread()?;
    let kept: Vec<_> = asked
        .iter()
        .filter(|asked| wanted != 0 && !(asked.is_granted)())
        .map(|asked| asked.capability)
        .collect();
    Sets::only(&kept, held).put_on_this_thread()?;
    Ok(kept.iter().map(|each| each.name).collect())
}

/// Gives up all capabilities of this thread except those of `kept` that it holds.
///
/// # Errors
///
/// A sandbox forbids the calls. The thread keeps what it has not given up yet, and goes on to work.
pub fn keep(kept: &[Capability]) -> io::Result<()> {
    no_new_privileges()?;
    let held = Sets::of_this_thread()?;
    empty_bounding_set();
    Sets::only(kept, held).put_on_this_thread()
}

impl Capability {
    /// The bit of the set `held` that grants it: its own, or that of `CAP_SYS_ADMIN` in its place.
    fn held_as(self, held: u64) -> u64 {
        match held & 1 << self.number {
            0 if self.is_split_off() => held & 1 << SYS_ADMIN,
            own => own,
        }
    }
}

/// The sets of a thread that it can change. The ambient set never exceeds what `permitted` and
/// `inheritable` have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

/// `_LINUX_CAPABILITY_VERSION_3` of include/uapi/linux/capability.h: two words per set.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    /// 0 is the calling thread.
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Sets {
    /// Those of `kept` that are `held`, and no others.
    fn only(kept: &[Capability], held: Self) -> Self {
        let kept = kept.iter().map(|each| each.held_as(held.permitted));
        let bits = kept.fold(0, |bits, each| bits | each);
        Self {
            effective: bits,
            permitted: bits,
            inheritable: 0,
        }
    }

    fn of_this_thread() -> io::Result<Self> {
        let mut header = Header {
            version: VERSION,
            pid: 0,
        };
        let mut words = [Words::default(); 2];
        // SAFETY: the pointers are to locals of the layout that this version has.
        let result =
            unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let [low, high] = words;
        let both = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        Ok(Self {
            effective: both(low.effective, high.effective),
            permitted: both(low.permitted, high.permitted),
            inheritable: both(low.inheritable, high.inheritable),
        })
    }

    fn put_on_this_thread(self) -> io::Result<()> {
        let mut header = Header {
            version: VERSION,
            pid: 0,
        };
        let words = [0, 32].map(|shift| Words {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        });
        // SAFETY: the pointers are to locals of the layout that this version has.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// No program that this thread starts from now on gets more than the thread has
/// (`PR_SET_NO_NEW_PRIVS`).
fn no_new_privileges() -> io::Result<()> {
    // SAFETY: no pointers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Empties the bounding set if this thread may: that takes `CAP_SETPCAP`, which usually only root
/// has. A thread without it loses nothing: only programs that grant capabilities draw on this set.
fn empty_bounding_set() {
    for number in 0..u64::BITS {
        // SAFETY: no pointers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs, thread};

    use super::{super::BPF, *};

    /// Runs `work` on a thread of its own; returns its sets before and after, and its status file.
    fn given_up(work: impl FnOnce() + Send + 'static) -> (Sets, Sets, String) {
        let thread = thread::spawn(move || {
            let before = Sets::of_this_thread().unwrap();
            work();
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            (before, Sets::of_this_thread().unwrap(), status)
        });
        thread.join().unwrap()
    }

    #[test]
    fn nothing_is_left_of_any_set() {
        let (_, after, status) = given_up(|| {
            assert_eq!(give_up(&[]).unwrap(), [""; 0]);
        });
        assert_eq!(after, Sets::default());
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let line = format!("{set}:\t0000000000000000\n");
            assert!(status.contains(&line), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }

    #[test]
    fn what_the_kernel_grants_without_is_not_kept_and_what_it_does_not_is() {
        let (before, after, _) = given_up(|| {
            let held = Sets::of_this_thread().unwrap().permitted;
            let seen = Cell::new(u64::MAX);
            let maps = || {
                seen.set(Sets::of_this_thread().unwrap().effective);
                false
            };
            let asked = Asked {
                capability: BPF,
                is_granted: &maps,
            };
            let kept = give_up(&[asked, Asked::busy_polling(&|| true)]).unwrap();
            assert_ne!(BPF.held_as(held), 0, "run the tests as root");
            assert_eq!(kept, ["CAP_BPF"]);
            assert_eq!(seen.get(), 0, "it is tried without any");
        });
        let bits = BPF.held_as(before.permitted);
        assert_eq!((after.effective, after.permitted), (bits, bits));
    }

    #[test]
    fn a_capability_is_kept_by_the_one_that_stands_in_for_it_only_where_it_is_not_held_itself() {
        let (bpf, admin, net) = (1 << 39, 1 << SYS_ADMIN, 1 << 12);
        assert_eq!(BPF.held_as(bpf | admin | net), bpf);
        assert_eq!(BPF.held_as(admin | net), admin);
        assert_eq!(BPF.held_as(net), 0);
        assert_eq!(NET_ADMIN.held_as(admin), 0);
        assert_eq!(NET_ADMIN.held_as(admin | net), net);
    }
}
