//! The PAT and the PMTs (ISO/IEC 13818-1, section 2.4.4): whether they come often enough.

use super::MpegTsCells;
use crate::datapath::stats::Count;

/// Where PATs are.
const PAT_PID: u16 = 0;
/// What their sections and those of PMTs begin with.
const PAT_TABLE: u8 = 0;
const PMT_TABLE: u8 = 2;
/// The longest interval between two of them (TR 101 290, 1.3 and 1.5).
const INTERVAL_NS: u64 = 500_000_000;
/// The most PMTs that are followed.
const PMTS: usize = 16;
/// What is in front of the programs of a PAT: table and length, and the rest of the header; what is
/// behind them; and a program.
const LENGTH_LEN: usize = 3;
const HEADER_LEN: usize = 5;
const CRC_LEN: usize = 4;
const PROGRAM_LEN: usize = 4;

/// The tables of a source.
#[derive(Debug, Default)]
pub struct Tables {
    last_pat: Count,
    pmts: [Pmt; PMTS],
}

#[derive(Debug, Default)]
struct Pmt {
    /// The PID and one, 0 while the place is free.
    key: Count,
    /// When it came last, or was first in the PAT.
    last: Count,
}

/// Counts an error if this is late, and notes when it came.
fn came(last: &Count, now: u64, errors: &Count) {
    let interval = now.saturating_sub(last.get());
    errors.add(u64::from(interval > INTERVAL_NS));
    last.set(now);
}

impl Tables {
    /// The stream begins: from now on a PAT is waited for.
    pub fn begin(&self, now: u64) {
        self.last_pat.set(now);
    }

    /// Something starts in a packet: a section if the PID is one of tables.
    #[inline]
    pub fn see(&self, pid: u16, section: &[u8], now: u64, own: &MpegTsCells) {
        let Some(&table) = section.first() else {
            return;
        };
        if pid == PAT_PID {
            if table == PAT_TABLE {
                came(&self.last_pat, now, &own.pat_errors);
                self.take(section, now);
            }
        } else if table == PMT_TABLE
            && let Some(pmt) = self.pmts.iter().find(|pmt| pmt.is(pid))
        {
            came(&pmt.last, now, &own.pmt_errors);
        }
    }

    /// Follows the PMTs of a PAT, if it is whole.
    fn take(&self, section: &[u8], now: u64) {
        let Some(programs) = programs(section) else {
            return;
        };
        let old = self
            .pmts
            .each_ref()
            .map(|pmt| (pmt.key.get(), pmt.last.get()));
        let mut free = self.pmts.iter();
        for key in pmt_keys(programs) {
            let taken = self.pmts.len() - free.len();
            if self.pmts.iter().take(taken).any(|pmt| pmt.key.get() == key) {
                // Two programs share it.
                continue;
            }
            let Some(pmt) = free.next() else {
                break;
            };
            let known = old.iter().find(|&&(old, _)| old == key);
            pmt.key.set(key);
            pmt.last.set(known.map_or(now, |&(_, last)| last));
        }
        for pmt in free {
            pmt.key.set(0);
        }
    }

    /// Forgets all.
    pub fn reset(&self) {
        for pmt in &self.pmts {
            pmt.key.set(0);
        }
    }

    /// Where PMTs are.
    pub fn pmt_pids(&self) -> Vec<u16> {
        let keys = self.pmts.iter().map(|pmt| pmt.key.get());
        keys.filter_map(|key| Some(key.checked_sub(1)? as u16))
            .collect()
    }
}

impl Pmt {
    fn is(&self, pid: u16) -> bool {
        self.key.get() == u64::from(pid) + 1
    }
}

/// The programs of a PAT of one section that is valid now and undamaged.
fn programs(section: &[u8]) -> Option<&[[u8; PROGRAM_LEN]]> {
    let [_, high, low] = *section.first_chunk::<LENGTH_LEN>()?;
    let len = usize::from(u16::from_be_bytes([high & 0x0f, low]));
    let section = section.get(..LENGTH_LEN + len)?;
    if crc(section) != 0 {
        return None;
    }
    let body = section.get(LENGTH_LEN..)?;
    let (header, rest) = body.split_first_chunk::<HEADER_LEN>()?;
    let [_, _, version, _, last_section] = *header;
    let is_current = version & 1 == 1;
    if !is_current || last_section != 0 {
        return None;
    }
    let end = rest.len().checked_sub(CRC_LEN)?;
    Some(rest.get(..end)?.as_chunks().0)
}

/// The PIDs and one of the programs' PMTs. Number 0 is no program, but the network's table.
fn pmt_keys(programs: &[[u8; PROGRAM_LEN]]) -> impl Iterator<Item = u64> {
    let pmts = programs.iter().filter(|[a, b, ..]| [*a, *b] != [0, 0]);
    pmts.map(|&[.., high, low]| u64::from(u16::from_be_bytes([high & 0x1f, low])) + 1)
}

/// The CRC of a section (ISO/IEC 13818-1, annex A): 0 for one with its CRC. A PAT is short and
/// rare, so this goes bit by bit.
pub(super) fn crc(section: &[u8]) -> u32 {
    section.iter().fold(u32::MAX, |crc, &byte| {
        (0..u8::BITS).fold(crc ^ u32::from(byte) << 24, |crc, _| {
            let carry = if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            crc << 1 ^ carry
        })
    })
}
