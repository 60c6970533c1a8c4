//! Embeds the XDP program that `cargo xtask build-ebpf` left in the target directory.
//!
//! Without it the crate still builds, so that `cargo check`, clippy and editors work in a fresh clone; such
//! a binary says so when it is asked to run.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(relay_ebpf_embedded)");
    println!("cargo::rerun-if-env-changed=RELAY_EBPF_OBJECT");
    let out = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    let object = env::var_os("RELAY_EBPF_OBJECT")
        .map(PathBuf::from)
        .or_else(|| target_directory(&out).map(|target| target.join("ebpf").join("relay.o")));
    let Some(object) = object else {
        return Ok(());
    };
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        fs::copy(&object, out.join("relay.o"))?;
        println!("cargo::rustc-cfg=relay_ebpf_embedded");
    }
    Ok(())
}

/// The target directory: `OUT_DIR` is target/profile/build/package-hash/out, with the triple behind
/// target where one was named.
fn target_directory(out: &Path) -> Option<PathBuf> {
    let profile = out.ancestors().nth(3)?;
    let above = profile.parent()?;
    let triple = env::var("TARGET").ok()?;
    let target = if above.ends_with(&triple) {
        above.parent()?
    } else {
        above
    };
    Some(target.to_path_buf())
}
