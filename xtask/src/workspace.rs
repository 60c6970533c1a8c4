//! Where things are: the repository, its target directory, and the programs that xtask puts there.
//!
//! `CARGO_TARGET_DIR` and cargo's own configuration are respected: the target directory is whatever
//! cargo says it is.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// The places that the commands share.
#[derive(Debug)]
pub struct Workspace {
    /// The root of the repository.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask is not inside a workspace: run it as `cargo xtask`")?
            .to_path_buf();
        let metadata = process::capture(
            Command::new(cargo_program())
                .args([
                    "metadata",
                    "--no-deps",
                    "--offline",
                    "--format-version",
                    "1",
                ])
                .arg("--manifest-path")
                .arg(root.join("Cargo.toml")),
        )?;
        let Some(target) = target_directory(&metadata) else {
            bail!("`cargo metadata` names no target directory: is cargo older than 1.95?");
        };
        Ok(Self {
            root,
            target: PathBuf::from(target),
        })
    }

    /// Where programs that only this repository needs are installed.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// A program installed by `setup`.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools().join("bin").join(name)
    }

    /// The compiled XDP program; `relay-userspace/build.rs` looks for it here.
    pub fn ebpf_object(&self) -> PathBuf {
        self.target.join("ebpf").join("relay.o")
    }

    /// The benchmark's compiled kernel programs.
    pub fn bench_object(&self) -> PathBuf {
        self.target.join("ebpf").join("bench.o")
    }

    /// A binary of the release profile.
    pub fn release(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// `cargo` in the root of the repository.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        process::without_own_environment(&mut command);
        command.env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// A path as a reader wants to see it: relative to the repository if it is inside.
    pub fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// The value of `target_directory` in the output of `cargo metadata`. A JSON parser for one
/// string would triple the time to compile xtask.
fn target_directory(metadata: &str) -> Option<String> {
    let (_, rest) = metadata.split_once("\"target_directory\":\"")?;
    let mut value = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => match chars.next()? {
                c @ ('"' | '\\' | '/') => value.push(c),
                _ => return None,
            },
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_is_read_from_the_metadata() {
        let metadata = r#"{"resolve":null,"target_directory":"/a \"b\"/c\\d","version":1}"#;
        assert_eq!(target_directory(metadata).unwrap(), r#"/a "b"/c\d"#);
    }

    #[test]
    fn metadata_without_an_end_gives_no_directory() {
        assert_eq!(target_directory(r#"{"target_directory":"/a"#), None);
        assert_eq!(target_directory("{}"), None);
    }
}
