//! The virtual machine of `cargo xtask test --zero-copy`, which runs the tests of zero copy.
//!
//! Drivers that do AF_XDP zero copy need their NICs, and QEMU emulates two of them: igb and
//! virtio-net. xtask fetches QEMU and the kernels once ([`fetch`]), builds the relay and its tests
//! statically, packs them together with the drivers ([`guest`]), and boots the machine
//! ([`machine`]). That needs neither root nor KVM.

mod fetch;
mod guest;
mod initramfs;
mod machine;
mod modules;
mod packages;

use std::{env, fs, process::ExitCode};

use anyhow::{Context, Result, bail};

use self::{
    fetch::Cache,
    guest::Programs,
    machine::Machine,
    packages::{Kernel, Tests},
};
use crate::{
    counts::Counts,
    setup::{self, Purpose},
    summary::Run,
    workspace::Workspace,
};

/// The exit code where nothing ran, because the virtual machine could not be fetched.
const NOT_RUN: u8 = 3;

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// A part of the names of the tests.
    pub filter: Option<String>,
    /// The kernel, `all`, or the default.
    pub kernel: Option<String>,
    /// With an IOMMU; for all kernels, also with one.
    pub iommu: bool,
}

/// One boot.
#[derive(Debug, Clone, Copy)]
struct Boot {
    kernel: &'static Kernel,
    iommu: bool,
}

impl Boot {
    fn name(self) -> String {
        let version = self.kernel.version();
        let iommu = if self.iommu { ", IOMMU" } else { "" };
        let zero_copy = self.kernel.tests.contains(&Tests::ZeroCopy);
        let what = if zero_copy {
            "zero copy"
        } else {
            "kernel programs"
        };
        format!("{what}, Linux {version}{iommu}")
    }
}

/// `cargo xtask test --zero-copy`. Says "not run" and ends with [`NOT_RUN`] where the machine
/// cannot be fetched; where it is [`required`], that is a failure.
pub fn run(ws: &Workspace, options: &Options) -> Result<ExitCode> {
    let boots = boots(options)?;
    let cache = Cache::of(ws);
    let kernels: Vec<&Kernel> = boots.iter().map(|boot| boot.kernel).collect();
    if let Err(error) = cache.fetch(&kernels) {
        println!(
            "not run: {error:#}\nThe tests of zero copy run in a virtual machine that is fetched \
             once, from the mirror of Debian that this machine uses. With a network: cargo xtask \
             test --zero-copy. Or copy {} from a machine that has it.",
            cache.folder().display()
        );
        return Ok(if required() {
            ExitCode::FAILURE
        } else {
            ExitCode::from(NOT_RUN)
        });
    }
    let mut run = Run::default();
    steps(ws, &mut run, &boots, options.filter.as_deref());
    Ok(run.finish(options.filter.as_deref()))
}

/// The part of a whole test run that needs the virtual machine. It runs if the machine has been
/// fetched, or is [`required`].
pub fn part_of_all(ws: &Workspace, run: &mut Run) {
    let cache = Cache::of(ws);
    let kernel = packages::default_kernel();
    if !cache.has(kernel) && !required() {
        println!(
            "\nzero copy: not run, its virtual machine has not been fetched. `cargo xtask test \
             --zero-copy` fetches and runs it."
        );
        return;
    }
    let boot = Boot {
        kernel,
        iommu: false,
    };
    let fetched = cache.has(kernel)
        || run.step("virtual machine", || {
            cache.fetch(&[kernel]).map(|()| Counts::default())
        });
    if fetched {
        steps(ws, run, &[boot], None);
    }
}

/// Whether it is a failure that the virtual machine cannot be fetched.
fn required() -> bool {
    env::var_os("CI_ZERO_COPY").is_some_and(|value| value == "1")
}

/// Which kernels to boot, and whether with an IOMMU.
fn boots(options: &Options) -> Result<Vec<Boot>> {
    let boot = |kernel, iommu| Boot { kernel, iommu };
    match options.kernel.as_deref() {
        None => Ok(vec![boot(packages::default_kernel(), options.iommu)]),
        Some("all") => {
            let mut boots: Vec<Boot> = packages::KERNELS
                .iter()
                .map(|kernel| boot(kernel, false))
                .collect();
            boots.push(boot(packages::default_kernel(), true));
            Ok(boots)
        }
        Some(version) => {
            let found = packages::KERNELS
                .iter()
                .find(|kernel| [kernel.version(), kernel.release].contains(&version));
            match found {
                Some(kernel) => Ok(vec![boot(kernel, options.iommu)]),
                None => {
                    let known: Vec<&str> = packages::KERNELS.iter().map(Kernel::version).collect();
                    bail!(
                        "no kernel {version}: there are {} and all",
                        known.join(", ")
                    )
                }
            }
        }
    }
}

/// Builds once, and boots each as a step of its own.
fn steps(ws: &Workspace, run: &mut Run, boots: &[Boot], filter: Option<&str>) {
    let mut programs = None;
    run.step("build for the guest", || {
        setup::system(Purpose::Build)?;
        programs = Some(guest::build(ws)?);
        Ok(Counts::default())
    });
    let Some(programs) = programs else {
        return;
    };
    for &boot in boots {
        run.step(boot.name(), || one(ws, &programs, boot, filter));
    }
}

/// Packs the initramfs of one boot and boots.
fn one(ws: &Workspace, programs: &Programs, boot: Boot, filter: Option<&str>) -> Result<Counts> {
    let cache = Cache::of(ws);
    let unpacked = cache.kernel(boot.kernel);
    let release = boot.kernel.release;
    let mut arguments = vec!["--test-threads=1".to_owned()];
    arguments.extend(filter.map(str::to_owned));
    let name = format!("{release}{}", if boot.iommu { "-iommu" } else { "" });
    let folder = cache.folder().join("run");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let initramfs = folder.join(format!("{name}.cpio"));
    fs::write(
        &initramfs,
        guest::pack(programs, boot.kernel, &unpacked, &arguments)?,
    )
    .with_context(|| format!("writing {}", initramfs.display()))?;
    let machine = Machine {
        qemu: &cache.qemu(),
        kernel: &guest::image(&unpacked, release)?,
        initramfs: &initramfs,
        iommu: boot.iommu,
        console: folder.join(format!("{name}.console")),
    };
    machine.run(Counts {
        filter_given: filter.is_some(),
        ..Counts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kernel: Option<&str>, iommu: bool) -> Result<Vec<String>> {
        let options = Options {
            filter: None,
            kernel: kernel.map(str::to_owned),
            iommu,
        };
        let boots = boots(&options)?;
        Ok(boots.into_iter().map(Boot::name).collect())
    }

    #[test]
    fn a_kernel_is_chosen_by_its_version_and_all_comes_with_an_iommu_too() {
        let default = named(None, false).unwrap();
        assert_eq!(default.len(), 1);
        for kernel in packages::KERNELS {
            let [boot] = &named(Some(kernel.version()), true).unwrap()[..] else {
                panic!("one boot for {}", kernel.version());
            };
            assert!(
                boot.contains(kernel.version()) && boot.contains("IOMMU"),
                "{boot}"
            );
        }
        let all = named(Some("all"), false).unwrap();
        assert_eq!(all.len(), packages::KERNELS.len() + 1);
        assert!(all.iter().any(|boot| boot.ends_with("IOMMU")), "{all:?}");
    }

    #[test]
    fn an_unknown_kernel_is_refused_with_those_that_there_are() {
        let error = named(Some("2.4"), false).unwrap_err().to_string();
        let known = packages::default_kernel().version();
        assert!(error.contains("2.4") && error.contains(known), "{error}");
    }
}
