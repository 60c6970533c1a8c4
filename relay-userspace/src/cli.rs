//! The command line: what can be asked for, and what each command prints where.
//!
//! Results go to standard output; mistakes, errors and the log go to standard error, so that
//! `relay plan --json` can be piped.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{
    claim, config, descriptors, exit, logging,
    plan::{self, Backend},
    run::RunError,
};

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
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the relay can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a rule file
    ///
    /// Looks at the file only, not at this machine. All mistakes are reported in one go, each with
    /// line, column and remedy.
    Check {
        /// The rule file (TOML)
        file: PathBuf,
    },
    /// Show what `run` would do on this machine
    ///
    /// Interfaces, queues, workers, rules and outputs with their addresses, and the expected mode.
    /// Needs no privilege and changes nothing.
    Plan {
        /// The rule file (TOML)
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// What moves the frames of all interfaces [default: XDP where it can, else io_uring]
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
        /// What moves the frames of all interfaces [default: XDP where it can, else io_uring]
        #[arg(long)]
        backend: Option<Backend>,
    },
}

/// Reads the arguments; when there is nothing to run, prints why and returns the exit code.
///
/// # Errors
///
/// The exit code: [`exit::OK`] after `--help` and `--version`, otherwise [`exit::USAGE`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, u8> {
    Cli::try_parse_from(arguments).map_err(|error| {
        // With its output closed there is no better place to complain.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => exit::OK,
            _ => exit::USAGE,
        }
    })
}

impl Cli {
    /// Starts the log. While the relay runs nothing waits for it; the other commands wait for whoever
    /// reads what they print.
    ///
    /// # Errors
    ///
    /// Its thread cannot be started.
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
    /// Whatever ended it; [`exit::code_of`] has the exit code.
    pub fn run(&self) -> anyhow::Result<()> {
        if !matches!(self.command, Command::Check { .. }) {
            descriptors::raise();
            descriptors::check("asking about interfaces", descriptors::TO_ASK)?;
        }
        match &self.command {
            Command::Check { file } => check(file),
            Command::Plan {
                file,
                json,
                backend,
            } => show_plan(file, *backend, *json),
            Command::Run {
                file,
                json,
                backend,
            } => {
                let document = config::load(file)?;
                crate::run::run(&document, *backend, *json).map_err(|error| match error {
                    RunError::Rules(mistakes) => mistakes.into(),
                    error => error.into(),
                })
            }
        }
    }
}

/// Prints what ended the command, as far as it is not yet said, and returns the exit code.
#[must_use]
pub fn report(result: anyhow::Result<()>) -> u8 {
    let Err(error) = result else { return exit::OK };
    // Mistakes speak for themselves, each with its file; anything else says who speaks.
    match error.downcast_ref::<config::Mistakes>() {
        Some(mistakes) => logging::say(&mistakes.to_string()),
        None => logging::say(&format!("relay: {error:#}")),
    }
    exit::code_of(&error)
}

fn check(file: &Path) -> anyhow::Result<()> {
    let document = config::load(file)?;
    let rules = document.rules.rules.len();
    let outputs: usize = document
        .rules
        .rules
        .iter()
        .map(|rule| rule.outputs.len())
        .sum();
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    print(&format!(
        "{}: ok, {rules} rule{} with {outputs} output{}\n",
        document.file,
        plural(rules),
        plural(outputs)
    ))
}

fn show_plan(file: &Path, backend: Option<Backend>, json: bool) -> anyhow::Result<()> {
    let mut plan = plan::for_this_machine(&config::load(file)?, backend)?;
    plan.notes.extend(claim::notes(&plan));
    if json {
        let text = serde_json::to_string_pretty(&plan).context("writing the plan as JSON")?;
        print(&format!("{text}\n"))
    } else {
        print(&plan.to_string())
    }
}

/// Writes to standard output. A reader that has had enough, such as `head`, is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
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
