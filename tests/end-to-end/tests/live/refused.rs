//! A change that is refused leaves nothing of itself: what runs is what ran before.

use std::fmt::Write as _;

use anyhow::Result;
use relay_tests::backend::Backend;
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
    let stream = || Stream::new(0, 100, 500);
    let sender = UdpSender::open(&bed.sources[0])?;
    sender.send(&Traffic::new(mine.group, mine.port, stream()), 10_000)?;
    receivers.wait_for(&[100]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&stream());
    }
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    o2_an_input_of_a_refused_change_is_free_for_another_relay,
    o2_after_a_refused_change_copies_leave_as_before_it,
}
