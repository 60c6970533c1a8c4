//! `relay status`: whether everything that is wanted runs, and how fast.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use anyhow::Context as _;

use super::{
    exit,
    output::{print, print_while_read},
    table::Table,
    target::Target,
    wording::{by, dropped, duration, numbers, or_dash, over_outputs, rate, state, sum, to},
};
use crate::{
    config::quoted,
    observe::snapshot::{Health, InterfaceStatus, Snapshot},
};

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Prints the status, once or once per second; returns the exit code that it stands for.
///
/// # Errors
///
/// No relay serves there, or the connection fails.
pub fn status(target: &Target, json: bool, watch: bool) -> anyhow::Result<u8> {
    let mut client = target.connect()?;
    if !watch {
        let snapshot = client.status()?;
        if json {
            let text = serde_json::to_string_pretty(&snapshot);
            print(&format!(
                "{}\n",
                text.context("writing the status as JSON")?
            ))?;
        } else {
            print(&shown(&snapshot))?;
        }
        return Ok(code(&snapshot));
    }
    let is_terminal = io::stdout().is_terminal();
    let mut last = exit::OK;
    for snapshot in client.watch()? {
        let snapshot = snapshot?;
        last = code(&snapshot);
        let text = match (json, is_terminal) {
            (true, _) => {
                let text = serde_json::to_string(&snapshot);
                format!("{}\n", text.context("writing the status as JSON")?)
            }
            (false, true) => format!("{CLEAR}{}", shown(&snapshot)),
            (false, false) => format!("{}\n", shown(&snapshot)),
        };
        if !print_while_read(&text)? {
            break;
        }
    }
    Ok(last)
}

fn code(snapshot: &Snapshot) -> u8 {
    match snapshot.state {
        Health::Healthy => exit::OK,
        Health::Degraded => exit::DEGRADED,
    }
}

fn shown(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, snapshot);
    text
}

fn write(text: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let health = match snapshot.state {
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
    };
    writeln!(
        text,
        "{health}, up {}, relay {}, process {}",
        duration(snapshot.uptime_seconds as u64),
        quoted(&snapshot.version),
        snapshot.pid
    )?;
    for problem in &snapshot.problems {
        writeln!(text, "  ! {problem}")?;
    }
    if let Some(change) = &snapshot.last_change {
        let ago = duration(snapshot.taken_at.saturating_sub(change.when));
        let pause = match change.pause_milliseconds {
            0 => String::new(),
            pause => format!(" (pauses: {pause} ms)"),
        };
        writeln!(
            text,
            "last change {ago} ago: {}: {}{pause}",
            change.what, change.result
        )?;
    }
    let (rates, totals) = (&snapshot.rates, &snapshot.totals);
    let mut table = Table::new(["", "RECEIVED", "MATCHED", "SENT", "DROPPED"], 1);
    let matched = snapshot.rules.iter().map(|rule| rule.rate).sum();
    table.add(
        [
            "per second".into(),
            rate(rates.packets_received),
            rate(matched),
            rate(rates.packets_sent),
            rate(rates.dropped),
        ],
        [],
    );
    table.add(
        [
            "in total".into(),
            totals.packets_received.to_string(),
            totals.packets_matched.to_string(),
            totals.packets_sent.to_string(),
            sum(&totals.dropped).to_string(),
        ],
        [numbers(&totals.dropped)],
    );
    let parts = [table.to_text(""), interfaces(snapshot), rules(snapshot)];
    for part in parts.iter().filter(|part| !part.is_empty()) {
        write!(text, "\n{part}")?;
    }
    Ok(())
}

fn interfaces(snapshot: &Snapshot) -> String {
    let mut table = Table::new(["INTERFACE", "STATE", "BACKEND", "MODE", "TX METHOD"], 5);
    for interface in &snapshot.interfaces {
        let cells = [
            quoted(&interface.name),
            state(interface.state),
            or_dash(interface.backend.as_deref()),
            or_dash(interface.mode.as_deref()),
            or_dash(interface.engine.as_deref()),
        ];
        let lines = [
            interface.reason.clone(),
            lost(interface),
            latency(interface),
        ];
        table.add(cells, lines);
    }
    table.to_text("")
}

/// How long the last frames of an input were in the relay, or all if there were none of late.
fn latency(interface: &InterfaceStatus) -> String {
    let Some(latency) = &interface.latency else {
        return String::new();
    };
    let (of, when) = match latency.recent {
        Some(recent) => (recent, "in the last minute"),
        None => match latency.all {
            Some(all) => (all, "since the start"),
            None => return String::new(),
        },
    };
    format!(
        "in the relay for {} (half of the frames), {} (99 %), {} (99.99 %), {} at most {when}, since \
         the {} saw them",
        short(of.p50_seconds),
        short(of.p99_seconds),
        short(of.p9999_seconds),
        short(of.max_seconds),
        latency.source
    )
}

/// A short time, with the unit that fits.
fn short(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1e-3 => format!("{:.1} us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// The frames that an interface's device lost.
fn lost(interface: &InterfaceStatus) -> String {
    match (interface.missed, interface.device_dropped) {
        (0, 0) => String::new(),
        (missed, dropped) => format!("the device missed {missed} frames and dropped {dropped}"),
    }
}

fn rules(snapshot: &Snapshot) -> String {
    let head = ["RULE", "STATE", "MATCHED/S", "SENT/S", "MATCHED", "DROPPED"];
    let mut table = Table::new(head, 2);
    for rule in &snapshot.rules {
        let cells = [
            quoted(&rule.name),
            state(rule.state),
            rate(rule.rate),
            rate(over_outputs(rule, |output| output.rate)),
            rule.packets_matched.to_string(),
            over_outputs(rule, dropped)
                .saturating_add(rule.over_limit)
                .saturating_add(rule.local_failed)
                .to_string(),
        ];
        let outputs = rule.outputs.iter().filter_map(|output| {
            let to = to(output);
            match &output.next_hop {
                _ if !output.reason.is_empty() => {
                    Some(format!("{to} by {}: {}", by(output), output.reason))
                }
                Some(next_hop) => Some(format!("{to}: next hop {next_hop}")),
                None => None,
            }
        });
        table.add(cells, [rule.reason.clone()].into_iter().chain(outputs));
    }
    table.to_text("")
}
