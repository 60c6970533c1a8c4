//! Interfaces that change while the relay runs: forwarding follows them, and the log says what
//! happened and what to do.

use std::time::Duration;

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::bpf;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::netns::Namespace;
use relay_tests::relay::RelayProcess;
use relay_tests::report::Report;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// Datagrams that a source sends with one system call.
const JOINED: u32 = 32;

/// The TX methods of a backend, but for frames on XDP: the source here sends no datagrams in turn.
fn methods(backend: Backend) -> [Method; 3] {
    let tx_methods = match backend {
        Backend::Xdp => [TxMethod::Ring, TxMethod::Whole, TxMethod::Cut],
        Backend::IoUring => [TxMethod::Whole, TxMethod::Cut, TxMethod::Frames],
    };
    tx_methods.map(|tx| Method { backend, tx })
}

fn queue(bed: &Testbed, interface: &str, verb: &str) -> Result<()> {
    let arguments = ["qdisc", verb, "dev", interface, "root", "pfifo"];
    bed.relay.tool("tc", &arguments).map(drop)
}

fn segmentation(bed: &Testbed, interface: &str, state: &str) -> Result<()> {
    let arguments = ["-K", interface, "tx-udp-segmentation", state];
    bed.relay.tool("ethtool", &arguments).map(drop)
}

/// A running relay with one output on every output interface, and its receivers.
struct Running {
    method: Method,
    rules: [Rule; 1],
    relay: RelayProcess,
    receivers: Receivers,
    sender: UdpSender,
    sent: u64,
}

impl Running {
    fn start(bed: &Testbed, method: Method) -> Result<Self> {
        let mut rule = Rule::feed();
        for near in &bed.outputs {
            rule = rule.outputs(&near.interface, 1);
        }
        let rules = [rule];
        Ok(Self {
            method,
            receivers: Receivers::start(bed, &rules)?,
            relay: method.start(bed, &rules)?,
            rules,
            sender: UdpSender::open(&bed.sources[0])?,
            sent: 0,
        })
    }

    /// Sends `count` datagrams in bursts, and waits until nothing arrives any more. Returns how
    /// many arrived through each output.
    fn send(&mut self, count: u64, size: usize) -> Result<Vec<u64>> {
        let stream = Stream::new(0, count, size).starting_at(self.sent);
        let before = self.arrived();
        let traffic = Traffic::new(GROUP_IN, PORT_IN, stream);
        self.sender
            .send_segmented(&traffic, JOINED, 10_000, &Window::unlimited())?;
        self.sent += count;
        self.receivers.settle();
        let now = self.arrived();
        Ok(now
            .iter()
            .zip(before)
            .map(|(now, then)| now - then)
            .collect())
    }

    fn arrived(&self) -> Vec<u64> {
        let tallies = self.receivers.tallies();
        tallies.iter().map(|(_, tally)| tally.received).collect()
    }

    #[track_caller]
    fn says(&self, text: &str) -> Result<()> {
        let said = self.relay.wait_for_log(text);
        ensure!(said, "`{text}` in the log:\n{}", self.relay.log());
        Ok(())
    }

    /// Stops the relay. Every output must have counted as sent what arrived.
    fn stop(self) -> Result<Report> {
        let stopped = self.relay.stop()?;
        stopped.report.assert_balanced();
        self.method.assert_used(&stopped.report, &self.rules)?;
        for ((_, tally), output) in self
            .receivers
            .tallies()
            .iter()
            .zip(&stopped.report.rules[0].outputs)
        {
            assert_eq!(tally.received, output.packets_sent, "{tally}, {output:?}");
            assert_eq!(tally.unique, tally.received, "{tally}");
            assert_eq!(tally.out_of_order, 0, "{tally}");
        }
        Ok(stopped.report)
    }
}

fn drops(report: &Report, output: usize, reason: &str) -> u64 {
    let dropped = &report.rules[0].outputs[output].dropped;
    dropped.get(reason).copied().unwrap_or(0)
}

fn above_a_lowered_mtu_nothing_leaves_and_all_is_counted(backend: Backend) -> Result<()> {
    for method in methods(backend) {
        let bed = Testbed::builder().outputs(2).without_capture().build()?;
        let mut running = Running::start(&bed, method)?;
        assert_eq!(running.send(320, 1000)?, [320, 320], "{method:?}");
        bed.relay.ip("link set out0 mtu 900")?;
        running.says("out0 has MTU 900 now, 1500 before")?;
        assert_eq!(running.send(320, 1000)?, [0, 320], "{method:?}");
        assert_eq!(running.send(320, 800)?, [320, 320], "{method:?}");
        bed.relay.ip("link set out0 mtu 1500")?;
        running.says("out0 has MTU 1500 now, 900 before")?;
        assert_eq!(running.send(320, 1000)?, [320, 320], "{method:?}");
        let report = running.stop()?;
        assert_eq!(drops(&report, 0, "too_big"), 320, "{method:?}: {report:#?}");
        assert_eq!(report.dropped_total(), 320, "{method:?}: {report:#?}");
    }
    Ok(())
}

/// Behind a queueing discipline the relay could not learn what became of the parts of a GSO packet
/// that the kernel cut.
fn a_device_behind_a_queue_that_takes_no_gso_packets_any_more_gets_frames(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    queue(&bed, "out0", "add")?;
    let mut running = Running::start(
        &bed,
        Method {
            backend,
            tx: TxMethod::Whole,
        },
    )?;
    assert_eq!(running.send(320, 1000)?, [320]);
    segmentation(&bed, "out0", "off")?;
    running.says("out0 takes no GSO packets any more")?;
    assert_eq!(running.send(320, 1000)?, [320]);
    segmentation(&bed, "out0", "on")?;
    running.says("out0 takes GSO packets again")?;
    assert_eq!(running.send(320, 1000)?, [320]);
    assert_eq!(running.stop()?.dropped_total(), 0);
    Ok(())
}

/// The queue drops GSO packets whole. It reports that by the same return value that, without a
/// queue, is about one part.
fn a_queue_that_is_put_in_front_of_a_device_swallows_nothing(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let mut running = Running::start(
        &bed,
        Method {
            backend,
            tx: TxMethod::Cut,
        },
    )?;
    assert_eq!(running.send(320, 1000)?, [320]);
    let blocking = "qdisc add dev out0 root tbf rate 8kbit burst 1600 limit 3000";
    let arguments: Vec<&str> = blocking.split(' ').collect();
    bed.relay.tool("tc", &arguments)?;
    running.says("out0 takes no GSO packets any more")?;
    assert_eq!(running.send(320, 1000)?, [320], "past the queue");
    bed.relay
        .tool("tc", &["qdisc", "del", "dev", "out0", "root"])?;
    running.says("out0 takes GSO packets again")?;
    assert_eq!(running.send(320, 1000)?, [320]);
    assert_eq!(running.stop()?.dropped_total(), 0);
    Ok(())
}

fn under_another_name_everything_goes_on(backend: Backend) -> Result<()> {
    for method in methods(backend) {
        let bed = Testbed::builder().without_capture().build()?;
        let mut running = Running::start(&bed, method)?;
        assert_eq!(running.send(320, 1000)?, [320], "{method:?}");
        for (old, new) in [("in0", "lan7"), ("out0", "lan8")] {
            bed.relay.ip(&format!("link set {old} name {new}"))?;
            running.says(&format!("{old} is called {new} now"))?;
        }
        assert_eq!(running.send(1600, 1000)?, [1600], "{method:?}");
        // The rule file with the new names pauses nothing.
        let output = &running.rules[0].outputs[0];
        let renamed = Rule::new("feed", "lan7", GROUP_IN, PORT_IN);
        running.rules = [renamed.output("lan8", output.group, output.port)];
        let text = to_toml(&running.rules) + &method.tables(&running.rules);
        let answer = running.relay.reload(&text)?;
        ensure!(answer.code == Some(0), "{answer:?}");
        ensure!(!answer.stdout.contains("pauses"), "{answer:?}");
        assert_eq!(running.send(320, 1000)?, [320], "{method:?}");
        let report = running.relay.stop()?.report;
        method.assert_used(&report, &running.rules)?;
        let all = Stream::new(0, running.sent, 1000);
        running.receivers.assert_exact(&[all]);
        // The rule goes on with its numbers; its output is another one, as the interface's name is.
        let counted = [report.packets_matched, report.packets_sent];
        assert_eq!(counted, [all.count; 2], "{method:?}: {report:#?}");
        assert_eq!(report.dropped_total(), 0, "{method:?}: {report:#?}");
    }
    Ok(())
}

fn an_output_that_is_deleted_stops_alone_and_the_log_says_so(backend: Backend) -> Result<()> {
    for method in methods(backend) {
        let bed = Testbed::builder().outputs(2).without_capture().build()?;
        let mut running = Running::start(&bed, method)?;
        assert_eq!(running.send(320, 1000)?, [320, 320], "{method:?}");
        bed.relay.ip("link del out0")?;
        running.says("out0 has gone")?;
        assert_eq!(running.send(320, 1000)?, [0, 320], "{method:?}");
        bed.relay.ip("link add out0 type veth peer name far0")?;
        running.says("there is an interface out0 again")?;
        assert_eq!(running.send(320, 1000)?, [0, 320], "{method:?}");
        let log = running.relay.log();
        // An interface that is missing is in the report no more.
        running.rules = [Rule::feed().outputs("out1", 1)];
        let stopped = running.stop()?;
        let left: u64 = stopped.rules[0].outputs[0].dropped.values().sum();
        assert_eq!(left, 640, "{method:?}: {stopped:#?}");
        let times = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(times("out0 has gone"), 1, "{method:?}: {log}");
        assert_eq!(times("out0 again"), 1, "{method:?}: {log}");
    }
    Ok(())
}

fn what_happens_to_an_interface_is_in_the_log(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let running = Running::start(
        &bed,
        Method {
            backend,
            tx: TxMethod::Whole,
        },
    )?;
    let relay = |command: &str, expected: &[&str]| -> Result<()> {
        bed.relay.ip(command)?;
        expected.iter().try_for_each(|text| running.says(text))
    };
    let far = &bed.sources[0];
    far.namespace
        .ip(&format!("link set {} down", far.interface))?;
    running.says("in0 has lost its carrier")?;
    far.namespace
        .ip(&format!("link set {} up", far.interface))?;
    running.says("in0 has its carrier again")?;
    relay(
        "link set out0 down",
        &["out0 is down", "`ip link set out0 up`"],
    )?;
    relay("link set out0 up", &["out0 is up"])?;
    let mac = relay_tests::veth::format_mac(bed.outputs[0].mac);
    relay(
        "link set out0 address 02:00:00:00:00:77",
        &[&format!(
            "out0 has the MAC address 02:00:00:00:00:77 now, {mac} before"
        )],
    )?;
    relay(
        &format!("link set out0 address {mac}"),
        &[&format!("out0 has the MAC address {mac} now")],
    )?;
    relay(
        "address del 10.2.0.1/24 dev out0",
        &["out0 does not have the address 10.2.0.1 any more"],
    )?;
    relay(
        "address add 10.2.0.1/24 dev out0",
        &["out0 has the address 10.2.0.1 again"],
    )?;
    let elsewhere = Namespace::new("elsewhere")?;
    relay(
        &format!("link set in0 netns {}", elsewhere.name()),
        &["in0 has gone", "moved to another network namespace"],
    )?;
    // Without its input the rule waits, and the report has no worker.
    running.says("rule feed waits: ")?;
    running.relay.stop()?;
    Ok(())
}

/// However often a wire loses its carrier, the log stays short.
fn a_flapping_wire_does_not_fill_the_log(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let running = Running::start(
        &bed,
        Method {
            backend,
            tx: TxMethod::Whole,
        },
    )?;
    let (far, name) = (&bed.receivers[0].namespace, &bed.receivers[0].interface);
    for _ in 0..60 {
        far.ip(&format!("link set {name} down"))?;
        far.ip(&format!("link set {name} up"))?;
    }
    running.says(" s; the last: out0 has its carrier again")?;
    let log = running.relay.log();
    let lines = log.lines().filter(|line| line.contains("carrier")).count();
    assert!((3..=10).contains(&lines), "{lines} lines: {log}");
    running.stop()?;
    Ok(())
}

/// On XDP only: an administrator cannot detach a socket filter.
#[test]
fn an_xdp_program_that_is_detached_by_force_is_reported_and_attached_again() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let mut running = Running::start(
        &bed,
        Method {
            backend: Backend::Xdp,
            tx: TxMethod::Whole,
        },
    )?;
    assert_eq!(running.send(320, 1000)?, [320]);
    let attached = || bed.inputs[0].has_xdp_program().unwrap_or(false);
    // The second time as soon as it is there again, before the relay has looked.
    for _ in 0..2 {
        bpf::detach_xdp(running.relay.id(), bed.inputs[0].index)?;
        running.says("another process detached the XDP program of the relay from in0 by force")?;
        ensure!(
            eventually(Duration::from_secs(5), attached).is_some(),
            "it is not attached again"
        );
    }
    assert_eq!(running.send(320, 1000)?, [320]);
    running.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    above_a_lowered_mtu_nothing_leaves_and_all_is_counted,
    a_device_behind_a_queue_that_takes_no_gso_packets_any_more_gets_frames,
    a_queue_that_is_put_in_front_of_a_device_swallows_nothing,
    under_another_name_everything_goes_on,
    an_output_that_is_deleted_stops_alone_and_the_log_says_so,
    what_happens_to_an_interface_is_in_the_log,
    a_flapping_wire_does_not_fill_the_log,
}
