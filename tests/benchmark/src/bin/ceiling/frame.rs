//! The frames that are transmitted: as the relay would send them, with the stamp that the sink
//! counts by.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::{ifaddrs::getifaddrs, time::ClockId};
use relay_bench::{
    job::Output,
    peer,
    programs::abi::{STAMP_LEN, Stamp},
};
use relay_tests::frames::{Checksum, UdpFrame};

/// A frame to `output` without a checksum and with `payload` bytes of payload, of flow 0.
pub fn build(output: &Output, payload: usize) -> Result<Vec<u8>> {
    ensure!(
        payload >= STAMP_LEN,
        "a payload of {payload} bytes has no room for the stamp of {STAMP_LEN}"
    );
    let mut bytes = vec![0; payload];
    set_stamp(&mut bytes, 0);
    let frame = UdpFrame {
        source_mac: mac_of(&output.interface)?,
        tags: Vec::new(),
        source: peer::address_of(&output.interface)?.into(),
        group: output.group.into(),
        to_mac: None,
        source_port: 40_000,
        port: output.port,
        ttl: 64,
        tos: 0,
        flow_label: 0,
        identification: 0,
        dont_fragment: true,
        options: Vec::new(),
        fragment: (0, false),
        payload: bytes,
        checksum: Checksum::Zero,
    };
    frame
        .build()
        .with_context(|| format!("building a frame to {}", output.group))
}

/// Stamps a payload with its sequence number and the time; flow 0.
pub fn set_stamp(payload: &mut [u8], sequence: u64) {
    let stamp = Stamp::new(0, sequence, now_ns()).to_bytes();
    payload[..STAMP_LEN].copy_from_slice(&stamp);
}

/// The monotonic clock in nanoseconds, as kernel programs see it.
fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

fn mac_of(interface: &str) -> Result<[u8; 6]> {
    getifaddrs()
        .context("listing the interfaces")?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr()?.addr())
        .with_context(|| format!("{interface} has no MAC address"))
}
