//! The steps of a run of tests: each is shown while it runs, and the table at the end has them all.
//!
//! A step that fails does not keep the others from running, and a run without any test fails.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::counts::Counts;

/// One step that ran.
#[derive(Debug)]
struct Step {
    name: String,
    time: Duration,
    /// What went wrong, in one sentence each.
    problems: Vec<String>,
    counts: Counts,
}

/// The steps of one run.
#[derive(Debug, Default)]
pub struct Run {
    steps: Vec<Step>,
}

impl Run {
    /// Runs a step and says whether it passed.
    pub fn step(&mut self, name: impl Into<String>, body: impl FnOnce() -> Result<Counts>) -> bool {
        let name = name.into();
        println!("\n== {name}");
        let started = Instant::now();
        let (counts, mut problems) = match body() {
            Ok(counts) => {
                let problems = counts.problems();
                (counts, problems)
            }
            Err(error) => (Counts::default(), vec![format!("{error:#}")]),
        };
        problems.dedup();
        for problem in &problems {
            eprintln!("{name}: {problem}");
        }
        let passed = problems.is_empty();
        self.steps.push(Step {
            name,
            time: started.elapsed(),
            problems,
            counts,
        });
        passed
    }

    /// Prints the table of a run of the tests whose name contains `filter`, or of all; the last
    /// line is the count.
    pub fn finish(&self, filter: Option<&str>) -> ExitCode {
        println!("\n{}", self.table());
        let (passed, failed) = self.totals();
        if let Some(filter) = filter
            && passed == 0
        {
            println!("no test passed whose name contains {filter:?}");
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let longest = self.steps.iter().map(|step| step.name.len()).max();
        let width = longest.unwrap_or_default().max(26);
        for step in &self.steps {
            let result = if step.problems.is_empty() {
                "ok"
            } else {
                "FAILED"
            };
            let tests = match step.counts.ran() {
                0 => String::new(),
                ran => format!("{ran} tests"),
            };
            text += &format!(
                "{:<width$} {result:<8} {:>6.1} s  {tests}\n",
                step.name,
                step.time.as_secs_f32()
            );
        }
        for step in &self.steps {
            for problem in &step.problems {
                text += &format!("failed: {}: {problem}\n", step.name);
            }
        }
        text
    }

    /// How many tests passed, and how many failed; a step that failed without a failed test counts
    /// as one.
    fn totals(&self) -> (usize, usize) {
        let sum = |count: fn(&Step) -> usize| self.steps.iter().map(count).sum::<usize>();
        let passed = sum(|step| step.counts.passed);
        let mut failed = sum(|step| match step.counts.failed {
            0 if !step.problems.is_empty() => 1,
            failed => failed,
        });
        if passed == 0 && failed == 0 {
            failed = 1;
        }
        (passed, failed)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn counts(passed: usize, failed: usize) -> Result<Counts> {
        Ok(Counts {
            passed,
            failed,
            ..Counts::default()
        })
    }

    #[test]
    fn passed_and_failed_tests_of_all_steps_are_added() {
        let mut run = Run::default();
        assert!(run.step("a", || counts(3, 0)));
        assert!(!run.step("b", || counts(4, 2)));
        assert_eq!(run.totals(), (7, 2));
    }

    #[test]
    fn a_step_that_fails_without_a_failed_test_counts_as_one_failure() {
        let mut run = Run::default();
        run.step("unit", || counts(3, 0));
        assert!(!run.step("clippy", || bail!("a warning")));
        assert_eq!(run.totals(), (3, 1));
        assert!(run.table().contains("failed: clippy: a warning"));
    }

    #[test]
    fn a_run_without_any_test_fails() {
        let mut run = Run::default();
        run.step("unit", || counts(0, 0));
        assert_eq!(run.totals(), (0, 1));
    }
}
