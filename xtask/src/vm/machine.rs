//! The virtual machine: QEMU without KVM, network or disk, and whether it ended well.
//!
//! Two serial ports keep two things apart: the first is the kernel's console and goes to a file,
//! the second is what the tests print. Wires are hubs inside QEMU. The ends of wire N are the NICs
//! in the PCI slots 2N + 2 and 2N + 3, where `tests/end-to-end/src/lab.rs` finds them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{counts::Counts, process};

/// What the guest's first program prints at the end, followed by the exit code of the tests
/// (`tests/end-to-end/src/bin/guest/main.rs`).
const GUEST_DONE: &str = "guest: the tests ended with ";

/// How long the guest may run, from its first instruction to its last.
const LIMIT: Duration = Duration::from_secs(3600);

/// Lines of a console that a message shows.
const SHOWN: usize = 40;

/// The left and right end of each wire: a driver of QEMU and its options.
const WIRES: [(&str, &str); 5] = [
    ("igb", VIRTIO),
    ("igb", VIRTIO),
    ("igb", VIRTIO),
    ("igb", VIRTIO),
    ("e1000e", "virtio-net-pci,disable-legacy=on"),
];

/// With `iommu_platform` its driver goes through the DMA API, without which it does no zero copy.
const VIRTIO: &str = "virtio-net-pci,disable-legacy=on,iommu_platform=on";

/// What the console says when the kernel is in trouble, wherever in a line.
const TROUBLE: [&str; 9] = [
    "Kernel panic",
    "BUG: ",
    "] WARNING: ",
    "Oops: ",
    "general protection fault",
    "blocked for more than",
    "detected stalls",
    "detected expedited stalls",
    "NETDEV WATCHDOG",
];

/// A machine to be booted.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The folder that QEMU is unpacked in.
    pub qemu: &'a Path,
    /// The image of the kernel.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// Whether DMA goes through an emulated Intel IOMMU, which unmaps at once what a driver unmaps.
    pub iommu: bool,
    /// Where the kernel's console goes.
    pub console: PathBuf,
}

impl Machine<'_> {
    /// Boots, waits for the end, and counts the tests that ran.
    pub fn run(&self, mut counts: Counts) -> Result<Counts> {
        let errors = self.console.with_extension("qemu.log");
        let stderr =
            File::create(&errors).with_context(|| format!("creating {}", errors.display()))?;
        // What an earlier run left on its console must not count.
        fs::write(&self.console, "")
            .with_context(|| format!("writing {}", self.console.display()))?;
        let mut done: Option<String> = None;
        let mut at: Option<String> = None;
        let mut command = self.command();
        let status = process::tee(command.stderr(stderr), |line| {
            counts.read(line);
            at = running(line).map(str::to_owned);
            if let Some(code) = line.strip_prefix(GUEST_DONE) {
                done = Some(code.trim().to_owned());
            }
        })?;
        let console = String::from_utf8_lossy(&fs::read(&self.console)?).replace('\r', "");
        let end = || {
            format!(
                "{}the end of its console ({}):\n{}",
                at.as_ref()
                    .map_or_else(String::new, |test| format!("{test} had begun; ")),
                self.console.display(),
                last_lines(&console)
            )
        };
        if let Some(trouble) = trouble(&console) {
            bail!("the guest's kernel is in trouble: {trouble}");
        }
        if status.code() == Some(124) {
            bail!(
                "the guest was still running after {} s; {}",
                LIMIT.as_secs(),
                end()
            );
        }
        if !status.success() {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            bail!("QEMU ended with {status}: {}; {}", last_lines(&said), end());
        }
        match done.as_deref() {
            Some("0") => {}
            Some(_) if counts.failed > 0 => {}
            Some(code) => bail!("the tests in the guest ended with {code}; {}", end()),
            None => bail!("the guest ended before its tests did; {}", end()),
        }
        if counts.ran() == 0 && !counts.filter_given {
            bail!("no test ran in the guest");
        }
        Ok(counts)
    }

    fn command(&self) -> Command {
        let program = self.qemu.join("usr/bin/qemu-system-x86_64");
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries = libraries.map(|folder| self.qemu.join(folder).display().to_string());
        // If xtask is killed, timeout(1) goes on and ends QEMU at the limit.
        let mut command = Command::new("timeout");
        process::without_own_environment(&mut command)
            .env("LD_LIBRARY_PATH", libraries.join(":"))
            .args(["--foreground", "--kill-after", "5"])
            .arg(LIMIT.as_secs().to_string())
            .arg(program)
            .arg("-L")
            .arg(self.qemu.join("usr/share/qemu"))
            .arg("-L")
            .arg(self.qemu.join("usr/share/seabios"))
            .args("-machine q35 -accel tcg,thread=multi -cpu Nehalem -smp 2 -m 2048".split(' '))
            .args("-nodefaults -no-user-config -display none -no-reboot".split(' '))
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .args(["-serial", "stdio"]);
        let mut parameters =
            "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off".to_owned();
        if self.iommu {
            command.args(["-device", "intel-iommu"]);
            parameters += " intel_iommu=on iommu.strict=1";
        }
        for (number, (left, right)) in (1..).zip(WIRES) {
            for (end, device) in [left, right].into_iter().enumerate() {
                let slot = 2 * number + 2 + end;
                command
                    .arg("-netdev")
                    .arg(format!("hubport,id=end{slot},hubid={number}"))
                    .arg("-device")
                    .arg(format!("{device},netdev=end{slot},addr={slot:#x},mac=52:54:00:00:00:{slot:02x},romfile="));
            }
        }
        command
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &parameters])
            .stdin(std::process::Stdio::null());
        command
    }
}

/// The test that runs, if this is the last line so far.
fn running(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ...")
}

/// The first trouble that a console reports, with the lines that follow.
fn trouble(console: &str) -> Option<String> {
    let lines: Vec<&str> = console.lines().collect();
    let is_trouble = |line: &&str| TROUBLE.iter().any(|sign| line.contains(sign));
    let first = lines.iter().position(is_trouble)?;
    Some(
        lines
            .into_iter()
            .skip(first)
            .take(SHOWN)
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let skipped = lines.len().saturating_sub(SHOWN);
    lines
        .into_iter()
        .skip(skipped)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_runs_from_its_name_to_its_result() {
        assert_eq!(running("test a::b ..."), Some("a::b"));
        for line in [
            "test a::b ... ok",
            "running 2 tests",
            "",
            "test result: ok. 2 passed",
        ] {
            assert_eq!(running(line), None, "{line}");
        }
    }

    #[test]
    fn oopses_and_warnings_are_trouble_and_ordinary_lines_are_not() {
        let quiet = "[    0.1] clocksource: Watchdog remote CPU 1 read timed out\n\
                     [    0.2] Spectre V2 : WARNING: Unprivileged eBPF is enabled\n\
                     [    0.3] igb 0000:00:04.0 eth0: reset adapter\n";
        assert_eq!(trouble(quiet), None);
        for bad in [
            "[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    1.0] WARNING: CPU: 1 PID: 77 at net/xdp/xsk.c:12 xsk_x+0x1/0x2",
            "[    1.0] Oops: 0000 [#1] PREEMPT SMP",
            "[    1.0] Kernel panic - not syncing: Fatal exception",
            "[  242.0] INFO: task relay:99 blocked for more than 120 seconds.",
            "[   30.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [relay:99]",
        ] {
            let found = trouble(&format!("{quiet}{bad}\nmore\n"));
            assert_eq!(found, Some(format!("{bad}\nmore")));
        }
    }
}
