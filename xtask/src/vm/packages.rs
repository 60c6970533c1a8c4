//! The packages of Debian that make up the virtual machine, with exact versions: drivers and
//! emulated NICs change between versions, and what a test shows holds for those that it ran on.
//!
//! A mirror keeps a version for as long as it is the newest of its suite. When one has gone, the
//! fetch says so; then pin its successor here (`apt-cache policy` with
//! `APT_CONFIG=target/zero-copy/apt/apt.conf` shows it).

/// A kernel of the guest.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What follows `linux-` in the names of its packages, and what `uname -r` prints.
    pub release: &'static str,
    /// Its packages.
    pub packages: &'static [Package],
    /// The test programs that run on it, one after the other.
    pub tests: &'static [Tests],
}

/// A test program of `tests/end-to-end/tests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tests {
    /// Both kernel programs pass the verifier, and give every packet of the table its verdict.
    PacketTable,
    /// Zero copy, with the drivers that do it. Not on the oldest kernel: io_uring, and more of what
    /// these tests use, came later.
    ZeroCopy,
}

impl Tests {
    /// All test programs.
    pub const ALL: &[Self] = &[Self::PacketTable, Self::ZeroCopy];

    /// The name of the test program, for cargo and in the guest.
    pub fn program(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero_copy",
            Self::PacketTable => "packet_table",
        }
    }
}

/// A package and its version.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// The name.
    pub name: &'static str,
    /// The version.
    pub version: &'static str,
}

const fn package(name: &'static str, version: &'static str) -> Package {
    Package { name, version }
}

impl Kernel {
    /// The version without what Debian adds: `6.12.90`. The release of an older kernel has only the
    /// first two of the three numbers; its package has all.
    pub fn version(&self) -> &'static str {
        let full = self.packages.first().map_or(self.release, |p| p.version);
        full.split(['+', '-']).next().unwrap_or(full)
    }
}

/// The suites that the packages are in.
pub const SUITES: &[&str] = &[
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
];

/// The kernels, oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        release: "5.10.0-32-amd64",
        packages: &[package("linux-image-5.10.0-32-amd64", "5.10.223-1")],
        tests: &[Tests::PacketTable],
    },
    Kernel {
        release: "6.12.117+deb13-amd64",
        packages: &[package("linux-image-6.12.117+deb13-amd64", "6.12.117-1")],
        tests: Tests::ALL,
    },
    Kernel {
        release: "6.18.15+deb13-amd64",
        packages: &[package(
            "linux-image-6.18.15+deb13-amd64",
            "6.18.15-1~bpo13+1",
        )],
        tests: Tests::ALL,
    },
    Kernel {
        release: "7.3.4+deb13-amd64",
        packages: &[
            package("linux-binary-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
            package("linux-modules-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
        ],
        tests: Tests::ALL,
    },
];

/// The kernel that runs without `--kernel`: the newest.
pub fn default_kernel() -> &'static Kernel {
    &KERNELS[KERNELS.len() - 1]
}

/// QEMU first, then the libraries that it needs and a host may lack.
pub const QEMU: &[Package] = &[
    package("qemu-system-x86", "1:10.0.2+ds-2+deb13u1~bpo12+1"),
    package("qemu-system-data", "1:10.0.2+ds-2+deb13u1~bpo12+1"),
    package("seabios", "1.16.3-2~bpo12+1"),
    package("libcapstone4", "4.0.2-5"),
    package("libpmem1", "1.12.1-2"),
    package("libndctl6", "76.1-1"),
    package("libdaxctl1", "76.1-1"),
    package("libkmod2", "30+20221128-1"),
    package("libfdt1", "1.6.1-4+b1"),
    package("librdmacm1", "44.0-2"),
    package("libibverbs1", "44.0-2"),
    package("libnl-3-200", "3.7.0-0.2+b1"),
    package("libnl-route-3-200", "3.7.0-0.2+b1"),
    package("libslirp0", "4.7.0-1"),
    package("libvdeplug2", "4.0.1-4"),
    package("libaio1", "0.3.113-4"),
    package("libbpf1", "1:1.1.2-0+deb12u1"),
    package("libfuse3-3", "3.14.0-4"),
    package("libnuma1", "2.0.16-1"),
    package("libpixman-1-0", "0.42.2-1"),
    package("liburing2", "2.3-3"),
    package("libjpeg62-turbo", "1:2.1.5-2"),
    package("libsasl2-2", "2.1.28+dfsg-10"),
    package("libseccomp2", "2.5.4-1+deb12u1"),
    package("libpng16-16", "1.6.39-2+deb12u5"),
    package("libgnutls30", "3.7.9-2+deb12u7"),
    package("libglib2.0-0", "2.74.6-2+deb12u9"),
];
