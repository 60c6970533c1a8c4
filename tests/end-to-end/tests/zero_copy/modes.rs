//! Which mode and backend the relay chooses, and what it says about them.

use std::fs;

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::lab::{self, Nic};
use relay_tests::relay::{RuleFile, relay};
use relay_tests::rules::Rule;
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
