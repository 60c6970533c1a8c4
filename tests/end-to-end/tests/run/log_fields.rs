//! Lines of the log carry the rule or the interface that they are about: as fields in JSON, and as
//! fields of the journal's entries.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::process::Process;
use relay_tests::relay::{RelayProcess, RuleFile, START_TIMEOUT, binary, run_arguments};
use relay_tests::rules::Rule;
use relay_tests::topology::Testbed;

type Fields = BTreeMap<String, String>;

/// A rule that runs, and one that waits for an interface.
fn rules() -> [Rule; 2] {
    [
        Rule::feed().outputs("out0", 1),
        Rule::new("late", "nope0", [239, 1, 9, 9], 9000).output("out0", [239, 2, 9, 9], 9001),
    ]
}

/// Fails unless a line has this field, in lower case, and a message that contains `text`.
#[track_caller]
fn assert_line(lines: &[Fields], key: &str, value: &str, text: &str) {
    let found = lines.iter().any(|line| {
        let message = line
            .get("message")
            .is_some_and(|message| message.contains(text));
        message && line.get(key).is_some_and(|is| is == value)
    });
    assert!(found, "{key} {value} with `{text}` in {lines:#?}");
}

/// Fails unless the lines of a relay with [`rules`] and a command are there with their fields.
#[track_caller]
fn assert_lines(lines: &[Fields]) {
    assert_line(lines, "interface", "in0", "in0 (driver veth)");
    assert_line(lines, "interface", "out0", "out0 (driver veth)");
    assert_line(lines, "rule", "late", "rule late waits");
    assert_line(lines, "rule", "feed", "disable feed");
    let about_none = lines.iter().any(|line| {
        let message = line.get("message");
        let is_ready = message.is_some_and(|message| message.starts_with("ready:"));
        is_ready && !line.contains_key("rule") && !line.contains_key("interface")
    });
    assert!(
        about_none,
        "a line that says ready, without fields: {lines:#?}"
    );
}

fn o6_lines_in_json_carry_their_rule_or_interface(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&rules())?;
    let mut command = bed.relay.command(binary()?);
    command
        .args(run_arguments(backend))
        .args(["--log-format", "json"])
        .arg(file.path());
    let relay = RelayProcess::start_command(command)?;
    let disabled = relay.verb(&["disable", "feed"])?;
    assert_eq!(disabled.code, Some(0), "{disabled:?}");
    assert!(relay.wait_for_log("disable feed"));
    let stopped = relay.stop()?;
    let lines = stopped.log.lines().map(|line| {
        let line: Fields =
            serde_json::from_str(line).with_context(|| format!("reading `{line}`"))?;
        for key in ["time", "level", "target", "message"] {
            anyhow::ensure!(line.contains_key(key), "no {key} in {line:?}");
        }
        Ok(line)
    });
    assert_lines(&lines.collect::<Result<Vec<_>>>()?);
    Ok(())
}

/// A journal: a folder with its socket.
struct Journal {
    folder: PathBuf,
    socket: UnixDatagram,
}

impl Journal {
    fn listen(backend: Backend) -> Result<Self> {
        let name = format!("relay-journal-{}-{}", backend.name(), std::process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        let socket = UnixDatagram::bind(folder.join("socket"))?;
        socket.set_read_timeout(Some(START_TIMEOUT))?;
        Ok(Self { folder, socket })
    }

    /// The fields of the next entry; their names in lower case.
    fn next(&self) -> Result<Fields> {
        let mut buffer = vec![0; 1 << 18];
        let len = self.socket.recv(&mut buffer).context("no entry")?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        let mut fields = Fields::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|&byte| byte == b'\n');
            let end = end.context("a line without an end")?;
            let line = std::str::from_utf8(&rest[..end])?;
            let (key, value, next) = match line.split_once('=') {
                Some((key, value)) => (key, value.to_owned(), end + 1),
                None => {
                    let at = end + 1;
                    let len = rest.get(at..).and_then(|rest| rest.first_chunk());
                    let len = u64::from_le_bytes(*len.context("a length")?) as usize;
                    let value = rest.get(at + 8..at + 8 + len).context("a value")?;
                    (line, String::from_utf8(value.to_vec())?, at + 8 + len + 1)
                }
            };
            fields.insert(key.to_lowercase(), value);
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(fields)
    }

    /// All entries up to the first whose message contains `text`.
    fn until(&self, text: &str) -> Result<Vec<Fields>> {
        let mut all = Vec::new();
        loop {
            let entry = self
                .next()
                .with_context(|| format!("no `{text}` in {all:#?}"))?;
            let is_last = entry
                .get("message")
                .is_some_and(|message| message.contains(text));
            all.push(entry);
            if is_last {
                return Ok(all);
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Puts the journal of folder $1 where systemd has it, and runs the rest as systemd would, with
/// standard error that leads there. In a mount namespace of its own.
const UNDER_JOURNAL: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
     mount --bind \"$1\" /run/systemd/journal && shift && \
     export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && exec \"$@\"";

fn o6_entries_of_the_journal_carry_their_rule_or_interface(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&rules())?;
    let journal = Journal::listen(backend)?;
    let control = journal.folder.join("control.sock");
    let mut command = bed.relay.command("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            UNDER_JOURNAL,
            "sh",
        ])
        .arg(&journal.folder)
        .arg(binary()?)
        .args(run_arguments(backend))
        .args(["--log-format", "journal", "--control"])
        .args([&control, file.path()]);
    let mut relay = Process::spawn(command)?;
    let started = journal.until("ready:");
    let mut lines = started.with_context(|| format!("standard error: {}", relay.log()))?;
    let mut disable = std::process::Command::new(binary()?);
    disable.args(["disable", "feed", "--control"]).arg(&control);
    let disabled = relay_tests::relay::finish(disable)?;
    assert_eq!(disabled.code, Some(0), "{disabled:?}");
    lines.extend(journal.until("disable feed")?);
    relay.signal(Signal::SIGTERM)?;
    assert!(
        relay
            .wait(START_TIMEOUT)?
            .is_some_and(|status| status.success())
    );
    for line in &lines {
        let priority = line.get("priority").map(String::as_str);
        assert!(matches!(priority, Some("3" | "4" | "6" | "7")), "{line:?}");
        assert_eq!(
            line.get("syslog_identifier").map(String::as_str),
            Some("relay")
        );
    }
    assert_lines(&lines);
    assert_eq!(relay.log(), "", "nothing goes to standard error");
    Ok(())
}

relay_tests::on_both_backends! {
    o6_lines_in_json_carry_their_rule_or_interface,
    o6_entries_of_the_journal_carry_their_rule_or_interface,
}
