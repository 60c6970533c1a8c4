//! Matching and rewriting: which frames a rule takes and which it leaves to the stack, and the
//! headers of its copies on the wire.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;

use anyhow::{Context, Result};
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, ethernet, ethertype, ipv4, ipv6};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::encapsulation::{CUSTOMER, Encapsulation, ipv6_of};
use relay_tests::frames::{self, UdpFrame};
use relay_tests::inspect::UdpChecksum;
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::{Stream, Tally};
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 2);
const OTHER_PORT: u16 = 5002;
/// Fields of an ICMP echo message (RFC 792).
const ICMP_TYPE: usize = 0;
const ICMP_ID: Range<usize> = 4..6;

/// Both versions of IP, for what is beside the rules of both.
const VERSIONS: [Encapsulation; 2] = [Encapsulation::Ipv4, Encapsulation::Ipv6];

fn f7_datagrams_that_match_no_rule_reach_the_local_stack(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().ipv6().build()?;
    let rules = VERSIONS.map(|version| Rule::feed().outputs("out0", 2).over(version));
    // A program on the relay's own host that receives another group, and another port of the same
    // group; and one that receives the group and port of the rule.
    let listen = |version: Encapsulation, flow: u32| {
        [
            Listen::new(version.input(OTHER_GROUP), PORT_IN, 10 + flow),
            Listen::new(version.input(GROUP_IN), OTHER_PORT, 20 + flow),
        ]
    };
    let [four, six] = VERSIONS;
    let beside = [listen(four, 0), listen(six, 1)].concat();
    let local = UdpReceiver::start(&bed.inputs[0], &beside)?;
    let rivals = [0, 1].map(|flow| Listen::new(rules[flow].group, PORT_IN, flow as u32));
    let rivals = UdpReceiver::start(&bed.inputs[0], &rivals)?;
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let stream = |flow| Stream::new(flow, 1000, 900);
    let mut traffic: Vec<Traffic> = beside
        .iter()
        .map(|to| Traffic::new(to.group, to.port, stream(to.flow)))
        .collect();
    let of_rules = (0..).zip(&rules);
    traffic.extend(of_rules.map(|(flow, rule)| Traffic::new(rule.group, PORT_IN, stream(flow))));
    UdpSender::open(&bed.sources[0])?.send_interleaved(
        &traffic,
        10_000,
        64,
        &Window::unlimited(),
    )?;
    local.assert_all_exact(&stream(0), ARRIVAL);
    receivers.assert_exact(&[stream(0), stream(1)]);
    match backend {
        Backend::Xdp => rivals.tallies().iter().for_each(Tally::assert_nothing),
        // A packet socket takes a copy; the frame itself goes on.
        Backend::IoUring => rivals.assert_all_exact(&stream(0), ARRIVAL),
    }
    let report = relay.stop()?.report;
    report.assert_exact(&[1000; 2]);
    assert_eq!(report.filter("in0", "pass_no_rule"), 4000, "{report:#?}");
    Ok(())
}

/// A frame beside the rules: what it is, the counter that it counts under, and its bytes.
type Bystander = (&'static str, &'static str, Vec<u8>);

fn bystanders_v4(source: &Endpoint, near: &Endpoint) -> Result<Vec<Bystander>> {
    let datagram = |n: u64| UdpFrame::new(source, GROUP_IN, PORT_IN, payload(0, n, 256));
    let with_options = UdpFrame {
        options: vec![1, 1, 1, 0],
        ..datagram(0)
    };
    let first_fragment = UdpFrame {
        fragment: (0, true),
        ..datagram(1)
    };
    let later_fragment = UdpFrame {
        fragment: (33, false),
        ..datagram(2)
    };
    Ok(vec![
        (
            "ARP request",
            "pass_not_ip",
            frames::arp_request(source, near),
        ),
        (
            "ICMP echo",
            "pass_not_udp",
            frames::icmp_echo(source, near, 5, b"are you there")?,
        ),
        (
            "IGMP report",
            "pass_ip_options",
            frames::igmp_report(source, GROUP_IN)?,
        ),
        ("TCP", "pass_not_udp", frames::tcp_syn(source, near, 9)?),
        ("IP options", "pass_ip_options", with_options.build()?),
        ("first fragment", "pass_fragment", first_fragment.build()?),
        ("later fragment", "pass_fragment", later_fragment.build()?),
    ])
}

fn bystanders_v6(source: &Endpoint, near: &Endpoint) -> Result<Vec<Bystander>> {
    let group = ipv6_of(GROUP_IN);
    let datagram = |n: u64| UdpFrame::new(source, group, PORT_IN, payload(0, n, 256)).build();
    let with_extension = |n, kind, rest| -> Result<Vec<u8>> {
        let mut frame = datagram(n)?;
        frames::with_extension(&mut frame, kind, rest);
        Ok(frame)
    };
    let mut to_the_host =
        UdpFrame::new(source, near.address_for(group.into()), 9, vec![7; 30]).build()?;
    to_the_host[ethernet::field::DESTINATION].copy_from_slice(&near.mac);
    let padding = [1, 4, 0, 0, 0, 0];
    let extension = "pass_ipv6_extension";
    Ok(vec![
        (
            "neighbour solicitation",
            "pass_not_udp",
            frames::neighbour_solicitation(source, near)?,
        ),
        (
            "ICMPv6 echo",
            "pass_not_udp",
            frames::icmpv6_echo(source, near, 5, b"are you there")?,
        ),
        ("MLD report", extension, frames::mld_report(source, group)?),
        ("TCP", "pass_not_udp", frames::tcp_syn6(source, near, 9)?),
        ("UDP to the host", "pass_not_multicast", to_the_host),
        (
            "hop-by-hop options",
            extension,
            with_extension(0, 0, padding)?,
        ),
        (
            "destination options",
            extension,
            with_extension(1, 60, padding)?,
        ),
        ("routing header", extension, with_extension(2, 43, [0; 6])?),
        // Offset in units of 8 bytes above three bits, of which the last says that more follow.
        (
            "first fragment",
            "pass_fragment",
            with_extension(3, 44, [0, 1, 0, 0, 0, 9])?,
        ),
        (
            "later fragment",
            "pass_fragment",
            with_extension(4, 44, [1, 8, 0, 0, 0, 9])?,
        ),
    ])
}

/// What a host needs beside its feeds, and what only looks like them.
fn f7_other_frames_reach_the_local_stack_untouched(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().ipv6().build()?;
    let rules = VERSIONS.map(|version| Rule::feed().outputs("out0", 2).over(version));
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let local = RawReceiver::start(&bed.inputs[0])?;
    let out = RawReceiver::start(&bed.receivers[0])?;
    let (source, near) = (&bed.sources[0], &bed.inputs[0]);
    let cases = [bystanders_v4(source, near)?, bystanders_v6(source, near)?].concat();
    let sender = RawSender::open(source)?;
    for (_, _, frame) in &cases {
        sender.send(frame)?;
    }
    for (what, _, frame) in &cases {
        assert!(
            local.wait_for(1, ARRIVAL, |f| f.bytes == *frame),
            "{what} arrives untouched"
        );
    }
    // The kernel keeps the tag beside the frame, so these frames are recognised by their tags.
    for (version, id) in VERSIONS.into_iter().zip([9, 10]) {
        let group = version.input(GROUP_IN);
        let mut frame = UdpFrame::new(source, group, PORT_IN, payload(0, 9, 256));
        frame.tags = vec![(CUSTOMER, id)];
        sender.send(&frame.build()?)?;
        let arrives = local.wait_for(1, ARRIVAL, |f| f.vlan == Some(id));
        assert!(arrives, "a tagged frame arrives: {version:?}");
    }
    out.settle();
    assert_eq!(out.datagrams(), [], "nothing of this leaves");
    let report = relay.stop()?.report;
    report.assert_exact(&[0; 2]);
    for (what, counter, _) in &cases {
        let sent = cases.iter().filter(|case| case.1 == *counter).count() as u64;
        let counted = report.filter("in0", counter);
        assert!(
            counted >= sent,
            "{what}: {counter} {counted} of {sent}: {report:#?}"
        );
    }
    let tagged = report.filter("in0", "pass_vlan");
    assert_eq!(tagged, 2, "the tagged frames: {report:#?}");
    Ok(())
}

fn f7_the_relays_host_answers_arp_ping_and_tcp_on_its_input_interface(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().ipv6().build()?;
    let rules = VERSIONS.map(|version| Rule::feed().outputs("out0", 1).over(version));
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let answers = RawReceiver::start(&bed.sources[0])?;
    let (source, near) = (&bed.sources[0], &bed.inputs[0]);
    let sender = RawSender::open(source)?;
    sender.send(&frames::icmp_echo(source, near, 77, b"are you there")?)?;
    sender.send(&frames::icmpv6_echo(source, near, 78, b"are you there")?)?;
    // Echo replies with the same identifiers (RFC 792, RFC 4443). In front of the second the host
    // asks for the sender's MAC, and in front of both it may not know it.
    let reply = |frame: &[u8]| -> Option<(u8, u8)> {
        let (link, ip) = frame.split_at_checked(ETHERNET_LEN)?;
        let [.., a, b] = *link else { return None };
        let (header_len, protocol) = match u16::from_be_bytes([a, b]) {
            ethertype::IPV4 => (IPV4_LEN, ip.get(ipv4::field::PROTOCOL)?),
            ethertype::IPV6 => (IPV6_LEN, ip.get(ipv6::field::NEXT_HEADER)?),
            _ => return None,
        };
        let icmp = ip.get(header_len..)?;
        let is_reply = [(1, 0), (58, 129)].contains(&(*protocol, *icmp.get(ICMP_TYPE)?));
        let [0, id] = *icmp.get(ICMP_ID)? else {
            return None;
        };
        is_reply.then_some((*protocol, id))
    };
    for expected in [(1, 77), (58, 78)] {
        let is_answered = answers.wait_for(1, ARRIVAL, |f| reply(&f.bytes) == Some(expected));
        assert!(is_answered, "{expected:?}: {:?}", answers.frames());
    }
    for version in VERSIONS {
        let address = (near.address_for(version.input(GROUP_IN)), 7777);
        let listener = bed
            .relay
            .run(|| TcpListener::bind(address).context("listening"))?;
        let mut client = source.namespace.run(|| {
            // There may be no entry in the neighbour table, so the connection needs ARP or
            // neighbour discovery too.
            TcpStream::connect_timeout(&address.into(), ARRIVAL).context("connecting")
        })?;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"hello")?;
        let mut heard = [0; 5];
        server.read_exact(&mut heard)?;
        assert_eq!(&heard, b"hello");
    }
    relay.stop()?;
    Ok(())
}

fn m1_only_the_exact_group_port_and_interface_leave(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().inputs(2).build()?;
    bed.outputs[0].set_checksum_offload(false)?; // frames, not GSO packets
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let stream = |flow| Stream::new(flow, 500, 300);
    let traffic = [
        Traffic::new(GROUP_IN, OTHER_PORT, stream(1)),
        Traffic::new(OTHER_GROUP, PORT_IN, stream(2)),
        Traffic::new(GROUP_IN, PORT_IN, stream(0)),
        // The same Ethernet group address as GROUP_IN: only the IP address tells them apart.
        Traffic::new(Ipv4Addr::new(238, 129, 1, 1), PORT_IN, stream(3)),
        // The output's own destination, arriving at the input.
        Traffic::new(output_destination(0).0, output_destination(0).1, stream(4)),
    ];
    UdpSender::open(&bed.sources[0])?.send_interleaved(
        &traffic,
        10_000,
        64,
        &Window::unlimited(),
    )?;
    let elsewhere = [Traffic::new(GROUP_IN, PORT_IN, stream(5))];
    UdpSender::open(&bed.sources[1])?.send_interleaved(
        &elsewhere,
        10_000,
        64,
        &Window::unlimited(),
    )?;
    receivers.assert_exact(&[stream(0)]);
    let udp = wire.datagrams();
    assert_eq!(udp.len(), 1000, "nothing but the copies is on the wire");
    relay.stop()?.report.assert_exact(&[500]);
    Ok(())
}

fn m1_rules_for_neighbouring_groups_and_ports_go_their_own_ways(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).build()?;
    let inputs = [
        (GROUP_IN, PORT_IN),
        (GROUP_IN, OTHER_PORT),
        (OTHER_GROUP, PORT_IN),
    ];
    let rules: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(n, &(group, port))| {
            let (out_group, out_port) = output_destination(n);
            Rule::new(format!("feed-{n}"), "in0", group, port).output(
                ["out0", "out1"][n % 2],
                out_group,
                out_port,
            )
        })
        .collect();
    relay_tests::scenario::forward_exactly(&bed, backend, &rules, 1000, 500)?;
    Ok(())
}

fn m5_ttl_is_64_or_less_a_fixed_value_or_one_less_than_it_came(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed()
        .outputs("out0", 1)
        .outputs("out0", 1)
        .ttl("8")
        .outputs("out0", 1)
        .ttl("\"decrement\"")];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let sender = RawSender::open(&bed.sources[0])?;
    let ttls = [1u8, 2, 33, 64, 255];
    for (n, ttl) in ttls.iter().enumerate() {
        let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, n as u64, 64));
        frame.ttl = *ttl;
        sender.send(&frame.build()?)?;
    }
    wire.wait_for(13, ARRIVAL, |_| true);
    wire.settle();
    let seen = wire.datagrams();
    let of = |output: usize| -> Vec<u8> {
        let (_, port) = output_destination(output);
        seen.iter()
            .filter(|d| d.port == port)
            .map(|d| d.ttl)
            .collect()
    };
    assert_eq!(of(0), [64, 64, 63, 64], "what came with 33 does not leave");
    assert_eq!(of(1), [8; 5]);
    assert_eq!(of(2), [1, 32, 63, 254], "what came with 1 does not leave");
    assert!(
        seen.iter()
            .all(|d| d.checksum == UdpChecksum::Valid && d.ip_checksum_valid)
    );
    let report = relay.stop()?.report;
    report.assert_balanced();
    assert_eq!(report.dropped_for("ttl_expired"), 2, "{report:#?}");
    assert_eq!(report.dropped_total(), 2, "{report:#?}");
    Ok(())
}

/// The line shows what is wrong with a feed: one number for each reason.
fn the_line_of_the_log_has_a_reason_for_every_frame_that_no_rule_took(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let source = &bed.sources[0];
    let good = UdpFrame::new(source, GROUP_IN, PORT_IN, payload(0, 0, 100));
    let cases = [
        ("received 7 (", 7, good.clone()),
        (
            "vlan 5",
            5,
            UdpFrame {
                tags: vec![(0x8100, 9)],
                ..good.clone()
            },
        ),
        (
            "no_rule 3",
            3,
            UdpFrame {
                port: PORT_IN + 1,
                ..good.clone()
            },
        ),
        (
            "fragment 6",
            6,
            UdpFrame {
                fragment: (0, true),
                ..good.clone()
            },
        ),
        (
            "own_frame 2",
            2,
            UdpFrame {
                source: bed.outputs[0].address.into(),
                ..good.clone()
            },
        ),
    ];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let sender = RawSender::open(source)?;
    for (_, times, frame) in &cases {
        let bytes = frame.build()?;
        (0..*times).try_for_each(|_| sender.send(&bytes))?;
    }
    let whole = |line: &str| {
        let mut words = cases.iter().map(|(words, _, _)| *words);
        words.all(|words| line.contains(words))
            && ["matched 7 (", "sent 14 (", "dropped 0 (", "; passed "]
                .iter()
                .all(|words| line.contains(words))
    };
    let told = eventually(ARRIVAL, || relay.log().lines().any(whole));
    assert!(told.is_some(), "{}", relay.log());
    // Then nothing changes any more, and the log says that too.
    let silence = " s; in all received 7, matched 7, sent 14, dropped 0; passed ";
    assert!(relay.wait_for_log(silence), "{}", relay.log());
    relay.stop()?.report.assert_exact(&[7]);
    Ok(())
}

relay_tests::on_both_backends! {
    f7_datagrams_that_match_no_rule_reach_the_local_stack,
    f7_other_frames_reach_the_local_stack_untouched,
    f7_the_relays_host_answers_arp_ping_and_tcp_on_its_input_interface,
    m1_only_the_exact_group_port_and_interface_leave,
    m1_rules_for_neighbouring_groups_and_ports_go_their_own_ways,
    m5_ttl_is_64_or_less_a_fixed_value_or_one_less_than_it_came,
    the_line_of_the_log_has_a_reason_for_every_frame_that_no_rule_took,
}
