//! Which version of IGMP and MLD each interface speaks now. Older versions cannot name sources: the
//! kernel then joins for any, and the network delivers every source.

use std::{collections::HashMap, fs};

/// The versions of all interfaces of this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MembershipVersions {
    /// By interface index.
    igmp: HashMap<u32, u8>,
    /// The interfaces, by index, where `force_mld_version` is 1.
    mld_1: Vec<u32>,
}

impl MembershipVersions {
    /// Reads what the kernel tells. It does not tell whether a router that speaks MLDv1 has made it
    /// do so as well.
    pub(super) fn now<'a>(interfaces: impl Iterator<Item = (u32, &'a str)>) -> Self {
        let list = fs::read_to_string("/proc/thread-self/net/igmp").unwrap_or_default();
        let forced = |name: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{name}/force_mld_version");
            fs::read_to_string(path).is_ok_and(|version| version.trim() == "1")
        };
        Self {
            igmp: igmp(&list),
            mld_1: interfaces
                .filter(|(_, name)| forced(name))
                .map(|(index, _)| index)
                .collect(),
        }
    }

    /// The version of IGMP that the interface with this index speaks; `None` if it has no IPv4.
    #[must_use]
    pub fn igmp(&self, index: u32) -> Option<u8> {
        self.igmp.get(&index).copied()
    }

    /// Whether it is set to MLDv1.
    #[must_use]
    pub fn is_mld_1(&self, index: u32) -> bool {
        self.mld_1.contains(&index)
    }

    /// Sets what an interface speaks.
    #[cfg(test)]
    pub(crate) fn with(mut self, index: u32, igmp: u8, is_mld_1: bool) -> Self {
        self.igmp.insert(index, igmp);
        self.mld_1.extend(is_mld_1.then_some(index));
        self
    }
}

/// Reads `/proc/net/igmp` (net/ipv4/igmp.c): the line of an interface begins with its index and
/// ends with the version, such as `V3`.
fn igmp(list: &str) -> HashMap<u32, u8> {
    let lines = list.lines().skip(1).filter(|line| !line.starts_with('\t'));
    let versions = lines.filter_map(|line| {
        let index = line.split_whitespace().next()?.parse().ok()?;
        let version = line.split_whitespace().next_back()?.strip_prefix('V')?;
        Some((index, version.parse().ok()?))
    });
    versions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, run};

    #[test]
    fn a_version_that_is_forced_is_seen() {
        in_namespace(|| {
            run("ip link add name va index 71 type veth peer name vb index 72");
            run("ip link set va up");
            run("ip link set vb up");
            let now = || MembershipVersions::now([(71, "va"), (72, "vb")].into_iter());
            assert_eq!(now().igmp(71), Some(3));
            assert_eq!(now().igmp(73), None);
            assert!(!now().is_mld_1(71));
            fs::write("/proc/sys/net/ipv4/conf/va/force_igmp_version", "2").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/va/force_mld_version", "1").unwrap();
            assert_eq!((now().igmp(71), now().igmp(72)), (Some(2), Some(3)));
            assert!(now().is_mld_1(71) && !now().is_mld_1(72));
        });
    }
}
