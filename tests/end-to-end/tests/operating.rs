//! Operating: mistakes in the rule file, missing privileges, two relays in each other's way, and a
//! stop that leaves nothing behind.

use std::fs;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::netns::Namespace;
use relay_tests::relay::{Finished, RelayProcess, RuleFile, binary, finish, relay, run_arguments};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::{Receivers, forward_exactly, forward_exactly_by, send, streams};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::sys;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{End, connect};

const HEAD: &str = "[[rules]]\nname = \"a\"\n";

fn o3_every_mistake_in_a_rule_file_is_refused_with_its_line_and_a_remedy(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let input = "input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n";
    let outputs = "outputs = [{ interface = \"out0\", group = \"239.2.2.2\", port = 5002 }]\n";
    let whole = format!("{HEAD}{input}{outputs}");
    let second =
        |input: &str, outputs: &str| format!("{whole}[[rules]]\nname = \"b\"\n{input}{outputs}");
    // (what, file, line of the mistake, words that its message has)
    let cases: Vec<(&str, String, usize, &[&str])> = vec![
        (
            "unknown key",
            format!("{HEAD}{input}{outputs}colour = \"red\"\n"),
            5,
            &["colour"],
        ),
        (
            "wrong type",
            whole.replace("5001", "\"5001\""),
            3,
            &["port"],
        ),
        (
            "unicast input",
            whole.replace("239.1.1.1", "10.1.0.1"),
            3,
            &["10.1.0.1", "multicast"],
        ),
        (
            "unicast output",
            whole.replace("239.2.2.2", "10.1.0.1"),
            4,
            &["10.1.0.1", "multicast"],
        ),
        (
            "no address",
            whole.replace("239.1.1.1", "239.1.1"),
            3,
            &["239.1.1"],
        ),
        (
            "input port 0",
            whole.replace("5001", "0"),
            3,
            &["port", "0"],
        ),
        (
            "output port 0",
            whole.replace("5002", "0"),
            4,
            &["port", "0"],
        ),
        (
            "port too large",
            whole.replace("5001", "65536"),
            3,
            &["65536"],
        ),
        (
            "no outputs",
            format!("{HEAD}{input}outputs = []\n"),
            4,
            &["outputs"],
        ),
        (
            "TTL 0",
            whole.replace("5002 }", "5002, ttl = 0 }"),
            4,
            &["ttl"],
        ),
        ("no input", format!("{HEAD}{outputs}"), 1, &["input"]),
        ("syntax", format!("{HEAD}input = {{ interface = \n"), 3, &[]),
        (
            "duplicate input",
            second(input, outputs),
            7,
            &["same input"],
        ),
        (
            "duplicate name",
            format!("{whole}{}", whole.replace("5001", "5003")),
            6,
            &["name", "`a`"],
        ),
        (
            "output feeds its own input",
            whole.replace(
                "\"out0\", group = \"239.2.2.2\", port = 5002",
                "\"in0\", group = \"239.1.1.1\", port = 5001",
            ),
            4,
            &["in0"],
        ),
        (
            "cycle through two rules",
            second(
                "input = { interface = \"out0\", group = \"239.2.2.2\", port = 5002 }\n",
                "outputs = [{ interface = \"in0\", group = \"239.1.1.1\", port = 5001 }]\n",
            ),
            8,
            &["circle"],
        ),
    ];
    for (what, text, line, words) in cases {
        let file = RuleFile::new(&text)?;
        let path = file.path().display().to_string();
        let run = ["run", "--backend", backend.name(), &path];
        for arguments in [&["check", &path][..], &run] {
            let finished = relay(&bed.relay, arguments)?;
            assert_eq!(
                finished.code,
                Some(78),
                "{arguments:?} with {what}: {finished:?}"
            );
            finished.assert_mistake(&file, line, words);
        }
    }
    Ok(())
}

#[test]
fn o3_all_mistakes_are_reported_in_one_go() -> Result<()> {
    let namespace = Namespace::new("check")?;
    let file = RuleFile::new(
        "[[rules]]\n\
         name = \"a\"\n\
         input = { interface = \"in0\", group = \"10.1.1.1\", port = 0 }\n\
         outputs = [\n  { interface = \"out0\", group = \"239.2.2.2\", port = 5002, ttl = 0 },\n]\n\
         color = 1\n",
    )?;
    let finished = relay(&namespace, &["check", &file.path().display().to_string()])?;
    assert_eq!(finished.code, Some(78), "{finished:?}");
    finished.assert_mistake(&file, 3, &["10.1.1.1"]);
    finished.assert_mistake(&file, 3, &["port"]);
    finished.assert_mistake(&file, 5, &["ttl"]);
    finished.assert_mistake(&file, 7, &["color"]);
    Ok(())
}

fn o3_missing_and_unfit_interfaces_are_refused_with_their_line_and_a_remedy(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let other = Arc::new(Namespace::new("other")?);
    let end = |namespace: &Arc<Namespace>, interface: &str, last: u8| End {
        namespace: Arc::clone(namespace),
        interface: interface.to_owned(),
        mac: [0x02, 0, 10, 9, 0, last],
        address: None,
        mtu: 1500,
        queues: 1,
    };
    connect(end(&bed.relay, "bare0", 1), end(&other, "bare1", 2))?;
    let whole = to_toml(&[Rule::feed().outputs("out0", 1)]);
    let cases = [
        (
            "missing input",
            whole.replace("in0", "nowhere0"),
            3,
            "nowhere0",
        ),
        (
            "missing output",
            whole.replace("out0", "nowhere1"),
            5,
            "nowhere1",
        ),
        (
            "output without address",
            whole.replace("out0", "bare0"),
            5,
            "bare0",
        ),
        ("loopback", whole.replace("out0", "lo"), 5, "lo"),
    ];
    for (what, text, line, word) in cases {
        let file = RuleFile::new(&text)?;
        let path = file.path().display().to_string();
        for command in ["plan", "run"] {
            let arguments = [command, "--backend", backend.name(), &path];
            let finished = relay(&bed.relay, &arguments)?;
            assert_eq!(
                finished.code,
                Some(78),
                "{arguments:?} with {what}: {finished:?}"
            );
            finished.assert_mistake(&file, line, &[word]);
        }
    }
    Ok(())
}

fn o3_a_correct_file_is_accepted_and_the_plan_touches_nothing(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 4)])?;
    let path = file.path().display().to_string();
    let before = bed.relay.ip("-details address")?;
    let on = ["plan", &path, "--backend", backend.name()];
    let json = ["plan", &path, "--backend", backend.name(), "--json"];
    for arguments in [&["check", &path][..], &on] {
        let finished = relay(&bed.relay, arguments)?;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
    }
    let finished = relay(&bed.relay, &json)?;
    assert_eq!(finished.code, Some(0), "{json:?}: {finished:?}");
    let plan: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let outputs = plan["flows"][0]["outputs"].as_array();
    assert_eq!(outputs.map(Vec::len), Some(4), "{plan}");
    for interface in plan["interfaces"].as_array().context("interfaces")? {
        assert_eq!(interface["backend"], backend.name(), "{plan}");
    }
    assert_eq!(before, bed.relay.ip("-details address")?);
    Ok(())
}

/// The relay binary in a folder that every user can read; removed on drop.
struct PublicCopy(PathBuf);

impl PublicCopy {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("relay-{name}-{}", std::process::id()));
        fs::copy(binary()?, &path).with_context(|| format!("copying to {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }
}

impl Drop for PublicCopy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `relay run` as another user with `capabilities` (as `CAP_...`), and no others.
fn as_user(
    bed: &Testbed,
    backend: Backend,
    copy: &PublicCopy,
    file: &RuleFile,
    capabilities: &[String],
) -> Command {
    let names = capabilities
        .iter()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let list = format!("-all{}", names.collect::<String>());
    let mut command = bed.relay.command("setpriv");
    command
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
        ])
        .arg(format!("--inh-caps={list}"))
        .arg(format!("--ambient-caps={list}"))
        .arg(format!("--bounding-set={list}"))
        .arg(&copy.0)
        .args(run_arguments(backend))
        .arg(file.path());
    command
}

/// What the relay needs on a backend, in the order of the kernel's numbers.
fn needed_capabilities(backend: Backend) -> &'static [&'static str] {
    match backend {
        Backend::Xdp => &[
            "CAP_NET_ADMIN",
            "CAP_NET_RAW",
            "CAP_IPC_LOCK",
            "CAP_PERFMON",
            "CAP_BPF",
        ],
        Backend::IoUring => &["CAP_NET_RAW", "CAP_BPF"],
    }
}

/// Every `CAP_...` that the first sentence of `finished` names as missing; the sentences after it
/// say how to grant all that are needed.
fn missing_capabilities(finished: &Finished) -> Vec<String> {
    let sentence = finished.stderr.split(". ").next().unwrap_or_default();
    let words = sentence.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    words
        .filter(|word| word.starts_with("CAP_"))
        .map(str::to_owned)
        .collect()
}

fn o5_an_unprivileged_user_learns_which_capabilities_are_missing_and_runs_with_just_those(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let file = RuleFile::of(&rules)?;
    let copy = PublicCopy::new(&format!("o5-{}", backend.name()))?;
    let finished = finish(as_user(&bed, backend, &copy, &file, &[]))?;
    assert_eq!(finished.code, Some(77), "{finished:?}");
    let capabilities = missing_capabilities(&finished);
    assert_eq!(capabilities, needed_capabilities(backend), "{finished:?}");
    assert!(
        finished.stderr.contains("setcap"),
        "how to grant them: {finished:?}"
    );

    let receivers = Receivers::start(&bed, &rules)?;
    let command = as_user(&bed, backend, &copy, &file, &capabilities);
    let relay = RelayProcess::start_command(command)?.expecting(backend);
    let streams = streams(&rules, 500, 1000);
    send(&bed, &rules, &streams, || receivers.progress())?;
    receivers.assert_exact(&streams);
    relay.stop()?.report.assert_exact(&[500]);
    Ok(())
}

fn o5_an_unprivileged_user_who_may_lock_no_memory_runs_or_learns_what_to_raise(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let file = RuleFile::of(&rules)?;
    let copy = PublicCopy::new(&format!("o5-memlock-{}", backend.name()))?;
    let capabilities: Vec<_> = needed_capabilities(backend)
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut command = as_user(&bed, backend, &copy, &file, &capabilities);
    sys::limit_locked_memory(&mut command, 0);
    match backend {
        // By CAP_IPC_LOCK.
        Backend::Xdp => {
            let relay = RelayProcess::start_command(command)?.expecting(backend);
            forward_exactly_by(relay, &bed, &rules, &streams(&rules, 500, 1000))?;
        }
        // The kernel accounts a ring to the user who makes it.
        Backend::IoUring => {
            let finished = finish(command)?;
            assert_eq!(finished.code, Some(69), "{finished:?}");
            assert!(finished.stderr.contains("`ulimit -l`"), "{finished:?}");
        }
    }
    Ok(())
}

fn o5_each_single_missing_capability_is_named_and_no_other(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 1)])?;
    let copy = PublicCopy::new(&format!("o5-single-{}", backend.name()))?;
    let all = missing_capabilities(&finish(as_user(&bed, backend, &copy, &file, &[]))?);
    assert_eq!(all, needed_capabilities(backend));
    for missing in &all {
        let others: Vec<_> = all
            .iter()
            .filter(|name| *name != missing)
            .cloned()
            .collect();
        let finished = finish(as_user(&bed, backend, &copy, &file, &others))?;
        assert_eq!(finished.code, Some(77), "without {missing}: {finished:?}");
        assert_eq!(
            missing_capabilities(&finished),
            std::slice::from_ref(missing),
            "{finished:?}"
        );
    }
    Ok(())
}

fn o5_where_no_thread_may_be_started_the_plan_is_made_and_a_run_says_what_to_raise(
    backend: Backend,
) -> Result<()> {
    // Of no other test: the limit counts all threads of a user.
    const USER: u32 = 61_234;
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 1)])?;
    let copy = PublicCopy::new(&format!("o5-threads-{}", backend.name()))?;
    let user = USER + u32::from(backend == Backend::Xdp);
    let names = needed_capabilities(backend).iter();
    let names = names.map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let list = format!("-all{}", names.collect::<String>());
    let limited = |arguments: &[&str]| {
        let mut command = bed.relay.command("setpriv");
        command
            .arg(format!("--reuid={user}"))
            .args(["--regid=65534", "--clear-groups", "--no-new-privs"])
            .arg(format!("--inh-caps={list}"))
            .arg(format!("--ambient-caps={list}"))
            .arg(format!("--bounding-set={list}"))
            .arg(&copy.0)
            .args(arguments)
            .arg(file.path());
        sys::limit(&mut command, libc::RLIMIT_NPROC, 1, 1);
        finish(command)
    };
    let finished = limited(&["plan", "--backend", backend.name()])?;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let finished = limited(&run_arguments(backend))?;
    assert_eq!(finished.code, Some(71), "{finished:?}");
    assert!(finished.stderr.contains("`ulimit -u`"), "{finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
    Ok(())
}

/// Whether an XDP program is on the relay's interface.
fn has_xdp(bed: &Testbed, interface: &str) -> Result<bool> {
    Ok(bed
        .relay
        .ip(&format!("-details link show dev {interface}"))?
        .contains("xdp"))
}

/// Whether the relay's interface has joined `group`.
fn has_joined(bed: &Testbed, interface: &str, group: Ipv4Addr) -> Result<bool> {
    let shown = bed.relay.ip(&format!("maddress show dev {interface}"))?;
    Ok(shown
        .split_whitespace()
        .any(|word| word == group.to_string()))
}

fn stops_cleanly_by(backend: Backend, signal: Signal) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 4)];
    let receivers = Receivers::start(&bed, &rules)?;
    let before = bed.relay.ip("-details link")?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    assert!(has_joined(&bed, "in0", GROUP_IN)?, "joined");
    assert_eq!(has_xdp(&bed, "in0")?, backend == Backend::Xdp);
    assert!(!has_xdp(&bed, "out0")?, "an output needs no XDP program");
    assert!(bed.relay.packet_sockets()? > 0, "super-frames need one");

    // Stopped while the traffic runs on.
    let over = AtomicBool::new(false);
    let sender = UdpSender::open(&bed.sources[0])?;
    let stopped = thread::scope(|scope| -> Result<_> {
        let sending = scope.spawn(|| -> Result<()> {
            let mut first = 0;
            while !over.load(Ordering::Relaxed) {
                let stream = Stream {
                    first,
                    ..Stream::new(0, 100, 500)
                };
                sender.send(&Traffic::new(GROUP_IN, PORT_IN, stream), 5000)?;
                first += 100;
            }
            Ok(())
        });
        let flowing = receivers.wait_until_each(|_, tally| tally.received >= 500);
        let stopped = relay.stop_by(signal);
        over.store(true, Ordering::Relaxed);
        let sent = sending.join();
        assert!(matches!(sent, Ok(Ok(()))), "{sent:?}");
        assert!(flowing, "traffic flows before the stop");
        stopped
    })?;
    assert!(
        stopped.took < Duration::from_secs(1),
        "took {:?}",
        stopped.took
    );
    assert_eq!(stopped.status.code(), Some(0), "{}", stopped.log);
    assert!(
        !has_xdp(&bed, "in0")? && !has_xdp(&bed, "out0")?,
        "no XDP program stays"
    );
    assert!(!has_joined(&bed, "in0", GROUP_IN)?, "the group is left");
    assert_eq!(bed.relay.packet_sockets()?, 0, "no packet socket stays");
    assert_eq!(
        before.contains("PROMISC"),
        bed.relay.ip("-details link")?.contains("PROMISC")
    );

    // What it says it sent is what arrived, to the frame.
    receivers.settle();
    stopped.report.assert_balanced();
    for ((_, tally), output) in receivers
        .tallies()
        .iter()
        .zip(&stopped.report.rules[0].outputs)
    {
        assert_eq!(
            tally.received, output.packets_sent,
            "{tally} against {output:?}"
        );
        assert_eq!(tally.unique, tally.received, "{tally}");
    }
    assert!(stopped.report.uptime_seconds > 0.0);
    Ok(())
}

fn o6_sigterm_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean(
    backend: Backend,
) -> Result<()> {
    stops_cleanly_by(backend, Signal::SIGTERM)
}

fn o6_sigint_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean(
    backend: Backend,
) -> Result<()> {
    stops_cleanly_by(backend, Signal::SIGINT)
}

fn o6_a_relay_without_traffic_ends_within_a_second(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let stopped =
        RelayProcess::start(&bed.relay, backend, &[Rule::feed().outputs("out0", 1)])?.stop()?;
    assert!(
        stopped.took < Duration::from_secs(1),
        "took {:?}",
        stopped.took
    );
    stopped.report.assert_exact(&[0]);
    Ok(())
}

fn o7_a_second_relay_on_the_interface_learns_who_holds_it_and_disturbs_nothing(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let other = Rule::new("other", "in0", GROUP_IN, PORT_IN + 1).outputs("out0", 1);
    let file = RuleFile::of(&[other])?;
    let path = file.path().display().to_string();
    let plan = || relay(&bed.relay, &["plan", "--backend", backend.name(), &path]);
    // Whatever the backends of the two.
    for second in Backend::ALL {
        let receivers = Receivers::start(&bed, &rules)?;
        let mut first = RelayProcess::start(&bed.relay, backend, &rules)?;
        let streams = streams(&rules, 4000, 500);
        let refused = thread::scope(|scope| -> Result<_> {
            let sending = scope.spawn(|| send(&bed, &rules, &streams, || receivers.progress()));
            let refused = relay(&bed.relay, &["run", "--backend", second.name(), &path]);
            let sent = sending.join();
            assert!(matches!(sent, Ok(Ok(()))), "{sent:?}");
            refused
        })?;
        assert_eq!(refused.code, Some(69), "{second:?}: {refused:?}");
        let holder = format!("process {}", first.id());
        for word in ["in0", &holder] {
            let said = &refused.stderr;
            assert!(said.contains(word), "{second:?}: `{word}` in: {said}");
        }
        let said = plan()?.stdout;
        assert!(
            said.contains(&format!("{holder} (relay) relays from it")),
            "{said}"
        );
        assert!(first.is_running());
        receivers.assert_exact(&streams);
        first.stop()?.report.assert_exact(&[4000]);
    }
    // The interface is free again.
    let said = plan()?.stdout;
    assert!(!said.contains("relays from it"), "{said}");
    forward_exactly(&bed, backend, &rules, 200, 500)?;
    Ok(())
}

fn o7_a_relay_of_another_user_or_with_other_mounts_is_refused_as_well(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let file = RuleFile::of(&rules)?;
    let copy = PublicCopy::new(&format!("o7-{}", backend.name()))?;
    let first = RelayProcess::start(&bed.relay, backend, &rules)?;
    for second in Backend::ALL {
        let capabilities: Vec<_> = needed_capabilities(second)
            .iter()
            .map(ToString::to_string)
            .collect();
        let refused = finish(as_user(&bed, second, &copy, &file, &capabilities))?;
        assert_eq!(refused.code, Some(69), "{second:?}: {refused:?}");
        // Whose process it is, and no more, is what that user may see.
        for words in ["cannot receive on in0", "a process of user 0"] {
            assert!(refused.stderr.contains(words), "{second:?}: {refused:?}");
        }

        let mut command = bed.relay.command("unshare");
        command
            .args(["--mount", "--propagation", "private"])
            .arg(binary()?)
            .args(run_arguments(second))
            .arg(file.path());
        let refused = finish(command)?;
        assert_eq!(refused.code, Some(69), "{second:?}: {refused:?}");
        let holder = format!("process {} (relay)", first.id());
        assert!(refused.stderr.contains(&holder), "{second:?}: {refused:?}");
    }
    first.stop().map(drop)
}

fn o7_a_user_without_privileges_cannot_keep_the_relay_from_an_interface(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let index: u32 = bed
        .relay
        .ip("-oneline link show dev in0")?
        .split(':')
        .next()
        .and_then(|index| index.parse().ok())
        .context("the index of in0")?;
    // Names of sockets are free for everybody to take.
    let _taken: Vec<_> = bed.relay.run(|| {
        let names = ["relay-input", "relay-claim", "relay"].into_iter();
        names
            .flat_map(|name| [format!("{name}-{index}"), format!("{name}-in0")])
            .map(|name| {
                let address = SocketAddr::from_abstract_name(&name)?;
                UnixListener::bind_addr(&address).with_context(|| format!("taking {name}"))
            })
            .collect()
    })?;
    // What claims are made of is not.
    let denied = bed.relay.run(|| {
        thread::scope(|scope| {
            let unprivileged = scope.spawn(move || {
                // Of this thread alone, by the system call itself.
                sys::give_up_privileges()?;
                sys::packet_socket(index, sys::Hears::Nothing).map(drop)
            });
            Ok(unprivileged.join())
        })
    })?;
    let denied = denied.map_err(|_| anyhow::anyhow!("the thread panicked"))?;
    assert_eq!(
        denied.map_err(|error| error.kind()),
        Err(std::io::ErrorKind::PermissionDenied)
    );
    RelayProcess::start(&bed.relay, backend, &rules)?.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    o3_every_mistake_in_a_rule_file_is_refused_with_its_line_and_a_remedy,
    o3_missing_and_unfit_interfaces_are_refused_with_their_line_and_a_remedy,
    o3_a_correct_file_is_accepted_and_the_plan_touches_nothing,
    o5_an_unprivileged_user_learns_which_capabilities_are_missing_and_runs_with_just_those,
    o5_an_unprivileged_user_who_may_lock_no_memory_runs_or_learns_what_to_raise,
    o5_each_single_missing_capability_is_named_and_no_other,
    o5_where_no_thread_may_be_started_the_plan_is_made_and_a_run_says_what_to_raise,
    o6_sigterm_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean,
    o6_sigint_under_traffic_ends_within_a_second_and_leaves_the_interfaces_clean,
    o6_a_relay_without_traffic_ends_within_a_second,
    o7_a_second_relay_on_the_interface_learns_who_holds_it_and_disturbs_nothing,
    o7_a_relay_of_another_user_or_with_other_mounts_is_refused_as_well,
    o7_a_user_without_privileges_cannot_keep_the_relay_from_an_interface,
}
