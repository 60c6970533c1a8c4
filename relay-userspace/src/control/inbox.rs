//! What a client has sent and the relay has not dealt with yet.

use std::io::{self, Read};

use super::{MOST_BYTES, message::END};

/// Bytes that are read from one client in one round.
const A_ROUND: usize = 64 << 10;

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// Bytes.
    Some,
    /// Nothing now.
    Nothing,
    /// The client sends no more.
    End,
}

/// Bytes up to the end of the next message, and at most one read beyond it.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// How many of them were searched for the end of a message.
    searched: usize,
    /// The length of the first message, once it is there.
    first: Option<usize>,
}

impl Inbox {
    /// Reads once.
    ///
    /// # Errors
    ///
    /// The client is gone.
    pub fn read_from(&mut self, mut client: impl Read) -> io::Result<Got> {
        let mut chunk = [0; A_ROUND];
        let count = loop {
            match client.read(&mut chunk) {
                Ok(0) => return Ok(Got::End),
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Got::Nothing),
                Err(error) => return Err(error),
            }
        };
        self.bytes
            .extend_from_slice(chunk.get(..count).unwrap_or_default());
        self.search();
        Ok(Got::Some)
    }

    fn search(&mut self) {
        if self.first.is_some() {
            return;
        }
        let unsearched = self.bytes.get(self.searched..).unwrap_or_default();
        self.first = unsearched
            .iter()
            .position(|byte| *byte == END)
            .map(|at| self.searched + at);
        self.searched = self.bytes.len();
    }

    /// Whether a whole message is there.
    pub fn has_message(&self) -> bool {
        self.first.is_some()
    }

    /// The length of the first message, or of what is there of it.
    pub fn first_len(&self) -> usize {
        self.first.unwrap_or(self.bytes.len())
    }

    /// Makes room for a large message at once: growing step by step would take twice as much.
    pub fn expect_large(&mut self) {
        let most = MOST_BYTES + A_ROUND;
        self.bytes
            .reserve_exact(most.saturating_sub(self.bytes.len()));
    }

    /// Takes the first message, without its end.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let length = self.first.take()?;
        let rest = self.bytes.split_off(length + 1);
        let mut message = std::mem::replace(&mut self.bytes, rest);
        message.truncate(length);
        self.searched = 0;
        self.search();
        Some(message)
    }
}
