//! The benchmark's kernel programs, and the values that their maps hold.

use std::path::Path;

use anyhow::{Context, Result};
use aya::{
    Ebpf, Pod,
    maps::{Map, MapData, MapError},
};

#[path = "../ebpf/src/abi.rs"]
pub mod abi;

impl abi::Stamp {
    /// The stamp of a frame with this number.
    pub const fn new(flow: u32, sequence: u64, sent_ns: u64) -> Self {
        Self {
            magic: abi::MAGIC,
            rtp_sequence: (sequence as u16).to_be(),
            low: sequence as u32,
            flow,
            high: (sequence >> 32) as u32,
            sent_ns,
        }
    }

    /// As it lies in a payload.
    #[must_use]
    pub fn to_bytes(self) -> [u8; abi::STAMP_LEN] {
        let mut bytes = [0; abi::STAMP_LEN];
        let [first, second, third] = [
            u64::from(self.magic) | u64::from(self.rtp_sequence) << 16 | u64::from(self.low) << 32,
            u64::from(self.flow) | u64::from(self.high) << 32,
            self.sent_ns,
        ];
        for (bytes, long) in bytes.chunks_exact_mut(8).zip([first, second, third]) {
            bytes.copy_from_slice(&long.to_le_bytes());
        }
        bytes
    }
}

// SAFETY: integers without padding between them; any bytes are a value.
unsafe impl Pod for abi::Pace {}
// SAFETY: as above.
unsafe impl Pod for abi::Template {}
// SAFETY: as above.
unsafe impl Pod for abi::SlotKey {}
// SAFETY: as above.
unsafe impl Pod for abi::Slot {}
// SAFETY: as above.
unsafe impl Pod for abi::SlotState {}
// SAFETY: as above.
unsafe impl Pod for abi::Latencies {}

/// Loads a copy of the object: its maps, and none of its programs yet.
pub fn load(object: &Path) -> Result<Ebpf> {
    let bytes = std::fs::read(object).with_context(|| {
        format!(
            "reading the benchmark's kernel programs from {}: `cargo xtask bench` compiles them",
            object.display()
        )
    })?;
    Ebpf::load(&bytes).with_context(|| format!("loading {}, are you root?", object.display()))
}

/// A map of the object, as its own type.
pub fn map<'a, M>(ebpf: &'a mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<&'a mut Map, Error = MapError>,
{
    let map = ebpf
        .map_mut(name)
        .with_context(|| format!("the object has no map {name}: is it of another version?"))?;
    M::try_from(map).with_context(|| format!("the map {name} is of another type"))
}

/// A map's data, as aya's types take it for writing.
pub type Data<'a> = &'a mut MapData;
