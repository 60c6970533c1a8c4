//! The commands that ask a running relay: the binary against a real control socket, whose requests
//! the test answers as the main thread does.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test may fail it like the test itself"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use relay::{
    config::rules::{OutputVlan, PortMatch, Vlan},
    control::{Server, SocketOptions},
    daemon::requests::{self, Answer, Change, Mailbox, Refusal, Request},
    observe::snapshot::{
        Changes, Health, InterfaceStatus, LastChange, Origin, OutputStatus, ProcessStatus, Rates,
        RuleStatus, Snapshot, State, Totals,
    },
};

struct Relay {
    _server: Server,
    mailbox: Mailbox,
    folder: PathBuf,
}

impl Relay {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = format!("relay-commands-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let (handle, mailbox) = requests::pair().unwrap();
        // Nobody makes other snapshots than those that the test publishes.
        mailbox.changing();
        let options = SocketOptions {
            path: folder.join("test.sock"),
            group: None,
            mode: None,
        };
        Self {
            _server: Server::start(handle, options).unwrap(),
            mailbox,
            folder,
        }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_relay"))
            .args(arguments)
            .arg("--control")
            .arg(self.folder.join("test.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a command that reads the status only.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        ended(self.start(arguments).wait_with_output().unwrap())
    }

    /// Runs a command, and answers its request.
    fn answered(
        &self,
        arguments: &[&str],
        answer: Result<Answer, Refusal>,
    ) -> ((i32, String, String), Request) {
        let mut child = self.start(arguments);
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some((request, reply)) = self.mailbox.take() {
                reply(answer);
                return (ended(child.wait_with_output().unwrap()), request);
            }
            if Instant::now() > end || child.try_wait().unwrap().is_some() {
                panic!("{:?}", ended(child.wait_with_output().unwrap()));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

const HEADERS: &str = "02:00:00:00:00:02 > 01:00:5e:02:02:02";

fn output(port: u16, state: State) -> OutputStatus {
    let pending = state == State::Pending;
    let reason = if pending {
        "out1 is down; `ip link set out1 up` brings it up"
    } else {
        ""
    };
    OutputStatus {
        interface: if pending { "out1" } else { "out0" }.into(),
        group: [239, 2, 2, 2].into(),
        port: PortMatch::One(port),
        vlan: OutputVlan::Untagged,
        headers: HEADERS.into(),
        state,
        next_hop: None,
        reason: reason.into(),
        packets_sent: 123_456_789,
        rate: 100_000.4,
        bit_rate: 0.0,
        dropped: [("tx_full".into(), 3), ("oversize".into(), 0)].into(),
    }
}

fn snapshot() -> Snapshot {
    let interface = |name: &str, state, reason: &str| InterfaceStatus {
        name: name.into(),
        index: (state == State::Active).then_some(2),
        state,
        reason: reason.into(),
        driver: Some("veth".into()),
        backend: (state == State::Active).then(|| "xdp".into()),
        mode: (state == State::Active).then(|| "zero-copy".into()),
        engine: None,
        device_dropped: 0,
        missed: if name == "in0" { 4 } else { 0 },
        filter: [].into(),
        latency: None,
    };
    let rule = |name: &str, outputs| RuleStatus {
        name: name.into(),
        state: State::Active,
        reason: String::new(),
        origin: Origin::File,
        interface: "in0".into(),
        group: [239, 1, 1, 1].into(),
        port: PortMatch::One(5001),
        packets_matched: 123_456_789,
        bytes_matched: 0,
        over_limit: 0,
        local_failed: 0,
        rate: 100_000.0,
        bit_rate: 12e6,
        last_frame_seconds_ago: Some(0.0),
        last_frame_at: Some(1000.0),
        sources: Vec::new(),
        silence: None,
        feed: None,
        outputs,
    };
    let both = vec![output(5002, State::Active), output(5003, State::Pending)];
    Snapshot {
        version: "0.1.0".into(),
        pid: 4242,
        taken_at: 1000,
        uptime_seconds: 93_784.0,
        state: Health::Degraded,
        problems: vec!["rule feed-a: out1 is down".into()],
        problem_count: 1,
        changes: Changes::default(),
        process: ProcessStatus::default(),
        last_change: Some(LastChange {
            when: 880,
            what: "reload of relay.toml".into(),
            result: "applied".into(),
            pause_milliseconds: 2,
        }),
        loops: Vec::new(),
        interfaces: vec![
            interface("in0", State::Active, ""),
            interface("out1", State::Pending, "out1 is down"),
        ],
        rules: vec![rule("feed-a", both), rule("evil\u{1b}[2J", vec![])],
        totals: Totals {
            packets_received: 123_456_789,
            packets_matched: 123_456_789,
            packets_sent: 246_913_578,
            dropped: [("tx_full".into(), 6)].into(),
            dropped_before_rules: [].into(),
        },
        rates: Rates {
            packets_received: 100_000.0,
            bits_matched: 0.0,
            packets_sent: 200_000.0,
            dropped: 0.0,
        },
    }
}

#[test]
fn the_status_fits_80_columns_and_its_exit_code_tells_degraded_from_healthy_and_not_running() {
    let relay = Relay::new();
    let (code, _, said) = relay.run(&["status"]);
    assert_eq!(code, 69);
    assert_eq!(
        said,
        "relay: the relay is still starting; try again in a second\n"
    );

    relay.mailbox.publish(snapshot());
    let (code, shown, _) = relay.run(&["status"]);
    assert_eq!(code, 1);
    assert_eq!(
        shown,
        "\
degraded, up 1 d 2 h 3 min, relay 0.1.0, process 4242
  ! rule feed-a: out1 is down
last change 2 min 0 s ago: reload of relay.toml: applied (pauses: 2 ms)

             RECEIVED    MATCHED       SENT  DROPPED
per second     100000     200000     200000        0
in total    123456789  123456789  246913578        6
    tx_full 6

INTERFACE  STATE    BACKEND  MODE       TX METHOD
in0        active   xdp      zero-copy  -
    the device missed 4 frames and dropped 0
out1       pending  -        -          -
    out1 is down

RULE           STATE   MATCHED/S  SENT/S    MATCHED  DROPPED
feed-a         active     100000  200001  123456789        6
    239.2.2.2:5003 by out1: out1 is down; `ip link set out1 up` brings it up
evil\\u{1b}[2J  active     100000       0  123456789        0
"
    );
    let healthy = Snapshot {
        state: Health::Healthy,
        ..snapshot()
    };
    relay.mailbox.publish(healthy.clone());
    let (code, shown, _) = relay.run(&["status", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Snapshot>(&shown).unwrap(), healthy);

    let output = Command::new(env!("CARGO_BIN_EXE_relay"))
        .args(["status", "--name", "there-is-no-such-relay"])
        .output()
        .unwrap();
    let (code, _, said) = ended(output);
    assert_eq!(code, 69);
    let start = "relay: no relay serves /run/relay/there-is-no-such-relay.sock: ";
    assert!(said.starts_with(start), "{said}");
}

#[test]
fn the_status_can_be_watched_until_its_reader_closes_or_the_relay_ends() {
    let relay = Relay::new();
    relay.mailbox.publish(snapshot());
    let mut child = relay.start(&["status", "--watch", "--json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&line).unwrap(), snapshot());
    }
    drop(lines);
    let (code, _, said) = ended(child.wait_with_output().unwrap());
    assert_eq!((code, said.as_str()), (1, ""));

    let mut child = relay.start(&["status", "--watch"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("degraded"));
    drop(relay);
    let (code, _, said) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, 69, "{said}");
}

#[test]
fn rules_are_shown_with_their_outputs() {
    let relay = Relay::new();
    relay.mailbox.publish(snapshot());
    let (code, shown, _) = relay.run(&["rules", "feed-a"]);
    assert_eq!(code, 0);
    assert_eq!(
        shown,
        "\
feed-a: active, 239.1.1.1:5001 on in0, from the file
  100000 frames per second (12.00 Mbit/s), 123456789 in total, 0 over the limit; the last frame came 0 s ago
  OUTPUT          BY    STATE    SENT/S       SENT  DROPPED
  239.2.2.2:5002  out0  active   100000  123456789        3
      02:00:00:00:00:02 > 01:00:5e:02:02:02
      tx_full 3
  239.2.2.2:5003  out1  pending  100000  123456789        3
      02:00:00:00:00:02 > 01:00:5e:02:02:02
      out1 is down; `ip link set out1 up` brings it up
      tx_full 3
"
    );
    let (code, shown, _) = relay.run(&["rules", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(
        serde_json::from_str::<Vec<RuleStatus>>(&shown).unwrap(),
        snapshot().rules
    );
    let (code, _, said) = relay.run(&["rules", "feed-\u{1b}"]);
    assert_eq!(code, 69);
    assert_eq!(
        said,
        "relay: there is no rule feed-\\u{1b}; `relay rules` lists them\n"
    );
}

#[test]
fn every_command_asks_for_what_it_says() {
    let relay = Relay::new();
    let file = relay.file("new.toml", "# new\n");
    let text = || Some((file.clone(), "# new\n".to_owned()));
    let name = || "feed-a".to_owned();
    let reload = |text, dry_run, seconds: Option<u64>, discard_runtime| Request::Reload {
        text,
        dry_run,
        confirm_within: seconds.map(Duration::from_secs),
        discard_runtime,
    };
    let explain = |source, vlan, text| Request::Explain {
        interface: "in0".into(),
        group: [239, 1, 1, 1].into(),
        port: 5001,
        source,
        vlan,
        text,
    };
    let (label, fragment) = text().unwrap();
    let datagram = "explain --interface in0 --group 239.1.1.1 --port 5001";
    for (arguments, request) in [
        ("reload".to_owned(), reload(None, false, None, false)),
        (
            format!("reload {file} --dry-run --discard-runtime"),
            reload(text(), true, None, true),
        ),
        (
            format!("reload --confirm-within 30 {file}"),
            reload(text(), false, Some(30), false),
        ),
        ("confirm".into(), Request::Confirm),
        ("undo".into(), Request::Undo),
        (
            format!("add -f {file}"),
            Request::Add {
                label,
                text: fragment,
            },
        ),
        ("remove feed-a".into(), Request::Remove { name: name() }),
        ("enable feed-a".into(), Request::Enable { name: name() }),
        ("disable feed-a".into(), Request::Disable { name: name() }),
        (datagram.into(), explain(None, Vlan::Untagged, None)),
        (
            format!("{datagram} --vlan 0"),
            explain(None, Vlan::Untagged, None),
        ),
        (
            format!("{datagram} --source 10.1.1.7 --vlan 7 {file}"),
            explain(Some([10, 1, 1, 7].into()), Vlan::Tag(7), text()),
        ),
        (
            format!("{datagram} --vlan 7,8"),
            explain(None, Vlan::Double(7, 8), None),
        ),
        ("stop".into(), Request::Stop),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let (answer, told) = match &request {
            Request::Confirm => (Answer::Confirmed, "confirmed\n"),
            Request::Explain { .. } => (
                Answer::Explained("feed-a takes it\n".into()),
                "feed-a takes it\n",
            ),
            Request::Stop => (Answer::Stopping, "stopping\n"),
            _ => {
                let change = Change {
                    lines: vec!["+ feed-b".into()],
                    applied: true,
                    ..Change::default()
                };
                (Answer::Changed(change), "+ feed-b\napplied\n")
            }
        };
        let ((code, shown, said), asked) = relay.answered(&arguments, Ok(answer));
        assert_eq!(asked, request, "{arguments:?}");
        assert_eq!(
            (code, shown.as_str(), said.as_str()),
            (0, told, ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn what_the_relay_refuses_is_told_with_its_exit_code() {
    let relay = Relay::new();
    let file = relay.file("new.toml", "rules = 1\n");
    let mistakes = "new.toml:1:1: wrong\n    remedy\n1 mistake\n";
    let discard = vec!["feed-b: added".to_owned()];
    for (refusal, code, told) in [
        (Refusal::Mistakes(mistakes.into()), 78, mistakes),
        (
            Refusal::WouldDiscard(discard),
            69,
            "relay: a reload would discard what was changed by command: feed-b: added; `relay save FILE` \
             keeps it, `--discard-runtime` discards it\n",
        ),
        (
            Refusal::Refused {
                reason: "in0: no memory".into(),
                restored: true,
            },
            69,
            "relay: in0: no memory. The change was refused; everything is as before\n",
        ),
    ] {
        let ((got, shown, said), _) = relay.answered(&["reload", &file], Err(refusal));
        assert_eq!((got, shown.as_str(), said.as_str()), (code, "", told));
    }
    let (code, _, said) = relay.run(&["reload", "/nonexistent/relay.toml"]);
    assert_eq!(code, 66, "{said}");
    for wrong in [
        &["reload", "--confirm-within", "0"][..],
        &["status", "--name", "../x"],
        &["explain", "--interface", "in0"],
        &["add"],
        &["run", "--control-mode", "999", "x.toml"],
    ] {
        assert_eq!(relay.run(wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn saved_rules_replace_the_file_and_a_refusal_leaves_it() {
    let relay = Relay::new();
    let file = relay.file("saved.toml", "# old\n");
    let ((code, ..), _) = relay.answered(&["save", &file], Err(Refusal::Busy));
    assert_eq!(
        (code, fs::read_to_string(&file).unwrap().as_str()),
        (69, "# old\n")
    );
    let rules = Answer::Rules("# new\n".into());
    let ((code, shown, said), asked) = relay.answered(&["save", &file], Ok(rules));
    assert_eq!((code, shown), (0, format!("{file}: saved\n")), "{said}");
    assert_eq!(asked, Request::Save);
    assert_eq!(fs::read_to_string(&file).unwrap(), "# new\n");
}
