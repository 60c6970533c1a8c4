//! Outputs that keep a datagram's place in a prefix of groups and a range of ports, beside outputs
//! that merge, in GSO packets and frame by frame.

use std::net::Ipv4Addr;

use anyhow::Result;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::UdpFrame;
use relay_tests::methods::Method;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::Receivers;
use relay_tests::topology::Testbed;

use super::rounds::send_in_rounds;

/// A destination: group and port.
type To = (Ipv4Addr, u16);

const fn to(a: u8, b: u8, c: u8, d: u8, port: u16) -> To {
    (Ipv4Addr::new(a, b, c, d), port)
}

/// Datagrams that are alike: which rule takes them, where they are sent to, and where their copies
/// go.
struct Kind {
    rule: usize,
    sent: To,
    copies: &'static [To],
}

/// A line-up with a range of ports, and any port of a few groups.
fn rules() -> [Rule; 2] {
    let lineup = Rule::new("lineup", "in0", GROUP_IN, PORT_IN)
        .takes("group = \"239.1.1.0/24\", port = \"5000-5009\"")
        .output_that_goes("out0", "group = \"239.7.7.0/24\", port = \"6000-6009\"")
        .output_that_goes("out0", "group = \"239.8.0.0/24\", port = 7000")
        .output_that_goes("out0", "group = \"239.9.9.9\"");
    let any = Rule::new("any", "in0", GROUP_IN, PORT_IN)
        .takes("group = \"239.2.0.0/30\", port = \"any\"")
        .output_that_goes("out0", "group = \"238.2.0.4/30\"");
    [lineup, any]
}

#[rustfmt::skip]
const KINDS: [Kind; 6] = [
    Kind { rule: 0, sent: to(239, 1, 1, 0, 5000), copies: &[to(239, 7, 7, 0, 6000), to(239, 8, 0, 0, 7000), to(239, 9, 9, 9, 5000)] },
    Kind { rule: 0, sent: to(239, 1, 1, 42, 5003), copies: &[to(239, 7, 7, 42, 6003), to(239, 8, 0, 42, 7000), to(239, 9, 9, 9, 5003)] },
    Kind { rule: 0, sent: to(239, 1, 1, 255, 5009), copies: &[to(239, 7, 7, 255, 6009), to(239, 8, 0, 255, 7000), to(239, 9, 9, 9, 5009)] },
    Kind { rule: 0, sent: to(239, 1, 1, 43, 5004), copies: &[to(239, 7, 7, 43, 6004), to(239, 8, 0, 43, 7000), to(239, 9, 9, 9, 5004)] },
    Kind { rule: 1, sent: to(239, 2, 0, 1, 1), copies: &[to(238, 2, 0, 5, 1)] },
    Kind { rule: 1, sent: to(239, 2, 0, 3, 65_535), copies: &[to(238, 2, 0, 7, 65_535)] },
];

/// Each copy arrives where its datagram's place says, once and in order, and nowhere else; in every
/// encapsulation at the same time.
fn m7_copies_keep_their_place_in_a_prefix_and_a_range(method: Method) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    // What arrives, as if each kind had a rule of its own.
    let as_if = |(kind, number): (&Kind, u8)| {
        let rule = Rule::new(format!("kind-{number}"), "in0", kind.sent.0, kind.sent.1);
        let copies = kind.copies.iter();
        copies.fold(rule, |rule, &(group, port)| {
            rule.output("out0", group, port)
        })
    };
    let (mut expected, mut rules) = (Vec::new(), Vec::new());
    for encapsulation in Encapsulation::ALL {
        let each = KINDS.iter().zip(0_u8..).map(as_if);
        expected.extend(each.map(|rule| rule.over(encapsulation)));
        rules.extend(self::rules().map(|rule| rule.over(encapsulation)));
    }
    let receivers = Receivers::with_headers(&bed, &expected)?;
    let relay = method.start(&bed, &rules)?;
    let source = &bed.sources[0];
    let frame = |flow: usize, payload| {
        let kind: &Rule = &expected[flow];
        let mut frame = UdpFrame::new(source, kind.group, kind.port, payload);
        frame.tags.clone_from(&kind.tags);
        frame
    };
    let sent = send_in_rounds(method, source, &relay, &receivers, expected.len(), frame)?;
    let stopped = relay.stop()?;
    let of_rule = |rule| KINDS.iter().filter(|kind| kind.rule == rule).count() as u64;
    let counts = [sent * of_rule(0), sent * of_rule(1)];
    stopped
        .report
        .assert_exact(&counts.repeat(Encapsulation::ALL.len()));
    method.assert_used(&stopped.report, &rules)
}

relay_tests::on_all_methods!(m7_copies_keep_their_place_in_a_prefix_and_a_range);
