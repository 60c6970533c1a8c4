//! The command line: which commands there are, and where each of them prints.
//!
//! Results go to standard output; mistakes, errors and the log go to standard error, so that
//! `relay plan --json` can be piped.

mod check;
pub mod exit;
pub mod logging;
mod output;
mod plan;
mod run;

use std::{ffi::OsString, path::PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};

use crate::{config, daemon::descriptors};

const EXIT_CODES: &str = "\
Exit codes (sysexits.h):
   0  all went well
  64  the command line is wrong
  66  FILE cannot be read
  69  something the relay needs is missing or in use
  70  a mistake in the relay itself
  71  the operating system refused a call
  77  a privilege is missing
  78  FILE has mistakes, or does not fit this machine

RUST_LOG sets what is logged to standard error (default: info).";

/// Relays UDP multicast between network interfaces, by AF_XDP or by io_uring.
///
/// A rule file says which groups arrive on which interface and which copies leave by which.
#[derive(Debug, Parser)]
#[command(name = "relay", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a rule file
    ///
    /// Reads only the file and asks nothing of this machine. Reports all mistakes at once, each
    /// with line, column and remedy.
    Check {
        /// The rule file (TOML)
        file: PathBuf,
    },
    /// Show what `run` would do on this machine
    ///
    /// Prints the interfaces, queues, workers, rules and outputs with their addresses, and the
    /// expected mode. Needs no privilege and changes nothing.
    Plan {
        /// The rule file (TOML)
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The backend for all interfaces [default: XDP where it can, else io_uring]
        #[arg(long)]
        backend: Option<Backend>,
    },
    /// Relay in the foreground until SIGINT or SIGTERM
    Run {
        /// The rule file (TOML)
        file: PathBuf,
        /// Print the final report as JSON
        #[arg(long)]
        json: bool,
        /// The backend for all interfaces [default: XDP where it can, else io_uring]
        #[arg(long)]
        backend: Option<Backend>,
    },
}

/// The backends, as `--backend` names them.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Backend {
    /// An XDP program and AF_XDP sockets; refuse rather than fall back to io_uring
    Xdp,
    /// Packet sockets with a socket filter, driven by io_uring, on any Ethernet interface; no XDP
    IoUring,
}

impl From<Backend> for crate::plan::Backend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Xdp => Self::Xdp,
            Backend::IoUring => Self::IoUring,
        }
    }
}

/// Parses the arguments. If there is no command to run, prints why and returns the exit code.
///
/// # Errors
///
/// The exit code: [`exit::OK`] after `--help` and `--version`, otherwise [`exit::USAGE`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, u8> {
    Cli::try_parse_from(arguments).map_err(|error| {
        // This fails only if the output is closed, and then there is nowhere else to print.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => exit::OK,
            _ => exit::USAGE,
        }
    })
}

impl Cli {
    /// Starts the log. `run` never waits for the reader of standard error; the other commands do.
    ///
    /// # Errors
    ///
    /// The log's thread cannot be started.
    pub fn start_log(&self) -> anyhow::Result<()> {
        if let Command::Run { .. } = self.command {
            return logging::start_queued().context(
                "cannot start the thread that writes the log; raise the limit of threads, \
                 `ulimit -u`, or `TasksMax` of the unit",
            );
        }
        logging::start();
        Ok(())
    }

    /// Runs the command.
    ///
    /// # Errors
    ///
    /// The error that ended the command; [`exit::code_of`] gives its exit code.
    pub fn run(&self) -> anyhow::Result<()> {
        if !matches!(self.command, Command::Check { .. }) {
            descriptors::raise();
            descriptors::check("asking about interfaces", descriptors::TO_ASK)?;
        }
        match &self.command {
            Command::Check { file } => check::check(file),
            Command::Plan {
                file,
                json,
                backend,
            } => plan::plan(file, backend.map(Into::into), *json),
            Command::Run {
                file,
                json,
                backend,
            } => run::run(file, backend.map(Into::into), *json),
        }
    }
}

/// Prints the error that ended the command, if any, and returns the exit code.
#[must_use]
pub fn report(result: anyhow::Result<()>) -> u8 {
    let Err(error) = result else { return exit::OK };
    // Each mistake names its file; any other error follows the name of the program.
    match error.downcast_ref::<config::Mistakes>() {
        Some(mistakes) => logging::say(&mistakes.to_string()),
        None => logging::say(&format!("relay: {error:#}")),
    }
    exit::code_of(&error)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
