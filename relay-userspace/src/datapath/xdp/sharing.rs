//! Which copies share the payload of the received chunk, instead of having one of their own.
//!
//! The plan says which interfaces take a frame in two parts ([`plan::Interface::shares_payloads`]):
//! never in copy mode, where the kernel copies both parts anyway. All sockets of a UMEM have to be
//! of such interfaces when it is made; one that comes later and is not has whole frames.

use super::ring_sizes::TX_SIZE;
use crate::plan::{self, Plan};

/// The shortest payload that is shared, in bytes. Copying less costs no more than a second
/// descriptor, its completion and a header slot, and spares the NIC a second read.
const SHARED_FROM: u16 = 256;

/// Header slots for each port: as many as frames of two parts can be in flight there.
const SLOTS: u32 = TX_SIZE / 2;

/// The header slots of the UMEM of `worker`: none where payloads are not shared.
pub fn header_slots(plan: &Plan, worker: &plan::WorkerPlan) -> u32 {
    let ports = worker.ports.iter();
    let mut interfaces = ports.map(|port| plan.interfaces.get(port.interface));
    let transmit = worker.ports.iter().filter(|port| port.transmits).count() as u32;
    match interfaces.all(|interface| interface.is_some_and(by)) {
        true => transmit * SLOTS,
        false => 0,
    }
}

/// Whether frames of two parts may leave through an interface.
pub fn by(interface: &plan::Interface) -> bool {
    interface.shares_payloads || is_forced()
}

/// The shortest payload that is shared in this process, in bytes.
pub fn shared_from() -> u16 {
    if is_forced() { 1 } else { SHARED_FROM }
}

/// Tests share payloads in copy mode too, and short ones.
#[cfg(feature = "poison-chunks")]
fn is_forced() -> bool {
    std::env::var_os("RELAY_SHARE_PAYLOADS").is_some()
}

#[cfg(not(feature = "poison-chunks"))]
fn is_forced() -> bool {
    false
}
