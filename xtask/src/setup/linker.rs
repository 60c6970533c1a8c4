//! bpf-linker, built for the LLVM of the compiler of the kernel program.
//!
//! The compiler hands over bitcode, which only an LLVM of the same major version is sure to read.
//! With a rustup toolchain the linker loads that toolchain's own LLVM: exactly the right one, and
//! nothing to install. With a distribution's compiler it is built against the system's LLVM.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    install::{cargo_install, remove_build},
    packages,
};
use crate::{process, workspace::Workspace};

/// The last version that can load the LLVM of a rustup toolchain.
const FOR_RUSTUP: &str = "0.10.4";
/// The newest version that this workspace's Rust compiles; links to the system's LLVM.
const FOR_SYSTEM: &str = "0.13.0";

/// The LLVM that a linker is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Loads the LLVM beside the compiler.
    Rustup {
        /// Major version.
        llvm: u32,
    },
    /// Links to the LLVM of the system.
    System {
        /// Major version.
        llvm: u32,
    },
}

/// An installed linker.
#[derive(Debug)]
pub struct Linker {
    /// The program.
    pub program: PathBuf,
    /// What it was built for.
    pub flavour: Flavour,
    /// The folder that it loads LLVM from, if it loads LLVM when it starts.
    pub library_path: Option<PathBuf>,
}

/// The linker for a compiler, if there is one.
pub fn choose(llvm: u32, own_llvm: bool) -> Option<Flavour> {
    match (own_llvm, llvm) {
        (true, 20..=22) => Some(Flavour::Rustup { llvm }),
        (_, 21..=23) => Some(Flavour::System { llvm }),
        _ => None,
    }
}

impl Flavour {
    fn version(self) -> &'static str {
        match self {
            Self::Rustup { .. } => FOR_RUSTUP,
            Self::System { .. } => FOR_SYSTEM,
        }
    }

    fn feature(self) -> String {
        match self {
            Self::Rustup { llvm } => format!("rust-llvm-{llvm}"),
            Self::System { llvm } => format!("llvm-{llvm}"),
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup { llvm } => {
                write!(
                    f,
                    "{}, with the LLVM {llvm} of the compiler",
                    self.version()
                )
            }
            Self::System { llvm } => {
                write!(f, "{}, with the LLVM {llvm} of the system", self.version())
            }
        }
    }
}

/// Finds the linker for a compiler of LLVM `llvm`, which lies in the folder `own_llvm` if it lies
/// beside the compiler; or installs it below target/tools. One of another flavour is replaced.
pub fn ensure(ws: &Workspace, llvm: u32, own_llvm: Option<PathBuf>) -> Result<Linker> {
    let Some(flavour) = choose(llvm, own_llvm.is_some()) else {
        bail!("there is no bpf-linker for LLVM {llvm}");
    };
    let linker = Linker {
        program: ws.tool("bpf-linker"),
        flavour,
        library_path: match flavour {
            Flavour::Rustup { .. } => own_llvm,
            Flavour::System { .. } => None,
        },
    };
    // A stamp, because the program does not report how it was built.
    let stamp = ws.tools().join("bpf-linker.flavour");
    let wanted = flavour.to_string();
    if linker.program.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        match linker.starts() {
            Ok(()) => return Ok(linker),
            Err(error) => println!("  bpf-linker does not start and is built anew: {error:#}"),
        }
    }
    let llvm_bin = match flavour {
        Flavour::Rustup { .. } => None,
        Flavour::System { llvm } => Some(system_llvm(llvm)?),
    };
    println!("  building bpf-linker {flavour} (links the XDP program)");
    install(ws, flavour, llvm_bin.as_deref())?;
    linker.starts()?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(linker)
}

impl Linker {
    /// Lets a command that runs the linker find LLVM, if the linker loads it.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match &self.library_path {
            Some(path) => command.env("LD_LIBRARY_PATH", path),
            None => command,
        }
    }

    fn starts(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        process::without_own_environment(&mut command).arg("--version");
        process::capture(self.prepare(&mut command)).map(|_| ())
    }
}

fn install(ws: &Workspace, flavour: Flavour, llvm_bin: Option<&Path>) -> Result<()> {
    let mut cargo = cargo_install(ws, "bpf-linker", flavour.version());
    cargo.args(["--no-default-features", "--features", &flavour.feature()]);
    if let Some(bin) = llvm_bin {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [bin.to_path_buf()]
            .into_iter()
            .chain(std::env::split_paths(&path));
        cargo.env("PATH", std::env::join_paths(folders)?);
    }
    let log = ws.tools().join("log/bpf-linker.log");
    process::long("cargo install bpf-linker", &mut cargo, &log, None)?;
    remove_build(ws);
    Ok(())
}

/// The folder of llvm-config of this major version; installed with apt if it is missing.
fn system_llvm(llvm: u32) -> Result<PathBuf> {
    if let Some(bin) = find_llvm(llvm) {
        return Ok(bin);
    }
    let package = format!("llvm-{llvm}-dev");
    println!("  missing: {package} (bpf-linker is built against it)");
    if process::on_path("apt-get") && process::is_root() {
        packages::apt_install(&[&package])?;
        if let Some(bin) = find_llvm(llvm) {
            return Ok(bin);
        }
    }
    bail!(
        "LLVM {llvm} for developers was not found: install {package} (Debian, Ubuntu), llvm-devel \
         (Fedora) or llvm (Arch) of this version, or use a compiler of rustup, which needs none"
    )
}

fn find_llvm(llvm: u32) -> Option<PathBuf> {
    [
        format!("/usr/lib/llvm-{llvm}/bin"),
        format!("/usr/lib/llvm{llvm}/bin"),
        format!("/usr/lib64/llvm{llvm}/bin"),
        "/usr/bin".to_owned(),
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|bin| {
        process::capture(Command::new(bin.join("llvm-config")).arg("--version"))
            .is_ok_and(|version| major(&version) == Some(llvm))
    })
}

fn major(version: &str) -> Option<u32> {
    version.trim().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rustup_compiler_uses_its_own_llvm_where_a_linker_can() {
        assert_eq!(choose(22, true), Some(Flavour::Rustup { llvm: 22 }));
        assert_eq!(choose(23, true), Some(Flavour::System { llvm: 23 }));
        assert_eq!(choose(22, false), Some(Flavour::System { llvm: 22 }));
    }

    #[test]
    fn there_is_no_linker_for_an_old_or_unknown_llvm() {
        assert_eq!(choose(19, true), None);
        assert_eq!(choose(20, false), None);
        assert_eq!(choose(24, true), None);
    }

    #[test]
    fn flavours_differ_in_version_feature_and_stamp() {
        let own = Flavour::Rustup { llvm: 22 };
        let system = Flavour::System { llvm: 22 };
        assert_eq!(own.feature(), "rust-llvm-22");
        assert_eq!(system.feature(), "llvm-22");
        assert_ne!(own.version(), system.version());
        assert_ne!(own.to_string(), system.to_string());
    }

    #[test]
    fn the_major_of_llvm_config_is_read() {
        assert_eq!(major("22.1.8\n"), Some(22));
        assert_eq!(major("git\n"), None);
    }
}
