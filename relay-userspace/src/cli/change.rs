//! The commands that change the rules of a running relay: `reload`, `confirm`, `undo`, `add`,
//! `remove`, `enable`, `disable`. All print what the relay says of the change.

use std::{fmt::Write as _, path::Path, time::Duration};

use clap::Args;

use super::{output::print, target::Target};
use crate::{
    config,
    daemon::requests::{Answer, Change, Request},
};

/// How `relay reload` changes the rules.
#[derive(Debug, Clone, Copy, Args)]
pub struct ReloadOptions {
    /// Only show what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Take the change back unless `relay confirm` comes within so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub confirm_within: Option<u32>,
    /// Discard what was added, removed or disabled by command
    #[arg(long)]
    pub discard_runtime: bool,
}

/// Makes the relay run the rules of `file`, or of the file that it was started with.
///
/// # Errors
///
/// The file cannot be read, or the relay refuses its rules.
pub fn reload(target: &Target, file: Option<&Path>, options: ReloadOptions) -> anyhow::Result<()> {
    let seconds = options.confirm_within.map(u64::from);
    let request = Request::Reload {
        text: file.map(labelled).transpose()?,
        dry_run: options.dry_run,
        confirm_within: seconds.map(Duration::from_secs),
        discard_runtime: options.discard_runtime,
    };
    change(target, request)
}

/// Makes the relay run the rules of `fragment` in addition.
///
/// # Errors
///
/// The file cannot be read, or the relay refuses its rules.
pub fn add(target: &Target, fragment: &Path) -> anyhow::Result<()> {
    let (label, text) = labelled(fragment)?;
    change(target, Request::Add { label, text })
}

/// Makes any change, and prints what it did.
///
/// # Errors
///
/// No relay serves there, or it refuses the change.
pub fn change(target: &Target, request: Request) -> anyhow::Result<()> {
    match target.connect()?.ask(request)? {
        Answer::Changed(change) => print(&shown(&change)),
        Answer::Confirmed => print("confirmed\n"),
        Answer::Rules(text) => print(&text),
        Answer::Explained(text) => print(&format!("{}\n", text.trim_end())),
        Answer::Stopping => print("stopping\n"),
        // Not what a change is answered with.
        Answer::Tapping(_) => Ok(()),
    }
}

/// A file's name and text, for the relay: it need not be able to read the file.
///
/// # Errors
///
/// The file cannot be read.
pub fn labelled(file: &Path) -> Result<(String, String), config::Mistakes> {
    Ok((file.display().to_string(), config::read(file)?))
}

fn shown(change: &Change) -> String {
    let mut text = String::new();
    if change.lines.is_empty() {
        text.push_str("no difference\n");
    }
    for line in &change.lines {
        let _ = writeln!(text, "{line}");
    }
    for (head, lines) in [("pauses", &change.pauses), ("waits", &change.pending)] {
        for line in lines {
            let _ = writeln!(text, "{head}: {line}");
        }
    }
    text.push_str(if change.applied {
        "applied\n"
    } else {
        "dry run: nothing was changed\n"
    });
    if let Some(seconds) = change.confirm_within_seconds {
        let _ = writeln!(
            text,
            "the former rules come back in {seconds} s, unless `relay confirm` keeps these"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_with_its_pauses_and_what_waits() {
        let change = Change {
            lines: vec!["+ feed-b".into()],
            pauses: vec!["feed-a for 2 ms".into()],
            applied: true,
            pending: vec!["feed-b: no interface".into()],
            confirm_within_seconds: Some(30),
        };
        assert_eq!(
            shown(&change),
            "\
+ feed-b
pauses: feed-a for 2 ms
waits: feed-b: no interface
applied
the former rules come back in 30 s, unless `relay confirm` keeps these
"
        );
        let none = shown(&Change::default());
        assert_eq!(none, "no difference\ndry run: nothing was changed\n");
    }
}
