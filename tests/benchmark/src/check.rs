//! `relay-bench check`: every contender forwards a thousand datagrams at a low rate, between real
//! sockets, and every byte is checked. A benchmark whose contenders do not work measures nothing.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use relay_tests::{
    receiver::{Listen, UdpReceiver},
    sender::{MAX_BURST, Traffic, UdpSender, Window},
    tally::Stream,
    topology::Testbed,
};

use crate::{
    contender::Contender,
    drops::Drops,
    framing::Framing,
    job::{Flow, Job, Output},
};

/// Datagrams of each flow.
const COUNT: u64 = 1000;
/// Datagrams per second, of all flows.
const RATE: u32 = 2000;
/// Bytes of payload.
const PAYLOAD: usize = 1000;
/// How long datagrams may be on their way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks every contender on `cpu`, prints one line for each, and returns how many do not forward
/// everything.
///
/// # Errors
///
/// When the hosts and wires cannot be made; a contender that fails is no error.
pub fn all(contenders: &[Contender], cpu: u32) -> Result<usize> {
    let mut failures = 0;
    for contender in contenders {
        let net = Testbed::builder().outputs(2).without_capture().build()?;
        match one(contender, &net, cpu) {
            Ok(forwarded) => println!("{:<28} ok      {forwarded}", contender.name()),
            Err(error) => {
                failures += 1;
                println!("{:<28} FAILED  {error:#}", contender.name());
            }
        }
    }
    Ok(failures)
}

/// Checks one contender with the largest job that it can do. Returns what it did.
fn one(contender: &Contender, net: &Testbed, cpu: u32) -> Result<String> {
    let jobs = jobs(net, cpu);
    let doable: Vec<_> = jobs.iter().filter(|j| contender.can(j).is_ok()).collect();
    let [job, ..] = doable[..] else {
        let reasons: Vec<_> = jobs.iter().filter_map(|j| contender.can(j).err()).collect();
        anyhow::bail!("it can do no job: {}", reasons.join("; "));
    };
    // AF_XDP forwarders do not complete checksums, so the source must.
    net.sources[0].set_checksum_offload(false)?;
    let receivers = receivers(&contender.delivered(job), net)?;
    let running = contender.start(job)?;
    send(job, net)?;
    let expected = Stream::new(0, COUNT, PAYLOAD);
    for receiver in &receivers {
        receiver.wait_for(COUNT, PATIENCE);
        receiver.settle();
    }
    let drops = running.stop()?.all();
    let mut faults = Vec::new();
    let mut copies = 0;
    for tally in receivers.iter().flat_map(UdpReceiver::tallies) {
        copies += 1;
        let stream = Stream {
            flow: tally.flow,
            ..expected
        };
        faults.extend(tally.verdict(&stream).err());
    }
    ensure!(
        faults.is_empty(),
        "{}; drops: {}",
        faults.join("; "),
        list(&drops)
    );
    let flows = job.flows.len();
    Ok(format!(
        "{COUNT} datagrams of each of {flows} flows to {copies} receivers, every byte"
    ))
}

/// The jobs to choose from, the largest first.
fn jobs(net: &Testbed, cpu: u32) -> Vec<Job> {
    let job = |flows| Job {
        namespace: Arc::clone(&net.relay),
        cpu,
        input: "in0".into(),
        framing: Framing::Ipv4,
        flows,
    };
    let flow = |number: u8, interfaces: &[&str]| Flow {
        group: Ipv4Addr::new(239, 1, 1, number),
        port: 5000,
        takes: None,
        outputs: interfaces
            .iter()
            .zip(1..)
            .map(|(&interface, copy)| Output {
                interface: interface.to_owned(),
                group: Ipv4Addr::new(239, 2, number, copy),
                port: 6000,
            })
            .collect(),
    };
    vec![
        job(vec![flow(1, &["out0", "out0", "out1"]), flow(2, &["out1"])]),
        job(vec![flow(1, &["out0", "out1"]), flow(2, &["out1"])]),
        job(vec![flow(1, &["out0"]), flow(2, &["out0"])]),
        job(vec![flow(1, &["out0"])]),
    ]
}

/// A receiver at the far end of every output, for all copies that leave through it.
fn receivers(job: &Job, net: &Testbed) -> Result<Vec<UdpReceiver>> {
    net.outputs
        .iter()
        .zip(&net.receivers)
        .map(|(output, far_end)| {
            let listen: Vec<_> = job
                .flows
                .iter()
                .enumerate()
                .flat_map(|(flow, f)| f.outputs.iter().map(move |copy| (flow, copy)))
                .filter(|(_, copy)| copy.interface == output.interface)
                .map(|(flow, copy)| Listen::new(copy.group, copy.port, flow as u32))
                .collect();
            UdpReceiver::start(far_end, &listen)
        })
        .collect()
}

fn send(job: &Job, net: &Testbed) -> Result<()> {
    let traffic: Vec<_> = job
        .flows
        .iter()
        .enumerate()
        .map(|(flow, f)| Traffic::new(f.group, f.port, Stream::new(flow as u32, COUNT, PAYLOAD)))
        .collect();
    UdpSender::open(&net.sources[0])?.send_interleaved(
        &traffic,
        RATE,
        MAX_BURST,
        &Window::unlimited(),
    )
}

fn list(drops: &Drops) -> String {
    let some = drops.iter().filter(|(_, count)| **count > 0);
    let named: Vec<_> = some
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if named.is_empty() {
        "none".into()
    } else {
        named.join(", ")
    }
}
