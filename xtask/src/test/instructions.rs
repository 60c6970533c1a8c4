//! The step that counts instructions: runs the benchmarks of the forwarding loop's arithmetic under
//! callgrind and compares each count with the committed baseline.
//!
//! Only [`record`] writes the baseline, which is a command of its own: a test run never moves what
//! it is measured by.

mod baseline;

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use self::baseline::{Baseline, Instructions};
use crate::{
    counts::{Counts, Failure},
    process,
    setup::{self, Purpose},
    workspace::Workspace,
};

/// Counts and compares; a benchmark within the tolerance is a test that passed.
pub fn compare(ws: &Workspace) -> Result<Counts> {
    let baseline = Baseline::read(&path(ws))?;
    let now = Baseline {
        compiler: compiler()?,
        instructions: measure(ws)?,
    };
    let comparison = baseline::compare(&baseline, &now);
    print!("{}", comparison.table);
    Ok(Counts {
        passed: comparison.passed,
        failed: comparison.failures.len(),
        failures: comparison.failures.into_iter().map(Failure::of).collect(),
        other: comparison.advice,
        ..Counts::default()
    })
}

/// `cargo xtask record-instructions`.
pub fn record(ws: &Workspace) -> Result<std::process::ExitCode> {
    setup::system(Purpose::Test)?;
    let now = Baseline {
        compiler: compiler()?,
        instructions: measure(ws)?,
    };
    let path = path(ws);
    now.write(&path)?;
    println!(
        "Wrote {}: {} benchmarks, {}",
        ws.shown(&path),
        now.instructions.len(),
        now.compiler
    );
    Ok(std::process::ExitCode::SUCCESS)
}

fn path(ws: &Workspace) -> PathBuf {
    ws.root.join("tests/instruction-counts/baseline.json")
}

/// Builds and runs the benchmarks.
fn measure(ws: &Workspace) -> Result<Instructions> {
    let runner = setup::gungraun_runner(ws)?;
    let bench = || {
        let mut cargo = ws.cargo_of_all("bench");
        cargo
            .args(["--bench", "instructions"])
            .env("GUNGRAUN_RUNNER", &runner)
            // Other flags, such as another target CPU, give other instructions.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo
    };
    process::run(bench().arg("--no-run"))?;
    let mut run = bench();
    run.args(["--", "--output-format=json", "--parallel=auto"]);
    let lines = process::capture(&mut run)?;
    let counted =
        read(&lines).with_context(|| format!("reading the output of `{}`", process::line(&run)))?;
    if counted.is_empty() {
        bail!("`{}` ran no benchmark", process::line(&run));
    }
    Ok(counted)
}

/// The fields of the runner's report on one benchmark that are used here.
#[derive(Debug, Deserialize)]
struct Summary {
    /// `file::group::function`.
    module_path: String,
    id: Option<String>,
    profiles: Vec<Profile>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    total: Total,
}

#[derive(Debug, Deserialize)]
struct Total {
    metrics: Metrics,
}

#[derive(Debug, Deserialize)]
struct Metrics {
    /// Instructions read, as callgrind calls them.
    #[serde(rename = "Ir")]
    instructions: Metric,
}

#[derive(Debug, Deserialize)]
struct Metric {
    values: Values,
}

/// If there was a run before, the runner adds its count as `old`.
#[derive(Debug, Deserialize)]
struct Values {
    new: u64,
}

/// Reads the runner's output: one line of JSON for each benchmark.
fn read(lines: &str) -> Result<Instructions> {
    let mut counted = Instructions::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let summary: Summary =
            serde_json::from_str(line).with_context(|| format!("this line: {line}"))?;
        let name = summary.name();
        let [profile] = &summary.profiles[..] else {
            bail!("{name} was not run by exactly one tool, which must be callgrind");
        };
        let count = profile.data.total.metrics.instructions.values.new;
        if counted.insert(name.clone(), count).is_some() {
            bail!("two benchmarks have the name {name}");
        }
    }
    Ok(counted)
}

impl Summary {
    /// `group::function::id`.
    fn name(&self) -> String {
        let path = match self.module_path.split_once("::") {
            Some((_, path)) => path,
            None => &self.module_path,
        };
        match &self.id {
            Some(id) => format!("{path}::{id}"),
            None => path.to_owned(),
        }
    }
}

/// The compiler that cargo uses, with everything that code generation depends on.
fn compiler() -> Result<String> {
    let rustc = env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    let mut command = Command::new(rustc);
    let said = process::capture(process::without_own_environment(&mut command).arg("-vV"))?;
    describe(&said).with_context(|| format!("this is no output of `rustc -vV`: {said}"))
}

/// `rustc 1.95.0 (59807616e 2026-04-14), LLVM 22.1.2, x86_64-unknown-linux-gnu`
fn describe(said: &str) -> Option<String> {
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    Some(format!(
        "{}, LLVM {}, {}",
        said.lines().next()?,
        field("LLVM version: ")?,
        field("host: ")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, id: &str, values: &str) -> String {
        format!(
            r#"{{"module_path":"{path}",{id}"version":"7","profiles":[{{"tool":"Callgrind","data":
            {{"parts":[],"total":{{"metrics":{{"Dr":{{"values":{{"new":1}}}},"Ir":{{"values":{values}}},
            "L1HitRate":{{"values":{{"new":92.9}}}}}}}}}}}}]}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn the_new_count_of_each_benchmark_is_read() {
        let lines = [
            line("file::wire::decode", r#""id":"tagged","#, r#"{"new":124}"#),
            line("file::wire::skip", r#""id":null,"#, r#"{"new":7,"old":9}"#),
        ]
        .join("\n");
        let expected = [("wire::decode::tagged", 124), ("wire::skip", 7)];
        assert_eq!(
            read(&lines).unwrap(),
            Instructions::from(expected.map(|(name, count)| (name.to_owned(), count)))
        );
    }

    #[test]
    fn output_without_a_new_count_is_an_error() {
        let line = line("file::wire::decode", "", r#"{"old":124}"#);
        assert!(read(&line).is_err());
        assert!(read("wire::decode 124").is_err());
    }

    #[test]
    fn a_name_that_comes_twice_is_an_error() {
        let line = line("file::wire::decode", "", r#"{"new":124}"#);
        let error = read(&format!("{line}\n{line}")).unwrap_err().to_string();
        assert!(error.contains("wire::decode"), "{error}");
    }

    #[test]
    fn a_compiler_is_described_by_release_llvm_and_host() {
        let said = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(
            describe(said).unwrap(),
            "rustc 1.95.0 (59807616e 2026-04-14), LLVM 22.1.2, x86_64-unknown-linux-gnu"
        );
        assert_eq!(describe("rustc 1.95.0\n"), None);
    }
}
