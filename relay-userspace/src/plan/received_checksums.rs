//! What is known of the UDP checksums of frames that arrive on an interface.
//!
//! A local socket leaves its checksum to the hardware, and on a virtual interface no hardware
//! completes it: the receiver sees a partial one (Linux `CHECKSUM_PARTIAL`). The kernel does not
//! tell an XDP program which frames those are. So the relay recognises them by their value, which a
//! complete checksum has once in 65535 by chance; completing that one would repair a damaged
//! payload. Frames from a wire have complete checksums only, and then no value is special.

use std::fmt;

use serde::Serialize;

use super::backend::Backend;

/// Drivers of hardware, by their names in `ethtool -i`: each has native XDP, and passes frames to
/// it as they were on the wire, with checksums that the sending hardware has completed.
///
/// Not here, because they may pass on partial ones: veth, tun, virtio_net, xen-netfront (vif),
/// hv_netvsc, vmxnet3, whose other end may be a socket of the same host; drivers of clouds' virtual
/// functions; and every driver that has not been examined.
const HARDWARE: [&str; 14] = [
    "atlantic",
    "bnxt_en",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx4_en",
    "mlx5_core",
    "nfp",
    "qede",
    "sfc",
    "st_gmac",
    "tsnep",
];

/// What is known of the UDP checksums of frames that arrive on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksums {
    /// All are complete: the frames come from a wire.
    Complete,
    /// Some may be partial; the relay recognises them by their value.
    ByValue,
    /// The kernel says of each frame whether its checksum is partial, and whether it was found
    /// right.
    Told,
}

impl Checksums {
    /// The checksums of an input with this `driver`.
    pub(super) fn of(backend: Backend, driver: &str) -> Self {
        match backend {
            Backend::IoUring => Self::Told,
            Backend::Xdp if HARDWARE.contains(&driver) => Self::Complete,
            Backend::Xdp => Self::ByValue,
        }
    }
}

impl fmt::Display for Checksums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "complete",
            Self::ByValue => "complete, or partial by their value",
            Self::Told => "as the kernel tells",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_come_from_a_wire_is_never_partial() {
        for driver in ["igb", "mlx5_core", "ice"] {
            assert_eq!(Checksums::of(Backend::Xdp, driver), Checksums::Complete);
        }
        for driver in ["veth", "virtio_net", "tun", "unknown", "ena", ""] {
            assert_eq!(
                Checksums::of(Backend::Xdp, driver),
                Checksums::ByValue,
                "{driver}"
            );
        }
        assert_eq!(Checksums::of(Backend::IoUring, "igb"), Checksums::Told);
    }
}
