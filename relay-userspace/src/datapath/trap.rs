//! A defect on demand, in relays for tests alone: no input is known that makes a worker panic, and
//! what happens then must be seen nevertheless.

/// A datagram whose payload begins with this ends its worker.
const MARK: &[u8] = b"relay-test: panic";

/// Panics at the marked datagram. It counts as received, and as nothing else.
pub fn spring(payload: &[u8]) {
    assert!(
        !payload.starts_with(MARK),
        "a datagram for tests asks for it"
    );
}
