//! How long rules pause for a change.
//!
//! A change may take several attempts: an interface may vanish in the middle of it. The rules that
//! paused for the first one pause until the last one is over.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The interfaces whose rules pause now, and since when.
#[derive(Debug, Default)]
pub struct Pause {
    began: Option<Instant>,
    interfaces: BTreeSet<String>,
}

impl Pause {
    /// The rules of these interfaces pause from `now` on, beside those that do already.
    pub fn begin(&mut self, interfaces: impl IntoIterator<Item = String>, now: Instant) {
        self.interfaces.extend(interfaces);
        if !self.interfaces.is_empty() {
            self.began.get_or_insert(now);
        }
    }

    /// All that can run runs again: those that paused and are among `inputs`, and for how long they
    /// did. The rules of the others are gone, or wait.
    pub fn end(&mut self, inputs: &BTreeSet<&str>, now: Instant) -> (BTreeSet<String>, Duration) {
        let Self {
            began,
            mut interfaces,
        } = std::mem::take(self);
        interfaces.retain(|name| inputs.contains(&name[..]));
        let paused = began.filter(|_| !interfaces.is_empty());
        let time = paused.map(|began| now.saturating_duration_since(began));
        (interfaces, time.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_from_the_first_attempt_to_the_last() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let names = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        let mut pause = Pause::default();
        pause.begin(names(&["in0", "in1"]), at(10));
        // That attempt failed: in1 has gone, and no worker is left that could pause anything.
        pause.begin(names(&[]), at(150));
        let (paused, time) = pause.end(&["in0", "in2"].into(), at(260));
        assert!(paused.into_iter().eq(["in0"]));
        assert_eq!(time, Duration::from_millis(250));
        let nothing = (BTreeSet::new(), Duration::ZERO);
        assert_eq!(pause.end(&["in0"].into(), at(300)), nothing, "once");
        pause.begin(names(&["in3"]), at(300));
        assert_eq!(pause.end(&["in0"].into(), at(400)), nothing, "removed");
    }
}
