//! `cargo xtask miri`: the unit tests of the datapath's bookkeeping in Miri, which sees every
//! access outside of its memory, every use of freed memory, and data races.
//!
//! Miri knows no AF_XDP, no io_uring and no netlink, and is a few hundred times slower. So only tests
//! of the listed modules run; those of them that need the kernel are marked `cfg_attr(miri, ignore)`,
//! with the reason.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{nightly_toolchain, process, workspace::Workspace};

/// The packages, and the modules whose tests run; none means all.
const TESTS: [(&str, &[&str]); 2] = [("relay-common", &[]), ("relay-userspace", &MODULES)];
const MODULES: [&str; 12] = [
    "datapath::arena",
    "datapath::backlog",
    "datapath::batch",
    "datapath::expired",
    "datapath::open_runs",
    "datapath::slots",
    "datapath::stats",
    "datapath::vnet_header",
    "datapath::xdp::tx_ring_account",
    "datapath::xdp::tx_rings",
    "datapath::xdp::umem",
    "packet::",
];

/// Runs them.
pub fn run(ws: &Workspace) -> Result<ExitCode> {
    nightly_toolchain::miri()?;
    for (package, modules) in TESTS {
        let mut command = Command::new("cargo");
        nightly_toolchain::use_in(&mut command)
            .current_dir(&ws.root)
            .env("CARGO_TARGET_DIR", ws.target.join("miri"))
            // The clock, and the files of the property tests. Arenas grow by opening pages.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation")
            .env("PROPTEST_CASES", "4")
            .args([
                "miri",
                "test",
                "--locked",
                "--lib",
                "--package",
                package,
                "--",
            ])
            .args(modules);
        process::run(&mut command)?;
    }
    Ok(ExitCode::SUCCESS)
}
