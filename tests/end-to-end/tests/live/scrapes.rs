//! Scrapes while datagrams are relayed: of very many rules, and beside hostile clients. Whatever
//! scrapes, every datagram arrives.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, connect, send, shutdown,
    socket,
};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::netns::Namespace;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::scrape::{MetricsSocket, PATIENCE, Series, get, get_from};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

use super::prometheus::promtool;
use super::under_traffic;

/// What a scrape of so many rules may take. On a machine that is busy with other tests the best of
/// several counts.
const SCRAPE: Duration = Duration::from_millis(200);

/// Ten thousand rules, each with a silence and one output; the first of them has the traffic.
fn ten_thousand_rules_are_scraped_in_time_and_no_datagram_is_lost(backend: Backend) -> Result<()> {
    const RULES: u16 = 10_000;
    let bed = Testbed::builder().without_capture().build()?;
    let rules: Vec<Rule> = (0..RULES)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let group = |first: u8| Ipv4Addr::new(first, 77, high, low);
            Rule::new(format!("rule-{number}"), "in0", group(239), 9000).output(
                "out0",
                group(238),
                9001,
            )
        })
        .collect();
    let socket = MetricsSocket::new();
    let text = to_toml(&rules).replace("\ninput = ", "\nsilence = \"1h\"\ninput = ");
    let file = RuleFile::new(&(text.clone() + &socket.table("")))?;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    let receivers = Receivers::start(&bed, &rules[..1])?;
    let (sent, (whole, best)) = under_traffic(&bed.sources[0], &rules[0], 0, 2_000, || {
        let mut best = Duration::MAX;
        let mut whole = String::new();
        for round in 0..20 {
            // The next one is of a new snapshot.
            thread::sleep(Duration::from_millis(1_100));
            let began = Instant::now();
            whole = socket.get("/metrics")?;
            best = best.min(began.elapsed());
            if round >= 2 && best < SCRAPE {
                break;
            }
        }
        Ok((whole, best))
    })?;
    println!("{backend:?}: {} bytes in {best:?}", whole.len());
    ensure!(best < SCRAPE, "{best:?} for {} bytes", whole.len());
    receivers.wait_for(&[sent]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&Stream::new(0, sent, 500));
    }
    let series = Series::read(&whole)?;
    for family in [
        "relay_rule_received_packets_total",
        "relay_output_sent_packets_total",
    ] {
        let count = series.of(family).count();
        ensure!(count == usize::from(RULES), "{count} of {family}");
    }
    promtool(&["check", "metrics"], &whole)?;

    let table = socket.table("outputs = false");
    let answer = relay.reload(&(text + &table))?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let smaller = socket.get("/metrics")?;
    ensure!(
        smaller.len() < whole.len() * 3 / 4,
        "{} bytes without outputs, {} with them",
        smaller.len(),
        whole.len()
    );
    let series = Series::read(&smaller)?;
    let rules = series.of("relay_rule_received_packets_total").count();
    ensure!(rules == usize::from(RULES), "{rules} rules");
    let outputs = series.of("relay_output_sent_packets_total").count();
    ensure!(outputs == 0, "{outputs} outputs");
    promtool(&["check", "metrics"], &smaller)?;
    relay.stop()?;
    Ok(())
}

const ADDRESS: &str = "127.0.0.1:9474";
/// The most that hostile clients may cost the relay, in KiB: 64 connections of 16 KiB of a request
/// each, with what the allocator keeps of that and of one answer, are well below it.
const MOST_KIB: u64 = 8 << 10;

/// Held by the test that has ten thousand connections.
static CROWD: Mutex<()> = Mutex::new(());

/// Its memory once the worker has used each of its buffers, which the kernel gives it then.
fn settled_kib(relay: &RelayProcess) -> Result<u64> {
    let mut before = 0;
    for _ in 0..30 {
        thread::sleep(Duration::from_secs(1));
        let now = relay.resident_kib()?;
        if now < before + 64 {
            return Ok(now);
        }
        before = now;
    }
    anyhow::bail!("{before} KiB, and more each second")
}

/// A client with what it has sent so far.
fn client(namespace: &Namespace, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = namespace.run(|| Ok(TcpStream::connect(ADDRESS)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    Ok(stream)
}

/// Waits until the relay has closed the connection. Returns what it answered.
fn rest(mut stream: TcpStream) -> Result<Vec<u8>> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(rest),
    }
}

/// Begins to connect, without waiting for it. Not all at once: what crosses loopback shares the
/// backlog of a CPU (`netdev_max_backlog`) with what crosses the wires of the testbed, which drop
/// frames where it is full.
fn begin(namespace: &Namespace, count: usize) -> Result<Vec<OwnedFd>> {
    let address: SocketAddr = ADDRESS.parse()?;
    let SocketAddr::V4(address) = address else {
        anyhow::bail!("{address} is of IPv6");
    };
    namespace.run(|| {
        let mut clients = Vec::new();
        for number in 0..count {
            if number % 50 == 0 {
                thread::sleep(Duration::from_millis(10));
            }
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let one = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
            match connect(one.as_raw_fd(), &SockaddrIn::from(address)) {
                Ok(()) | Err(Errno::EINPROGRESS) => clients.push(one),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(clients)
    })
}

/// Garbage and headers without end, each answered or closed; sixty-three that send one byte at a
/// time, beside which a scrape has its place; and ten thousand connections at once.
fn hostile_scrapers_cost_no_datagram_little_memory_and_nothing_afterwards(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    bed.relay.ip("link set lo up")?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let table = format!("\n[metrics]\nlisten = \"{ADDRESS}\"\n");
    let relay = RelayProcess::start_with(&bed.relay, backend, &rules, &table)?;
    let scrape = || get_from(&bed.relay, ADDRESS, "/metrics");
    let open = || -> Result<usize> { Ok(relay.held()?.files.values().sum()) };
    let files = open()?;
    let (sent, ()) = under_traffic(&bed.sources[0], &rules[0], 0, 2_000, || {
        scrape()?;
        let before = settled_kib(&relay)?;
        let most = |what: &str| -> Result<()> {
            let now = relay.resident_kib()?;
            println!("{backend:?}: {what}: {now} KiB, {before} before");
            ensure!(
                now < before + MOST_KIB,
                "{what}: {now} KiB, {before} before"
            );
            Ok(())
        };
        for bytes in [
            &[0xff; 4096][..],
            b"\r\n\r\n\r\n\r\n",
            b"GET\0/ metrics\r\n\r\n",
        ] {
            let answer = rest(client(&bed.relay, bytes)?)?;
            ensure!(!answer.starts_with(b"HTTP/1.1 200"), "{bytes:?}");
        }
        most("garbage")?;
        // The relay may close before all of it is written.
        for _ in 0..8 {
            let mut large = client(&bed.relay, b"GET /metrics HTTP/1.1\r\nX-Large: ")?;
            large.set_write_timeout(Some(PATIENCE))?;
            let _ = large.write_all(&vec![b'x'; 10 << 20]);
            most("ten megabytes of a header")?;
            let answer = rest(large)?;
            ensure!(!answer.starts_with(b"HTTP/1.1 200"));
        }

        // One byte at a time is as good as none: the time is for the whole request.
        let half = b"GET /metrics HTTP/1.1\r\nX-Slow: ";
        let mut slow: Vec<TcpStream> = (0..63)
            .map(|_| client(&bed.relay, half))
            .collect::<Result<_>>()?;
        let began = Instant::now();
        scrape()?;
        let took = began.elapsed();
        ensure!(
            took < Duration::from_secs(1),
            "{took:?} beside slow clients"
        );
        let closed = eventually(PATIENCE, || {
            slow.retain_mut(|one| one.write_all(b"x").is_ok());
            slow.is_empty()
        });
        let closed = closed.context("slow clients are served for ever")?;
        ensure!(closed < Duration::from_secs(6), "{closed:?}");
        most("slow clients")?;

        // The other half is for other tests, which may run beside this one.
        let _alone = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let count = 10_000.min(limit / 2) as usize;
        let crowd = begin(&bed.relay, count)?;
        let mut said = 0;
        for _ in 0..5 {
            for one in &crowd {
                let bytes = send(one.as_raw_fd(), half, MsgFlags::MSG_NOSIGNAL);
                said += u32::from(bytes.is_ok());
            }
            // It is answered, or waits with the others; but the relay goes on.
            let waits = bed.relay.run(|| {
                let address: SocketAddr = ADDRESS.parse()?;
                let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
                stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                get(stream, "/metrics", "")
            });
            println!(
                "{backend:?}: in a crowd of {count}: {:?}",
                waits.map(|text| text.len())
            );
            most("a crowd")?;
        }
        ensure!(said > 100, "{said} of {count} could say anything");
        let status = relay.verb(&["status"])?;
        ensure!(status.code == Some(0), "{status:?}");
        for some in crowd.chunks(50) {
            thread::sleep(Duration::from_millis(5));
            some.iter().for_each(|one| {
                let _ = shutdown(one.as_raw_fd(), Shutdown::Both);
            });
        }
        drop(crowd);
        let again = eventually(PATIENCE, || scrape().is_ok());
        ensure!(again.is_some(), "{}", relay.log());
        let began = Instant::now();
        scrape()?;
        ensure!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        most("afterwards")
    })?;
    receivers.wait_for(&[sent]);
    for (_, tally) in receivers.tallies() {
        tally.assert_exact(&Stream::new(0, sent, 500));
    }
    let closed = eventually(PATIENCE, || open().is_ok_and(|open| open <= files));
    ensure!(
        closed.is_some(),
        "{files} files before: {:?}",
        relay.held()?
    );
    let log = relay.stop()?.log;
    let lines = log.lines().filter(|line| line.contains("clients")).count();
    ensure!(lines < 20, "{lines}: {log}");
    Ok(())
}

relay_tests::on_both_backends! {
    ten_thousand_rules_are_scraped_in_time_and_no_datagram_is_lost,
    hostile_scrapers_cost_no_datagram_little_memory_and_nothing_afterwards,
}
