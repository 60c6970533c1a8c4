//! Compiles the kernel programs: the relay's to `target/ebpf/relay.o` (XDP) and
//! `target/ebpf/relay-filter.o` (the socket filter), the benchmark's to `target/ebpf/bench.o`.
//!
//! They have their own target directory, so that building them never makes cargo rebuild user
//! space, nor the other way round; and an object is replaced only when its bytes change, so that
//! cargo does not rebuild what embeds it without need.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    process,
    setup::{self, EbpfToolchain, Report},
    workspace::Workspace,
};

const TARGET: &str = "bpfel-unknown-none";
/// The first LLVM that can be allowed to load unaligned words.
const UNALIGNED_SINCE: u32 = 22;

/// Compiles the relay's XDP program and its socket filter.
pub fn build(ws: &Workspace) -> Result<()> {
    for (program, loads, object) in [
        ("relay-ebpf", Loads::Unaligned, ws.ebpf_object()),
        ("relay-filter", Loads::Aligned, ws.filter_object()),
    ] {
        let built = compile(ws, "relay-ebpf", program, loads)?;
        install(ws, &built, &object)?;
    }
    Ok(())
}

/// Compiles the benchmark's programs; returns the path of their object.
pub fn build_bench(ws: &Workspace) -> Result<PathBuf> {
    let program = "relay-bench-ebpf";
    let built = compile(ws, program, program, Loads::Aligned)?;
    let object = ws.bench_object();
    install(ws, &built, &object)?;
    Ok(object)
}

/// Which words a program may load with one instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loads {
    /// Words that are aligned to their own size.
    Aligned,
    /// Any word. On the machines that have fast NICs the verifier allows an unaligned load from a
    /// frame and from nothing else, so whatever else the program loads must be aligned.
    Unaligned,
}

/// Compiles the binary `program` of `package` and returns where it is.
fn compile(ws: &Workspace, package: &str, program: &str, loads: Loads) -> Result<PathBuf> {
    setup::system(setup::Purpose::Build)?;
    let toolchain = setup::ebpf(ws, Report::Installs)?;
    let folder = ws.target.join("ebpf-build");
    let mut cargo = cargo_rustc(ws, package, &toolchain, &folder);
    cargo.args(["--bin", program]);
    // An older LLVM loads an unaligned word in halves, which is correct as well.
    if loads == Loads::Unaligned && toolchain.compiler.version.llvm >= UNALIGNED_SINCE {
        // rustc warns that it does not know this feature of LLVM, and only switching all warnings
        // off silences that; clippy, in `cargo xtask test`, still sees the warnings of the
        // programs.
        cargo.args(["--", "-Ctarget-feature=+allows-misaligned-mem-access"]);
        cargo.arg("-Awarnings");
    }
    process::run(&mut cargo)?;
    Ok(folder.join(TARGET).join("release").join(program))
}

/// Copies the binary `built` to `object`, where the builds and programs that use it look.
fn install(ws: &Workspace, built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("reading {}", built.display()))?;
    ensure!(
        has_btf(&bytes),
        "{} has no BTF, which the kernel needs to name types and lines: did bpf-linker run without \
         --btf?",
        built.display()
    );
    replace(object, &bytes)?;
    println!("{} ({} KiB)", ws.shown(object), bytes.len() / 1024);
    Ok(())
}

fn cargo_rustc(ws: &Workspace, package: &str, toolchain: &EbpfToolchain, folder: &Path) -> Command {
    let EbpfToolchain { compiler, linker } = toolchain;
    let mut cargo = ws.cargo();
    cargo
        .args(["rustc", "--release", "--locked", "--package", package])
        .args(["--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTC", &compiler.rustc)
        // build-std is not stable; this makes a stable compiler accept it.
        .env("RUSTC_BOOTSTRAP", "1")
        // Full debug information everywhere: with less, bpf-linker makes invalid BTF of functions
        // of other crates. A user's RUSTFLAGS are for another target.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Cdebuginfo=2\x1f-Clink-arg=--btf",
        )
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker.program)
        // bpf-linker itself optimises across crates; it reads bitcode, not ThinLTO's form of it.
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    linker.prepare(&mut cargo);
    cargo
}

/// Whether an object contains BTF: the header of the section .BTF, little endian, is the magic
/// number, version 1, no flags, and its own length of 24 bytes (that of .BTF.ext has 32).
fn has_btf(object: &[u8]) -> bool {
    const HEADER: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
    object.windows(HEADER.len()).any(|window| window == HEADER)
}

/// Writes only if the bytes differ, and never leaves half an object.
fn replace(object: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = object.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let part = object.with_extension("part");
    fs::write(&part, bytes).with_context(|| format!("writing {}", part.display()))?;
    fs::rename(&part, object).with_context(|| format!("replacing {}", object.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn btf_is_told_from_its_extension() {
        let header = |length| [b"\x7fELF", &[0x9f, 0xeb, 1, 0, length, 0, 0, 0][..], b"x"].concat();
        assert!(has_btf(&header(24)));
        assert!(!has_btf(&header(32)));
        assert!(!has_btf(b""));
    }

    #[test]
    fn an_unchanged_object_is_not_written_again() {
        let folder = std::env::temp_dir().join(format!("relay-xtask-{}", std::process::id()));
        let object = folder.join("ebpf/relay.o");
        // What is written again is another file: its time could be the same.
        let inode = || fs::metadata(&object).unwrap().ino();
        replace(&object, b"one").unwrap();
        let first = inode();
        replace(&object, b"one").unwrap();
        assert_eq!(inode(), first);
        replace(&object, b"two").unwrap();
        assert_ne!(inode(), first);
        assert_eq!(fs::read(&object).unwrap(), b"two");
        fs::remove_dir_all(&folder).unwrap();
    }
}
