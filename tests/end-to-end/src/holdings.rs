//! What a running relay holds of the kernel, seen from outside: open files by kind, threads,
//! memory, programs that are attached, groups that are joined, and packet sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};

use crate::bpf::{field, hash_map_entries};
use crate::netns::Namespace;
use crate::relay::RelayProcess;
use crate::sys;

/// The protocol of the packet sockets that claim an input for one relay.
pub const CLAIM: u16 = 0x05e1;

/// What `/proc` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// How many open files there are of each kind: `socket:XDP`, `anon_inode:bpf-map`, and so on. A
    /// socket with two descriptors counts once.
    pub files: BTreeMap<String, usize>,
    /// How many threads have each name; the numbers of workers are left out.
    pub threads: BTreeMap<String, usize>,
}

/// A packet socket in a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PacketSocket {
    /// The index of the interface that it is bound to; 0 for none, or one that has gone.
    pub interface: u32,
    /// The protocol that it receives; 0 for nothing.
    pub protocol: u16,
}

impl RelayProcess {
    /// What it holds now.
    pub fn held(&self) -> Result<Held> {
        let mut files = BTreeMap::new();
        let mut sockets = BTreeSet::new();
        let folder = format!("/proc/{}/fd", self.id());
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
            let path = entry?.path();
            // A file that was closed since is none of them.
            let (Some(kind), Ok(target)) = (kind(&path), fs::read_link(&path)) else {
                continue;
            };
            if kind.starts_with("socket:") && !sockets.insert(target) {
                continue;
            }
            *files.entry(kind).or_insert(0) += 1;
        }
        let mut threads = BTreeMap::new();
        for name in self.of_threads("Name:")? {
            let name = name
                .trim_end_matches(|c: char| c.is_ascii_digit())
                .to_owned();
            *threads.entry(name).or_insert(0) += 1;
        }
        Ok(Held { files, threads })
    }

    /// Memory that it has in RAM and that no file backs, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.kib("RssAnon:")
    }

    /// Memory that may not leave RAM, in KiB: locked by itself, or pinned by the kernel for it.
    pub fn locked_kib(&self) -> Result<u64> {
        Ok(self.kib("VmLck:")? + self.kib("VmPin:")?)
    }

    /// A line of `/proc/PID/status` that has a number of KiB.
    fn kib(&self, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(key));
        let words = line.and_then(|line| line.split_whitespace().next());
        let kib = words.and_then(|word| word.parse().ok());
        kib.with_context(|| format!("no {key} in {path}"))
    }

    /// The indices of the interfaces that its XDP program is attached to; 0 for one that has gone.
    pub fn attached(&self) -> Result<Vec<u32>> {
        let links = self.descriptions()?.into_iter().filter_map(|text| {
            (field(&text, "link_type") == Some("xdp"))
                .then(|| field(&text, "ifindex")?.parse().ok())
        });
        let mut indices: Vec<u32> = links.flatten().collect();
        indices.sort_unstable();
        Ok(indices)
    }

    /// The ids of the maps of kernel programs that it has open.
    pub fn kernel_maps(&self) -> Result<BTreeSet<u32>> {
        let descriptions = self.descriptions()?;
        let ids = descriptions
            .iter()
            .filter_map(|text| field(text, "map_id")?.parse().ok());
        Ok(ids.collect())
    }

    /// How many entries its hash maps of kernel programs have in all.
    pub fn map_entries(&self) -> Result<usize> {
        let entries = self.kernel_maps()?.into_iter().map(hash_map_entries);
        let entries = entries.collect::<Result<Vec<_>>>()?;
        Ok(entries.into_iter().flatten().sum())
    }

    /// What `/proc` says of each of its open files.
    fn descriptions(&self) -> Result<Vec<String>> {
        let folder = format!("/proc/{}/fdinfo", self.id());
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {folder}"))?;
        let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        Ok(texts.collect())
    }
}

/// What an open file is, without what tells it from others of its kind.
fn kind(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?.to_string_lossy().into_owned();
    Some(match target.split_once(":[") {
        Some(("socket", _)) => {
            let protocol = sys::socket_protocol(link).ok()?;
            format!("socket:{protocol}")
        }
        Some((class, _)) => class.to_owned(),
        None => target,
    })
}

impl Namespace {
    /// The groups of 239.0.0.0/8 and of ff3e::/16 that programs of this host have joined, by
    /// interface.
    pub fn joined_groups(&self) -> Result<BTreeSet<(String, IpAddr)>> {
        let text = self.proc_net("igmp")?;
        let mut interface = "";
        let mut groups = BTreeSet::new();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if !line.starts_with('\t') {
                interface = words.next().unwrap_or_default();
                continue;
            }
            // The address as the kernel holds it, big-endian, read as a native number.
            let bits = u32::from_str_radix(first, 16).with_context(|| format!("reading {line}"))?;
            let group = Ipv4Addr::from(bits.to_ne_bytes());
            if group.octets()[0] == 239 {
                groups.insert((interface.to_owned(), group.into()));
            }
        }
        for line in self.proc_net("igmp6")?.lines() {
            let mut words = line.split_whitespace().skip(1);
            let found = words.next().zip(words.next());
            let (interface, group) = found.with_context(|| format!("reading {line}"))?;
            let bits =
                u128::from_str_radix(group, 16).with_context(|| format!("reading {line}"))?;
            if bits >> 112 == 0xff3e {
                groups.insert((interface.to_owned(), Ipv6Addr::from_bits(bits).into()));
            }
        }
        Ok(groups)
    }

    /// All packet sockets of this host.
    pub fn packet_socket_list(&self) -> Result<Vec<PacketSocket>> {
        let text = self.proc_net("packet")?;
        let mut sockets = Vec::new();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace().skip(3);
            let socket = || -> Option<PacketSocket> {
                Some(PacketSocket {
                    protocol: u16::from_str_radix(words.next()?, 16).ok()?,
                    interface: words.next()?.parse::<i32>().ok()?.try_into().unwrap_or(0),
                })
            }();
            sockets.push(socket.with_context(|| format!("reading {line}"))?);
        }
        sockets.sort_unstable();
        Ok(sockets)
    }

    fn proc_net(&self, table: &str) -> Result<String> {
        let path = format!("/proc/thread-self/net/{table}");
        self.run(|| fs::read_to_string(&path).with_context(|| format!("reading {path}")))
    }
}
