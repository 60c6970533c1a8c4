//! Zero copy, on the drivers that do it: runs in the virtual machine of `cargo xtask test --zero-copy`, where the NICs
//! of [`relay_tests::lab`] are.
//!
//! Backend and mode are the relay's own choice everywhere, as in production. What it chose is asserted with what
//! arrived.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::flap::Flap;
use relay_tests::lab::{self, Nic};
use relay_tests::raw::RawReceiver;
use relay_tests::relay::{RuleFile, Stopped, relay};
use relay_tests::rules::{Rule, output_destination};
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{Endpoint, format_mac};

/// The relay's NICs: one for the input, and one for each output in turn.
#[derive(Clone, Copy)]
struct Nics {
    input: Nic,
    outputs: [Nic; 3],
}

const IGB: Nics = Nics {
    input: Nic::Igb,
    outputs: [Nic::Igb; 3],
};

const VIRTIO: Nics = Nics {
    input: Nic::Virtio,
    outputs: [Nic::Virtio; 3],
};

const MIXED: Nics = Nics {
    input: Nic::Igb,
    outputs: [Nic::Virtio, Nic::Igb, Nic::Virtio],
};

const MIXED_THE_OTHER_WAY: Nics = Nics {
    input: Nic::Virtio,
    outputs: [Nic::Igb, Nic::Virtio, Nic::Igb],
};

impl Nics {
    /// A testbed with so many output interfaces.
    fn testbed(&self, outputs: usize) -> Result<Testbed> {
        lab::testbed(self.input, &self.outputs[..outputs])
    }
}

/// Runs the relay, sends, and fails unless every output is exact and the relay's account agrees and is balanced.
fn forward(bed: &Testbed, rule: &Rule, count: u64, size: usize) -> Result<Stopped> {
    let rules = std::slice::from_ref(rule);
    let stream = Stream::new(0, count, size);
    let receivers = Receivers::start(bed, rules)?;
    let relay = lab::start(bed, rules)?;
    lab::send(bed, rule, &stream, &receivers)?;
    receivers.assert_exact(&[stream]);
    let stopped = relay.stop()?;
    assert!(stopped.status.success(), "{stopped:#?}");
    stopped.report.assert_exact(&[count]);
    Ok(stopped)
}

/// Fails unless report and log say that every interface does zero copy.
#[track_caller]
fn assert_zero_copy(stopped: &Stopped) {
    for interface in &stopped.report.interfaces {
        assert_eq!(interface.backend, Backend::Xdp, "{stopped:#?}");
        assert_eq!(interface.mode.as_deref(), Some("zero-copy"), "{stopped:#?}");
        let name = &interface.name;
        let mut lines = stopped.log.lines();
        let said = lines.any(|line| line.contains(name) && line.contains("zero copy mode"));
        assert!(said, "the mode of {name} in:\n{}", stopped.log);
    }
}

/// The same, all in zero copy.
fn forward_in_zero_copy(bed: &Testbed, rule: &Rule, count: u64, size: usize) -> Result<Stopped> {
    let stopped = forward(bed, rule, count, size)?;
    assert_zero_copy(&stopped);
    stopped
        .report
        .assert_engines(std::slice::from_ref(rule), "xsk")?;
    Ok(stopped)
}

fn f1_one_input_to_one_output_is_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    forward_in_zero_copy(&bed, &Rule::feed().outputs("out0", 1), 100, 1000)?;
    forward_in_zero_copy(&bed, &Rule::feed().outputs("out0", 1), 2000, 1472)?;
    Ok(())
}

fn f2_one_input_to_four_outputs_is_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    forward_in_zero_copy(&bed, &Rule::feed().outputs("out0", 4), 1000, 1000)?;
    Ok(())
}

fn f3_one_input_to_sixteen_outputs_is_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    forward_in_zero_copy(&bed, &Rule::feed().outputs("out0", 16), 500, 1000)?;
    Ok(())
}

fn f4_outputs_spread_over_three_interfaces_are_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(3)?;
    let rule = ["out0", "out1", "out2", "out1", "out0", "out2"]
        .iter()
        .fold(Rule::feed(), |rule, interface| rule.outputs(interface, 1));
    forward_in_zero_copy(&bed, &rule, 1000, 700)?;
    Ok(())
}

fn f4_outputs_on_the_inputs_own_interface_and_on_another_are_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    let rule = Rule::feed().outputs("in0", 2).outputs("out0", 2);
    forward_in_zero_copy(&bed, &rule, 1000, 700)?;
    Ok(())
}

fn f8_ten_thousand_datagrams_have_the_same_hash_at_the_receiver(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    forward_in_zero_copy(&bed, &Rule::feed().outputs("out0", 1), 10_000, 1000)?;
    Ok(())
}

/// Both frames are the same to the byte, so that one chunk can carry them to both NICs at once.
fn identical_outputs_on_two_nics_are_exact_on_both(nics: Nics) -> Result<()> {
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
    let wires = [
        RawReceiver::start(&bed.receivers[0])?,
        RawReceiver::start(&bed.receivers[1])?,
    ];
    forward_in_zero_copy(&bed, &rule, 3000, 1000)?;
    let datagrams = wires.map(|wire| {
        let mut frames: Vec<_> = wire.frames().into_iter().map(|frame| frame.bytes).collect();
        frames.retain(|bytes| bytes.get(23) == Some(&17) && bytes.len() > 1000);
        frames
    });
    assert_eq!(datagrams[0].len(), 3000);
    assert!(
        datagrams[0] == datagrams[1],
        "the frames on both wires are the same"
    );
    Ok(())
}

/// Takes an interface of the relay down and up again while traffic runs.
fn down_and_up(bed: &Testbed, near: &Endpoint) -> Result<()> {
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(bed, &rules)?;
    let relay = lab::start(bed, &rules)?;
    let flap = Flap {
        rate: 500,
        warm_up: 200,
        // What waited for the NIC comes first; what is sent from here on is complete.
        settled: Duration::from_millis(500),
        after: Duration::from_millis(1000),
    };
    let flapped = flap.run(bed, &receivers, near)?;
    let stopped = relay.stop()?;
    assert_zero_copy(&stopped);
    stopped.report.assert_no_chunk_missing();
    for (_, tally) in receivers.tallies() {
        flapped.assert_only_the_gap_is_missing(&tally);
        assert_eq!(tally.unique, tally.received, "{tally}");
    }
    Ok(())
}

fn x1_after_the_input_was_down_forwarding_resumes_within_a_second(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    down_and_up(&bed, &bed.inputs[0])
}

fn x1_after_the_output_was_down_forwarding_resumes_within_a_second(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    down_and_up(&bed, &bed.outputs[0])
}

fn x3_after_kill_9_the_interface_is_clean_and_a_new_start_works_at_once(nics: Nics) -> Result<()> {
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
            let shown = bed
                .relay
                .ip(&format!("-details link show dev {}", near.interface))?;
            assert!(!shown.contains("xdp"), "no program stays: {shown}");
        }
    }
    forward_in_zero_copy(&bed, &rules[0], 500, 1000)?;
    Ok(())
}

fn after_ten_link_flaps_no_chunk_is_missing_and_the_traffic_is_exact(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = lab::start(&bed, &rules)?;
    let mut stream = Stream::new(0, 50, 500);
    let mut total = 0;
    for _ in 0..10 {
        for near in [&bed.inputs[0], &bed.outputs[0]] {
            bed.relay.ip(&format!("link set {} down", near.interface))?;
            bed.relay.ip(&format!("link set {} up", near.interface))?;
        }
        lab::wait_for_carriers(&bed)?;
        lab::send(&bed, &rules[0], &stream, &receivers)?;
        stream.first += stream.count;
        total += stream.count;
        receivers.wait_until_each(|_, tally| tally.received >= total);
    }
    receivers.assert_exact(&[Stream::new(0, total, 500)]);
    let stopped = relay.stop()?;
    assert_zero_copy(&stopped);
    stopped.report.assert_exact(&[total]);
    Ok(())
}

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

fn the_plan_expects_zero_copy(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?;
    let (text, json) = plan(&bed, &Rule::feed().outputs("out0", 1))?;
    assert!(text.contains("zero copy"), "{text}");
    for interface in json["interfaces"].as_array().context("interfaces")? {
        assert_eq!(interface["expected_mode"], "zero-copy", "{json:#}");
        assert_eq!(interface["backend"], "xdp", "{json:#}");
    }
    Ok(())
}

/// Makes a test of each function for each set of NICs.
macro_rules! on_all_nics {
    ($($name:ident = $nics:ident),+ => $scenarios:tt) => {
        $( on_all_nics!(@ $name $nics $scenarios); )+
    };
    (@ $name:ident $nics:ident [$($scenario:ident),+ $(,)?]) => {
        mod $name {
            $(
                #[test]
                fn $scenario() -> anyhow::Result<()> {
                    super::$scenario(super::$nics)
                }
            )+
        }
    };
}

on_all_nics! {
    igb = IGB, virtio = VIRTIO, mixed = MIXED, mixed_the_other_way = MIXED_THE_OTHER_WAY => [
        f1_one_input_to_one_output_is_exact,
        f2_one_input_to_four_outputs_is_exact,
        f3_one_input_to_sixteen_outputs_is_exact,
        f4_outputs_spread_over_three_interfaces_are_exact,
        f4_outputs_on_the_inputs_own_interface_and_on_another_are_exact,
        f8_ten_thousand_datagrams_have_the_same_hash_at_the_receiver,
        identical_outputs_on_two_nics_are_exact_on_both,
        x1_after_the_input_was_down_forwarding_resumes_within_a_second,
        x1_after_the_output_was_down_forwarding_resumes_within_a_second,
        x3_after_kill_9_the_interface_is_clean_and_a_new_start_works_at_once,
        after_ten_link_flaps_no_chunk_is_missing_and_the_traffic_is_exact,
        the_plan_expects_zero_copy,
    ]
}

/// The tests run in the order of their names, and this takes longest.
#[test]
fn zz_after_a_hundred_starts_and_stops_no_chunk_and_no_datagram_is_missing() -> Result<()> {
    let bed = MIXED.testbed(1)?;
    let rule = Rule::feed().outputs("out0", 2);
    for _ in 0..100 {
        forward_in_zero_copy(&bed, &rule, 20, 500)?;
    }
    Ok(())
}

#[test]
fn e1000e_has_no_native_xdp_and_takes_io_uring_by_itself_exact() -> Result<()> {
    let bed = lab::testbed(Nic::E1000e, &[Nic::Igb])?;
    let stopped = forward(&bed, &Rule::feed().outputs("out0", 4), 1000, 1000)?;
    for interface in &stopped.report.interfaces {
        assert_eq!(interface.backend, Backend::IoUring, "{stopped:#?}");
        let because = "in0 (driver e1000e) has no native XDP";
        assert!(interface.reason.contains(because), "{interface:?}");
    }
    Ok(())
}

#[test]
fn virtio_without_the_dma_api_copies_and_says_what_the_kernel_said_exact() -> Result<()> {
    let bed = lab::testbed(Nic::PlainVirtio, &[Nic::Virtio])?;
    let stopped = forward(&bed, &Rule::feed().outputs("out0", 4), 1000, 1000)?;
    let input = stopped.report.interface("in0")?;
    assert_eq!(input.backend, Backend::Xdp, "{stopped:#?}");
    assert_eq!(input.mode.as_deref(), Some("copy"), "{stopped:#?}");
    assert!(input.reason.contains("Invalid argument"), "{input:?}");
    Ok(())
}

/// Strict is the type `DMA`; the lazy one, which forgives a late access, is called `DMA-FQ`.
#[test]
fn dma_goes_through_a_strict_iommu_where_the_machine_was_started_with_one() -> Result<()> {
    let strict = fs::read_to_string("/proc/cmdline")?.contains("iommu.strict=1");
    let expected = strict.then(|| "DMA".to_owned());
    for found in lab::iommu_types() {
        assert_eq!(found, expected);
    }
    Ok(())
}
