//! The committed instruction counts, and how far a new run may differ from them.
//!
//! Both directions fail: a benchmark that became faster without a new baseline would leave room for
//! the next change to become slower unseen.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How far a count may be from its baseline, in per cent. Callgrind counts exactly; this allows for
/// changes elsewhere that move a few instructions.
const TOLERANCE_PERCENT: u64 = 3;
/// How far a count may be from its baseline in any case, in instructions: for the smallest
/// benchmarks.
const TOLERANCE_FLOOR: u64 = 3;

/// The command that writes a new baseline.
const RECORD: &str = "cargo xtask record-instructions";

/// Instructions of each benchmark, by name.
pub type Instructions = BTreeMap<String, u64>;

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// What compiled the benchmarks: another compiler gives other counts.
    pub compiler: String,
    /// Instructions of each benchmark, by name.
    pub instructions: Instructions,
}

impl Baseline {
    /// Reads the committed file.
    pub fn read(path: &Path) -> Result<Self> {
        let advice = || format!("reading {}; `{RECORD}` writes it anew", path.display());
        let text = fs::read_to_string(path).with_context(advice)?;
        serde_json::from_str(&text).with_context(advice)
    }

    /// Replaces the committed file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// How a run compares with the baseline.
#[derive(Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Benchmarks within the tolerance.
    pub passed: usize,
    /// One sentence for each benchmark that is not.
    pub failures: Vec<String>,
    /// What the reader must know about all failures together.
    pub advice: Option<String>,
    /// One line for each benchmark.
    pub table: String,
}

/// Compares each benchmark that is in either.
pub fn compare(baseline: &Baseline, now: &Baseline) -> Comparison {
    let mut comparison = Comparison {
        passed: 0,
        failures: Vec::new(),
        advice: None,
        table: row("benchmark", "baseline", "now", "change"),
    };
    for (name, &count) in &now.instructions {
        let recorded = baseline.instructions.get(name).copied();
        comparison.table += &row(
            name,
            &recorded.map_or_else(|| "none".to_owned(), |recorded| recorded.to_string()),
            &count.to_string(),
            &recorded.map_or_else(String::new, |recorded| change(recorded, count)),
        );
        match recorded.map_or_else(
            || Some(unknown(name, count)),
            |recorded| judge(name, recorded, count),
        ) {
            Some(failure) => comparison.failures.push(failure),
            None => comparison.passed += 1,
        }
    }
    for name in baseline.instructions.keys() {
        if !now.instructions.contains_key(name) {
            comparison.failures.push(format!(
                "{name}: in the baseline, but there is no such benchmark; if it was removed, \
                 record: `{RECORD}`"
            ));
        }
    }
    if !comparison.failures.is_empty() && baseline.compiler != now.compiler {
        comparison.advice = Some(format!(
            "the baseline was recorded with {}, and this is {}: another compiler gives other \
             counts",
            baseline.compiler, now.compiler
        ));
    }
    comparison
}

fn unknown(name: &str, count: u64) -> String {
    format!("{name}: {count} instructions, and it is not in the baseline; record it: `{RECORD}`")
}

/// What is wrong with a count, if anything.
fn judge(name: &str, recorded: u64, count: u64) -> Option<String> {
    let tolerance = (recorded * TOLERANCE_PERCENT / 100).max(TOLERANCE_FLOOR);
    if count.abs_diff(recorded) <= tolerance {
        return None;
    }
    let what_to_do = if count > recorded {
        "slower; only if it has to be, record a new baseline"
    } else {
        "faster: record a new baseline"
    };
    Some(format!(
        "{name}: baseline {recorded} instructions, now {count} ({}), {what_to_do}: `{RECORD}`",
        change(recorded, count)
    ))
}

/// The difference in per cent: `+8.4 %`.
fn change(recorded: u64, count: u64) -> String {
    let percent = (count as f64 - recorded as f64) / (recorded as f64).max(1.0) * 100.0;
    format!("{percent:+.1} %")
}

fn row(name: &str, recorded: &str, now: &str, change: &str) -> String {
    let mut row = String::new();
    let _ = writeln!(row, "{name:<40} {recorded:>9} {now:>9} {change:>10}");
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(compiler: &str, instructions: &[(&str, u64)]) -> Baseline {
        Baseline {
            compiler: compiler.to_owned(),
            instructions: instructions
                .iter()
                .map(|&(name, count)| (name.to_owned(), count))
                .collect(),
        }
    }

    /// Compares one benchmark; the failure, if there is one.
    fn one(recorded: u64, now: u64) -> Option<String> {
        let comparison = compare(
            &counts("rustc", &[("b", recorded)]),
            &counts("rustc", &[("b", now)]),
        );
        assert_eq!(comparison.passed + comparison.failures.len(), 1);
        assert_eq!(comparison.advice, None);
        comparison.failures.into_iter().next()
    }

    #[test]
    fn three_per_cent_either_way_pass_and_one_more_instruction_fails() {
        for now in [970, 999, 1000, 1001, 1030] {
            assert_eq!(one(1000, now), None, "{now}");
        }
        assert!(one(1000, 1031).unwrap().contains("slower"));
        assert!(one(1000, 969).unwrap().contains("faster"));
    }

    #[test]
    fn small_benchmarks_may_differ_by_a_few_instructions() {
        for now in [7, 10, 13] {
            assert_eq!(one(10, now), None, "{now}");
        }
        assert!(one(10, 14).is_some());
        assert!(one(10, 6).is_some());
    }

    #[test]
    fn a_failure_has_both_counts_the_per_cent_and_the_command() {
        assert_eq!(
            one(1000, 1084).unwrap(),
            "b: baseline 1000 instructions, now 1084 (+8.4 %), slower; only if it has to be, \
             record a new baseline: `cargo xtask record-instructions`"
        );
    }

    #[test]
    fn benchmarks_that_only_one_side_has_fail() {
        let comparison = compare(
            &counts("rustc", &[("gone", 10), ("kept", 10)]),
            &counts("rustc", &[("kept", 10), ("new", 10)]),
        );
        assert_eq!(comparison.passed, 1);
        assert_eq!(comparison.failures.len(), 2);
        assert!(comparison.failures[0].starts_with("new: 10 instructions"));
        assert!(comparison.failures[1].starts_with("gone: "));
    }

    #[test]
    fn another_compiler_is_named_only_when_something_fails() {
        let recorded = counts("rustc 1", &[("b", 1000)]);
        assert_eq!(
            compare(&recorded, &counts("rustc 2", &[("b", 1000)])).advice,
            None
        );
        let advice = compare(&recorded, &counts("rustc 2", &[("b", 2000)])).advice;
        let advice = advice.unwrap();
        assert!(
            advice.contains("rustc 1") && advice.contains("rustc 2"),
            "{advice}"
        );
    }

    #[test]
    fn a_written_baseline_reads_the_same() {
        let path = std::env::temp_dir().join(format!("relay-xtask-{}.json", std::process::id()));
        counts("rustc", &[("a::b", 7)]).write(&path).unwrap();
        let read = Baseline::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(read.compiler, "rustc");
        assert_eq!(read.instructions, counts("", &[("a::b", 7)]).instructions);
    }
}
