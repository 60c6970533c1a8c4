//! Messages of the family `ethtool` of generic netlink: features and the numbers of queues.

use std::io;

use super::news::Queues;
use crate::host::netlink_socket::{Socket, attributes, push, text, u16_at, u32_at};

/// The family `ethtool` of generic netlink (include/uapi/linux/ethtool_netlink.h).
pub(in crate::host) const ETHTOOL: &str = "ethtool";
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
/// The answer to [`FEATURES_GET`], and the notification of a change.
const FEATURES_ANSWER: u8 = 11;
const FEATURES_NEWS: u8 = 13;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
/// The notification that the numbers of queues changed.
const CHANNELS_NEWS: u8 = 19;
const CHANNELS_RX: u16 = 6;
const CHANNELS_TX: u16 = 7;
const CHANNELS_COMBINED: u16 = 9;
/// The header of every message, and the interface's index in it.
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;

/// Attributes of an ethtool bit set.
const NOMASK: u16 = 1;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// The request for the features of an interface.
pub(in crate::host) fn features_request(index: u32) -> Vec<u8> {
    request(FEATURES_GET, index)
}

/// The request to switch features of an interface, each on or off, and no others.
pub(in crate::host) fn features_change<'a>(
    index: u32,
    changes: impl Iterator<Item = (&'a str, bool)>,
) -> Vec<u8> {
    let mut bits = Vec::new();
    for (name, on) in changes {
        let mut bit = Vec::new();
        push(&mut bit, BIT_NAME, format!("{name}\0").as_bytes());
        if on {
            push(&mut bit, BIT_VALUE, &[]);
        }
        push(&mut bits, BIT | NESTED, &bit);
    }
    let mut set = Vec::new();
    push(&mut set, BITS | NESTED, &bits);
    let mut payload = request(FEATURES_SET, index);
    push(&mut payload, FEATURES_WANTED | NESTED, &set);
    payload
}

fn request(command: u8, index: u32) -> Vec<u8> {
    let mut header = Vec::new();
    push(&mut header, HEADER_DEV_INDEX, &index.to_ne_bytes());
    let mut payload = vec![command, 1, 0, 0];
    push(&mut payload, HEADER | NESTED, &header);
    payload
}

/// The index of an interface and the set of its features that are on, from an answer or a
/// notification of the family `ethtool`.
pub(in crate::host) fn active_features(message: &[u8]) -> Option<(u32, &[u8])> {
    let all = message.get(4..)?;
    let of = |wanted: u16| attributes(all).find(|(kind, _)| *kind == wanted);
    let index = device_index(of(HEADER)?.1)?;
    let (_, active) = of(FEATURES_ACTIVE)?;
    let known = matches!(message.first(), Some(&(FEATURES_ANSWER | FEATURES_NEWS)));
    known.then_some((index, active))
}

/// The index of an interface and whether it takes UDP GSO packets whole, from an answer or a
/// notification of the family `ethtool`.
pub(super) fn features(message: &[u8]) -> Option<(u32, bool)> {
    let (index, active) = active_features(message)?;
    Some((index, has_bit(active, "tx-udp-segmentation")))
}

/// The index of an interface and its queues in use, from a notification that their number has
/// changed.
pub(super) fn channels(message: &[u8]) -> Option<(u32, Queues)> {
    if message.first() != Some(&CHANNELS_NEWS) {
        return None;
    }
    let all = message.get(4..)?;
    let of = |wanted: u16| attributes(all).find(|(kind, _)| *kind == wanted);
    let count = |wanted| of(wanted).and_then(|(_, count)| u32_at(count, 0));
    let index = device_index(of(HEADER)?.1)?;
    let combined = count(CHANNELS_COMBINED).unwrap_or(0);
    let both = |own| count(own).unwrap_or(0) + combined;
    let (rx, tx) = (both(CHANNELS_RX), both(CHANNELS_TX));
    Some((index, Queues { rx, tx }))
}

fn device_index(header: &[u8]) -> Option<u32> {
    let (_, index) = attributes(header).find(|(kind, _)| *kind == HEADER_DEV_INDEX)?;
    u32_at(index, 0)
}

/// A family of generic netlink.
pub(in crate::host) struct Family {
    pub(in crate::host) number: u16,
    /// Its multicast group `monitor`, which has the notifications.
    pub(super) monitor: Option<u32>,
}

/// Looks up a family; `None` if the kernel does not have it.
pub(in crate::host) fn family(socket: &mut Socket, name: &str) -> io::Result<Option<Family>> {
    // include/uapi/linux/genetlink.h
    const ID_CTRL: u16 = 16;
    const GET_FAMILY: u8 = 3;
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    const GROUPS: u16 = 7;
    const GROUP_NAME: u16 = 1;
    const GROUP_ID: u16 = 2;
    let mut payload = vec![GET_FAMILY, 1, 0, 0];
    push(&mut payload, FAMILY_NAME, format!("{name}\0").as_bytes());
    let mut found = None;
    let asked = socket.ask(ID_CTRL, &payload, |_, answer| {
        let all = answer.get(4..).unwrap_or_default();
        let of = |wanted: u16| attributes(all).find(|(kind, _)| *kind == wanted);
        let groups = of(GROUPS).map_or(&[][..], |(_, groups)| groups);
        let is_it = |group: &[u8]| {
            attributes(group).any(|(kind, name)| kind == GROUP_NAME && text(name) == "monitor")
        };
        let monitor = attributes(groups).find(|(_, group)| is_it(group));
        let monitor = monitor.and_then(|(_, group)| {
            let (_, id) = attributes(group).find(|(kind, _)| *kind == GROUP_ID)?;
            u32_at(id, 0)
        });
        let number = of(FAMILY_ID).and_then(|(_, id)| u16_at(id, 0));
        found = number.map(|number| Family { number, monitor });
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// Whether an ethtool bit set has the bit `wanted` set.
pub(in crate::host) fn has_bit(set: &[u8], wanted: &str) -> bool {
    let is_list = attributes(set).any(|(kind, _)| kind == NOMASK);
    let bits = attributes(set).filter(|(kind, _)| *kind == BITS);
    let mut bits = bits.flat_map(|(_, bits)| attributes(bits));
    bits.any(|(_, bit)| {
        let is_it = attributes(bit).any(|(kind, name)| kind == BIT_NAME && text(name) == wanted);
        is_it && (is_list || attributes(bit).any(|(kind, _)| kind == BIT_VALUE))
    })
}
