//! The packet socket that a worker receives from.
//!
//! It gets every frame that arrives on one interface before the Linux stack does, which gets all of
//! them as well. The socket filter keeps only frames that a rule matches. Nothing is queued before
//! the filter is attached: the socket is bound last.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::{
    datapath::error::SetupError,
    host::{packet_socket, socket_options},
    kernel::KernelError,
    plan::Interface,
};

/// Bytes of socket buffer for frames that arrive while the worker does something else; the kernel
/// doubles the number. Enough for several thousand frames of 1000 bytes, about what a FILL ring
/// holds; a larger buffer would only make frames late.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

/// `PACKET_IGNORE_OUTGOING` (include/uapi/linux/if_packet.h, Linux 4.20).
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// `PACKET_FANOUT_HASH`: by flow, so that each flow keeps its order.
const FANOUT_HASH: libc::c_int = 0;
/// The kernel chooses an unused number for the fanout.
const FANOUT_FLAG_UNIQUEID: libc::c_int = 0x2000;
/// `PACKET_FANOUT_FLAG_IGNORE_OUTGOING` (Linux 6.2, as this backend): a fanout receives through a
/// hook of its own, which ignores the `PACKET_IGNORE_OUTGOING` of its sockets. Without this flag it
/// receives the frames that local processes send.
const FANOUT_FLAG_IGNORE_OUTGOING: libc::c_int = 0x4000;
/// How every socket joins a fanout; the kernel refuses one that asks differently.
const FANOUT: libc::c_int = FANOUT_HASH | FANOUT_FLAG_IGNORE_OUTGOING;

/// A fanout, by its number: RX sockets that share the flows of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fanout(u16);

/// An RX socket.
#[derive(Debug)]
pub struct RxSocket {
    socket: OwnedFd,
    name: String,
}

impl RxSocket {
    /// Opens one on `interface`; `attach` attaches the filter to it.
    ///
    /// # Errors
    ///
    /// The first refusal, with the interface.
    pub fn open(
        interface: &Interface,
        attach: &dyn Fn(BorrowedFd<'_>) -> Result<(), KernelError>,
    ) -> Result<Self, SetupError> {
        let name = &interface.name;
        let socket = packet_socket::open().map_err(failed(name, "open a packet socket"))?;
        let fd = socket.as_raw_fd();
        for (option, what) in [
            (libc::PACKET_VNET_HDR, "set PACKET_VNET_HDR"),
            (libc::PACKET_AUXDATA, "set PACKET_AUXDATA"),
            (PACKET_IGNORE_OUTGOING, "set PACKET_IGNORE_OUTGOING"),
        ] {
            socket_options::set(fd, libc::SOL_PACKET, option, 1).map_err(failed(name, what))?;
        }
        socket_options::set_receive_buffer(fd, RECEIVE_BUFFER);
        attach(socket.as_fd())?;
        let everything = libc::ETH_P_ALL as u16;
        packet_socket::bind(&socket, interface.index, everything)
            .map_err(failed(name, "bind a packet socket"))?;
        Ok(Self {
            socket,
            name: name.clone(),
        })
    }

    /// Joins the fanout that shares the interface's flows with other workers, or founds one if none
    /// is given.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EINVAL` while the interface is down.
    pub fn join(&self, fanout: Option<Fanout>) -> Result<Fanout, SetupError> {
        let failed = || failed(&self.name, "share flows among workers (PACKET_FANOUT)");
        let fd = self.socket.as_raw_fd();
        let wanted = match fanout {
            Some(Fanout(number)) => libc::c_int::from(number) | FANOUT << 16,
            None => (FANOUT | FANOUT_FLAG_UNIQUEID) << 16,
        };
        socket_options::set(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, wanted).map_err(failed())?;
        let joined: u32 =
            socket_options::get(fd, libc::SOL_PACKET, libc::PACKET_FANOUT).map_err(failed())?;
        Ok(Fanout(joined as u16))
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn failed(interface: &str, what: &'static str) -> impl FnOnce(Errno) -> SetupError {
    let interface = interface.to_owned();
    move |error| SetupError::Socket {
        interface,
        what,
        error: error.into(),
    }
}
