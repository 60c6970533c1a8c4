//! The headers of all copies that arrive at a wire's far end, checked as they arrive: Ethernet, IP
//! and UDP, in every datagram and in every GSO packet that the wire takes whole.
//!
//! What is not UDP over IP is not looked at: hosts with IPv6 have more to say. Nor are payloads:
//! the kernel compares them with the checksum for every socket that receives them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result};
use etherparse::{Ipv4Header, Ipv6Header, UdpHeader};

use crate::background::Background;
use crate::frames::{self, ETHERNET_LEN, is_tagged};
use crate::inspect::{self, Datagram, UdpChecksum};
use crate::raw::{LONGEST, split};
use crate::receiver::QUIET;
use crate::sys::{self, Batch, Message, Receives};
use crate::veth::Endpoint;

/// How many faults are told.
const TOLD: usize = 10;
/// The TTL or hop limit of copies whose output sets none, of datagrams that arrive with less than
/// 33.
const TTL: u8 = 64;

/// What the copies on a wire must have.
#[derive(Debug, Clone)]
struct Expected {
    /// The relay's end of the wire.
    near: Endpoint,
    /// Where copies go.
    destinations: BTreeSet<(IpAddr, u16)>,
}

#[derive(Debug, Default)]
struct Checked {
    faults: Vec<String>,
    /// The flow label of each sender's copies, by its port, and the destination.
    labels: BTreeMap<(IpAddr, u16, u16), u32>,
    datagrams: u64,
    gso_packets: u64,
    socket_drops: u32,
}

/// Checks copies that arrive at one wire's far end.
#[derive(Debug)]
pub struct HeaderCheck {
    background: Background<Checked>,
}

impl HeaderCheck {
    /// Starts to check what arrives at `far` from `near`, the relay's end, for the groups and ports
    /// of the outputs there.
    pub fn start(
        near: &Endpoint,
        far: &Endpoint,
        destinations: impl IntoIterator<Item = (IpAddr, u16)>,
    ) -> Result<Self> {
        let expected = Expected {
            near: near.clone(),
            destinations: destinations.into_iter().collect(),
        };
        let socket = far.packet_socket(Receives::Arriving)?;
        sys::with_vnet_headers(socket.as_fd()).context("asking for vnet headers")?;
        let mut batch = Batch::new(32, LONGEST);
        let background = Background::start(
            &format!("headers-{}", far.interface),
            vec![socket],
            Checked::default(),
            move |_, socket, checked| {
                let count = batch.receive(socket)?;
                let socket_drops = sys::socket_drops(socket)?;
                let mut checked = checked.lock().unwrap_or_else(PoisonError::into_inner);
                checked.socket_drops = socket_drops;
                for message in batch.messages() {
                    checked.look_at(&message, &expected);
                }
                Ok(count)
            },
        )?;
        Ok(Self { background })
    }

    /// Waits until `count` datagrams have been looked at; false if they have not in time.
    pub fn wait_for(&self, count: u64, timeout: Duration) -> bool {
        self.background
            .wait_until(timeout, |checked| checked.datagrams >= count)
    }

    /// Waits for quiet, then fails unless all headers were right. Returns how many datagrams
    /// arrived, and in how many GSO packets some of them were.
    #[track_caller]
    pub fn assert_right(&self) -> (u64, u64) {
        self.background
            .settle(QUIET, |checked| checked.datagrams + checked.gso_packets);
        self.background.with(|checked| {
            assert!(
                checked.faults.is_empty() && checked.socket_drops == 0,
                "{} frames that could not be looked at, and wrong headers: {:#?}",
                checked.socket_drops,
                checked.faults
            );
            (checked.datagrams, checked.gso_packets)
        })
    }
}

impl Checked {
    fn look_at(&mut self, message: &Message<'_>, expected: &Expected) {
        let (segment, frame) = split(message.bytes);
        let fault = if message.vlan.is_some() || is_tagged(frame) {
            Some("a tag".to_owned())
        } else if !inspect::is_udp(frame) {
            None
        } else if let Some(copy) = inspect::headers(frame, message.partial_checksum) {
            let payload = frame.len() - headers_len(copy.destination);
            self.gso_packets += u64::from(segment.is_some());
            self.datagrams += segment.map_or(1, |segment| payload.div_ceil(segment)) as u64;
            let fault = expected.fault_of(&copy);
            fault.or_else(|| self.label_fault(&copy))
        } else {
            Some("lengths that do not fit".to_owned())
        };
        if let Some(fault) = fault
            && self.faults.len() < TOLD
        {
            let head = frame.iter().take(80).collect::<Vec<_>>();
            self.faults.push(format!("{fault}: {head:02x?}"));
        }
    }
}

/// Bytes of the headers of an untagged datagram.
fn headers_len(destination: IpAddr) -> usize {
    let ip = match destination {
        IpAddr::V4(_) => Ipv4Header::MIN_LEN,
        IpAddr::V6(_) => Ipv6Header::LEN,
    };
    ETHERNET_LEN + ip + UdpHeader::LEN
}

impl Checked {
    /// What is wrong with the flow label of a copy: a sender has one for all datagrams of a flow.
    fn label_fault(&mut self, copy: &Datagram) -> Option<String> {
        let flow = (copy.destination, copy.port, copy.source_port);
        let label = *self.labels.entry(flow).or_insert(copy.flow_label);
        (label != copy.flow_label).then(|| format!("another flow label than {label:#x}"))
    }
}

impl Expected {
    /// What is wrong with a copy.
    fn fault_of(&self, copy: &Datagram) -> Option<String> {
        let near = &self.near;
        let to = (copy.destination, copy.port);
        let checksum_fits = match copy.checksum {
            UdpChecksum::Zero => copy.destination.is_ipv4(),
            UdpChecksum::Wrong => false,
            UdpChecksum::Partial | UdpChecksum::Complete | UdpChecksum::Valid => true,
        };
        [
            (self.destinations.contains(&to), "destination"),
            (
                copy.destination_mac == frames::group_mac(copy.destination),
                "destination MAC",
            ),
            (copy.source_mac == near.mac, "source MAC"),
            (copy.source == near.address_for(copy.destination), "source"),
            (copy.ttl == TTL, "TTL"),
            (copy.tos == 0, "DSCP and ECN"),
            (copy.ip_checksum_valid, "IP checksum"),
            (checksum_fits, "UDP checksum"),
        ]
        .into_iter()
        .find(|(is_right, _)| !is_right)
        .map(|(_, what)| format!("wrong {what}, {to:?}"))
    }
}
