//! Loads the socket filter and attaches it to packet sockets.
//!
//! A socket keeps the filter until it is closed (`sk_filter_release`, net/core/filter.c), so the
//! filter does not outlive this process, however the process ends.

use std::os::fd::BorrowedFd;

use aya::{Ebpf, programs::SocketFilter};
use relay_common::abi;

use super::{
    error::{KernelError, chain, os_error},
    maps::Maps,
    object, quiet,
};

/// The loaded filter and its maps.
pub struct Filter {
    pub maps: Maps,
    ebpf: Ebpf,
}

impl Filter {
    /// Loads the filter, with room for `limits` limits.
    pub fn load(limits: u32) -> Result<Self, KernelError> {
        let mut ebpf = object::load_socket_filter(limits)?;
        let maps = Maps::take_from(&mut ebpf)?;
        let program: &mut SocketFilter = object::program(&mut ebpf, abi::FILTER)?;
        quiet::load(object::FILTER, || program.load())?;
        Ok(Self { maps, ebpf })
    }

    /// Attaches the filter to a packet socket, in place of any other.
    pub fn attach(&self, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        let program: &SocketFilter = self
            .ebpf
            .program(abi::FILTER)
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Map(abi::FILTER))?;
        program
            .attach(socket)
            .map_err(|error| KernelError::AttachFilter {
                reason: chain(&error),
                remedy: match os_error(&error) {
                    // `sk_filter_charge`: the filter counts against the socket's option memory.
                    Some(libc::ENOMEM) => {
                        "; it does not fit into net.core.optmem_max: `sysctl -w net.core.optmem_max=131072`"
                    }
                    _ => "",
                },
            })
    }
}
