//! Embeds the kernel programs into the binary.
//!
//! `cargo xtask build` compiles them first, to `ebpf` in cargo's target directory. Without them the
//! crate still compiles, for `cargo check` and editors in a fresh clone; the cfg
//! `relay_ebpf_embedded` is set only if they are embedded.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// The XDP program and the socket filter.
const OBJECTS: [&str; 2] = ["relay.o", "relay-filter.o"];

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(relay_ebpf_embedded)");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let folder = target_directory(&out)?.join("ebpf");
    if OBJECTS.iter().all(|object| folder.join(object).is_file()) {
        println!("cargo::rustc-cfg=relay_ebpf_embedded");
        for object in OBJECTS {
            println!("cargo::rerun-if-changed={}", folder.join(object).display());
            fs::copy(folder.join(object), out.join(object))?;
        }
    } else {
        // Cargo reruns a script every time if a path that it watches does not exist, so watch the
        // folder.
        fs::create_dir_all(&folder)?;
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    Ok(())
}

/// `OUT_DIR` is `TARGET_DIR[/TRIPLE]/PROFILE/build/PACKAGE/out`.
fn target_directory(out: &Path) -> io::Result<PathBuf> {
    let triple = variable("TARGET")?;
    let above_profile = out.ancestors().nth(4);
    match above_profile {
        Some(folder) if folder.ends_with(&triple) => folder.parent(),
        other => other,
    }
    .map(Path::to_path_buf)
    .ok_or_else(|| io::Error::other(format!("OUT_DIR is too short: {}", out.display())))
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}
