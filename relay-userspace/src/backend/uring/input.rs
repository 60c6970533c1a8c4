//! The packet socket that a worker receives by.
//!
//! It hears everything that comes in by one interface before the Linux stack does, which gets all of it as well. The
//! socket filter leaves only what a rule matches. Nothing is queued before the filter is on: the socket is bound last.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::{
    backend::{SetupError, outlet, sockopt},
    kernel::KernelError,
    plan::Interface,
};

/// Bytes of socket buffer for what arrives while the worker does something else, of which the kernel makes twice as
/// many: some thousand frames of 1000 bytes, about what a FILL ring holds. More would only make frames late.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

/// `PACKET_IGNORE_OUTGOING` (include/uapi/linux/if_packet.h, Linux 4.20).
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// `PACKET_FANOUT_HASH`: by flow, so that a flow keeps its order.
const FANOUT_HASH: libc::c_int = 0;
/// The kernel chooses a number for the group that is not in use.
const FANOUT_FLAG_UNIQUEID: libc::c_int = 0x2000;
/// `PACKET_FANOUT_FLAG_IGNORE_OUTGOING` (Linux 6.2, as this backend): a group hears by a hook of
/// its own, which knows nothing of its members' `PACKET_IGNORE_OUTGOING`. Without this it hears
/// what local processes send.
const FANOUT_FLAG_IGNORE_OUTGOING: libc::c_int = 0x4000;
/// How every member asks for its group; the kernel refuses a member that asks differently.
const FANOUT: libc::c_int = FANOUT_HASH | FANOUT_FLAG_IGNORE_OUTGOING;

/// The workers that share an interface's flows out among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fanout(u16);

/// A packet socket that receives from one interface.
#[derive(Debug)]
pub struct Input {
    socket: OwnedFd,
    name: String,
}

impl Input {
    /// Opens one on `interface`; `attach` puts the filter on.
    ///
    /// # Errors
    ///
    /// The first refusal, with the interface.
    pub fn open(
        interface: &Interface,
        attach: &dyn Fn(BorrowedFd<'_>) -> Result<(), KernelError>,
    ) -> Result<Self, SetupError> {
        let name = &interface.name;
        let socket = outlet::packet_socket().map_err(failed(name, "open a packet socket"))?;
        let fd = socket.as_raw_fd();
        for (option, what) in [
            (libc::PACKET_VNET_HDR, "set PACKET_VNET_HDR"),
            (libc::PACKET_AUXDATA, "set PACKET_AUXDATA"),
            (PACKET_IGNORE_OUTGOING, "set PACKET_IGNORE_OUTGOING"),
        ] {
            sockopt::set(fd, libc::SOL_PACKET, option, 1).map_err(failed(name, what))?;
        }
        sockopt::set_receive_buffer(fd, RECEIVE_BUFFER);
        attach(socket.as_fd())?;
        let everything = libc::ETH_P_ALL as u16;
        outlet::bind(&socket, interface.index, everything)
            .map_err(failed(name, "bind a packet socket"))?;
        Ok(Self {
            socket,
            name: name.clone(),
        })
    }

    /// Shares the interface's flows with the other workers of the group, which it founds if there is none yet.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EINVAL` while the interface is down.
    pub fn join(&self, group: Option<Fanout>) -> Result<Fanout, SetupError> {
        let failed = || failed(&self.name, "share its flows among workers (PACKET_FANOUT)");
        let fd = self.socket.as_raw_fd();
        let wanted = match group {
            Some(Fanout(number)) => libc::c_int::from(number) | FANOUT << 16,
            None => (FANOUT | FANOUT_FLAG_UNIQUEID) << 16,
        };
        sockopt::set(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, wanted).map_err(failed())?;
        let joined: u32 =
            sockopt::get(fd, libc::SOL_PACKET, libc::PACKET_FANOUT).map_err(failed())?;
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
