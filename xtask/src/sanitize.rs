//! `cargo xtask sanitize address|thread`: the end-to-end tests with a relay that a sanitizer
//! watches.
//!
//! The relay is built by the nightly compiler, with its chunks poisoned when they become free. A
//! defect that the sanitizer sees ends the relay with its report on stderr, so the test that
//! started it fails. ThreadSanitizer must see every access, so the standard library is built with
//! it.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{build, native_xdp, nightly_toolchain, process, workspace::Workspace};

/// The test binaries that run. Not `lasting`, which compares memory, and `in_process`, whose worker
/// is inside the test's process.
const TESTS: [&str; 3] = ["run", "live", "faults"];

/// libxdp copies 15 bytes of an interface's name, however short it is (`xsk_create_ctx` in
/// lib/libxdp/xsk.c). The least that malloc gives has more.
const SUPPRESSED: &str = "interceptor_via_fun:xsk_create_ctx\n";

/// A sanitizer.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Sanitizer {
    /// Memory that is not the relay's, or not any more
    Address,
    /// Data races
    Thread,
}

impl Sanitizer {
    /// As the compiler calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Thread => "thread",
        }
    }
}

/// Builds the relay, and runs the tests whose names contain `filter`.
pub fn run(ws: &Workspace, sanitizer: Sanitizer, filter: Option<&str>) -> Result<ExitCode> {
    native_xdp::check(ws)?;
    build::poisoned(ws)?;
    let relay = relay(ws, sanitizer)?;
    let suppressed = ws.target.join(sanitizer.name()).join("suppressions");
    fs::write(&suppressed, SUPPRESSED)
        .with_context(|| format!("writing {}", suppressed.display()))?;
    let mut cargo = ws.cargo_of_all("test");
    cargo
        .args(TESTS.iter().flat_map(|name| ["--test", name]))
        .arg("--no-fail-fast")
        .env("RELAY_BIN", &relay)
        .env("RELAY_POISONED_BIN", &relay)
        .env(
            "ASAN_OPTIONS",
            // What lives as long as the process is not freed.
            format!("detect_leaks=0:suppressions={}", suppressed.display()),
        )
        .env("TSAN_OPTIONS", "halt_on_error=1");
    if let Some(filter) = filter {
        cargo.args(["--", filter]);
    }
    Ok(process::exit_code(process::status(&mut cargo)?))
}

/// Builds it.
fn relay(ws: &Workspace, sanitizer: Sanitizer) -> Result<PathBuf> {
    nightly_toolchain::compiler()?;
    let name = sanitizer.name();
    let target = ws.target.join(name);
    let objects = target.join("ebpf");
    fs::create_dir_all(&objects).with_context(|| format!("creating {}", objects.display()))?;
    for object in ["relay.o", "relay-filter.o"] {
        fs::copy(ws.target.join("ebpf").join(object), objects.join(object))
            .with_context(|| format!("copying {object} to {}", objects.display()))?;
    }
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut command = Command::new("cargo");
    nightly_toolchain::use_in(&mut command)
        .current_dir(&ws.root)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", format!("-Zsanitizer={name}"))
        .args(["build", "--release", "--locked"])
        .args(["--package", "relay-userspace", "--target", &triple])
        .args(["--features", "relay-userspace/poison-chunks"]);
    if let Sanitizer::Thread = sanitizer {
        command.arg("-Zbuild-std");
    }
    process::run(&mut command)?;
    Ok(target.join(triple).join("release/relay"))
}
