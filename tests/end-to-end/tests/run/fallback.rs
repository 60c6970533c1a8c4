//! The fallback: on interfaces without native XDP the relay uses io_uring by itself. Also what only
//! that backend does. The relay chooses its backend unless a test forces one.

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::{Finished, RelayProcess, RuleFile, binary, finish, relay, run_arguments};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, feeds};
use relay_tests::scenario::{ARRIVAL, forward_exactly, forward_exactly_by, streams};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::stacked;
use relay_tests::sys;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;
use serde_json::Value;

/// From the first input to four outputs on the first output interface.
fn one_to_four(bed: &Testbed) -> [Rule; 1] {
    let (input, output) = (&bed.inputs[0].interface, &bed.outputs[0].interface);
    [Rule::new("feed", input, GROUP_IN, PORT_IN).outputs(output, 4)]
}

/// The plan for `file`.
fn plan(bed: &Testbed, file: &RuleFile) -> Result<Value> {
    let path = file.path().display().to_string();
    let planned = relay(&bed.relay, &["plan", "--json", &path])?;
    assert_eq!(planned.code, Some(0), "{planned:?}");
    serde_json::from_str(&planned.stdout).context("reading the plan")
}

/// What a plan says of an interface.
fn planned<'a>(plan: &'a Value, interface: &str) -> Result<&'a Value> {
    let mut interfaces = plan["interfaces"].as_array().into_iter().flatten();
    let found = interfaces.find(|i| i["name"] == interface);
    found.with_context(|| format!("no {interface} in {plan:#}"))
}

/// Whether `text` is a string that contains `because`.
fn says(text: &Value, because: &str) -> bool {
    text.as_str().is_some_and(|text| text.contains(because))
}

/// Forwards from one to four without `--backend`. Fails unless that is exact and by io_uring, and
/// the log and the report give `because` as the reason.
fn falls_back(bed: &Testbed, because: &str, size: usize) -> Result<()> {
    let rules = one_to_four(bed);
    let relay = RelayProcess::start_unforced(&bed.relay, RuleFile::of(&rules)?)?;
    let relay = relay.expecting(Backend::IoUring);
    let log = relay.log();
    let stopped = forward_exactly_by(relay, bed, &rules, &streams(&rules, 2000, size))?;
    // All connected interfaces are on one backend for one reason.
    for endpoint in bed.inputs.iter().chain(&bed.outputs) {
        let name = endpoint.interface.as_str();
        let mut lines = log.lines();
        let said = lines.any(|line| [name, "io_uring", because].iter().all(|w| line.contains(w)));
        assert!(said, "why {name} is on io_uring: {log}");
        let interface = stopped.report.interface(name)?;
        assert!(interface.reason.contains(because), "{interface:?}");
    }
    Ok(())
}

/// The same, where the plan already shows it.
fn falls_back_by_plan(bed: &Testbed, because: &str, size: usize) -> Result<()> {
    let plan = plan(bed, &RuleFile::of(&one_to_four(bed))?)?;
    for endpoint in bed.inputs.iter().chain(&bed.outputs) {
        let interface = planned(&plan, &endpoint.interface)?;
        assert_eq!(interface["backend"], Backend::IoUring.name(), "{plan:#}");
        assert!(says(&interface["reason"], because), "{plan:#}");
    }
    falls_back(bed, because, size)
}

#[test]
fn an_input_on_a_macvlan_device_takes_io_uring_and_is_exact() -> Result<()> {
    let mut bed = Testbed::new()?;
    bed.inputs[0] = stacked::macvlan(&bed.inputs[0], "mv0")?;
    falls_back_by_plan(&bed, "mv0 (driver macvlan) has no native XDP", 1000)
}

#[test]
fn an_input_on_a_bridge_takes_io_uring_and_is_exact() -> Result<()> {
    let mut bed = Testbed::new()?;
    bed.inputs[0] = stacked::bridge(&bed.inputs[0], "br0")?;
    falls_back_by_plan(&bed, "br0 (driver bridge) has no native XDP", 1000)
}

#[test]
fn jumbo_frames_take_io_uring_and_are_exact() -> Result<()> {
    let bed = Testbed::builder()
        .input_mtu(0, 9000)
        .output_mtu(0, 9000)
        .build()?;
    falls_back_by_plan(&bed, "in0 has MTU 9000", 8972)
}

/// The plan cannot show it: the peer is in another namespace, and only the attempt to attach fails.
#[test]
fn an_input_whose_peer_has_too_large_an_mtu_for_xdp_takes_io_uring_and_is_exact() -> Result<()> {
    let bed = Testbed::new()?;
    let source = &bed.sources[0];
    source
        .namespace
        .ip(&format!("link set {} mtu 9000", source.interface))?;
    falls_back(&bed, "XDP was refused", 1000)
}

#[test]
fn an_input_with_several_queues_has_one_worker_on_io_uring_and_is_exact() -> Result<()> {
    let bed = Testbed::builder().queues(4).without_capture().build()?;
    let stopped = forward_exactly(&bed, Backend::IoUring, &feeds(32), 50, 500)?;
    assert_eq!(stopped.report.workers.len(), 1, "{:#?}", stopped.report);
    Ok(())
}

/// Forwards to an output on `device`, with an input that can do XDP: exact on the backend of the
/// plan.
fn output_on(device: fn(&Endpoint, &str) -> Result<Endpoint>, name: &str) -> Result<()> {
    let mut bed = Testbed::new()?;
    bed.outputs[0] = device(&bed.outputs[0], name)?;
    let rules = one_to_four(&bed);
    let file = RuleFile::of(&rules)?;
    let plan = plan(&bed, &file)?;
    let relay = RelayProcess::start_unforced(&bed.relay, file)?;
    let stopped = forward_exactly_by(relay, &bed, &rules, &streams(&rules, 2000, 1000))?;
    for interface in &stopped.report.interfaces {
        let expected = &planned(&plan, &interface.name)?["backend"];
        assert_eq!(expected, interface.backend.name(), "{plan:#}");
        assert_eq!(interface.backend, stopped.report.interfaces[0].backend);
    }
    Ok(())
}

#[test]
fn an_output_on_a_bridge_is_exact() -> Result<()> {
    output_on(stacked::bridge, "br0")
}

#[test]
fn an_output_on_a_macvlan_device_is_exact() -> Result<()> {
    output_on(stacked::macvlan, "mv0")
}

/// A device that does not cut GSO packets, behind a queue: the relay could not learn what became of
/// their parts.
#[test]
fn where_gso_packets_cannot_leave_frames_do_and_are_exact() -> Result<()> {
    let bed = Testbed::new()?;
    let near = &bed.outputs[0];
    near.set_checksum_offload(false)?;
    let queue = ["qdisc", "add", "dev", &near.interface, "root", "pfifo"];
    bed.relay.tool("tc", &queue)?;
    let rules = one_to_four(&bed);
    let relay = RelayProcess::start(&bed.relay, Backend::IoUring, &rules)?;
    let stopped = forward_exactly_by(relay, &bed, &rules, &streams(&rules, 2000, 1000))?;
    stopped.report.assert_tx_method(&rules, "frames")
}

#[test]
fn interfaces_that_no_rule_connects_are_on_different_backends_and_exact_at_the_same_time()
-> Result<()> {
    let mut bed = Testbed::builder().inputs(2).outputs(2).build()?;
    bed.inputs[0] = stacked::macvlan(&bed.inputs[0], "mv0")?;
    let rules = [
        Rule::new("fallback", "mv0", GROUP_IN, PORT_IN).outputs("out0", 4),
        Rule::new("native", "in1", GROUP_IN, PORT_IN).outputs("out1", 4),
    ];
    let relay = RelayProcess::start_unforced(&bed.relay, RuleFile::of(&rules)?)?;
    let report = forward_exactly_by(relay, &bed, &rules, &streams(&rules, 2000, 1000))?.report;
    for (interface, backend) in [
        ("mv0", Backend::IoUring),
        ("out0", Backend::IoUring),
        ("in1", Backend::Xdp),
        ("out1", Backend::Xdp),
    ] {
        let reported = report.interface(interface)?.backend;
        assert_eq!(reported, backend, "{report:#?}");
    }
    Ok(())
}

#[test]
fn forced_xdp_on_a_bridge_is_refused_with_its_line_and_a_remedy_and_changes_nothing() -> Result<()>
{
    let mut bed = Testbed::builder().without_capture().build()?;
    bed.inputs[0] = stacked::bridge(&bed.inputs[0], "br0")?;
    let file = RuleFile::of(&one_to_four(&bed))?;
    let path = file.path().display().to_string();
    let before = bed.relay.ip("address")?;
    for command in ["plan", "run"] {
        let strict: &[&str] = if command == "run" { &["--strict"] } else { &[] };
        let arguments = [&[command, "--backend", Backend::Xdp.name(), &path], strict].concat();
        let finished = relay(&bed.relay, &arguments)?;
        assert_eq!(finished.code, Some(78), "{arguments:?}: {finished:?}");
        finished.assert_mistake(&file, 3, &["br0", "XDP"]);
    }
    assert_eq!(before, bed.relay.ip("address")?);
    assert!(!bed.inputs[0].has_joined(GROUP_IN)?, "nothing was joined");
    Ok(())
}

/// On io_uring only: an XDP program takes the frames that it relays from the stack.
#[test]
fn a_local_receiver_of_the_same_group_still_gets_every_datagram_on_io_uring() -> Result<()> {
    let bed = Testbed::new()?;
    let local = UdpReceiver::start(&bed.inputs[0], &[Listen::new(GROUP_IN, PORT_IN, 0)])?;
    forward_exactly(&bed, Backend::IoUring, &one_to_four(&bed), 3000, 1000)?;
    local.assert_all_exact(&Stream::new(0, 3000, 1000), ARRIVAL);
    Ok(())
}

/// On io_uring only: on XDP each worker has queues of its own.
#[test]
fn two_workers_share_the_flows_of_an_input_with_two_cpus_and_are_exact_in_order() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = feeds(32);
    let cpus = "\n[[interfaces]]\nname = \"in0\"\ncpus = [0, 1]\n";
    let relay = RelayProcess::start_with(&bed.relay, Backend::IoUring, &rules, cpus)?;
    let stopped = forward_exactly_by(relay, &bed, &rules, &streams(&rules, 200, 500))?;
    let workers = stopped.report.workers;
    assert_eq!(workers.len(), 2, "{workers:?}");
    let busy = workers.iter().all(|worker| worker.packets_received > 0);
    assert!(busy, "{workers:?}");
    Ok(())
}

/// The relay forwards feeds that arrive from the wire, and not those that a process of its own host
/// sends through the input. `tables` go into the rule file.
fn relays_only_what_arrives(tables: &str, workers: usize) -> Result<()> {
    const COUNT: u64 = 50;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = feeds(16);
    let relay = RelayProcess::start_with(&bed.relay, Backend::IoUring, &rules, tables)?;
    let local = UdpSender::open(&bed.inputs[0])?;
    for (number, rule) in rules.iter().enumerate() {
        let stream = Stream::new(1000 + number as u32, COUNT, 300);
        local.send(&Traffic::new(rule.group, rule.port, stream), 10_000)?;
    }
    let stopped = forward_exactly_by(relay, &bed, &rules, &streams(&rules, COUNT, 300))?;
    let report = stopped.report;
    assert_eq!(report.workers.len(), workers, "{:?}", report.workers);
    assert_eq!(
        report.filter("in0", "redirected"),
        16 * COUNT,
        "{report:#?}"
    );
    Ok(())
}

#[test]
fn what_local_processes_send_is_not_relayed_by_one_worker() -> Result<()> {
    relays_only_what_arrives("", 1)
}

#[test]
fn what_local_processes_send_is_not_relayed_by_two_workers_that_share_an_input() -> Result<()> {
    relays_only_what_arrives("\n[[interfaces]]\nname = \"in0\"\ncpus = [0, 1]\n", 2)
}

/// `relay run FILE --backend BACKEND` where seccomp refuses io_uring, as in many containers, and
/// the sysctl has the value `disabled`. Only the relay sees that value, in a mount of its own; the
/// host's stays.
fn without_io_uring(bed: &Testbed, backend: Backend, disabled: &str) -> Result<Finished> {
    let sysctl = RuleFile::new(disabled)?;
    let file = RuleFile::of(&one_to_four(bed))?;
    let mut command = bed.relay.command("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount --bind \"$0\" /proc/sys/kernel/io_uring_disabled && exec \"$@\"")
        .arg(sysctl.path())
        .arg(binary()?)
        .args(run_arguments(backend))
        .arg(file.path());
    sys::forbid_io_uring(&mut command);
    finish(command)
}

#[test]
fn where_seccomp_refuses_io_uring_the_relay_says_so() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let finished = without_io_uring(&bed, Backend::IoUring, "0\n")?;
    assert_eq!(finished.code, Some(69), "{finished:?}");
    for word in ["in0 needs io_uring: ", "seccomp"] {
        assert!(finished.stderr.contains(word), "{word}: {finished:?}");
    }
    Ok(())
}

#[test]
fn where_a_sysctl_disables_io_uring_the_relay_names_it_and_what_to_set() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let finished = without_io_uring(&bed, Backend::IoUring, "2\n")?;
    assert_eq!(finished.code, Some(69), "{finished:?}");
    let said = finished.stderr.replace(' ', "");
    assert!(
        said.contains("kernel.io_uring_disabled=0"),
        "what to set: {finished:?}"
    );
    Ok(())
}

/// The XDP backend does not need io_uring.
#[test]
fn where_io_uring_is_refused_the_relay_still_runs_on_xdp() -> Result<()> {
    let bed = Testbed::new()?;
    let rules = one_to_four(&bed);
    let file = RuleFile::of(&rules)?;
    let mut command = bed.relay.command(binary()?);
    command.args(["run", "--json"]).arg(file.path());
    sys::forbid_io_uring(&mut command);
    let relay = RelayProcess::start_command(command)?.expecting(Backend::Xdp);
    forward_exactly_by(relay, &bed, &rules, &streams(&rules, 500, 1000))?;
    Ok(())
}
