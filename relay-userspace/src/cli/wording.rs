//! How numbers and states read in the tables of `relay status` and `relay rules`.

use crate::{
    config::{
        quoted,
        rules::{GroupPort, OutputVlan},
    },
    observe::snapshot::{Numbers, OutputStatus, RuleStatus, State},
};

/// A state in one word.
pub fn state(state: State) -> String {
    match state {
        State::Active => "active",
        State::Pending => "pending",
        State::Disabled => "disabled",
    }
    .into()
}

/// A rate, without decimals.
pub fn rate(per_second: f64) -> String {
    // The sum of no numbers is -0.0.
    format!("{:.0}", per_second + 0.0)
}

/// What may be absent.
pub fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".into(), quoted)
}

/// The numbers above zero, with their names.
pub fn numbers(numbers: &Numbers) -> String {
    let above = numbers.iter().filter(|(_, number)| **number > 0);
    let texts: Vec<_> = above
        .map(|(name, number)| format!("{} {number}", quoted(name)))
        .collect();
    texts.join(", ")
}

/// Where the copies of an output go: "239.2.2.2:5002", or "239.2.2.2:5002, VLAN 200".
pub fn to(output: &OutputStatus) -> String {
    let to = GroupPort(output.group, output.port);
    match output.vlan {
        OutputVlan::Untagged => to.to_string(),
        vlan => format!("{to}, {vlan}"),
    }
}

/// The interface that they leave by.
pub fn by(output: &OutputStatus) -> String {
    match (&output.interface[..], &output.next_hop) {
        ("", None) => "routing".into(),
        ("", Some(next_hop)) => format!("{} (routing)", quoted(&next_hop.interface)),
        (interface, _) => quoted(interface),
    }
}

/// The copies of an output that did not leave.
pub fn dropped(output: &OutputStatus) -> u64 {
    sum(&output.dropped)
}

/// All of the numbers together.
pub fn sum(numbers: &Numbers) -> u64 {
    numbers.values().fold(0, |sum, n| sum.saturating_add(*n))
}

/// The sum of something over a rule's outputs.
pub fn over_outputs<T: std::iter::Sum>(rule: &RuleStatus, what: impl Fn(&OutputStatus) -> T) -> T {
    rule.outputs.iter().map(what).sum()
}

/// A time that has passed.
pub fn duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hours, minutes, seconds) = (rest / 3600, rest / 60 % 60, rest % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_two_or_three_units_at_most() {
        let texts = [0, 59, 60, 3599, 3600, 86_399, 86_400, 1_000_000].map(duration);
        let expected = [
            "0 s",
            "59 s",
            "1 min 0 s",
            "59 min 59 s",
            "1 h 0 min",
            "23 h 59 min",
            "1 d 0 h 0 min",
            "11 d 13 h 46 min",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn only_numbers_above_zero_are_named() {
        let of = [("full\u{1b}", 2), ("none", 0), ("other", 1)];
        let of = of.map(|(name, number)| (name.into(), number)).into();
        assert_eq!(numbers(&of), "full\\u{1b} 2, other 1");
        assert_eq!(sum(&of), 3);
    }
}
