//! Interfaces that go down, and relays that are killed, stopped or paused.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relay_tests::flap::Flap;
use relay_tests::lab;
use relay_tests::netns::Namespace;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

use super::{IGB, MIXED, Nics};

/// Takes an interface of the relay down and up again while traffic runs. Does not check the order:
/// the frames that waited leave in one burst, which is too long for the emulated wires to keep it.
fn down_and_up(nics: Nics, bed: &Testbed, near: &Endpoint) -> Result<()> {
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(bed, &rules)?;
    let relay = lab::start(bed, &rules)?;
    let flap = Flap {
        rate: 500,
        warm_up: 200,
        // Frames that waited for the NIC come first; from here on every datagram arrives.
        settled: Duration::from_millis(500),
        after: Duration::from_millis(1000),
    };
    let flapped = flap.run(bed, &receivers, near)?;
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    stopped.report.assert_balanced();
    for (_, tally) in receivers.tallies() {
        flapped.assert_only_the_gap_is_missing(&tally);
        assert_eq!(tally.unique, tally.received, "{tally}");
    }
    Ok(())
}

pub fn x1_after_the_input_was_down_forwarding_resumes_within_a_second(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    down_and_up(nics, &bed, &bed.inputs[0])
}

pub fn x1_after_the_output_was_down_forwarding_resumes_within_a_second(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    down_and_up(nics, &bed, &bed.outputs[0])
}

pub fn x3_after_kill_9_the_interface_is_clean_and_a_new_start_works_at_once(
    nics: Nics,
) -> Result<()> {
    let bed = nics.testbed(1)?;
    let rules = [Rule::feed().outputs("out0", 4)];
    let stream = Stream::new(0, 200, 1000);
    for _ in 0..3 {
        let receivers = Receivers::start(&bed, &rules)?;
        let relay = lab::start(&bed, &rules)?;
        lab::send(&bed, &rules[0], &stream, &receivers)?;
        receivers.assert_exact(&[stream]);
        relay.kill()?;
        for near in bed.inputs.iter().chain(&bed.outputs) {
            assert!(!near.has_xdp_program()?, "no XDP program stays");
        }
    }
    nics.forward(&bed, &rules[0], 500, 1000)?;
    Ok(())
}

/// For `rounds` rounds does `disturb` to every interface of the relay, which takes away its
/// carrier, and then forwards some datagrams. Fails unless all of them are exact, and no chunk is
/// missing at the end.
fn exact_after_each(
    nics: Nics,
    rounds: u64,
    disturb: impl Fn(&Namespace, &str) -> Result<()>,
) -> Result<()> {
    let bed = nics.testbed(1)?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = lab::start(&bed, &rules)?;
    let mut stream = Stream::new(0, 50, 500);
    for round in 0..rounds {
        for near in [&bed.inputs[0], &bed.outputs[0]] {
            disturb(&bed.relay, &near.interface)?;
        }
        lab::wait_for_carriers(&bed)?;
        stream.first = round * stream.count;
        lab::send(&bed, &rules[0], &stream, &receivers)?;
        receivers.wait_until_each(|_, tally| tally.received >= stream.first + stream.count);
    }
    let total = rounds * stream.count;
    receivers.assert_exact(&[Stream::new(0, total, 500)]);
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    stopped.report.assert_exact(&[total]);
    Ok(())
}

fn down_and_up_at_once(host: &Namespace, interface: &str) -> Result<()> {
    host.ip(&format!("link set {interface} down"))?;
    host.ip(&format!("link set {interface} up"))?;
    Ok(())
}

pub fn after_ten_link_flaps_no_chunk_is_missing_and_the_traffic_is_exact(nics: Nics) -> Result<()> {
    exact_after_each(nics, 5, down_and_up_at_once)
}

#[test]
fn after_a_hundred_link_flaps_no_chunk_is_missing_and_the_traffic_is_exact() -> Result<()> {
    exact_after_each(MIXED, 50, down_and_up_at_once)
}

/// `ethtool -r` makes igb reset the NIC with its queues and their sockets in place.
#[test]
fn after_the_driver_reset_the_nic_no_chunk_is_missing_and_the_traffic_is_exact() -> Result<()> {
    exact_after_each(IGB, 10, |host, interface| {
        host.tool("ethtool", &["-r", interface]).map(drop)
    })
}

/// SIGSTOP stops the relay until all chunks in its FILL ring are used up, 8192 for a queue, and the
/// NIC has none for a frame. The relay accounts for all frames that arrived meanwhile, and then the
/// feed is complete again.
pub fn a_relay_that_was_paused_goes_on_and_accounts_for_everything(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = lab::start(&bed, &rules)?;
    let part = |first, count| Stream::new(0, count, 100).starting_at(first);
    let (before, meanwhile, after) = (part(0, 200), part(200, 12_000), part(12_200, 500));
    lab::send(&bed, &rules[0], &before, &receivers)?;
    receivers.wait_until_each(|_, tally| tally.received >= before.count);

    let process = Pid::from_raw(relay.id().try_into()?);
    kill(process, Signal::SIGSTOP)?;
    let traffic = Traffic::new(GROUP_IN, PORT_IN, meanwhile);
    let sent = UdpSender::open(&bed.sources[0]).and_then(|sender| sender.send(&traffic, 6000));
    kill(process, Signal::SIGCONT)?;
    sent?;
    receivers.settle();
    lab::send(&bed, &rules[0], &after, &receivers)?;
    receivers.settle();

    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    stopped.report.assert_balanced();
    for (_, tally) in receivers.tallies() {
        assert_eq!(tally.missing(&before), [0; 0], "before: {tally}");
        assert_eq!(tally.missing(&after), [0; 0], "after: {tally}");
        assert_eq!((tally.duplicates, tally.mismatched), (0, 0), "{tally}");
    }
    Ok(())
}

#[test]
fn after_a_hundred_starts_and_stops_no_chunk_and_no_datagram_is_missing() -> Result<()> {
    let bed = MIXED.testbed(1)?;
    let rule = Rule::feed().outputs("out0", 2);
    for _ in 0..100 {
        MIXED.forward(&bed, &rule, 20, 500)?;
    }
    Ok(())
}
