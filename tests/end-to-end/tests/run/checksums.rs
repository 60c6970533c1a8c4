//! Checksums and headers on the wire, in every encapsulation and by every TX method: right where
//! the sender's were, and never repaired.

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::{self, Checksum, UdpFrame};
use relay_tests::inspect::{Datagram, UdpChecksum};
use relay_tests::methods::{Method, Source};
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::{RelayProcess, Stopped};
use relay_tests::rules::{Rule, output_destination};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

/// Outputs of every rule, all on `out0`.
const OUTPUTS: usize = 3;
/// Datagrams of each rule, and how many of them the relay finds at once.
const COUNT: u64 = 80;
const AT_ONCE: u64 = 8;
/// DSCP and ECN, and flow label.
const TOS: u8 = 0xb9;
const FLOW_LABEL: u32 = 0xabcde;

/// What the receiving host saw of one rule, and how the relay ended.
struct Seen {
    rule: Rule,
    /// Those of each output.
    datagrams: [Vec<Datagram>; OUTPUTS],
}

impl Seen {
    /// Fails unless the payloads at every output are those of flow 0 in order.
    #[track_caller]
    fn assert_payloads(&self, size: impl Fn(u64) -> usize) {
        for (output, datagrams) in self.datagrams.iter().enumerate() {
            for (n, datagram) in (0..).zip(datagrams) {
                let right = datagram.payload == payload(0, n, size(n));
                assert!(right, "{}, output {output}, datagram {n}", self.rule.name);
            }
        }
    }

    #[track_caller]
    fn assert_each(&self, what: &str, is_right: impl Fn(u64, &Datagram) -> bool) {
        for datagrams in &self.datagrams {
            for (n, datagram) in (0..).zip(datagrams) {
                let name = &self.rule.name;
                assert!(is_right(n, datagram), "{what} of {n}, {name}: {datagram:?}");
            }
        }
    }

    /// They fit, or are to be completed by the device that cuts a GSO packet.
    #[track_caller]
    fn assert_valid_checksums(&self) {
        self.assert_each("checksum", |_, datagram| {
            matches!(datagram.checksum, UdpChecksum::Valid | UdpChecksum::Partial)
        });
    }
}

/// The usual rule with three outputs in each of the encapsulations.
fn rules(encapsulations: &[Encapsulation]) -> Vec<Rule> {
    let rule = || Rule::feed().outputs("out0", OUTPUTS);
    encapsulations.iter().map(|one| rule().over(*one)).collect()
}

/// The datagrams of one output in what arrived.
fn of_output(frames: &[Frame], rule: &Rule, output: usize) -> Vec<Datagram> {
    let to = &rule.outputs[output];
    let all = frames.iter().flat_map(Frame::datagrams);
    all.filter(|one| one.destination == to.group && one.port == to.port)
        .collect()
}

/// Runs a relay with the usual rule and three outputs in each encapsulation, lets `send` send
/// [`COUNT`] datagrams of flow 0 for each, several of which the relay finds at once, and checks
/// that three times as many arrive with right headers.
fn relay_to_three(
    method: Method,
    encapsulations: &[Encapsulation],
    prepare: impl FnOnce(&Testbed) -> Result<()>,
    send: impl Fn(&Sender<'_>, u64) -> Result<()>,
) -> Result<(Vec<Seen>, Stopped)> {
    let bed = Testbed::builder().ipv6().build()?;
    prepare(&bed)?;
    let (rules, near) = (rules(encapsulations), &bed.outputs[0]);
    let relay = method.start(&bed, &rules)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let senders = rules.iter().zip(encapsulations);
    let senders = senders.map(|(rule, encapsulation)| {
        Ok(Sender {
            from: &bed.sources[0],
            rule,
            tags: *encapsulation,
            raw: RawSender::open(&bed.sources[0])?,
            source: method.source_of(&bed.sources[0], rule)?,
            method,
        })
    });
    let senders: Vec<Sender<'_>> = senders.collect::<Result<_>>()?;
    for first in (0..COUNT).step_by(AT_ONCE as usize) {
        let paused = relay.pause()?;
        for sender in &senders {
            (first..COUNT.min(first + AT_ONCE)).try_for_each(|n| send(sender, n))?;
        }
        drop(paused);
    }
    let all = OUTPUTS * COUNT as usize * rules.len();
    raw.wait_until(ARRIVAL, |frames| {
        frames
            .iter()
            .map(|one| one.datagrams().len())
            .sum::<usize>()
            >= all
    });
    raw.settle();
    let (frames, stopped) = (raw.frames(), relay.stop()?);
    let arrived: usize = frames.iter().map(|one| one.datagrams().len()).sum();
    assert_eq!(arrived, all, "datagrams at the receiver: {stopped:?}");
    let mut seen = Vec::new();
    for rule in &rules {
        let datagrams = [0, 1, 2].map(|output| of_output(&frames, rule, output));
        for (output, datagrams) in datagrams.iter().enumerate() {
            let group = rule.outputs[output].group;
            assert_eq!(datagrams.len() as u64, COUNT, "{}, {output}", rule.name);
            for (n, datagram) in datagrams.iter().enumerate() {
                assert!(datagram.ip_checksum_valid, "{n}: {datagram:?}");
                let mac = frames::group_mac(group);
                assert_eq!(datagram.destination_mac, mac, "{n}: {datagram:?}");
                assert_eq!(datagram.source_mac, near.mac, "{n}: {datagram:?}");
                assert_eq!(datagram.source, near.address_for(group), "{datagram:?}");
                assert_eq!(datagram.ttl, 64, "{n}: {datagram:?}");
            }
        }
        let rule = rule.clone();
        seen.push(Seen { rule, datagrams });
    }
    stopped.report.assert_exact(&vec![COUNT; rules.len()]);
    method.assert_used(&stopped.report, &rules)?;
    Ok((seen, stopped))
}

/// What sends the datagrams of a rule.
struct Sender<'a> {
    from: &'a Endpoint,
    rule: &'a Rule,
    tags: Encapsulation,
    raw: RawSender,
    source: Source,
    method: Method,
}

impl Sender<'_> {
    /// Datagram `n` with `size` bytes of payload, as a frame.
    fn frame(&self, n: u64, size: usize) -> UdpFrame {
        let (group, port) = (self.rule.group, self.rule.port);
        let mut frame = UdpFrame::new(self.from, group, port, payload(0, n, size));
        frame.tags = self.tags.tags().to_vec();
        frame.identification = n as u16 + 7;
        frame.source_port += self.method.port(n);
        frame
    }
}

fn f9_partial_checksums_leave_complete_and_valid(method: Method) -> Result<()> {
    let sizes = [0, 1, 2, 17, 46, 333, 1001, 1001, 1001, 1444];
    let size = |n: u64| sizes[n as usize % sizes.len()];
    let all = &Encapsulation::ALL;
    let (seen, _) = relay_to_three(
        method,
        all,
        |_| Ok(()),
        |sender, n| sender.source.send_one(0, n, size(n)),
    )?;
    for seen in seen {
        seen.assert_valid_checksums();
        seen.assert_payloads(size);
    }
    Ok(())
}

fn f9_complete_checksums_leave_valid_and_what_is_the_senders_is_kept(method: Method) -> Result<()> {
    let all = &Encapsulation::ALL;
    let (seen, _) = relay_to_three(
        method,
        all,
        |_| Ok(()),
        |sender, n| {
            let mut frame = sender.frame(n, 333);
            frame.source_port = 40_000 + n as u16;
            (frame.tos, frame.flow_label) = (TOS, FLOW_LABEL);
            sender.raw.send(&frame.build()?)
        },
    )?;
    for seen in seen {
        seen.assert_valid_checksums();
        seen.assert_payloads(|_| 333);
        seen.assert_each("what is the sender's", |n, one| {
            let (identification, flow_label) = match one.destination.is_ipv6() {
                true => (0, FLOW_LABEL),
                false => (n as u16 + 7, 0),
            };
            one.source_port == 40_000 + n as u16
                && (one.tos, one.flow_label) == (TOS, flow_label)
                && one.identification == identification
        });
    }
    Ok(())
}

fn f9_checksums_that_the_sending_host_completed_leave_valid(method: Method) -> Result<()> {
    let all = &Encapsulation::ALL;
    let (seen, _) = relay_to_three(
        method,
        all,
        |bed| bed.sources[0].set_checksum_offload(false),
        |sender, n| sender.source.send_one(0, n, 801),
    )?;
    for seen in seen {
        seen.assert_valid_checksums();
        seen.assert_payloads(|_| 801);
    }
    Ok(())
}

fn f9_datagrams_without_checksum_leave_without_one_or_with_a_valid_one(
    method: Method,
) -> Result<()> {
    let ipv4 = [Encapsulation::Ipv4, Encapsulation::Tagged];
    let (seen, _) = relay_to_three(
        method,
        &ipv4,
        |_| Ok(()),
        |sender, n| {
            let mut frame = sender.frame(n, 400);
            frame.checksum = Checksum::Zero;
            sender.raw.send(&frame.build()?)
        },
    )?;
    for seen in seen {
        seen.assert_each("checksum", |_, one| one.checksum != UdpChecksum::Wrong);
        seen.assert_payloads(|_| 400);
    }
    Ok(())
}

fn f9_a_wrong_checksum_is_never_repaired(method: Method) -> Result<()> {
    let all = &Encapsulation::ALL;
    let (seen, stopped) = relay_to_three(
        method,
        all,
        |_| Ok(()),
        |sender, n| {
            let mut frame = sender.frame(n, 400);
            if n % 2 == 0 {
                frame.checksum = Checksum::Wrong;
                return sender.raw.send(&frame.build()?);
            }
            // Damaged on the way: the checksum was right before.
            let mut bytes = frame.build()?;
            bytes[frame.udp_start() + 8 + (n as usize % 400)] ^= 1;
            sender.raw.send(&bytes)
        },
    )?;
    for seen in seen {
        seen.assert_each(&format!("checksum, {stopped:?}"), |_, one| {
            one.checksum == UdpChecksum::Wrong
        });
    }
    Ok(())
}

/// A host must discard them (RFC 8200, section 8.1).
fn f9_datagrams_over_ipv6_without_checksum_do_not_leave_and_are_counted(
    backend: Backend,
) -> Result<()> {
    const COUNT: u64 = 20;
    let bed = Testbed::builder().ipv6().build()?;
    let ipv6 = [Encapsulation::Ipv6, Encapsulation::DoubleTagged6];
    let rules = rules(&ipv6);
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let (source, sender) = (&bed.sources[0], RawSender::open(&bed.sources[0])?);
    for (flow, (rule, encapsulation)) in (0..).zip(rules.iter().zip(ipv6)) {
        for (n, checksum) in (0..COUNT).zip([Checksum::Zero, Checksum::Complete].iter().cycle()) {
            // Those that leave are numbered without the others.
            let mut frame = UdpFrame::new(source, rule.group, rule.port, payload(flow, n / 2, 300));
            frame.tags = encapsulation.tags().to_vec();
            frame.checksum = *checksum;
            sender.send(&frame.build()?)?;
        }
    }
    let each = COUNT / 2;
    receivers.assert_exact(&[Stream::new(0, each, 300), Stream::new(1, each, 300)]);
    let report = relay.stop()?.report;
    report.assert_exact(&[each; 2]);
    assert_eq!(
        report.filter("in0", "pass_no_checksum"),
        2 * each,
        "{report:#?}"
    );
    Ok(())
}

#[test]
fn outputs_of_the_encapsulations_never_meet() {
    let mut destinations: Vec<_> = rules(&Encapsulation::ALL)
        .into_iter()
        .flat_map(|rule| rule.outputs)
        .map(|output| (output.group, output.port))
        .collect();
    assert_eq!(destinations.len(), Encapsulation::ALL.len() * OUTPUTS);
    let (group, port) = output_destination(0);
    assert_eq!(destinations[0], (group.into(), port));
    destinations.sort_unstable();
    destinations.dedup();
    assert_eq!(destinations.len(), Encapsulation::ALL.len() * OUTPUTS);
}

mod by_method {
    use super::{
        f9_a_wrong_checksum_is_never_repaired,
        f9_checksums_that_the_sending_host_completed_leave_valid,
        f9_complete_checksums_leave_valid_and_what_is_the_senders_is_kept,
        f9_datagrams_without_checksum_leave_without_one_or_with_a_valid_one,
        f9_partial_checksums_leave_complete_and_valid,
    };

    relay_tests::on_all_methods! {
        f9_partial_checksums_leave_complete_and_valid,
        f9_complete_checksums_leave_valid_and_what_is_the_senders_is_kept,
        f9_checksums_that_the_sending_host_completed_leave_valid,
        f9_datagrams_without_checksum_leave_without_one_or_with_a_valid_one,
        f9_a_wrong_checksum_is_never_repaired,
    }
}

relay_tests::on_both_backends! {
    f9_datagrams_over_ipv6_without_checksum_do_not_leave_and_are_counted,
}
