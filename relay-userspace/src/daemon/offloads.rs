//! Offloads that the relay switches off for as long as it runs, and switches on again.
//!
//! What was on is written down before it is switched off (`record`), so a relay that was killed
//! leaves nothing that the next one could not give back. Only the relay that claims an interface
//! touches its offloads and its record ([`super::claim`]). What another process has switched on
//! again meanwhile is its own: it is left alone.

mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use log::{info, warn};
use thiserror::Error;

use self::record::{Record, Records};
use super::claim::{self, Claims};
use crate::{
    host::{HostFacts, VlanOffload, VlanSwitch, namespace, watch::Questions},
    plan::{Interface, Plan, Refusal},
};

/// The folder of the records.
const FOLDER: &str = "/run/relay/offloads";

/// An offload that stays as it is.
#[derive(Debug, Error)]
#[error(
    "cannot switch {offloads} of {interface} off: {what}: {error}{}",
    remedy(error)
)]
pub struct OffloadError {
    /// The interface's name.
    pub interface: String,
    offloads: String,
    what: String,
    error: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; CAP_NET_ADMIN is needed, and a /run/relay to write to"
        }
        Some(libc::EROFS | libc::ENOENT) => {
            "; the sandbox that the relay runs in must show /run/relay and let it write there"
        }
        Some(libc::EOPNOTSUPP) => "; the driver left it on",
        _ => "",
    }
}

/// What the relay has switched off.
#[derive(Debug)]
pub struct Offloads {
    /// Where the records are.
    folder: PathBuf,
    /// Opened when first needed: most relays switch nothing off.
    kernel: Option<Kernel>,
    /// By the interface's index.
    held: BTreeMap<u32, Record>,
}

impl Default for Offloads {
    fn default() -> Self {
        Self {
            folder: FOLDER.into(),
            kernel: None,
            held: BTreeMap::new(),
        }
    }
}

/// The ways to the kernel and to the records.
#[derive(Debug)]
struct Kernel {
    switch: VlanSwitch,
    questions: Questions,
    records: Records,
}

impl Kernel {
    fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            switch: VlanSwitch::open()?,
            questions: Questions::open()?,
            records: Records::new(folder, namespace::cookie()?),
        })
    }

    /// The offloads of `record` that are off still; `None` if its interface has gone.
    fn still_off(&mut self, record: &Record) -> Option<Vec<VlanOffload>> {
        let now = self.questions.link(record.index).ok()??;
        if now.mac != Some(record.mac) {
            return None;
        }
        let on = self.switch.on(record.index).ok()?;
        let off = record.off.iter().filter(|one| !on.contains(one));
        Some(off.copied().collect())
    }

    /// Switches on what `record` says, and removes it. Only for the relay that claims the
    /// interface.
    fn give_back(&mut self, record: &Record) {
        let name = &record.interface[..];
        let off = self.still_off(record).unwrap_or_default();
        let left: Vec<VlanOffload> = record
            .off
            .iter()
            .filter(|one| !off.contains(one))
            .copied()
            .collect();
        if !off.is_empty() {
            match self.switch.switch(record.index, &off, true) {
                Ok(()) => info!(interface = name; "{name}: {} on again", names(&off)),
                Err(error) => {
                    let on: String = off.iter().map(|one| format!(" {one} on")).collect();
                    warn!(
                        interface = name;
                        "cannot switch {} of {name} on again: {error}; `ethtool -K {name}{on}` does it, \
                         and so does the next relay that starts here and may",
                        names(&off)
                    );
                    return;
                }
            }
        }
        if !left.is_empty() {
            info!(
                interface = name;
                "{name}: {} left alone: the interface has gone, or another process has switched it on",
                names(&left)
            );
        }
        self.records.remove(record.index);
    }
}

impl Offloads {
    /// Gives back what relays that were killed have left switched off, except on the interfaces
    /// `wanted`, by name: there it stays off until [`Self::switch_off`] takes it over.
    pub fn give_back_left(&mut self, wanted: &BTreeSet<&str>) {
        let Some(kernel) = self.kernel_if_any() else {
            return;
        };
        for record in kernel.records.all() {
            if !wanted.contains(&record.interface[..]) && !claim::is_claimed(record.index) {
                give_back_if_free(kernel, &record);
            }
        }
    }

    /// The kernel, if a relay has switched anything off since the machine has booted.
    fn kernel_if_any(&mut self) -> Option<&mut Kernel> {
        if !self.folder.is_dir() {
            return None;
        }
        self.open()
            .inspect_err(|error| warn!("cannot ask for VLAN offloads: {error}"))
            .ok()
    }

    fn open(&mut self) -> io::Result<&mut Kernel> {
        match &mut self.kernel {
            Some(kernel) => Ok(kernel),
            none => Ok(none.insert(Kernel::open(&self.folder)?)),
        }
    }

    /// Switches off what `plan` wants switched off. The relay claims its inputs.
    ///
    /// # Errors
    ///
    /// The first interface where that failed; all is on there that was.
    pub fn switch_off(&mut self, plan: &Plan) -> Result<(), OffloadError> {
        for interface in &plan.interfaces {
            if !interface.offloads_off.is_empty() {
                self.switch_off_at(interface)?;
            }
        }
        Ok(())
    }

    fn switch_off_at(&mut self, interface: &Interface) -> Result<(), OffloadError> {
        let wanted = &interface.offloads_off;
        let index = interface.index;
        let held = self.held.get(&index).cloned();
        let failed = |what: &str, error| OffloadError {
            interface: interface.name.clone(),
            offloads: names(wanted),
            what: what.to_owned(),
            error,
        };
        let kernel = self
            .open()
            .map_err(|error| failed("asking for its features", error))?;
        let on = kernel
            .switch
            .on(index)
            .map_err(|error| failed("asking for its features", error))?;
        // Of a relay that was killed.
        let left = || {
            kernel
                .records
                .read(index)
                .filter(|one| one.mac == interface.mac)
        };
        let before = held.or_else(left);
        let new: Vec<VlanOffload> = wanted
            .iter()
            .filter(|one| on.contains(one))
            .copied()
            .collect();
        if new.is_empty() {
            self.held.extend(before.map(|record| (index, record)));
            return Ok(());
        }
        let mut off = before
            .as_ref()
            .map_or_else(Vec::new, |record| record.off.clone());
        off.extend(&new);
        off.sort_unstable();
        off.dedup();
        let record = Record {
            interface: interface.name.clone(),
            index,
            mac: interface.mac,
            off,
        };
        kernel.records.write(&record).map_err(|error| {
            let path = kernel.records.path(index);
            failed(
                &format!("writing down in {} what was on", path.display()),
                error,
            )
        })?;
        if let Err(error) = kernel.switch.switch(index, &new, false) {
            let _ = kernel.switch.switch(index, &new, true);
            match &before {
                Some(before) => drop(kernel.records.write(before)),
                None => kernel.records.remove(index),
            }
            return Err(failed("asking its driver", error));
        }
        info!(
            interface = &interface.name[..];
            "{}: {} off for as long as the relay runs",
            interface.name,
            names(&new)
        );
        self.held.insert(index, record);
        Ok(())
    }

    /// Switches on again what `plan` does not want switched off. Before the claims on interfaces
    /// that it does not have are released.
    pub fn give_back_others(&mut self, plan: &Plan, claims: &Claims) {
        let wanted: BTreeMap<u32, &[VlanOffload]> = plan
            .interfaces
            .iter()
            .map(|one| (one.index, &one.offloads_off[..]))
            .collect();
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        for index in claims.indices() {
            // Of a relay that was killed, on an interface that is this one's now.
            if !self.held.contains_key(&index) {
                let left = kernel.records.read(index);
                self.held.extend(left.map(|record| (index, record)));
            }
        }
        self.held.retain(|index, record| {
            let wanted = wanted.get(index).copied().unwrap_or_default();
            let (keep, back): (Vec<_>, Vec<_>) =
                record.off.iter().partition(|one| wanted.contains(one));
            if back.is_empty() {
                return true;
            }
            let back = Record {
                off: back,
                ..record.clone()
            };
            match claims.holds(*index) {
                true => kernel.give_back(&back),
                false => give_back_if_free(kernel, &back),
            }
            record.off = keep;
            if !record.off.is_empty() {
                let _ = kernel.records.write(record);
            }
            !record.off.is_empty()
        });
    }

    /// Switches on again all that was switched off, by this relay and by those that were killed.
    pub fn give_back_all(&mut self, claims: &Claims) {
        self.give_back_others(&Plan::default(), claims);
        self.give_back_left(&BTreeSet::new());
    }

    /// Forgets the interface with this index, which has gone.
    pub fn forget(&mut self, index: u32) {
        if let (Some(kernel), Some(_)) = (&self.kernel, self.held.remove(&index)) {
            kernel.records.remove(index);
        }
    }

    /// Makes `facts` say what interfaces would do if no relay had switched anything off, whichever
    /// it was. Where another process has switched on again what this one had switched off, the
    /// relay leaves it, and this returns that the interface's offloads stay.
    pub fn leave_out_of(&mut self, facts: &mut HostFacts) -> Vec<Refusal> {
        let mut stay = Vec::new();
        if self.kernel_if_any().is_none() {
            return stay;
        }
        for (name, facts) in &mut facts.interfaces {
            let on = &mut facts.vlan_offloads.on;
            let split = |record: &Record| -> (Vec<VlanOffload>, Vec<VlanOffload>) {
                record.off.iter().partition(|one| on.contains(one))
            };
            let Some(record) = self.held.get_mut(&facts.index) else {
                let kernel = self.kernel.as_ref();
                let record = kernel.and_then(|kernel| kernel.records.read(facts.index));
                if let Some(record) = record.filter(|record| Some(record.mac) == facts.mac) {
                    let (_, off) = split(&record);
                    on.extend(off);
                    on.sort_unstable();
                }
                continue;
            };
            let (again, off) = split(record);
            on.extend(&off);
            on.sort_unstable();
            if again.is_empty() {
                continue;
            }
            let reason = format!("another process has switched {} on again", names(&again));
            warn!(
                interface = &name[..];
                "{name}: {reason} while the relay had it off; the relay leaves it on"
            );
            stay.push(Refusal {
                interface: name.clone(),
                reason,
            });
            record.off = off;
            if record.off.is_empty() {
                self.forget(facts.index);
            }
        }
        stay
    }
}

/// Gives back what `record` says unless a relay claims the interface.
fn give_back_if_free(kernel: &mut Kernel, record: &Record) {
    let mut claim = Claims::default();
    match claim.claim(&record.interface, record.index) {
        Ok(()) => kernel.give_back(record),
        // One that has gone has nothing to give back.
        Err(_) if kernel.still_off(record).is_none() => kernel.records.remove(record.index),
        Err(_) => {}
    }
}

/// "rx-vlan-hw-parse and rx-vlan-filter"
fn names(offloads: &[VlanOffload]) -> String {
    let names: Vec<&str> = offloads.iter().map(|one| one.name()).collect();
    names.join(" and ")
}
