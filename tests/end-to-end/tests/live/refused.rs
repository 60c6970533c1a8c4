//! A change that is refused leaves nothing of itself: what runs is what ran before.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::relay::{Finished, RelayProcess, RuleFile};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// More rules than the kernel programs have room for limits, where none had one at the start.
const MANY: usize = 4100;

fn to(name: &str, interface: &str, last: u8) -> Rule {
    let group = |block: u8| std::net::Ipv4Addr::new(239, block, 8, last);
    Rule::new(name, interface, group(1), 8000).output("out0", group(2), 8001)
}

#[track_caller]
fn assert_refused(finished: &Finished, words: &[&str]) {
    let text = format!("{}{}", finished.stdout, finished.stderr);
    let has_all = words.iter().all(|word| text.contains(word));
    assert!(finished.code != Some(0) && has_all, "{finished:?}");
}

/// Fails unless every output of `rule` gets each datagram that is sent to it now.
fn assert_relayed(bed: &Testbed, rule: &Rule, receivers: &Receivers) -> Result<()> {
    let stream = || Stream::new(0, 100, 500);
    let sender = UdpSender::open(&bed.sources[0])?;
    sender.send(&Traffic::new(rule.group, rule.port, stream()), 10_000)?;
    receivers.wait_for(&[100]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&stream());
    }
    Ok(())
}

/// One of the inputs of the change is free, the other one is another relay's.
fn o2_an_input_of_a_refused_change_is_free_for_another_relay(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().inputs(3).without_capture().build()?;
    let holder = RelayProcess::start(&bed.relay, backend, &[to("held", "in2", 3)])?;
    let relay = RelayProcess::start(&bed.relay, backend, &[Rule::feed().outputs("out0", 1)])?;
    let refused = relay.reload(&to_toml(&[
        Rule::feed().outputs("out0", 1),
        to("free", "in1", 1),
        to("held", "in2", 2),
    ]))?;
    assert_refused(&refused, &["in2", "everything is as before"]);
    let next = RelayProcess::start(&bed.relay, backend, &[to("free", "in1", 1)])?;
    let states = next.rule_states()?;
    assert_eq!(states, [("free".to_owned(), "active".to_owned())]);
    for relay in [next, relay, holder] {
        relay.stop()?;
    }
    Ok(())
}

/// The kernel refuses the last step, when the workers have their new tables already.
fn o2_after_a_refused_change_copies_leave_as_before_it(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let mine = Rule::feed().output("out0", [239, 2, 7, 7], 7001);
    let other = Rule::feed().output("out0", [239, 2, 7, 8], 7001);
    let text = |feed: &Rule, limit: &str| {
        let mut text = to_toml(std::slice::from_ref(feed));
        for number in 0..MANY {
            let (high, low) = (number / 250, number % 250);
            let _ = write!(
                text,
                "[[rules]]\nname = \"many-{number}\"\n\
                 input = {{ interface = \"in0\", group = \"239.9.{high}.{low}\", port = 9000, \
                 join = false{limit} }}\n\
                 outputs = [{{ interface = \"out0\", group = \"239.8.{high}.{low}\", port = 9000 }}]\n"
            );
        }
        text
    };
    let receivers = Receivers::start(&bed, std::slice::from_ref(&mine))?;
    let file = RuleFile::new(&text(&mine, ""))?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    let limit = ", limit = { packets_per_second = 1, burst = 1 }";
    let refused = relay.reload(&text(&other, limit))?;
    assert_refused(&refused, &["limit", "everything is as before"]);
    assert_relayed(&bed, &mine, &receivers)?;
    relay.stop()?;
    Ok(())
}

/// While it waited for the confirmation, another relay took the input of the former rules.
fn o1_a_refusal_to_take_a_change_back_is_the_last_change(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().inputs(2).without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let other = RelayProcess::start(&bed.relay, backend, &rules)?;
    let answer = relay.reload_with(&to_toml(&[to("new", "in1", 1)]), &["--confirm-within", "2"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let last_change = |verb: &str| {
        eventually(Duration::from_secs(10), || {
            let status = relay.status().unwrap_or_default();
            let last = status["last_change"].clone();
            let text = |key: &str| last[key].as_str().unwrap_or_default().to_owned();
            text("what").contains(verb) && text("result").contains("refused: ")
        })
    };
    assert!(last_change("taken back").is_some(), "{}", relay.log());
    let answer = relay.verb(&["undo"])?;
    assert_ne!(answer.code, Some(0), "{answer:?}");
    assert!(last_change("undo").is_some(), "{}", relay.log());
    other.stop()?;
    let answer = relay.verb(&["undo"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    relay.stop()?;
    Ok(())
}

/// As many kinds of prefixes as one interface may have before, and after, and one more together.
fn o1_rules_that_fit_replace_others_that_fit_where_both_together_do_not(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let text = |lengths: std::ops::RangeInclusive<u8>, port: &str| {
        let mut text = String::new();
        for length in lengths {
            let _ = write!(
                text,
                "[[rules]]\nname = \"of-{length}\"\n\
                 input = {{ interface = \"in0\", group = \"239.0.0.0/{length}\", port = {port}, \
                 join = false }}\n\
                 outputs = [{{ interface = \"out0\", group = \"232.1.1.1\", port = 9000 }}]\n"
            );
        }
        text
    };
    let file = RuleFile::new(&text(8..=24, "5000"))?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    let answer = relay.reload(&text(8..=23, "\"any\""))?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let mine = Rule::new("of-8", "in0", [239, 0, 0, 7], 6000).output("out0", [232, 1, 1, 1], 9000);
    let receivers = Receivers::start(&bed, std::slice::from_ref(&mine))?;
    assert_relayed(&bed, &mine, &receivers)?;
    // What is too much by itself is refused, and changes nothing.
    let refused =
        relay.reload(&(text(8..=24, "5000") + &text(8..=24, "\"any\"").replace("of-", "any-")))?;
    assert_refused(&refused, &["32 combinations of prefix length"]);
    relay.stop()?;
    Ok(())
}

/// The limit of open files of a process, as it was before it is set.
fn open_files(process: u32, set: Option<&libc::rlimit>) -> Result<libc::rlimit> {
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let set = set.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point to limits that live through the call, or are null.
    let done = unsafe { libc::prlimit(process as i32, libc::RLIMIT_NOFILE, set, &mut before) };
    anyhow::ensure!(done == 0, "prlimit: {}", std::io::Error::last_os_error());
    Ok(before)
}

/// The limit of open files is lowered under a running relay, below what its clients have open.
fn l8_more_clients_than_the_limit_of_open_files_do_not_end_the_control_socket(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let relay = RelayProcess::start(&bed.relay, backend, &[Rule::feed().outputs("out0", 1)])?;
    let clients: Vec<_> = (0..20)
        .map(|_| std::os::unix::net::UnixStream::connect(relay.control()))
        .collect::<std::io::Result<_>>()?;
    relay.status()?;
    let before = open_files(relay.id(), None)?;
    open_files(
        relay.id(),
        Some(&libc::rlimit {
            rlim_cur: 12,
            ..before
        }),
    )?;
    assert!(
        relay.wait_for_log("cannot wait for clients"),
        "{}",
        relay.log()
    );
    open_files(relay.id(), Some(&before))?;
    drop(clients);
    let serves = eventually(Duration::from_secs(10), || relay.status().is_ok());
    assert!(serves.is_some(), "{}", relay.log());
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    o1_a_refusal_to_take_a_change_back_is_the_last_change,
    o1_rules_that_fit_replace_others_that_fit_where_both_together_do_not,
    l8_more_clients_than_the_limit_of_open_files_do_not_end_the_control_socket,
    o2_an_input_of_a_refused_change_is_free_for_another_relay,
    o2_after_a_refused_change_copies_leave_as_before_it,
}
