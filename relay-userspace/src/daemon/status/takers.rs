//! Which of many flows takes each of many datagrams: the flows are gone through once, however many
//! datagrams there are.

use std::{collections::BTreeMap, net::IpAddr};

use relay_common::wire::Vlan;

use crate::plan::FlowKey;

/// What flows match a datagram by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The index of the interface that it arrived on.
    pub interface: u32,
    pub vlan: Vlan,
    pub group: IpAddr,
    pub port: u16,
    pub source: IpAddr,
}

/// For each datagram the flow that takes it: of several the one with the highest rank.
pub fn takers<F: Copy, R: Ord + Copy>(
    flows: impl Iterator<Item = (FlowKey, R, F)>,
    datagrams: &[Seen],
) -> Vec<Option<F>> {
    let mut by_group: BTreeMap<(u32, Vlan, IpAddr), Vec<usize>> = BTreeMap::new();
    for (number, one) in datagrams.iter().enumerate() {
        let place = (one.interface, one.vlan, one.group);
        by_group.entry(place).or_default().push(number);
    }
    let mut best: Vec<Option<(R, F)>> = vec![None; datagrams.len()];
    for (key, rank, flow) in flows {
        let at = |group| (key.interface, key.vlan, group);
        let inside = by_group.range(at(key.group.address())..=at(key.group.last()));
        for &number in inside.flat_map(|(_, numbers)| numbers) {
            let (Some(one), Some(best)) = (datagrams.get(number), best.get_mut(number)) else {
                continue;
            };
            let takes = key.ports.contains(one.port)
                && key.source.is_none_or(|source| source == one.source);
            if takes && best.is_none_or(|(before, _)| before < rank) {
                *best = Some((rank, flow));
            }
        }
    }
    let flows = best.into_iter().map(|best| best.map(|(_, flow)| flow));
    flows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::{Match, PortMatch, Vlan as VlanMatch};

    fn key(group: &str, ports: PortMatch, source: Option<&str>) -> (FlowKey, usize) {
        let matches = Match {
            group: group.parse().unwrap(),
            ports,
            sources: source
                .into_iter()
                .map(|source| source.parse().unwrap())
                .collect(),
            vlan: VlanMatch::Untagged,
        };
        let rank = group.len() + 100 * usize::from(source.is_some());
        (FlowKey::of(3, &matches).next().unwrap(), rank)
    }

    #[test]
    fn each_datagram_is_taken_by_the_flow_that_a_search_through_all_finds() {
        let (one, any) = (PortMatch::One(5001), PortMatch::Any);
        let keys = [
            key("239.1.0.0/16", any, None),
            key(
                "239.1.1.0/24",
                PortMatch::Range(5000, 5099),
                Some("10.1.1.7"),
            ),
            key("239.1.1.255", one, None),
            key("ff3e::/32", any, None),
            key("ff3e::1", one, Some("fd00::7")),
        ];
        let mut datagrams = Vec::new();
        for group in [
            "239.0.255.255",
            "239.1.0.0",
            "239.1.1.255",
            "239.2.0.0",
            "ff3e::1",
            "ff3f::",
        ] {
            for (port, source) in [(5001, "10.1.1.7"), (5100, "10.1.1.7"), (5001, "fd00::7")] {
                for (interface, vlan) in
                    [(3, Vlan::UNTAGGED), (4, Vlan::UNTAGGED), (3, Vlan::tag(7))]
                {
                    datagrams.push(Seen {
                        interface,
                        vlan,
                        group: group.parse().unwrap(),
                        port,
                        source: source.parse().unwrap(),
                    });
                }
            }
        }
        let numbered = keys.iter().enumerate();
        let found = takers(
            numbered.map(|(number, &(key, rank))| (key, rank, number)),
            &datagrams,
        );
        for (one, found) in datagrams.iter().zip(&found) {
            let takes = |(_, (key, _)): &(usize, &(FlowKey, usize))| {
                (key.interface, key.vlan) == (one.interface, one.vlan)
                    && key.group.contains(one.group)
                    && key.ports.contains(one.port)
                    && key.source.is_none_or(|source| source == one.source)
            };
            let all = keys.iter().enumerate().filter(takes);
            let best = all.max_by_key(|(_, (_, rank))| *rank);
            assert_eq!(*found, best.map(|(number, _)| number), "{one:?}");
        }
        assert!(found.contains(&Some(4)) && found.contains(&Some(1)) && found.contains(&None));
    }
}
