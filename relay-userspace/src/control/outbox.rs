//! What a client still has to read.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::Arc,
};

/// Bytes that one client gets in one round, at most.
const A_ROUND: usize = 1 << 20;

/// The reply that is on its way. It may share its bytes with those of other clients.
#[derive(Debug, Default)]
pub struct Outbox {
    parts: VecDeque<Arc<Vec<u8>>>,
    /// How much of the first part the client has got.
    at: usize,
}

impl Outbox {
    /// Adds a part.
    pub fn push(&mut self, part: Arc<Vec<u8>>) {
        self.parts.push_back(part);
    }

    /// Whether the client has got all of it.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether `part` is among what is left.
    pub fn holds(&self, part: &Arc<Vec<u8>>) -> bool {
        self.parts.iter().any(|other| Arc::ptr_eq(other, part))
    }

    /// Writes what the client takes now; returns whether it took anything.
    ///
    /// # Errors
    ///
    /// The client is gone.
    pub fn write_to(&mut self, mut client: impl Write) -> io::Result<bool> {
        let mut written = 0;
        while let Some(part) = self.parts.front() {
            let rest = part.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                self.parts.pop_front();
                self.at = 0;
                continue;
            }
            if written >= A_ROUND {
                break;
            }
            match client.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.at += count;
                    written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written > 0)
    }
}
