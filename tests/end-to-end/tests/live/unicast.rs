//! Copies to single hosts: they follow the kernel's routes and neighbours while traffic runs, and
//! what has no way is counted and costs the others nothing.
//!
//! ```text
//!             +-------+ out0 ------ rcv0  10.2.0.2                  on the link
//!   src0 -----| relay | out1 ------ rcv1  10.2.1.2, a router ---+
//!             +-------+ out2 ------ rcv2  10.2.2.2, a router ---+-- host  10.5.0.2
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use relay_tests::background::eventually;
use relay_tests::encapsulation::ipv6_of;
use relay_tests::inspect::{Datagram, UdpChecksum};
use relay_tests::methods::Method;
use relay_tests::netns::Namespace;
use relay_tests::raw::RawReceiver;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::{RelayProcess, RuleFile, Stopped};
use relay_tests::report::OutputReport;
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::ARRIVAL;
use relay_tests::tally::{Stream, Tally};
use relay_tests::topology::Testbed;
use relay_tests::unicast::{behind, both, route};
use relay_tests::veth::{Endpoint, format_mac, plug_set_up};

use super::SetOnDrop;

/// On the link of `out0`.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// Behind the routers on `out1` and `out2`.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);
const ROUTERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 2, 1, 2), Ipv4Addr::new(10, 2, 2, 2)];
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 2, 7, 7);
const PORT: u16 = 6000;
/// Datagrams per second.
const RATE: u32 = 1000;
/// Bytes of payload.
const SIZE: usize = 500;
/// How long copies may take to arrive again. The promise is a second; the rest is for a machine
/// that is busy with other tests.
const AGAIN: Duration = Duration::from_secs(3);

/// The hosts and wires of a test.
struct Hosts {
    bed: Testbed,
    /// The wires from the routers to the far host: the routers' ends, and the host's.
    behind: [(Endpoint, Endpoint); 2],
    method: Method,
}

impl Hosts {
    fn new(method: Method) -> Result<Self> {
        let bed = Testbed::builder().outputs(3).ipv6().without_capture();
        let bed = bed.build()?;
        for near in &bed.outputs {
            method.set_up(near)?;
        }
        let host = Arc::new(Namespace::new("host")?);
        let routers = [&bed.receivers[1], &bed.receivers[2]];
        let behind = [behind(routers[0], &host, 5)?, behind(routers[1], &host, 6)?];
        // The second router reaches the host by its other wire.
        let other = Ipv4Addr::new(10, 6, 0, 2);
        route(&routers[1].namespace, "add", FAR, other)?;
        let hosts = Self {
            bed,
            behind,
            method,
        };
        hosts.lead_through(0, "add")?;
        Ok(hosts)
    }

    /// Adds or replaces the routes to the far host: through the first or the second router.
    fn lead_through(&self, router: usize, verb: &str) -> Result<()> {
        route(&self.bed.relay, verb, FAR, ROUTERS[router])
    }

    fn far(&self) -> &Endpoint {
        &self.behind[0].1
    }

    /// Starts a relay whose copies leave by the method, whatever interface they leave through.
    fn start(&self, rule: &Rule) -> Result<RelayProcess> {
        let outputs = ["out0", "out1", "out2"];
        let every = outputs.into_iter().fold(Rule::feed(), |rule, interface| {
            rule.output(interface, GROUP, PORT)
        });
        let tables = self.method.tables(&[every]);
        let file = RuleFile::new(&(to_toml(std::slice::from_ref(rule)) + &tables))?;
        RelayProcess::start_file(&self.bed.relay, self.method.backend, file)
    }

    /// Listens at hosts for flow 0.
    fn listen(&self, at: &Endpoint, to: &[(IpAddr, u16)]) -> Result<UdpReceiver> {
        let listen = to.iter().map(|&(host, port)| Listen::new(host, port, 0));
        UdpReceiver::start(at, &listen.collect::<Vec<_>>())
    }

    /// Listens for what [`rule`] sends, at the host on the link and at the far one.
    fn receivers(&self) -> Result<[UdpReceiver; 2]> {
        Ok([
            self.listen(&self.bed.receivers[0], &near())?,
            self.listen(self.far(), &far())?,
        ])
    }

    /// Sends datagrams of flow 0 while `work` runs, and returns how many.
    fn under_traffic(&self, rule: &Rule, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        const AT_ONCE: u64 = 50;
        let source = self.method.source_of(&self.bed.sources[0], rule)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(|| -> Result<u64> {
                let mut sent = 0;
                while !over.load(Ordering::Relaxed) {
                    let stream = Stream::new(0, AT_ONCE, SIZE).starting_at(sent);
                    source.send(&stream, RATE)?;
                    sent += AT_ONCE;
                }
                Ok(sent)
            });
            let done = {
                let _ends = SetOnDrop(&over);
                // Something must have arrived before.
                thread::sleep(Duration::from_millis(200));
                let done = work();
                thread::sleep(Duration::from_millis(200));
                done
            };
            let sent = sending.join();
            let sent = sent.map_err(|_| anyhow!("the sender panicked"))??;
            done.map(|()| sent)
        })
    }

    /// Ends the relay, whose accounts must balance, and whose copies must have left by the method.
    fn stop(&self, relay: RelayProcess) -> Result<Stopped> {
        let stopped = relay.stop()?;
        ensure!(stopped.status.success(), "{}", stopped.log);
        stopped.report.assert_balanced();
        let rule = Rule::feed().output("out0", GROUP, PORT);
        self.method.assert_used(&stopped.report, &[rule])?;
        Ok(stopped)
    }
}

/// The rule of most tests: a group and a host on `out0`, and the far host by either version of IP.
fn rule() -> Rule {
    Rule::feed()
        .output("out0", GROUP, PORT)
        .output_to(NEAR, PORT)
        .output_to(FAR, PORT)
        .output_to(ipv6_of(FAR), PORT)
}

/// Where [`rule`] sends to, at the host on the link and at the far one.
fn near() -> Vec<(IpAddr, u16)> {
    vec![(GROUP.into(), PORT), (NEAR.into(), PORT)]
}
fn far() -> Vec<(IpAddr, u16)> {
    both(FAR).map(|host| (host, PORT)).to_vec()
}

/// Waits for `sent` datagrams at every socket, and fails unless each has had exactly those.
#[track_caller]
fn assert_exact(receiver: &UdpReceiver, sent: u64) {
    receiver.assert_all_exact(&Stream::new(0, sent, SIZE), ARRIVAL);
}

/// Waits until something more arrives at the socket at this position. Returns how long that took.
fn arrives_again(receiver: &UdpReceiver, position: usize) -> Result<Duration> {
    let count = || receiver.tallies().get(position).map_or(0, |one| one.unique);
    let before = count();
    let took = eventually(2 * AGAIN, || count() > before);
    took.with_context(|| format!("nothing arrives at socket {position}"))
}

/// Fails unless every datagram that arrived was whole and arrived once.
#[track_caller]
fn assert_no_doubles(tally: &Tally) {
    let wrong = tally.duplicates + tally.mismatched + tally.foreign;
    assert_eq!(wrong, 0, "{tally}");
}

fn dropped(output: &OutputReport, reason: &str) -> u64 {
    output.dropped.get(reason).copied().unwrap_or(0)
}

/// What `relay status` has of an output.
fn status_of(relay: &RelayProcess, output: usize) -> Result<serde_json::Value> {
    let status = relay.status()?;
    let output = status["rules"][0]["outputs"].get(output);
    output.cloned().context("the output is in the status")
}

/// What of a copy's headers does not depend on the method.
fn shown(copy: &Datagram) -> String {
    let checksum = match copy.checksum {
        UdpChecksum::Valid | UdpChecksum::Partial | UdpChecksum::Complete => "",
        UdpChecksum::Zero | UdpChecksum::Wrong => ", wrong UDP checksum",
    };
    let ip = if copy.ip_checksum_valid {
        ""
    } else {
        ", wrong IP checksum"
    };
    format!(
        "{} > {}, {}:{} > {}:{}, TTL {}{checksum}{ip}",
        format_mac(copy.source_mac),
        format_mac(copy.destination_mac),
        copy.source,
        copy.source_port,
        copy.destination,
        copy.port,
        copy.ttl,
    )
}

fn m6_copies_have_the_headers_that_the_route_says_also_behind_a_router(
    method: Method,
) -> Result<()> {
    const COUNT: u64 = 300;
    let hosts = Hosts::new(method)?;
    let bed = &hosts.bed;
    let rule = rule();
    let receivers = hosts.receivers()?;
    let raw = [
        RawReceiver::start(&bed.receivers[0])?,
        RawReceiver::start(hosts.far())?,
    ];
    let relay = hosts.start(&rule)?;
    let source = method.source_of(&bed.sources[0], &rule)?;
    source.send(&Stream::new(0, COUNT, SIZE), RATE)?;
    for receiver in &receivers {
        assert_exact(receiver, COUNT);
    }
    let (out0, out1) = (&bed.outputs[0], &bed.outputs[1]);
    let router = &hosts.behind[0].0;
    let right = [
        (
            out0.address.into(),
            NEAR.into(),
            out0,
            &bed.receivers[0],
            64,
        ),
        (out1.address.into(), FAR.into(), router, hosts.far(), 63),
        (
            out1.address_for(ipv6_of(FAR).into()),
            IpAddr::from(ipv6_of(FAR)),
            router,
            hosts.far(),
            63,
        ),
    ];
    for (source, destination, from, at, ttl) in right {
        let raw = &raw[usize::from(destination != IpAddr::from(NEAR))];
        raw.settle();
        let copies = raw.datagrams();
        let copies: Vec<&Datagram> = copies
            .iter()
            .filter(|copy| copy.destination == destination && copy.port == PORT)
            .collect();
        assert_eq!(copies.len() as u64, COUNT, "to {destination}");
        for copy in copies {
            let right = format!(
                "{} > {}, {source}:{} > {destination}:{PORT}, TTL {ttl}",
                format_mac(from.mac),
                format_mac(at.mac),
                copy.source_port
            );
            assert_eq!(shown(copy), right);
        }
    }
    // The kernel keeps next hops resolved for as long as the relay runs.
    let managed = || -> Result<usize> { Ok(bed.relay.ip("neigh")?.matches(" managed").count()) };
    assert!(managed()? > 0, "{}", bed.relay.ip("neigh")?);
    let stopped = hosts.stop(relay)?;
    stopped.report.assert_exact(&[COUNT]);
    assert_eq!(managed()?, 0, "{}", bed.relay.ip("neigh")?);
    Ok(())
}

fn m6_a_neighbour_that_changes_its_address_is_followed_without_a_new_plan(
    method: Method,
) -> Result<()> {
    let hosts = Hosts::new(method)?;
    let rule = rule();
    let near_host = &hosts.bed.receivers[0];
    let receivers = hosts.receivers()?;
    let relay = hosts.start(&rule)?;
    let host = &near_host.namespace;
    host.sysctl("ipv4/conf/rcv0/arp_notify", "1")?;
    let router = &hosts.bed.receivers[1].namespace;
    router.sysctl("ipv4/conf/rcv1/arp_notify", "1")?;
    let log = relay.log();
    let sent = hosts.under_traffic(&rule, || {
        for last in [0x51, 0x52, 0x53] {
            host.ip(&format!("link set rcv0 address 02:00:00:00:00:{last:x}"))?;
            let took = arrives_again(&receivers[0], 1)?;
            ensure!(took < AGAIN, "after {took:?}");
        }
        router.ip("link set rcv1 address 02:00:00:00:01:51")?;
        let took = arrives_again(&receivers[1], 0)?;
        ensure!(took < AGAIN, "after {took:?}");
        Ok(())
    })?;
    let news = relay.log()[log.len()..].to_owned();
    ensure!(!news.contains("adapted"), "{news}");
    let status = status_of(&relay, 1)?;
    assert_eq!(status["next_hop"]["address"], "10.2.0.2", "{status}");
    assert_eq!(status["next_hop"]["mac"], "02:00:00:00:00:53", "{status}");
    for (receiver, position) in [(&receivers[0], 1), (&receivers[1], 0)] {
        receiver.settle();
        assert_no_doubles(&receiver.tallies()[position]);
    }
    let stopped = hosts.stop(relay)?;
    assert_eq!(stopped.report.packets_matched, sent);
    // In a sum, where it came soon after the one before.
    let moved = "next hop 10.2.0.2 on out0 is at 02:00:00:00:00:53 now";
    assert!(stopped.log.contains(moved), "{}", stopped.log);
    for output in &stopped.report.rules[0].outputs {
        assert_eq!(output.packets_sent, sent, "{output:?}");
    }
    // The group's copies need no neighbour.
    receivers[0].look(|tallies| tallies[0].assert_exact(&Stream::new(0, sent, SIZE)));
    Ok(())
}

fn m6_a_route_that_moves_moves_the_copies_and_nothing_is_lost(method: Method) -> Result<()> {
    let hosts = Hosts::new(method)?;
    let rule = rule();
    let receivers = hosts.receivers()?;
    let relay = hosts.start(&rule)?;
    let sent = hosts.under_traffic(&rule, || {
        // To an interface that no plan had before, and back.
        for router in [1, 0, 1] {
            hosts.lead_through(router, "replace")?;
            let interface = format!("out{}", router + 1);
            let moved = eventually(AGAIN, || {
                [2, 3].iter().all(|&output| {
                    status_of(&relay, output)
                        .is_ok_and(|one| one["next_hop"]["interface"] == interface)
                })
            });
            ensure!(moved.is_some(), "{}\n{}", relay.log(), relay.status()?);
            let status = status_of(&relay, 2)?;
            let gateway = ROUTERS[router].to_string();
            ensure!(status["next_hop"]["address"] == gateway, "{status}");
            let far = &hosts.bed.receivers[router + 1];
            let before = far.frames_received()?;
            // Many more than what ARP and IPv6 say there, also where they come in GSO packets.
            let leaves = || far.frames_received().is_ok_and(|now| now >= before + 20);
            ensure!(
                eventually(AGAIN, leaves).is_some(),
                "{} frames left through {interface}",
                far.frames_received()? - before
            );
        }
        Ok(())
    })?;
    assert_exact(&receivers[0], sent);
    receivers[1].wait_for(sent, ARRIVAL);
    receivers[1].settle();
    for tally in receivers[1].tallies() {
        assert_no_doubles(&tally);
        assert_eq!(tally.unique, sent, "{tally}");
    }
    let stopped = hosts.stop(relay)?;
    for output in &stopped.report.rules[0].outputs {
        assert_eq!(output.packets_sent, sent, "counters go on: {output:?}");
    }
    Ok(())
}

fn m6_the_mark_chooses_the_route(method: Method) -> Result<()> {
    const COUNT: u64 = 100;
    let hosts = Hosts::new(method)?;
    let relay = &hosts.bed.relay;
    relay.ip("rule add fwmark 7 table 100")?;
    relay.ip(&format!("route add {FAR}/32 via {} table 100", ROUTERS[1]))?;
    let marked = format!("address = \"{FAR}\", port = 6001, mark = 7");
    let rule = rule().output_that_goes("", &marked);
    let to = [(FAR.into(), PORT), (FAR.into(), 6001)];
    let receiver = hosts.listen(hosts.far(), &to)?;
    let raw = RawReceiver::start(&hosts.behind[1].1)?;
    let relay = hosts.start(&rule)?;
    let source = method.source_of(&hosts.bed.sources[0], &rule)?;
    source.send(&Stream::new(0, COUNT, SIZE), RATE)?;
    assert_exact(&receiver, COUNT);
    raw.settle();
    let ports: Vec<u16> = raw.datagrams().iter().map(|copy| copy.port).collect();
    assert_eq!(ports, vec![6001; COUNT as usize]);
    assert_eq!(status_of(&relay, 4)?["next_hop"]["interface"], "out2");
    hosts.stop(relay)?.report.assert_exact(&[COUNT]);
    Ok(())
}

fn x4_a_host_that_nobody_answers_for_is_counted_and_costs_the_others_nothing(
    method: Method,
) -> Result<()> {
    let nobody = Ipv4Addr::new(10, 2, 0, 77);
    let hosts = Hosts::new(method)?;
    let rule = rule().output_to(nobody, PORT);
    let host = &hosts.bed.receivers[0];
    let receivers = hosts.receivers()?;
    let told = format!("next hop {nobody} on out0 does not answer");
    let relay = hosts.start(&rule)?;
    let mut came = Duration::ZERO;
    let sent = hosts.under_traffic(&rule, || {
        thread::sleep(Duration::from_secs(1));
        let status = status_of(&relay, 4)?;
        ensure!(
            status["next_hop"]["address"] == nobody.to_string(),
            "{status}"
        );
        ensure!(status["next_hop"]["mac"].is_null(), "{status}");
        let text = relay.verb(&["status"])?.stdout;
        ensure!(text.contains("unresolved"), "{text}");
        let sent_at_all = |status: &serde_json::Value| status["packets_sent"].as_u64();
        ensure!(sent_at_all(&status) == Some(0), "{status}");
        // The kernel gives up after three seconds.
        let is_told = eventually(ARRIVAL, || relay.log().contains(&told));
        ensure!(is_told.is_some(), "{}", relay.log());
        host.namespace
            .ip(&format!("address add {nobody}/24 dev rcv0"))?;
        let late = hosts.listen(host, &[(nobody.into(), PORT)])?;
        let began = Instant::now();
        ensure!(late.wait_for(1, 2 * AGAIN), "{}", relay.log());
        came = began.elapsed();
        Ok(())
    })?;
    ensure!(came < AGAIN, "after {came:?}");
    for receiver in &receivers {
        assert_exact(receiver, sent);
    }
    let stopped = hosts.stop(relay)?;
    let outputs = &stopped.report.rules[0].outputs;
    for output in &outputs[..4] {
        assert_eq!(output.packets_sent, sent, "{output:?}");
    }
    let lost = dropped(&outputs[4], "no_neighbour");
    assert!(lost > 0 && lost < sent, "{outputs:#?}");
    assert_eq!(outputs[4].packets_sent + lost, sent, "{outputs:#?}");
    Ok(())
}

fn m6_what_has_no_route_is_counted_and_leaves_again_when_there_is_one(
    method: Method,
) -> Result<()> {
    let hosts = Hosts::new(method)?;
    let relay_host = &hosts.bed.relay;
    let rule = rule();
    let receivers = hosts.receivers()?;
    let relay = hosts.start(&rule)?;
    let sent = hosts.under_traffic(&rule, || {
        for (change, back, why) in [
            ("route del", "route add", "there is no route"),
            ("route replace unreachable", "route replace", "unreachable"),
            ("route replace prohibit", "route replace", "prohibit"),
        ] {
            let via = format!("{FAR}/32 via {}", ROUTERS[0]);
            match change {
                "route del" => relay_host.ip(&format!("{change} {via}"))?,
                _ => {
                    relay_host.ip(&format!("route del {via}"))?;
                    relay_host.ip(&format!("{change} {FAR}/32"))?
                }
            };
            let told = eventually(AGAIN, || {
                status_of(&relay, 2).is_ok_and(|one| {
                    one["state"] == "pending"
                        && one["reason"]
                            .as_str()
                            .is_some_and(|text| text.contains(why))
                })
            });
            ensure!(told.is_some(), "{why}: {}", relay.status()?);
            assert_eq!(relay.rule_states()?, [("feed".into(), "active".into())]);
            if change != "route del" {
                relay_host.ip(&format!("route del {FAR}/32"))?;
            }
            relay_host.ip(&format!("{back} {via}"))?;
            let took = arrives_again(&receivers[1], 0)?;
            ensure!(took < AGAIN, "after {took:?}");
        }
        Ok(())
    })?;
    assert_exact(&receivers[0], sent);
    receivers[1].wait_until(ARRIVAL, |tallies| tallies[1].unique >= sent);
    receivers[1].look(|tallies| tallies[1].assert_exact(&Stream::new(0, sent, SIZE)));
    let stopped = hosts.stop(relay)?;
    let outputs = &stopped.report.rules[0].outputs;
    let lost = dropped(&outputs[2], "no_route");
    assert!(lost > 0, "{outputs:#?}");
    assert_eq!(outputs[2].packets_sent + lost, sent, "{outputs:#?}");
    receivers[1].look(|tallies| assert_eq!(tallies[0].unique, outputs[2].packets_sent));
    Ok(())
}

/// The rule's only output has no route when the relay starts.
fn m6_a_rule_that_waits_for_a_route_alone_runs_and_counts(method: Method) -> Result<()> {
    const COUNT: u64 = 100;
    let hosts = Hosts::new(method)?;
    let via = format!("{FAR}/32 via {}", ROUTERS[0]);
    hosts.bed.relay.ip(&format!("route del {via}"))?;
    let rule = Rule::feed().output_to(FAR, PORT);
    let receiver = hosts.listen(hosts.far(), &[(FAR.into(), PORT)])?;
    let relay = hosts.start(&rule)?;
    assert_eq!(relay.rule_states()?, [("feed".into(), "active".into())]);
    let source = method.source_of(&hosts.bed.sources[0], &rule)?;
    let missed = Stream::new(0, COUNT, SIZE);
    source.send(&missed, RATE)?;
    let counted = eventually(ARRIVAL, || {
        status_of(&relay, 0).is_ok_and(|one| one["dropped"]["no_route"] == COUNT)
    });
    ensure!(counted.is_some(), "{}", relay.status()?);
    hosts.bed.relay.ip(&format!("route add {via}"))?;
    let active = eventually(AGAIN, || {
        status_of(&relay, 0).is_ok_and(|one| one["state"] == "active")
    });
    ensure!(active.is_some(), "{}", relay.log());
    source.send(&missed.starting_at(COUNT), RATE)?;
    receiver.assert_all_exact(&missed.starting_at(COUNT), ARRIVAL);
    let stopped = relay.stop()?;
    let output = &stopped.report.rules[0].outputs[0];
    assert_eq!(output.packets_sent, COUNT, "{output:?}");
    assert_eq!(dropped(output, "no_route"), COUNT, "{output:?}");
    stopped.report.assert_balanced();
    let rule = Rule::feed().output("out1", GROUP, PORT);
    method.assert_used(&stopped.report, &[rule])
}

fn x1_x2_copies_leave_again_when_their_interface_is_back(method: Method) -> Result<()> {
    let hosts = Hosts::new(method)?;
    let router = hosts.bed.receivers[1].clone();
    let on_out1 = Ipv4Addr::new(10, 2, 1, 2);
    let rule = rule().output_to(on_out1, PORT);
    let near = hosts.listen(&hosts.bed.receivers[0], &near())?;
    let mut there = hosts.listen(&router, &[(on_out1.into(), PORT)])?;
    let relay = hosts.start(&rule)?;
    let (mut out1, mut rcv1) = (hosts.bed.outputs[1].clone(), router);
    let sent = hosts.under_traffic(&rule, || {
        for _ in 0..2 {
            hosts.bed.relay.ip("link set out1 down")?;
            thread::sleep(Duration::from_millis(300));
            hosts.bed.relay.ip("link set out1 up")?;
            let took = arrives_again(&there, 0)?;
            ensure!(took < AGAIN, "up again, after {took:?}");
        }
        rcv1.namespace.ip("link set rcv1 down")?;
        thread::sleep(Duration::from_millis(300));
        rcv1.namespace.ip("link set rcv1 up")?;
        let took = arrives_again(&there, 0)?;
        ensure!(took < AGAIN, "the far end is up again, after {took:?}");
        for _ in 0..2 {
            hosts.bed.relay.ip("link del out1")?;
            thread::sleep(Duration::from_millis(200));
            (out1, rcv1) = plug_set_up(&out1, &rcv1, || Ok(()))?;
            method.set_up(&out1)?;
            there = hosts.listen(&rcv1, &[(on_out1.into(), PORT)])?;
            let took = arrives_again(&there, 0)?;
            ensure!(took < AGAIN, "plugged in again, after {took:?}");
        }
        Ok(())
    })?;
    assert_exact(&near, sent);
    let stopped = relay.stop()?;
    ensure!(stopped.status.success(), "{}", stopped.log);
    stopped.report.assert_no_chunk_missing();
    let outputs = &stopped.report.rules[0].outputs;
    for output in &outputs[..2] {
        assert_eq!(output.packets_sent, sent, "{output:?}");
    }
    Ok(())
}

fn x9_copies_leave_with_the_address_and_the_mac_that_the_interface_has_now(
    method: Method,
) -> Result<()> {
    let hosts = Hosts::new(method)?;
    let rule = Rule::feed().output_to(FAR, PORT);
    let raw = RawReceiver::start(&hosts.bed.receivers[1])?;
    let relay = hosts.start(&rule)?;
    let host = &hosts.bed.relay;
    hosts.under_traffic(&rule, || {
        let arrives = |source: &str, mac: &str| {
            eventually(2 * AGAIN, || {
                let copies = raw.datagrams();
                let last = copies.iter().rfind(|copy| copy.port == PORT);
                last.is_some_and(|last| {
                    last.source.to_string() == source && format_mac(last.source_mac) == mac
                })
            })
        };
        let mac = format_mac(hosts.bed.outputs[1].mac);
        ensure!(arrives("10.2.1.1", &mac).is_some(), "{}", relay.log());
        host.ip("address add 10.2.1.9/24 dev out1")?;
        let via = ROUTERS[0];
        host.ip(&format!("route replace {FAR}/32 via {via} src 10.2.1.9"))?;
        ensure!(arrives("10.2.1.9", &mac).is_some(), "{}", relay.log());
        let other = "02:00:00:00:77:77";
        host.ip(&format!("link set out1 address {other}"))?;
        ensure!(arrives("10.2.1.9", other).is_some(), "{}", relay.log());
        Ok(())
    })?;
    let stopped = relay.stop()?;
    ensure!(stopped.status.success(), "{}", stopped.log);
    stopped.report.assert_no_chunk_missing();
    Ok(())
}

fn m6_a_thousand_hosts_get_every_datagram_once(method: Method) -> Result<()> {
    const HOSTS: u8 = 250;
    const PORTS: u16 = 4;
    const COUNT: u64 = 60;
    let hosts = Hosts::new(method)?;
    let far = &hosts.bed.receivers[0];
    let all: Vec<Ipv4Addr> = (0..HOSTS)
        .map(|number| Ipv4Addr::new(10, 2, 0, 3 + number))
        .collect();
    for address in &all {
        far.namespace
            .ip(&format!("address add {address}/24 dev rcv0"))?;
    }
    let to: Vec<(IpAddr, u16)> = all
        .iter()
        .flat_map(|&host| (PORT..PORT + PORTS).map(move |port| (host.into(), port)))
        .collect();
    let rule = to.iter().fold(Rule::feed(), |rule, &(host, port)| {
        rule.output_to(host, port)
    });
    let receiver = hosts.listen(far, &to)?;
    let relay = hosts.start(&rule)?;
    let source = method.source_of(&hosts.bed.sources[0], &rule)?;
    for number in 0..COUNT {
        source.send_one(0, number, SIZE)?;
        ensure!(
            receiver.wait_for(number.saturating_sub(1), ARRIVAL),
            "{}",
            relay.log()
        );
    }
    assert_exact(&receiver, COUNT);
    hosts.stop(relay)?.report.assert_exact(&[COUNT]);
    Ok(())
}

relay_tests::on_all_methods!(
    m6_copies_have_the_headers_that_the_route_says_also_behind_a_router,
    m6_a_neighbour_that_changes_its_address_is_followed_without_a_new_plan,
    m6_a_route_that_moves_moves_the_copies_and_nothing_is_lost,
    m6_the_mark_chooses_the_route,
    m6_what_has_no_route_is_counted_and_leaves_again_when_there_is_one,
    m6_a_rule_that_waits_for_a_route_alone_runs_and_counts,
    m6_a_thousand_hosts_get_every_datagram_once,
    x1_x2_copies_leave_again_when_their_interface_is_back,
    x4_a_host_that_nobody_answers_for_is_counted_and_costs_the_others_nothing,
    x9_copies_leave_with_the_address_and_the_mac_that_the_interface_has_now,
);
