//! `cargo xtask test`: everything that must hold before a change is merged.
//!
//! Nothing is skipped silently: a machine that cannot run the end-to-end tests fails, an ignored
//! test fails, and so does a run in which no test ran.

pub mod instructions;
mod steps;
mod targets;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{
    native_xdp, process,
    setup::{self, Purpose},
    summary::Run,
    vm,
    workspace::Workspace,
};

/// Runs everything, or only the tests whose name contains `filter`.
pub fn run(ws: &Workspace, filter: Option<&str>) -> Result<ExitCode> {
    if !process::is_root() {
        bail!(
            "the tests need root: they make network namespaces and attach XDP programs. \
             Run them as root: sudo -E env PATH=\"$PATH\" cargo xtask test"
        );
    }
    setup::system(Purpose::Test)?;
    native_xdp::check(ws).context(
        "this machine cannot run the end-to-end tests, which need network namespaces, veth pairs \
         and native XDP on them (Linux 5.9 or newer, and in a container all capabilities)",
    )?;
    let mut run = Run::default();
    if filter.is_none() {
        run.step("format", || steps::format(ws));
    }
    let built = run.step("build", || steps::build(ws));
    if filter.is_none() {
        run.step("clippy", || steps::clippy(ws));
        run.step("clippy of the XDP program", || steps::clippy_ebpf(ws));
        run.step("dependencies", || steps::dependencies(ws));
        run.step("documentation", || steps::documentation(ws));
    }
    run.step("unit tests", || steps::unit(ws, filter));
    if filter.is_none() {
        run.step("instruction counts", || instructions::compare(ws));
    }
    run.step("end-to-end tests", || {
        if !built {
            bail!("not run, because the relay was not built");
        }
        steps::end_to_end(ws, filter)
    });
    if filter.is_none() {
        vm::part_of_all(ws, &mut run);
    }
    Ok(run.finish(filter))
}

/// Builds the relay, and runs the long form of the tests that have one.
pub fn long(ws: &Workspace) -> Result<ExitCode> {
    let mut run = Run::default();
    let built = run.step("build", || steps::build(ws));
    run.step("long tests", || {
        if !built {
            bail!("not run, because the relay was not built");
        }
        steps::long(ws)
    });
    Ok(run.finish(None))
}
