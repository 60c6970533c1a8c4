//! Embeds the XDP program into the binary.
//!
//! `cargo xtask build` compiles the program first, to `ebpf/relay.o` in cargo's target directory.
//! Without it the crate still compiles, for `cargo check` and editors in a fresh clone; the cfg
//! `relay_ebpf_embedded` says which of the two it is.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(relay_ebpf_embedded)");
    println!("cargo::rerun-if-env-changed=RELAY_EBPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let object = match env::var_os("RELAY_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => target_directory(&out)?.join("ebpf").join("relay.o"),
    };
    let copy = out.join("relay.o");
    if object.is_file() {
        println!("cargo::rerun-if-changed={}", object.display());
        println!("cargo::rustc-cfg=relay_ebpf_embedded");
        fs::copy(&object, &copy)?;
    } else {
        // Cargo runs a script each time if what it watches does not exist, so watch the folder.
        if let Some(folder) = object.parent() {
            fs::create_dir_all(folder)?;
            println!("cargo::rerun-if-changed={}", folder.display());
        }
        fs::write(&copy, [])?;
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
