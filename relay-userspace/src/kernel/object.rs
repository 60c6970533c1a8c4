//! The embedded kernel programs: objects loaded with their maps, and a program looked up in one.
//!
//! An object that was not built is empty, and loading it fails with [`KernelError::NotEmbedded`].

use aya::{Ebpf, EbpfLoader, programs::Program};
use relay_common::abi;

use super::{
    error::{KernelError, loading},
    quiet,
};

/// The objects that `cargo xtask build-ebpf` built; empty if only `cargo build` ran.
#[cfg(relay_ebpf_embedded)]
mod embedded {
    pub static XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay.o"));
    pub static FILTER: &[u8] =
        aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay-filter.o"));
}
#[cfg(not(relay_ebpf_embedded))]
mod embedded {
    pub static XDP: &[u8] = &[];
    pub static FILTER: &[u8] = &[];
}

/// The XDP program's name in errors.
pub const XDP: &str = "the XDP program";
/// The name in errors of the tc program that is in the XDP program's object.
pub const LOCAL: &str = "the tc program";
/// The socket filter's name in errors.
pub const FILTER: &str = "the socket filter";

/// Creates the maps of the XDP program in the kernel, with room for `limits` limits; the caller
/// loads the program itself. For the tests that run packets through the program.
///
/// # Errors
///
/// This build has no object, or the kernel refused it.
pub fn load_with(limits: u32) -> Result<Ebpf, KernelError> {
    load_xdp(limits)
}

/// [`load_with`] room for one limit.
///
/// # Errors
///
/// This build has no object, or the kernel refused it.
pub fn load() -> Result<Ebpf, KernelError> {
    load_xdp(1)
}

/// [`load_with`] for the socket filter.
///
/// # Errors
///
/// This build has no object, or the kernel refused it.
pub fn load_filter_with(limits: u32) -> Result<Ebpf, KernelError> {
    load_socket_filter(limits)
}

/// [`load`] for the socket filter.
///
/// # Errors
///
/// This build has no object, or the kernel refused it.
pub fn load_filter() -> Result<Ebpf, KernelError> {
    load_socket_filter(1)
}

/// The XDP program and its maps, with room for `limits` limits.
pub(super) fn load_xdp(limits: u32) -> Result<Ebpf, KernelError> {
    load_object(XDP, embedded::XDP, limits)
}

/// The socket filter and its maps, with room for `limits` limits.
pub(super) fn load_socket_filter(limits: u32) -> Result<Ebpf, KernelError> {
    load_object(FILTER, embedded::FILTER, limits)
}

fn load_object(program: &'static str, object: &[u8], limits: u32) -> Result<Ebpf, KernelError> {
    if object.is_empty() {
        return Err(KernelError::NotEmbedded);
    }
    quiet::ask_the_kernel(program)?;
    EbpfLoader::new()
        .map_max_entries(abi::LIMITS, limits)
        .map_max_entries(abi::OVER_LIMIT, limits)
        .load(object)
        .map_err(|error| loading(program, &error))
}

/// The program `name` of an object.
pub(super) fn program<'a, P>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Map(name))
}
