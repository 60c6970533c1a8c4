//! One chunk that two NICs transmit, and chunks for frames that are not relayed.
//!
//! Two relays take part here: the one that users run, and one that overwrites every chunk that
//! becomes free (the feature `poison-chunks`). A NIC in zero copy reads a chunk late, so if the
//! relay frees it too early, the NIC transmits damaged bytes.

use std::time::Duration;

use anyhow::{Result, ensure};
use relay_tests::background::eventually;
use relay_tests::inspect::is_udp;
use relay_tests::lab;
use relay_tests::payload::payload;
use relay_tests::raw::RawReceiver;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::{RelayProcess, RuleFile, poisoned};
use relay_tests::rules::{Rule, output_destination};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::{Stream, Tally};
use relay_tests::topology::Testbed;
use relay_tests::veth::format_mac;

use super::Nics;

/// A testbed whose two output interfaces have the same MAC and the same address, and a rule with
/// the same destination on both: the frames are the same to the byte, so both NICs transmit them
/// from one chunk.
fn identical_outputs(nics: Nics) -> Result<(Testbed, Rule)> {
    let bed = nics.testbed(2)?;
    let [first, second] = &bed.outputs[..] else {
        anyhow::bail!("two outputs: {:?}", bed.outputs);
    };
    let (name, mac) = (&second.interface, format_mac(first.mac));
    for change in [
        format!("link set {name} down"),
        format!("link set {name} address {mac}"),
        format!("address del {}/24 dev {name}", second.address),
        format!("address add {}/24 dev {name}", first.address),
        format!("link set {name} up"),
    ] {
        bed.relay.ip(&change)?;
    }
    lab::wait_for_carriers(&bed)?;
    let (group, port) = output_destination(0);
    let rule = Rule::feed()
        .output("out0", group, port)
        .output("out1", group, port);
    Ok((bed, rule))
}

pub fn identical_outputs_on_two_nics_are_exact_on_both(nics: Nics) -> Result<()> {
    let (bed, rule) = identical_outputs(nics)?;
    let wires = [
        RawReceiver::start(&bed.receivers[0])?,
        RawReceiver::start(&bed.receivers[1])?,
    ];
    nics.forward(&bed, &rule, 3000, 1000)?;
    let datagrams = wires.map(|wire| {
        let mut frames: Vec<_> = wire.frames().into_iter().map(|frame| frame.bytes).collect();
        frames.retain(|bytes| is_udp(bytes) && bytes.len() > 1000);
        frames
    });
    assert_eq!(datagrams[0].len(), 3000);
    assert!(
        datagrams[0] == datagrams[1],
        "the frames on both wires are the same"
    );
    Ok(())
}

/// Starts the relay that overwrites free chunks. With `wrong` it frees a chunk too early, after the
/// first of its transmissions.
fn start_poisoned(bed: &Testbed, file: &RuleFile, wrong: bool) -> Result<RelayProcess> {
    let mut command = bed.relay.command(poisoned()?);
    command.args(["run", "--json"]).arg(file.path());
    if wrong {
        command.env("RELAY_FREE_EARLY", "1");
    }
    let relay = RelayProcess::start_command(command)?;
    lab::wait_for_carriers(bed)?;
    Ok(relay)
}

/// Datagrams whose frames wait for a NIC. They leave in one burst, and the emulated wires keep the
/// order of short bursts only.
const WAITING: u64 = 60;

/// What became of the datagrams that were sent while one NIC was down.
struct Waited {
    /// How many arrived undamaged through the NIC that was up, and through the one that was down.
    intact: [u64; 2],
    /// How many the device that was down refused when it came up. None in zero copy, where frames
    /// wait while the NIC has no carrier.
    refused: u64,
}

/// Sends datagrams while one output is down: their frames wait in its TX ring while the other
/// output transmits them. Sends more when it is up again. Unless the relay is wrong on purpose,
/// fails if those or the relay's account are not exact.
fn through_a_nic_that_waits(nics: Nics, wrong: bool) -> Result<Waited> {
    let (bed, rule) = identical_outputs(nics)?;
    let rules = [rule];
    let receivers = Receivers::start(&bed, &rules)?;
    let file = RuleFile::of(&rules)?;
    let relay = start_poisoned(&bed, &file, wrong)?;
    let waits = &bed.outputs[1].interface;
    bed.relay.ip(&format!("link set {waits} down"))?;
    let stream = Stream::new(0, WAITING, 1000);
    let traffic = Traffic::new(rules[0].group, rules[0].port, stream);
    UdpSender::open(&bed.sources[0])?.send(&traffic, 1000)?;
    receivers.wait_until_each(|output, tally| output == 1 || tally.received >= WAITING);
    bed.relay.ip(&format!("link set {waits} up"))?;
    lab::wait_for_carriers(&bed)?;
    receivers.settle();
    let more = Stream::new(0, 1000, 1000).starting_at(WAITING);
    if !wrong {
        lab::send(&bed, &rules[0], &more, &receivers)?;
        receivers.settle();
    }
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    let report = &stopped.report;
    let tallies: Vec<Tally> = receivers.tallies().into_iter().map(|(_, t)| t).collect();
    if !wrong {
        report.assert_balanced();
        for (tally, output) in tallies.iter().zip(&report.rules[0].outputs) {
            assert_eq!(tally.missing(&more), [0; 0], "{tally}");
            assert_eq!(tally.received, output.packets_sent, "{tally}, {output:?}");
            assert_eq!((tally.unique, tally.out_of_order), (tally.received, 0));
        }
    }
    let [first, second] = &tallies[..] else {
        anyhow::bail!("two outputs: {tallies:?}");
    };
    let intact = |tally: &Tally| WAITING - tally.missing(&stream).len() as u64;
    Ok(Waited {
        intact: [intact(first), intact(second)],
        refused: report.dropped_for("device_refused"),
    })
}

pub fn no_chunk_is_overwritten_before_the_slower_nic_has_read_it(nics: Nics) -> Result<()> {
    let Waited { intact, refused } = through_a_nic_that_waits(nics, false)?;
    assert_eq!(intact, [WAITING, WAITING - refused]);
    assert!(refused == 0 || nics.mode()? == "copy", "{refused}");
    Ok(())
}

/// Shows that the test above can fail, and that both NICs transmit one chunk.
pub fn a_chunk_freed_too_early_would_be_noticed(nics: Nics) -> Result<()> {
    let Waited { intact, refused } = through_a_nic_that_waits(nics, true)?;
    let [first, second] = intact;
    assert_eq!(
        first, WAITING,
        "the NIC that is up transmits before the chunk is overwritten"
    );
    let arrived = second + refused;
    assert!(arrived < WAITING || nics.mode()? == "copy", "{arrived}");
    Ok(())
}

/// A bound queue receives into chunks of the UMEM only, so an output has some too, for traffic to
/// its host.
pub fn an_output_still_receives_what_is_for_the_host(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = lab::start(&bed, &rules)?;
    let (group, port) = ([239, 77, 77, 77], 7777);
    let sender = UdpSender::open(&bed.receivers[0])?;
    // virtio-net tells its NIC later which groups the host has joined (`virtnet_rx_mode_work`).
    let first = UdpReceiver::start(&bed.outputs[0], &[Listen::new(group, port + 1, 8)])?;
    let arrives = eventually(ARRIVAL, || {
        let sent = sender.send_one(group, port + 1, &payload(8, 0, 200));
        let wait = Duration::from_millis(20);
        sent.is_ok() && first.wait_until(wait, |tallies| tallies[0].received > 0)
    });
    ensure!(arrives.is_some(), "{}", relay.log());
    let host = UdpReceiver::start(&bed.outputs[0], &[Listen::new(group, port, 7)])?;
    // More datagrams than chunks in the FILL ring, so all of them must come back.
    let stream = Stream::new(7, 5000, 200);
    let progress = || host.tallies().iter().map(|tally| tally.received).sum();
    let window = Window::new(128, progress);
    let traffic = Traffic::new(group, port, stream);
    sender.send_interleaved(&[traffic], 6000, 64, &window)?;
    host.assert_all_exact(&stream, ARRIVAL);
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    stopped.report.assert_exact(&[0]);
    Ok(())
}
