//! The relay of another commit, to compare with: checked out into target/against, and built by the
//! xtask of that commit, so that the kernel programs are of that commit too.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{process, workspace::Workspace};

/// The option that asks for it.
const OPTION: &str = "--against-commit";

/// Takes the option out of the arguments of `relay-bench`, wherever it stands; returns its value
/// and the other arguments.
pub fn take(args: &[OsString]) -> Result<(Option<String>, Vec<OsString>)> {
    let (mut commit, mut rest) = (None, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = match arg.to_str().and_then(|arg| arg.strip_prefix(OPTION)) {
            Some("") => args.next().and_then(|value| value.to_str()),
            Some(value) if value.starts_with('=') => Some(&value[1..]),
            _ => {
                rest.push(arg.clone());
                continue;
            }
        };
        match value.filter(|value| !value.is_empty() && !value.starts_with('-')) {
            Some(value) => commit = Some(value.to_owned()),
            None => bail!("{OPTION} needs a commit: for example {OPTION} HEAD~1"),
        }
    }
    Ok((commit, rest))
}

/// Builds the relay of `commit`, once; returns its binary.
pub fn build(ws: &Workspace, commit: &str) -> Result<PathBuf> {
    let hash = process::capture(
        git(&ws.root)
            .args(["rev-parse", "--verify", "--quiet"])
            .arg(format!("{commit}^{{commit}}")),
    )
    .with_context(|| format!("{OPTION} {commit}: `git log --oneline` lists the commits"))?;
    let hash = hash.trim();
    let folder = ws.target.join("against");
    let binary = folder.join(format!("relay-{hash}"));
    if binary.is_file() {
        println!("{} is there already", ws.shown(&binary));
        return Ok(binary);
    }
    let (tree, target) = (folder.join("tree"), folder.join("target"));
    fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
    // Both commits use what `setup` has installed.
    let tools = target.join("tools");
    if !tools.exists() {
        fs::create_dir_all(ws.tools())
            .and_then(|()| std::os::unix::fs::symlink(ws.tools(), &tools))
            .with_context(|| format!("making the link {}", tools.display()))?;
    }
    remove(ws, &tree)?;
    process::run(
        git(&ws.root)
            .args(["worktree", "add", "--quiet", "--detach", "--force"])
            .arg(&tree)
            .arg(hash),
    )?;
    let built = process::run(
        ws.cargo()
            .current_dir(&tree)
            .env("CARGO_TARGET_DIR", &target)
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                "xtask",
                "--",
                "build",
            ]),
    )
    .with_context(|| format!("building the relay of {commit}"));
    let removed = remove(ws, &tree);
    built.and(removed)?;
    let relay = target.join("release").join("relay");
    fs::copy(&relay, &binary)
        .with_context(|| format!("copying {} to {}", relay.display(), binary.display()))?;
    println!("{} is the relay of {commit}", ws.shown(&binary));
    Ok(binary)
}

/// Removes the checkout, also one that a killed run left behind.
fn remove(ws: &Workspace, tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("removing {}", tree.display()))?;
    }
    process::run(git(&ws.root).args(["worktree", "prune"]))
}

fn git(root: &Path) -> Command {
    let mut git = Command::new(OsStr::new("git"));
    git.current_dir(root);
    git
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(words: &[&str]) -> Result<(Option<String>, Vec<OsString>)> {
        take(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_commit_is_taken_out_wherever_it_stands() {
        for words in [
            &["1-16", "--quick", "--against-commit", "v1"][..],
            &["--against-commit", "v1", "1-16", "--quick"],
            &["1-16", "--against-commit=v1", "--quick"],
        ] {
            let (commit, rest) = taken(words).unwrap();
            assert_eq!(commit.as_deref(), Some("v1"));
            assert_eq!(rest, ["1-16", "--quick"]);
        }
        let (commit, rest) = taken(&["--against", "path"]).unwrap();
        assert_eq!((commit, rest.len()), (None, 2));
    }

    #[test]
    fn without_a_commit_it_is_refused() {
        for words in [
            &["--against-commit"][..],
            &["--against-commit", "--quick"],
            &["--against-commit="],
        ] {
            let error = taken(words).unwrap_err().to_string();
            assert!(error.contains("needs a commit"), "{error}");
        }
    }
}
