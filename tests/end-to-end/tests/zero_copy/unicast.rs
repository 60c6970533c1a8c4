//! Unicast on NICs: copies to hosts on the link and behind a router, and inputs that are an address
//! of the relay's host.
//!
//! ```text
//!             +-------+ out0 ------ rcv0  10.2.0.2
//!   src0 -----| relay |
//!             +-------+ out1 ------ rcv1  10.2.1.2, a router ------ host  10.5.0.2
//! ```

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::background::eventually;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::{Checksum, UdpFrame};
use relay_tests::lab;
use relay_tests::netns::Namespace;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::Rule;
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::Pacer;
use relay_tests::tally::Stream;
use relay_tests::unicast::{self, behind, both, datagram_to_the_host, icmp_errors, route};
use relay_tests::veth::{Endpoint, format_mac};

use super::Nics;

/// On the link of `out0`.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// Behind the router on `out1`.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 2);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 2, 7, 7);
const PORT: u16 = 6000;
const SIZE: usize = 500;
/// Datagrams per second, of which each has up to five copies, and how many may leave at once.
const RATE: u32 = 300;
const AT_ONCE: u32 = 4;
/// Datagrams before a change, and after it.
const COUNT: u64 = 200;
/// How long the relay may take to follow a change, on emulated CPUs.
const FOLLOWS: Duration = Duration::from_secs(10);
/// TTL of copies.
const TTL: u8 = 64;

/// Two groups and hosts on both links, of either version of IP: the feed comes over IPv4.
fn rule() -> Rule {
    let [near, near6] = both(NEAR);
    let [far, far6] = both(FAR);
    let rule = Rule::feed().output("out0", GROUP, PORT);
    let hosts = [near, near6, far, far6];
    hosts
        .into_iter()
        .fold(rule, |rule, host| rule.output_to(host, PORT))
}

/// A numbered feed of [`rule`], as frames whose every byte is known.
struct Feed<'a> {
    source: &'a Endpoint,
    sender: RawSender,
    pacer: Pacer,
    sent: u64,
}

impl<'a> Feed<'a> {
    fn new(source: &'a Endpoint) -> Result<Self> {
        Ok(Self {
            source,
            sender: RawSender::open(source)?,
            pacer: Pacer::new(RATE, AT_ONCE),
            sent: 0,
        })
    }

    fn send(&mut self, count: u64) -> Result<()> {
        let rule = rule();
        for number in self.sent..self.sent + count {
            let bytes = payload(0, number, SIZE);
            let mut frame = UdpFrame::new(self.source, rule.group, rule.port, bytes);
            frame.identification = number as u16;
            self.pacer.wait();
            self.sender.send(&frame.build()?)?;
            self.sent += 1;
        }
        Ok(())
    }
}

/// The copies to `host` that arrived at a wire's end, in order.
fn copies_to(host: IpAddr, at: &RawReceiver) -> Vec<Frame> {
    let is_to = |frame: &Frame| match host {
        IpAddr::V4(host) => {
            frame.bytes.get(12..14) == Some(&[0x08, 0x00])
                && frame.bytes.get(23) == Some(&17)
                && frame.bytes.get(30..34) == Some(&host.octets())
        }
        IpAddr::V6(host) => {
            frame.bytes.get(12..14) == Some(&[0x86, 0xdd])
                && frame.bytes.get(20) == Some(&17)
                && frame.bytes.get(38..54) == Some(&host.octets())
        }
    };
    let mut frames = at.frames();
    frames.retain(is_to);
    frames
}

/// Fails unless each of `sent` datagrams has had one copy to `host` through `near`, in order and
/// right in every byte. Returns the Ethernet address that each was sent to.
fn destinations(
    host: IpAddr,
    near: &Endpoint,
    at: &RawReceiver,
    sent: u64,
) -> Result<Vec<[u8; 6]>> {
    let copies = copies_to(host, at);
    ensure!(
        copies.len() as u64 == sent,
        "{} of {sent} copies to {host}",
        copies.len()
    );
    let checked = (0..).zip(&copies).map(|(number, copy)| {
        let to_mac = *copy.bytes.first_chunk().context("a frame")?;
        let mut right = UdpFrame::new(near, host, PORT, payload(0, number, SIZE));
        right.to_mac = Some(to_mac);
        right.ttl = TTL;
        right.identification = number as u16;
        if copy.partial_checksum {
            right.checksum = Checksum::LikePartial;
        }
        let right = right.build()?;
        let (is, should) = (&copy.on_the_wire(), &right);
        ensure!(
            is == should,
            "copy {number} to {host}:\n{is:02x?}\n{should:02x?}"
        );
        Ok(to_mac)
    });
    checked.collect()
}

/// Waits until the relay says that copies to a host are sent to `mac`.
fn wait_for_next_hop(relay: &RelayProcess, hosts: &[IpAddr], mac: &str) -> Result<()> {
    let follows = || is_next_hop(relay, hosts, mac).unwrap_or(false);
    let took = eventually(FOLLOWS, follows);
    ensure!(took.is_some(), "{}\n{}", relay.status()?, relay.log());
    Ok(())
}

/// Whether the relay says that copies to these hosts are sent to `mac`.
fn is_next_hop(relay: &RelayProcess, hosts: &[IpAddr], mac: &str) -> Result<bool> {
    let status = relay.status()?;
    let outputs = status["rules"][0]["outputs"].as_array();
    let outputs = outputs.context("outputs")?;
    let is_there = |host: &IpAddr| {
        let to = |output: &&serde_json::Value| output["group"] == host.to_string();
        let output = outputs.iter().find(to);
        output.is_some_and(|output| output["next_hop"]["mac"] == mac)
    };
    Ok(hosts.iter().all(is_there))
}

/// Copies leave for hosts on the link and through a gateway, which gets another Ethernet address
/// while they do.
pub fn m6_copies_to_hosts_follow_a_gateway_that_changes_its_address(nics: Nics) -> Result<()> {
    let bed = nics.testbed(2)?.with_ipv6()?;
    let host = Arc::new(Namespace::new("host")?);
    let router = &bed.receivers[1];
    let (_forwards, far) = behind(router, &host, 5)?;
    // So that it tells at once.
    router.namespace.sysctl("ipv4/conf/rcv1/arp_notify", "1")?;
    router
        .namespace
        .sysctl("ipv6/conf/rcv1/ndisc_notify", "1")?;
    // Whatever leaves the relay must be seen, whomever it is sent to.
    router.receive_all()?;
    route(&bed.relay, "add", FAR, ROUTER)?;
    let rules = [rule()];
    let listen = |hosts: &[IpAddr]| -> Vec<Listen> {
        let one = |&host| Listen::new(host, PORT, 0);
        hosts.iter().map(one).collect()
    };
    let [near, near6] = both(NEAR);
    let near_host = UdpReceiver::start(&bed.receivers[0], &listen(&[GROUP.into(), near, near6]))?;
    let far_host = UdpReceiver::start(&far, &listen(&both(FAR)))?;
    let raw = [0, 1].map(|at| RawReceiver::start(&bed.receivers[at]));
    let [raw0, raw1] = raw;
    let (raw0, raw1) = (raw0?, raw1?);
    let relay = lab::start(&bed, &rules)?;
    wait_for_next_hop(&relay, &both(NEAR), &format_mac(bed.receivers[0].mac))?;
    wait_for_next_hop(&relay, &both(FAR), &format_mac(router.mac))?;

    let mut feed = Feed::new(&bed.sources[0])?;
    feed.send(COUNT)?;
    far_host.assert_all_exact(&Stream::new(0, COUNT, SIZE), ARRIVAL);
    let other_mac = [0x52, 0x54, 0, 0, 0, 0x77];
    let text = format_mac(other_mac);
    let log = relay.log().len();
    router
        .namespace
        .ip(&format!("link set rcv1 address {text}"))?;
    let began = Instant::now();
    while !is_next_hop(&relay, &both(FAR), &text)? {
        feed.send(20)?;
        ensure!(began.elapsed() < FOLLOWS, "{}", relay.log());
    }
    let followed = feed.sent;
    feed.send(COUNT)?;
    let sent = feed.sent;

    near_host.assert_all_exact(&Stream::new(0, sent, SIZE), ARRIVAL);
    far_host.wait_until(ARRIVAL, |tallies| {
        let last = Stream::new(0, COUNT, SIZE).starting_at(followed);
        tallies.iter().all(|tally| tally.missing(&last).is_empty())
    });
    far_host.settle();
    for tally in far_host.tallies() {
        let after = Stream::new(0, COUNT, SIZE).starting_at(followed);
        assert!(tally.missing(&after).is_empty(), "{tally}");
        let wrong = tally.duplicates + tally.mismatched + tally.foreign;
        assert_eq!((wrong, tally.out_of_order), (0, 0), "{tally}");
    }
    raw0.settle();
    raw1.settle();
    for host in both(NEAR) {
        let macs = destinations(host, &bed.outputs[0], &raw0, sent)?;
        assert!(macs.iter().all(|mac| *mac == bed.receivers[0].mac));
    }
    for host in both(FAR) {
        let macs = destinations(host, &bed.outputs[1], &raw1, sent)?;
        let old = macs.iter().take_while(|mac| **mac == router.mac).count();
        let (before, after) = (COUNT as usize, followed as usize);
        assert!((before..=after).contains(&old), "{old}: {before}, {after}");
        assert!(macs[old..].iter().all(|mac| *mac == other_mac), "{macs:?}");
    }
    let news = relay.log().split_off(log);
    assert!(!news.contains("adapted"), "{news}");
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[sent]);
    nics.assert_mode(&stopped)?;
    let ways = [Rule::feed().outputs("out0", 1).outputs("out1", 1)];
    stopped.report.assert_tx_method(&ways, "xsk")
}

/// A socket of a program.
fn program(at: &Endpoint, address: IpAddr, port: u16) -> Result<UdpSocket> {
    at.namespace.run(|| {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(socket)
    })
}

/// Datagrams to the relay's host become multicast, in every encapsulation at the same time, and the
/// kernel does not answer them. Programs on other ports get what is theirs, from senders that ask
/// for the host's Ethernet address.
pub fn m6_unicast_becomes_multicast_and_the_host_keeps_the_rest(nics: Nics) -> Result<()> {
    let bed = nics.testbed(1)?.with_ipv6()?;
    // A NIC drops frames of VLANs that no interface above it has.
    bed.inputs[0].receive_all()?;
    let rules = Encapsulation::ALL.map(|one| unicast::to_the_host("unicast").over(one));
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let source = &bed.sources[0];
    let answers = RawReceiver::start(source)?;
    let relay = lab::start(&bed, &rules)?;
    let sender = RawSender::open(source)?;
    let mut pacer = Pacer::new(RATE, AT_ONCE);
    for number in 0..COUNT {
        for (flow, rule) in (0..).zip(&rules) {
            let mut frame = datagram_to_the_host(&bed, rule, payload(flow, number, SIZE));
            frame.identification = number as u16;
            pacer.wait();
            sender.send(&frame.build()?)?;
        }
    }
    let streams = (0..).zip(&rules);
    let streams: Vec<Stream> = streams
        .map(|(flow, _)| Stream::new(flow, COUNT, SIZE))
        .collect();
    receivers.assert_exact(&streams);

    source.namespace.ip("neighbour flush all")?;
    bed.relay.ip("neighbour flush all")?;
    for host in both(unicast::HOST) {
        let listening = program(&bed.inputs[0], host, unicast::PORT + 1)?;
        let client = program(source, source.address_for(host), 0)?;
        let mut buffer = [0; SIZE];
        for number in 0..20 {
            let bytes = payload(9, number, SIZE);
            client.send_to(&bytes, (host, unicast::PORT + 1))?;
            let len = listening.recv(&mut buffer);
            let len = len.with_context(|| format!("datagram {number} to {host}"))?;
            assert_eq!(buffer[..len], bytes);
        }
    }
    assert_eq!(icmp_errors(&answers), 0, "the host answers what is relayed");
    let stopped = relay.stop()?;
    stopped
        .report
        .assert_exact(&[COUNT; Encapsulation::ALL.len()]);
    nics.assert_mode(&stopped)?;
    stopped.report.assert_tx_method(&rules, "xsk")
}
