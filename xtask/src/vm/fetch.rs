//! Fetches the packages of the virtual machine, once, into `target/zero-copy`.
//!
//! apt runs with folders of its own there, so it needs no root and leaves the host's packages
//! alone; the mirror is the one that the host uses. A folder or package that has its final name is
//! complete.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::packages::{Kernel, Package, QEMU, SUITES};
use crate::{process, workspace::Workspace};

/// How long one package or the lists of packages may take.
const LIMIT: Duration = Duration::from_secs(600);

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Packages that are unpacked into one folder.
#[derive(Debug)]
struct Bundle {
    folder: String,
    packages: &'static [Package],
}

impl Bundle {
    fn qemu() -> Self {
        let version = QEMU.first().map_or("none", |package| package.version);
        Self::new(&format!("qemu-{version}"), QEMU)
    }

    fn kernel(kernel: &Kernel) -> Self {
        let version = kernel
            .packages
            .first()
            .map_or("none", |package| package.version);
        Self::new(
            &format!("linux-{}-{version}", kernel.release),
            kernel.packages,
        )
    }

    fn new(name: &str, packages: &'static [Package]) -> Self {
        // A colon would end a path in LD_LIBRARY_PATH.
        let folder = name.replace([':', '~'], "_");
        Self { folder, packages }
    }
}

/// What has been fetched.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache of the workspace, filled or not.
    pub fn of(ws: &Workspace) -> Self {
        let folder = ws.target.join("zero-copy");
        Self { folder }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder that QEMU is unpacked in.
    pub fn qemu(&self) -> PathBuf {
        self.folder.join(Bundle::qemu().folder)
    }

    /// The folder that a kernel is unpacked in.
    pub fn kernel(&self, kernel: &Kernel) -> PathBuf {
        self.folder.join(Bundle::kernel(kernel).folder)
    }

    /// Whether QEMU and `kernel` are there.
    pub fn has(&self, kernel: &Kernel) -> bool {
        self.qemu().is_dir() && self.kernel(kernel).is_dir()
    }

    /// Fetches what is missing. What is there already is not fetched again.
    ///
    /// # Errors
    ///
    /// No Debian mirror, no network, or a package that the mirror no longer has. What has been
    /// fetched stays.
    pub fn fetch(&self, kernels: &[&Kernel]) -> Result<()> {
        let bundles = self.missing(kernels);
        if bundles.is_empty() {
            return Ok(());
        }
        ensure!(
            env::consts::ARCH == "x86_64",
            "the guest is an x86_64 machine, and its programs are built here"
        );
        for program in ["apt-get", "dpkg-deb", "xz"] {
            ensure!(
                process::on_path(program),
                "the virtual machine is made of packages of Debian, and there is no {program} to \
                 get them with"
            );
        }
        let apt = Apt::set_up(&self.folder)?;
        let all: usize = bundles.iter().map(|bundle| bundle.packages.len()).sum();
        let mut number = 0;
        for bundle in &bundles {
            for package in bundle.packages {
                number += 1;
                apt.download(
                    package,
                    &format!("fetching {} ({number} of {all})", package.name),
                )?;
            }
            self.unpack(bundle, &apt)?;
        }
        Ok(())
    }

    /// The bundles that are not there, each once: a kernel may be booted more than once.
    fn missing(&self, kernels: &[&Kernel]) -> Vec<Bundle> {
        let mut bundles = vec![Bundle::qemu()];
        for kernel in kernels {
            let bundle = Bundle::kernel(kernel);
            if !bundles.iter().any(|other| other.folder == bundle.folder) {
                bundles.push(bundle);
            }
        }
        bundles.retain(|bundle| !self.folder.join(&bundle.folder).is_dir());
        bundles
    }

    /// Unpacks a bundle whose packages are there, and removes them.
    fn unpack(&self, bundle: &Bundle, apt: &Apt) -> Result<()> {
        println!("  unpacking {}", bundle.folder);
        let part = self.folder.join("part");
        remove(&part)?;
        for package in bundle.packages {
            let file = apt.file(package);
            process::capture(Command::new("dpkg-deb").arg("-x").arg(file).arg(&part))?;
        }
        let folder = self.folder.join(&bundle.folder);
        fs::rename(&part, &folder).with_context(|| format!("creating {}", folder.display()))?;
        for package in bundle.packages {
            remove(&apt.file(package))?;
        }
        Ok(())
    }
}

/// apt with folders of its own.
#[derive(Debug)]
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Writes its configuration and gets the lists of packages.
    fn set_up(cache: &Path) -> Result<Self> {
        let sources = machine_sources();
        let mirror = mirror(&sources).context(
            "neither /etc/apt/sources.list nor a file in /etc/apt/sources.list.d names a mirror of \
             Debian",
        )?;
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing: the package debian-archive-keyring has it"
        );
        let apt = Self {
            folder: cache.join("apt"),
        };
        for folder in [
            "etc",
            "state/lists/partial",
            "cache/archives/partial",
            "packages",
        ] {
            let folder = apt.folder.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        let write = |name: &str, text: &str| {
            let path = apt.folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        let source =
            |suite: &&str| format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n");
        write(
            "etc/sources.list",
            &SUITES.iter().map(source).collect::<String>(),
        )?;
        write("state/status", "")?;
        write("apt.conf", &configuration(&apt.folder))?;
        let mut update = apt.command();
        update
            .arg("update")
            .args(["-o", "APT::Update::Error-Mode=any"]);
        process::long(
            "fetching the lists of packages",
            &mut update,
            &apt.log(),
            Some(LIMIT),
        )?;
        Ok(apt)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        process::without_own_environment(&mut command)
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C")
            .arg("-q");
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.join("apt.log")
    }

    /// The path of a package that is complete.
    fn file(&self, package: &Package) -> PathBuf {
        let name = format!(
            "{}_{}.deb",
            package.name,
            package.version.replace(':', "%3a")
        );
        self.folder.join("packages").join(name)
    }

    /// Gets a package unless it is there. apt verifies what it gets.
    fn download(&self, package: &Package, what: &str) -> Result<()> {
        let file = self.file(package);
        if file.is_file() {
            return Ok(());
        }
        let part = self.folder.join("part");
        remove(&part)?;
        fs::create_dir_all(&part).with_context(|| format!("creating {}", part.display()))?;
        let Package { name, version } = package;
        let mut download = self.command();
        download
            .arg("download")
            .arg(format!("{name}={version}"))
            .current_dir(&part);
        process::long(what, &mut download, &self.log(), Some(LIMIT)).with_context(|| {
            format!(
                "{name} {version} could not be fetched; if the mirror has a newer one instead, pin \
                 that in xtask/src/vm/packages.rs"
            )
        })?;
        let mut found = fs::read_dir(&part)?;
        let Some(entry) = found.next() else {
            bail!("`{}` fetched nothing", process::line(&download));
        };
        fs::rename(entry?.path(), &file).with_context(|| format!("creating {}", file.display()))
    }
}

/// The configuration of an apt that keeps to `folder`.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"Dir::Etc::sourcelist "{folder}/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/state/lists";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
APT::Sandbox::User "";
"#
    )
}

/// The text of all files of the host that say where packages come from.
fn machine_sources() -> String {
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    let mut files: Vec<PathBuf> = parts.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    let texts = files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    texts.collect::<Vec<_>>().join("\n")
}

/// The first mirror of Debian in the host's sources, in either of their two forms.
fn mirror(sources: &str) -> Option<&str> {
    let lines = sources
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace);
    words.find(|word| {
        let remote = word.starts_with("http://") || word.starts_with("https://");
        remote && word.trim_end_matches('/').ends_with("/debian")
    })
}

/// Removes a file or folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    };
    removed.with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_forms_of_sources_and_not_in_comments() {
        let list = "# deb http://old.example/debian stable main\n\
                    deb https://other.example/tools any main\n\
                    deb [signed-by=/k] http://near.example/debian/ bookworm main\n";
        assert_eq!(mirror(list), Some("http://near.example/debian/"));
        let deb822 = "Types: deb\nURIs: http://near.example/debian\nSuites: bookworm\n";
        assert_eq!(mirror(deb822), Some("http://near.example/debian"));
        assert_eq!(
            mirror("deb http://near.example/debian-security x main"),
            None
        );
    }

    #[test]
    fn a_bundle_without_its_final_name_is_not_there() {
        let folder = env::temp_dir().join(format!("xtask-cache-{}", std::process::id()));
        let cache = Cache {
            folder: folder.clone(),
        };
        let kernel = super::super::packages::default_kernel();
        fs::create_dir_all(folder.join("part")).unwrap();
        fs::create_dir_all(cache.qemu()).unwrap();
        let without = cache.has(kernel);
        let missing = cache.missing(&[kernel, kernel]);
        fs::create_dir_all(cache.kernel(kernel)).unwrap();
        let with = cache.has(kernel);
        let nothing = cache.missing(&[kernel, kernel]);
        fs::remove_dir_all(&folder).unwrap();
        assert!(!without && with);
        assert_eq!((missing.len(), nothing.len()), (1, 0));
    }
}
