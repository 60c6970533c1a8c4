//! All interfaces and rules that random changes choose from.
//!
//! The rules share groups, inputs and outputs in every way that the relay must keep apart: two with
//! one group on one input, one group on two inputs, copies that leave through another rule's input,
//! and rules that connect what would else be two separate parts.

use std::net::Ipv4Addr;

use relay_tests::rules::{Rule, to_toml};

/// The relay's interfaces.
pub const INTERFACES: [&str; 5] = ["in0", "in1", "out0", "out1", "out2"];
/// The first interfaces are those that rules receive from.
pub const INPUTS: usize = 2;

/// How many rules there are.
pub const RULES: usize = 6;

/// One of the forms that each rule has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The first.
    A,
    /// With other outputs, another TTL or another limit, or matched by other means: by source, a
    /// range or any port.
    B,
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
    let port = rule(number, form).port.to_string();
    by_other_means(number, form).map_or(port, |(_, words)| words.to_owned())
}

/// A rule in one of its forms.
pub fn rule(number: usize, form: Form) -> Rule {
    let (input, group, port, outputs): (_, u8, _, &[&str]) = match (number, form) {
        (0, Form::A) => ("in0", 1, 5000, &["out0", "out1"]),
        (0, Form::B) => ("in0", 1, 5000, &["out0"]),
        // The group of rule 0, so that the membership is needed by both.
        (1, Form::A) => ("in0", 1, 5001, &["out1"]),
        (1, Form::B) => ("in0", 1, 5001, &["out1", "out2"]),
        // The group and port of rule 0 on another input.
        (2, _) => ("in1", 1, 5000, &["out2"]),
        (3, _) => ("in1", 2, 5000, &["out2", "out0"]),
        // Through the input of others.
        (4, Form::A) => ("in0", 3, 5000, &["in1"]),
        (4, Form::B) => ("in0", 3, 5000, &["in1", "out0"]),
        (_, Form::A) => ("in1", 4, 5000, &["out1"]),
        (_, Form::B) => ("in1", 4, 5000, &["out1", "out1"]),
    };
    let rule = Rule::new(name(number), input, Ipv4Addr::new(239, 1, 0, group), port);
    let rule = (1..).zip(outputs).fold(rule, |rule, (at, output)| {
        let group = Ipv4Addr::new(239, 2, number as u8, at);
        rule.output(output, group, 6000 + number as u16)
    });
    let rule = match by_other_means(number, form) {
        Some((keys, _)) => rule.takes(keys),
        None => rule,
    };
    match (number, form) {
        (2, Form::B) => rule.ttl("7"),
        _ => rule,
    }
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
