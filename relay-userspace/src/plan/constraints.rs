//! What a plan must respect besides rules and host facts: what the user asked for, and what the
//! kernel has refused.

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
}

/// The kernel's refusal of the XDP backend, or of zero copy, on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The interface's name.
    pub interface: String,
    /// What was tried, and the kernel's reason.
    pub reason: String,
}
