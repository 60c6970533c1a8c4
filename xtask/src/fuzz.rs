//! `cargo xtask fuzz`: looks for inputs that break what the targets in fuzz/ say must hold.
//!
//! The committed corpus of a target is where the search begins, and is not changed. Inputs that
//! reach new code are kept in target/fuzz/corpus, where the next search finds them; docs/assurance.md
//! says how they become part of the committed corpus. An input that breaks something is written to
//! fuzz/artifacts, and named.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{nightly_toolchain, process, setup, workspace::Workspace};

/// The longest input in bytes.
const MOST_BYTES: u32 = 4096;
/// The most seconds that one input may take: each takes less than a millisecond.
const SLOW_SECONDS: u32 = 10;

/// Searches with one target, or with each in turn, for so many seconds each.
pub fn run(ws: &Workspace, target: Option<&str>, seconds: u32) -> Result<ExitCode> {
    nightly_toolchain::compiler()?;
    let all = targets(ws)?;
    let chosen: Vec<&String> = match target {
        None => all.iter().collect(),
        Some(name) => all.iter().filter(|one| *one == name).collect(),
    };
    if chosen.is_empty() {
        bail!("there is no such target; there are {}", all.join(", "));
    }
    let cargo_fuzz = setup::cargo_fuzz(ws)?;
    let mut broken = Vec::new();
    for name in chosen {
        println!("\n---- {name}: {seconds} s");
        let mut search = search(ws, &cargo_fuzz, name, seconds)?;
        if !process::status(&mut search)?.success() {
            broken.push(name.as_str());
        }
    }
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("what must hold was broken: {}", broken.join(", "))
}

/// The names of all targets.
fn targets(ws: &Workspace) -> Result<Vec<String>> {
    let folder = ws.root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// The program that searches.
fn search(ws: &Workspace, cargo_fuzz: &Path, target: &str, seconds: u32) -> Result<Command> {
    let built = ws.target.join("fuzz");
    let found: PathBuf = built.join("corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("creating {}", found.display()))?;
    let committed = ws.root.join("fuzz/corpus").join(target);
    let mut command = Command::new(cargo_fuzz);
    nightly_toolchain::use_in(&mut command)
        .current_dir(&ws.root)
        .args(["fuzz", "run", "--features", "libfuzzer", "--target-dir"])
        .arg(built)
        .arg(target)
        .arg(found)
        .arg(committed)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MOST_BYTES}"))
        .arg(format!("-timeout={SLOW_SECONDS}"))
        .args(["-verbosity=0", "-print_final_stats=1"]);
    Ok(command)
}
