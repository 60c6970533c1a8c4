//! The results as text.

use std::fmt::Write as _;

use crate::{
    before,
    cell::{latency, per_cent, range, ratio, ratios},
    measure::LOW_RATE,
    results::{ContenderResult, Results, ScenarioResult},
    unmatched, watched,
    yardstick::{self, Yardstick},
};

/// Everything as text.
pub fn of(results: &Results) -> String {
    let mut text = format!(
        "\n{}. A rate counts as without loss if nothing was lost for {} s. \"relay x\" is the relay's \
         copies without loss divided by those of the row, \"io_uring x\" the same for the relay on \
         io_uring. \"overload\" is what comes out while three times that rate is offered.\nLatency is \
         in us, at {LOW_RATE} frames per second of all datagrams and with stalls set aside, and at half \
         of the rate without loss. \"stalled\" is the part of the time that an idle loop on the \
         contender's CPU saw as stalls of the machine, in per cent, and \"stalls p99\" the p99 that they \
         alone make.\n\"unaccounted\" is how many copies of all trials neither arrived nor are in the \
         relay's report as dropped.\n",
        rounds(results),
        results.confirm_seconds
    );
    if !results.ceilings.is_empty() {
        text += "\nceilings, one core, kpps\n";
        let rows = results.ceilings.iter();
        let rows = rows.map(|one| vec![one.name.clone(), range(one.rate, 1e3)]);
        text += &align(rows.collect());
    }
    if !results.unmatched.is_empty() {
        text += "\nframes that no rule takes\n";
        text += &align(unmatched::rows(&results.unmatched));
    }
    if !results.watched.is_empty() {
        text += "\nwith everything that can be watched, in turns with the same without\n";
        text += &align(watched::rows(&results.watched));
    }
    for result in &results.scenarios {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{}", heading(result));
        text += &align(rows(results, result));
        text += "\n";
        text += &align(latencies(result));
    }
    if let Some(rows) = yardstick::beside_ceilings(results) {
        text += "\nbeside the ceilings, round by round\n";
        text += &align(rows);
    }
    if let Some(rows) = beside_plain(results) {
        text += "\nbeside the plain scenario, in turns\n";
        text += &align(rows);
    }
    if let Some(rows) = before::rows(results) {
        text += "\n";
        text += &align(rows);
    }
    for failure in &results.failures {
        let _ = writeln!(text, "\nFAILED: {failure}");
    }
    text
}

/// Copies out under overload beside the plain scenario, `None` where there was nothing to compare.
pub fn beside_plain(results: &Results) -> Option<Vec<Vec<String>>> {
    let row = |result: &ScenarioResult| {
        let name = result.scenario.name;
        let plain = result.scenario.plain().map_or("", |plain| plain.name);
        let rows = result.beside_plain.iter().map(move |one| {
            let names = [name, plain, &one.contender].map(str::to_owned);
            [&names[..], &[ratios(Some(one.ratio))]].concat()
        });
        rows.collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = results.scenarios.iter().flat_map(row).collect();
    if rows.is_empty() {
        return None;
    }
    let head = [
        "scenario",
        "plain",
        "contender",
        "copies out under overload",
    ];
    rows.insert(0, head.map(str::to_owned).to_vec());
    Some(rows)
}

/// How many rounds the numbers are of.
pub fn rounds(results: &Results) -> String {
    match results.rounds {
        1 => "Of one round".to_owned(),
        rounds => format!("Medians of {rounds} rounds, least and most in brackets"),
    }
}

/// A scenario's table, its head first.
pub fn rows(results: &Results, result: &ScenarioResult) -> Vec<Vec<String>> {
    let head = [
        "contender",
        "kpps in",
        "kpps out",
        "relay x",
        "io_uring x",
        "overload",
        "CPU ns/copy",
        "unaccounted",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let able = result.contenders.iter().filter(|one| one.cannot.is_none());
    rows.extend(able.map(|one| row(result, one)));
    let others = yardstick::others(results, result);
    rows.extend(others.iter().map(|one| other_row(result, one)));
    rows
}

/// A scenario's latencies, the head first.
pub fn latencies(result: &ScenarioResult) -> Vec<Vec<String>> {
    let head = [
        "latency, us",
        "p50",
        "p99",
        "p99.9",
        "p99, stalls aside",
        "p99.9, stalls aside",
        "stalled, %",
        "stalls p99",
        "half rate p50",
        "p99",
        "p99.9",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in result.contenders.iter().filter(|one| one.cannot.is_none()) {
        let summary = &one.summary;
        let mut row = vec![one.name.clone()];
        row.extend(latency(summary.latency_low));
        let [_, aside @ ..] = latency(summary.latency_low_aside);
        row.extend(aside);
        row.extend([per_cent(summary.stalls), range(summary.stalls_p99, 1.0)]);
        row.extend(latency(summary.latency_half));
        rows.push(row);
    }
    rows
}

/// What was set up.
pub fn heading(result: &ScenarioResult) -> String {
    let scenario = &result.scenario;
    let load = &scenario.load;
    let some = |count: usize, what: &str| {
        let end = if count == 1 { "" } else { "s" };
        format!("{count} {what}{end}")
    };
    let senders = match load.senders {
        1 => String::new(),
        senders => format!(" from {senders} senders"),
    };
    format!(
        "{}: {}{senders}, {} on {}, {}, {} B of payload, next hop {:?}",
        scenario.name,
        some(load.flows, "flow"),
        some(load.outputs, "output"),
        some(scenario.interfaces, "interface"),
        some(load.rules, "rule"),
        scenario.payload,
        scenario.next_hop
    )
}

fn row(result: &ScenarioResult, one: &ContenderResult) -> Vec<String> {
    let summary = &one.summary;
    // If the generator was the limit, the contender may be able to do more.
    let bound = if summary.limited_by_generator {
        ">"
    } else {
        ""
    };
    vec![
        one.name.clone(),
        format!("{bound}{}", range(summary.loss_free_in, 1e3)),
        format!("{bound}{}", range(summary.loss_free_out, 1e3)),
        ratio(yardstick::relay_to(result, summary.loss_free_out)),
        ratio(yardstick::io_uring_to(result, summary.loss_free_out)),
        range(summary.overload_out, 1e3),
        range(summary.cpu_ns_per_copy, 1.0),
        summary
            .unaccounted
            .map_or("-".to_owned(), |n| n.to_string()),
    ]
}

/// A yardstick that is no contender has only a rate.
fn other_row(result: &ScenarioResult, other: &Yardstick) -> Vec<String> {
    let rate = Some(other.rate);
    let cells = [
        range(rate, 1e3),
        ratio(yardstick::relay_to(result, rate)),
        ratio(yardstick::io_uring_to(result, rate)),
    ];
    [other.name.clone(), "-".to_owned()]
        .into_iter()
        .chain(cells)
        .collect()
}

/// Columns as wide as their widest cell.
fn align(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &'_ [String], column: usize| row.get(column).map_or(0, |c| c.chars().count());
    let width = |column| rows.iter().map(|row| cell(row, column)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text += "  ";
        text += line.trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".into(), "bb".into()],
            vec!["ccc".into(), "d".into()],
        ];
        assert_eq!(align(rows), "  a    bb\n  ccc  d\n");
    }
}
