//! Which groups the relay joins: those of every rule that runs and lets it.

use std::{collections::BTreeSet, net::IpAddr};

use super::model::Plan;

/// A group that is joined on an interface, of any source or of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Membership {
    /// The interface's index.
    pub interface: u32,
    /// The group.
    pub group: IpAddr,
    /// The source; `None` is any.
    pub source: Option<IpAddr>,
}

impl Plan {
    /// Every membership that its rules want, each once: a prefix has one for each of its groups, a
    /// rule with sources one for each of them.
    #[must_use]
    pub fn memberships(&self) -> BTreeSet<Membership> {
        let mut all = BTreeSet::new();
        for flow in self.flows.iter().filter(|flow| flow.join) {
            let Some(interface) = self.interfaces.get(flow.interface) else {
                continue;
            };
            let sources = flow.matches.sources.iter().copied().map(Some);
            let any = flow.matches.sources.is_empty().then_some(None);
            let sources: Vec<Option<IpAddr>> = sources.chain(any).collect();
            for group in flow.matches.group.groups() {
                all.extend(sources.iter().map(|&source| Membership {
                    interface: interface.index,
                    group,
                    source,
                }));
            }
        }
        all
    }
}
