//! What stands around the engine: a log that nothing reads, signals, limits of the process, and an end
//! that does not take long.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::frames::UdpFrame;
use relay_tests::payload::payload;
use relay_tests::process::Process;
use relay_tests::raw::RawSender;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::{RelayProcess, RuleFile, binary, finish, relay, run_arguments};
use relay_tests::report::Report;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::{Receivers, send, streams};
use relay_tests::sys;
use relay_tests::topology::Testbed;

/// How long a start may take beside other tests.
const START: Duration = Duration::from_secs(20);
/// The promise is a second; this is for a machine that is busy with other tests.
const STOP: Duration = Duration::from_secs(2);

/// A relay whose log goes into a pipe of one page that nothing reads, with all that it can log.
fn unread(bed: &Testbed, backend: Backend, file: &RuleFile) -> Result<(Process, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).context("shrinking a pipe")?;
    let mut command = bed.relay.command(binary()?);
    command
        .args(run_arguments(backend))
        .arg(file.path())
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null());
    Ok((Process::spawn_with_stderr(command, writer)?, reader))
}

/// Sends single datagrams until one arrives; returns how many were sent.
fn wait_until_it_forwards(bed: &Testbed, rules: &[Rule], receivers: &Receivers) -> Result<()> {
    let one = streams(rules, 1, 100);
    let forwards = eventually(START, || {
        let _ = send(bed, rules, &one, || receivers.progress());
        thread::sleep(Duration::from_millis(20));
        receivers.progress() > 0
    });
    forwards.context("nothing was forwarded").map(drop)
}

/// SIGTERM; the report, within the promised time.
fn stop(mut relay: Process) -> Result<Report> {
    let started = Instant::now();
    relay.signal(Signal::SIGTERM)?;
    let status = relay.wait(Duration::from_secs(10))?;
    let took = started.elapsed();
    let status = status.context("SIGTERM did not end it")?;
    assert!(status.success(), "{status}");
    assert!(took < STOP, "{took:?}");
    let stdout = relay.stdout();
    serde_json::from_str(&stdout).with_context(|| format!("reading the report `{stdout}`"))
}

fn o6_a_log_that_nothing_reads_stops_neither_the_relay_nor_its_end(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let file = RuleFile::of(&rules)?;
    let receivers = Receivers::start(&bed, &rules)?;
    let (relay, _unread) = unread(&bed, backend, &file)?;
    wait_until_it_forwards(&bed, &rules, &receivers)?;
    let before = receivers.progress();
    send(&bed, &rules, &streams(&rules, 500, 1000), || {
        receivers.progress()
    })?;
    let arrived = eventually(Duration::from_secs(10), || {
        receivers.progress() >= before + 500
    });
    assert!(
        arrived.is_some(),
        "{} of 500",
        receivers.progress() - before
    );
    let report = stop(relay)?;
    assert!(report.packets_matched >= 500, "{report:?}");
    Ok(())
}

fn o6_a_report_that_nothing_reads_is_given_up(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 64)];
    let file = RuleFile::of(&rules)?;
    let (_unread, writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).context("shrinking a pipe")?;
    let mut command = bed.relay.command(binary()?);
    command
        .args(run_arguments(backend))
        .arg(file.path())
        .stdin(Stdio::null());
    let mut relay = Process::spawn_with_stdout(command, writer)?;
    assert!(relay.wait_for_log("ready:", START), "{}", relay.log());
    let started = Instant::now();
    relay.signal(Signal::SIGTERM)?;
    let status = relay.wait(Duration::from_secs(10))?;
    let took = started.elapsed();
    let status = status.context("SIGTERM did not end it")?;
    assert!(took < STOP, "{took:?}");
    assert_eq!(status.code(), Some(71));
    let said = relay.log();
    assert!(said.contains("nothing reads standard output"), "{said}");
    Ok(())
}

/// Lines as they come out of a pipe.
fn lines(reader: PipeReader) -> Receiver<String> {
    let (line, lines) = channel();
    thread::spawn(move || {
        for read in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if line
                .send(String::from_utf8_lossy(&read).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    lines
}

fn o6_a_reader_that_comes_back_learns_how_many_lines_it_has_missed(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let file = RuleFile::of(&rules)?;
    let receivers = Receivers::start(&bed, &rules)?;
    let (relay, reader) = unread(&bed, backend, &file)?;
    wait_until_it_forwards(&bed, &rules, &receivers)?;
    let lines = lines(reader);
    let lost = loop {
        let line = lines
            .recv_timeout(START)
            .context("no line tells what was lost")?;
        if line.contains("lost, because nothing read stderr") {
            break line;
        }
    };
    let mut words = lost.split(' ').skip(1);
    let count: u64 = words.next().context("a count")?.parse()?;
    assert!(count > 0, "{lost}");
    // And the log goes on, where there is something to say.
    send(&bed, &rules, &streams(&rules, 1, 100), || {
        receivers.progress()
    })?;
    lines.recv_timeout(START).context("no line after that")?;
    stop(relay).map(drop)
}

fn o6_sighup_of_no_terminal_is_answered_and_the_relay_goes_on(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let file = RuleFile::of(&rules)?;
    let mut command = bed.relay.command(binary()?);
    command
        .args(run_arguments(backend))
        .arg(file.path())
        .stdin(Stdio::null());
    let relay = Process::spawn(command)?;
    assert!(relay.wait_for_log("ready:", START), "{}", relay.log());
    relay.signal(Signal::SIGHUP)?;
    let answered = relay.wait_for_log("SIGHUP is ignored", Duration::from_secs(10));
    assert!(answered, "{}", relay.log());
    stop(relay).map(drop)
}

fn o6_a_terminal_that_closes_ends_the_relay_with_its_report(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let file = RuleFile::of(&rules)?;
    // Neither end may stay open in a program that another test starts just now.
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(ptsname_r(&master)?)?;
    let mut command = bed.relay.command(binary()?);
    command
        .args(run_arguments(backend))
        .arg(file.path())
        .stdin(Stdio::null());
    let mut relay = Process::spawn_on_terminal(command, slave.into())?;
    let mut screen = BufReader::new(master);
    let mut line = String::new();
    while !line.contains("ready:") {
        line.clear();
        let read = screen
            .read_line(&mut line)
            .context("reading the terminal")?;
        assert!(read > 0, "the terminal has ended");
    }
    drop(screen);
    let status = relay
        .wait(Duration::from_secs(10))?
        .context("it did not end")?;
    assert!(status.success(), "{status}");
    let report: Report = serde_json::from_str(&relay.stdout())?;
    assert_eq!(report.packets_matched, 0);
    Ok(())
}

fn o6_after_a_standstill_there_is_one_line_and_not_one_a_second(backend: Backend) -> Result<()> {
    const STOOD: Duration = Duration::from_secs(4);
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let id = nix::unistd::Pid::from_raw(relay.id().cast_signed());
    let count = |relay: &RelayProcess| relay.log().matches("received ").count();
    assert!(eventually(START, || count(&relay) > 0).is_some());
    nix::sys::signal::kill(id, Signal::SIGSTOP)?;
    thread::sleep(STOOD);
    let before = count(&relay);
    // Something to tell: a relay without traffic says so once, and has said it.
    let one = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, 0, 100));
    RawSender::open(&bed.sources[0])?.send(&one.build()?)?;
    nix::sys::signal::kill(id, Signal::SIGCONT)?;
    let first = eventually(START, || count(&relay) > before);
    assert!(first.is_some(), "{}", relay.log());
    // The stale ones would all come at once.
    thread::sleep(Duration::from_millis(300));
    let more = count(&relay) - before;
    assert!(more <= 2, "{more} lines:\n{}", relay.log());
    relay.stop().map(drop)
}

fn f7_another_program_that_joined_the_group_is_noted_where_it_gets_nothing(
    backend: Backend,
) -> Result<()> {
    const COUNT: u64 = 200;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let note = "239.1.1.1: another program of this host has joined as well";
    let file = RuleFile::of(&rules)?;
    let path = file.path().display().to_string();
    let plan = || relay(&bed.relay, &["plan", "--backend", backend.name(), &path]);
    assert!(!plan()?.stdout.contains(note));
    let local = UdpReceiver::start(
        &bed.inputs[0],
        &[Listen::new(rules[0].group, rules[0].port, 0)],
    )?;
    let finished = plan()?;
    assert_eq!(
        finished.stdout.contains(note),
        backend == Backend::Xdp,
        "{finished:?}"
    );

    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    assert_eq!(
        relay.log().contains(note),
        backend == Backend::Xdp,
        "{}",
        relay.log()
    );
    let streams = streams(&rules, COUNT, 500);
    send(&bed, &rules, &streams, || receivers.progress())?;
    receivers.assert_exact(&streams);
    local.settle();
    let got = local.tallies()[0].received;
    assert_eq!(got, if backend == Backend::Xdp { 0 } else { COUNT });
    relay.stop().map(drop)
}

/// How many open files a message asks for.
fn asked_for(stderr: &str) -> Option<u64> {
    let (_, behind) = stderr.split_once("`ulimit -n ")?;
    behind.split_once('`')?.0.parse().ok()
}

fn f9_too_few_open_files_are_told_before_anything_starts_and_as_many_as_asked_for_are_enough(
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

/// `count` rules, each with a group of its own.
fn many(count: u32) -> String {
    let rules: Vec<Rule> = (0..count)
        .map(|n| {
            let [_, _, high, low] = n.to_be_bytes();
            Rule::new(
                format!("r{n}"),
                "in0",
                Ipv4Addr::new(239, 1, high, low),
                5001,
            )
            .output("out0", Ipv4Addr::new(239, 2, high, low), 5002)
        })
        .collect();
    to_toml(&rules)
}

fn o6_as_many_rules_as_are_possible_end_in_two_seconds(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::new(&many(65_536))?;
    let mut command = bed.relay.command(binary()?);
    command
        .args(run_arguments(backend))
        .arg(file.path())
        .stdin(Stdio::null());
    // The usual soft limit; the relay raises it.
    sys::limit(&mut command, libc::RLIMIT_NOFILE, 1024, 1 << 16);
    let mut relay = Process::spawn(command)?;
    assert!(
        relay.wait_for_log("ready:", Duration::from_secs(60)),
        "{}",
        relay.log()
    );
    let started = Instant::now();
    relay.signal(Signal::SIGTERM)?;
    let status = relay
        .wait(Duration::from_secs(60))?
        .context("it did not end")?;
    let took = started.elapsed();
    println!("65536 rules on {backend:?} stopped in {took:?}");
    assert!(status.success(), "{status}: {}", relay.log());
    // 0.5 to 0.8 s; 30 to 70 s when sockets are closed in the order of the joins.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let report: Report = serde_json::from_str(&relay.stdout())?;
    assert_eq!(report.rules.len(), 65_536);
    Ok(())
}

relay_tests::on_both_backends! {
    o6_a_log_that_nothing_reads_stops_neither_the_relay_nor_its_end,
    o6_a_report_that_nothing_reads_is_given_up,
    o6_a_reader_that_comes_back_learns_how_many_lines_it_has_missed,
    o6_sighup_of_no_terminal_is_answered_and_the_relay_goes_on,
    o6_a_terminal_that_closes_ends_the_relay_with_its_report,
    o6_after_a_standstill_there_is_one_line_and_not_one_a_second,
    o6_as_many_rules_as_are_possible_end_in_two_seconds,
    f7_another_program_that_joined_the_group_is_noted_where_it_gets_nothing,
    f9_too_few_open_files_are_told_before_anything_starts_and_as_many_as_asked_for_are_enough,
}
