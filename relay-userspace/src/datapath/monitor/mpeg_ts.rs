//! MPEG transport streams (ISO/IEC 13818-1) in UDP, also with an RTP header in front: what
//! TR 101 290 calls first priority, as far as packets show it, and the intervals of PCRs.
//!
//! Packets keep their place in a datagram, whatever damaged one of them. So one with the right sync
//! byte is looked at even while the stream as a whole is out of sync.

mod packet;
mod pids;
mod tables;

pub use self::pids::Pid;
use self::{packet::Packet, pids::Pids, tables::Tables};
use super::{
    Details,
    counts::{Cells, counts},
    rtp,
    sequence::Tracker,
    sources::Stream,
};
use crate::datapath::stats::Count;

/// Length of a packet.
const PACKET_LEN: usize = 188;
/// What a packet begins with.
const SYNC: u8 = 0x47;
/// Stuffing; its continuity counter means nothing.
const NULL_PID: u16 = 0x1fff;
/// So many wrong sync bytes in a row are a loss of sync, and so many right ones end it.
const WRONG: u64 = 2;
const RIGHT: u64 = 5;

counts! {
    /// What is counted of transport streams alone.
    MpegTsCounts, MpegTsCells {
        /// Packets, those without sync byte included.
        packets,
        /// Packets that do not begin with the sync byte.
        sync_byte_errors,
        /// How often two of them or more followed each other.
        sync_losses,
        /// Packets that say themselves that they are damaged.
        transport_errors,
        /// Packets whose continuity counter was not the expected one.
        continuity_errors,
        /// PATs that came more than 500 ms after the one before.
        pat_errors,
        /// PMTs that came more than 500 ms after the one before of the same PID.
        pmt_errors,
        /// PCRs that came more than 100 ms after the one before of the same PID.
        pcr_errors,
        /// Packets whose payload is scrambled.
        scrambled,
        /// Packets of PIDs that there was no room for: their continuity and PCRs are not looked at.
        pids_beyond,
    }
}

/// The state of a transport stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpegTs {
    /// What was counted.
    pub counts: MpegTsCounts,
    /// Whether sync bytes are where they belong.
    pub in_sync: bool,
    /// Where the last PAT says that PMTs are.
    pub pmt_pids: Vec<u16>,
    /// The PIDs, in their order.
    pub pids: Vec<Pid>,
}

/// The transport stream of one source.
#[derive(Debug, Default)]
pub struct TransportStream {
    own: MpegTsCells,
    /// Sync bytes in a row that were wrong, and right ones since sync was lost.
    wrong: Count,
    right: Count,
    /// 1 while out of sync.
    is_lost: Count,
    tables: Tables,
    pids: Pids,
}

/// The packets of a datagram. `None` if it is not made of whole packets.
fn packets(payload: &[u8]) -> Option<&[[u8; PACKET_LEN]]> {
    let behind_rtp = || {
        let header = rtp::Header::parse(payload)?;
        let rest = payload.get(header.len..)?;
        (rest.first() == Some(&SYNC)).then_some(rest)
    };
    match behind_rtp().unwrap_or(payload).as_chunks() {
        ([], _) => None,
        (packets, []) => Some(packets),
        _ => None,
    }
}

impl TransportStream {
    /// Looks at a datagram. `false` if it is not made of whole packets.
    #[inline]
    pub fn see(&self, payload: &[u8], now: u64) -> bool {
        let Some(packets) = packets(payload) else {
            return false;
        };
        if self.own.packets.get() == 0 {
            self.tables.begin(now);
        }
        for packet in packets {
            self.packet(packet, now);
        }
        true
    }

    fn packet(&self, bytes: &[u8; PACKET_LEN], now: u64) {
        self.own.packets.add(1);
        let Some(packet) = Packet::parse(bytes) else {
            self.wrong_sync();
            return;
        };
        self.wrong.set(0);
        if self.is_lost.get() == 1 {
            self.right.add(1);
            self.is_lost.set(u64::from(self.right.get() < RIGHT));
        }
        if packet.is_damaged {
            // Nothing in it can be believed.
            self.own.transport_errors.add(1);
            return;
        }
        if packet.pid == NULL_PID {
            return;
        }
        self.own.scrambled.add(u64::from(packet.is_scrambled));
        self.pids.see(&packet, now, &self.own);
        if let Some(section) = packet.section() {
            self.tables.see(packet.pid, section, now, &self.own);
        }
    }

    #[cold]
    fn wrong_sync(&self) {
        self.own.sync_byte_errors.add(1);
        self.wrong.add(1);
        self.right.set(0);
        if self.wrong.get() >= WRONG && self.is_lost.get() == 0 {
            self.is_lost.set(1);
            self.own.sync_losses.add(1);
        }
    }
}

impl Stream for TransportStream {
    type Own = MpegTsCells;

    fn own(&self) -> &MpegTsCells {
        &self.own
    }

    fn tracker(&self) -> Option<&Tracker> {
        None
    }

    fn reset(&self) {
        self.own.reset();
        for count in [&self.wrong, &self.right, &self.is_lost] {
            count.set(0);
        }
        self.tables.reset();
        self.pids.reset();
    }

    fn details(&self) -> Details {
        let counts = self.own.get();
        if counts.packets == 0 {
            return Details::None;
        }
        Details::MpegTs(MpegTs {
            counts,
            in_sync: self.is_lost.get() == 0,
            pmt_pids: self.tables.pmt_pids(),
            pids: self.pids.read(),
        })
    }
}

#[cfg(test)]
mod tests;
