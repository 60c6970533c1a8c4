//! What the relay needs of the system: capabilities, locked memory, threads and open files. Where
//! something is missing, the relay says what, and with exactly that it runs.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::process::Process;
use relay_tests::relay::{
    Finished, RelayProcess, RuleFile, START_TIMEOUT, binary, finish, run_arguments, stop_in_time,
};
use relay_tests::rules::Rule;
use relay_tests::scenario::{Receivers, forward_exactly_by, send, streams};
use relay_tests::sys;
use relay_tests::topology::Testbed;
use relay_tests::unprivileged::{NOBODY, PublicCopy, needed_capabilities};

const NO_CAPABILITIES: [&str; 0] = [];

/// `relay run` as another user with `capabilities`, and no others.
fn as_user(
    bed: &Testbed,
    backend: Backend,
    copy: &PublicCopy,
    file: &RuleFile,
    capabilities: &[impl AsRef<str>],
) -> Command {
    let mut command = copy.command(&bed.relay, NOBODY, capabilities);
    command.args(run_arguments(backend)).arg(file.path());
    command
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
    let finished = finish(as_user(&bed, backend, &copy, &file, &NO_CAPABILITIES))?;
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
    let mut command = as_user(&bed, backend, &copy, &file, needed_capabilities(backend));
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
            // What it names is enough for a worker. No other test has this user, whose processes
            // share the limit.
            let mut command = copy.command(&bed.relay, 61_240, needed_capabilities(backend));
            command.args(run_arguments(backend)).arg(file.path());
            sys::limit_locked_memory(&mut command, 128 << 10);
            let relay = RelayProcess::start_command(command)?.expecting(backend);
            forward_exactly_by(relay, &bed, &rules, &streams(&rules, 500, 1000))?;
        }
    }
    Ok(())
}

/// Where nobody chose the place of the control socket, the relay does without; where somebody did,
/// the start fails.
#[test]
fn o5_without_a_place_for_the_control_socket_it_runs_unless_that_was_asked_for() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 1)])?;
    // A file where the folder would be, which this relay alone sees.
    let there = |arguments: &str| {
        let mut command = bed.relay.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        let program = binary()?.display().to_string();
        let file = file.path().display();
        command.arg(format!(
            "mount -t tmpfs none /run && touch /run/relay && exec {program} run {arguments} {file}"
        ));
        Ok::<_, anyhow::Error>(command)
    };
    let mut relay = Process::spawn(there("--json")?)?;
    let said = "This relay runs without a control socket";
    assert!(relay.wait_for_log(said, START_TIMEOUT), "{}", relay.log());
    assert!(
        relay.wait_for_log("ready:", START_TIMEOUT),
        "{}",
        relay.log()
    );
    assert!(relay.is_running());
    stop_in_time(relay)?.assert_exact(&[0]);
    let refused = finish(there("--control /run/relay/test.sock")?)?;
    assert_eq!(refused.code, Some(71), "{refused:?}");
    assert!(refused.stderr.contains("/run/relay"), "{refused:?}");
    Ok(())
}

fn o5_each_single_missing_capability_is_named_and_no_other(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 1)])?;
    let copy = PublicCopy::new(&format!("o5-single-{}", backend.name()))?;
    let all = missing_capabilities(&finish(as_user(
        &bed,
        backend,
        &copy,
        &file,
        &NO_CAPABILITIES,
    ))?);
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
    // A user of no other test: the limit counts all threads of a user.
    const USER: u32 = 61_234;
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 1)])?;
    let copy = PublicCopy::new(&format!("o5-threads-{}", backend.name()))?;
    let user = USER + u32::from(backend == Backend::Xdp);
    let limited = |arguments: &[&str]| {
        let mut command = copy.command(&bed.relay, user, needed_capabilities(backend));
        command.args(arguments).arg(file.path());
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

/// How many open files a message asks for.
fn asked_for(stderr: &str) -> Option<u64> {
    let (_, behind) = stderr.split_once("`ulimit -n ")?;
    behind.split_once('`')?.0.parse().ok()
}

fn too_few_open_files_are_told_before_anything_starts_and_as_many_as_asked_for_are_enough(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(3)
        .without_capture()
        .build()?;
    let rules: Vec<Rule> = (0..60_u8)
        .map(|n| {
            Rule::new(
                format!("r{n}"),
                ["in0", "in1"][usize::from(n % 2)],
                Ipv4Addr::new(239, 1, 1, n + 1),
                5001,
            )
            .outputs(["out0", "out1", "out2"][usize::from(n % 3)], 1)
        })
        .collect();
    let file = RuleFile::of(&rules)?;
    let limited = |arguments: &[&str], hard: u64| -> Result<Command> {
        let mut command = bed.relay.command(binary()?);
        command
            .args(arguments)
            .arg(file.path())
            .stdin(Stdio::null());
        sys::limit(&mut command, libc::RLIMIT_NOFILE, hard, hard);
        Ok(command)
    };
    let run = run_arguments(backend);
    let mut needed = 0;
    // With fewer the program itself could not be loaded.
    for hard in [8, 12, 16, 24, 32, 40] {
        let plan = ["plan", "--backend", backend.name()];
        for arguments in [&run[..], &plan] {
            let finished = finish(limited(arguments, hard)?)?;
            let said = &finished.stderr;
            if finished.code == Some(0) && arguments[0] == "plan" {
                continue;
            }
            assert_eq!(
                finished.code,
                Some(71),
                "{arguments:?} with {hard}: {finished:?}"
            );
            needed = asked_for(said).with_context(|| format!("with {hard}: {said}"))?;
            assert!(needed > hard, "{arguments:?} with {hard}: {said}");
            assert!(!said.contains("Linux 5.10"), "{said}");
        }
    }
    let finished = finish(limited(&run, needed - 1)?)?;
    assert_eq!(finished.code, Some(71), "{finished:?}");
    let relay = RelayProcess::start_command(limited(&run, needed)?)?.expecting(backend);
    let open = std::fs::read_dir(format!("/proc/{}/fd", relay.id()))?.count();
    println!("{backend:?}: {open} files are open, {needed} were asked for");
    relay.stop().map(drop)
}

relay_tests::on_both_backends! {
    o5_an_unprivileged_user_learns_which_capabilities_are_missing_and_runs_with_just_those,
    o5_an_unprivileged_user_who_may_lock_no_memory_runs_or_learns_what_to_raise,
    o5_each_single_missing_capability_is_named_and_no_other,
    o5_where_no_thread_may_be_started_the_plan_is_made_and_a_run_says_what_to_raise,
    too_few_open_files_are_told_before_anything_starts_and_as_many_as_asked_for_are_enough,
}
