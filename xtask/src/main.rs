//! `cargo xtask`: everything that a developer or a CI machine does with this repository.
//!
//! One file per command. Each command runs the earlier ones that it needs, so that
//! `cargo xtask demo` and `cargo xtask test` work on a clean clone on a fresh machine.

mod bench;
mod build;
mod charts;
mod clean_net;
mod cli;
mod counts;
mod demo;
mod ebpf;
mod fuzz;
mod loom;
mod miri;
mod mutants;
mod native_xdp;
mod nightly;
mod nightly_toolchain;
mod process;
mod sanitize;
mod setup;
mod soak;
mod summary;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    workspace::Workspace,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = Workspace::find().and_then(|ws| match cli.command {
        Command::Setup => setup::all(&ws),
        Command::BuildEbpf => ebpf::build(&ws).map(|()| ExitCode::SUCCESS),
        Command::Build => build::relay(&ws).map(|_| ExitCode::SUCCESS),
        Command::Run { args } => build::run(&ws, &args),
        Command::Demo { seconds, svg } => demo::run(&ws, seconds, svg.as_deref()),
        Command::Bench { args } => bench::run(&ws, &args),
        Command::Charts { results } => charts::run(&ws, &results),
        Command::Test {
            filter,
            zero_copy: true,
            kernel,
            iommu,
        } => {
            let options = vm::Options {
                filter,
                kernel,
                iommu,
            };
            vm::run(&ws, &options)
        }
        Command::Test { filter, .. } => test::run(&ws, filter.as_deref()),
        Command::Fuzz { target, seconds } => fuzz::run(&ws, target.as_deref(), seconds),
        Command::Loom => loom::run(&ws),
        Command::Miri => miri::run(&ws),
        Command::Sanitize { sanitizer, filter } => sanitize::run(&ws, sanitizer, filter.as_deref()),
        Command::Mutants { matching } => mutants::run(&ws, matching.as_deref()),
        Command::Soak { options } => soak::run(&ws, &options),
        Command::RecordInstructions => test::instructions::record(&ws),
        Command::Ci { nightly: true } => nightly::run(&ws),
        Command::Ci { .. } => test::run(&ws, None),
        Command::CleanNet => clean_net::run(),
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
