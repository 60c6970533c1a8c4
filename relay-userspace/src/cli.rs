//! The command line: which commands there are, and where each of them prints.
//!
//! Results go to standard output; mistakes, errors and the log go to standard error, so that
//! `relay plan --json` can be piped.

mod change;
mod check;
pub mod exit;
mod explain;
mod feed;
pub mod inherited;
pub mod journal;
mod log_filter;
mod log_format;
pub mod logging;
mod output;
mod plan;
mod rules;
pub mod run;
mod save;
mod status;
mod table;
mod tap;
pub mod target;
mod wording;

use std::{ffi::OsString, path::PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};

use self::{
    change::ReloadOptions, explain::Datagram, run::RunOptions, tap::TapOptions, target::Target,
};
use crate::{
    config,
    control::{ClientError, RefusedBy},
    daemon::{
        descriptors,
        requests::{Refusal, Request},
    },
    host::limits,
};

const EXIT_CODES: &str = "\
Exit codes (sysexits.h):
   0  all went well
   1  `status`: the relay runs, and something waits, has died or drops frames
  64  the command line is wrong
  66  FILE cannot be read
  69  something the relay needs is missing or in use; no relay runs, or it refuses
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
    /// Relay until SIGINT, SIGTERM or `relay stop`
    ///
    /// Rules whose interfaces are missing wait for them; the others run.
    Run(RunOptions),
    /// Show whether a running relay is healthy
    ///
    /// Exits with 0 if it is healthy, 1 if something waits, has died or drops frames, and 69 if no
    /// relay runs.
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print it once per second; as JSON, one line each
        #[arg(long)]
        watch: bool,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Show the rules of a running relay with all of their counters
    Rules {
        /// The rule [default: all]
        #[arg(value_name = "NAME")]
        rule: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Make a running relay run the rules of a file
    ///
    /// Rules that stay the same lose nothing. A file with mistakes changes nothing.
    Reload {
        /// The rule file (TOML) [default: the one that the relay was started with]
        file: Option<PathBuf>,
        /// How.
        #[command(flatten)]
        options: ReloadOptions,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Keep the change that `reload --confirm-within` made
    Confirm {
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Take the last change back
    Undo {
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Add the rules of a file to those of a running relay
    Add {
        /// The file with the rules to add (TOML)
        #[arg(short = 'f', long = "file", value_name = "FRAGMENT")]
        fragment: PathBuf,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Remove a rule from a running relay
    Remove {
        /// The rule
        #[arg(value_name = "NAME")]
        rule: String,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Run a rule that was disabled
    Enable {
        /// The rule
        #[arg(value_name = "NAME")]
        rule: String,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Stop a rule, and keep it
    Disable {
        /// The rule
        #[arg(value_name = "NAME")]
        rule: String,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Write the rules of a running relay to a file
    Save {
        /// The file; it is replaced as a whole
        file: PathBuf,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Show which rule takes a datagram, or why none does
    Explain {
        /// A rule file (TOML) [default: the running rules]
        file: Option<PathBuf>,
        /// The datagram.
        #[command(flatten)]
        datagram: Datagram,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// Show the frames of a rule as they come in and leave, or what is left to this host
    ///
    /// Prints a line per frame, or writes pcapng for Wireshark. Only for those who may change the
    /// relay. A tap costs no frame; what it loses itself, it says.
    Tap {
        /// What, and how much of it.
        #[command(flatten)]
        options: TapOptions,
        /// Which relay.
        #[command(flatten)]
        target: Target,
    },
    /// End a running relay
    Stop {
        /// Which relay.
        #[command(flatten)]
        target: Target,
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
        if let Command::Run(options) = &self.command {
            return logging::start_queued(options.log_format).with_context(|| {
                let remedy = limits::of_threads();
                format!("cannot start the thread that writes the log{remedy}")
            });
        }
        logging::start();
        Ok(())
    }

    /// Runs the command; returns its exit code.
    ///
    /// # Errors
    ///
    /// The error that ended the command; [`exit::code_of`] gives its exit code.
    pub fn run(&self) -> anyhow::Result<u8> {
        if matches!(self.command, Command::Plan { .. } | Command::Run(_)) {
            descriptors::raise();
            descriptors::check("asking about interfaces", descriptors::TO_ASK)?;
        }
        if let Command::Status {
            json,
            watch,
            target,
        } = &self.command
        {
            return status::status(target, *json, *watch);
        }
        if let Command::Tap { options, target } = &self.command {
            return tap::tap(target, options);
        }
        self.run_command().map(|()| exit::OK)
    }

    /// Runs a command that has no exit code of its own.
    fn run_command(&self) -> anyhow::Result<()> {
        match &self.command {
            Command::Check { file } => check::check(file),
            Command::Plan {
                file,
                json,
                backend,
            } => plan::plan(file, backend.map(Into::into), *json),
            Command::Run(options) => run::run(options),
            Command::Status { .. } | Command::Tap { .. } => Ok(()),
            Command::Rules { rule, json, target } => rules::rules(target, rule.as_deref(), *json),
            Command::Reload {
                file,
                options,
                target,
            } => change::reload(target, file.as_deref(), *options),
            Command::Confirm { target } => change::change(target, Request::Confirm),
            Command::Undo { target } => change::change(target, Request::Undo),
            Command::Add { fragment, target } => change::add(target, fragment),
            Command::Remove { rule, target } => {
                change::change(target, Request::Remove { name: rule.clone() })
            }
            Command::Enable { rule, target } => {
                change::change(target, Request::Enable { name: rule.clone() })
            }
            Command::Disable { rule, target } => {
                change::change(target, Request::Disable { name: rule.clone() })
            }
            Command::Save { file, target } => save::save(target, file),
            Command::Explain {
                file,
                datagram,
                target,
            } => explain::explain(target, datagram, file.as_deref()),
            Command::Stop { target } => change::change(target, Request::Stop),
        }
    }
}

/// Prints the error that ended the command, if any, and returns the exit code.
#[must_use]
pub fn report(result: anyhow::Result<u8>) -> u8 {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    // Each mistake names its file; any other error follows the name of the program.
    let mistakes = error.downcast_ref::<config::Mistakes>();
    let refused = error.downcast_ref::<ClientError>();
    match (mistakes, refused) {
        (Some(mistakes), _) => logging::say(&mistakes.to_string()),
        (_, Some(ClientError::Refused(RefusedBy(Refusal::Mistakes(text))))) => {
            logging::say(text.trim_end());
        }
        _ => logging::say(&format!("relay: {error:#}")),
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
