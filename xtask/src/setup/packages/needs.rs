//! The table of what is needed: one entry per thing, with its packages.

use super::probe::Probe;

/// What the machine has to be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Compile the relay.
    Build,
    /// Run the demo and the tests as well.
    Test,
    /// Run what the benchmark compares the relay with as well.
    Bench,
}

/// One thing that is needed.
#[derive(Debug)]
pub struct Need {
    /// What it is.
    pub what: &'static str,
    /// What it is needed for.
    pub why: &'static str,
    /// The least purpose that needs it.
    pub purpose: Purpose,
    /// How to see that it is there.
    pub probe: Probe,
    /// The packages of Debian, separated by spaces.
    pub debian: &'static str,
    /// The packages of Fedora.
    pub fedora: &'static str,
    /// The packages of Arch.
    pub arch: &'static str,
}

/// Everything, in the order of the purposes.
pub const NEEDS: &[Need] = &[
    Need {
        what: "C compiler and binutils",
        why: "libxdp and libbpf are C",
        purpose: Purpose::Build,
        probe: Probe::Program(&["cc"]),
        debian: "gcc libc6-dev",
        fedora: "gcc glibc-devel",
        arch: "gcc",
    },
    Need {
        what: "make",
        why: "builds libbpf",
        purpose: Purpose::Build,
        probe: Probe::Program(&["make"]),
        debian: "make",
        fedora: "make",
        arch: "make",
    },
    Need {
        what: "pkg-config",
        why: "libbpf finds libelf and zlib with it",
        purpose: Purpose::Build,
        probe: Probe::Program(&["pkg-config"]),
        debian: "pkg-config",
        fedora: "pkgconf-pkg-config",
        arch: "pkgconf",
    },
    Need {
        what: "m4",
        why: "libxdp generates a source file with it",
        purpose: Purpose::Build,
        probe: Probe::Program(&["m4"]),
        debian: "m4",
        fedora: "m4",
        arch: "m4",
    },
    Need {
        what: "clang",
        why: "compiles the XDP dispatcher of libxdp",
        purpose: Purpose::Build,
        probe: Probe::Program(&["clang"]),
        debian: "clang",
        fedora: "clang",
        arch: "clang",
    },
    Need {
        what: "libclang",
        why: "bindgen reads the headers of libxdp with it",
        purpose: Purpose::Build,
        probe: Probe::Libclang,
        debian: "libclang-dev",
        fedora: "clang-devel",
        arch: "clang",
    },
    Need {
        what: "libelf headers",
        why: "libbpf reads ELF objects",
        purpose: Purpose::Build,
        probe: Probe::Header("libelf.h"),
        debian: "libelf-dev",
        fedora: "elfutils-libelf-devel",
        arch: "libelf",
    },
    Need {
        what: "zlib headers",
        why: "libelf and libbpf decompress with it",
        purpose: Purpose::Build,
        probe: Probe::Header("zlib.h"),
        debian: "zlib1g-dev",
        fedora: "zlib-devel",
        arch: "zlib",
    },
    Need {
        what: "ip",
        why: "the demo and the tests make network namespaces and veth pairs",
        purpose: Purpose::Test,
        probe: Probe::Program(&["ip"]),
        debian: "iproute2",
        fedora: "iproute",
        arch: "iproute2",
    },
    Need {
        what: "ethtool",
        why: "the tests switch checksum and segmentation offloads",
        purpose: Purpose::Test,
        probe: Probe::Program(&["ethtool"]),
        debian: "ethtool",
        fedora: "ethtool",
        arch: "ethtool",
    },
    Need {
        what: "strace",
        why: "the tests see with it which system calls a worker makes",
        purpose: Purpose::Test,
        probe: Probe::Program(&["strace"]),
        debian: "strace",
        fedora: "strace",
        arch: "strace",
    },
    Need {
        what: "prometheus and promtool",
        why: "the tests have a relay's metrics scraped, and check alert rules and dashboard",
        purpose: Purpose::Test,
        probe: Probe::Program(&["promtool"]),
        debian: "prometheus",
        fedora: "golang-github-prometheus",
        arch: "prometheus",
    },
    Need {
        what: "tshark",
        why: "the tests open with it what `relay tap` writes",
        purpose: Purpose::Test,
        probe: Probe::Program(&["tshark"]),
        debian: "tshark",
        fedora: "wireshark-cli",
        arch: "wireshark-cli",
    },
    // What the benchmark compares with was tried on Debian only. On the others these are the names
    // that the projects themselves use, and so do the distributions that package them.
    Need {
        what: "valgrind",
        why: "the tests count the instructions of the forwarding loop with it",
        purpose: Purpose::Test,
        probe: Probe::Program(&["valgrind"]),
        debian: "valgrind",
        fedora: "valgrind",
        arch: "valgrind",
    },
    Need {
        what: "socat",
        why: "the benchmark compares with it",
        purpose: Purpose::Bench,
        probe: Probe::Program(&["socat"]),
        debian: "socat",
        fedora: "socat",
        arch: "socat",
    },
    Need {
        what: "smcroute",
        why: "sets up the kernel's multicast routing, which the benchmark compares with",
        purpose: Purpose::Bench,
        probe: Probe::Program(&["smcrouted"]),
        debian: "smcroute",
        fedora: "smcroute",
        arch: "smcroute",
    },
    Need {
        what: "DPDK's testpmd",
        why: "the benchmark compares with it",
        purpose: Purpose::Bench,
        probe: Probe::Program(&["dpdk-testpmd"]),
        debian: "dpdk-dev",
        fedora: "dpdk",
        arch: "dpdk",
    },
    Need {
        what: "DPDK's AF_XDP driver",
        why: "testpmd has to run over AF_XDP",
        purpose: Purpose::Bench,
        probe: Probe::Library("librte_net_af_xdp.so"),
        // The driver's own package has the version of DPDK in its name.
        debian: "librte-meta-net",
        fedora: "dpdk",
        arch: "dpdk",
    },
];
