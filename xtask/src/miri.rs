//! `cargo xtask miri`: the unit tests of the datapath's bookkeeping in Miri, which sees every
//! access outside of its memory, every use of freed memory, and data races.
//!
//! Miri knows no AF_XDP, no io_uring and no netlink, and is a few hundred times slower. So only tests
//! of the listed modules run, which need none of these.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{nightly_toolchain, process, workspace::Workspace};

/// The modules whose tests run.
const MODULES: [&str; 12] = [
    "datapath::arena",
    "datapath::batch",
    "datapath::expired",
    "datapath::open_runs",
    "datapath::slots",
    "datapath::uring::buffers",
    "datapath::uring::send_slots",
    "datapath::waiting",
    "datapath::xdp::port_change",
    "datapath::xdp::sendmmsg",
    "datapath::xdp::tx_ring_account",
    "datapath::xdp::umem::tests",
];

/// Runs them.
pub fn run(ws: &Workspace) -> Result<ExitCode> {
    nightly_toolchain::miri()?;
    let mut command = Command::new("cargo");
    nightly_toolchain::use_in(&mut command)
        .current_dir(&ws.root)
        .env("CARGO_TARGET_DIR", ws.target.join("miri"))
        // The clock; and of the two models of who may use a pointer when, the newer one, which
        // allows pointers into a queue for the kernel while the queue is filled on.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-tree-borrows")
        .args(["miri", "test", "--locked", "--lib"])
        .args(["--package", "relay-userspace", "--"])
        .args(MODULES);
    process::run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
