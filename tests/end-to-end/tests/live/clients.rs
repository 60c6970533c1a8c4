//! Clients of the control socket: hostile ones, foreign ones, several at once. Forwarding goes on
//! whatever they do.

use std::thread;

use anyhow::{Result, ensure};
use relay_tests::abuse::abuse;
use relay_tests::backend::Backend;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::unprivileged::{NOBODY, PublicCopy};

use super::under_traffic;

fn l2_hostile_clients_delay_neither_forwarding_nor_other_clients(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let (sent, ()) = under_traffic(&bed.sources[0], &rules[0], 0, 3_000, || abuse(&relay, &[0]))?;
    receivers.wait_for(&[sent]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&Stream::new(0, sent, 500));
    }
    relay.stop()?;
    Ok(())
}

/// As the user `nobody`.
fn l3_another_user_sees_the_status_and_changes_nothing(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let program = PublicCopy::new(&format!("foreign-{}", backend.name()))?;
    let as_nobody = |arguments: &[&str]| {
        let mut command = program.command(&bed.relay, NOBODY, &[""; 0]);
        command
            .args(arguments)
            .arg("--control")
            .arg(relay.control());
        relay_tests::relay::finish(command)
    };
    let answer = as_nobody(&["status"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let explain = [
        "explain",
        "--interface",
        "in0",
        "--group",
        "239.1.1.1",
        "--port",
        "5001",
    ];
    let answer = as_nobody(&explain)?;
    assert!(answer.stdout.contains("feed"), "{answer:?}");
    for change in [
        &["disable", "feed"][..],
        &["remove", "feed"],
        &["reload"],
        &["undo"],
        &["stop"],
    ] {
        let answer = as_nobody(change)?;
        assert_eq!(answer.code, Some(77), "{change:?}: {answer:?}");
    }
    // A file of a size that guests may not send, and one that no socket buffer holds.
    for bytes in [100_000, 1_000_000] {
        let large = RuleFile::new(&(to_toml(&rules) + &"# \n".repeat(bytes / 3)))?;
        let answer = as_nobody(&["reload", &large.path().to_string_lossy()])?;
        assert_eq!(answer.code, Some(77), "{bytes}: {answer:?}");
    }
    assert_eq!(relay.rule_states()?, [("feed".into(), "active".into())]);
    relay.stop()?;
    Ok(())
}

/// Each reload as a whole comes before or after each other one: what runs at the end is one of
/// them, and never a mixture.
fn l4_of_two_reloads_at_once_none_is_half_done(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let set = |block: u8| -> Vec<Rule> {
        (0..20)
            .map(|number| {
                let group = |first: u8| [239, first, block, number];
                Rule::new(format!("set-{block}-{number}"), "in0", group(1), 9000).output(
                    "out0",
                    group(2),
                    9001,
                )
            })
            .collect()
    };
    let relay = RelayProcess::start(&bed.relay, backend, &set(0))?;
    for _ in 0..5 {
        thread::scope(|scope| -> Result<()> {
            let reloads: Vec<_> = [1, 2]
                .map(|block| scope.spawn(move || to_toml(&set(block))))
                .into_iter()
                .map(|text| text.join().unwrap_or_default())
                .map(|text| {
                    scope.spawn({
                        let relay = &relay;
                        move || relay.reload(&text)
                    })
                })
                .collect();
            for reload in reloads {
                let answer = reload.join().map_err(|_| anyhow::anyhow!("panicked"))??;
                ensure!(answer.code == Some(0), "{answer:?}");
            }
            Ok(())
        })?;
        let states = relay.rule_states()?;
        ensure!(states.len() == 20, "{states:?}");
        let first = states[0].0[..6].to_owned();
        ensure!(
            states.iter().all(|(name, _)| name.starts_with(&first)),
            "{states:?}"
        );
    }
    relay.stop()?;
    Ok(())
}

fn stop_ends_the_relay_with_its_report(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let relay = RelayProcess::start(&bed.relay, backend, &[Rule::feed().outputs("out0", 1)])?;
    let answer = relay.verb(&["stop"])?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let control = relay.control().to_owned();
    let stopped = relay.ended()?;
    assert_eq!(stopped.status.code(), Some(0), "{}", stopped.log);
    assert!(!control.exists(), "the socket is gone");
    Ok(())
}

relay_tests::on_both_backends! {
    l2_hostile_clients_delay_neither_forwarding_nor_other_clients,
    l3_another_user_sees_the_status_and_changes_nothing,
    l4_of_two_reloads_at_once_none_is_half_done,
    stop_ends_the_relay_with_its_report,
}
