//! Hardware addresses: how they are written, and which one a group has.

use std::{fmt, net::IpAddr};

use serde::Serializer;

/// Shows a hardware address as `aa:bb:cc:dd:ee:ff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The Ethernet address of a group: 01:00:5e and the low 23 bits of an IPv4 group (RFC 1112,
/// section 6.4), 33:33 and the low 32 bits of an IPv6 group (RFC 2464, section 7).
#[must_use]
pub fn of_group(group: impl Into<IpAddr>) -> [u8; 6] {
    match group.into() {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

pub(super) fn serialize<S: Serializer>(mac: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Mac(*mac))
}
