//! Other programs on the relay's interfaces: a second relay is refused and learns which process
//! holds the interface, a user without privileges cannot take it, and a program that has joined the
//! same group is noted.

mod kernel_program;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;

use anyhow::{Context, Result};
use aya::programs::{Xdp, XdpMode};
use kernel_program::program;
use relay_common::abi;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::{
    RelayProcess, RuleFile, START_TIMEOUT, binary, finish, relay, run_arguments,
};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::{Receivers, forward_exactly, forward_exactly_by, send, streams};
use relay_tests::sys;
use relay_tests::topology::Testbed;
use relay_tests::unprivileged::{NOBODY, PublicCopy, needed_capabilities};

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
            let refused = relay(
                &bed.relay,
                &["run", "--strict", "--backend", second.name(), &path],
            );
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
        let mut command = copy.command(&bed.relay, NOBODY, needed_capabilities(second));
        command
            .args(run_arguments(second))
            .arg("--strict")
            .arg(file.path());
        let refused = finish(command)?;
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
            .arg("--strict")
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
                sys::packet_socket(index, sys::Receives::Nothing).map(drop)
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

fn another_program_that_joined_the_group_is_noted_where_it_gets_nothing(
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

/// Another program is attached where the relay's would be: its rules wait and name the process that
/// holds the place, and run once it is free. All else runs.
#[test]
fn o7_where_another_xdp_program_is_attached_the_rules_wait_and_name_its_process() -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let rules = [
        Rule::feed().outputs("out0", 1),
        Rule::new("beside", "in1", [239, 1, 8, 8], 8000).output("out1", [239, 2, 8, 8], 8001),
    ];
    let mut ebpf = relay::kernel::load()?;
    let program = program::<Xdp>(&mut ebpf, abi::PROGRAM)?;
    program.load()?;
    // In this process, and in the network namespace of the relay.
    let link = bed
        .relay
        .run(|| Ok(program.attach("in0", XdpMode::default())?))?;
    let relay = RelayProcess::start(&bed.relay, Backend::Xdp, &rules)?;
    let states = |first: &str| {
        let states = [("feed", first), ("beside", "active")];
        let states = states.map(|(rule, state)| (rule.to_owned(), state.to_owned()));
        relay.rule_states().is_ok_and(|now| now == states)
    };
    assert!(
        states("pending"),
        "{:?}: {}",
        relay.rule_states()?,
        relay.log()
    );
    let shown = relay.verb(&["status"])?.stdout;
    assert!(shown.contains("in0"), "{shown}");
    program.detach(link)?;
    let active = eventually(START_TIMEOUT, || states("active"));
    assert!(active.is_some(), "{}", relay.log());
    forward_exactly_by(relay, &bed, &rules, &streams(&rules, 200, 500))?;
    Ok(())
}

relay_tests::on_both_backends! {
    o7_a_second_relay_on_the_interface_learns_who_holds_it_and_disturbs_nothing,
    o7_a_relay_of_another_user_or_with_other_mounts_is_refused_as_well,
    o7_a_user_without_privileges_cannot_keep_the_relay_from_an_interface,
    another_program_that_joined_the_group_is_noted_where_it_gets_nothing,
}
