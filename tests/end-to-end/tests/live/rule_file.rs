//! The relay reads its rule file anew: by SIGHUP, and with `--watch` by itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::relay::{RelayProcess, binary, run_arguments};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::topology::Testbed;

/// How long the relay may take to notice a change of its file.
const NOTICED: Duration = Duration::from_secs(5);

/// One and two rules.
fn rules() -> (String, String) {
    let one = Rule::feed().outputs("out0", 1);
    let two = Rule::new("more", "in0", [239, 1, 9, 9], 9000).outputs("out0", 2);
    (to_toml(std::slice::from_ref(&one)), to_toml(&[one, two]))
}

/// A folder with a rule file of one rule, removed when it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(backend: Backend, what: &str) -> Result<Self> {
        let name = format!(
            "relay-test-{}-{}-{what}",
            std::process::id(),
            backend.name()
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    fn start(&self, bed: &Testbed, backend: Backend, options: &[&str]) -> Result<RelayProcess> {
        let mut command = bed.relay.command(binary()?);
        command.args(run_arguments(backend)).args(options);
        command.arg(self.path("relay.toml"));
        RelayProcess::start_command(command)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until the relay has `count` rules.
#[track_caller]
fn assert_rules(relay: &RelayProcess, count: usize) {
    let has = || {
        relay
            .rule_states()
            .is_ok_and(|states| states.len() == count)
    };
    let states = relay.rule_states();
    assert!(
        eventually(NOTICED, has).is_some(),
        "{states:?}: {}",
        relay.log()
    );
}

fn o6_sighup_reloads_the_file_and_mistakes_change_nothing(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let folder = Folder::new(backend, "sighup")?;
    let (one, two) = rules();
    fs::write(folder.path("relay.toml"), &one)?;
    let relay = folder.start(&bed, backend, &[])?;
    fs::write(folder.path("relay.toml"), &two)?;
    relay.signal(Signal::SIGHUP)?;
    assert_rules(&relay, 2);
    fs::write(folder.path("relay.toml"), &two[..two.len() - 20])?;
    relay.signal(Signal::SIGHUP)?;
    assert!(
        relay.wait_for_log("the rules are as before"),
        "{}",
        relay.log()
    );
    assert!(relay.log().contains("relay.toml:"), "{}", relay.log());
    assert_rules(&relay, 2);
    // What was added by command stays, and the log says why.
    let added = Rule::new("added", "in0", [239, 1, 7, 7], 7000).outputs("out0", 1);
    let answer = relay.add(&to_toml(&[added]))?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    fs::write(folder.path("relay.toml"), &one)?;
    relay.signal(Signal::SIGHUP)?;
    let said = "would discard what was changed by command: added";
    assert!(relay.wait_for_log(said), "{}", relay.log());
    assert_rules(&relay, 3);
    relay.stop()?;
    Ok(())
}

/// A save in place, a save by rename as editors do it, a swap of a symbolic link as Kubernetes does
/// it, and a half-written file.
fn l6_with_watch_every_way_to_replace_the_file_is_noticed(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let folder = Folder::new(backend, "watch")?;
    let (one, two) = rules();
    fs::write(folder.path("relay.toml"), &one)?;
    let relay = folder.start(&bed, backend, &["--watch"])?;
    assert_rules(&relay, 1);
    fs::write(folder.path("relay.toml"), &two)?;
    assert_rules(&relay, 2);
    fs::write(folder.path("relay.toml.new"), &one)?;
    fs::rename(folder.path("relay.toml.new"), folder.path("relay.toml"))?;
    assert_rules(&relay, 1);
    fs::write(folder.path("relay.toml"), &two[..two.len() / 2 + 20])?;
    assert!(
        relay.wait_for_log("the rules are as before"),
        "{}",
        relay.log()
    );
    assert_rules(&relay, 1);
    for (version, text) in [("1", &two), ("2", &one)] {
        fs::create_dir(folder.path(version))?;
        fs::write(folder.path(version).join("relay.toml"), text)?;
    }
    symlink("1", folder.path("..data"))?;
    symlink("..data/relay.toml", folder.path("link"))?;
    fs::rename(folder.path("link"), folder.path("relay.toml"))?;
    assert_rules(&relay, 2);
    symlink("2", folder.path("..new"))?;
    fs::rename(folder.path("..new"), folder.path("..data"))?;
    assert_rules(&relay, 1);
    relay.stop()?;
    Ok(())
}

/// A relay without rules is a relay: what it saves is what the next one starts with.
fn a_relay_without_rules_saves_a_file_that_runs(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let folder = Folder::new(backend, "none")?;
    let (one, _) = rules();
    fs::write(folder.path("relay.toml"), &one)?;
    let relay = folder.start(&bed, backend, &[])?;
    let saved = folder.path("saved.toml").display().to_string();
    let name = Rule::feed().name;
    for arguments in [
        &["remove", &name][..],
        &["save", &saved],
        &["reload", &saved],
    ] {
        let answer = relay.verb(arguments)?;
        ensure!(answer.code == Some(0), "{arguments:?}: {answer:?}");
    }
    assert_rules(&relay, 0);
    relay.stop()?;
    fs::rename(saved, folder.path("relay.toml"))?;
    let relay = folder.start(&bed, backend, &[])?;
    fs::write(folder.path("relay.toml"), &one)?;
    let answer = relay.verb(&["reload"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    assert_rules(&relay, 1);
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    o6_sighup_reloads_the_file_and_mistakes_change_nothing,
    l6_with_watch_every_way_to_replace_the_file_is_noticed,
    a_relay_without_rules_saves_a_file_that_runs,
}
