//! `relay explain`: which rule takes a datagram, or why none does.

use std::{net::Ipv4Addr, path::Path};

use clap::Args;

use super::{
    change::{change, labelled},
    target::Target,
};
use crate::daemon::requests::Request;

/// A datagram.
#[derive(Debug, Clone, Args)]
pub struct Datagram {
    /// The interface that it arrives on
    #[arg(long)]
    pub interface: String,
    /// Its destination group
    #[arg(long)]
    pub group: Ipv4Addr,
    /// Its destination UDP port
    #[arg(long)]
    pub port: u16,
    /// The VLAN that it is tagged with
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=4095))]
    pub vlan: Option<u16>,
}

/// Prints what becomes of a datagram by the rules of `file`, or by the running ones.
///
/// # Errors
///
/// No relay serves there, or the file cannot be read or has mistakes.
pub fn explain(target: &Target, datagram: &Datagram, file: Option<&Path>) -> anyhow::Result<()> {
    let request = Request::Explain {
        interface: datagram.interface.clone(),
        group: datagram.group,
        port: datagram.port,
        vlan: datagram.vlan,
        text: file.map(labelled).transpose()?,
    };
    change(target, request)
}
