//! The multicast relay as a library; the binary `relay` is a thin shell around it.
//!
//! A module imports from those below it, and from none above:
//!
//! | module | what is in it |
//! |---|---|
//! | [`cli`] | the command line: verbs, exit codes, the log |
//! | [`control`] | the control socket: its protocol, server and client |
//! | [`daemon`] | the life of a running relay: up, watch, down |
//! | [`observe`] | what became of every frame, for people and programs |
//! | [`datapath`] | per frame: receive, look up, rewrite, transmit; AF_XDP and io_uring |
//! | [`kernel`] | the kernel programs, their maps and links |
//! | [`plan`] | rules and host facts become a plan; pure |
//! | [`packet`] | header templates and checksums; pure |
//! | [`matching`] | what a flow matches, as entries of the look-up's tables; pure |
//! | [`config`] | TOML text becomes validated rules, or every mistake in it; pure |
//! | [`host`] | facts about the interfaces, and news of them |
//!
//! From a rule file to a plan, without a kernel and without a network:
//!
//! ```
//! use relay::{
//!     config,
//!     host::{GsoLimits, HostFacts, InterfaceFacts, OffloadFacts, XdpFeatures},
//!     plan::{self, Backend, Constraints},
//! };
//!
//! let rules = r#"
//!     [[rules]]
//!     name    = "feed"
//!     input   = { interface = "in0", group = "239.1.1.1", port = 5001 }
//!     outputs = [{ interface = "out0", group = "239.2.1.1", port = 5002 }]
//! "#;
//! let document = config::parse("relay.toml", rules).unwrap();
//!
//! let interface = |name: &str, index: u32| InterfaceFacts {
//!     name: name.into(),
//!     index,
//!     mac: Some([2, 0, 0, 0, 0, index as u8]),
//!     mtu: 1500,
//!     addresses: vec![[10, 0, index as u8, 1].into()],
//!     ipv6_addresses: vec![],
//!     is_up: true,
//!     is_loopback: false,
//!     driver: "igb".into(),
//!     rx_queues: 1,
//!     tx_queues: 1,
//!     segments_udp: false,
//!     offloads: OffloadFacts::default(),
//!     queueless: false,
//!     gso: GsoLimits::default(),
//!     xdp: Some(XdpFeatures::from_bits(XdpFeatures::BASIC | XdpFeatures::REDIRECT)),
//! };
//! let facts = [interface("in0", 1), interface("out0", 2)];
//! let host_facts = HostFacts {
//!     interfaces: facts.map(|facts| (facts.name.clone(), facts)).into(),
//!     cpus: 2,
//!     gso_packets: true,
//!     ..HostFacts::default()
//! };
//!
//! let plan = plan::build(&document, &host_facts, &Constraints::default()).unwrap();
//! assert!(plan.is_on(Backend::Xdp));
//! assert_eq!(plan.flows.len(), 1);
//! println!("{plan}");
//! ```

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod events;
#[cfg(test)]
mod far_namespace;
pub mod host;
pub mod kernel;
pub mod matching;
pub mod observe;
pub mod packet;
pub mod plan;
#[cfg(test)]
mod testing;
