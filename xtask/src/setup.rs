//! Finds what building and testing need, and installs what is missing.
//!
//! Idempotent and quick when there is nothing to do. Every function takes care of one purpose, so
//! that a command installs only what it uses: the demo needs no licence checker.

mod compiler;
mod install;
mod linker;
mod packages;
mod tools;

use std::process::ExitCode;

use anyhow::Result;

pub use self::{
    compiler::{Compiler, Report},
    packages::Purpose,
    tools::{cargo_deny, cargo_fuzz, cargo_mutants, gungraun_runner},
};
use crate::workspace::Workspace;

/// A compiler for the kernel program and the linker that fits it.
#[derive(Debug)]
pub struct EbpfToolchain {
    /// Compiles for `bpfel-unknown-none`.
    pub compiler: Compiler,
    /// Where bpf-linker is and how to run it.
    pub linker: linker::Linker,
}

/// `cargo xtask setup`.
pub fn all(ws: &Workspace) -> Result<ExitCode> {
    system(Purpose::Test)?;
    let toolchain = ebpf(ws, Report::Everything)?;
    println!("  compiler of the XDP program: {}", toolchain.compiler);
    println!(
        "  bpf-linker: {} ({})",
        ws.shown(&toolchain.linker.program),
        toolchain.linker.flavour
    );
    println!("  cargo-deny: {}", ws.shown(&cargo_deny(ws)?));
    println!("  gungraun-runner: {}", ws.shown(&gungraun_runner(ws)?));
    println!("Everything is there. Next: cargo xtask demo");
    Ok(ExitCode::SUCCESS)
}

/// The packages of the operating system.
pub fn system(purpose: Purpose) -> Result<()> {
    packages::ensure(purpose)
}

/// The compiler and the linker of the kernel program.
pub fn ebpf(ws: &Workspace, report: Report) -> Result<EbpfToolchain> {
    let compiler = compiler::ensure(ws, report)?;
    let linker = linker::ensure(ws, compiler.version.llvm, compiler.own_llvm())?;
    Ok(EbpfToolchain { compiler, linker })
}
