//! Matching and rewriting: which frames a rule takes and which it leaves to the stack, and the
//! headers of its copies on the wire.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;

use anyhow::{Context, Result};
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, ethernet, ethertype, ipv4, ipv6};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::frames::{self, UdpFrame};
use relay_tests::inspect::{Membership, UdpChecksum, memberships};
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::{Stream, Tally};
use relay_tests::topology::Testbed;

const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 2);
const OTHER_PORT: u16 = 5002;
/// Fields of an ICMP echo message (RFC 792).
const ICMP_TYPE: usize = 0;
const ICMP_ID: Range<usize> = 4..6;

fn f7_datagrams_that_match_no_rule_reach_the_local_stack(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    // A program on the relay's own host that receives another group, and another port of the same
    // group; and one that receives the group and port of the rule.
    let listen = [
        Listen::new(OTHER_GROUP, PORT_IN, 7),
        Listen::new(GROUP_IN, OTHER_PORT, 8),
    ];
    let local = UdpReceiver::start(&bed.inputs[0], &listen)?;
    let rival = UdpReceiver::start(&bed.inputs[0], &[Listen::new(GROUP_IN, PORT_IN, 0)])?;
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let traffic = [
        Traffic::new(OTHER_GROUP, PORT_IN, Stream::new(7, 1000, 900)),
        Traffic::new(GROUP_IN, OTHER_PORT, Stream::new(8, 1000, 900)),
        Traffic::new(GROUP_IN, PORT_IN, Stream::new(0, 1000, 900)),
    ];
    UdpSender::open(&bed.sources[0])?.send_interleaved(
        &traffic,
        10_000,
        64,
        &Window::unlimited(),
    )?;
    local.assert_all_exact(&Stream::new(0, 1000, 900), ARRIVAL);
    receivers.assert_exact(&[Stream::new(0, 1000, 900)]);
    match backend {
        Backend::Xdp => rival.tallies().iter().for_each(Tally::assert_nothing),
        // A packet socket takes a copy; the frame itself goes on.
        Backend::IoUring => rival.assert_all_exact(&Stream::new(0, 1000, 900), ARRIVAL),
    }
    let report = relay.stop()?.report;
    report.assert_exact(&[1000]);
    assert_eq!(report.filter("in0", "pass_no_rule"), 2000, "{report:#?}");
    Ok(())
}

fn f7_arp_icmp_igmp_tcp_options_fragments_and_tags_reach_the_local_stack_untouched(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let local = RawReceiver::start(&bed.inputs[0])?;
    let out = RawReceiver::start(&bed.receivers[0])?;
    let (source, near) = (&bed.sources[0], &bed.inputs[0]);
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
    let mut options6 = datagram(3).build()?;
    options6[ethernet::field::TYPE].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    options6[ETHERNET_LEN..][ipv6::field::VERSION_CLASS_AND_LABEL].fill(0);
    options6[ETHERNET_LEN] = 0x60;
    options6[ETHERNET_LEN + ipv6::field::NEXT_HEADER] = 0;
    let cases = [
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
        ("IPv6 options", "pass_ipv6_extension", options6),
    ];
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
    // The kernel keeps the tag beside the frame, so this frame is recognised by its tag.
    sender.send(
        &UdpFrame {
            vlan: Some(9),
            ..datagram(4)
        }
        .build()?,
    )?;
    assert!(
        local.wait_for(1, ARRIVAL, |f| f.vlan == Some(9)),
        "a tagged frame arrives"
    );
    out.settle();
    assert_eq!(out.datagrams(), [], "nothing of this leaves");
    let report = relay.stop()?.report;
    report.assert_exact(&[0]);
    for (what, counter, _) in &cases {
        let sent = cases.iter().filter(|case| case.1 == *counter).count() as u64;
        let counted = report.filter("in0", counter);
        assert!(
            counted >= sent,
            "{what}: {counter} {counted} of {sent}: {report:#?}"
        );
    }
    assert!(
        report.filter("in0", "pass_vlan") >= 1,
        "the tagged frame: {report:#?}"
    );
    Ok(())
}

fn f7_the_relays_host_answers_arp_ping_and_tcp_on_its_input_interface(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    let relay = RelayProcess::start(&bed.relay, backend, &[Rule::feed().outputs("out0", 1)])?;
    let answers = RawReceiver::start(&bed.sources[0])?;
    let ping = frames::icmp_echo(&bed.sources[0], &bed.inputs[0], 77, b"are you there")?;
    RawSender::open(&bed.sources[0])?.send(&ping)?;
    // An echo reply with the same identifier (RFC 792).
    const PROTOCOL_ICMP: u8 = 1;
    const ECHO_REPLY: u8 = 0;
    let reply = |frame: &[u8]| {
        let (_, ip) = frame.split_at_checked(ETHERNET_LEN)?;
        let (ip, icmp) = ip.split_at_checked(IPV4_LEN)?;
        let is_icmp = ip[ipv4::field::PROTOCOL] == PROTOCOL_ICMP;
        Some(is_icmp && *icmp.get(ICMP_TYPE)? == ECHO_REPLY && icmp.get(ICMP_ID)? == [0, 77])
    };
    assert!(
        answers.wait_for(1, ARRIVAL, |f| reply(&f.bytes) == Some(true)),
        "the ping is answered"
    );

    let address = (bed.inputs[0].address, 7777);
    let listener = bed
        .relay
        .run(|| TcpListener::bind(address).context("listening"))?;
    let mut client = bed.sources[0].namespace.run(|| {
        // There is no entry in the neighbour table, so the connection needs ARP too.
        TcpStream::connect_timeout(&address.into(), ARRIVAL).context("connecting")
    })?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"hello")?;
    let mut heard = [0; 5];
    server.read_exact(&mut heard)?;
    assert_eq!(&heard, b"hello");
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

fn m8_every_input_group_is_joined_on_the_wire_and_left_at_exit(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().inputs(2).build()?;
    // More than the 20 groups that the kernel allows one socket.
    let group = |n: usize| Ipv4Addr::new(239, 7, 0, n as u8 + 1);
    let rules: Vec<_> = (0..60)
        .map(|n| {
            let (out_group, out_port) = output_destination(n);
            Rule::new(
                format!("feed-{n}"),
                &format!("in{}", n % 2),
                group(n),
                PORT_IN,
            )
            .output("out0", out_group, out_port)
        })
        .collect();
    let wires = [
        RawReceiver::start(&bed.sources[0])?,
        RawReceiver::start(&bed.sources[1])?,
    ];
    let heard = |frames: &[relay_tests::raw::Frame]| -> BTreeSet<Membership> {
        frames.iter().flat_map(|f| memberships(&f.bytes)).collect()
    };
    let wanted = |n: usize, what: fn(IpAddr) -> Membership| -> BTreeSet<_> {
        (0..60)
            .filter(|i| i % 2 == n)
            .map(|i| what(group(i).into()))
            .collect()
    };
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    for (n, wire) in wires.iter().enumerate() {
        let joins = wanted(n, Membership::Join);
        let joined = wire.wait_until(ARRIVAL, |frames| heard(frames).is_superset(&joins));
        assert!(joined, "joins on in{n}: {:?}", heard(&wire.frames()));
        let of_others = wanted(1 - n, Membership::Join);
        assert!(
            heard(&wire.frames()).is_disjoint(&of_others),
            "in{n} joins only its own groups"
        );
        let leaves = wanted(n, Membership::Leave);
        assert!(
            heard(&wire.frames()).is_disjoint(&leaves),
            "groups are held while the relay runs"
        );
    }
    relay.stop()?;
    for (n, wire) in wires.iter().enumerate() {
        let leaves = wanted(n, Membership::Leave);
        let left = wire.wait_until(ARRIVAL, |frames| heard(frames).is_superset(&leaves));
        assert!(left, "leaves on in{n}: {:?}", heard(&wire.frames()));
    }
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
                vlan: Some(9),
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
                source: bed.outputs[0].address,
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
    f7_arp_icmp_igmp_tcp_options_fragments_and_tags_reach_the_local_stack_untouched,
    f7_the_relays_host_answers_arp_ping_and_tcp_on_its_input_interface,
    m1_only_the_exact_group_port_and_interface_leave,
    m1_rules_for_neighbouring_groups_and_ports_go_their_own_ways,
    m5_ttl_is_64_or_less_a_fixed_value_or_one_less_than_it_came,
    m8_every_input_group_is_joined_on_the_wire_and_left_at_exit,
    the_line_of_the_log_has_a_reason_for_every_frame_that_no_rule_took,
}
