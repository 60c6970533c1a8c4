//! The results as the tables of docs/performance.md.

use crate::{
    before, cell, charts,
    results::{Results, ScenarioResult, Spread},
    table, unmatched, watched, yardstick,
};

/// Everything as Markdown: an overview, then the whole of each scenario.
pub fn of(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "{}, {} CPUs, Linux {}; load {} before the start. {}. A rate counts \
         as without loss if nothing was lost for {} s.\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.load_before,
        table::rounds(results),
        results.confirm_seconds
    );
    text += "\n### Copies out without loss, kpps\n\n";
    text += &lines(&overview(results));
    if !results.ceilings.is_empty() {
        text += "\n### What one core can do in one direction, kpps\n\n";
        let mut rows = vec![["ceiling", "rate"].map(str::to_owned).to_vec()];
        let ceilings = results.ceilings.iter();
        rows.extend(ceilings.map(|one| vec![one.name.clone(), cell::range(one.rate, 1e3)]));
        text += &lines(&rows);
    }
    if !results.unmatched.is_empty() {
        text += "\n### Frames that no rule takes\n\n";
        text += &lines(&unmatched::rows(&results.unmatched));
    }
    if !results.watched.is_empty() {
        text += "\n### With everything that can be watched, in turns with the same without\n\n";
        text += &lines(&watched::rows(&results.watched));
    }
    for result in &results.scenarios {
        text += &format!("\n### {}\n\n", table::heading(result));
        text += &lines(&table::rows(results, result));
        text += "\n";
        text += &lines(&table::latencies(result));
    }
    if let Some(rows) = yardstick::beside_ceilings(results) {
        text += "\n### Beside the ceilings, round by round\n\n";
        text += &lines(&rows);
    }
    if let Some(rows) = table::beside_plain(results) {
        text += "\n### Beside the plain scenario, in turns\n\n";
        text += &lines(&rows);
    }
    if let Some(rows) = before::rows(results) {
        text += "\n### Against the build before\n\n";
        text += &lines(&rows);
    }
    if !results.failures.is_empty() {
        text += "\n### Failures\n\n";
        for failure in &results.failures {
            text += &format!("- {failure}\n");
        }
    }
    text
}

/// One row per scenario, one column per contender.
fn overview(results: &Results) -> Vec<Vec<String>> {
    let names = charts::contenders(results);
    let row = |result: &ScenarioResult| {
        let cell = |name: &String| {
            let mut all = result.contenders.iter();
            let one = all.find(|one| one.name == *name);
            let rate = one.and_then(|one| one.summary.loss_free_out);
            let median = rate.and_then(|rate| Spread::of(vec![rate.median]));
            cell::range(median, 1e3)
        };
        let scenario = [result.scenario.name.to_owned()];
        scenario.into_iter().chain(names.iter().map(cell)).collect()
    };
    let head = ["scenario".to_owned()].into_iter().chain(names.clone());
    let mut rows = vec![head.collect()];
    rows.extend(results.scenarios.iter().map(row));
    rows
}

/// The first row is the head.
fn lines(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        text += &format!("| {} |\n", row.join(" | "));
        if i == 0 {
            text += &format!("|---|{}\n", "---:|".repeat(row.len().saturating_sub(1)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_is_the_head() {
        let rows = [["a", "b"], ["c", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(lines(&rows), "| a | b |\n|---|---:|\n| c | 1 |\n");
    }
}
