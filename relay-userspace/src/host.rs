//! This network namespace and its interfaces: their facts, their changes, their devices' counters.
//!
//! Everything comes from netlink and from ioctls on sockets of the calling thread, never from
//! `/sys`: that shows the namespace it was mounted for, which need not be ours.

mod bell;
pub mod device_drops;
mod ethtool;
mod facts;
#[cfg(test)]
pub(crate) mod fixture;
pub mod group_options;
mod gso_limits;
mod ipv6_address;
mod ipv6_groups;
pub mod limits;
mod membership_versions;
pub mod namespace;
pub mod neighbours;
mod netlink;
mod netlink_dump;
mod netlink_socket;
mod offloads;
mod other_receivers;
pub mod packet_socket;
pub mod regular_file;
pub mod routes;
pub mod rx_missed;
pub mod socket_options;
pub mod tap;
#[cfg(test)]
mod tests;
pub mod watch;

#[cfg(test)]
pub(crate) use self::facts::facts;
pub use self::{
    bell::Bell,
    facts::{
        Destination, HostError, HostFacts, InterfaceFacts, RouteAnswer, XdpFeatures, facts_for,
        with_carrier,
    },
    gso_limits::GsoLimits,
    ipv6_address::Ipv6Address,
    ipv6_groups::ipv6_groups,
    membership_versions::MembershipVersions,
    offloads::{Offload, OffloadFacts, OffloadSwitch, Switched},
    other_receivers::Bystanders,
};
