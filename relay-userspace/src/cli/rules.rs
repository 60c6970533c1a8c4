//! `relay rules`: every rule and output with all of its counters.

use anyhow::Context as _;

use super::{
    feed,
    output::print,
    table::Table,
    target::Target,
    wording::{by, dropped, duration, numbers, rate, state, to},
};
use crate::{
    config::{quoted, rules::GroupPort},
    observe::snapshot::{Origin, RuleStatus},
};

/// Prints all rules, or the one of this name.
///
/// # Errors
///
/// No relay serves there, or there is no such rule.
pub fn rules(target: &Target, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let rules = target.connect()?.rules(name)?;
    if json {
        let text = serde_json::to_string_pretty(&rules).context("writing the rules as JSON")?;
        return print(&format!("{text}\n"));
    }
    let texts: Vec<_> = rules.iter().map(shown).collect();
    print(&texts.join("\n"))
}

fn shown(rule: &RuleStatus) -> String {
    let origin = match rule.origin {
        Origin::File => "from the file",
        Origin::Runtime => "added by command",
    };
    let reason = match rule.reason.as_str() {
        "" => String::new(),
        reason => format!("  {reason}\n"),
    };
    let last = rule.last_frame_seconds_ago.map_or_else(
        || "no frame has come yet".into(),
        |seconds| format!("the last frame came {} ago", duration(seconds as u64)),
    );
    let mut table = Table::new(["OUTPUT", "BY", "STATE", "SENT/S", "SENT", "DROPPED"], 3);
    for output in &rule.outputs {
        let cells = [
            to(output),
            by(output),
            state(output.state),
            rate(output.rate),
            output.packets_sent.to_string(),
            dropped(output).to_string(),
        ];
        let notes = [
            output.headers.clone(),
            output.reason.clone(),
            numbers(&output.dropped),
        ];
        table.add(cells, notes);
    }
    let failed = match rule.local_failed {
        0 => String::new(),
        failed => format!(", {failed} not given to this host"),
    };
    format!(
        "{}: {}, {} on {}, {origin}\n{reason}  {} frames per second ({}), {} in total, {} over the \
         limit{failed}; {last}\n{}{}",
        quoted(&rule.name),
        state(rule.state),
        GroupPort(rule.group, rule.port),
        quoted(&rule.interface),
        rate(rule.rate),
        feed::bit_rate(rule.bit_rate),
        rule.packets_matched,
        rule.over_limit,
        feed::lines(rule),
        table.to_text("  ")
    )
}
