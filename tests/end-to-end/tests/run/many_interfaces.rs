//! Sixty-four interfaces in one relay, all connected by rules, so that one worker has all queues:
//! the relay is ready in seconds, takes no more memory than it needs, and forwards.

use std::fs;

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::netns::Namespace;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::Rule;
use relay_tests::scenario::forward_exactly_by;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// Wires inside the relay's host, whose ends are both inputs. With the testbed's two interfaces
/// that makes
/// 64.
const WIRES: u8 = 31;
/// KiB that the process may have in memory at most.
const MOST_MEMORY: u64 = 200 * 1024;
/// Chunks of a worker that sends GSO packets, however many inputs it has: in FILL rings, in a
/// batch, and to spare for inputs that come.
const MOST_CHUNKS: u64 = 4 * 8192 + 4096 + 8192;

/// The two ends of a wire.
fn ends(wire: u8) -> [String; 2] {
    [format!("left{wire}"), format!("right{wire}")]
}

fn add_wires(relay: &Namespace) -> Result<()> {
    let mut batch = String::new();
    for wire in 0..WIRES {
        let [left, right] = ends(wire);
        batch += &format!("link add {left} type veth peer name {right}\n");
        batch += &format!("link set {left} up\nlink set {right} up\n");
    }
    let file = RuleFile::new(&batch)?;
    let path = file.path().to_str().context("a path that is text")?;
    relay.tool("ip", &["-batch", path]).map(drop)
}

/// The most memory that a process ever had, in KiB.
fn peak_memory(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmHWM in /proc/PID/status")?.parse()?)
}

fn sixty_four_connected_interfaces_are_ready_soon_and_take_memory_by_need(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    add_wires(&bed.relay)?;
    let others = (0..WIRES).flat_map(ends).zip(0u8..).map(|(interface, n)| {
        let rule = Rule::new(interface.clone(), &interface, [239, 3, 0, n], 5001);
        rule.output("out0", [239, 4, 0, n], 5002)
    });
    let rules: Vec<Rule> = std::iter::once(Rule::feed().outputs("out0", 2))
        .chain(others)
        .collect();
    // Waits 20 s for it to be ready.
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let memory = peak_memory(relay.id())?;
    let mut streams = vec![Stream::new(0, 2000, 1000)];
    streams.extend((1..rules.len() as u32).map(|flow| Stream::new(flow, 0, 1000)));
    let report = forward_exactly_by(relay, &bed, &rules, &streams)?.report;
    assert_eq!(report.interfaces.len(), 2 + 2 * usize::from(WIRES));
    assert!(memory < MOST_MEMORY, "{memory} KiB");
    if backend == Backend::Xdp {
        let chunks: Vec<u64> = report.workers.iter().map(|w| w.chunks_total).collect();
        assert!(
            matches!(chunks[..], [one] if one <= MOST_CHUNKS),
            "{chunks:?}"
        );
    }
    Ok(())
}

relay_tests::on_both_backends! {
    sixty_four_connected_interfaces_are_ready_soon_and_take_memory_by_need,
}
