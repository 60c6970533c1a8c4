//! Forwarding: a datagram that arrives for a rule leaves exactly once through each of its outputs.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use etherparse::SingleVlanHeader;
use relay_tests::backend::Backend;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::UdpFrame;
use relay_tests::inspect::is_udp;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::netns::Namespace;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination};
use relay_tests::scenario::{self, ARRIVAL, Receivers, forward_exactly, streams};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{End, connect};

/// A group for the `n`th rule.
fn input_group(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(239, 1, 2, n as u8 + 1)
}

/// The outputs of rules that run at the same time, in every encapsulation.
const FAN_OUTS: [usize; 5] = [1, 4, 16, 64, 250];

fn f1_f2_f3_copies_to_1_4_16_64_and_250_outputs_are_exact(method: Method) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let mut rules = Vec::new();
    for encapsulation in Encapsulation::ALL {
        let mut first = 0;
        for (n, outputs) in FAN_OUTS.into_iter().enumerate() {
            let rule = Rule::new(format!("to-{outputs}"), "in0", input_group(n), PORT_IN);
            let rule = rule.outputs_from("out0", first, outputs);
            rules.push(rule.over(encapsulation));
            first += outputs;
        }
    }
    method.forward_exactly(&bed, &rules, &streams(&rules, 24, 400))
}

fn f1_ten_thousand_datagrams_to_a_single_output_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    forward_exactly(
        &bed,
        backend,
        &[Rule::feed().outputs("out0", 1)],
        10_000,
        1000,
    )?;
    Ok(())
}

fn f2_one_packet_to_four_destinations_arrives_at_all_four_with_equal_payload(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    let stopped = forward_exactly(&bed, backend, &[Rule::feed().outputs("out0", 4)], 1, 700)?;
    assert_eq!(stopped.report.packets_received, 1);
    assert_eq!(stopped.report.packets_sent, 4);
    Ok(())
}

fn f3_one_input_to_two_hundred_and_fifty_outputs_is_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    forward_exactly(
        &bed,
        backend,
        &[Rule::feed().outputs("out0", 250)],
        300,
        1000,
    )?;
    Ok(())
}

fn f4_outputs_spread_over_three_interfaces_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(3).build()?;
    // Interleaved, so that neither the first nor the last output is always on the same wire.
    let rule = ["out0", "out1", "out2", "out1", "out0", "out2"]
        .iter()
        .fold(Rule::feed(), |rule, interface| rule.outputs(interface, 1));
    forward_exactly(&bed, backend, &[rule], 3000, 1000)?;
    Ok(())
}

fn f4_an_output_on_the_inputs_own_interface_is_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    forward_exactly(&bed, backend, &[Rule::feed().outputs("in0", 1)], 3000, 1000)?;
    Ok(())
}

fn f4_outputs_on_the_inputs_own_interface_and_on_another_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let rule = Rule::feed()
        .outputs("in0", 2)
        .outputs("out0", 2)
        .outputs("in0", 1);
    forward_exactly(&bed, backend, &[rule], 3000, 1000)?;
    Ok(())
}

fn f4_the_same_destination_on_two_interfaces_is_exact_on_both(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).build()?;
    let (group, port) = output_destination(0);
    let rule = Rule::feed()
        .output("out0", group, port)
        .output("out1", group, port);
    forward_exactly(&bed, backend, &[rule], 3000, 1000)?;
    Ok(())
}

fn f5_three_inputs_converging_on_one_output_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().inputs(3).build()?;
    let (group, port) = output_destination(0);
    let rules: Vec<_> = (0..3)
        .map(|n| Rule::new(format!("feed-{n}"), &format!("in{n}"), GROUP_IN, PORT_IN))
        .map(|rule| rule.output("out0", group, port))
        .collect();
    forward_exactly(&bed, backend, &rules, 3000, 1000)?;
    Ok(())
}

fn f5_a_hundred_rules_at_once_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let rules: Vec<_> = (0..100)
        .map(|n| {
            let (group, port) = output_destination(n);
            let input = format!("in{}", n % 2);
            Rule::new(format!("feed-{n}"), &input, input_group(n), PORT_IN)
                .output("out0", group, port)
                .output("out1", group, port + 1)
        })
        .collect();
    forward_exactly(&bed, backend, &rules, 150, 600)?;
    Ok(())
}

/// Outputs whose interfaces have other MTUs than the input's, in every encapsulation and for
/// payloads of all sizes at once.
fn f6_payloads_of_every_size_leave_where_they_fit_and_are_counted_too_big_elsewhere(
    method: Method,
) -> Result<()> {
    const COUNT: u64 = 24;
    // The other end of a veth takes no more on XDP.
    let jumbo = match method.backend {
        Backend::Xdp => 3400,
        Backend::IoUring => 9000,
    };
    // IPv6 needs 1280.
    let mtus = [jumbo, 1500, 1300];
    let mut builder = Testbed::builder().ipv6().input_mtu(0, jumbo).outputs(3);
    for (output, mtu) in mtus.into_iter().enumerate() {
        builder = builder.output_mtu(output, mtu);
    }
    let bed = builder.without_capture().build()?;
    let (mut rules, mut streams, mut most) = (Vec::new(), Vec::new(), Vec::new());
    for encapsulation in Encapsulation::ALL {
        let limits = mtus.map(|mtu| encapsulation.most_payload(mtu as usize));
        let [jumbo, usual, small] = limits;
        // A packet socket sends a tag of 802.1Q above the MTU, and none of 802.1ad.
        let jumbo = match encapsulation.tags() {
            [_, _] => jumbo - 2 * SingleVlanHeader::LEN,
            _ => jumbo,
        };
        let sizes = [0, 1, 18, 46, 64, small, small + 1, usual, usual + 1, jumbo];
        for (n, size) in sizes.into_iter().enumerate() {
            let (group, port) = output_destination(n);
            let rule = Rule::new(format!("size-{size}"), "in0", input_group(n), PORT_IN);
            // At every position: the outputs that get a copy, and the last one, which on a TX ring
            // is sent in place.
            let rule = (0..3).fold(rule, |rule, output| {
                rule.output(&format!("out{}", (output + n) % 3), group, port)
            });
            streams.push(Stream::new(rules.len() as u32, COUNT, size));
            rules.push(rule.over(encapsulation));
            most.push(limits);
        }
    }
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = method.start(&bed, &rules)?;
    for (rule, stream) in rules.iter().zip(&streams) {
        // In two bursts, whose datagrams may leave in GSO packets.
        let source = method.source_of(&bed.sources[0], rule)?;
        for first in [0, COUNT / 2] {
            let part = Stream {
                count: COUNT / 2,
                ..stream.starting_at(first)
            };
            source.send_in_one_burst(&part, &relay)?;
        }
    }
    // Wire by wire, and there one tally for each rule.
    let fits = |tally: usize| {
        let (output, rule) = (tally / rules.len(), tally % rules.len());
        streams[rule].size <= most[rule][output]
    };
    receivers.wait_until_each(|tally, found| !fits(tally) || found.received >= COUNT);
    receivers.settle();
    let stopped = relay.stop()?;
    for (number, (rule, tally)) in receivers.tallies().iter().enumerate() {
        match fits(number) {
            true => tally.assert_exact(&streams[*rule]),
            false => tally.assert_nothing(),
        }
    }
    receivers.assert_headers();
    let report = &stopped.report;
    report.assert_balanced();
    for (rule, (found, limits)) in report.rules.iter().zip(&most).enumerate() {
        for output in &found.outputs {
            let at: usize = output.interface.trim_start_matches("out").parse()?;
            let dropped = match streams[rule].size > limits[at] {
                true => COUNT,
                false => 0,
            };
            let too_big = output.dropped.get("too_big").copied().unwrap_or(0);
            assert_eq!(too_big, dropped, "rule {}: {output:?}", found.name);
            assert_eq!(output.packets_sent, COUNT - dropped, "{output:?}");
        }
    }
    assert_eq!(
        report.dropped_total(),
        report.dropped_for("too_big"),
        "{report:#?}"
    );
    method.assert_used(report, &rules)
}

fn f6_ethernet_padding_behind_a_small_datagram_does_not_leave(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    bed.outputs[0].set_checksum_offload(false)?; // frames, not GSO packets
    let rules = [Rule::feed().outputs("out0", 3)];
    let receivers = Receivers::start(&bed, &rules)?;
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let sender = RawSender::open(&bed.sources[0])?;
    for sequence in 0..200 {
        // 4 bytes of payload make a frame of 46 bytes; a physical wire carries at least 60.
        let frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, sequence, 4));
        let mut bytes = frame.build()?;
        bytes.resize(60, 0xaa);
        sender.send(&bytes)?;
    }
    receivers.assert_exact(&[Stream::new(0, 200, 4)]);
    let frames = wire.frames();
    let udp: Vec<_> = frames.iter().filter(|frame| is_udp(&frame.bytes)).collect();
    assert_eq!(udp.len(), 600);
    assert!(
        udp.iter().all(|f| f.bytes.len() == 46),
        "the padding itself does not leave"
    );
    relay.stop()?.report.assert_exact(&[200]);
    Ok(())
}

fn f8_seventy_five_thousand_datagrams_have_the_same_hash_at_the_receiver(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    // The verdict compares the hash over all payloads in order with the sender's.
    forward_exactly(&bed, backend, &rules, 75_000, 1000)?;
    Ok(())
}

/// Senders that hand many datagrams to the kernel at once, and outputs that take many at once.
fn f10_m11_gso_senders_and_gso_outputs_keep_the_boundaries_of_datagrams(
    method: Method,
) -> Result<()> {
    const COUNT: u64 = 960;
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let rules = Encapsulation::ALL.map(|one| Rule::feed().outputs("out0", 2).over(one));
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = method.start(&bed, &rules)?;
    let mut streams = Vec::new();
    for (flow, (rule, size)) in (0..).zip(rules.iter().zip([1000, 999, 1001, 1000])) {
        let before = receivers.progress();
        let window = Window::new(256, || receivers.progress() - before);
        let sender = UdpSender::open_tagged(&bed.sources[0], &rule.tags, 0)?;
        let stream = Stream::new(flow, COUNT, size);
        let traffic = Traffic::new(rule.group, rule.port, stream);
        // The last part is shorter.
        sender.send_segmented(&traffic, 17, 10_000, &window)?;
        streams.push(stream);
    }
    receivers.assert_exact(&streams);
    let gso_packets = receivers.assert_headers();
    let takes_them = method.tx == TxMethod::Whole
        // Here it is up to the senders, which do not take turns.
        || method == (Method { backend: Backend::Xdp, tx: TxMethod::Frames });
    assert_eq!(gso_packets > 0, takes_them, "{gso_packets} GSO packets");
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT; 4]);
    method.assert_used(&stopped.report, &rules)
}

fn f11_two_relays_in_a_row_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let far = Arc::new(Namespace::new("far")?);
    let end = |namespace: &Arc<Namespace>, interface: &str, last: u8| End {
        namespace: Arc::clone(namespace),
        interface: interface.to_owned(),
        mac: [0x02, 0, 10, 3, 0, last],
        address: Some(Ipv4Addr::new(10, 3, 0, last)),
        ipv6: false,
        mtu: 1500,
        queues: 1,
    };
    let second_host = &bed.receivers[0].namespace;
    let (_, last) = connect(end(second_host, "next", 1), end(&far, "far", 2))?;

    let (middle_group, middle_port) = output_destination(0);
    let first_rules = [Rule::feed().outputs("out0", 2)];
    let second_rules = [Rule::new("hop", "rcv0", middle_group, middle_port).outputs("next", 4)];
    let first = RelayProcess::start(&bed.relay, backend, &first_rules)?;
    let second = RelayProcess::start(second_host, backend, &second_rules)?;
    let listen: Vec<_> = second_rules[0]
        .outputs
        .iter()
        .map(|o| Listen::new(o.group, o.port, 0))
        .collect();
    let receiver = UdpReceiver::start(&last, &listen)?;

    let stream = [Stream::new(0, 5000, 1000)];
    let progress = || {
        receiver
            .tallies()
            .iter()
            .map(|tally| tally.received)
            .min()
            .unwrap_or(0)
    };
    scenario::send(&bed, &[Rule::feed().outputs("out0", 6)], &stream, progress)?;
    receiver.assert_all_exact(&stream[0], ARRIVAL);
    first.stop()?.report.assert_exact(&[5000]);
    second.stop()?.report.assert_exact(&[5000]);
    Ok(())
}

/// Where GSO packets shall leave whole they do, and by no other TX method: what tests say of a
/// method is about that method. Only `shared` cannot be told from `ring` on a wire.
fn f10_copies_leave_as_the_method_says(method: Method) -> Result<()> {
    const COUNT: u64 = 60;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let relay = method.start(&bed, &rules)?;
    let stream = Stream::new(0, COUNT, 500);
    method
        .source(&bed.sources[0])?
        .send_in_one_burst(&stream, &relay)?;
    let count = |frames: &[Frame]| -> usize {
        let datagrams = frames.iter().map(|frame| frame.datagrams().len());
        datagrams.sum()
    };
    let arrived = wire.wait_until(ARRIVAL, |frames| count(frames) == COUNT as usize);
    let frames = wire.frames();
    assert!(arrived, "{} arrived", count(&frames));
    let whole = frames.iter().any(|frame| frame.segment.is_some());
    assert_eq!(whole, method.tx == TxMethod::Whole, "{method:?}");
    let report = relay.stop()?.report;
    report.assert_exact(&[COUNT]);
    method.assert_used(&report, &rules)
}

mod by_method {
    use super::{
        f1_f2_f3_copies_to_1_4_16_64_and_250_outputs_are_exact,
        f6_payloads_of_every_size_leave_where_they_fit_and_are_counted_too_big_elsewhere,
        f10_copies_leave_as_the_method_says,
        f10_m11_gso_senders_and_gso_outputs_keep_the_boundaries_of_datagrams,
    };

    relay_tests::on_all_methods! {
        f1_f2_f3_copies_to_1_4_16_64_and_250_outputs_are_exact,
        f6_payloads_of_every_size_leave_where_they_fit_and_are_counted_too_big_elsewhere,
        f10_copies_leave_as_the_method_says,
        f10_m11_gso_senders_and_gso_outputs_keep_the_boundaries_of_datagrams,
    }
}

relay_tests::on_both_backends! {
    f1_ten_thousand_datagrams_to_a_single_output_are_exact,
    f2_one_packet_to_four_destinations_arrives_at_all_four_with_equal_payload,
    f3_one_input_to_two_hundred_and_fifty_outputs_is_exact,
    f4_outputs_spread_over_three_interfaces_are_exact,
    f4_an_output_on_the_inputs_own_interface_is_exact,
    f4_outputs_on_the_inputs_own_interface_and_on_another_are_exact,
    f4_the_same_destination_on_two_interfaces_is_exact_on_both,
    f5_three_inputs_converging_on_one_output_are_exact,
    f5_a_hundred_rules_at_once_are_exact,
    f6_ethernet_padding_behind_a_small_datagram_does_not_leave,
    f8_seventy_five_thousand_datagrams_have_the_same_hash_at_the_receiver,
    f11_two_relays_in_a_row_are_exact,
}
