//! TAP devices of the relay's own: they exist as long as the process that made them.
//!
//! The relay reads nothing from such a device and writes nothing to it. Its packet sockets send
//! through it, and a tc program takes every frame before the device does.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use self::ioctls::{siocgifindex, siocsifflags, siocsifmtu, tungetiff, tunsetiff, tunsetlink};

/// What makes TAP devices.
pub const CLONE_DEVICE: &str = "/dev/net/tun";
/// The kernel puts a number in the place of `%d`.
const PATTERN: &str = "relay%d";
/// The largest packet that it takes: more than any frame in a UMEM chunk.
const MTU: libc::c_int = 4096;
/// `ARPHRD_VOID` (include/uapi/linux/if_arp.h): a device of no known type. Of an Ethernet device,
/// IPv6 would make one that has addresses, and a route that groups may leave through
/// (`addrconf_dev_config`, net/ipv6/addrconf.c), and other programs would configure it.
const TYPE: libc::c_int = 0xffff;

/// The requests to the kernel.
mod ioctls {
    #![allow(missing_docs, reason = "the macros make undocumented functions")]

    nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tunsetlink, libc::TUNSETLINK);
    nix::ioctl_read_bad!(tungetiff, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifmtu, libc::SIOCSIFMTU, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_readwrite_bad!(siocgifindex, libc::SIOCGIFINDEX, libc::ifreq);
}

/// A TAP device that is up. Dropping it removes it, as the end of the process does.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    index: u32,
}

/// What was tried, and the kernel's reason.
pub type Refused = (&'static str, io::Error);

impl Tap {
    /// Makes a device in the network namespace of this thread. `prepare` gets it before it is up:
    /// nothing has left through it yet.
    ///
    /// # Errors
    ///
    /// What was tried, and the kernel's reason, or that of `prepare`.
    pub fn new<E: From<Refused>>(prepare: impl FnOnce(&str) -> Result<(), E>) -> Result<Self, E> {
        let file = open().map_err(|error| ("open /dev/net/tun", error))?;
        let mut request = named(PATTERN);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is a whole `ifreq`, which the kernel reads and writes the name to.
        unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }
            .map_err(refused("make a TAP device"))?;
        let name = name(&request);
        // SAFETY: the call takes a number.
        unsafe { tunsetlink(file.as_raw_fd(), TYPE) }
            .map_err(refused("set the type of a TAP device"))?;
        let socket = any_socket().map_err(refused("open a socket"))?;
        let fd = socket.as_fd().as_raw_fd();
        request.ifr_ifru.ifru_mtu = MTU;
        // SAFETY: the request is a whole `ifreq`, which the kernel reads.
        unsafe { siocsifmtu(fd, &raw const request) }
            .map_err(refused("set the MTU of a TAP device"))?;
        // SAFETY: the request is a whole `ifreq`, which the kernel reads and writes.
        unsafe { siocgifindex(fd, &raw mut request) }
            .map_err(refused("ask for the index of a TAP device"))?;
        // SAFETY: the kernel has written the index.
        let index = unsafe { request.ifr_ifru.ifru_ifindex } as u32;
        prepare(&name)?;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        // SAFETY: the request is a whole `ifreq`, which the kernel reads.
        unsafe { siocsifflags(fd, &raw const request) }.map_err(refused("set a TAP device up"))?;
        Ok(Self { file, name, index })
    }

    /// The kernel's index.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its name when it was made.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is there still: an administrator can delete it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let mut request = named("");
        // SAFETY: the request is a whole `ifreq`, which the kernel writes.
        unsafe { tungetiff(self.file.as_raw_fd(), &raw mut request) }.is_ok()
    }
}

/// Why no TAP device can be made here, with what to do; `None` if nothing is known to be in the
/// way.
#[must_use]
pub fn hindrance() -> Option<String> {
    let error = open().err()?;
    Some(format!(
        "{CLONE_DEVICE} cannot be opened: {error}{}",
        remedy(&error)
    ))
}

/// What to do if a TAP device is refused: a sentence that begins with a semicolon, or nothing.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "; let the relay have the device, in a container with `--device /dev/net/tun`, or load the module, \
             `modprobe tun`"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "; let the relay have the device, in a container with `--device /dev/net/tun`, in a systemd unit with \
             `DeviceAllow=/dev/net/tun rw`, and CAP_NET_ADMIN"
        }
        _ => "",
    }
}

fn open() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(CLONE_DEVICE)
}

fn any_socket() -> Result<OwnedFd, Errno> {
    socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

fn refused(what: &'static str) -> impl Fn(Errno) -> Refused {
    move |error| (what, error.into())
}

/// A request about the device `name`.
fn named(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0: the kernel reads a C string.
    let bytes = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (to, from) in bytes.zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

/// The name in a request.
fn name(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]);
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, run};

    #[test]
    fn a_device_has_neither_addresses_nor_routes_and_goes_with_its_owner() {
        in_namespace(|| {
            let prepare = |name: &str| {
                assert!(run("ip link show").contains(name));
                Ok::<_, Refused>(())
            };
            let tap = Tap::new(prepare).unwrap();
            assert_eq!(tap.name(), "relay0");
            assert!(tap.is_there());
            let shown = run("ip address show dev relay0");
            assert!(
                shown.contains("mtu 4096") && shown.contains("UP"),
                "{shown}"
            );
            assert!(!shown.contains("inet"), "{shown}");
            for routes in ["ip route show table all", "ip -6 route show table all"] {
                assert!(!run(routes).contains("relay0"), "{}", run(routes));
            }
            run("ip link del relay0");
            assert!(!tap.is_there());
            drop(tap);
            let again = Tap::new(prepare).unwrap();
            assert!(again.is_there());
            drop(again);
            assert!(!run("ip link show").contains("relay"));
        });
    }
}
