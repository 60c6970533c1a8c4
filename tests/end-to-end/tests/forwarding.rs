//! Forwarding: a datagram that arrives for a rule leaves exactly once through each of its outputs.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::frames::UdpFrame;
use relay_tests::inspect::is_udp;
use relay_tests::netns::Namespace;
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination};
use relay_tests::scenario::{self, ARRIVAL, Receivers, forward_exactly, forward_streams_exactly};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{End, connect};

/// A group for the `n`th rule.
fn input_group(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(239, 1, 2, n as u8 + 1)
}

fn f1_a_hundred_datagrams_to_one_output_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    forward_exactly(&bed, backend, &[Rule::feed().outputs("out0", 1)], 100, 1000)?;
    Ok(())
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

fn f2_one_input_to_four_outputs_is_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let stopped = forward_exactly(
        &bed,
        backend,
        &[Rule::feed().outputs("out0", 4)],
        5000,
        1000,
    )?;
    assert_eq!(stopped.report.packets_received, 5000);
    assert_eq!(stopped.report.packets_sent, 20_000);
    Ok(())
}

fn f3_one_input_to_sixteen_outputs_is_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    forward_exactly(
        &bed,
        backend,
        &[Rule::feed().outputs("out0", 16)],
        3000,
        1000,
    )?;
    Ok(())
}

fn f3_one_input_to_sixty_four_outputs_is_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    forward_exactly(
        &bed,
        backend,
        &[Rule::feed().outputs("out0", 64)],
        1000,
        1000,
    )?;
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

fn f6_payloads_of_every_size_up_to_the_mtu_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let sizes = [0, 1, 18, 46, 64, 1472];
    let rules: Vec<_> = (0..sizes.len())
        .map(|n| {
            let (group, port) = output_destination(n);
            Rule::new(format!("size-{}", sizes[n]), "in0", input_group(n), PORT_IN)
                .output("out0", group, port)
                .output("out0", group, port + 100)
        })
        .collect();
    let streams: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(n, &size)| Stream::new(n as u32, 500, size))
        .collect();
    forward_streams_exactly(&bed, backend, &rules, &streams)?;
    Ok(())
}

fn f6_a_datagram_larger_than_one_outputs_mtu_is_dropped_there_and_leaves_by_the_others(
    backend: Backend,
) -> Result<()> {
    // At every position: the outputs that get a copy and the last one, which is sent in place.
    for position in 0..3 {
        let bed = Testbed::builder()
            .outputs(3)
            .output_mtu(position, 1000)
            .build()?;
        let rules = [Rule::feed()
            .outputs("out0", 1)
            .outputs("out1", 1)
            .outputs("out2", 1)];
        let receivers = Receivers::start(&bed, &rules)?;
        let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
        let sender = UdpSender::open(&bed.sources[0])?;
        // 972 bytes are the largest payload that fits 1000; 973 the smallest that does not.
        let mut bytes_small = 0;
        for sequence in 0..400 {
            let size = if sequence % 2 == 0 { 972 } else { 973 };
            bytes_small += if sequence % 2 == 0 { 972 } else { 0 };
            sender.send_one(GROUP_IN, PORT_IN, &payload(0, sequence, size))?;
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let reached = |output: usize| if output == position { 200 } else { 400 };
        receivers.wait_until_each(|output, tally| tally.received >= reached(output));
        receivers.settle();
        let stopped = relay.stop()?;
        for (output, (_, tally)) in receivers.tallies().iter().enumerate() {
            let by_relay = &stopped.report.rules[0].outputs[output];
            assert_eq!(tally.unique, reached(output), "output {output}: {tally}");
            assert_eq!(tally.received, tally.unique, "output {output}: {tally}");
            assert_eq!(
                by_relay.packets_sent, tally.received,
                "output {output}: {by_relay:?}"
            );
            if output == position {
                assert_eq!(tally.bytes, bytes_small, "only the small ones: {tally}");
                assert_eq!(by_relay.dropped.get("too_big"), Some(&200), "{by_relay:?}");
            }
        }
        assert_eq!(stopped.report.dropped_total(), 200, "{:?}", stopped.report);
        assert_eq!(
            stopped.report.dropped_for("too_big"),
            200,
            "{:?}",
            stopped.report
        );
        stopped.report.assert_balanced();
    }
    Ok(())
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

fn f10_datagrams_sent_with_segmentation_offload_arrive_with_their_boundaries(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let stream = Stream::new(0, 8000, 1000);
    let window = Window::new(256, || receivers.progress());
    let sender = UdpSender::open(&bed.sources[0])?;
    sender.send_segmented(
        &Traffic::new(GROUP_IN, PORT_IN, stream),
        16,
        10_000,
        &window,
    )?;
    receivers.assert_exact(&[stream]);
    relay.stop()?.report.assert_exact(&[8000]);
    Ok(())
}

fn f11_two_relays_in_a_row_are_exact(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let far = Arc::new(Namespace::new("far")?);
    let end = |namespace: &Arc<Namespace>, interface: &str, last: u8| End {
        namespace: Arc::clone(namespace),
        interface: interface.to_owned(),
        mac: [0x02, 0, 10, 3, 0, last],
        address: Some(Ipv4Addr::new(10, 3, 0, last)),
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

relay_tests::on_both_backends! {
    f1_a_hundred_datagrams_to_one_output_are_exact,
    f1_ten_thousand_datagrams_to_a_single_output_are_exact,
    f2_one_packet_to_four_destinations_arrives_at_all_four_with_equal_payload,
    f2_one_input_to_four_outputs_is_exact,
    f3_one_input_to_sixteen_outputs_is_exact,
    f3_one_input_to_sixty_four_outputs_is_exact,
    f3_one_input_to_two_hundred_and_fifty_outputs_is_exact,
    f4_outputs_spread_over_three_interfaces_are_exact,
    f4_an_output_on_the_inputs_own_interface_is_exact,
    f4_outputs_on_the_inputs_own_interface_and_on_another_are_exact,
    f4_the_same_destination_on_two_interfaces_is_exact_on_both,
    f5_three_inputs_converging_on_one_output_are_exact,
    f5_a_hundred_rules_at_once_are_exact,
    f6_payloads_of_every_size_up_to_the_mtu_are_exact,
    f6_a_datagram_larger_than_one_outputs_mtu_is_dropped_there_and_leaves_by_the_others,
    f6_ethernet_padding_behind_a_small_datagram_does_not_leave,
    f8_seventy_five_thousand_datagrams_have_the_same_hash_at_the_receiver,
    f10_datagrams_sent_with_segmentation_offload_arrive_with_their_boundaries,
    f11_two_relays_in_a_row_are_exact,
}
