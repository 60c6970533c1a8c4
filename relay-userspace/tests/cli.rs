//! The binary as a user meets it: what it prints, where, and its exit codes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the helpers of a test may fail it like the test itself"
)]

#[path = "../src/testing.rs"]
mod testing;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use testing::{in_namespace, run};

fn relay(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn exits(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout:\n{}\nstderr:\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn example(name: &str) -> String {
    repository()
        .join("examples")
        .join(name)
        .to_str()
        .unwrap()
        .to_owned()
}

/// A rule file that is deleted when the test ends.
struct File(PathBuf);

impl File {
    fn new(name: &str, contents: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("relay-cli-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, contents).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `in0` with 3 RX queues and `out0` with 2 TX queues.
fn interfaces() {
    run("ip link add name in0 numrxqueues 3 type veth peer name in0-far");
    run("ip link add name out0 numtxqueues 2 type veth peer name out0-far numrxqueues 2");
    for name in ["in0", "in0-far", "out0", "out0-far"] {
        run(&format!("ip link set {name} up"));
    }
    run("ip address add 10.1.0.1/24 dev in0");
    run("ip address add 10.2.0.1/24 dev out0");
}

#[test]
fn check_accepts_the_examples() {
    for (name, summary) in [
        ("cloud-unicast.toml", "ok, 2 rules with 4 outputs\n"),
        ("ipv4-to-ipv6.toml", "ok, 3 rules with 3 outputs\n"),
        ("ipv6.toml", "ok, 2 rules with 2 outputs\n"),
        ("line-up.toml", "ok, 3 rules with 3 outputs\n"),
        ("minimal.toml", "ok, 1 rule with 1 output\n"),
        ("multi-queue.toml", "ok, 2 rules with 3 outputs\n"),
        ("one-to-four.toml", "ok, 1 rule with 4 outputs\n"),
        ("several-interfaces.toml", "ok, 2 rules with 5 outputs\n"),
        ("source-translation.toml", "ok, 2 rules with 2 outputs\n"),
        ("ssm.toml", "ok, 2 rules with 2 outputs\n"),
        ("vlan-translation.toml", "ok, 3 rules with 4 outputs\n"),
        ("vlan-trunk.toml", "ok, 4 rules with 4 outputs\n"),
        ("watched.toml", "ok, 2 rules with 2 outputs\n"),
    ] {
        let file = example(name);
        let output = relay(&["check", &file]);
        exits(&output, 0);
        assert_eq!(text(&output.stdout), format!("{file}: {summary}"));
        assert_eq!(text(&output.stderr), "");
    }
    let shipped = std::fs::read_dir(repository().join("examples"))
        .unwrap()
        .count();
    assert_eq!(shipped, 13, "an example that no test loads");
}

#[test]
fn check_and_plan_and_run_report_all_mistakes_in_one_go_and_exit_78() {
    let file = File::new(
        "mistakes",
        "[[rules]]\nname = 1\ninput = { interface = \"in0\", group = \"10.0.0.1\", port = 0 }\noutputs = []\n",
    );
    let mut said = Vec::new();
    for command in ["check", "plan", "run"] {
        let output = relay(&[command, file.path()]);
        exits(&output, 78);
        assert_eq!(text(&output.stdout), "");
        said.push(text(&output.stderr));
    }
    let path = file.path();
    let expected = format!(
        "\
{path}:2:8: rule 1: `name` is an integer; it must be a string
    write for example `name = \"feed-a\"`
{path}:3:38: rule 1, input: `group` \"10.0.0.1\" is not a multicast group
    give a group from 224.0.1.0 to 239.255.255.255, such as \"239.1.1.1\"; an address of this host goes into `address`
{path}:3:57: rule 1, input: `port` 0 is out of range
    give a number from 1 to 65535
{path}:4:11: rule 1 has no outputs
    write at least one, for example outputs = [{{ interface = \"eth1\", group = \"239.2.2.2\", port = 5002 }}]
4 mistakes
"
    );
    assert_eq!(said, [expected.as_str(); 3]);
}

#[test]
fn a_file_that_cannot_be_read_exits_66() {
    for command in ["check", "plan", "run"] {
        let output = relay(&[command, "/nonexistent/relay.toml"]);
        exits(&output, 66);
        assert!(
            text(&output.stderr).starts_with("/nonexistent/relay.toml: the rule file cannot be")
        );
    }
}

#[test]
fn a_wrong_command_line_exits_64_and_help_exits_0() {
    for arguments in [
        &[][..],
        &["check"],
        &["chek", "x"],
        &["check", "x", "y"],
        &["plan", "--jsn", "x"],
    ] {
        let output = relay(arguments);
        exits(&output, 64);
        assert!(text(&output.stderr).contains("Usage:"), "{arguments:?}");
    }
    let output = relay(&["--help"]);
    exits(&output, 0);
    for word in ["check", "plan", "run", "78  FILE has mistakes", "RUST_LOG"] {
        assert!(text(&output.stdout).contains(word), "{word}");
    }
    let output = relay(&["--version"]);
    exits(&output, 0);
    assert_eq!(
        text(&output.stdout),
        concat!("relay ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_filter_of_the_log_that_is_none_is_told_and_does_not_end_the_log() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(["check", &example("one-to-four.toml")]);
    let output = command.env("RUST_LOG", "debgu").output().unwrap();
    exits(&output, 0);
    let said = text(&output.stderr);
    assert!(
        said.contains("`RUST_LOG` \"debgu\": it has no level"),
        "{said}"
    );
    let output = command.env("RUST_LOG", "debug").output().unwrap();
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn plan_shows_this_machine() {
    in_namespace(|| {
        interfaces();
        let output = relay(&["plan", &example("one-to-four.toml")]);
        exits(&output, 0);
        let shown = text(&output.stdout);
        for part in [
            "input, AF_XDP copy expected",
            "output, transmits by GSO packets",
            "receives from  in0 queue 0\n    transmits by   out0 in GSO packets\n",
            "receives from  in0 queue 2\n    transmits by   out0 in GSO packets\n",
            "feed-a: 239.1.1.1:5001 on in0, 4 outputs",
            "-> 239.2.2.4:5005 by out0\n",
            " > 01:00:5e:02:02:04; IPv4 10.2.0.1 > 239.2.2.4, DSCP kept, TTL auto; UDP kept > 5005\n",
        ] {
            assert!(shown.contains(part), "{part}\nis not in\n{shown}");
        }

        let output = relay(&["plan", &example("watched.toml")]);
        exits(&output, 0);
        let shown = text(&output.stdout);
        let watched = "\nwatched\n  channel-7: silent after 500ms, numbers by \"rtp\"\n  \
                       channel-8: silent after 500ms, numbers by \"mpeg-ts\"\n";
        assert!(shown.ends_with(watched), "{shown}");

        let output = relay(&["plan", "--json", &example("one-to-four.toml")]);
        exits(&output, 0);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["interfaces"][0]["name"], "in0");
        assert_eq!(json["interfaces"][1]["address"], "10.2.0.1");
        assert_eq!(json["workers"].as_array().unwrap().len(), 3);
        assert_eq!(json["interfaces"][1]["engine"], "segmented");
        assert_eq!(
            json["flows"][0]["outputs"][3]["destination_mac"],
            "01:00:5e:02:02:04"
        );
    });
}

#[test]
fn plan_takes_the_examples_with_several_interfaces_and_several_queues() {
    in_namespace(|| {
        interfaces();
        for (name, address) in [("in1", "10.3.0.1"), ("out1", "10.4.0.1")] {
            run(&format!(
                "ip link add name {name} type veth peer name {name}-far"
            ));
            run(&format!("ip link set {name} up"));
            run(&format!("ip link set {name}-far up"));
            run(&format!("ip address add {address}/24 dev {name}"));
        }
        let several = [
            "studio: 239.1.1.1:5001 on in0, 3 outputs",
            "remote: 239.1.1.2:5001 on in1, 2 outputs",
            "-> 239.3.3.1:5001 by in0\n",
            " > 01:00:5e:03:03:01; IPv4 10.1.0.1 > 239.3.3.1, DSCP kept, TTL auto; UDP kept > 5001\n",
            "-> 239.2.2.2:5002 by out1\n",
            " > 01:00:5e:02:02:02; IPv4 10.4.0.1 > 239.2.2.2, DSCP kept, TTL less 1; UDP kept > 5002\n",
            "output, AF_XDP copy expected",
        ];
        let queues = [
            "worker 0, CPU 0\n    receives from  in0 queue 0\n",
            "worker 1, CPU 1\n    receives from  in0 queue 1\n",
            "feed-b: 239.1.1.2:5001 on in0, at most 50000 per second and 500 at once, 1 output",
        ];
        for (name, parts) in [
            ("several-interfaces.toml", &several[..]),
            ("multi-queue.toml", &queues[..]),
        ] {
            let output = relay(&["plan", &example(name)]);
            exits(&output, 0);
            let shown = text(&output.stdout);
            for part in parts {
                assert!(shown.contains(part), "{part}\nis not in\n{shown}");
            }
        }
    });
}

#[test]
fn plan_shows_other_sources_and_whether_this_host_has_them() {
    in_namespace(|| {
        interfaces();
        let plan = || {
            let output = relay(&["plan", &example("source-translation.toml")]);
            exits(&output, 0);
            text(&output.stdout)
        };
        let foreign = "leave with a source that no interface of this host has: 10.9.0.1.";
        let shown = plan();
        for part in [
            foreign,
            "Copies of rule `transparent` keep the source of their datagrams",
            "; IPv4 10.9.0.1 > 232.2.2.1, DSCP kept, TTL auto; UDP 7000 > 5001\n",
            "; IPv4 kept > 239.1.1.2, DSCP kept, TTL less 1; UDP kept > 5001\n",
        ] {
            assert!(shown.contains(part), "{part}\nis not in\n{shown}");
        }
        run("ip address add 10.9.0.1/32 dev lo");
        let shown = plan();
        assert!(!shown.contains(foreign), "{shown}");
    });
}

#[test]
fn an_input_without_native_xdp_is_on_io_uring_unless_xdp_is_asked_for() {
    in_namespace(|| {
        interfaces();
        run("ip link set in0 down");
        run("ip link set in0 name port0");
        run("ip link add in0 type bridge");
        run("ip link set port0 master in0");
        run("ip address add 10.1.0.2/24 dev in0");
        run("ip link set in0 up");
        let file = example("minimal.toml");
        let output = relay(&["plan", &file]);
        exits(&output, 0);
        let shown = text(&output.stdout);
        for part in [
            "input, io_uring, because in0 (driver bridge) has no native XDP\n",
            "receives from  in0 by a packet socket\n",
        ] {
            assert!(shown.contains(part), "{part}\nis not in\n{shown}");
        }
        for command in ["plan", "run"] {
            let strict: &[&str] = if command == "run" { &["--strict"] } else { &[] };
            let output = relay(&[&[command, "--backend", "xdp", &file], strict].concat());
            exits(&output, 78);
            let said = text(&output.stderr);
            assert!(
                said.contains("`in0` (driver bridge) has no native XDP"),
                "{said}"
            );
            assert!(said.contains("leave `--backend xdp` out"), "{said}");
        }
        run("ip link del in0");
        run("ip link set port0 name in0");
        run("ip link set in0 up");
        let output = relay(&["plan", "--backend", "io-uring", "--json", &file]);
        exits(&output, 0);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for interface in json["interfaces"].as_array().unwrap() {
            assert_eq!(interface["backend"], "io-uring");
            assert_eq!(interface["reason"], "`--backend io-uring` asks for it");
        }
    });
}

#[test]
fn plan_changes_nothing() {
    in_namespace(|| {
        interfaces();
        // Down, because the kernel changes states by itself for a while after an interface comes
        // up.
        for name in ["in0", "in0-far", "out0", "out0-far"] {
            run(&format!("ip link set {name} down"));
        }
        let state = || {
            let memberships = std::fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
            run("ip -d -4 address show") + &run("ip -d link show") + &memberships
        };
        let before = state();
        let output = relay(&["plan", &example("one-to-four.toml")]);
        exits(&output, 0);
        let shown = text(&output.stdout);
        assert!(
            shown.contains("in0 is down; nothing moves there until it is up"),
            "{shown}"
        );
        assert_eq!(state(), before);
    });
}

#[test]
fn plan_refuses_what_this_machine_does_not_have_with_places() {
    in_namespace(|| {
        interfaces();
        run("ip address flush dev out0");
        let file = File::new(
            "machine",
            "[[rules]]\nname = \"a\"\ninput = { interface = \"in9\", group = \"239.1.1.1\", port = 1 }\n\
             outputs = [\n{ interface = \"out0\", group = \"239.2.2.2\", port = 2 },\n\
             { interface = \"lo\", group = \"239.2.2.2\", port = 2 },\n]\n\
             [[interfaces]]\nname = \"out0\"\nqueues = [0, 2]\n",
        );
        exits(&relay(&["check", file.path()]), 0);
        let output = relay(&["plan", file.path()]);
        exits(&output, 78);
        let said = text(&output.stderr);
        for (place, part) in [
            (
                "3:23",
                "there is no interface `in9` in this network namespace\n    `ip link show` lists: ",
            ),
            (
                "5:15",
                "the output interface `out0` has no IPv4 address to send from",
            ),
            (
                "6:15",
                "interface `lo` (driver unknown) is the loopback interface",
            ),
            (
                "10:14",
                "interface `out0` has no TX queue 2: it has 2, queues 0 to 1",
            ),
        ] {
            let whole = format!("{}:{place}: {part}", file.path());
            assert!(said.contains(&whole), "{whole}\nis not in\n{said}");
        }
    });
}

#[test]
fn a_reader_that_closes_early_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(["check", &example("minimal.toml")]);
    let output = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    exits(&output, 0);
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_rule_file_can_come_from_a_pipe() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command
        .args(["check", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let rules = std::fs::read(example("minimal.toml")).unwrap();
    child.stdin.take().unwrap().write_all(&rules).unwrap();
    exits(&child.wait_with_output().unwrap(), 0);
}

/// The fenced code blocks of docs/configuration.md whose info string is `kind`.
fn documented(kind: &str) -> Vec<String> {
    let page = std::fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let mut blocks = page
        .split("\n```")
        .collect::<Vec<_>>()
        .into_iter()
        .skip(1)
        .step_by(2);
    let mut found = Vec::new();
    for block in &mut blocks {
        let (info, body) = block.split_once('\n').unwrap();
        if info == kind {
            found.push(format!("{body}\n"));
        }
    }
    found
}

#[test]
fn the_documented_rule_files_are_accepted() {
    let blocks = documented("toml");
    assert!(blocks.len() >= 2, "{blocks:?}");
    for (number, block) in blocks.iter().enumerate() {
        let file = File::new(&format!("documented-{number}"), block);
        exits(&relay(&["check", file.path()]), 0);
    }
}

#[test]
fn the_documented_mistakes_are_reported_as_documented() {
    let (broken, said) = (documented("toml broken"), documented("text mistakes"));
    assert_eq!((broken.len(), said.len()), (1, 1));
    let file = File::new("documented-broken", &broken[0]);
    let output = relay(&["check", file.path()]);
    exits(&output, 78);
    assert_eq!(
        text(&output.stderr).replace(file.path(), "relay.toml"),
        said[0]
    );
}
