//! `relay plan`: what `run` would do on this machine.

use std::path::Path;

use anyhow::Context as _;

use super::output::print;
use crate::{
    config::{
        self, quoted,
        rules::{Rule, Written},
    },
    daemon::{claim, this_machine},
    plan::Backend,
};

/// Prints the plan for `file`; `backend` is the one that the user asked for, if any.
///
/// # Errors
///
/// Every mistake in the file, and everything that prevents running it on this machine.
pub fn plan(file: &Path, backend: Option<Backend>, json: bool) -> anyhow::Result<()> {
    let document = config::load(file)?;
    let mut plan = this_machine::for_this_machine(&document, backend)?;
    plan.notes.extend(claim::notes(&plan));
    if json {
        let text = serde_json::to_string_pretty(&plan).context("writing the plan as JSON")?;
        print(&format!("{text}\n"))
    } else {
        print(&format!("{plan}{}", watched(&document.rules.rules)))
    }
}

/// What the relay watches of the datagrams of `rules`, which is no part of a plan: it changes
/// nothing on the way of a frame. Empty if it is nothing.
fn watched(rules: &[Rule]) -> String {
    let mut text = String::new();
    for rule in rules.iter().filter(|rule| rule.enabled) {
        let silence = rule.health.silence;
        let silence = silence.map(|after| format!("silent after {}", Written(after)));
        let monitor = rule.health.monitor;
        let monitor = monitor.map(|monitor| format!("numbers by {monitor}"));
        let parts: Vec<String> = silence.into_iter().chain(monitor).collect();
        if !parts.is_empty() {
            text += &format!("  {}: {}\n", quoted(&rule.name), parts.join(", "));
        }
    }
    match text.is_empty() {
        true => text,
        false => format!("\nwatched\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_said_of_rules_that_run_and_of_no_others() {
        let rule = |name: &str, keys: &str, last: u8| {
            format!(
                "[[rules]]\nname = \"{name}\"\n{keys}\n\
                 input = {{ interface = \"in0\", group = \"239.1.1.{last}\", port = 5001 }}\n\
                 outputs = [{{ interface = \"out0\", group = \"239.2.1.{last}\", port = 5002 }}]\n"
            )
        };
        let text = [
            rule("a", "silence = \"500ms\"\nmonitor = \"rtp\"", 1),
            rule("b", "", 2),
            rule("c", "silence = \"2s\"", 3),
            rule("d", "enabled = false\nsilence = \"2s\"", 4),
        ];
        let document = config::parse("relay.toml", &text.concat()).unwrap();
        let rules = &document.rules.rules;
        assert_eq!(
            watched(rules),
            "\nwatched\n  a: silent after 500ms, numbers by \"rtp\"\n  c: silent after 2s\n"
        );
        assert_eq!(watched(&rules[1..2]), "");
    }
}
