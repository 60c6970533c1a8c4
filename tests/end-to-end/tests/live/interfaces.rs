//! Interfaces that come and go: rules wait for them, and forwarding goes on within a second.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::inspect::Datagram;
use relay_tests::methods::{Method, Source};
use relay_tests::netns::Namespace;
use relay_tests::raw::RawReceiver;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{Endpoint, plug, plug_set_up, wait_for_carrier};

use super::under_traffic;

/// How long the relay may take to forward again. The promise is a second; the rest is for a machine
/// that is busy with other tests.
const AGAIN: Duration = Duration::from_secs(3);

/// Sends a datagram of flow 0 every 10 ms from `source` until `receiver` gets one. Returns how long
/// that took.
fn forwards_again(source: &Endpoint, rule: &Rule, receiver: &UdpReceiver) -> Result<Duration> {
    let started = Instant::now();
    let sender = UdpSender::open(source)?;
    let before = receiver.tallies()[0].received;
    for number in 0.. {
        let stream = Stream::new(0, 1, 300).starting_at(number);
        sender.send(&Traffic::new(rule.group, rule.port, stream), 1000)?;
        thread::sleep(Duration::from_millis(10));
        if receiver.tallies()[0].received > before {
            break;
        }
        ensure!(started.elapsed() < 2 * AGAIN, "nothing arrives");
    }
    Ok(started.elapsed())
}

fn listen(far: &Endpoint, rule: &Rule) -> Result<UdpReceiver> {
    let output = rule.outputs.first().context("the rule has an output")?;
    UdpReceiver::start(far, &[Listen::new(output.group, output.port, 0)])
}

/// What feeds come as here: tags matter at an input only, and IPv6 at both.
const ENCAPSULATIONS: [Encapsulation; 3] = [
    Encapsulation::Ipv4,
    Encapsulation::Tagged,
    Encapsulation::DoubleTagged6,
];

/// Sends a datagram of each of `rules` every 10 ms from `source` until one of each has arrived at
/// `far`. Returns how long that took.
fn all_forward_again(
    method: Method,
    source: &Endpoint,
    far: &Endpoint,
    rules: &[Rule],
) -> Result<Duration> {
    let started = Instant::now();
    let outputs = (0..).zip(rules).map(|(flow, rule)| {
        let output = rule.outputs.first().context("the rule has an output")?;
        Ok(Listen::new(output.group, output.port, flow))
    });
    let receiver = UdpReceiver::start(far, &outputs.collect::<Result<Vec<_>>>()?)?;
    let sources = rules.iter().map(|rule| method.source_of(source, rule));
    let sources: Vec<Source> = sources.collect::<Result<_>>()?;
    for number in 0.. {
        for (flow, source) in (0..).zip(&sources) {
            source.send_one(flow, number, 300)?;
        }
        thread::sleep(Duration::from_millis(10));
        let tallies = receiver.tallies();
        if tallies.iter().all(|tally| tally.unique > 0) {
            break;
        }
        let received: Vec<u64> = tallies.iter().map(|tally| tally.received).collect();
        ensure!(started.elapsed() < 2 * AGAIN, "{received:?} arrived");
    }
    Ok(started.elapsed())
}

/// Both the input and the output of rules, while another rule between other interfaces runs.
fn x2_an_interface_that_is_deleted_and_made_again_ten_times_is_served_again(
    method: Method,
) -> Result<()> {
    let bed = Testbed::builder().ipv6().inputs(2).outputs(2);
    let bed = bed.without_capture().build()?;
    let beside =
        Rule::new("beside", "in1", [239, 1, 8, 8], 8000).output("out1", [239, 2, 8, 8], 8001);
    let feed = Rule::feed().output("out0", [239, 2, 7, 7], 7001);
    let feeds = ENCAPSULATIONS.map(|one| feed.clone().over(one));
    let rules = [&feeds[..], std::slice::from_ref(&beside)].concat();
    let steady = UdpReceiver::start(&bed.receivers[1], &[Listen::new([239, 2, 8, 8], 8001, 9)])?;
    let relay = method.start(&bed, &rules)?;
    let (sent, ()) = under_traffic(&bed.sources[1], &beside, 9, 1_000, || {
        let (mut input, mut source) = (bed.inputs[0].clone(), bed.sources[0].clone());
        let (mut output, mut far) = (bed.outputs[0].clone(), bed.receivers[0].clone());
        for round in 0..10 {
            if round % 2 == 0 {
                bed.relay.ip("link del in0")?;
                thread::sleep(Duration::from_millis(100));
                (input, source) = plug(&input, &source)?;
            } else {
                bed.relay.ip("link del out0")?;
                thread::sleep(Duration::from_millis(100));
                (output, far) = plug_set_up(&output, &far, || method.set_up(&output))?;
            }
            let took = all_forward_again(method, &source, &far, &feeds)
                .with_context(|| format!("round {round}: {}", relay.log()))?;
            ensure!(took < AGAIN, "round {round} took {took:?}: {}", relay.log());
            // A veth delivers groups that nobody has joined.
            for rule in &feeds {
                ensure!(input.has_joined(rule.group)?, "{round}: {}", relay.log());
            }
        }
        Ok(())
    })?;
    steady.wait_for(sent, Duration::from_secs(10));
    steady.tallies()[0].assert_exact(&Stream::new(9, sent, 500));
    let stopped = relay.stop()?;
    method.assert_used(&stopped.report, &rules)?;
    // Without those of each second: a busy machine takes longer.
    let lines = stopped
        .log
        .lines()
        .filter(|line| !line.contains("] received "));
    let lines = lines.count();
    // Some twenty per round, of three rules and two interfaces, where each step is seen alone.
    assert!(lines < 300, "{lines} lines: {}", stopped.log);
    Ok(())
}

/// While the output waits, the interface is an input only.
fn x9_an_output_through_an_input_runs_again_once_the_interface_has_its_address_again(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().inputs(2).without_capture().build()?;
    let rules = [
        Rule::feed().output("in1", [239, 2, 7, 7], 7001),
        Rule::new("beside", "in1", [239, 1, 8, 8], 8000).output("out0", [239, 2, 8, 8], 8001),
    ];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let is = |state: &str| {
        let wanted = [
            ("feed".into(), state.into()),
            ("beside".into(), "active".into()),
        ];
        eventually(AGAIN, || {
            relay.rule_states().is_ok_and(|states| states == wanted)
        })
    };
    for _ in 0..2 {
        bed.relay.ip("address del 10.1.1.1/24 dev in1")?;
        ensure!(is("pending").is_some(), "{}", relay.log());
        bed.relay.ip("address add 10.1.1.1/24 dev in1")?;
        ensure!(is("active").is_some(), "{}", relay.log());
    }
    relay.stop()?;
    Ok(())
}

/// The addresses of `out0` that duplicate address detection is at work on.
fn has_tentative(bed: &Testbed) -> Result<bool> {
    let shown = bed.relay.ip("-6 address show dev out0 tentative")?;
    Ok(!shown.trim().is_empty())
}

/// The kernel takes an interface's IPv6 addresses away with the link, and an address that is new is
/// not to be used before it is known to be unique.
fn x1_copies_over_ipv6_leave_again_once_their_interface_has_an_address_that_is_usable(
    method: Method,
) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let feed = |one| Rule::feed().output("out0", [239, 2, 7, 7], 7001).over(one);
    let rules = [Encapsulation::Ipv4, Encapsulation::Ipv6].map(feed);
    let receivers = Receivers::with_headers(&bed, &rules)?;
    let relay = method.start(&bed, &rules)?;
    let (source, far) = (&bed.sources[0], &bed.receivers[0]);
    all_forward_again(method, source, far, &rules)?;
    for (key, value) in [
        ("ipv6/conf/out0/keep_addr_on_down", "0"),
        ("ipv6/conf/out0/accept_dad", "1"),
        ("ipv6/conf/out0/router_solicitation_delay", "0"),
        ("ipv6/neigh/out0/retrans_time_ms", "500"),
    ] {
        bed.relay.sysctl(key, value)?;
    }
    bed.relay.ip("link set out0 down")?;
    bed.relay.ip("link set out0 up")?;
    wait_for_carrier(&bed.relay, "out0")?;
    let took = all_forward_again(method, source, far, &rules[..1])?;
    ensure!(took < AGAIN, "IPv4 took {took:?}: {}", relay.log());
    let waits = || {
        let status = relay.verb(&["status"]);
        status.is_ok_and(|status| status.stdout.contains("has no IPv6 address to send from"))
    };
    ensure!(eventually(AGAIN, waits).is_some(), "{}", relay.log());
    let copies = || receivers.tallies()[1].1.received;
    let (before, sender) = (copies(), method.source_of(source, &rules[1])?);
    let address = bed.outputs[0].ipv6.context("an IPv6 address")?;
    bed.relay
        .ip(&format!("-6 address add {address}/64 dev out0"))?;
    let mut tried = 0;
    while has_tentative(&bed)? {
        sender.send_one(1, tried, 300)?;
        tried += 1;
        // A copy that leaves while it is asked for may be one of the next moment.
        if has_tentative(&bed)? {
            assert_eq!(copies(), before, "{}", relay.log());
        }
    }
    ensure!(tried > 3, "the address was usable at once");
    let took = all_forward_again(method, source, far, &rules).with_context(|| relay.log())?;
    ensure!(took < AGAIN, "took {took:?}: {}", relay.log());
    receivers.assert_headers();
    let stopped = relay.stop()?;
    stopped.report.assert_balanced();
    method.assert_used(&stopped.report, &rules)
}

mod by_method {
    use super::{
        x1_copies_over_ipv6_leave_again_once_their_interface_has_an_address_that_is_usable,
        x2_an_interface_that_is_deleted_and_made_again_ten_times_is_served_again,
    };

    relay_tests::on_all_methods!(
        x1_copies_over_ipv6_leave_again_once_their_interface_has_an_address_that_is_usable,
        x2_an_interface_that_is_deleted_and_made_again_ten_times_is_served_again,
    );
}

fn x7_rules_of_a_missing_interface_wait_and_the_others_run(backend: Backend) -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let late = Rule::new("late", "in0", [239, 1, 1, 1], 5001).output("out0", [239, 2, 7, 7], 7001);
    let beside =
        Rule::new("beside", "in1", [239, 1, 8, 8], 8000).output("out1", [239, 2, 8, 8], 8001);
    bed.relay.ip("link del in0")?;
    let rules = [late.clone(), beside.clone()];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    assert_eq!(
        relay.rule_states()?,
        [
            ("late".into(), "pending".into()),
            ("beside".into(), "active".into())
        ]
    );
    let shown = relay.verb(&["status"])?;
    assert_eq!(shown.code, Some(1), "degraded: {shown:?}");
    assert!(shown.stdout.contains("in0"), "{shown:?}");
    let receiver = listen(&bed.receivers[1], &beside)?;
    let took = forwards_again(&bed.sources[1], &beside, &receiver)?;
    ensure!(took < AGAIN, "{took:?}");
    let (_, source) = plug(&bed.inputs[0], &bed.sources[0])?;
    let receiver = listen(&bed.receivers[0], &late)?;
    let took = forwards_again(&source, &late, &receiver).with_context(|| relay.log())?;
    ensure!(took < AGAIN, "{took:?}: {}", relay.log());
    let healthy = || {
        relay
            .verb(&["status"])
            .is_ok_and(|status| status.code == Some(0))
    };
    assert!(
        eventually(Duration::from_secs(5), healthy).is_some(),
        "{}",
        relay.log()
    );
    relay.stop()?;
    Ok(())
}

/// An output that waits does not hold up the others, and what it misses is counted.
fn x7_an_output_that_is_missing_waits_alone(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rule = Rule::feed().outputs("out0", 1).outputs("out1", 1);
    bed.relay.ip("link del out1")?;
    let relay = RelayProcess::start(&bed.relay, backend, std::slice::from_ref(&rule))?;
    let receiver = listen(&bed.receivers[0], &rule)?;
    let took = forwards_again(&bed.sources[0], &rule, &receiver)?;
    ensure!(took < AGAIN, "{took:?}");
    assert_eq!(relay.verb(&["status"])?.code, Some(1));
    let (_, far) = plug(&bed.outputs[1], &bed.receivers[1])?;
    let output = &rule.outputs[1];
    let late = UdpReceiver::start(&far, &[Listen::new(output.group, output.port, 0)])?;
    let took = forwards_again(&bed.sources[0], &rule, &late).with_context(|| relay.log())?;
    ensure!(took < AGAIN, "{took:?}: {}", relay.log());
    let report = relay.stop()?.report;
    report.assert_balanced();
    let mut outputs = report.rules[0].outputs.iter();
    let late = outputs.find(|output| output.interface == "out1");
    let missed = late.context("out1")?.dropped.get("pending").copied();
    ensure!(missed > Some(0), "{report:#?}");
    Ok(())
}

/// With `--strict`, an interface that is there and down is an error at the start as well.
#[test]
fn with_strict_an_interface_that_is_down_is_an_error() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    bed.relay.ip("link set in0 down")?;
    let rules = relay_tests::relay::RuleFile::of(&[Rule::feed().outputs("out0", 1)])?;
    let path = rules.path().display().to_string();
    let ended = relay_tests::relay::relay(&bed.relay, &["run", "--strict", &path])?;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let said = "in0 is down; `ip link set in0 up`";
    assert!(ended.stderr.contains(said), "{ended:?}");
    bed.relay.wait_for_no_packet_socket()
}

/// With `--strict`, what would wait is an error at the start, and nothing stays behind.
fn with_strict_a_missing_interface_is_an_error(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::new("late", "eth7", [239, 1, 1, 1], 5001).outputs("out0", 1)];
    let rules = relay_tests::relay::RuleFile::of(&rules)?;
    let path = rules.path().display().to_string();
    let arguments = ["run", "--strict", "--backend", backend.name(), &path];
    let ended = relay_tests::relay::relay(&bed.relay, &arguments)?;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    ended.assert_mistake(&rules, 3, &["eth7"]);
    bed.relay.wait_for_no_packet_socket()?;
    Ok(())
}

/// What leaves has the output's new address and MAC; the relay is not restarted.
fn x9_copies_leave_with_the_new_address_and_mac_of_their_interface(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let sender = UdpSender::open(&bed.sources[0])?;
    let send = |first: u64| {
        let stream = Stream::new(0, 100, 300).starting_at(first);
        sender.send(&Traffic::new(rules[0].group, rules[0].port, stream), 2_000)
    };
    send(0)?;
    receivers.wait_for(&[100]);
    let wire = RawReceiver::start(&bed.receivers[0])?;
    // The kernel would delete a second address of the network with the first.
    bed.relay.ip("address del 10.2.0.1/24 dev out0")?;
    bed.relay.ip("address add 10.2.0.77/24 dev out0")?;
    bed.relay.ip("link set out0 address 02:00:00:00:77:77")?;
    let new: std::net::Ipv4Addr = [10, 2, 0, 77].into();
    let mut times = 1;
    let leaves_with_both = || {
        let sent = send(0).is_ok();
        times += u64::from(sent);
        wire.settle();
        let is_new =
            |one: &Datagram| (one.source_mac, one.source) == ([2, 0, 0, 0, 0x77, 0x77], new.into());
        sent && wire.datagrams().last().is_some_and(is_new)
    };
    let came = eventually(Duration::from_secs(10), leaves_with_both);
    assert!(
        came.is_some(),
        "{:?}\n{}",
        wire.datagrams().last(),
        relay.log()
    );
    // Nothing has paused: whether a copy left or waited for the address, its datagram was taken.
    let report = relay.stop()?.report;
    report.assert_balanced();
    assert_eq!(report.packets_matched, 100 * times, "{report:#?}");
    Ok(())
}

/// On XDP only: io_uring has no chunks.
#[test]
fn a_pause_for_another_mtu_is_logged_with_the_reason_and_is_the_last_change() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rule = Rule::feed().outputs("out0", 1);
    let relay = RelayProcess::start(&bed.relay, Backend::Xdp, std::slice::from_ref(&rule))?;
    bed.relay.ip("link set in0 mtu 3000")?;
    let told = "; the rules of in0 paused for ";
    ensure!(relay.wait_for_log(told), "{}", relay.log());
    let log = relay.log();
    let line = log.lines().find(|line| line.contains(told));
    // It may have been adapting to something else as well.
    let because = "in0 has MTU 3000 now, 1500 before";
    let named = |line: &str| line.contains(" ms, because ") && line.ends_with(because);
    ensure!(line.is_some_and(named), "{log}");
    let is_last = || {
        let status = relay.status().ok();
        let last = status.map(|status| status["last_change"].clone());
        last.is_some_and(|last| {
            let what = last["what"].as_str().unwrap_or_default();
            what.ends_with(because) && last["pause_milliseconds"].as_u64() > Some(0)
        })
    };
    let told = eventually(Duration::from_secs(5), is_last);
    ensure!(told.is_some(), "{:?}", relay.status());
    relay.stop()?;
    Ok(())
}

fn an_interface_moved_to_another_namespace_and_back_is_served_again(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rule = Rule::feed().outputs("out0", 1);
    let relay = RelayProcess::start(&bed.relay, backend, std::slice::from_ref(&rule))?;
    let elsewhere = Namespace::new("elsewhere")?;
    bed.relay
        .ip(&format!("link set in0 netns {}", elsewhere.name()))?;
    let waits = || {
        relay
            .rule_states()
            .is_ok_and(|states| states[0].1 == "pending")
    };
    assert!(eventually(AGAIN, waits).is_some(), "{}", relay.log());
    elsewhere.ip(&format!("link set in0 netns {}", bed.relay.name()))?;
    bed.relay.ip("address add 10.1.0.1/24 dev in0")?;
    bed.relay.ip("link set in0 up")?;
    let receiver = listen(&bed.receivers[0], &rule)?;
    let took = forwards_again(&bed.sources[0], &rule, &receiver).with_context(|| relay.log())?;
    ensure!(took < AGAIN, "{took:?}: {}", relay.log());
    relay.stop()?;
    Ok(())
}

/// The plan before and after is the same, and the kernel has unbound the sockets all the same.
fn an_output_that_was_away_while_nobody_looked_is_served_again(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rule = Rule::feed().outputs("out0", 1);
    let relay = RelayProcess::start(&bed.relay, backend, std::slice::from_ref(&rule))?;
    let elsewhere = Namespace::new("elsewhere")?;
    let index = |at: &Namespace| at.ip("-oneline link show dev out0");
    let index =
        |at: &Namespace| Ok::<_, anyhow::Error>(index(at)?.split(':').next().map(str::to_owned));
    let before = index(&bed.relay)?;
    let paused = relay.pause()?;
    bed.relay
        .ip(&format!("link set out0 netns {}", elsewhere.name()))?;
    elsewhere.ip(&format!("link set out0 netns {}", bed.relay.name()))?;
    bed.relay.ip("address add 10.2.0.1/24 dev out0")?;
    bed.relay.ip("link set out0 up")?;
    ensure!(index(&bed.relay)? == before, "it has another index");
    drop(paused);
    let receiver = listen(&bed.receivers[0], &rule)?;
    let took = forwards_again(&bed.sources[0], &rule, &receiver).with_context(|| relay.log())?;
    ensure!(took < AGAIN, "{took:?}: {}", relay.log());
    relay.stop()?;
    Ok(())
}

/// An input is back before the relay has noticed that it was away. On XDP the kernel has unbound its
/// sockets, and the program goes on to redirect to them: what it redirects meanwhile is counted.
fn frames_for_an_input_that_was_away_while_nobody_looked_are_counted(
    backend: Backend,
) -> Result<()> {
    const COUNT: u64 = 300;
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .without_capture()
        .build()?;
    let rule = Rule::feed().outputs("out0", 1);
    // One worker takes both inputs on XDP, and goes on with one of them.
    let other = Rule::new("other".to_owned(), "in1", [239, 1, 9, 9], 5009);
    let rules = [rule.clone(), other.output("out0", [239, 2, 9, 9], 6009)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let elsewhere = Namespace::new("elsewhere")?;
    let sender = UdpSender::open(&bed.sources[0])?;
    let send = || {
        let stream = Stream::new(7, COUNT, 300);
        sender.send(&Traffic::new(rule.group, rule.port, stream), 5_000)
    };
    send()?;
    let paused = relay.pause()?;
    bed.relay
        .ip(&format!("link set in0 netns {}", elsewhere.name()))?;
    elsewhere.ip(&format!("link set in0 netns {}", bed.relay.name()))?;
    bed.relay.ip("address add 10.1.0.1/24 dev in0")?;
    bed.relay.ip("link set in0 up")?;
    wait_for_carrier(&bed.relay, "in0")?;
    send()?;
    drop(paused);
    let receiver = listen(&bed.receivers[0], &rule)?;
    forwards_again(&bed.sources[0], &rule, &receiver).with_context(|| relay.log())?;
    let report = relay.stop()?.report;
    if backend == Backend::Xdp {
        let uncounted_by_the_kernel = report.dropped_for("rx_dropped");
        assert_eq!(uncounted_by_the_kernel, COUNT, "{report:#?}");
    }
    report.assert_balanced();
    Ok(())
}

/// A reload and a deletion at the same time: whichever comes first, what runs at the end is what
/// the file and the interfaces say.
fn l5_reloads_while_an_interface_comes_and_goes(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let narrow = Rule::feed().outputs("out0", 1);
    let wide = narrow.clone().outputs("out1", 1);
    let relay = RelayProcess::start(&bed.relay, backend, std::slice::from_ref(&narrow))?;
    let mut ends = bed.receivers.clone();
    for round in 0..10 {
        ends[1] = thread::scope(|scope| -> Result<Endpoint> {
            let pulled = scope.spawn(|| -> Result<Endpoint> {
                bed.relay.ip("link del out1")?;
                Ok(plug(&bed.outputs[1], &bed.receivers[1])?.1)
            });
            let rule = if round % 2 == 0 { &wide } else { &narrow };
            // It may be refused in the middle of a deletion; then all is as before.
            let answer = relay.reload(&to_toml(std::slice::from_ref(rule)))?;
            ensure!(matches!(answer.code, Some(0 | 69)), "{answer:?}");
            pulled.join().map_err(|_| anyhow::anyhow!("panicked"))?
        })?;
    }
    let answer = relay.reload(&to_toml(std::slice::from_ref(&wide)))?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    for (at, far) in ends.iter().enumerate() {
        let output = &wide.outputs[at];
        let receiver = UdpReceiver::start(far, &[Listen::new(output.group, output.port, 0)])?;
        let took = forwards_again(&bed.sources[0], &wide, &receiver);
        let took = took.with_context(|| relay.log())?;
        ensure!(took < AGAIN, "{took:?}: {}", relay.log());
    }
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    x7_rules_of_a_missing_interface_wait_and_the_others_run,
    x7_an_output_that_is_missing_waits_alone,
    with_strict_a_missing_interface_is_an_error,
    x9_copies_leave_with_the_new_address_and_mac_of_their_interface,
    x9_an_output_through_an_input_runs_again_once_the_interface_has_its_address_again,
    an_interface_moved_to_another_namespace_and_back_is_served_again,
    an_output_that_was_away_while_nobody_looked_is_served_again,
    frames_for_an_input_that_was_away_while_nobody_looked_are_counted,
    l5_reloads_while_an_interface_comes_and_goes,
}
