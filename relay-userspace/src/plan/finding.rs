//! What the checks of a plan find: a mistake, and what it keeps from running.
//!
//! [`super::build`] refuses the rules for any of them. [`super::arrange`] goes on without the
//! interfaces that they are about.

use crate::config::{Mistake, Mistakes};

/// What rules use an interface for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Input,
    /// Copies over IPv4.
    Ipv4Output,
    /// Copies over IPv6.
    Ipv6Output,
    /// Copies over IPv4 that leave with an address of the interface.
    Ipv4Source,
    /// Copies over IPv6 that leave with an address of the interface.
    Ipv6Source,
}

impl Role {
    pub(super) const ALL: [Self; 3] = [Self::Input, Self::Ipv4Output, Self::Ipv6Output];
    pub(super) const OUTPUTS: [Self; 2] = [Self::Ipv4Output, Self::Ipv6Output];
}

/// One mistake.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) mistake: Mistake,
    /// `None` where nothing can run.
    pub(super) hindrance: Option<Hindrance>,
}

/// What cannot run because of a mistake: an interface in some of its roles, as long as it is as it
/// is.
#[derive(Debug)]
pub(super) struct Hindrance {
    pub(super) interface: String,
    pub(super) roles: &'static [Role],
    /// A sentence with the remedy.
    pub(super) reason: String,
}

impl Finding {
    /// A mistake that all rules share: of the file alone, or of the command line.
    pub(super) fn of_all(mistake: Mistake) -> Self {
        Self {
            mistake,
            hindrance: None,
        }
    }

    /// A mistake because of which an interface cannot be used in `roles` now.
    pub(super) fn about(interface: &str, roles: &'static [Role], mistake: Mistake) -> Self {
        let reason = format!("{}; {}", mistake.cause, mistake.remedy);
        Self {
            mistake,
            hindrance: Some(Hindrance {
                interface: interface.to_owned(),
                roles,
                reason,
            }),
        }
    }

    /// The same with another reason than the mistake's own words.
    pub(super) fn with_reason(mut self, reason: String) -> Self {
        if let Some(hindrance) = &mut self.hindrance {
            hindrance.reason = reason;
        }
        self
    }
}

/// The mistakes of `findings`, which must not be empty.
pub(super) fn mistakes(findings: Vec<Finding>) -> Mistakes {
    Mistakes::of(findings.into_iter().map(|found| found.mistake).collect())
}
