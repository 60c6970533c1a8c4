//! `relay explain`: which rule takes a datagram, or why none does.

use std::{net::IpAddr, path::Path};

use clap::Args;

use super::{
    change::{change, labelled},
    target::Target,
};
use crate::{config::rules::Vlan, daemon::requests::Request};

/// A datagram.
#[derive(Debug, Clone, Args)]
pub struct Datagram {
    /// The interface that it arrives on
    #[arg(long)]
    pub interface: String,
    /// Its destination: a group, or an address of the relay's host
    #[arg(long)]
    pub group: IpAddr,
    /// Its destination UDP port
    #[arg(long)]
    pub port: u16,
    /// Its source address; without, one that no rule names
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// The VLAN of its tag; of two tags the outer and the inner one, as in 100,200
    #[arg(long, value_parser = vlan)]
    pub vlan: Option<Vlan>,
}

/// "100", or "100,200"
fn vlan(text: &str) -> Result<Vlan, String> {
    let one = |text: &str| {
        let number = text.trim().parse().ok();
        let number = number.filter(|number| *number <= 4095);
        number.ok_or("give a number from 0 to 4095, or two of them: 100,200")
    };
    let (outer, inner) = match text.split_once(',') {
        Some((outer, inner)) => (one(outer)?, Some(one(inner)?)),
        None => (one(text)?, None),
    };
    Ok(Vlan::of_tags(Some(outer), inner))
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
        source: datagram.source,
        vlan: datagram.vlan.unwrap_or_default(),
        text: file.map(labelled).transpose()?,
    };
    change(target, request)
}
