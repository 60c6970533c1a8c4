//! Measures what one core of this machine can transmit or receive at most, and prints it as JSON.
//!
//! Usage: `ceiling WORK.json --seconds N xdp-tx|xdp-rx|segmented-tx`, in the namespace and on the
//! CPU that are to be measured.

mod frame;
mod measure;
mod segmented;
mod xdp;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use relay_bench::peer;

#[derive(Debug, Parser)]
struct Arguments {
    /// What to do, as JSON.
    work: PathBuf,
    /// How long to measure.
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// AF_XDP in copy mode, transmit only.
    XdpTx {
        /// Bytes of payload of each frame.
        #[arg(long)]
        payload: usize,
    },
    /// AF_XDP in copy mode, receive only.
    XdpRx,
    /// AF_PACKET with UDP segmentation, transmit only.
    SegmentedTx {
        /// Bytes of payload of each frame.
        #[arg(long)]
        payload: usize,
        /// Payloads of one GSO packet.
        #[arg(long)]
        joined: usize,
    },
}

fn main() -> Result<()> {
    let Arguments {
        work,
        seconds,
        what,
    } = Arguments::parse();
    let work = peer::work_of(&work)?;
    let time = Duration::from_secs(seconds.into());
    let flow = work.flows.first().context("the work has no flows")?;
    let measured = match what {
        What::XdpTx { payload } => xdp::transmit(&flow.outputs, payload, time)?,
        What::XdpRx => xdp::receive(&work.input, time)?,
        What::SegmentedTx { payload, joined } => {
            segmented::transmit(&flow.outputs, payload, joined, time)?
        }
    };
    serde_json::to_writer(std::io::stdout(), &measured).context("printing the result")
}
