//! Runs a command on a terminal of its own and keeps every screen that it showed.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    num::NonZero,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::pty::{Winsize, openpty};

use crate::process;

/// The terminal's size, 110 each. There are more rows than are used, so that nothing scrolls away.
const COLUMNS: NonZero<u16> = NonZero::<u16>::MIN.saturating_add(109);
const ROWS: NonZero<u16> = COLUMNS;
/// Changes within this time make one screen: a table is written line by line.
const ONE_CHANGE: Duration = Duration::from_millis(50);

/// What a command showed.
#[derive(Debug)]
pub struct Recording {
    /// Its screens, in the order in which they appeared.
    pub screens: Vec<Screen>,
    /// How the command ended.
    pub status: ExitStatus,
}

/// The terminal from one moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// The time since the start.
    pub at: Duration,
    /// The rows from the top to the last one that is not empty, without spaces at the end.
    pub rows: Vec<String>,
}

impl Recording {
    /// Runs `command` to its end. What it shows goes to the standard output of xtask as well.
    pub fn of(mut command: Command) -> Result<Self> {
        let size = Winsize {
            ws_row: ROWS.get(),
            ws_col: COLUMNS.get(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).context("opening a pseudo terminal")?;
        let mut child = command
            .stdout(Stdio::from(pty.slave.try_clone()?))
            .stderr(Stdio::from(pty.slave))
            .spawn()
            .with_context(|| format!("running `{}`", process::line(&command)))?;
        // `command` holds the other end of the terminal too, and reading ends when all of those
        // are closed.
        drop(command);
        let screens = watch(&mut File::from(pty.master))?;
        Ok(Self {
            screens,
            status: child.wait()?,
        })
    }
}

fn watch(terminal: &mut File) -> Result<Vec<Screen>> {
    let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
    let mut screens: Vec<Screen> = Vec::new();
    let mut bytes = [0; 4096];
    let started = Instant::now();
    loop {
        let count = match terminal.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The kernel reports this for a terminal whose other end is closed (pty(7)).
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => break,
            Err(error) => return Err(error).context("reading the pseudo terminal"),
        };
        let bytes = bytes.get(..count).unwrap_or_default();
        std::io::stdout().write_all(bytes)?;
        parser.process(bytes);
        let (at, rows) = (started.elapsed(), rows(parser.screen()));
        match screens.last_mut() {
            Some(last) if last.rows == rows => {}
            Some(last) if at - last.at < ONE_CHANGE => last.rows = rows,
            _ => screens.push(Screen { at, rows }),
        }
    }
    std::io::stdout().flush()?;
    Ok(screens)
}

fn rows(screen: &vt100::Screen) -> Vec<String> {
    let rows = screen.rows(0, COLUMNS.get());
    let mut rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
    let used = rows.iter().rposition(|row| !row.is_empty());
    rows.truncate(used.map_or(0, |last| last + 1));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_screen_that_a_command_shows_is_kept_in_order() {
        let mut command = Command::new("sh");
        let script = r"test -t 1 && printf 'one\ntwo\n'; sleep 0.2; printf '\033[1A\033[Kthree\n'";
        command.args(["-c", script]);
        let recording = Recording::of(command).unwrap();
        assert!(recording.status.success());
        let rows: Vec<_> = recording.screens.iter().map(|one| &one.rows).collect();
        assert_eq!(rows, [&["one", "two"], &["one", "three"]]);
        assert!(recording.screens[1].at - recording.screens[0].at >= ONE_CHANGE);
    }

    #[test]
    fn how_a_command_ended_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        assert_eq!(Recording::of(command).unwrap().status.code(), Some(3));
    }
}
