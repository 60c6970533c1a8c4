//! Makes the kernel resolve the next hops of a plan, and keep them fresh.
//!
//! The kernel does both by itself where it can (`NTF_EXT_MANAGED`, Linux 5.16), and elsewhere each
//! time it is asked. The watcher hears what becomes of it and tells workers; control only sees to
//! it that the kernel goes on: an entry that somebody deletes is made anew. Entries that a person
//! or a program has fixed, and those that another one keeps fresh, are left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use log::{Level, debug, warn};

use crate::{
    datapath::next_hops::NextHops,
    events::Event,
    host::neighbours::{Neighbour, Neighbours, OnLink},
    plan::{LinkDestination, Plan},
};

/// How long a change waits at most for the first resolution of its next hops.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often it looks meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How often it looks at all next hops, whatever is known of them.
const ALL_EVERY: Duration = Duration::from_secs(5);

/// Who keeps a next hop fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// The kernel, because the relay has asked for that.
    Kernel,
    /// The relay: this kernel does not do it by itself.
    Relay,
    /// Nobody need, or another program has asked for it.
    Others,
    /// Nobody yet.
    Nobody,
}

/// The next hops of what runs.
#[derive(Debug)]
pub struct Resolution {
    /// What workers read.
    pub table: Arc<NextHops>,
    /// Open as long as there are next hops.
    neighbours: Option<Neighbours>,
    kept: BTreeMap<OnLink, Keeper>,
    /// When to look at all of them next.
    all_at: Instant,
    /// The log has what the kernel refuses.
    told: bool,
}

impl Default for Resolution {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            neighbours: None,
            kept: BTreeMap::new(),
            all_at: Instant::now(),
            told: false,
        }
    }
}

impl Resolution {
    /// Makes the kernel resolve the next hops of `plan`, beside those of before. Waits a moment for
    /// those that are new, so that their first copies leave.
    pub fn want(&mut self, plan: &Plan) {
        let new: Vec<OnLink> = hosts(plan)
            .into_iter()
            .filter(|host| !self.kept.contains_key(host))
            .collect();
        if new.is_empty() || !self.open() {
            return;
        }
        for &host in &new {
            // From here on its news counts.
            let _ = self.table.get(host);
            self.kept.insert(host, Keeper::Nobody);
            self.attend(host);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut waiting = new;
        loop {
            waiting.retain(|&host| !self.is_decided(host));
            if waiting.is_empty() || Instant::now() >= deadline {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Leaves alone what is no next hop of `plan` any more.
    pub fn release(&mut self, plan: &Plan) {
        let wanted = hosts(plan);
        let kept = std::mem::take(&mut self.kept);
        for (host, keeper) in kept {
            if wanted.contains(&host) {
                self.kept.insert(host, keeper);
            } else if keeper == Keeper::Kernel {
                self.give_back(host);
            }
        }
        self.table.retain(|host| wanted.contains(host));
        if self.kept.is_empty() {
            self.neighbours = None;
        }
    }

    /// Sees to those that are not resolved, and now and then to all.
    pub fn tend(&mut self, now: Instant) {
        let all = now >= self.all_at;
        if all {
            self.all_at = now + ALL_EVERY;
        }
        let due = self.table.all().into_iter();
        let due = due.filter(|(_, known)| all || known.needs_resolution());
        for (host, _) in due {
            self.attend(host);
        }
    }

    /// Makes the next [`Self::tend`] look at all of them.
    pub fn doubt_all(&mut self) {
        self.all_at = Instant::now();
    }

    /// Whether the kernel has resolved it, or asked in vain.
    fn is_decided(&mut self, host: OnLink) -> bool {
        let Some(before) = self.table.known(host) else {
            return true;
        };
        if before.mac().is_some() {
            return true;
        }
        let answer = self.neighbours.as_mut().map(|socket| socket.get(host));
        let Some(Ok(answer)) = answer else {
            return true;
        };
        self.table.answer(host, before, answer.as_ref());
        answer.is_some_and(|one| one.usable_mac().is_some() || one.has_failed())
    }

    /// Looks at one of them, and makes the kernel resolve it where that is needed.
    fn attend(&mut self, host: OnLink) {
        match self.try_attend(host) {
            Ok(()) => {}
            // The interface is down, or has gone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN)) => {}
            Err(error) if !self.told => {
                self.told = true;
                warn!(
                    "the kernel does not resolve next hops of unicast outputs for the relay \
                     (RTM_NEWNEIGH, {}): {error}. {}; until then, only those leave whose next hops \
                     others have resolved (`ip neigh show`)",
                    host.address,
                    remedy(&error)
                );
            }
            Err(error) => debug!("next hop {}: {error}", host.address),
        }
    }

    fn try_attend(&mut self, host: OnLink) -> io::Result<()> {
        let (Some(neighbours), Some(keeper), Some(before)) = (
            self.neighbours.as_mut(),
            self.kept.get_mut(&host),
            self.table.known(host),
        ) else {
            return Ok(());
        };
        let answer = neighbours.get(host)?;
        self.table.answer(host, before, answer.as_ref());
        let known = answer.as_ref();
        let is_managed = known.is_some_and(Neighbour::is_managed);
        if known.is_some_and(Neighbour::is_fixed) {
            *keeper = Keeper::Others;
            return Ok(());
        }
        let has_failed = known.is_some_and(Neighbour::has_failed);
        if is_managed && *keeper != Keeper::Kernel {
            *keeper = Keeper::Others;
        }
        match keeper {
            // The kernel tries again by itself, but takes its time.
            Keeper::Kernel | Keeper::Others if is_managed && !has_failed => return Ok(()),
            Keeper::Relay => return neighbours.use_once(host, answer),
            Keeper::Kernel | Keeper::Others | Keeper::Nobody => {}
        }
        neighbours.keep_fresh(host, answer)?;
        if !is_managed {
            // A kernel before 5.16 resolves it, and knows nothing of the rest.
            let does = neighbours.get(host)?.is_some_and(|now| now.is_managed());
            *keeper = if does { Keeper::Kernel } else { Keeper::Relay };
        }
        Ok(())
    }

    /// Takes back what the relay has asked the kernel for.
    fn give_back(&mut self, host: OnLink) {
        let Some(neighbours) = self.neighbours.as_mut() else {
            return;
        };
        if let Ok(Some(known)) = neighbours.get(host)
            && known.is_managed()
            && !known.is_fixed()
            && let Err(error) = neighbours.use_once(host, Some(known))
        {
            debug!("next hop {}: {error}", host.address);
        }
    }

    /// Whether it can ask the kernel.
    fn open(&mut self) -> bool {
        if self.neighbours.is_none() {
            match Neighbours::open() {
                Ok(neighbours) => self.neighbours = Some(neighbours),
                Err(error) => {
                    let text = format!("cannot open a netlink socket for next hops: {error}");
                    Event::new(module_path!(), Level::Warn, "next hops", &text).say();
                }
            }
        }
        self.neighbours.is_some()
    }
}

/// The next hops of `plan`.
fn hosts(plan: &Plan) -> BTreeSet<OnLink> {
    let outputs = plan.flows.iter().flat_map(|flow| &flow.outputs);
    let hosts = outputs.filter_map(|output| match output.to {
        LinkDestination::NextHop(address) => Some(OnLink {
            interface: plan.interfaces.get(output.interface)?.index,
            address,
        }),
        LinkDestination::Group(_) => None,
    });
    hosts.collect()
}

/// What to do where the kernel refuses to take a neighbour.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "It needs CAP_NET_ADMIN",
        Some(libc::ENOBUFS) => {
            "Its table of neighbours is full: raise `sysctl net.ipv4.neigh.default.gc_thresh3`, and \
             that of net.ipv6"
        }
        Some(libc::ENOMEM) => "Free memory",
        _ => "Look for a sandbox that forbids it",
    }
}

#[cfg(test)]
mod tests;
