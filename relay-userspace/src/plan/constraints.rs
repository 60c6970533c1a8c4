//! What a plan must respect besides rules and host facts: what the user asked for, and what the
//! kernel has refused.

use std::collections::BTreeSet;

use super::backend::Backend;

/// The user's choice of backend, and the kernel's refusals.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    /// The backend that the user asked for; `None` leaves it open.
    pub forced: Option<Backend>,
    /// Where the kernel refused XDP or an AF_XDP socket when the relay tried it.
    pub refused: Vec<Refusal>,
    /// Where it refused something that zero copy needs.
    pub without_zero_copy: Vec<Refusal>,
    /// Where the VLAN offloads stay as they are, whatever the file says: the kernel refused to
    /// switch them off, or another process has switched them on again.
    pub offloads_stay: Vec<Refusal>,
    /// Inputs whose frames cannot be given back to this host's stack on XDP.
    pub without_local_device: Vec<Refusal>,
    /// The interfaces that a running relay uses now, by name and index: they may be down, and come
    /// up again without being set up anew. Only [`super::arrange`] asks whether an interface is up.
    pub in_use: BTreeSet<(String, u32)>,
    /// The interfaces that cannot be used on any backend for now, such as one that another relay
    /// has. Only [`super::arrange`] reads them.
    pub unavailable: Vec<Refusal>,
}

/// A refusal on an interface: of the XDP backend, of zero copy, or of all use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The interface's name.
    pub interface: String,
    /// What was tried, and the kernel's reason.
    pub reason: String,
}
