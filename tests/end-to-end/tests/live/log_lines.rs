//! The log of a relay to which the same happens again and again: few lines, and they add up to all
//! that happened.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::events::count;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scrape::MetricsSocket;
use relay_tests::sender::UdpSender;
use relay_tests::topology::Testbed;

/// A feed that a hostile segment stops and lets go on, a hundred times; the relay's own count of
/// the silences is beside the log's.
fn a_feed_that_stutters_is_few_lines_that_add_up(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let socket = MetricsSocket::new();
    let text = to_toml(&rules).replace("\ninput = ", "\nsilence = \"20ms\"\ninput = ");
    let file = RuleFile::new(&(text + &socket.table("")))?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    let sender = UdpSender::open(&bed.sources[0])?;
    for _ in 0..100 {
        sender.send_one(rules[0].group, rules[0].port, b"a datagram")?;
        thread::sleep(Duration::from_millis(120));
    }
    let is_silent = || -> Result<bool> {
        let silent = socket.scrape()?.value("relay_rule_silent{rule=\"feed\"}")?;
        Ok(silent == 1.0)
    };
    let silent = eventually(Duration::from_secs(10), || is_silent().unwrap_or(false));
    ensure!(silent.is_some(), "{}", relay.log());
    let times = socket
        .scrape()?
        .value("relay_rule_silences_total{rule=\"feed\"}")? as u64;
    ensure!(times > 50, "{times} silences: {}", relay.log());
    // The last of them may be counted still: what is left is said within the 10 seconds, without
    // another event.
    let began = "rule feed is silent: no datagram has come for";
    let over = "datagrams of rule feed come again";
    let now = || count(&relay.log(), "silence of rule feed", &[began, over]);
    // It is silent now, so each but the last is over.
    let said = eventually(Duration::from_secs(15), || now().events >= 2 * times - 1);
    let counted = now();
    ensure!(
        said.is_some() && counted.events == 2 * times - 1,
        "{counted:?} for {times} silences: {}",
        relay.log()
    );
    // Two turns at once, and then a sum and one turn per 10 s.
    ensure!(counted.lines <= 12, "{counted:?}: {}", relay.log());
    relay.stop()?;
    Ok(())
}

/// Each flap is noticed before the next one, so none can be missing.
fn a_wire_that_flaps_is_few_lines_that_add_up(backend: Backend) -> Result<()> {
    const FLAPS: u64 = 12;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let socket = MetricsSocket::new();
    let relay = RelayProcess::start_with(&bed.relay, backend, &rules, &socket.table(""))?;
    let (far, name) = (&bed.receivers[0].namespace, &bed.receivers[0].interface);
    let becomes = |problems: f64| -> Result<()> {
        let noticed = eventually(Duration::from_secs(10), || {
            let now = socket.scrape().and_then(|now| now.value("relay_problems"));
            now.is_ok_and(|now| now == problems)
        });
        noticed.map(drop).with_context(|| relay.log())
    };
    becomes(0.0)?;
    for _ in 0..FLAPS {
        far.ip(&format!("link set {name} down"))?;
        becomes(1.0)?;
        far.ip(&format!("link set {name} up"))?;
        becomes(0.0)?;
    }
    let stopped = relay.stop()?;
    let turns = ["out0 has lost its carrier", "out0 has its carrier again"];
    let counted = count(&stopped.log, "link of out0", &turns);
    ensure!(
        counted.events == 2 * FLAPS && counted.lines < counted.events,
        "{counted:?}: {}",
        stopped.log
    );
    Ok(())
}

/// More clients than the relay serves; each of the others is told so.
fn clients_that_are_refused_are_few_lines_that_add_up(backend: Backend) -> Result<()> {
    const REFUSED: u64 = 200;
    let bed = Testbed::builder().without_capture().build()?;
    let relay = RelayProcess::start(&bed.relay, backend, &[Rule::feed().outputs("out0", 1)])?;
    let connect = || -> Result<UnixStream> {
        let client = UnixStream::connect(relay.control())?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(client)
    };
    let served: Vec<UnixStream> = (0..64).map(|_| connect()).collect::<Result<_>>()?;
    for number in 0..REFUSED {
        let mut told = Vec::new();
        connect()?.read_to_end(&mut told)?;
        let told = String::from_utf8_lossy(&told);
        ensure!(told.contains("TooManyClients"), "{number}: {told}");
    }
    drop(served);
    let stopped = relay.stop()?;
    let counted = count(
        &stopped.log,
        "refused control clients",
        &["control socket: a client was refused"],
    );
    ensure!(counted.events == REFUSED, "{counted:?}: {}", stopped.log);
    ensure!(counted.lines <= 8, "{counted:?}: {}", stopped.log);
    Ok(())
}

relay_tests::on_both_backends! {
    a_feed_that_stutters_is_few_lines_that_add_up,
    a_wire_that_flaps_is_few_lines_that_add_up,
    clients_that_are_refused_are_few_lines_that_add_up,
}
