//! Inputs that are an address of the relay's host: datagrams to it leave by multicast, the kernel
//! does not answer them, and everything else that is sent to the host reaches it as before.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::encapsulation::{Encapsulation, ipv6_of};
use relay_tests::methods::Method;
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::unicast::{HOST, PORT, datagram_to_the_host, icmp_errors, to_the_host};
use relay_tests::veth::Endpoint;

use super::rounds::send_in_rounds;
use super::under_traffic;

const SIZE: usize = 700;
/// How long the relay may take to act on what changes.
const SOON: Duration = Duration::from_secs(5);

/// Datagrams to the host arrive at the groups, once and in order, with all headers right; in every
/// encapsulation at the same time. The kernel answers none of them.
fn m6_unicast_becomes_multicast(method: Method) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let rules = Encapsulation::ALL.map(|one| to_the_host("unicast").over(one));
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let source = &bed.sources[0];
    let answers = RawReceiver::start(source)?;
    let relay = method.start(&bed, &rules)?;
    let frame = |flow: usize, payload| datagram_to_the_host(&bed, &rules[flow], payload);
    let sent = send_in_rounds(method, source, &relay, &receivers, rules.len(), frame)?;
    assert_eq!(icmp_errors(&answers), 0, "the host answers what is relayed");
    let stopped = relay.stop()?;
    stopped
        .report
        .assert_exact(&[sent; Encapsulation::ALL.len()]);
    method.assert_used(&stopped.report, &rules)
}

/// A socket of a program of the host.
fn program(at: &Endpoint, address: IpAddr, port: u16) -> Result<UdpSocket> {
    at.namespace.run(|| {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })
}

/// How many datagrams a socket has received, until nothing has arrived for a while.
fn received(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 2048];
    let mut count = 0;
    while socket.recv(&mut buffer).is_ok() {
        count += 1;
    }
    count
}

/// An echo request of `source` to the address of `host` of the version of IP of `to`.
fn echo_request(source: &Endpoint, host: &Endpoint, to: IpAddr) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(source.mac, host.mac);
    match (source.address_for(to), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_echo_request(7, 1)
            .write(&mut frame, b"echo")?,
        (IpAddr::V6(from), IpAddr::V6(to)) => link
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_echo_request(7, 1)
            .write(&mut frame, b"echo")?,
        _ => anyhow::bail!("two versions of IP"),
    }
    Ok(frame)
}

fn is_echo_reply(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&1) && frame.get(34) == Some(&0),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&58) && frame.get(54) == Some(&129),
        _ => false,
    }
}

/// From ordinary sockets, which find the host by ARP and neighbour discovery: what the rule names
/// is relayed, and all else is the host's.
fn m6_the_host_keeps_what_no_rule_names(backend: Backend) -> Result<()> {
    const COUNT: u64 = 50;
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let (source, input) = (&bed.sources[0], &bed.inputs[0]);
    let rules =
        [Encapsulation::Ipv4, Encapsulation::Ipv6].map(|one| to_the_host("unicast").over(one));
    let receivers = Receivers::start(&bed, &rules)?;
    let answers = RawReceiver::start(source)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let hosts: [IpAddr; 2] = [HOST.into(), ipv6_of(HOST).into()];
    let programs = hosts.map(|host| program(input, host, PORT + 1));
    source.namespace.ip("neighbour flush all")?;
    bed.relay.ip("neighbour flush all")?;
    let raw = RawSender::open(source)?;
    for (flow, host) in (0_u32..).zip(hosts) {
        let sender = program(source, source.address_for(host), 0)?;
        for number in 0..COUNT {
            let bytes = payload(flow, number, SIZE);
            sender.send_to(&bytes, (host, PORT))?;
            sender.send_to(&bytes, (host, PORT + 1))?;
            std::thread::sleep(Duration::from_millis(1));
        }
        raw.send(&echo_request(source, input, host)?)?;
    }
    let streams = [0, 1].map(|flow| Stream::new(flow, COUNT, SIZE));
    receivers.assert_exact(&streams);
    for program in &programs {
        let program = program
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        assert_eq!(received(program), COUNT, "a program on another port");
    }
    answers.settle();
    let frames = answers.frames();
    let replies = frames.iter().filter(|frame| is_echo_reply(&frame.bytes));
    assert_eq!(replies.count(), 2, "echo replies over IPv4 and IPv6");
    assert_eq!(icmp_errors(&answers), 0, "the host answers what is relayed");
    // To a port that neither a rule nor a program has, it still answers.
    for host in hosts {
        let sender = program(source, source.address_for(host), 0)?;
        sender.send_to(b"nobody", (host, PORT + 2))?;
    }
    let answered = eventually(SOON, || icmp_errors(&answers) == 2);
    assert!(answered.is_some(), "{} ICMP errors", icmp_errors(&answers));
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT; 2]);
    let passed = stopped.report.filter("in0", "pass_not_multicast");
    assert_eq!(passed, 2 * COUNT + 2, "{}", stopped.log);
    Ok(())
}

/// A program that listens on the rule's own port gets all that the kernel gives it: with `local`,
/// and on io_uring in any case.
fn m6_a_program_on_the_same_port_gets_them_as_well(backend: Backend) -> Result<()> {
    const COUNT: u64 = 50;
    for is_local in [true, false] {
        let bed = Testbed::builder().without_capture().build()?;
        let source = &bed.sources[0];
        let keys = format!("address = \"10.1.0.1\", port = {PORT}, local = {is_local}");
        let rules = [to_the_host("unicast").takes(&keys)];
        let receivers = Receivers::start(&bed, &rules)?;
        let listening = program(&bed.inputs[0], HOST.into(), PORT)?;
        let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
        let sender = program(source, source.address.into(), 0)?;
        for number in 0..COUNT {
            sender.send_to(&payload(0, number, SIZE), (IpAddr::from(HOST), PORT))?;
            std::thread::sleep(Duration::from_millis(1));
        }
        receivers.assert_exact(&[Stream::new(0, COUNT, SIZE)]);
        let gets_all = is_local || backend == Backend::IoUring;
        let expected = if gets_all { COUNT } else { 0 };
        assert_eq!(received(&listening), expected, "local = {is_local}");
        // Once the program has ended, the relay holds the port, if anybody must.
        drop(listening);
        if !is_local && backend == Backend::IoUring {
            let is_held = || program(&bed.inputs[0], HOST.into(), PORT).is_err();
            assert!(eventually(SOON, is_held).is_some(), "the port is free");
        }
        relay.stop()?.report.assert_exact(&[COUNT]);
    }
    Ok(())
}

/// The feed that nothing disturbs, on the same interface.
fn steady() -> Rule {
    Rule::feed().outputs("out0", 2)
}

/// Fails unless every output of `rule` gets `count` datagrams that are sent to it now.
fn assert_relays(bed: &Testbed, rule: &Rule, count: u64) -> Result<()> {
    let receivers = Receivers::start(bed, std::slice::from_ref(rule))?;
    let source = &bed.sources[0];
    let sender = RawSender::open(source)?;
    for number in 0..count {
        let frame = datagram_to_the_host(bed, rule, payload(0, number, SIZE));
        sender.send(&frame.build()?)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    receivers.assert_exact(&[Stream::new(0, count, SIZE)]);
    Ok(())
}

/// Runs the relay with `rules`, of which the first is [`steady`], and fails unless that one loses
/// nothing while `work` runs.
fn steady_beside(
    backend: Backend,
    rules: &[Rule],
    work: impl FnOnce(&Testbed, &RelayProcess) -> Result<()>,
) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let mine = [steady()];
    let receivers = Receivers::start(&bed, &mine)?;
    let relay = RelayProcess::start(&bed.relay, backend, rules)?;
    let traffic = || work(&bed, &relay);
    let (sent, ()) = under_traffic(&bed.sources[0], &steady(), 0, 2_000, traffic)?;
    receivers.wait_for(&[sent]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&Stream::new(0, sent, 500));
    }
    let stopped = relay.stop()?;
    let matched = stopped.report.rules.iter().find(|rule| rule.name == "feed");
    let matched = matched
        .context("the rule is in the report")?
        .packets_matched;
    assert_eq!(matched, sent, "{}", stopped.log);
    Ok(())
}

fn o1_unicast_rules_come_and_go_and_the_other_loses_nothing(backend: Backend) -> Result<()> {
    let versions =
        [Encapsulation::Ipv4, Encapsulation::Ipv6].map(|one| to_the_host("unicast").over(one));
    steady_beside(backend, &[steady()], |bed, relay| {
        let host: IpAddr = HOST.into();
        for round in 0..3 {
            let rules = [&[steady()], &versions[..]].concat();
            let answer = relay.reload(&to_toml(&rules))?;
            ensure!(answer.code == Some(0), "reload {round}: {answer:?}");
            for version in &versions {
                assert_relays(bed, version, 20)?;
            }
            let answer = relay.reload(&to_toml(&[steady()]))?;
            ensure!(answer.code == Some(0), "reload {round}: {answer:?}");
            // The port is free again, and a program gets what is sent to it.
            let listening = program(&bed.inputs[0], host, PORT)?;
            let source = &bed.sources[0];
            program(source, source.address.into(), 0)?.send_to(b"to the host", (host, PORT))?;
            assert_eq!(received(&listening), 1, "round {round}");
        }
        Ok(())
    })
}

fn m6_a_rule_waits_while_no_interface_has_its_address(backend: Backend) -> Result<()> {
    let versions =
        [Encapsulation::Ipv4, Encapsulation::Ipv6].map(|one| to_the_host("unicast").over(one));
    let rules = [&[steady()], &versions[..]].concat();
    steady_beside(backend, &rules, |bed, relay| {
        let (ipv4, ipv6) = (IpAddr::from(HOST), IpAddr::from(ipv6_of(HOST)));
        let state = |wanted: [&str; 2]| {
            let is = || {
                let states = relay.rule_states().unwrap_or_default();
                let states: Vec<&str> = states.iter().map(|(_, state)| state.as_str()).collect();
                states == [&["active"], &wanted[..]].concat()
            };
            let came = eventually(SOON, is);
            let (states, log) = (relay.rule_states(), relay.log());
            assert!(came.is_some(), "{wanted:?}: {states:?}\n{log}");
        };
        state(["active", "active"]);
        for round in 0..3 {
            // IPv6 first: the source of the steady rule's outputs is that of another interface.
            bed.relay.ip(&format!("address delete {ipv6}/64 dev in0"))?;
            state(["active", "pending"]);
            bed.relay.ip(&format!("address delete {ipv4}/24 dev in0"))?;
            state(["pending", "pending"]);
            // Wherever it is, it is an address of this host.
            let device = if round == 1 { "out0" } else { "in0" };
            bed.relay
                .ip(&format!("address add {ipv4}/24 dev {device}"))?;
            state(["active", "pending"]);
            assert_relays(bed, &versions[0], 20)?;
            if device != "in0" {
                bed.relay
                    .ip(&format!("address delete {ipv4}/24 dev {device}"))?;
                bed.relay.ip(&format!("address add {ipv4}/24 dev in0"))?;
                state(["active", "pending"]);
            }
            bed.relay
                .ip(&format!("address add {ipv6}/64 dev in0 nodad"))?;
            state(["active", "active"]);
            assert_relays(bed, &versions[1], 20)?;
        }
        Ok(())
    })
}

relay_tests::on_all_methods!(m6_unicast_becomes_multicast);

mod host {
    relay_tests::on_both_backends! {
        m6_the_host_keeps_what_no_rule_names,
        m6_a_program_on_the_same_port_gets_them_as_well,
        o1_unicast_rules_come_and_go_and_the_other_loses_nothing,
        m6_a_rule_waits_while_no_interface_has_its_address,
    }

    use super::{
        m6_a_program_on_the_same_port_gets_them_as_well,
        m6_a_rule_waits_while_no_interface_has_its_address, m6_the_host_keeps_what_no_rule_names,
        o1_unicast_rules_come_and_go_and_the_other_loses_nothing,
    };
}
