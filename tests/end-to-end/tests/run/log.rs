//! The log and the report: a pipe that nothing reads stops neither the relay nor its end, and after
//! a standstill the log does not make up for the lines of that time.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::frames::UdpFrame;
use relay_tests::payload::payload;
use relay_tests::process::Process;
use relay_tests::raw::RawSender;
use relay_tests::relay::{
    RelayProcess, RuleFile, START_TIMEOUT, STOP_IN_TIME, run_command, stop_in_time,
};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::{Receivers, send, streams};
use relay_tests::topology::Testbed;

/// A relay whose log goes into a pipe of one page that nothing reads, with all that it can log.
fn unread(bed: &Testbed, backend: Backend, file: &RuleFile) -> Result<(Process, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).context("shrinking a pipe")?;
    let mut command = run_command(&bed.relay, backend, file)?;
    command.env("RUST_LOG", "trace");
    Ok((Process::spawn_with_stderr(command, writer)?, reader))
}

/// Sends single datagrams until one arrives.
fn wait_until_it_forwards(bed: &Testbed, rules: &[Rule], receivers: &Receivers) -> Result<()> {
    let one = streams(rules, 1, 100);
    let forwards = eventually(START_TIMEOUT, || {
        let _ = send(bed, rules, &one, || receivers.progress());
        thread::sleep(Duration::from_millis(20));
        receivers.progress() > 0
    });
    forwards.context("nothing was forwarded").map(drop)
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
    let report = stop_in_time(relay)?;
    assert!(report.packets_matched >= 500, "{report:?}");
    Ok(())
}

fn o6_a_report_that_nothing_reads_is_given_up(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 64)];
    let file = RuleFile::of(&rules)?;
    let (_unread, writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).context("shrinking a pipe")?;
    let command = run_command(&bed.relay, backend, &file)?;
    let mut relay = Process::spawn_with_stdout(command, writer)?;
    assert!(
        relay.wait_for_log("ready:", START_TIMEOUT),
        "{}",
        relay.log()
    );
    let started = Instant::now();
    relay.signal(Signal::SIGTERM)?;
    let status = relay.wait(Duration::from_secs(10))?;
    let took = started.elapsed();
    let status = status.context("SIGTERM did not end it")?;
    assert!(took < STOP_IN_TIME, "{took:?}");
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
            .recv_timeout(START_TIMEOUT)
            .context("no line says how much was lost")?;
        if line.contains("lost, because nothing read stderr") {
            break line;
        }
    };
    let mut words = lost.split(' ').skip(1);
    let count: u64 = words.next().context("a count")?.parse()?;
    assert!(count > 0, "{lost}");
    // And the log goes on, where there is something to say: not only what waited there.
    while lines.recv_timeout(Duration::from_secs(2)).is_ok() {}
    send(&bed, &rules, &streams(&rules, 1, 100), || {
        receivers.progress()
    })?;
    lines
        .recv_timeout(START_TIMEOUT)
        .context("no line after that")?;
    stop_in_time(relay).map(drop)
}

fn o6_after_a_standstill_there_is_one_line_and_not_one_a_second(backend: Backend) -> Result<()> {
    const STOOD: Duration = Duration::from_secs(4);
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let id = nix::unistd::Pid::from_raw(relay.id().cast_signed());
    let count = |relay: &RelayProcess| relay.log().matches("received ").count();
    assert!(eventually(START_TIMEOUT, || count(&relay) > 0).is_some());
    nix::sys::signal::kill(id, Signal::SIGSTOP)?;
    thread::sleep(STOOD);
    let before = count(&relay);
    // Something to tell: a relay without traffic says so once, and has said it.
    let one = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, 0, 100));
    RawSender::open(&bed.sources[0])?.send(&one.build()?)?;
    nix::sys::signal::kill(id, Signal::SIGCONT)?;
    let first = eventually(START_TIMEOUT, || count(&relay) > before);
    assert!(first.is_some(), "{}", relay.log());
    // The stale ones would all come at once.
    thread::sleep(Duration::from_millis(300));
    let more = count(&relay) - before;
    assert!(more <= 2, "{more} lines:\n{}", relay.log());
    relay.stop().map(drop)
}

relay_tests::on_both_backends! {
    o6_a_log_that_nothing_reads_stops_neither_the_relay_nor_its_end,
    o6_a_report_that_nothing_reads_is_given_up,
    o6_a_reader_that_comes_back_learns_how_many_lines_it_has_missed,
    o6_after_a_standstill_there_is_one_line_and_not_one_a_second,
}
