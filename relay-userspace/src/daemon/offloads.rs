//! Offloads that the relay switches for as long as it runs, and switches back.
//!
//! What was otherwise is written down before it is switched (`record`), so a relay that was killed
//! leaves nothing that the next one could not give back. Only the relay that claims an interface
//! touches its offloads and its record ([`super::claim`]). What another process has switched back
//! meanwhile is its own: it is left alone.

mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use log::{Level, info, warn};
use thiserror::Error;

use self::record::{Record, Records};
use super::claim::{self, Claims};
use crate::{
    events::Event,
    host::{HostFacts, Offload, OffloadSwitch, namespace, watch::Questions},
    plan::{Interface, Plan, Refusal},
};

/// The folder of the records.
const FOLDER: &str = "/run/relay/offloads";

/// An offload that stays as it is.
#[derive(Debug, Error)]
#[error(
    "cannot have {offloads} at {interface}: {what}: {error}{}",
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
        Some(libc::EOPNOTSUPP) => "; the driver left it as it was",
        _ => "",
    }
}

/// What the relay has switched.
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
    switch: OffloadSwitch,
    questions: Questions,
    records: Records,
}

impl Kernel {
    fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            switch: OffloadSwitch::open()?,
            questions: Questions::open()?,
            records: Records::new(folder, namespace::cookie()?),
        })
    }

    /// The offloads of `record` that are still as it switched them; `None` if its interface has
    /// gone.
    fn still_switched(&mut self, record: &Record) -> Option<Vec<Offload>> {
        let now = self.questions.link(record.index).ok()??;
        if now.mac != Some(record.mac) {
            return None;
        }
        let unwanted = self.switch.unwanted(record.index).ok()?;
        let still = record.switched.iter().filter(|one| !unwanted.contains(one));
        Some(still.copied().collect())
    }

    /// Switches back what `record` says, and removes it. False if that is refused: the record
    /// stays. Only for the relay that claims the interface.
    fn give_back(&mut self, record: &Record) -> bool {
        let name = &record.interface[..];
        let still = self.still_switched(record).unwrap_or_default();
        let left: Vec<Offload> = record
            .switched
            .iter()
            .filter(|one| !still.contains(one))
            .copied()
            .collect();
        if !still.is_empty() {
            match self.switch.switch(record.index, &still, true) {
                Ok(()) => info!(interface = name; "{name}: {} again", states(&still, true)),
                Err(error) => {
                    let back: String = still
                        .iter()
                        .map(|one| format!(" {one} {}", state(!one.wanted_on())))
                        .collect();
                    warn!(
                        interface = name;
                        "cannot switch {} of {name} back: {error}; `ethtool -K {name}{back}` does it, \
                         and so does the next relay that starts here and may",
                        names(&still)
                    );
                    return false;
                }
            }
        }
        if !left.is_empty() {
            info!(
                interface = name;
                "{name}: {} left alone: the interface has gone, or another process has switched it back",
                names(&left)
            );
        }
        self.records.remove(record.index);
        true
    }
}

impl Offloads {
    /// Gives back what relays that were killed have left switched, except on the interfaces
    /// `wanted`, by name: there it stays so until [`Self::switch`] takes it over.
    pub fn give_back_left(&mut self, wanted: &BTreeSet<&str>) {
        let Some(kernel) = self.kernel_if_any() else {
            return;
        };
        let claimed = claim::claimed();
        for record in kernel.records.all() {
            if !wanted.contains(&record.interface[..]) && !claimed.contains(&record.index) {
                give_back_if_free(kernel, &record);
            }
        }
    }

    /// The kernel, if a relay has switched anything since the machine has booted.
    fn kernel_if_any(&mut self) -> Option<&mut Kernel> {
        if !self.folder.is_dir() {
            return None;
        }
        self.open()
            .inspect_err(|error| warn!("cannot ask for offloads: {error}"))
            .ok()
    }

    fn open(&mut self) -> io::Result<&mut Kernel> {
        match &mut self.kernel {
            Some(kernel) => Ok(kernel),
            none => Ok(none.insert(Kernel::open(&self.folder)?)),
        }
    }

    /// Switches what `plan` wants switched. The relay claims its inputs.
    ///
    /// # Errors
    ///
    /// The first interface where that failed; all is there as it was.
    pub fn switch(&mut self, plan: &Plan) -> Result<(), OffloadError> {
        for interface in &plan.interfaces {
            if !interface.offloads.is_empty() {
                self.switch_at(interface)?;
            }
        }
        Ok(())
    }

    fn switch_at(&mut self, interface: &Interface) -> Result<(), OffloadError> {
        let wanted = &interface.offloads[..];
        let index = interface.index;
        let held = self.held.get(&index).cloned();
        let failed = |what: &str, error| OffloadError {
            interface: interface.name.clone(),
            offloads: states(wanted, false),
            what: what.to_owned(),
            error,
        };
        let kernel = self
            .open()
            .map_err(|error| failed("asking for its features", error))?;
        let unwanted = kernel
            .switch
            .unwanted(index)
            .map_err(|error| failed("asking for its features", error))?;
        // Of a relay that was killed.
        let left = || {
            kernel
                .records
                .read(index)
                .filter(|one| one.mac == interface.mac)
        };
        let before = held.or_else(left);
        let new: Vec<Offload> = wanted
            .iter()
            .filter(|one| unwanted.contains(one))
            .copied()
            .collect();
        if new.is_empty() {
            self.held.extend(before.map(|record| (index, record)));
            return Ok(());
        }
        let mut switched = before
            .as_ref()
            .map_or_else(Vec::new, |record| record.switched.to_vec());
        switched.extend(&new);
        switched.sort_unstable();
        switched.dedup();
        let record = Record {
            interface: interface.name.clone(),
            index,
            mac: interface.mac,
            switched: switched.into(),
        };
        kernel.records.write(&record).map_err(|error| {
            let path = kernel.records.path(index);
            failed(
                &format!("writing down in {} what was otherwise", path.display()),
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
            "{}: {} for as long as the relay runs",
            interface.name,
            states(&new, false)
        );
        self.held.insert(index, record);
        Ok(())
    }

    /// Switches back what `plan` does not want switched, and what could not be switched back before.
    /// Before the claims on interfaces that it does not have are released.
    pub fn give_back_others(&mut self, plan: &Plan, claims: &Claims) {
        let wanted: BTreeMap<u32, &[Offload]> = plan
            .interfaces
            .iter()
            .map(|one| (one.index, &one.offloads[..]))
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
                record.switched.iter().partition(|one| wanted.contains(one));
            if back.is_empty() {
                return true;
            }
            let back = Record {
                switched: back.into(),
                ..record.clone()
            };
            let is_back = match claims.holds(*index) {
                true => kernel.give_back(&back),
                false => give_back_if_free(kernel, &back),
            };
            if !is_back {
                return true;
            }
            record.switched = keep.into();
            if !record.switched.is_empty() {
                let _ = kernel.records.write(record);
            }
            !record.switched.is_empty()
        });
    }

    /// Switches back all that was switched, by this relay and by those that were killed.
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

    /// Makes `facts` say what interfaces would do if no relay had switched anything, whichever it
    /// was. Where another process has switched back what this one had switched, the relay leaves
    /// it, and this returns that the interface's offloads stay.
    pub fn leave_out_of(&mut self, facts: &mut HostFacts) -> Vec<Refusal> {
        let mut stay = Vec::new();
        if self.kernel_if_any().is_none() {
            return stay;
        }
        for (name, facts) in &mut facts.interfaces {
            let unwanted = &mut facts.offloads.unwanted;
            let split = |record: &Record| -> (Vec<Offload>, Vec<Offload>) {
                record
                    .switched
                    .iter()
                    .partition(|one| unwanted.contains(one))
            };
            let Some(record) = self.held.get_mut(&facts.index) else {
                let kernel = self.kernel.as_ref();
                let record = kernel.and_then(|kernel| kernel.records.read(facts.index));
                if let Some(record) = record.filter(|record| Some(record.mac) == facts.mac) {
                    let (_, still) = split(&record);
                    unwanted.extend(still);
                    unwanted.sort_unstable();
                }
                continue;
            };
            let (again, still) = split(record);
            unwanted.extend(&still);
            unwanted.sort_unstable();
            if again.is_empty() {
                continue;
            }
            let reason = format!(
                "another process has switched {} again",
                states(&again, true)
            );
            let text =
                format!("{name}: {reason}, which the relay had switched; the relay leaves it so");
            Event::new(module_path!(), Level::Warn, "offloads", &text)
                .interface(name)
                .by_text()
                .say();
            stay.push(Refusal {
                interface: name.clone(),
                reason,
            });
            record.switched = still.into();
            if record.switched.is_empty() {
                self.forget(facts.index);
            }
        }
        stay
    }
}

/// Gives back what `record` says unless a relay claims the interface.
fn give_back_if_free(kernel: &mut Kernel, record: &Record) -> bool {
    let mut claim = Claims::default();
    if claim.claim(&record.interface, record.index).is_ok() {
        return kernel.give_back(record);
    }
    // One that has gone has nothing to give back. One that another relay claims is that relay's.
    if kernel.still_switched(record).is_none() {
        kernel.records.remove(record.index);
    }
    true
}

/// "rx-vlan-hw-parse and rx-vlan-filter"
fn names(offloads: &[Offload]) -> String {
    let names: Vec<&str> = offloads.iter().map(|one| one.name()).collect();
    names.join(" and ")
}

/// "rx-vlan-hw-parse off and rx-gro on", as the relay switches them, or as it switches them `back`.
fn states(offloads: &[Offload], back: bool) -> String {
    let states = offloads
        .iter()
        .map(|one| format!("{one} {}", state(one.wanted_on() != back)));
    states.collect::<Vec<_>>().join(" and ")
}

const fn state(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
