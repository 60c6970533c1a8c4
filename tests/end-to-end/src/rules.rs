//! Writes rule files for tests.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use crate::encapsulation::{Encapsulation, Tag, vlan_key};

/// The group of the usual feed, which arrives at the relay.
pub const GROUP_IN: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
/// The port of [`GROUP_IN`].
pub const PORT_IN: u16 = 5001;

/// One output of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The relay's interface; empty where the kernel's routing chooses it.
    pub interface: String,
    /// The destination group.
    pub group: IpAddr,
    /// The destination port.
    pub port: u16,
    /// The keys that stand for group and port in the file, where the output has others.
    pub goes: Option<String>,
    /// The key `ttl` as it is in the file, if it is there.
    pub ttl: Option<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The relay's interface.
    pub interface: String,
    /// The group that is matched.
    pub group: IpAddr,
    /// The port that is matched.
    pub port: u16,
    /// The keys of the input that stand for group and port in the file, where the rule takes more
    /// or less than those: `group = "239.1.1.0/24", port = "any"`.
    pub takes: Option<String>,
    /// The VLAN tags of the frames that are matched, the outer one first.
    pub tags: Vec<Tag>,
    /// Where copies go.
    pub outputs: Vec<Output>,
}

impl Rule {
    /// A rule for `group`:`port` on `interface`, without outputs so far.
    pub fn new(
        name: impl Into<String>,
        interface: &str,
        group: impl Into<IpAddr>,
        port: u16,
    ) -> Self {
        let interface = interface.to_owned();
        Self {
            name: name.into(),
            interface,
            group: group.into(),
            port,
            takes: None,
            tags: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// The usual rule `feed` for [`GROUP_IN`] on `in0`.
    pub fn feed() -> Self {
        Self::new("feed", "in0", GROUP_IN, PORT_IN)
    }

    /// Sets [`Self::takes`].
    #[must_use]
    pub fn takes(self, keys: &str) -> Self {
        Self {
            takes: Some(keys.to_owned()),
            ..self
        }
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, interface: &str, group: impl Into<IpAddr>, port: u16) -> Self {
        let interface = interface.to_owned();
        self.outputs.push(Output {
            interface,
            group: group.into(),
            port,
            goes: None,
            ttl: None,
        });
        self
    }

    /// Adds an output whose group and port are `keys`: `group = "ff3e::1", port = 6000`.
    #[must_use]
    pub fn output_that_goes(mut self, interface: &str, keys: &str) -> Self {
        self = self.output(interface, Ipv4Addr::UNSPECIFIED, 0);
        if let Some(output) = self.outputs.last_mut() {
            output.goes = Some(keys.to_owned());
        }
        self
    }

    /// Adds an output to one host, by the way that the kernel's routing chooses.
    #[must_use]
    pub fn output_to(mut self, host: impl Into<IpAddr>, port: u16) -> Self {
        let host = host.into();
        self = self.output_that_goes("", &format!("address = \"{host}\", port = {port}"));
        if let Some(output) = self.outputs.last_mut() {
            (output.group, output.port) = (host, port);
        }
        self
    }

    /// Adds `count` outputs on `interface`, each with a group and port of its own.
    #[must_use]
    pub fn outputs(self, interface: &str, count: usize) -> Self {
        let first = self.outputs.len();
        self.outputs_from(interface, first, count)
    }

    /// The same with the destinations from the `first`th on, for rules that run beside others.
    #[must_use]
    pub fn outputs_from(mut self, interface: &str, first: usize, count: usize) -> Self {
        for n in first..first + count {
            let (group, port) = output_destination(n);
            self = self.output(interface, group, port);
        }
        self
    }

    /// This rule, which is about untagged IPv4, for feeds in an encapsulation.
    #[must_use]
    pub fn over(mut self, encapsulation: Encapsulation) -> Self {
        let input = |address| match address {
            IpAddr::V4(address) => encapsulation.input(address),
            IpAddr::V6(_) => address,
        };
        let output = |address| match address {
            IpAddr::V4(address) => encapsulation.output(address),
            IpAddr::V6(_) => address,
        };
        self.name = format!("{}-{}", self.name, encapsulation.name());
        self.group = input(self.group);
        self.takes = self.takes.map(|keys| encapsulation.input_keys(&keys));
        self.tags = encapsulation.tags().to_vec();
        for one in &mut self.outputs {
            one.group = output(one.group);
            one.goes = one.goes.take().map(|keys| encapsulation.output_keys(&keys));
        }
        self
    }

    /// Sets the TTL of the last output, as it is in the file: `8` or `"decrement"`.
    #[must_use]
    pub fn ttl(mut self, ttl: &str) -> Self {
        if let Some(output) = self.outputs.last_mut() {
            output.ttl = Some(ttl.to_owned());
        }
        self
    }
}

/// `count` rules from `in0` to two outputs on `out0` each, with groups and ports of their own,
/// which a hash spreads over queues.
pub fn feeds(count: u16) -> Vec<Rule> {
    (0..count)
        .map(|n| {
            let group = |block: u8| Ipv4Addr::new(239, block, 0, n as u8 + 1);
            Rule::new(format!("feed-{n}"), "in0", group(1), 5001 + n)
                .output("out0", group(2), 5001 + n)
                .output("out0", group(3), 5001 + n)
        })
        .collect()
}

/// The destination of the `n`th output that [`Rule::outputs`] gives.
pub fn output_destination(n: usize) -> (Ipv4Addr, u16) {
    (
        Ipv4Addr::new(239, 2, (n / 250) as u8, (n % 250) as u8 + 1),
        6000 + n as u16,
    )
}

/// Two rules whose inputs share the output interface `out0`, and so a worker on XDP. The first one
/// has an output interface of its own besides.
pub fn on_one_worker() -> [Rule; 2] {
    let shares = |name: &str, input: &str, last: u8, port: u16| {
        Rule::new(name, input, [239, 1, last, last], port).output(
            "out0",
            [239, 2, last, last],
            port + 1,
        )
    };
    let other = shares("other", "in1", 9, 9000).output("out1", [239, 3, 9, 9], 9002);
    [other, shares("steady", "in0", 8, 8000)]
}

/// The `[[interfaces]]` tables that set the key `transmit` of all outputs of `rules`, to `xsk` or
/// `segmented`.
pub fn transmit_by(rules: &[Rule], transmit: &str) -> String {
    let outputs = rules.iter().flat_map(|rule| &rule.outputs);
    let names = outputs.map(|output| output.interface.as_str());
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    let table = |name| format!("[[interfaces]]\nname = \"{name}\"\ntransmit = \"{transmit}\"\n\n");
    names.into_iter().map(table).collect()
}

/// The rules as a file.
pub fn to_toml(rules: &[Rule]) -> String {
    let mut text = String::new();
    for rule in rules {
        let (group, port) = (rule.group, rule.port);
        let takes = rule.takes.clone();
        let vlan = vlan_key(&rule.tags);
        let usual = || format!("group = \"{group}\", port = {port}{vlan}");
        let takes = takes.unwrap_or_else(usual);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "[[rules]]\nname = \"{}\"\ninput = {{ interface = \"{}\", {takes} }}\noutputs = [",
            rule.name, rule.interface
        );
        for output in &rule.outputs {
            let ttl = output
                .ttl
                .as_ref()
                .map(|ttl| format!(", ttl = {ttl}"))
                .unwrap_or_default();
            let goes = output
                .goes
                .clone()
                .unwrap_or_else(|| format!("group = \"{}\", port = {}", output.group, output.port));
            let interface = match output.interface.as_str() {
                "" => String::new(),
                name => format!("interface = \"{name}\", "),
            };
            let _ = writeln!(text, "  {{ {interface}{goes}{ttl} }},");
        }
        text += "]\n\n";
    }
    text
}
