//! One interface as the rules use it: the parts of a plan are built from it.

use super::{backend::Backend, model::TxMethod};
use crate::{
    config::rules::Transmit,
    host::{InterfaceFacts, Switched},
};

/// One interface as the rules use it.
pub(super) struct Use<'a> {
    pub(super) facts: &'a InterfaceFacts,
    pub(super) backend: Backend,
    /// On io_uring, why it is not XDP. On XDP, why the mode is what it is, see
    /// [`super::Interface::reason`].
    pub(super) reason: String,
    /// Why it cannot have zero copy; `None` if it can.
    pub(super) against_zero_copy: Option<String>,
    pub(super) is_input: bool,
    /// Datagrams to IPv4 groups arrive here.
    pub(super) takes_ipv4: bool,
    pub(super) is_output: bool,
    /// The queues whose frames are relayed; empty unless an input on XDP.
    pub(super) rx: Vec<u32>,
    /// The queues that copies may leave through; empty unless an output on XDP.
    pub(super) tx: Vec<u32>,
    /// How copies shall leave, as the file says.
    pub(super) transmit: Transmit,
    /// How copies leave; `None` unless an output.
    pub(super) tx_method: Option<TxMethod>,
    /// Copies share the payload of the received frame on its TX rings.
    pub(super) shares_payloads: bool,
    /// The offloads that the relay switches.
    pub(super) offloads: Switched,
}

impl Use<'_> {
    /// Whether AF_XDP sockets are bound here.
    pub(super) fn has_sockets(&self) -> bool {
        self.backend == Backend::Xdp && (self.is_input || self.tx_method == Some(TxMethod::Xsk))
    }
}
