//! Where things are: the repository, its target directory, and the programs that xtask puts there.
//!
//! Cargo is asked for the target directory, so `CARGO_TARGET_DIR` and cargo's own configuration are
//! respected.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::Deserialize;

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
    /// Asks cargo where they are.
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask is not inside a workspace: run it as `cargo xtask`")?
            .to_path_buf();
        let metadata: Metadata = serde_json::from_str(&metadata_of(&root)?)
            .context("reading the target directory that `cargo metadata` names")?;
        Ok(Self {
            root,
            target: metadata.target_directory,
        })
    }

    /// What `cargo metadata` says of its packages.
    pub fn metadata(&self) -> Result<String> {
        metadata_of(&self.root)
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

    /// The compiled socket filter; `relay-userspace/build.rs` looks for it here.
    pub fn filter_object(&self) -> PathBuf {
        self.target.join("ebpf").join("relay-filter.o")
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

    /// The same for all packages but the kernel programs, which compile for another target only.
    /// Further arguments say what of them is built. With fewer packages their dependencies would
    /// have other features, and nearly all would be compiled once more.
    pub fn cargo_of_all(&self, command: &str) -> Command {
        let mut cargo = self.cargo();
        cargo.args([command, "--workspace", "--locked"]);
        cargo.args(["--exclude", "relay-ebpf", "--exclude", "relay-bench-ebpf"]);
        cargo
    }

    /// A path as a reader wants to see it: relative to the repository if it is inside.
    pub fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn metadata_of(root: &Path) -> Result<String> {
    process::capture(
        Command::new(cargo_program())
            .args(["metadata", "--no-deps", "--offline"])
            .args(["--format-version", "1", "--manifest-path"])
            .arg(root.join("Cargo.toml")),
    )
}

/// The fields of `cargo metadata` that are used here.
#[derive(Debug, Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}
