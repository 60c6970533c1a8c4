//! The ethtool ioctls for which netlink has no equally old replacement.
//!
//! The socket determines the network namespace, so the answers are about the caller's.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::offloads::{Offload, OffloadFacts};

/// Commands (include/uapi/linux/ethtool.h).
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// The string set with the names of features.
const ETH_SS_FEATURES: u32 = 4;
/// The feature of cutting UDP GSO packets into datagrams (`NETIF_F_GSO_UDP_L4`,
/// net/ethtool/common.c).
const SEGMENTATION: &str = "tx-udp-segmentation";

/// `struct ethtool_drvinfo`
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_sset_info` for one set
#[repr(C)]
struct SetInfo {
    command: u32,
    reserved: u32,
    mask: u64,
    count: u32,
}

/// The most features that the structures have room for; Linux 7 has 64.
const FEATURES: usize = 128;

/// `struct ethtool_gstrings`
#[repr(C)]
struct FeatureNames {
    command: u32,
    set: u32,
    len: u32,
    names: [[u8; 32]; FEATURES],
}

/// `struct ethtool_gfeatures`
#[repr(C)]
struct Features {
    command: u32,
    blocks: u32,
    /// Available, requested, active, never changed; 32 features per block.
    features: [[u32; 4]; FEATURES / 32],
}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);
const _: () = assert!(size_of::<SetInfo>() == 24 && size_of::<FeatureNames>() == 12 + 32 * 128);

/// Marks the structures that start with a command and that [`call`] may hand to the kernel.
///
/// # Safety
///
/// The type is the whole structure that the kernel writes for every command it is used with.
unsafe trait Request {}
// SAFETY: the layout is that of `struct ethtool_drvinfo`, as the assertion above checks.
unsafe impl Request for DriverInfo {}
// SAFETY: the layout is that of `struct ethtool_channels`, as the assertion above checks.
unsafe impl Request for Channels {}

// SAFETY: the layout is that of `struct ethtool_sset_info` with room for one count, and the request
// is for one set.
unsafe impl Request for SetInfo {}
// SAFETY: the layout is that of `struct ethtool_gstrings`; the kernel writes as many names as the
// set has, and `offloads` has checked before that they fit.
unsafe impl Request for FeatureNames {}
// SAFETY: the layout is that of `struct ethtool_gfeatures`; the kernel writes at most `blocks`
// blocks.
unsafe impl Request for Features {}

nix::ioctl_readwrite_bad!(siocethtool, libc::SIOCETHTOOL, libc::ifreq);

/// The driver's name; `None` if the interface reports none.
pub(super) fn driver(name: &str) -> io::Result<Option<String>> {
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    if !call(name, &mut info)? {
        return Ok(None);
    }
    let bytes = info
        .driver
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    Ok((!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned()))
}

/// The numbers of RX and TX queues in use; `None` if the driver does not report them.
pub(super) fn channels(name: &str) -> io::Result<Option<(u32, u32)>> {
    let mut channels = Channels {
        command: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    if !call(name, &mut channels)? {
        return Ok(None);
    }
    Ok(Some((
        channels.rx + channels.combined,
        channels.tx + channels.combined,
    )))
}

/// The features of an interface that the relay needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offloads {
    /// It takes UDP GSO packets whole, and the hardware or the receiver cuts them into datagrams.
    pub(super) segments_udp: bool,
    /// What it does to received frames.
    pub(super) received: OffloadFacts,
}

/// Which [`Offloads`] are switched on; none if the driver does not report its features.
pub(super) fn offloads(name: &str) -> io::Result<Offloads> {
    let mut set = SetInfo {
        command: ETHTOOL_GSSET_INFO,
        reserved: 0,
        mask: 1 << ETH_SS_FEATURES,
        count: 0,
    };
    if !call(name, &mut set)? || set.count as usize > FEATURES {
        return Ok(Offloads::default());
    }
    let mut names = FeatureNames {
        command: ETHTOOL_GSTRINGS,
        set: ETH_SS_FEATURES,
        len: set.count,
        names: [[0; 32]; FEATURES],
    };
    let mut features = Features {
        command: ETHTOOL_GFEATURES,
        blocks: (FEATURES / 32) as u32,
        features: [[0; 4]; FEATURES / 32],
    };
    if !call(name, &mut names)? || !call(name, &mut features)? {
        return Ok(Offloads::default());
    }
    let bits = |wanted: &str| {
        let is_it = |name: &[u8; 32]| {
            name.strip_prefix(wanted.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&0))
        };
        let at = names.names.iter().position(is_it)?;
        let [available, _, active, _] = features.features.get(at / 32)?;
        let has = |block: &u32| block & (1 << (at % 32)) != 0;
        Some((has(available), has(active)))
    };
    let is_active = |wanted: &str| bits(wanted).is_some_and(|(_, active)| active);
    let is_unwanted =
        |one: &Offload| bits(one.name()).is_some_and(|(_, active)| active != one.wanted_on());
    let is_fixed = |one: &Offload| bits(one.name()).is_some_and(|(available, _)| !available);
    let unwanted = Offload::ALL.into_iter().filter(is_unwanted);
    Ok(Offloads {
        segments_udp: is_active(SEGMENTATION),
        received: OffloadFacts {
            fixed: unwanted.clone().filter(is_fixed).collect(),
            unwanted: unwanted.collect(),
        },
    })
}

fn c_name(name: &str) -> [libc::c_char; libc::IFNAMSIZ] {
    let mut c_name = [0; libc::IFNAMSIZ];
    // The last byte stays 0: the kernel reads a C string.
    let bytes = c_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (to, from) in bytes.zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    c_name
}

/// Runs one command; false if the driver does not implement it.
fn call<T: Request>(name: &str, request: &mut T) -> io::Result<bool> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let data = std::ptr::from_mut(request).cast();
    let mut ifreq = libc::ifreq {
        ifr_name: c_name(name),
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data },
    };
    // SAFETY: `ifru_data` points to a `Request`, which is the whole structure that the kernel
    // writes for its command, and which outlives the call.
    match unsafe { siocethtool(socket.as_fd().as_raw_fd(), &raw mut ifreq) } {
        Ok(_) => Ok(true),
        Err(Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
