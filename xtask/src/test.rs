//! `cargo xtask test`: everything that must hold before a change is merged.
//!
//! Nothing is skipped silently: a machine that cannot run the end-to-end tests fails, an ignored
//! test fails, and so does a run in which no test ran. A failed step does not keep the others
//! from running.

pub mod instructions;
mod steps;
pub mod summary;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use self::summary::Counts;
use crate::{
    net, process,
    setup::{self, Purpose},
    workspace::Workspace,
    zero_copy,
};

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

    /// Prints the table of a run of the tests whose name contains `filter`, or of all; the last line is the count.
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
                let first = problem.lines().next().unwrap_or_default();
                text += &format!("failed: {}: {first}\n", step.name);
            }
        }
        text
    }

    /// Tests that passed, and what failed: tests, and steps that failed without a failed test.
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

/// Runs everything, or only the tests whose name contains `filter`.
pub fn run(ws: &Workspace, filter: Option<&str>) -> Result<ExitCode> {
    if !process::is_root() {
        bail!(
            "the tests need root: they make network namespaces and attach XDP programs. \
             Run them as root: sudo -E env PATH=\"$PATH\" cargo xtask test"
        );
    }
    setup::system(Purpose::Test)?;
    net::check_native_xdp(ws).context(
        "this machine cannot run the end-to-end tests, which need network namespaces, veth pairs \
         and native XDP on them (Linux 5.9 or newer, and in a container all capabilities)",
    )?;
    let mut run = Run::default();
    if filter.is_none() {
        run.step("format", || steps::format(ws));
    }
    let built = run.step("build", || steps::build(ws));
    if filter.is_none() {
        run.step("clippy", || steps::clippy(ws));
        run.step("clippy of the XDP program", || steps::clippy_ebpf(ws));
        run.step("dependencies", || steps::dependencies(ws));
        run.step("documentation", || steps::documentation(ws));
    }
    run.step("unit tests", || steps::unit(ws, filter));
    if filter.is_none() {
        run.step("instruction counts", || instructions::compare(ws));
    }
    run.step("end-to-end tests", || {
        if !built {
            bail!("not run, because the relay was not built");
        }
        steps::end_to_end(ws, filter)
    });
    if filter.is_none() {
        zero_copy::part_of_all(ws, &mut run);
    }
    Ok(run.finish(filter))
}

#[cfg(test)]
mod tests {
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
