//! VLAN tags beside the bytes of a frame, and offloads that the relay switches off while it runs.
//!
//! The offloads are those of a veth, which do nothing to the frames that arrive there: what is
//! tested is who switches them and when. What they do is tested on a NIC (zero_copy/modes.rs). On
//! io_uring the relay leaves them alone: few of the tests would show something there.

use std::time::Duration;

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::encapsulation::{CUSTOMER, Encapsulation, SERVICE, Tag};
use relay_tests::frames::UdpFrame;
use relay_tests::payload::payload;
use relay_tests::raw::RawSender;
use relay_tests::relay::{RelayProcess, RuleFile, relay};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Pacer, Traffic, UdpSender};
use relay_tests::stacked;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{Endpoint, plug};

use super::under_traffic;

const COUNT: u64 = 500;
const SIZE: usize = 700;
const RATE: u32 = 5_000;
/// How long the relay may take to act on what changes.
const SOON: Duration = Duration::from_secs(5);
/// The offloads are on, or off.
const ON: [bool; 2] = [true; 2];
const OFF: [bool; 2] = [false; 2];
const MANAGE: &str = "[[interfaces]]\nname = \"in0\"\noffloads = \"manage\"\n";
const FEATURES: [&str; 2] = ["rx-vlan-offload", "rx-vlan-stag-hw-parse"];

/// Whether in0 takes 802.1Q and 802.1ad tags out of frames, as `ethtool -k` says.
fn stripping(bed: &Testbed) -> Result<[bool; 2]> {
    let [customer, service] = FEATURES.map(|feature| bed.inputs[0].has_feature(feature));
    Ok([customer?, service?])
}

/// A testbed whose in0 takes both kinds of tags out.
fn testbed() -> Result<Testbed> {
    let bed = Testbed::builder().without_capture().build()?;
    for feature in FEATURES {
        bed.inputs[0].set_feature(feature, true)?;
    }
    Ok(bed)
}

fn managed(bed: &Testbed, backend: Backend) -> Result<RelayProcess> {
    RelayProcess::start_with(&bed.relay, backend, &[feed()], MANAGE)
}

fn feed() -> Rule {
    Rule::feed().outputs("out0", 2)
}

/// What is off while a relay on `backend` manages in0: a packet socket sees tags anywhere.
fn while_managed(backend: Backend) -> [bool; 2] {
    match backend {
        Backend::Xdp => OFF,
        Backend::IoUring => ON,
    }
}

fn assert_stripping(bed: &Testbed, relay: &RelayProcess, expected: [bool; 2]) -> Result<()> {
    let is = || stripping(bed).is_ok_and(|now| now == expected);
    ensure!(
        eventually(SOON, is).is_some(),
        "{:?}, not {expected:?}: {}",
        stripping(bed)?,
        relay.log()
    );
    Ok(())
}

/// Both versions of IP; the tags are what the tests are about.
const VERSIONS: [Encapsulation; 2] = [Encapsulation::Ipv4, Encapsulation::Ipv6];

/// Sends datagrams of flow `flow`, with `tags`, the outer one first.
fn send_tagged(from: &Endpoint, over: Encapsulation, flow: u32, tags: &[Tag]) -> Result<()> {
    let (sender, mut pacer) = (RawSender::open(from)?, Pacer::new(RATE, 16));
    for number in 0..COUNT {
        let bytes = payload(flow, number, SIZE);
        let mut frame = UdpFrame::new(from, over.input(GROUP_IN), PORT_IN, bytes);
        frame.tags = tags.to_vec();
        pacer.wait();
        sender.send(&frame.build()?)?;
    }
    Ok(())
}

/// Sends untagged, tagged and double-tagged frames to one group and port, over IPv4 and IPv6, and
/// fails unless each datagram arrived at the outputs of its rule, once and in order.
fn each_tag_at_its_rule(backend: Option<Backend>, beside: bool) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let wire = &bed.sources[0];
    for feature in ["tx-vlan-offload", "tx-vlan-stag-hw-insert"] {
        wire.set_feature(feature, beside)?;
    }
    let source = stacked::behind_bridge(wire, "far")?;
    let rule = |name: &str, number: u8, vlan: &str| {
        let group = |block: u8| [239, block, 200, number];
        Rule::new(name, "in0", GROUP_IN, PORT_IN)
            .takes(&format!("group = \"{GROUP_IN}\", port = {PORT_IN}{vlan}"))
            .output("out0", group(2), 6000)
            .output("out0", group(3), 6001)
    };
    let of = |version| {
        [
            rule("untagged", 0, ""),
            rule("tagged", 1, ", vlan = 100"),
            rule("double", 2, ", vlan = [300, 200]"),
        ]
        .map(|rule| rule.over(version))
    };
    let rules: Vec<Rule> = VERSIONS.map(of).concat();
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = match backend {
        Some(backend) => RelayProcess::start(&bed.relay, backend, &rules)?,
        None => RelayProcess::start_unforced(&bed.relay, RuleFile::of(&rules)?)?
            .expecting(Backend::IoUring),
    };
    for (version, first) in VERSIONS.into_iter().zip([0, 3]) {
        send_tagged(&source, version, first, &[])?;
        send_tagged(&source, version, first + 1, &[(CUSTOMER, 100)])?;
        send_tagged(
            &source,
            version,
            first + 2,
            &[(SERVICE, 300), (CUSTOMER, 200)],
        )?;
        send_tagged(&source, version, 9, &[(CUSTOMER, 101)])?;
    }
    let streams: Vec<Stream> = (0..6).map(|flow| Stream::new(flow, COUNT, SIZE)).collect();
    receivers.assert_exact(&streams);
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT; 6]);
    let passed = stopped.report.filter("in0", "pass_vlan");
    assert_eq!(passed, 2 * COUNT, "{}", stopped.log);
    if backend.is_none() {
        let reason = &stopped.report.interface("in0")?.reason;
        let why = "in0 is a veth, whose other end may leave VLAN tags beside the bytes";
        assert!(reason.contains(why), "{reason}");
    }
    Ok(())
}

#[test]
fn m3_io_uring_sees_tags_beside_the_bytes() -> Result<()> {
    each_tag_at_its_rule(Some(Backend::IoUring), true)
}

#[test]
fn m3_io_uring_sees_tags_in_the_bytes() -> Result<()> {
    each_tag_at_its_rule(Some(Backend::IoUring), false)
}

#[test]
fn m3_xdp_sees_tags_in_the_bytes() -> Result<()> {
    each_tag_at_its_rule(Some(Backend::Xdp), false)
}

#[test]
fn m3_a_veth_with_a_rule_for_a_vlan_is_on_io_uring_by_itself() -> Result<()> {
    each_tag_at_its_rule(None, true)
}

/// Where the operator insists on XDP: nothing of the VLAN is relayed, and all of it is counted.
#[test]
fn m3_a_tag_beside_the_bytes_is_not_seen_on_xdp_and_its_frame_is_counted_as_of_no_rule()
-> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [feed().takes("group = \"239.1.1.1\", port = 5001, vlan = 100")];
    let source = stacked::behind_bridge(&bed.sources[0], "far")?;
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, Backend::Xdp, &rules)?;
    let note = "Rules name VLANs on in0, a veth, and XDP sees only tags that are in the bytes";
    assert!(relay.log().contains(note), "{}", relay.log());
    send_tagged(&source, Encapsulation::Ipv4, 0, &[(CUSTOMER, 100)])?;
    receivers.settle();
    assert!(
        receivers
            .tallies()
            .iter()
            .all(|(_, tally)| tally.received == 0)
    );
    let report = relay.stop()?.report;
    assert_eq!(report.packets_received, 0, "{report:#?}");
    assert!(report.filter("in0", "pass_no_rule") >= COUNT, "{report:#?}");
    Ok(())
}

fn offloads_are_off_while_the_relay_runs_and_on_again_after_sigterm(
    backend: Backend,
) -> Result<()> {
    let bed = testbed()?;
    let file = RuleFile::with(&[feed()], MANAGE)?;
    let path = file.path().display().to_string();
    let plan = relay(&bed.relay, &["plan", "--backend", backend.name(), &path])?;
    let says = "; rx-vlan-hw-parse off and rx-vlan-stag-hw-parse off as long as the relay runs";
    assert_eq!(
        plan.stdout.contains(says),
        backend == Backend::Xdp,
        "{plan:?}"
    );
    assert_eq!(stripping(&bed)?, ON, "a plan changes nothing");
    let receivers = Receivers::start(&bed, &[feed()])?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    assert_eq!(stripping(&bed)?, while_managed(backend), "{}", relay.log());
    let stream = Stream::new(0, COUNT, SIZE);
    let traffic = Traffic::new(GROUP_IN, PORT_IN, stream);
    UdpSender::open(&bed.sources[0])?.send(&traffic, RATE)?;
    receivers.assert_exact(&[stream]);
    let stopped = relay.stop()?;
    assert_eq!(stripping(&bed)?, ON, "{}", stopped.log);
    // What was off before stays off.
    bed.inputs[0].set_feature(FEATURES[1], false)?;
    let relay = managed(&bed, backend)?;
    let [tag, _] = while_managed(backend);
    assert_eq!(stripping(&bed)?, [tag, false], "{}", relay.log());
    let stopped = relay.stop()?;
    assert_eq!(stripping(&bed)?, [true, false], "{}", stopped.log);
    Ok(())
}

fn offloads_of_a_killed_relay_are_given_back_by_the_next_one(backend: Backend) -> Result<()> {
    let bed = testbed()?;
    let killed = || -> Result<()> {
        managed(&bed, Backend::Xdp)?.kill()?;
        assert_eq!(stripping(&bed)?, OFF);
        Ok(())
    };
    // One that does not manage it gives back at once.
    killed()?;
    let relay = RelayProcess::start(&bed.relay, backend, &[feed()])?;
    assert_eq!(stripping(&bed)?, ON, "{}", relay.log());
    relay.stop()?;
    // One that wants it off gives back at its end, however often relays were killed in between.
    killed()?;
    killed()?;
    let relay = managed(&bed, backend)?;
    assert_eq!(stripping(&bed)?, while_managed(backend), "{}", relay.log());
    let stopped = relay.stop()?;
    assert_eq!(stripping(&bed)?, ON, "{}", stopped.log);
    // One that receives elsewhere.
    killed()?;
    let other = Rule::new("other", "out0", GROUP_IN, PORT_IN).outputs("in0", 1);
    let relay = RelayProcess::start(&bed.relay, backend, &[other])?;
    assert_eq!(stripping(&bed)?, ON, "{}", relay.log());
    relay.stop()?;
    Ok(())
}

#[test]
fn offloads_that_another_process_switches_on_again_stay_on() -> Result<()> {
    let bed = testbed()?;
    let relay = managed(&bed, Backend::Xdp)?;
    bed.inputs[0].set_feature(FEATURES[0], true)?;
    let said = "another process has switched rx-vlan-hw-parse on again";
    ensure!(relay.wait_for_log(said), "{}", relay.log());
    // Of what the relay leaves alone, it gives back the rest.
    assert_stripping(&bed, &relay, ON)?;
    let text = format!("{}{MANAGE}", to_toml(&[feed()]));
    let answer = relay.reload(&text)?;
    ensure!(answer.code == Some(0), "{answer:?}");
    assert_eq!(stripping(&bed)?, ON, "{}", relay.log());
    let stopped = relay.stop()?;
    assert_eq!(stripping(&bed)?, ON, "{}", stopped.log);
    Ok(())
}

fn o1_a_reload_manages_offloads_or_not_and_loses_nothing(backend: Backend) -> Result<()> {
    let bed = testbed()?;
    let receivers = Receivers::start(&bed, &[feed()])?;
    let relay = RelayProcess::start(&bed.relay, backend, &[feed()])?;
    let (sent, ()) = under_traffic(&bed.sources[0], &feed(), 0, RATE, || {
        for (tables, expected) in [(MANAGE, while_managed(backend)), ("", ON)].repeat(3) {
            let answer = relay.reload(&format!("{}{tables}", to_toml(&[feed()])))?;
            ensure!(answer.code == Some(0), "{answer:?}");
            ensure!(stripping(&bed)? == expected, "{tables}: {}", relay.log());
        }
        Ok(())
    })?;
    receivers.assert_exact(&[Stream::new(0, sent, 500)]);
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[sent]);
    assert_eq!(stripping(&bed)?, ON, "{}", stopped.log);
    Ok(())
}

fn is_active(relay: &RelayProcess) -> bool {
    let states = relay.rule_states();
    states.is_ok_and(|all| all == [("feed".into(), "active".into())])
}

#[test]
fn x2_an_interface_that_comes_back_has_its_offloads_off_again() -> Result<()> {
    let bed = testbed()?;
    let relay = managed(&bed, Backend::Xdp)?;
    for _ in 0..2 {
        bed.relay.ip("link del in0")?;
        ensure!(
            eventually(SOON, || !is_active(&relay)).is_some(),
            "{}",
            relay.log()
        );
        plug(&bed.inputs[0], &bed.sources[0])?;
        ensure!(
            eventually(SOON, || is_active(&relay)).is_some(),
            "{}",
            relay.log()
        );
        assert_eq!(stripping(&bed)?, OFF, "{}", relay.log());
    }
    let stopped = relay.stop()?;
    assert_eq!(stripping(&bed)?, ON, "{}", stopped.log);
    Ok(())
}

/// The relay that stands by touches nothing, and takes over what the former one leaves.
#[test]
fn a_second_relay_leaves_the_offloads_of_the_first_alone() -> Result<()> {
    let bed = testbed()?;
    let first = managed(&bed, Backend::Xdp)?;
    let second = managed(&bed, Backend::Xdp)?;
    second.stop()?;
    assert_eq!(stripping(&bed)?, OFF, "{}", first.log());
    let second = managed(&bed, Backend::Xdp)?;
    first.kill()?;
    ensure!(
        eventually(SOON, || is_active(&second)).is_some(),
        "{}",
        second.log()
    );
    assert_eq!(stripping(&bed)?, OFF, "{}", second.log());
    let stopped = second.stop()?;
    assert_eq!(stripping(&bed)?, ON, "{}", stopped.log);
    Ok(())
}

relay_tests::on_both_backends!(
    offloads_are_off_while_the_relay_runs_and_on_again_after_sigterm,
    offloads_of_a_killed_relay_are_given_back_by_the_next_one,
    o1_a_reload_manages_offloads_or_not_and_loses_nothing,
);
