//! All interfaces and rules that random changes choose from.
//!
//! The rules share groups, inputs and outputs in every way that the relay must keep apart: two with
//! one group on one input, one group on two inputs, copies that leave through another rule's input,
//! and rules that connect what would else be two separate parts. Their outputs set every header
//! that an output can set, and send to hosts that answer, that do not answer, and that have no
//! route.

use std::net::{IpAddr, Ipv4Addr};

use relay_tests::encapsulation::{CUSTOMER, Tag, ipv6_of};
use relay_tests::rules::{Rule, to_toml};

/// The relay's interfaces: those that change, and then those of the witness.
pub const INTERFACES: [&str; 7] = ["in0", "in1", "out0", "out1", "out2", "in2", "out3"];
/// How many of [`INTERFACES`] change.
pub const CHANGING: usize = 5;
/// How many interfaces rules receive from.
pub const INPUTS: usize = 3;

/// How many rules there are that come and go.
pub const RULES: usize = 12;
/// One more rule, between interfaces that no other rule uses and that never change: whatever
/// happens to the others, it loses nothing.
pub const WITNESS: usize = RULES;

/// A host behind whatever router [`Step::Lead`](super::model::Step::Lead) names.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);
/// A host on the link of `out0` that nobody answers for.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 77);
/// A source that no host has.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// The tag of frames that arrive in a VLAN, with a priority.
const CAME_WITH: Tag = (CUSTOMER, 0x6000 | 100);

/// One of the forms that each rule has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The first.
    A,
    /// With other outputs, other headers or another limit, or matched by other means: by source, a
    /// range or any port.
    B,
}

/// The tags of an output's copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vlan {
    /// None.
    Untagged,
    /// Those of the datagram.
    Kept,
    /// One.
    One(u16),
    /// Two.
    Two(u16, u16),
}

/// The source address of an output's copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The interface's.
    Interface,
    /// The datagram's.
    Kept,
    /// One that no host has.
    Other,
}

/// One output: what its keys in the file are made of, and what its copies must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Out {
    /// The relay's interface; empty where the kernel's routing chooses it.
    pub interface: &'static str,
    /// A group, or a host.
    pub to: IpAddr,
    /// The destination port.
    pub port: u16,
    /// Its tags.
    pub vlan: Vlan,
    /// The priority in them, if one is set.
    pub pcp: Option<u16>,
    /// The class of service, if one is set.
    pub dscp: Option<u8>,
    /// The source address.
    pub source: Source,
    /// The source port, if one is set.
    pub source_port: Option<u16>,
    /// The TTL, if one is set.
    pub ttl: Option<u8>,
}

impl Out {
    /// An output that sets nothing.
    fn new(interface: &'static str, to: impl Into<IpAddr>, port: u16) -> Self {
        Self {
            interface,
            to: to.into(),
            port,
            vlan: Vlan::Untagged,
            pcp: None,
            dscp: None,
            source: Source::Interface,
            source_port: None,
            ttl: None,
        }
    }

    /// The address that [`Source::Other`] stands for.
    pub fn other(&self) -> IpAddr {
        match self.to {
            IpAddr::V4(_) => OTHER.into(),
            IpAddr::V6(_) => ipv6_of(OTHER).into(),
        }
    }

    /// The keys in the file, but `interface`.
    fn keys(&self) -> String {
        let what = if self.to.is_multicast() {
            "group"
        } else {
            "address"
        };
        let vlan = match self.vlan {
            Vlan::Untagged => None,
            Vlan::Kept => Some("vlan = \"keep\"".to_owned()),
            Vlan::One(id) => Some(format!("vlan = {id}")),
            Vlan::Two(outer, inner) => Some(format!("vlan = [{outer}, {inner}]")),
        };
        let source = match self.source {
            Source::Interface => None,
            Source::Kept => Some("source = \"keep\"".to_owned()),
            Source::Other => Some(format!("source = \"{}\"", self.other())),
        };
        let keys = [
            Some(format!("{what} = \"{}\"", self.to)),
            Some(format!("port = {}", self.port)),
            vlan,
            self.pcp.map(|pcp| format!("pcp = {pcp}")),
            self.dscp.map(|dscp| format!("dscp = {dscp}")),
            source,
            self.source_port.map(|port| format!("source_port = {port}")),
            self.ttl.map(|ttl| format!("ttl = {ttl}")),
        ];
        keys.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A datagram that a rule takes, whatever its form.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// Where it arrives.
    pub interface: &'static str,
    /// A group, or an address of the relay's host.
    pub to: IpAddr,
    /// The destination port.
    pub port: u16,
    /// The tags that it arrives with.
    pub tags: &'static [Tag],
    /// Where it is sent to the host, the interface that has the address.
    pub owner: Option<&'static str>,
}

/// What a rule takes.
pub fn input(number: usize) -> Input {
    let group = |interface, last, port| Input {
        interface,
        to: Ipv4Addr::new(239, 1, 0, last).into(),
        port,
        tags: &[],
        owner: None,
    };
    let host = |interface, owner, address: [u8; 4]| Input {
        interface,
        to: address.into(),
        owner: Some(owner),
        ..group("", 0, 5000)
    };
    match number {
        0 => group("in0", 1, 5000),
        // The group of rule 0, so that the membership is needed by both.
        1 => group("in0", 1, 5001),
        // The group and port of rule 0 on another input.
        2 => group("in1", 1, 5000),
        3 => group("in1", 2, 5000),
        4 => group("in0", 3, 5000),
        5 => group("in1", 4, 5000),
        6 => Input {
            tags: &[CAME_WITH],
            ..group("in0", 5, 5000)
        },
        7 => group("in1", 6, 5000),
        8 => group("in0", 7, 5000),
        9 => host("in1", "in1", [10, 1, 1, 1]),
        10 => Input {
            to: ipv6_of(Ipv4Addr::new(239, 1, 0, 8)).into(),
            ..group("in0", 8, 5000)
        },
        // An address of another interface.
        11 => host("in1", "in0", [10, 1, 0, 1]),
        _ => group("in2", 12, 5000),
    }
}

/// Where the copies of a rule go.
pub fn outputs(number: usize, form: Form) -> Vec<Out> {
    let port = 6000 + number as u16;
    let host = |b, c, d| Ipv4Addr::new(10, b, c, d);
    let group = |last| Ipv4Addr::new(239, 2, number as u8, last);
    // To the group with this number.
    let to = |interface, last| Out::new(interface, group(last), port);
    let to6 = |interface, last| Out::new(interface, ipv6_of(group(last)), port);
    match (number, form) {
        (0, Form::A) => vec![to("out0", 1), to("out1", 2)],
        (0, Form::B) => vec![to("out0", 1)],
        (1, Form::A) => vec![to("out1", 1)],
        (1, Form::B) => vec![to("out1", 1), to("out2", 2)],
        (2, Form::A) => vec![to("out2", 1)],
        (2, Form::B) => vec![Out {
            ttl: Some(7),
            ..to("out2", 1)
        }],
        (3, _) => vec![to("out2", 1), to("out0", 2)],
        // Through the input of others.
        (4, Form::A) => vec![to("in1", 1)],
        (4, Form::B) => vec![to("in1", 1), to("out0", 2)],
        (5, Form::A) => vec![to("out1", 1)],
        (5, Form::B) => vec![to("out1", 1), to("out1", 2)],
        // Other tags, sources and classes, to the same groups.
        (6, Form::A) => vec![
            Out {
                vlan: Vlan::One(200),
                pcp: Some(5),
                dscp: Some(10),
                ..to("out0", 1)
            },
            Out {
                vlan: Vlan::Two(300, 400),
                ..to("out1", 2)
            },
            Out {
                vlan: Vlan::Kept,
                source: Source::Kept,
                source_port: Some(7000),
                ..to("out0", 3)
            },
        ],
        (6, Form::B) => vec![
            Out {
                vlan: Vlan::One(201),
                dscp: Some(0),
                ..to("out0", 1)
            },
            Out {
                source: Source::Other,
                ..to("out1", 2)
            },
            Out {
                vlan: Vlan::Kept,
                ..to("out0", 3)
            },
        ],
        // The other version of IP, also to a host.
        (7, Form::A) => vec![
            Out {
                dscp: Some(46),
                ..to6("out2", 1)
            },
            Out {
                source: Source::Other,
                source_port: Some(7001),
                ..to("out2", 2)
            },
        ],
        (7, Form::B) => vec![
            Out {
                source: Source::Other,
                vlan: Vlan::One(7),
                ..to6("out2", 1)
            },
            Out::new("out0", ipv6_of(host(2, 0, 2)), port),
        ],
        // Hosts: on the link, one that does not answer, and behind a router.
        (8, Form::A) => vec![
            Out::new("", host(2, 0, 2), port),
            Out::new("out0", NOBODY, port),
        ],
        (8, Form::B) => vec![
            Out {
                vlan: Vlan::One(8),
                ttl: Some(9),
                ..Out::new("out1", host(2, 1, 2), port)
            },
            Out {
                source: Source::Kept,
                ..Out::new("", FAR, port)
            },
            Out::new("", ipv6_of(host(2, 2, 2)), port),
        ],
        // From an address of the relay's host to groups and to hosts.
        (9, Form::A) => vec![to("out1", 1)],
        (9, Form::B) => vec![
            Out {
                source: Source::Kept,
                vlan: Vlan::One(9),
                ..to("out1", 1)
            },
            Out {
                dscp: Some(63),
                source_port: Some(1),
                ..Out::new("", FAR, port)
            },
        ],
        (10, Form::A) => vec![to("out0", 1)],
        (10, Form::B) => vec![
            Out {
                source: Source::Other,
                ..to("out0", 1)
            },
            Out {
                source: Source::Kept,
                dscp: Some(1),
                ..to6("out1", 2)
            },
        ],
        (WITNESS, _) => vec![to("out3", 1), to("out3", 2)],
        (_, Form::A) => vec![Out::new("", FAR, port)],
        (_, Form::B) => vec![
            Out::new("out0", NOBODY, port),
            Out::new("out2", host(2, 2, 2), port),
        ],
    }
}

/// The interface that a host is on the link of, if it is on any.
pub fn link_of(host: IpAddr) -> Option<&'static str> {
    let on = ["out0", "out1", "out2"].into_iter().zip(0..);
    let mut on = on.filter(|&(_, number)| match host {
        IpAddr::V4(host) => host.octets()[..3] == [10, 2, number],
        IpAddr::V6(host) => {
            host.segments()[..4] == ipv6_of(Ipv4Addr::new(10, 2, number, 0)).segments()[..4]
        }
    });
    on.next().map(|(name, _)| name)
}

/// The keys of a rule's input that stand for group and port, and how
/// [`KernelMaps`](super::kernel_maps::KernelMaps) has the flow. The source is that of the probes.
fn by_other_means(number: usize, form: Form) -> Option<(&'static str, &'static str)> {
    Some(match (number, form) {
        (1, Form::B) => ("group = \"239.1.0.1\", port = \"5001-5009\"", "/32 range"),
        (2, Form::B) => (
            "group = \"239.1.0.1\", port = 5000, source = \"10.1.1.2\"",
            "/32 5000 from 10.1.1.2",
        ),
        (5, Form::B) => (
            "group = \"239.1.0.4\", port = \"any\", source = \"10.1.1.2\"",
            "/32 any from 10.1.1.2",
        ),
        _ => return None,
    })
}

/// How [`KernelMaps`](super::kernel_maps::KernelMaps) has the flow of a rule, but interface and
/// group.
pub fn matched(number: usize, form: Form) -> String {
    let port = input(number).port.to_string();
    by_other_means(number, form).map_or(port, |(_, words)| words.to_owned())
}

/// A rule in one of its forms.
pub fn rule(number: usize, form: Form) -> Rule {
    let takes = input(number);
    let mut rule = Rule::new(name(number), takes.interface, takes.to, takes.port);
    rule.tags = takes.tags.to_vec();
    for tag in &mut rule.tags {
        // Without the priority.
        tag.1 &= 0xfff;
    }
    let address = format!("address = \"{}\", port = {}", takes.to, takes.port);
    rule.takes = match by_other_means(number, form) {
        Some((keys, _)) => Some(keys.to_owned()),
        None => takes.owner.map(|_| address),
    };
    let outputs = outputs(number, form).into_iter();
    outputs.fold(rule, |rule, output| {
        rule.output_that_goes(output.interface, &output.keys())
    })
}

/// The name of a rule.
pub fn name(number: usize) -> String {
    format!("rule-{number}")
}

/// Whether a rule has a limit, which no test reaches.
pub fn has_limit(number: usize, form: Form) -> bool {
    (number, form) == (3, Form::A)
}

/// The rule as the text of a file.
pub fn text(number: usize, form: Form, enabled: bool) -> String {
    let mut text = to_toml(&[rule(number, form)]);
    if has_limit(number, form) {
        let limit = "port = 5000, limit = { packets_per_second = 1000, burst = 100 }";
        text = text.replacen("port = 5000", limit, 1);
    }
    if !enabled {
        text = text.replacen("[[rules]]\n", "[[rules]]\nenabled = false\n", 1);
    }
    text
}
