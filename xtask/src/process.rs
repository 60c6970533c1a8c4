//! Running other programs: shown, captured, or behind a line of progress.
//!
//! Every failure names the command line that failed.

use std::{
    collections::VecDeque,
    fs::File,
    io::{IsTerminal, Read, Write},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

/// Removes from the environment what `cargo run` set for xtask and what would change the result of
/// a nested cargo: with this library path another compiler would load the wrong LLVM.
pub fn without_own_environment(command: &mut Command) -> &mut Command {
    command
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_MANIFEST_PATH")
}

/// Runs to the end with the standard streams of xtask.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("running `{}`", line(command)))
}

/// Like [`status`]; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed with {status}", line(command));
    }
    Ok(())
}

/// The exit code of a program, to be that of xtask. A program that a signal ended has none.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Runs silently; any exit status is fine.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running `{}`", line(command)))
}

/// Runs silently and returns the standard output; anything but success is an error that carries the
/// standard error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed with {}: {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs with standard output shown as it comes, and every line of it also given to `each`. The
/// begin of a line is shown before its end comes: a test that runs has printed its name and no
/// result yet.
pub fn tee(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running `{}`", line(command)))?;
    if let Some(mut output) = child.stdout.take() {
        let mut current = Vec::new();
        let mut end_line = |line: &mut Vec<u8>| {
            each(String::from_utf8_lossy(line).trim_end());
            line.clear();
        };
        let mut buffer = [0; 4096];
        loop {
            let count = output.read(&mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            let mut shown = std::io::stdout();
            shown.write_all(bytes)?;
            shown.flush()?;
            for part in bytes.split_inclusive(|&byte| byte == b'\n') {
                current.extend(part);
                if part.ends_with(b"\n") {
                    end_line(&mut current);
                }
            }
        }
        if !current.is_empty() {
            end_line(&mut current);
        }
    }
    Ok(child.wait()?)
}

/// Runs a step that may take minutes. Its output goes to `log`; meanwhile one line shows the
/// seconds and the last line of the log. On failure the end of the log is part of the error.
pub fn long(what: &str, command: &mut Command, log: &Path, limit: Option<Duration>) -> Result<()> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("running `{}`", line(command)))?;
    let started = Instant::now();
    let status = watch(what, &mut child, log, limit, started)?;
    let seconds = started.elapsed().as_secs_f32();
    match status {
        Some(status) if status.success() => {
            println!("  {what}: done in {seconds:.0} s");
            Ok(())
        }
        Some(status) => Err(anyhow!(
            "{what} failed with {status} after {seconds:.0} s: `{}`\n{}\n(the whole output: {})",
            line(command),
            tail(log, 15),
            log.display()
        )),
        None => Err(anyhow!("{what} took more than {seconds:.0} s: stopped")),
    }
}

/// Waits for the child and shows progress; `None` if it was stopped at the limit.
fn watch(
    what: &str,
    child: &mut Child,
    log: &Path,
    limit: Option<Duration>,
    started: Instant,
) -> Result<Option<ExitStatus>> {
    let terminal = std::io::stdout().is_terminal();
    let every = Duration::from_secs(if terminal { 1 } else { 10 });
    let mut next = every;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let elapsed = started.elapsed();
        if limit.is_some_and(|limit| elapsed > limit) {
            child.kill()?;
            child.wait()?;
            break None;
        }
        if elapsed >= next {
            next += every;
            let now: String = tail(log, 1).trim().chars().take(60).collect();
            let text = format!("  {what}: {} s  {now}", elapsed.as_secs());
            if terminal {
                print!("\r\x1b[K{text}");
                std::io::stdout().flush()?;
            } else {
                println!("{text}");
            }
        }
        thread::sleep(Duration::from_millis(50));
    };
    if terminal {
        print!("\r\x1b[K");
    }
    Ok(status)
}

/// The last lines of a file, or nothing if it cannot be read.
fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    last_lines(&String::from_utf8_lossy(&bytes), lines)
}

/// The last lines that are not empty. apt and cargo redraw a line after a carriage return.
fn last_lines(text: &str, count: usize) -> String {
    let mut last = VecDeque::new();
    for line in text.split(['\n', '\r']).filter(|l| !l.trim().is_empty()) {
        if last.len() == count {
            last.pop_front();
        }
        last.push_back(line);
    }
    Vec::from(last).join("\n")
}

/// The command line, for messages.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a program of this name is on the path.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            // A user's path often lacks these, where `ip` and `ethtool` live.
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|folder| folder.join(program).is_file())
    })
}

/// Whether xtask runs as root: the owner of its own entry in /proc.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_skip_empty_ones_and_what_was_redrawn() {
        let text = "one\ntwo\n\n10%\r50%\r100%\n\n";
        assert_eq!(last_lines(text, 2), "50%\n100%");
        assert_eq!(last_lines("", 3), "");
    }

    #[test]
    fn a_failed_command_is_named_with_what_it_said() {
        let error = capture(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c"), "{error}");
        assert!(error.contains("no luck"), "{error}");
    }

    #[test]
    fn output_is_seen_line_by_line_even_if_it_is_not_text() {
        let mut seen = Vec::new();
        let status = tee(Command::new("printf").arg("a\\n\\377\\nb"), |line| {
            seen.push(line.to_owned());
        });
        assert!(status.unwrap().success());
        assert_eq!(seen, ["a", "\u{fffd}", "b"]);
    }
}
