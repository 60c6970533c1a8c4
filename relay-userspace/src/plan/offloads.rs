//! What an input does to received frames before the relay sees them: VLAN tags, and GRO.
//!
//! An XDP program sees the bytes alone, so tags must stay in them: the NIC leaves them there, the
//! relay switches the offload off, or the interface is on io_uring, whose packet sockets get a tag
//! that is beside the bytes (docs/decisions/0014, 0028).
//!
//! On io_uring, a packet socket gets each frame by itself, which costs more than all that the relay
//! does with it. With GRO it gets up to 64 datagrams of a flow at once.

use super::{backend::Backend, constraints::Constraints, named_interfaces::Named};
use crate::{
    config::rules::Offloads,
    host::{HostFacts, InterfaceFacts, Offload, Switched},
};

/// Why tags are an obstacle to XDP on an input.
pub(super) struct Stripped {
    pub(super) reason: String,
    pub(super) cause: String,
    pub(super) remedy: String,
}

/// The obstacle that the interface's treatment of tags is to XDP; `None` if it is none.
pub(super) fn against_xdp(
    named: &Named<'_>,
    facts: &InterfaceFacts,
    host_facts: &HostFacts,
    constraints: &Constraints,
) -> Option<Stripped> {
    let name = named.name;
    if facts.tag_may_be_beside() {
        // The operator who insists on XDP knows the other end, the relay does not.
        let may_choose = constraints.forced.is_none() && host_facts.gso_packets;
        return (named.has_vlan_rule && may_choose).then(|| {
            let reason = format!(
                "{name} is a veth, whose other end may leave VLAN tags beside the bytes, where XDP \
                 does not see them, and a rule names a VLAN there"
            );
            Stripped {
                cause: reason.clone(),
                remedy: beside(name),
                reason,
            }
        });
    }
    if !facts.offloads.strips_tags() {
        return None;
    }
    let takes = "takes VLAN tags out of the frames before XDP sees them, so that a tagged feed \
                 would be relayed as an untagged one";
    let strips = facts.offloads.unwanted.iter().filter(|one| one.strips());
    let strips: Vec<Offload> = strips.copied().collect();
    let fixed = &facts.offloads.fixed;
    if let Some(fixed) = strips.iter().find(|one| fixed.contains(one)) {
        let takes = format!("{takes}, and its driver does not let `{fixed}` be switched off");
        return Some(Stripped {
            reason: format!("{name} {takes}"),
            cause: format!("the input interface `{name}` {takes}"),
            remedy: "use an interface that leaves tags in".into(),
        });
    }
    let command = switched_off(name, &strips);
    if !named.manages {
        return Some(Stripped {
            reason: format!(
                "{name} {takes}; {command} leaves them in, or `offloads = \"manage\"` in its \
                 `[[interfaces]]` table for as long as the relay runs"
            ),
            cause: format!("the input interface `{name}` {takes}"),
            remedy: format!(
                "leave the tags in: {command}, or `offloads = \"manage\"` in its `[[interfaces]]` \
                 table for as long as the relay runs"
            ),
        });
    }
    let stay = refusal(name, constraints)?;
    Some(Stripped {
        reason: format!("{name} {takes}, and {stay}; {command} leaves them in"),
        cause: format!("the input interface `{name}` {takes}, and {stay}"),
        remedy: format!("leave the tags in: {command}"),
    })
}

fn refusal<'c>(name: &str, constraints: &'c Constraints) -> Option<&'c str> {
    let mut stay = constraints.offloads_stay.iter();
    let refusal = stay.find(|refusal| refusal.interface == name)?;
    Some(&refusal.reason)
}

/// What leaves tags in the bytes of frames that arrive at a veth.
fn beside(name: &str) -> String {
    format!(
        "run `ethtool -K OTHER-END tx-vlan-offload off tx-vlan-stag-hw-insert off` at the other end \
         of {name}"
    )
}

/// The command that switches `offloads` off, in backquotes.
fn switched_off(name: &str, offloads: &[Offload]) -> String {
    let mut command = format!("`ethtool -K {name}");
    for offload in offloads {
        // ethtool's own name for the first one is better known.
        let word = match offload {
            Offload::StripTag => "rx-vlan-offload",
            other => other.name(),
        };
        command.push_str(&format!(" {word} off"));
    }
    command.push('`');
    command
}

/// Kinds of interfaces that receive what another one, to which GRO belongs, has received.
const ABOVE_OTHERS: [&str; 7] = [
    "802.1Q VLAN Support",
    "bonding",
    "bridge",
    "ipvlan",
    "macsec",
    "macvlan",
    "team",
];

/// The offloads that the relay switches for as long as it runs: on XDP those that take tags out of
/// frames, on io_uring those that join datagrams, and where rules name VLANs those that drop frames
/// of VLANs.
pub(super) fn to_switch(
    named: &Named<'_>,
    facts: &InterfaceFacts,
    backend: Backend,
    constraints: &Constraints,
) -> Switched {
    if !named.manages || named.input.is_none() || refusal(named.name, constraints).is_some() {
        return Switched::default();
    }
    let all = facts.offloads.unwanted.iter().copied();
    let wanted = all.filter(|one| {
        one.strips() && backend == Backend::Xdp
            || one.filters() && named.has_vlan_rule
            || one.joins()
                && backend == Backend::IoUring
                && !ABOVE_OTHERS.contains(&facts.driver.as_str())
    });
    let free = wanted.filter(|one| !facts.offloads.fixed.contains(one));
    free.collect::<Vec<_>>().into()
}

/// Notes about an input whose NIC drops frames of VLANs that rules name, and about an option that
/// has no effect. `switched` are the offloads that the relay switches.
pub(super) fn notes(
    named: &Named<'_>,
    facts: &InterfaceFacts,
    backend: Backend,
    switched: &[Offload],
    notes: &mut Vec<String>,
) {
    let name = named.name;
    let filters = facts.offloads.unwanted.iter().filter(|one| one.filters());
    let filters = filters.filter(|one| !switched.contains(one));
    let filters: Vec<Offload> = filters.copied().collect();
    if named.has_vlan_rule && !filters.is_empty() {
        let (fixed, free): (Vec<Offload>, Vec<_>) = filters
            .into_iter()
            .partition(|one| facts.offloads.fixed.contains(one));
        let remedy = match free.is_empty() || !fixed.is_empty() {
            true => format!(
                "give it one: `ip link add link {name} name {name}.ID type vlan id ID`, and `ip link \
                 set {name}.ID up`"
            ),
            false => format!(
                "give it one, or {}, or set `offloads = \"manage\"` in its `[[interfaces]]` table",
                switched_off(name, &free)
            ),
        };
        notes.push(format!(
            "{name} drops frames of VLANs that no VLAN device above it has; {remedy}."
        ));
    }
    if named.manages && named.input.is_none() {
        notes.push(format!(
            "The `offloads` \"{}\" of {name} has no effect: no rule receives there.",
            Offloads::Manage
        ));
    }
    if named.has_vlan_rule && facts.tag_may_be_beside() && backend == Backend::Xdp {
        notes.push(format!(
            "Rules name VLANs on {name}, a veth, and XDP sees only tags that are in the bytes of a \
             frame: {}, or leave `--backend` out.",
            beside(name)
        ));
    }
}
