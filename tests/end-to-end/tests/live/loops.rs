//! Loops in the network around a relay: the status names the rule, how the loop shows and who is at
//! its other end, and is healthy again once the loop is cut.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use relay_tests::backend::Backend;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::looped::{Bridged, Ring, foreign, onwards};
use relay_tests::raw::RawSender;
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN};
use relay_tests::scenario::tx_methods;
use relay_tests::veth::Endpoint;
use serde_json::Value;

/// How long the status may take to show a loop: it looks once per second.
const SHOWN: Duration = Duration::from_secs(5);
/// How long it may take to be healthy again: ten seconds after the last frame, and the same.
const HEALTHY: Duration = Duration::from_secs(15);

/// Sends a datagram of a host that is no relay.
fn send(sender: &RawSender, wire: &Endpoint, over: Encapsulation, number: u64) -> Result<()> {
    sender.send(&foreign(wire, over, number, 1).build()?)
}

/// The tables that choose each TX method of `backend`, and the version of IP to try it with, from
/// this one on in turns: each test waits for many seconds.
fn tables(backend: Backend, first: Encapsulation) -> Vec<(String, Encapsulation)> {
    let versions = [Encapsulation::Ipv4, Encapsulation::Ipv6]
        .into_iter()
        .cycle();
    let versions = versions.skip_while(|one| *one != first);
    let tables = tx_methods(backend, &onwards(first)).into_iter();
    tables.map(|(tables, _)| tables).zip(versions).collect()
}

/// Waits until the status of `relay` has exactly the loops of these kinds; sends a datagram by
/// `send` before each look. Returns the status.
fn wait_for_loops(
    relay: &RelayProcess,
    kinds: &[&str],
    patience: Duration,
    mut send: impl FnMut() -> Result<()>,
) -> Result<Value> {
    let started = Instant::now();
    loop {
        send()?;
        let status = relay.status()?;
        let loops = status["loops"].as_array().context("loops in the status")?;
        let shown: Vec<_> = loops.iter().map(|one| one["kind"].as_str()).collect();
        if shown == kinds.iter().map(|kind| Some(*kind)).collect::<Vec<_>>() {
            return Ok(status);
        }
        if started.elapsed() > patience {
            bail!("no {kinds:?} in {status:#}\n{}", relay.log());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Fails unless the status shows the loop of the feed with this peer, and stands for exit code 1.
#[track_caller]
fn assert_shown(
    relay: &RelayProcess,
    status: &Value,
    interface: &str,
    peer: &Endpoint,
    over: Encapsulation,
) -> Result<()> {
    let one = &status["loops"][0];
    let group = over.input(GROUP_IN);
    let address = peer.address_for(group).to_string();
    let mac = peer.mac.map(|byte| format!("{byte:02x}")).join(":");
    for (key, value) in [
        ("rule", onwards(over)[0].name.as_str()),
        ("interface", interface),
        ("group", &group.to_string()),
        ("source", &address),
        ("source_mac", &mac),
    ] {
        assert_eq!(one[key], value, "{key} of {status:#}");
    }
    assert_eq!(one["port"], PORT_IN, "{status:#}");
    assert_eq!(status["state"], "degraded", "{status:#}");
    let shown = relay.verb(&["status"])?;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    let named = shown.stdout.lines().any(|line| {
        let words = ["  ! ", "rule feed", interface, &mac, &address];
        words.iter().all(|word| line.contains(word))
    });
    assert!(named, "{shown:?}");
    Ok(())
}

/// Waits until the loop is over for the status, and fails unless that is healthy.
fn wait_until_healthy(relay: &RelayProcess) -> Result<()> {
    let status = wait_for_loops(relay, &[], HEALTHY, || Ok(()))?;
    assert_eq!(status["problems"], serde_json::json!([]), "{status:#}");
    assert_eq!(relay.verb(&["status"])?.code, Some(0));
    Ok(())
}

fn l1_a_bridge_from_an_output_back_to_the_input_is_a_problem_until_it_is_cut(
    backend: Backend,
) -> Result<()> {
    for (tables, over) in tables(backend, Encapsulation::Ipv6) {
        let rules = onwards(over);
        let on = Bridged::new()?;
        let running = RelayProcess::start_with(&on.relay, backend, &rules, &tables)?;
        let sender = RawSender::open(&on.port)?;
        let mut number = 0;
        let mut one = || {
            number += 1;
            send(&sender, &on.port, over, number)
        };
        let status = wait_for_loops(&running, &["own_frames"], SHOWN, &mut one)?;
        // The frames come from this relay's own output.
        assert_shown(&running, &status, "in0", &on.output, over)?;
        on.host.ip("link set port1 nomaster")?;
        // Datagrams go on, and their copies come back no more.
        let started = Instant::now();
        while started.elapsed() < HEALTHY {
            one()?;
            thread::sleep(Duration::from_millis(100));
            if running.status()?["loops"] == serde_json::json!([]) {
                break;
            }
        }
        wait_until_healthy(&running)?;
        assert!(running.log().contains("sees no more of its own frames"));
        running.stop()?;
    }
    Ok(())
}

fn l1_a_ring_of_two_relays_is_a_problem_with_the_other_relays_address_until_it_is_cut(
    backend: Backend,
) -> Result<()> {
    for (tables, over) in tables(backend, Encapsulation::Ipv4) {
        let rules = onwards(over);
        let Ring {
            one,
            two,
            out_one,
            out_two,
            ..
        } = Ring::new()?;
        let first = RelayProcess::start_with(&one, backend, &rules, &tables)?;
        let second = RelayProcess::start_with(&two, backend, &rules, &tables)?;
        // A datagram that reaches the first relay from outside passes 32 times, so it is the first
        // one as well that gets it with the TTL used up.
        let sender = RawSender::open(&out_two)?;
        let mut number = 0;
        let status = wait_for_loops(&first, &["expired"], SHOWN, || {
            number += 1;
            send(&sender, &out_two, over, number)
        })?;
        assert_shown(&first, &status, "in0", &out_two, over)?;
        assert_eq!(second.status()?["loops"], serde_json::json!([]));
        // And one that reaches the second from outside.
        let sender = RawSender::open(&out_one)?;
        let status = wait_for_loops(&second, &["expired"], SHOWN, || {
            number += 1;
            send(&sender, &out_one, over, number)
        })?;
        assert_shown(&second, &status, "in0", &out_one, over)?;
        one.ip("link set out0 down")?;
        one.ip("link set out0 up")?;
        wait_until_healthy(&first)?;
        wait_until_healthy(&second)?;
        assert!(first.log().contains("has no more datagrams that expire"));
        first.stop()?;
        second.stop()?;
    }
    Ok(())
}

relay_tests::on_both_backends! {
    l1_a_bridge_from_an_output_back_to_the_input_is_a_problem_until_it_is_cut,
    l1_a_ring_of_two_relays_is_a_problem_with_the_other_relays_address_until_it_is_cut,
}
