//! Counts tests by reading what libtest prints, so that "all passed" also means "all ran".

/// The most lines, and the most characters of each, that are kept of what a failed test said.
const LINES: usize = 4;
const CHARACTERS: usize = 400;

/// What the test binaries of a step reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests that an attribute leaves out.
    pub ignored: usize,
    /// Tests that the filter leaves out.
    pub filtered: usize,
    /// Those that failed.
    pub failures: Vec<Failure>,
    /// The failed test, by its position, whose output is being read.
    pub speaking: Option<usize>,
    /// Whether a filter was given: only then may tests be left out.
    pub filter_given: bool,
    /// What else went wrong, such as a test binary that crashed.
    pub other: Option<String>,
}

/// A test that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// The first lines that it said.
    pub said: Vec<String>,
}

impl Failure {
    /// One that says nothing beside its name.
    pub fn of(name: String) -> Self {
        Self {
            name,
            said: Vec::new(),
        }
    }
}

impl Counts {
    /// Counts what one line of output reports.
    pub fn read(&mut self, line: &str) {
        if let Some(result) = Totals::parse(line) {
            self.passed += result.passed;
            self.failed += result.failed;
            self.ignored += result.ignored;
            self.filtered += result.filtered;
            self.speaking = None;
        } else if let Some(name) = failed_test(line) {
            self.failures.push(Failure::of(name.to_owned()));
        } else if let Some(name) = speaker(line) {
            let mut failures = self.failures.iter();
            self.speaking = failures.rposition(|failure| failure.name == name);
        } else if let Some(at) = self.speaking
            && let Some(failure) = self.failures.get_mut(at)
            && failure.said.len() < LINES
            && !line.trim().is_empty()
        {
            failure.said.push(line.chars().take(CHARACTERS).collect());
        }
    }

    /// Adds those of other test binaries of the step.
    pub fn add(&mut self, others: Self) {
        self.passed += others.passed;
        self.failed += others.failed;
        self.ignored += others.ignored;
        self.filtered += others.filtered;
        self.failures.extend(others.failures);
        self.other = self.other.take().or(others.other);
    }

    /// How many tests ran.
    pub fn ran(&self) -> usize {
        self.passed + self.failed
    }

    /// All that keeps a step from passing.
    pub fn problems(&self) -> Vec<String> {
        let failures = self.failures.iter();
        let mut problems: Vec<String> = failures
            .map(|failure| {
                let said = failure.said.iter().map(|line| format!("\n    {line}"));
                failure.name.clone() + &said.collect::<String>()
            })
            .collect();
        if self.failed > self.failures.len() {
            problems.push(format!("{} tests failed", self.failed));
        }
        if self.ignored > 0 {
            problems.push(format!("{} tests are ignored", self.ignored));
        }
        if self.filtered > 0 && !self.filter_given {
            problems.push(format!("{} tests were filtered out", self.filtered));
        }
        problems.extend(self.other.clone());
        problems
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: usize,
    failed: usize,
    ignored: usize,
    filtered: usize,
}

impl Totals {
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; ...`
    fn parse(line: &str) -> Option<Self> {
        let (_, parts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut totals = Self::default();
        for part in parts.split("; ") {
            let Some((number, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let place = match what {
                "passed" => &mut totals.passed,
                "failed" => &mut totals.failed,
                "ignored" => &mut totals.ignored,
                "filtered out" => &mut totals.filtered,
                _ => continue,
            };
            *place = number.parse().ok()?;
        }
        Some(totals)
    }
}

/// `test forwarding::one_to_four ... FAILED`
fn failed_test(line: &str) -> Option<&str> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    (result.trim() == "FAILED").then_some(name)
}

/// `---- forwarding::one_to_four stdout ----`: what follows is what it said.
fn speaker(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; \
        3 filtered out; finished in 0.01s";
    const BAD: &str = "test result: FAILED. 4 passed; 2 failed; 1 ignored; 0 measured; \
        0 filtered out; finished in 1.50s";

    fn read(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        for line in lines {
            counts.read(line);
        }
        counts
    }

    #[test]
    fn results_of_several_binaries_are_added() {
        let counts = read(&["running 12 tests", OK, "", BAD]);
        assert_eq!((counts.passed, counts.failed), (16, 2));
        assert_eq!((counts.ignored, counts.filtered), (1, 3));
        assert_eq!(counts.ran(), 18);
    }

    #[test]
    fn other_lines_count_nothing() {
        let lines = [
            "test result",
            "test result: ok",
            "5 passed; 3 failed",
            "test a ... ok",
        ];
        assert_eq!(read(&lines), Counts::default());
    }

    #[test]
    fn failed_tests_are_named() {
        let counts = read(&[
            "test a::b ... FAILED",
            "test c - d (line 3) ... FAILED",
            BAD,
        ]);
        let names: Vec<&str> = counts.failures.iter().map(|one| &one.name[..]).collect();
        assert_eq!(names, ["a::b", "c - d (line 3)"]);
        assert!(counts.problems().contains(&"a::b".to_owned()));
    }

    #[test]
    fn a_failed_test_is_quoted() {
        let counts = read(&[
            "test a ... FAILED",
            "test b ... FAILED",
            "failures:",
            "---- a stdout ----",
            "",
            "thread 'a' panicked at a.rs:1:2:",
            "3 of 4 arrived",
            "---- b stdout ----",
            "Error: no such file",
            BAD,
            "not of any test",
        ]);
        assert_eq!(
            counts.problems(),
            [
                "a\n    thread 'a' panicked at a.rs:1:2:\n    3 of 4 arrived",
                "b\n    Error: no such file",
                "1 tests are ignored"
            ]
        );
    }

    #[test]
    fn an_ignored_test_is_a_problem() {
        let counts = Counts {
            passed: 1,
            ignored: 1,
            ..Counts::default()
        };
        assert_eq!(counts.problems(), ["1 tests are ignored"]);
    }

    #[test]
    fn a_filtered_test_is_a_problem_only_without_a_filter() {
        let mut counts = read(&[OK]);
        assert_eq!(counts.problems(), ["3 tests were filtered out"]);
        counts.filter_given = true;
        assert!(counts.problems().is_empty());
    }

    #[test]
    fn failures_without_names_are_still_a_problem() {
        let counts = Counts {
            failed: 2,
            ..Counts::default()
        };
        assert_eq!(counts.problems(), ["2 tests failed"]);
    }
}
