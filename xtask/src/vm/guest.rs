//! What runs in the guest: the relay, its tests and the first program, linked statically, and the
//! few files that they need there.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{
    initramfs::Initramfs,
    modules,
    packages::{Kernel, Tests},
};
use crate::{ebpf, process, workspace::Workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The drivers of the NICs, of the veth pairs that join the tests' hosts, and of VLAN devices.
const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_net",
    "igb",
    "e1000e",
    "veth",
    "8021q",
    "tun",
    "sch_ingress",
    "cls_bpf",
];

/// The programs of the guest.
#[derive(Debug)]
pub struct Programs {
    init: PathBuf,
    /// The test programs, in the order of [`Tests::ALL`].
    tests: Vec<PathBuf>,
    relay: PathBuf,
    /// The relay that overwrites free chunks.
    poisoned: PathBuf,
}

/// One line of cargo's output: a program that it has built.
#[derive(Debug, Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

/// Builds the programs of the guest.
pub fn build(ws: &Workspace) -> Result<Programs> {
    const RELAY: [&str; 4] = ["--package", "relay-userspace", "--bin", "relay"];
    ebpf::build(ws)?;
    let mut poisoning = RELAY.to_vec();
    poisoning.extend(["--features", "relay-userspace/poison-chunks"]);
    let built = Built::by(ws, &poisoning)?.program("relay")?;
    // The next build has a program of the same name.
    let poisoned = built.with_file_name("relay-poisoned");
    fs::copy(&built, &poisoned).with_context(|| format!("writing {}", poisoned.display()))?;

    let mut all = RELAY.to_vec();
    all.extend(["--package", "relay-tests", "--bin", "guest"]);
    all.extend(["--features", "relay-tests/zero-copy"]);
    for tests in Tests::ALL {
        all.extend(["--test", tests.program()]);
    }
    let built = Built::by(ws, &all)?;
    Ok(Programs {
        init: built.program("guest")?,
        tests: Tests::ALL
            .iter()
            .map(|tests| built.program(tests.program()))
            .collect::<Result<_>>()?,
        relay: built.program("relay")?,
        poisoned,
    })
}

/// What one call of cargo has built.
struct Built {
    artifacts: Vec<Artifact>,
    command: String,
}

impl Built {
    /// Builds statically.
    fn by(ws: &Workspace, arguments: &[&str]) -> Result<Self> {
        let mut cargo = ws.cargo();
        cargo
            .args(["build", "--release", "--locked", "--target", TARGET])
            .args(arguments)
            .args(["--message-format", "json-render-diagnostics"])
            .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
            .env_remove("RUSTFLAGS")
            .stderr(std::process::Stdio::inherit());
        let command = process::line(&cargo);
        let output = cargo
            .output()
            .with_context(|| format!("running `{command}`"))?;
        if !output.status.success() {
            bail!("`{command}` failed with {}", output.status);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let artifacts = said
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        Ok(Self { artifacts, command })
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let named = |artifact: &&Artifact| artifact.target.name == name;
        let mut programs = self.artifacts.iter().filter(named);
        programs
            .find_map(|artifact| artifact.executable.clone())
            .with_context(|| format!("`{}` built no program {name}", self.command))
    }
}

/// The image of the kernel in the folder that its packages are unpacked in.
pub fn image(kernel: &Path, release: &str) -> Result<PathBuf> {
    let places = [
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
        format!("lib/modules/{release}/vmlinuz"),
    ];
    let mut paths = places.iter().map(|place| kernel.join(place));
    paths
        .find(|path| path.is_file())
        .with_context(|| format!("{} has none of {}", kernel.display(), places.join(", ")))
}

/// Packs the initramfs: the programs, the modules of the kernel, whose packages are unpacked in
/// `unpacked`, and the tools of the tests with their libraries. The tests get `arguments`.
pub fn pack(
    programs: &Programs,
    kernel: &Kernel,
    unpacked: &Path,
    arguments: &[String],
) -> Result<Vec<u8>> {
    let mut archive = Initramfs::new()?;
    for folder in ["proc", "sys", "tmp", "run"] {
        archive.folder(folder)?;
    }
    let copy = |archive: &mut Initramfs, inside: &str, path: &Path| {
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        archive.file(inside, &content)
    };
    copy(&mut archive, "init", &programs.init)?;
    let mut names = Vec::new();
    for (tests, program) in Tests::ALL.iter().zip(&programs.tests) {
        if kernel.tests.contains(tests) {
            copy(&mut archive, &format!("tests/{}", tests.program()), program)?;
            names.push(tests.program());
        }
    }
    archive.file("tests/order", names.join("\n").as_bytes())?;
    copy(&mut archive, "relay", &programs.relay)?;
    copy(&mut archive, "relay-poisoned", &programs.poisoned)?;
    archive.file("arguments", arguments.join("\n").as_bytes())?;

    let merged = unpacked.join("usr/lib/modules").join(kernel.release);
    let split = unpacked.join("lib/modules").join(kernel.release);
    let folder = if merged.is_dir() { merged } else { split };
    let modules = modules::in_order(&folder, &MODULES)?;
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    archive.file("modules/order", names.join("\n").as_bytes())?;
    for module in &modules {
        archive.file(&format!("modules/{}.ko", module.name), &module.object)?;
    }

    let mut libraries = BTreeSet::new();
    for (tool, package) in [("ip", "iproute2"), ("ethtool", "ethtool")] {
        let path = find(tool).with_context(|| {
            format!("there is no `{tool}` to take into the guest: the package {package} has it")
        })?;
        copy(&mut archive, &format!("bin/{tool}"), &path)?;
        libraries.extend(libraries_of(&path)?);
    }
    for library in libraries {
        copy(&mut archive, &library, Path::new(&library))?;
    }
    archive.finish()
}

/// The path of a tool, also in the folders that a user's PATH often lacks.
fn find(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = env::split_paths(&path).chain(more);
    folders.find_map(|folder| Some(folder.join(tool)).filter(|path| path.is_file()))
}

/// The shared libraries of a program and its loader, by the paths at which the program looks for
/// them.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    Ok(paths(&process::capture(Command::new("ldd").arg(program))?))
}

/// The paths that `ldd` prints: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn paths(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| {
            let found = line.split_once("=>").map_or(line, |(_, found)| found);
            found.split_whitespace().next()
        })
        .filter(|path| path.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_what_is_no_file_is_not() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f1)\n\tlibmnl.so.0 => /lib/libmnl.so.0 (0x00007f2)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f3)\n";
        assert_eq!(
            paths(ldd),
            ["/lib/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]
        );
    }
}
