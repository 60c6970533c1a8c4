//! `cargo xtask ci --nightly`: everything that `test` runs, and then what takes longer.
//!
//! The parts are independent: one that fails does not keep the others from running, and the whole
//! fails if any of them does.

use std::{
    ffi::OsString,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{bench, fuzz, loom, miri, mutants, soak, test, vm, workspace::Workspace};

/// The scenarios of the benchmark that are compared with the commit before, and how.
const BENCH: [&str; 5] = [
    "1-1,1-16,1-16-100flows",
    "--quick",
    "--contenders",
    "relay,relay-before",
    "--json",
];

/// How long each fuzz target looks.
const FUZZ_SECONDS: u32 = 600;

/// How long everything happens at once, on each backend.
const SOAK_MINUTES: f64 = 30.0;

/// The result of a part.
struct Part {
    name: &'static str,
    time: Duration,
    passed: bool,
    /// The error of a part that did not run to its end.
    error: Option<String>,
}

/// Runs all of them.
pub fn run(ws: &Workspace) -> Result<ExitCode> {
    let kernels = vm::Options {
        filter: None,
        kernel: Some("all".to_owned()),
        iommu: false,
    };
    let parts = [
        part("all tests", || test::run(ws, None)),
        part("endurance, and random changes", || test::long(ws)),
        part("soak, half an hour per backend", || {
            soak::run(ws, &soak::Options::lasting(SOAK_MINUTES))
        }),
        part("zero copy on all kernels", || vm::run(ws, &kernels)),
        part("fuzzing, ten minutes per target", || {
            fuzz::run(ws, None, FUZZ_SECONDS)
        }),
        part("models of threads", || loom::run(ws)),
        part("Miri", || miri::run(ws)),
        part("mutants", || mutants::run(ws, None)),
        part("benchmark against the commit before", || {
            bench::run(ws, &bench_args(ws))
        }),
    ];
    println!();
    print!("{}", table(&parts));
    Ok(if parts.iter().all(|part| part.passed) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The arguments of the benchmark.
fn bench_args(ws: &Workspace) -> Vec<OsString> {
    let mut args: Vec<OsString> = BENCH.map(OsString::from).to_vec();
    args.push(ws.target.join("nightly-bench.json").into());
    args.extend(["--against-commit", "HEAD^"].map(OsString::from));
    args
}

fn part(name: &'static str, body: impl FnOnce() -> Result<ExitCode>) -> Part {
    println!("\n==== {name}");
    let started = Instant::now();
    let (passed, error) = match body() {
        Ok(code) => (code == ExitCode::SUCCESS, None),
        Err(error) => (false, Some(format!("{error:#}"))),
    };
    if let Some(error) = &error {
        eprintln!("error: {error}");
    }
    Part {
        name,
        time: started.elapsed(),
        passed,
        error,
    }
}

fn table(parts: &[Part]) -> String {
    let row = |part: &Part| {
        let result = if part.passed { "ok" } else { "FAILED" };
        let seconds = part.time.as_secs();
        let why = part.error.as_ref().and_then(|error| error.lines().next());
        let why = why.map(|why| format!("  {why}")).unwrap_or_default();
        format!("{:<38} {result:<8} {seconds:>6} s{why}\n", part.name)
    };
    parts.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_part_passes_only_with_the_exit_code_of_success() {
        assert!(part("a", || Ok(ExitCode::SUCCESS)).passed);
        assert!(!part("b", || Ok(ExitCode::FAILURE)).passed);
        assert!(!part("not run", || Ok(ExitCode::from(3))).passed);
        let failed = part("c", || bail!("no\nluck"));
        assert!(!failed.passed);
        assert!(table(&[failed]).contains("FAILED        0 s  no\n"));
    }
}
