//! The compiler of the kernel program: a rustc together with the sources of `core`.
//!
//! No compiler ships a ready-made `core` for `bpfel-unknown-none`, so it is built from source, and
//! the source must be that compiler's own. The first compiler that has it is used: that of the
//! toolchain in use (then one compiler builds both halves of the relay), of another rustup
//! toolchain, of the system. If none has it, rustup adds the source to the toolchain in use; if
//! that fails, apt installs Debian's packages.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use super::{linker, packages};
use crate::{process, workspace::Workspace};

/// The names of Debian's packages of its current compiler and of its source.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// How long fetching the source may take: behind a firewall that drops everything, the next choice
/// must get its turn.
const COMPONENT_LIMIT: Duration = Duration::from_secs(120);

/// How much [`ensure`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// What was chosen and why.
    Everything,
    /// Only what has to be installed.
    Installs,
}

/// A rustc that can build `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// The program itself, not rustup's proxy.
    pub rustc: PathBuf,
    /// Where its libraries are.
    pub sysroot: PathBuf,
    /// Its version.
    pub version: Version,
    /// Whether its LLVM lies beside it, as in the toolchains of rustup.
    pub has_own_llvm: bool,
}

impl Compiler {
    /// The folder of the LLVM beside the compiler; `None` if it uses the system's.
    pub fn own_llvm(&self) -> Option<PathBuf> {
        self.has_own_llvm.then(|| self.sysroot.join("lib"))
    }
}

/// The fields of `rustc -vV` that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major and minor of rustc.
    pub release: (u32, u32),
    /// Major of its LLVM.
    pub llvm: u32,
}

impl Version {
    /// Parses the output of `rustc -vV`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let llvm = field("LLVM version")?.split('.').next()?.parse().ok()?;
        Some(Self {
            release: release(field("release")?)?,
            llvm,
        })
    }
}

/// Major and minor of `1.95.0` or `1.97.0-nightly`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version.release;
        write!(
            f,
            "rustc {major}.{minor} with LLVM {} ({})",
            self.version.llvm,
            self.rustc.display()
        )
    }
}

/// Finds or installs one.
pub fn ensure(ws: &Workspace, report: Report) -> Result<Compiler> {
    let active = active();
    let mut seen = Vec::new();
    let others = toolchains()
        .into_iter()
        .map(|folder| folder.join("bin/rustc"));
    for rustc in active
        .iter()
        .cloned()
        .chain(others)
        .chain([PathBuf::from("/usr/bin/rustc")])
    {
        if seen.contains(&rustc) {
            continue;
        }
        if let Some(compiler) = inspect(&rustc, report) {
            return Ok(compiler);
        }
        seen.push(rustc);
    }
    if let Some(compiler) = active.and_then(|rustc| add_component(ws, &rustc)) {
        return Ok(compiler);
    }
    from_debian()
}

/// The rustc that cargo uses: the program in the toolchain, not rustup's proxy.
fn active() -> Option<PathBuf> {
    let rustc = env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    let sysroot = process::capture(
        process::without_own_environment(&mut Command::new(rustc)).args(["--print", "sysroot"]),
    )
    .ok()?;
    Some(Path::new(sysroot.trim()).join("bin/rustc"))
}

/// The folders of all toolchains of rustup, nightly first.
fn toolchains() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".rustup")));
    let mut found: Vec<PathBuf> = home
        .and_then(|home| std::fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    found.sort_by_key(|path| {
        let nightly = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("nightly"));
        (!nightly, path.clone())
    });
    found
}

/// The compiler, if it can be used: it has the sources of `core`, is new enough for this workspace,
/// and there is a bpf-linker for its LLVM.
fn inspect(rustc: &Path, report: Report) -> Option<Compiler> {
    let compiler = describe(rustc)?;
    if !has_sources(&compiler.sysroot) {
        return None;
    }
    if let Err(reason) = fit(&compiler) {
        if report == Report::Everything {
            println!("  passed over: {compiler}: {reason}");
        }
        return None;
    }
    Some(compiler)
}

/// Whether a compiler can be used, or why not.
fn fit(compiler: &Compiler) -> Result<(), String> {
    let needed = env!("CARGO_PKG_RUST_VERSION");
    if release(needed).is_none_or(|needed| compiler.version.release < needed) {
        return Err(format!("older than {needed}"));
    }
    let llvm = compiler.version.llvm;
    if linker::choose(llvm, compiler.has_own_llvm).is_none() {
        return Err(format!("no bpf-linker for LLVM {llvm}"));
    }
    Ok(())
}

fn describe(rustc: &Path) -> Option<Compiler> {
    if !rustc.is_file() {
        return None;
    }
    let ask = |args: &[&str]| {
        let mut command = Command::new(rustc);
        process::without_own_environment(&mut command).args(args);
        process::capture(&mut command).ok()
    };
    let version = Version::parse(&ask(&["-vV"])?)?;
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    Some(Compiler {
        rustc: rustc.to_path_buf(),
        has_own_llvm: has_own_llvm(&sysroot),
        sysroot,
        version,
    })
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .is_file()
}

/// Whether there is a `libLLVM*` beside the compiler, as in every toolchain of rustup; a
/// distribution's compiler uses the system's LLVM, of which there may be several.
fn has_own_llvm(sysroot: &Path) -> bool {
    sysroot != Path::new("/usr")
        && std::fs::read_dir(sysroot.join("lib"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"))
}

/// `rustup component add rust-src` for the toolchain in use.
fn add_component(ws: &Workspace, rustc: &Path) -> Option<Compiler> {
    let sysroot = rustc.parent()?.parent()?;
    let toolchain = sysroot.file_name()?.to_str()?;
    if !process::on_path("rustup") || sysroot.parent()?.file_name()? != "toolchains" {
        return None;
    }
    println!("  missing: the sources of core (the XDP program's target has no ready-made one)");
    let mut add = Command::new("rustup");
    process::without_own_environment(&mut add);
    add.args(["component", "add", "rust-src", "--toolchain", toolchain]);
    let log = ws.tools().join("log/rust-src.log");
    let what = format!("rustup component add rust-src ({toolchain})");
    if let Err(error) = process::long(&what, &mut add, &log, Some(COMPONENT_LIMIT)) {
        let text = format!("{error:#}");
        println!("  {}", text.lines().next().unwrap_or_default());
        return None;
    }
    inspect(rustc, Report::Everything)
}

/// Debian's compiler and its sources.
fn from_debian() -> Result<Compiler> {
    if !(process::on_path("apt-get") && process::is_root()) {
        bail!("{}", advice());
    }
    if !DEBIAN_PACKAGES.iter().all(|name| packages::apt_knows(name)) {
        packages::apt_refresh()?;
    }
    if !DEBIAN_PACKAGES.iter().all(|name| packages::apt_knows(name)) {
        bail!("{}", advice());
    }
    packages::apt_install(&DEBIAN_PACKAGES)?;
    match inspect(Path::new("/usr/bin/rustc"), Report::Everything) {
        Some(compiler) => Ok(compiler),
        None => bail!(
            "{} are installed, but /usr/bin/rustc cannot be used: {}",
            DEBIAN_PACKAGES.join(" and "),
            advice()
        ),
    }
}

fn advice() -> String {
    format!(
        "no compiler with the sources of core: run `rustup component add rust-src`, or install {} \
         on Debian 12, rust-src on Fedora or Arch",
        DEBIAN_PACKAGES.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\n\
        commit-date: 2026-04-14\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n\
        LLVM version: 22.1.2\n";

    #[test]
    fn release_and_llvm_are_read_from_the_verbose_version() {
        let version = Version::parse(STABLE).unwrap();
        assert_eq!(version.release, (1, 95));
        assert_eq!(version.llvm, 22);
    }

    #[test]
    fn a_nightly_counts_by_its_number() {
        assert_eq!(release("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(release("nightly"), None);
    }

    #[test]
    fn a_version_without_llvm_is_no_version() {
        assert_eq!(Version::parse("release: 1.95.0\n"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn a_compiler_that_is_old_or_has_no_linker_is_passed_over() {
        let compiler = |release, llvm| Compiler {
            rustc: "/t/bin/rustc".into(),
            sysroot: "/t".into(),
            version: Version { release, llvm },
            has_own_llvm: false,
        };
        assert_eq!(fit(&compiler((1, 96), 22)), Ok(()));
        let old = fit(&compiler((1, 85), 22)).unwrap_err();
        assert!(old.starts_with("older than 1."), "{old}");
        let strange = fit(&compiler((1, 96), 11)).unwrap_err();
        assert!(strange.contains("LLVM 11"), "{strange}");
    }
}
