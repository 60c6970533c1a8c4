//! What a tap writes down of one frame: a header of fixed length, and the frame.
//!
//! The same bytes go from the worker's ring to the client of the control socket. Every record says
//! how long it is, so that the records of several workers may follow one another in one stream, and
//! how many of its worker found no room since the one before it.

use crate::datapath::stats::Dropped;

/// Bytes of a record's header.
pub const HEADER: usize = 32;
/// Records begin at multiples of so many bytes.
pub const ALIGN: usize = 8;
/// The longest frame in a record: more than any interface takes.
pub const MOST: usize = 1 << 16;
/// In place of a way: the end of the tap. What follows is not a frame but a text.
const END: u8 = 0xff;

/// Whether a frame came or left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// It came in.
    In = 0,
    /// It left, or should have.
    Out = 1,
    /// The kernel left it to its own network stack.
    Passed = 2,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the frame.
    pub len: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// What follows: a frame that went this way, or, with `None`, the text that ends the tap.
    pub way: Option<Way>,
    /// Of a frame that should have left: the number of the reason why it did not
    /// ([`Dropped::ALL`]), counted from 1. Of a frame that was passed: the number of the counter.
    /// Otherwise 0.
    pub why: u8,
    /// Which of the tap's interfaces it came or left through.
    pub at: u16,
    /// Frames of the same worker that came in since the last record and are in none.
    pub lost_in: u32,
    /// The same of those that left, or should have.
    pub lost_out: u32,
}

impl Header {
    /// The end of the tap, with a text of so many bytes.
    #[must_use]
    pub const fn end(len: u32) -> Self {
        Self {
            len,
            time: 0,
            way: None,
            why: 0,
            at: 0,
            lost_in: 0,
            lost_out: 0,
        }
    }

    /// The bytes of the whole record, its padding included.
    #[must_use]
    pub const fn record_len(&self) -> usize {
        HEADER + (self.len as usize).next_multiple_of(ALIGN)
    }

    /// As words of a ring, in the order of [`Self::bytes`].
    #[must_use]
    pub fn words(&self) -> [u64; HEADER / ALIGN] {
        let way = match self.way {
            Some(way) => way as u8,
            None => END,
        };
        let [a, b] = self.at.to_le_bytes();
        let kind = u64::from_le_bytes([way, self.why, a, b, 0, 0, 0, 0]);
        let lost = u64::from(self.lost_in) | u64::from(self.lost_out) << 32;
        [u64::from(self.len), self.time, kind, lost]
    }

    /// As bytes: words in little endian.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        for (to, word) in bytes.chunks_exact_mut(ALIGN).zip(self.words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a header; `None` if it is none.
    #[must_use]
    pub fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let mut words = bytes.as_chunks::<ALIGN>().0.iter();
        let mut next = || words.next().map(|word| u64::from_le_bytes(*word));
        let (len, time, kind, lost) = (next()?, next()?, next()?, next()?);
        let [way, why, a, b, ..] = kind.to_le_bytes();
        let way = match way {
            0 => Some(Way::In),
            1 => Some(Way::Out),
            2 => Some(Way::Passed),
            END => None,
            _ => return None,
        };
        let len = u32::try_from(len).ok()?;
        // The text that ends a tap names every output.
        let most = if way.is_some() { MOST } else { MOST << 8 };
        (len as usize <= most).then_some(Self {
            len,
            time,
            way,
            why,
            at: u16::from_le_bytes([a, b]),
            lost_in: lost as u32,
            lost_out: (lost >> 32) as u32,
        })
    }
}

/// The number of a reason in a header.
#[must_use]
pub const fn why(reason: Option<Dropped>) -> u8 {
    match reason {
        None => 0,
        Some(reason) => reason as u8 + 1,
    }
}

/// The reason with this number; `None` if the frame left.
#[must_use]
pub fn reason(why: u8) -> Option<Dropped> {
    let at = why.checked_sub(1)?;
    Dropped::ALL.get(usize::from(at)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_nothing_else_is_one() {
        for way in [Some(Way::In), Some(Way::Out), Some(Way::Passed), None] {
            let header = Header {
                len: 65_000,
                time: 1 << 60 | 5,
                way,
                why: why(Some(Dropped::TooBig)),
                at: 0xabcd,
                lost_in: u32::MAX,
                lost_out: 7,
            };
            assert_eq!(Header::read(&header.bytes()), Some(header));
        }
        assert_eq!(Header::read(&[0xee; HEADER]), None);
        for reason_ in Dropped::ALL {
            assert_eq!(reason(why(Some(reason_))), Some(reason_));
        }
        assert_eq!((why(None), reason(0), reason(200)), (0, None, None));
    }
}
