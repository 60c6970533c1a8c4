//! `relay run`: relays until a signal or a command ends it, and prints the final report.

use std::{io, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use log::warn;

use super::{Backend, log_format::LogFormat, output::print_or_give_up, target::Target};
use crate::{
    config,
    control::{ControlError, HttpServers, Server, SocketOptions},
    daemon::{
        Ended, FileWatch, RunError, Serve, Service, Settings,
        requests::{self, Handle},
    },
    observe::{log_line::Pace, report::Report},
};

/// How `relay run` runs.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// The rule file (TOML)
    pub file: PathBuf,
    /// Print the final report as JSON
    #[arg(long)]
    pub json: bool,
    /// The backend for all interfaces [default: XDP where it can, else io_uring]
    #[arg(long)]
    pub backend: Option<Backend>,
    /// Where the control socket is
    #[command(flatten)]
    pub target: Target,
    /// The group whose members may change the rules by the control socket [default: the relay's]
    #[arg(long, value_name = "GROUP")]
    pub control_group: Option<String>,
    /// The mode of the control socket, in octal [default: 0666, since rights are checked per user]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub control_mode: Option<u32>,
    /// Refuse to start while a rule or an output would have to wait
    #[arg(long)]
    pub strict: bool,
    /// Reload by itself when the rule file is replaced or rewritten
    #[arg(long)]
    pub watch: bool,
    /// Log a line per second in which a number changes, instead of a summary per minute
    #[arg(long)]
    pub progress: bool,
    /// What a line of the log looks like
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "a mode is an octal number up to 0777, for example 0660".into())
}

/// Runs the rules of a file.
///
/// # Errors
///
/// Every mistake in the file, or the error that kept the rules from running or ended them.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    let (handle, mailbox) = requests::pair().context("cannot open an eventfd")?;
    let mut servers = HttpServers::new(handle.clone());
    // Before the rules are read, so that a relay of the same name is found at once.
    let (server, without) = serve(handle, options)?;
    // Before the rules are read, so that no change of the file is missed.
    let file_watch = options.watch.then(|| FileWatch::start(&options.file));
    let document = config::load(&options.file)?;
    let settings = Settings {
        file: options.file.clone(),
        forced: options.backend.map(Into::into),
        strict: options.strict,
        pace: if options.progress {
            Pace::EverySecond
        } else {
            Pace::Summary
        },
    };
    let serve: Serve = Box::new(move |metrics| {
        let followed = servers.follow(metrics);
        followed.map_err(|error| error.to_string())
    });
    let run = || {
        let service = Service::start(document, &settings, mailbox, file_watch, serve)?;
        run_and_report(service, without, options.json)
    };
    let ended = run();
    drop(server);
    ended.map_err(|error| match error {
        RunError::Rules(mistakes) => mistakes.into(),
        error => error.into(),
    })
}

/// Opens the control socket. Where nobody chose its place and it cannot be there, the relay runs
/// without one; then this returns why.
fn serve(
    handle: Handle,
    options: &RunOptions,
) -> anyhow::Result<(Option<Server>, Option<ControlError>)> {
    let socket = SocketOptions {
        path: options.target.path(),
        group: options.control_group.clone(),
        mode: options.control_mode,
    };
    let chosen = options.target.is_chosen() || socket.group.is_some() || socket.mode.is_some();
    match Server::start(handle, socket) {
        Ok(server) => Ok((Some(server), None)),
        Err(error) if chosen => Err(error.into()),
        Err(error) => Ok((None, Some(error))),
    }
}

fn run_and_report(
    service: Service,
    without: Option<ControlError>,
    json: bool,
) -> Result<(), RunError> {
    if let Some(error) = without {
        warn!(
            "{error}. This relay runs without a control socket; `--name` or `--control` gives it \
             one"
        );
    }
    // The run releases everything before the report is printed, which may wait for its reader.
    let Ended {
        report,
        defects,
        hanging,
    } = service.run()?;
    print_report(&report, json)?;
    if !hanging.is_empty() {
        return Err(RunError::HangAtEnd(hanging));
    }
    if defects > 0 {
        return Err(RunError::Defect(defects));
    }
    Ok(())
}

fn print_report(report: &Report, json: bool) -> Result<(), RunError> {
    let text = if json {
        serde_json::to_vec(report).map(|mut text| {
            text.push(b'\n');
            text
        })
    } else {
        Ok(report.to_string().into_bytes())
    };
    let printed = text.map_err(io::Error::from).and_then(print_or_give_up);
    printed.map_err(|error| RunError::System {
        what: "print the report",
        error,
    })
}
