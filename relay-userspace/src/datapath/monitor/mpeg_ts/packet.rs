//! One packet of a transport stream (ISO/IEC 13818-1, section 2.4.3).

use super::{PACKET_LEN, SYNC};

/// The header and the adaptation field's length.
const HEADER_LEN: usize = 4;
const LENGTH_LEN: usize = 1;
/// The flags of the adaptation field, and a PCR behind them.
const FLAGS_LEN: usize = 1;
const PCR_LEN: usize = 6;

/// What a monitor needs of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Whether it says that it is damaged.
    pub is_damaged: bool,
    /// Whether a section or a PES packet starts in it.
    starts: bool,
    /// Its PID.
    pub pid: u16,
    /// Whether its payload is scrambled.
    pub is_scrambled: bool,
    /// Its continuity counter.
    pub continuity: u8,
    /// Whether its continuity counter is one more than before.
    pub has_payload: bool,
    /// Whether its continuity counter may be any.
    pub is_discontinuous: bool,
    /// Whether it has a PCR.
    pub has_pcr: bool,
    /// What is behind the adaptation field.
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a packet. `None` if it does not begin with the sync byte.
    #[inline]
    pub fn parse(bytes: &'a [u8; PACKET_LEN]) -> Option<Self> {
        let (&[sync, high, low, control], rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        if sync != SYNC {
            return None;
        }
        let has_payload = control & 0x10 != 0;
        let (adaptation, payload) = match control & 0x20 {
            0 => (&[][..], rest),
            // One that is longer than its packet has nothing that can be believed.
            _ => adaptation(rest).unwrap_or_default(),
        };
        let flags = adaptation.first().copied().unwrap_or(0);
        Some(Self {
            is_damaged: high & 0x80 != 0,
            starts: high & 0x40 != 0,
            pid: u16::from_be_bytes([high & 0x1f, low]),
            is_scrambled: control & 0xc0 != 0,
            continuity: control & 0x0f,
            has_payload,
            is_discontinuous: flags & 0x80 != 0,
            has_pcr: flags & 0x10 != 0 && adaptation.len() >= FLAGS_LEN + PCR_LEN,
            payload: if has_payload { payload } else { &[] },
        })
    }

    /// The first section that starts in this packet, if it is one of a PID with sections, with all
    /// that is behind it.
    #[inline]
    pub fn section(&self) -> Option<&'a [u8]> {
        if !self.starts {
            return None;
        }
        let (&pointer, rest) = self.payload.split_first()?;
        rest.get(usize::from(pointer)..)
    }
}

/// The adaptation field without its length, and what is behind it.
fn adaptation(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = usize::from(*bytes.first()?);
    bytes.get(LENGTH_LEN..)?.split_at_checked(len)
}
