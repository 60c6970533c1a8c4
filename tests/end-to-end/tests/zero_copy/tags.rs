//! VLAN tags on NICs: in the bytes of a frame, where the XDP program sees them, or taken out and
//! beside the bytes, where only a packet socket does. The senders are VLAN devices.
//!
//! On igb the two directions have one switch: an igb that takes tags out of what it receives puts
//! them into what it sends, and one that does not gets frames with tags from its driver.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::lab::{self, Nic};
use relay_tests::payload::payload;
use relay_tests::relay::{RelayProcess, RuleFile, Stopped};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Pacer, UdpSender, Window};
use relay_tests::stacked;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

use super::{IGB, VIRTIO};

/// Datagrams of each kind.
const COUNT: u64 = 100;
const SIZE: usize = 1000;
/// Datagrams per second, of all kinds together, and how many may be on their way to the receivers.
const RATE: u32 = 800;
const WINDOW: u64 = 24;

const MANAGE: &str = "[[interfaces]]\nname = \"in0\"\noffloads = \"manage\"\n";

/// What the NIC does with tags: takes them out of what it receives and puts them into what it
/// sends, or leaves both to the host.
fn set_vlan_offload(of: &Endpoint, on: bool) -> Result<()> {
    of.set_feature("rx-vlan-offload", on)?;
    let is = of.has_feature("rx-vlan-offload")?;
    ensure!(is == on, "rx-vlan-offload of {} is {is}", of.interface);
    Ok(())
}

fn takes_tags_out(bed: &Testbed) -> Result<bool> {
    bed.inputs[0].has_feature("rx-vlan-offload")
}

/// Rules for one group and port: untagged, of a VLAN, and with two tags.
fn rules() -> [Rule; 3] {
    let rule = |name: &str, number: u8, vlan: &str| {
        let group = |block: u8| Ipv4Addr::new(239, block, 200, number);
        Rule::new(name, "in0", GROUP_IN, PORT_IN)
            .takes(&format!("group = \"{GROUP_IN}\", port = {PORT_IN}{vlan}"))
            .output("out0", group(2), 6000)
            .output("out0", group(3), 6001)
    };
    [
        rule("untagged", 0, ""),
        rule("tagged", 1, ", vlan = 100"),
        rule("double", 2, ", vlan = [300, 200]"),
    ]
}

/// Sends untagged datagrams and those of three VLAN devices to one group and port, in turns. Fails
/// unless each has arrived at the outputs of its rule, once and in order, and that of a VLAN
/// without a rule nowhere. `running` looks at the relay before that.
fn each_tag_at_its_rule(
    bed: &Testbed,
    tables: &str,
    running: impl FnOnce(&RelayProcess) -> Result<()>,
) -> Result<Stopped> {
    let source = &bed.sources[0];
    let tagged = stacked::vlan(source, "802.1Q", 100)?;
    let without_rule = stacked::vlan(source, "802.1Q", 101)?;
    let double = stacked::vlan(&stacked::vlan(source, "802.1ad", 300)?, "802.1Q", 200)?;
    let rules = rules();
    let receivers = Receivers::start(bed, &rules)?;
    let relay = RelayProcess::start_unforced(&bed.relay, RuleFile::with(&rules, tables)?)?;
    lab::wait_for_carriers(bed)?;
    running(&relay)?;
    let mut senders = Vec::new();
    for (flow, from) in [(9, &without_rule), (0, source), (1, &tagged), (2, &double)] {
        senders.push((flow, UdpSender::open(from)?));
    }
    let (mut pacer, window) = (
        Pacer::new(RATE, 4),
        Window::new(WINDOW, || receivers.progress()),
    );
    for number in 0..COUNT {
        window.take(rules.len() as u64);
        for (flow, sender) in &senders {
            pacer.wait();
            sender.send_one(GROUP_IN, PORT_IN, &payload(*flow, number, SIZE))?;
        }
    }
    let streams: Vec<Stream> = (0..3).map(|flow| Stream::new(flow, COUNT, SIZE)).collect();
    receivers.assert_exact(&streams);
    let stopped = relay.stop()?;
    ensure!(stopped.status.success(), "{stopped:#?}");
    stopped.report.assert_exact(&[COUNT; 3]);
    Ok(stopped)
}

/// Fails unless in0 was on io_uring, because its NIC takes tags out.
fn assert_on_io_uring(stopped: &Stopped) -> Result<()> {
    let input = stopped.report.interface("in0")?;
    assert_eq!(input.backend, Backend::IoUring, "{input:?}");
    let why = "`ethtool -K in0 rx-vlan-offload off` leaves them in";
    assert!(input.reason.contains(why), "{input:?}");
    Ok(())
}

fn passed_of_vlans(stopped: &Stopped) -> u64 {
    stopped.report.filter("in0", "pass_vlan")
}

/// Tags beside the bytes reach the relay by the auxiliary data of packet sockets.
fn on_io_uring(input: Nic) -> Result<Stopped> {
    let bed = lab::testbed(&[input], &[Nic::Igb])?;
    set_vlan_offload(&bed.inputs[0], true)?;
    // Otherwise the NIC drops frames of VLANs that no interface above it has.
    bed.inputs[0].receive_all()?;
    let stopped = each_tag_at_its_rule(&bed, "", |_| Ok(()))?;
    assert!(passed_of_vlans(&stopped) >= COUNT, "{stopped:#?}");
    assert!(takes_tags_out(&bed)?);
    Ok(stopped)
}

#[test]
fn m3_tags_that_the_nic_takes_out_choose_the_rule_on_io_uring_igb() -> Result<()> {
    assert_on_io_uring(&on_io_uring(Nic::Igb)?)
}

/// It has no native XDP, so that it is on io_uring whatever it does with tags.
#[test]
fn m3_tags_that_the_nic_takes_out_choose_the_rule_on_io_uring_e1000e() -> Result<()> {
    let stopped = on_io_uring(Nic::E1000e)?;
    let backend = stopped.report.interface("in0")?.backend;
    assert_eq!(backend, Backend::IoUring, "{stopped:#?}");
    Ok(())
}

/// A relay whose rules name no VLAN takes no tagged frame, although it looks untagged where the NIC
/// has taken the tag out: so its input is not on XDP.
#[test]
fn m3_an_untagged_rule_takes_no_frame_whose_tag_the_nic_took_out_igb() -> Result<()> {
    let bed = IGB.testbed(1)?;
    set_vlan_offload(&bed.inputs[0], true)?;
    bed.inputs[0].receive_all()?;
    let [untagged, ..] = rules();
    let rules = [untagged];
    let tagged = stacked::vlan(&bed.sources[0], "802.1Q", 100)?;
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = lab::start(&bed, &rules)?;
    let (sender, mut pacer) = (UdpSender::open(&tagged)?, Pacer::new(RATE, 4));
    for number in 0..COUNT {
        pacer.wait();
        sender.send_one(GROUP_IN, PORT_IN, &payload(9, number, SIZE))?;
    }
    let stream = Stream::new(0, COUNT, SIZE);
    lab::send(&bed, &rules[0], &stream, &receivers)?;
    receivers.assert_exact(&[stream]);
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT]);
    assert_on_io_uring(&stopped)?;
    assert!(passed_of_vlans(&stopped) >= COUNT, "{stopped:#?}");
    Ok(())
}

#[test]
fn m3_tags_that_the_nic_leaves_in_choose_the_rule_on_xdp_igb() -> Result<()> {
    let bed = IGB.testbed(1)?;
    bed.inputs[0].receive_all()?;
    let stopped = each_tag_at_its_rule(&bed, "", |_| Ok(()))?;
    assert!(passed_of_vlans(&stopped) >= COUNT, "{stopped:#?}");
    IGB.assert_mode(&stopped)
}

/// virtio leaves tags in the bytes. Its peer on the wire is an igb, whose NIC or whose driver puts
/// them there.
fn from_a_vlan_device_to_virtio(by_the_nic: bool) -> Result<()> {
    let bed = VIRTIO.testbed(1)?;
    let source = &bed.sources[0];
    set_vlan_offload(source, by_the_nic)?;
    let is = source.has_feature("tx-vlan-offload")?;
    ensure!(is == by_the_nic, "tx-vlan-offload of {source:?} is {is}");
    bed.inputs[0].receive_all()?;
    let stopped = each_tag_at_its_rule(&bed, "", |_| Ok(()))?;
    assert!(passed_of_vlans(&stopped) >= COUNT, "{stopped:#?}");
    VIRTIO.assert_mode(&stopped)
}

#[test]
fn m3_tags_that_the_senders_nic_puts_in_choose_the_rule_on_xdp_virtio() -> Result<()> {
    from_a_vlan_device_to_virtio(true)
}

#[test]
fn m3_tags_that_the_senders_driver_puts_in_choose_the_rule_on_xdp_virtio() -> Result<()> {
    from_a_vlan_device_to_virtio(false)
}

/// The relay switches off what takes the tags out, so that XDP sees them, and gives it back.
#[test]
fn m3_tags_that_the_relay_keeps_the_nic_from_taking_out_choose_the_rule_on_xdp_igb() -> Result<()> {
    let bed = IGB.testbed(1)?;
    set_vlan_offload(&bed.inputs[0], true)?;
    bed.inputs[0].receive_all()?;
    let stopped = each_tag_at_its_rule(&bed, MANAGE, |relay| {
        let log = relay.log();
        ensure!(!takes_tags_out(&bed)?, "{log}");
        // The driver lets no one switch its VLAN filter off.
        let filter = "in0 drops frames of VLANs that no VLAN device above it has; give it one:";
        ensure!(log.contains(filter), "{log}");
        Ok(())
    })?;
    assert!(passed_of_vlans(&stopped) >= COUNT, "{stopped:#?}");
    assert!(takes_tags_out(&bed)?, "{}", stopped.log);
    IGB.assert_mode(&stopped)
}

/// What the log asks for where the NIC drops frames of unknown VLANs: a VLAN device. The relay
/// takes the frames from under it.
#[test]
fn m3_a_vlan_device_above_the_input_makes_the_nic_let_its_vlan_through_igb() -> Result<()> {
    let bed = IGB.testbed(1)?;
    set_vlan_offload(&bed.inputs[0], true)?;
    stacked::vlan(&bed.inputs[0], "802.1Q", 100)?;
    let stopped = each_tag_at_its_rule(&bed, MANAGE, |_| Ok(()))?;
    assert_eq!(passed_of_vlans(&stopped), 0, "VLAN 101 has no device");
    assert!(takes_tags_out(&bed)?, "{}", stopped.log);
    IGB.assert_mode(&stopped)
}

#[test]
fn offloads_are_given_back_after_a_kill_and_left_to_a_process_that_wants_them_igb() -> Result<()> {
    let bed = IGB.testbed(1)?;
    set_vlan_offload(&bed.inputs[0], true)?;
    let rules = rules();
    let managed = || RelayProcess::start_unforced(&bed.relay, RuleFile::with(&rules, MANAGE)?);
    managed()?.kill()?;
    assert!(!takes_tags_out(&bed)?);
    // The next relay gives it back, and is on io_uring then.
    let relay = lab::start(&bed, &rules)?;
    assert!(takes_tags_out(&bed)?, "{}", relay.log());
    assert_on_io_uring(&relay.stop()?)?;
    // Another process wants the tags out: the input moves to io_uring.
    let relay = managed()?;
    set_vlan_offload(&bed.inputs[0], true)?;
    let adapted = relay.wait_for_log("adapted to the interfaces");
    assert!(adapted, "{}", relay.log());
    let stopped = relay.stop()?;
    let input = stopped.report.interface("in0")?;
    assert_eq!(input.backend, Backend::IoUring, "{input:?}");
    let why = "another process has switched rx-vlan-hw-parse on again";
    assert!(input.reason.contains(why), "{input:?}");
    assert!(takes_tags_out(&bed)?, "{}", stopped.log);
    Ok(())
}
