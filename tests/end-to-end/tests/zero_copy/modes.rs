//! Which mode and backend the relay chooses, and what it says about them.

use std::fs;

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::frames::UdpFrame;
use relay_tests::lab::{self, Nic};
use relay_tests::payload::payload;
use relay_tests::raw::RawSender;
use relay_tests::relay::{RelayProcess, RuleFile, relay};
use relay_tests::rules::Rule;
use relay_tests::scenario::Receivers;
use relay_tests::sender::Pacer;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

use super::{Nics, forward};

/// The plan for `rule`, as text and as JSON.
fn plan(bed: &Testbed, rule: &Rule) -> Result<(String, serde_json::Value)> {
    let file = RuleFile::of(std::slice::from_ref(rule))?;
    let path = file.path().display().to_string();
    let text = relay(&bed.relay, &["plan", &path])?;
    let json = relay(&bed.relay, &["plan", "--json", &path])?;
    assert_eq!(
        (text.code, json.code),
        (Some(0), Some(0)),
        "{text:?}, {json:?}"
    );
    let json = serde_json::from_str(&json.stdout).context("reading the plan")?;
    Ok((text.stdout, json))
}

pub fn the_plan_expects_the_mode_that_the_drivers_have(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    let (text, json) = plan(&bed, &Rule::feed().outputs("out0", 1))?;
    let mode = nics.mode()?;
    let (named, said) = ("driver igb", mode.replace('-', " "));
    let named = if nics.input == Nic::Igb {
        named
    } else {
        "driver virtio_net"
    };
    assert!(text.contains(named) && text.contains(&said), "{text}");
    for interface in json["interfaces"].as_array().context("interfaces")? {
        assert_eq!(interface["expected_mode"], mode, "{json:#}");
        assert_eq!(interface["backend"], "xdp", "{json:#}");
    }
    Ok(())
}

#[test]
fn e1000e_has_no_native_xdp_and_takes_io_uring_by_itself_exact() -> Result<()> {
    let bed = lab::testbed(&[Nic::E1000e], &[Nic::Igb])?;
    let stopped = forward(&bed, &Rule::feed().outputs("out0", 4), 1000, 1000)?;
    for interface in &stopped.report.interfaces {
        assert_eq!(interface.backend, Backend::IoUring, "{stopped:#?}");
        let because = "in0 (driver e1000e) has no native XDP";
        assert!(interface.reason.contains(because), "{interface:?}");
    }
    Ok(())
}

/// An igb that takes the tag out of a received frame passes it on beside the bytes, where an XDP
/// program cannot see it.
#[test]
fn an_input_that_takes_tags_out_is_on_io_uring_and_relays_no_tagged_frame_igb() -> Result<()> {
    const TAGGED: u64 = 50;
    let bed = lab::testbed(&[Nic::Igb], &[Nic::Igb])?;
    bed.relay
        .tool("ethtool", &["-K", "in0", "rx-vlan-offload", "on"])?;
    // Without this the NIC drops frames of VLANs that no interface above it has.
    bed.relay
        .tool("ip", &["link", "set", "in0", "promisc", "on"])?;
    let rule = Rule::feed().outputs("out0", 2);
    let rules = std::slice::from_ref(&rule);
    let receivers = Receivers::start(&bed, rules)?;
    let relay = lab::start(&bed, rules)?;
    let source = bed.sources.first().context("a source")?;
    let tagged = UdpFrame {
        tags: vec![(0x8100, 20)],
        ..UdpFrame::new(source, rule.group, rule.port, payload(9, 0, 100))
    };
    let (sender, frame) = (RawSender::open(source)?, tagged.build()?);
    for _ in 0..TAGGED {
        sender.send(&frame)?;
    }
    let stream = Stream::new(0, 100, 1000);
    lab::send(&bed, &rule, &stream, &receivers)?;
    receivers.assert_exact(&[stream]);
    let report = relay.stop()?.report;
    report.assert_exact(&[100]);
    let input = report.interface("in0")?;
    assert_eq!(input.backend, Backend::IoUring, "{input:?}");
    let why = "`ethtool -K in0 rx-vlan-offload off` leaves them in";
    assert!(input.reason.contains(why), "{input:?}");
    assert!(report.filter("in0", "pass_vlan") >= TAGGED, "{report:#?}");
    bed.relay
        .tool("ip", &["link", "set", "in0", "promisc", "off"])?;
    Ok(())
}

/// Whether in0 takes VLAN tags out of frames, as `ethtool -k` says.
fn strips_tags(bed: &Testbed) -> Result<bool> {
    let features = bed.relay.tool("ethtool", &["-k", "in0"])?;
    Ok(features.contains("rx-vlan-offload: on"))
}

/// The relay switches off what takes the tags out, so that XDP sees them, and gives it back.
#[test]
fn an_input_whose_offloads_the_relay_manages_is_on_xdp_and_its_tags_choose_the_rule_igb()
-> Result<()> {
    const EACH: u64 = 100;
    const MANAGE: &str = "[[interfaces]]\nname = \"in0\"\noffloads = \"manage\"\n";
    let bed = lab::testbed(&[Nic::Igb], &[Nic::Igb])?;
    bed.relay
        .tool("ethtool", &["-K", "in0", "rx-vlan-offload", "on"])?;
    // The driver lets no one switch its VLAN filter off.
    bed.relay
        .tool("ip", &["link", "set", "in0", "promisc", "on"])?;
    let feed = Rule::feed().outputs("out0", 2);
    let tagged = Rule::new("tagged", "in0", feed.group, feed.port)
        .takes("group = \"239.1.1.1\", port = 5001, vlan = 20")
        .output("out0", [239, 2, 200, 1], 6000);
    let rules = [feed, tagged];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start_unforced(&bed.relay, RuleFile::with(&rules, MANAGE)?)?;
    lab::wait_for_carriers(&bed)?;
    let log = relay.log();
    assert!(!strips_tags(&bed)?, "{log}");
    let filter = "in0 drops frames of VLANs that no VLAN device above it has; give it one:";
    assert!(log.contains(filter), "{log}");
    let source = bed.sources.first().context("a source")?;
    let (sender, mut pacer) = (RawSender::open(source)?, Pacer::new(1000, 4));
    for number in 0..EACH {
        for (flow, tags) in [
            (0, vec![]),
            (1, vec![(0x8100, 20)]),
            (9, vec![(0x8100, 21)]),
        ] {
            let bytes = payload(flow, number, 1000);
            let frame = UdpFrame {
                tags,
                ..UdpFrame::new(source, rules[0].group, rules[0].port, bytes)
            };
            pacer.wait();
            sender.send(&frame.build()?)?;
        }
    }
    receivers.assert_exact(&[Stream::new(0, EACH, 1000), Stream::new(1, EACH, 1000)]);
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[EACH; 2]);
    let input = stopped.report.interface("in0")?;
    assert_eq!(input.backend, Backend::Xdp, "{input:?}");
    assert!(
        stopped.report.filter("in0", "pass_vlan") >= EACH,
        "{stopped:#?}"
    );
    assert!(strips_tags(&bed)?, "{}", stopped.log);
    // Killed: the next relay gives it back, and is on io_uring then.
    RelayProcess::start_unforced(&bed.relay, RuleFile::with(&rules, MANAGE)?)?.kill()?;
    assert!(!strips_tags(&bed)?);
    let relay = lab::start(&bed, &rules)?;
    assert!(strips_tags(&bed)?, "{}", relay.log());
    let stopped = relay.stop()?;
    let input = stopped.report.interface("in0")?;
    assert_eq!(input.backend, Backend::IoUring, "{input:?}");
    // Another process wants the tags out: the input moves to io_uring.
    let relay = RelayProcess::start_unforced(&bed.relay, RuleFile::with(&rules, MANAGE)?)?;
    bed.relay
        .tool("ethtool", &["-K", "in0", "rx-vlan-offload", "on"])?;
    assert!(
        relay.wait_for_log("adapted to the interfaces"),
        "{}",
        relay.log()
    );
    let stopped = relay.stop()?;
    let input = stopped.report.interface("in0")?;
    assert_eq!(input.backend, Backend::IoUring, "{input:?}");
    let why = "another process has switched rx-vlan-hw-parse on again";
    assert!(input.reason.contains(why), "{input:?}");
    assert!(strips_tags(&bed)?, "{}", stopped.log);
    bed.relay
        .tool("ip", &["link", "set", "in0", "promisc", "off"])?;
    Ok(())
}

/// A feed from `input` to an output like it, and to one that has no zero copy: that one sends by a
/// TX socket, and the others stay in zero copy.
fn beside_an_output_without_zero_copy(input: Nic, other: Nic) -> Result<()> {
    let bed = lab::testbed(&[input], &[input, other])?;
    let rule = Rule::feed().outputs("out0", 2).outputs("out1", 2);
    let stopped = forward(&bed, &rule, 1000, 1000)?;
    let expected = if input.does_zero_copy()? {
        [
            ("in0", Some("zero-copy"), None),
            ("out0", Some("zero-copy"), Some("xsk")),
            ("out1", None, Some("frames")),
        ]
    } else {
        // Then all of them are in copy mode.
        [
            ("in0", Some("copy"), None),
            ("out0", Some("copy"), Some("xsk")),
            ("out1", Some("copy"), Some("xsk")),
        ]
    };
    for (name, mode, method) in expected {
        let interface = stopped.report.interface(name)?;
        assert_eq!(interface.backend, Backend::Xdp, "{interface:?}");
        assert_eq!(interface.mode.as_deref(), mode, "{interface:?}");
        assert_eq!(interface.tx_method.as_deref(), method, "{interface:?}");
    }
    Ok(())
}

#[test]
fn virtio_without_the_dma_api_copies_and_says_what_the_kernel_said_exact() -> Result<()> {
    let bed = lab::testbed(&[Nic::PlainVirtio], &[Nic::Virtio])?;
    let stopped = forward(&bed, &Rule::feed().outputs("out0", 4), 1000, 1000)?;
    let input = stopped.report.interface("in0")?;
    assert_eq!(input.backend, Backend::Xdp, "{stopped:#?}");
    assert_eq!(input.mode.as_deref(), Some("copy"), "{stopped:#?}");
    let because = if Nic::Virtio.does_zero_copy()? {
        // The driver offers zero copy, and refuses the bind.
        "Invalid argument"
    } else {
        "in0 (driver virtio_net) has no zero copy"
    };
    assert!(input.reason.contains(because), "{input:?}");
    Ok(())
}

/// The type `DMA` is strict; the lazy one, which lets a late access pass, is `DMA-FQ`.
#[test]
fn dma_goes_through_a_strict_iommu_where_the_machine_was_started_with_one() -> Result<()> {
    let strict = fs::read_to_string("/proc/cmdline")?.contains("iommu.strict=1");
    let expected = strict.then(|| "DMA".to_owned());
    for found in lab::iommu_types() {
        assert_eq!(found, expected);
    }
    Ok(())
}

#[test]
fn an_output_without_xdp_takes_nothing_from_igb_exact() -> Result<()> {
    beside_an_output_without_zero_copy(Nic::Igb, Nic::E1000e)
}

#[test]
fn an_output_that_refuses_zero_copy_takes_nothing_from_virtio_exact() -> Result<()> {
    beside_an_output_without_zero_copy(Nic::Virtio, Nic::PlainVirtio)
}
