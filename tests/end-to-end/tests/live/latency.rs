//! How long frames are in the relay, against the clocks of the sender and the receiver.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use relay_tests::background::eventually;
use relay_tests::methods::Method;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::Rule;
use relay_tests::scrape::{MetricsSocket, Series};
use relay_tests::sender::{Pacer, UdpSender};
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;
use serde_json::Value;

use super::SetOnDrop;

/// Datagrams per second.
const RATE: u32 = 4_000;

/// Nanoseconds of the clock that sender, relay and receiver share.
fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// Sends datagrams with the time in them, each different, until `over`.
fn send(source: &Endpoint, rule: &Rule, over: &AtomicBool) -> Result<()> {
    let sender = UdpSender::open(source)?;
    let mut pacer = Pacer::new(RATE, 1);
    let mut payload = [0; 100];
    for number in 0_u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        pacer.wait();
        payload[8..16].copy_from_slice(&number.to_be_bytes());
        payload[..8].copy_from_slice(&now()?.to_be_bytes());
        sender.send_one(rule.group, rule.port, &payload)?;
    }
    Ok(())
}

/// How long each datagram was on its way, in seconds, until `over`.
fn receive(socket: &UdpSocket, over: &AtomicBool) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut payload = [0; 200];
    while !over.load(Ordering::Relaxed) {
        let Ok(len) = socket.recv(&mut payload) else {
            continue;
        };
        let received = now()?;
        ensure!(len == 100, "{len} bytes");
        let sent = payload.first_chunk().map(|sent| u64::from_be_bytes(*sent));
        let time = received.saturating_sub(sent.context("a time")?);
        times.push(time as f64 / 1e9);
    }
    Ok(times)
}

fn receiver(endpoint: &Endpoint, group: std::net::Ipv4Addr, port: u16) -> Result<UdpSocket> {
    endpoint.namespace.run(|| {
        let socket = UdpSocket::bind((group, port))?;
        socket.join_multicast_v4(&group, &endpoint.address)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(socket)
    })
}

/// The latency of in0 in a status, once there are so many samples.
fn latency(relay: &RelayProcess, samples: u64) -> Result<Value> {
    let of = |status: &Value| -> Option<Value> {
        let interfaces = status["interfaces"].as_array()?;
        let mut interfaces = interfaces.iter();
        let interface = interfaces.find(|one| one["name"] == "in0")?;
        Some(interface["latency"].clone())
    };
    let mut last = Value::Null;
    let enough = eventually(Duration::from_secs(10), || {
        last = relay
            .status()
            .ok()
            .and_then(|status| of(&status))
            .unwrap_or_default();
        last["samples"].as_u64() >= Some(samples)
    });
    ensure!(enough.is_some(), "no {samples} samples: {last}");
    Ok(last)
}

fn quantile(latency: &Value, key: &str) -> Result<f64> {
    let value = latency["recent"][key].as_f64();
    value.with_context(|| format!("{key} of {latency}"))
}

fn w4_the_latency_is_what_the_clocks_of_sender_and_receiver_show(method: Method) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(200);
    let bed = Testbed::builder().outputs(1).without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let socket = MetricsSocket::new();
    method.set_up(&bed.outputs[0])?;
    let file = RuleFile::with(&rules, &(method.tables(&rules) + &socket.table("")))?;
    let relay = RelayProcess::start_file(&bed.relay, method.backend, file)?;
    let output = &rules[0].outputs[0];
    let std::net::IpAddr::V4(group) = output.group else {
        anyhow::bail!("an IPv4 group");
    };
    let receiver = receiver(&bed.receivers[0], group, output.port)?;
    let (over, halfway) = (AtomicBool::new(false), AtomicBool::new(false));
    let ((quiet, quiet_times), paused, times) = thread::scope(|scope| -> Result<_> {
        let _ends = SetOnDrop(&over);
        let sending = scope.spawn(|| send(&bed.sources[0], &rules[0], &over));
        let first = scope.spawn(|| receive(&receiver, &halfway));
        let quiet = {
            let _ends = SetOnDrop(&halfway);
            latency(&relay, 100)?
        };
        let joined = |thread: thread::ScopedJoinHandle<'_, Result<Vec<f64>>>| {
            let times = thread.join();
            times.map_err(|_| anyhow::anyhow!("the receiver panicked"))?
        };
        let quiet_times = joined(first)?;
        // Stalls are as likely to be seen as frames that wait in them are many.
        let second = scope.spawn(|| receive(&receiver, &over));
        for _ in 0..5 {
            let paused = relay.pause()?;
            thread::sleep(PAUSE);
            drop(paused);
            thread::sleep(PAUSE / 2);
        }
        let samples = quiet["samples"].as_u64().context("samples")?;
        let paused = latency(&relay, samples + 20)?;
        over.store(true, Ordering::Relaxed);
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok(((quiet, quiet_times), paused, joined(second)?))
    })?;
    let sorted = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times
    };
    let (quiet_times, times) = (sorted(quiet_times), sorted(times));
    let half = |times: &[f64]| times.get(times.len() / 2).copied().context("datagrams");
    let (p50, whole_p50) = (quantile(&quiet, "p50_seconds")?, half(&quiet_times)?);
    println!("{method:?}: half of the frames within {p50} s of {whole_p50} s");
    // The receiver may note the time before the worker's round is over.
    ensure!(p50 > 1e-6 && p50 < 2.0 * whole_p50, "{quiet}: {whole_p50}");
    let longest = times.last().copied().context("datagrams")?;
    let max = quantile(&paused, "max_seconds")?;
    let least = PAUSE.as_secs_f64() / 2.0;
    ensure!(longest > 1.5 * least, "{longest}");
    ensure!(max > least && max < longest + 0.05, "{paused}: {longest}");
    let source = match method.backend {
        relay_tests::backend::Backend::Xdp => "xdp program",
        relay_tests::backend::Backend::IoUring => "socket filter",
    };
    ensure!(paused["source"] == source, "{paused}");
    let text = relay.verb(&["status"])?.stdout;
    ensure!(
        text.contains(&format!("since the {source} saw them")),
        "{text}"
    );
    assert_same(&relay, &socket)?;
    relay.stop()?;
    Ok(())
}

/// The histogram of the metrics is the status's, and has every sample once.
fn assert_same(relay: &RelayProcess, socket: &MetricsSocket) -> Result<()> {
    let same = |series: &Series, latency: &Value| -> Result<bool> {
        let value = |name: &str| series.value(name);
        let labels = "{interface=\"in0\"}";
        let mut before = 0.0;
        for bucket in latency["buckets"].as_array().context("buckets")? {
            let bound = bucket["up_to_seconds"].as_f64().context("a bound")?;
            let bound = match bound {
                1.0 => "1.0".into(),
                bound => bound.to_string(),
            };
            let name = format!("relay_latency_seconds_bucket{{interface=\"in0\",le=\"{bound}\"}}");
            let number = value(&name)?;
            ensure!(number >= before, "{series:?}");
            before = number;
            if bucket["samples"].as_f64() != Some(number) {
                return Ok(false);
            }
        }
        let all = value("relay_latency_seconds_bucket{interface=\"in0\",le=\"+Inf\"}")?;
        let count = value(&format!("relay_latency_seconds_count{labels}"))?;
        let sum = value(&format!("relay_latency_seconds_sum{labels}"))?;
        let missed = value(&format!("relay_latency_missed_packets_total{labels}"))?;
        ensure!(all == count && before <= all, "{series:?}");
        Ok(latency["samples"].as_f64() == Some(count)
            && latency["sum_seconds"].as_f64() == Some(sum)
            && latency["missed"].as_f64() == Some(missed))
    };
    let mut last = String::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        let (series, latency) = (socket.scrape()?, latency(relay, 1)?);
        if same(&series, &latency)? {
            return Ok(());
        }
        last = format!("{series:?}\n{latency}");
    }
    anyhow::bail!("status and metrics differ: {last}")
}

relay_tests::on_all_methods! {
    w4_the_latency_is_what_the_clocks_of_sender_and_receiver_show,
}
