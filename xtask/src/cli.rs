//! The command line of `cargo xtask`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::{sanitize, soak};

/// Build, run, show and test the relay.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do. Each command runs the earlier ones that it needs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find or install all that building and testing need; says what and why
    Setup,
    /// Compile the XDP program and the socket filter to target/ebpf/relay.o and relay-filter.o
    BuildEbpf,
    /// Build the one binary target/release/relay, the kernel programs inside
    Build,
    /// Build, then run the relay with ARGS (through sudo when not root)
    Run {
        /// Arguments of the relay
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Relay real multicast between network namespaces and show what arrives
    Demo {
        /// How long to send
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// Draw what it shows into FILE
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Compare the relay with other programs on the same wires; ARGS are a scenario's name and
    /// options. With `--against-commit REV` also with the relay of that commit, which is built
    /// first
    Bench {
        /// Arguments of the benchmark: see `cargo xtask bench -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Draw what `bench --json FILE` found into docs/performance, and print its tables as Markdown
    Charts {
        /// The file
        results: PathBuf,
    },
    /// Check and test everything, or only the tests whose name contains FILTER
    Test {
        /// A part of the names of the tests to run
        filter: Option<String>,
        /// Only the tests of zero copy, in a virtual machine that is fetched once; exit code 3
        /// where it cannot be fetched
        #[arg(long)]
        zero_copy: bool,
        /// The virtual machine's kernel; `all` runs every pinned kernel, and one of them with an
        /// IOMMU too
        #[arg(long, requires = "zero_copy", value_name = "VERSION")]
        kernel: Option<String>,
        /// Put the DMA of the virtual machine behind an IOMMU in strict mode
        #[arg(long, requires = "zero_copy")]
        iommu: bool,
    },
    /// Look for inputs that break what the targets in fuzz/ say must hold; needs a nightly compiler
    Fuzz {
        /// The target; all of them in turn without one
        target: Option<String>,
        /// How long to look, for each target
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
    },
    /// Run the models of what threads share, in every order that their steps may have
    Loom,
    /// Run the tests of the datapath's bookkeeping in Miri; needs a nightly toolchain with it
    Miri,
    /// Run end-to-end tests with a relay that a sanitizer watches; needs a nightly compiler
    Sanitize {
        /// What it looks for
        sanitizer: sanitize::Sanitizer,
        /// A part of the names of the tests to run
        filter: Option<String>,
    },
    /// Change the code in one place after the other, and look whether the tests notice
    Mutants {
        /// Only changes that match this regular expression: the file, the line, and what is changed
        matching: Option<String>,
    },
    /// Traffic, changes, faults and hostile frames at random, for an hour by default on each
    /// backend: every frame is accounted for, and what the relay holds stays flat
    Soak {
        #[command(flatten)]
        options: soak::Options,
    },
    /// Count the instructions of the benchmarks anew and make that the baseline of `test`
    RecordInstructions,
    /// What continuous integration runs: the same as `test`
    Ci {
        /// Then also the long form of the tests of endurance and of random changes, a soak run, zero
        /// copy on every kernel, each fuzz target for ten minutes, Miri, mutants, and the benchmark
        /// against the commit before
        #[arg(long)]
        nightly: bool,
    },
    /// Remove the network namespaces that a killed run left behind
    CleanNet,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_two_dashes_goes_to_the_relay() {
        let cli = Cli::try_parse_from(["xtask", "run", "--", "check", "--json", "f.toml"]).unwrap();
        let Command::Run { args } = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(args, ["check", "--json", "f.toml"]);
    }

    #[test]
    fn the_benchmark_gets_its_options() {
        let cli = Cli::try_parse_from(["xtask", "bench", "1-16", "--json", "f"]).unwrap();
        let Command::Bench { args } = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(args, ["1-16", "--json", "f"]);
        assert!(Cli::try_parse_from(["xtask", "bench", "--quick"]).is_ok());
    }

    #[test]
    fn a_kernel_is_chosen_for_the_virtual_machine_only() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["xtask", "test"], words].concat());
        assert!(parse(&["--zero-copy", "--kernel", "all", "f1"]).is_ok());
        assert!(parse(&["--zero-copy", "--iommu"]).is_ok());
        assert!(parse(&["--kernel", "all"]).is_err());
        assert!(parse(&["--iommu"]).is_err());
    }

    #[test]
    fn a_soak_run_needs_no_arguments() {
        assert!(Cli::try_parse_from(["xtask", "soak"]).is_ok());
        let some = ["--minutes", "0.5", "--seed", "7", "--backend", "io-uring"];
        assert!(Cli::try_parse_from([&["xtask", "soak"], &some[..]].concat()).is_ok());
        assert!(Cli::try_parse_from(["xtask", "soak", "--backend", "dpdk"]).is_err());
    }

    #[test]
    fn a_demo_of_no_seconds_is_refused() {
        assert!(Cli::try_parse_from(["xtask", "demo", "--seconds", "0"]).is_err());
    }
}
