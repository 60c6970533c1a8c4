//! The server with real sockets and a real mailbox, and clients that misbehave.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    ControlError, DEFAULT_MODE, IDLE, MOST_BYTES, MOST_CLIENTS, MOST_GUESTS, MOST_LARGE, SMALL,
    client::{Client, ClientError, RefusedBy},
    fault::Fault,
    interface,
    message::{self, Call},
    methods,
    server::{Server, SocketOptions},
};
use crate::{
    config::{
        MAX_FILE_BYTES,
        rules::{OutputVlan, PortMatch, Vlan},
    },
    daemon::{
        requests::{
            self, Answer, Change, Handle, Mailbox, Refusal, Request, TapOutputs, TapRequest,
        },
        taps::summary::TapInterface,
    },
    observe::snapshot::{
        Changes, FeedStatus, Health, InterfaceStatus, LastChange, LatencyBucket, LatencyStatus,
        LoopKind, LoopStatus, MoldUdp64Status, MpegTsStatus, NextHopStatus, Numbers, Origin,
        OutputStatus, PidStatus, ProcessStatus, Quantiles, Rates, RtpStatus, RuleStatus,
        SeenSource, SilenceStatus, Snapshot, SourceStatus, State, Totals,
    },
};

/// What tests wait for at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// A relay as far as its clients see it.
struct Relay {
    server: Option<Server>,
    mailbox: Mailbox,
    handle: Handle,
    folder: PathBuf,
}

impl Relay {
    fn new() -> Self {
        Self::with(None, IDLE)
    }

    fn with(group: Option<&str>, idle: Duration) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = format!("relay-control-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let (handle, mailbox) = requests::pair().unwrap();
        // Nobody makes other snapshots than those that the test publishes.
        mailbox.changing();
        mailbox.publish(snapshot(1));
        let options = SocketOptions {
            path: folder.join("test.sock"),
            group: group.map(Into::into),
            mode: None,
        };
        let server = Server::with_idle(handle.clone(), &options, idle).unwrap();
        Self {
            server: Some(server),
            mailbox,
            handle,
            folder,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("test.sock")
    }

    fn options(&self) -> SocketOptions {
        SocketOptions {
            path: self.path(),
            group: None,
            mode: Some(0o600),
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    fn raw(&self) -> Raw {
        Raw::connect(&self.path())
    }

    /// The next request, as the main thread gets it.
    fn next(&self) -> (Request, requests::Reply) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(next) = self.mailbox.take() {
                return next;
            }
            assert!(Instant::now() < end, "no request came");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What `call` returns while the main thread answers with `answer`.
    fn answered<T: Send>(
        &self,
        answer: Result<Answer, Refusal>,
        call: impl FnOnce(Client) -> T + Send,
    ) -> (T, Request) {
        thread::scope(|scope| {
            let asking = scope.spawn(|| call(self.client()));
            let (request, reply) = self.next();
            reply(answer);
            (asking.join().unwrap(), request)
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A client that sends what it likes.
struct Raw {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Raw {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let received = Vec::new();
        Self { stream, received }
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.send(method, parameters);
        self.reply().unwrap()
    }

    fn send(&mut self, method: &str, parameters: Value) {
        let call = json!({ "method": method, "parameters": parameters });
        self.stream.write_all(&message::message(&call)).unwrap();
    }

    /// The next reply; `None` once the server has closed.
    fn reply(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.received.iter().position(|byte| *byte == message::END) {
                let message: Vec<u8> = self.received.drain(..=at).collect();
                return Some(serde_json::from_slice(&message[..at]).unwrap());
            }
            let mut chunk = [0; 1 << 16];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

const INFO: &str = "org.varlink.service.GetInfo";

fn error(reply: Option<Value>) -> Fault {
    serde_json::from_value(reply.unwrap()).unwrap()
}

/// A feed that has all that any kind of feed has.
fn feed() -> FeedStatus {
    let counted: Numbers = [("lost".into(), 2)].into();
    let source = SourceStatus {
        address: [10, 1, 1, 2].into(),
        port: 40_000,
        first_seconds_ago: 9.5,
        last_seconds_ago: 0.5,
        missing: 1,
        counted: counted.clone(),
        rtp: Some(RtpStatus {
            ssrc: "deadbeef".into(),
            payload_type: 33,
            clock_rate: Some(90_000),
            jitter_seconds: Some(0.25),
        }),
        mpeg_ts: Some(MpegTsStatus {
            in_sync: true,
            pmt_pids: vec![32],
            pids: vec![PidStatus {
                pid: 256,
                packets: 7,
                continuity_errors: 1,
                pcr_interval_seconds: None,
                longest_pcr_interval_seconds: Some(0.5),
            }],
        }),
        moldudp64: Some(MoldUdp64Status {
            session: "S".into(),
            next: Some(7),
        }),
    };
    FeedStatus {
        monitor: "rtp".into(),
        missing: 1,
        counted,
        sources: vec![source],
    }
}

/// A snapshot with so many rules.
pub fn snapshot(rules: usize) -> Snapshot {
    let dropped: Numbers = [("tx_full".into(), 3)].into();
    let output = OutputStatus {
        interface: "out0".into(),
        group: [239, 2, 2, 2].into(),
        port: PortMatch::One(5002),
        vlan: OutputVlan::Tag(200),
        headers: "headers".into(),
        state: State::Pending,
        reason: "out0 is down; bring it up".into(),
        next_hop: Some(NextHopStatus {
            interface: "out0".into(),
            address: [10, 2, 0, 9].into(),
            mac: None,
        }),
        packets_sent: 7,
        rate: 1.5,
        bit_rate: 0.0,
        dropped: dropped.clone(),
    };
    let rule = |number| RuleStatus {
        name: format!("feed-{number}"),
        state: State::Active,
        reason: String::new(),
        origin: Origin::Runtime,
        interface: "in0".into(),
        group: [239, 1, 1, 1].into(),
        port: PortMatch::One(5001),
        packets_matched: 10,
        bytes_matched: 0,
        over_limit: 0,
        local_failed: 0,
        rate: 2.0,
        bit_rate: 0.0,
        last_frame_seconds_ago: Some(0.0),
        last_frame_at: Some(1000.0),
        sources: vec![SeenSource {
            address: [10, 1, 1, 2].into(),
            port: 40_000,
            first_seconds_ago: 9.5,
            last_seconds_ago: 0.5,
        }],
        silence: Some(SilenceStatus {
            after_seconds: 0.5,
            silent: false,
            seconds: 0.1,
            times: 1,
        }),
        feed: Some(feed()),
        outputs: vec![output.clone()],
    };
    Snapshot {
        version: "0.1.0".into(),
        pid: std::process::id(),
        taken_at: 100,
        uptime_seconds: 60.0,
        state: Health::Degraded,
        problems: vec!["out0 is down".into()],
        problem_count: 1,
        changes: Changes::default(),
        process: ProcessStatus::default(),
        last_change: Some(LastChange {
            when: 90,
            what: "reload".into(),
            result: "applied".into(),
            pause_milliseconds: 0,
        }),
        loops: Vec::new(),
        interfaces: vec![InterfaceStatus {
            name: "in0".into(),
            index: Some(2),
            state: State::Active,
            reason: String::new(),
            driver: Some("veth".into()),
            backend: Some("xdp".into()),
            mode: Some("zero-copy".into()),
            engine: None,
            device_dropped: 0,
            missed: 0,
            filter: dropped.clone(),
            latency: Some(latency()),
        }],
        rules: (0..rules).map(rule).collect(),
        totals: Totals {
            packets_received: 10,
            packets_matched: 10,
            packets_sent: 7,
            dropped,
            dropped_before_rules: [].into(),
        },
        rates: Rates::default(),
    }
}

fn latency() -> LatencyStatus {
    let quantiles = Quantiles {
        p50_seconds: 0.000_01,
        p90_seconds: 0.000_02,
        p99_seconds: 0.000_03,
        p999_seconds: 0.000_04,
        p9999_seconds: 0.000_05,
        max_seconds: 0.000_06,
    };
    LatencyStatus {
        source: "xdp program".into(),
        samples: 3,
        missed: 1,
        sum_seconds: 0.000_09,
        all: Some(quantiles),
        recent: Some(quantiles),
        buckets: vec![LatencyBucket {
            up_to_seconds: 0.000_02,
            samples: 1,
        }],
    }
}

/// Runs `work` on a thread with other credentials: the system calls change those of the calling
/// thread alone, and the C library's wrappers those of all.
fn as_user<T: Send>(id: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let become_user = || {
        // SAFETY: the pointer is to a slice of as many numbers.
        let changed = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                libc::syscall(libc::SYS_setresgid, id, id, id),
                libc::syscall(libc::SYS_setresuid, id, id, id),
            ]
        };
        assert_eq!(changed, [0; 3], "run the tests as root");
    };
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user();
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_call_may_come_in_pieces_and_several_at_once() {
    let relay = Relay::new();
    let mut client = relay.raw();
    let call = message::message(&json!({ "method": INFO }));
    for byte in &call {
        client.stream.write_all(&[*byte]).unwrap();
    }
    let reply = client.reply().unwrap();
    assert_eq!(reply["parameters"]["product"], "relay");
    let interfaces = json!([interface::SERVICE, interface::CONTROL]);
    assert_eq!(reply["parameters"]["interfaces"], interfaces);

    let last = json!({ "method": "org.varlink.service.Last" });
    let several = [&call[..], &call, &message::message(&last)].concat();
    client.stream.write_all(&several).unwrap();
    assert_eq!(client.reply().unwrap(), reply);
    assert_eq!(client.reply().unwrap(), reply);
    let method = "org.varlink.service.Last".to_owned();
    assert_eq!(error(client.reply()), Fault::MethodNotFound { method });
    // Still in use.
    assert_eq!(client.call(INFO, json!({})), reply);
}

#[test]
fn wrong_parameters_are_named_and_nothing_is_asked() {
    let relay = Relay::new();
    let mut client = relay.raw();
    for (method, parameters, part) in [
        (
            "Reload",
            json!({ "dryrun": true }),
            "unknown field `dryrun`",
        ),
        (
            "Reload",
            json!({ "confirm_within_seconds": 0 }),
            "at least 1",
        ),
        ("Remove", json!({}), "missing field `name`"),
        ("Remove", json!({ "name": 7 }), "invalid type: integer"),
        (
            "Explain",
            json!({ "interface": "a", "group": "x", "port": 1 }),
            "invalid IP address",
        ),
        ("Status", json!({ "all": true }), "unknown field `all`"),
    ] {
        client.send(&format!("{}.{method}", interface::CONTROL), parameters);
        let fault = error(client.reply());
        let Fault::InvalidParameter { parameter } = &fault else {
            panic!("{fault:?}");
        };
        assert!(parameter.contains(part), "{parameter}");
    }
    client.send("io.other.Interface.Method", json!({}));
    let interface = "io.other.Interface".to_owned();
    assert_eq!(
        error(client.reply()),
        Fault::InterfaceNotFound { interface }
    );
    assert!(relay.mailbox.take().is_none());
}

#[test]
fn garbage_is_answered_and_the_connection_closed() {
    let relay = Relay::new();
    let deep = format!("{{\"method\":\"a.B\",\"parameters\":{}", "[".repeat(50_000));
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n\0"[..],
        b"\0",
        b"[]\0",
        b"{\"method\":1}\0",
        b"\xff\xfe\0",
        &[deep.as_bytes(), b"\0"].concat(),
    ] {
        let mut client = relay.raw();
        client.stream.write_all(garbage).unwrap();
        assert!(matches!(error(client.reply()), Fault::NotACall { .. }));
        assert_eq!(client.reply(), None);
    }
    relay.client().status().unwrap();
}

#[test]
fn every_request_and_every_answer_arrives_as_it_was_sent() {
    let relay = Relay::new();
    let file = || Some(("a.toml".to_owned(), "# \u{1b} \"ä\"\n\0".to_owned()));
    let name = || "feed \"a\"".to_owned();
    let change = Change {
        lines: vec!["+ feed".into()],
        pauses: vec!["feed".into()],
        applied: true,
        pending: Vec::new(),
        confirm_within_seconds: Some(5),
    };
    let changed = Answer::Changed(change);
    let explain = |source, vlan, text| Request::Explain {
        interface: "in0".into(),
        group: [239, 1, 1, 1].into(),
        port: 5001,
        source,
        vlan,
        text,
    };
    let reload = |text, dry_run, confirm_within, discard_runtime| Request::Reload {
        text,
        dry_run,
        confirm_within,
        discard_runtime,
    };
    let within = Some(Duration::from_secs(30));
    let (label, text) = file().unwrap();
    for (request, answer) in [
        (reload(file(), false, within, true), changed.clone()),
        (reload(None, true, None, false), changed.clone()),
        (Request::Confirm, Answer::Confirmed),
        (Request::Undo, changed.clone()),
        (Request::Add { label, text }, changed.clone()),
        (Request::Remove { name: name() }, changed.clone()),
        (Request::Enable { name: name() }, changed.clone()),
        (Request::Disable { name: name() }, changed),
        (Request::Save, Answer::Rules("[[rules]]\n".into())),
        (
            explain(Some([10, 1, 1, 7].into()), Vlan::Tag(7), None),
            Answer::Explained("feed\n".into()),
        ),
        (
            explain(None, Vlan::Double(7, 8), None),
            Answer::Explained("feed\n".into()),
        ),
        (
            explain(None, Vlan::Untagged, file()),
            Answer::Explained(String::new()),
        ),
        (Request::Stop, Answer::Stopping),
    ] {
        let sent = request.clone();
        let (got, arrived) = relay.answered(Ok(answer.clone()), |mut c| c.ask(sent).unwrap());
        assert_eq!((arrived, got), (request, answer));
    }
    for refusal in [
        Refusal::Mistakes("a.toml:1:1: wrong\n".into()),
        Refusal::WouldDiscard(vec!["feed: added".into()]),
        Refusal::NoSuchRule("feed".into()),
        Refusal::Busy,
        Refusal::Unconfirmed,
        Refusal::NothingToConfirm,
        Refusal::NothingToUndo,
        Refusal::Refused {
            reason: "no memory".into(),
            restored: true,
        },
        Refusal::Ending,
    ] {
        let (got, _) = relay.answered(Err(refusal.clone()), |mut c| c.ask(Request::Undo));
        match got.unwrap_err() {
            ClientError::Refused(by) => assert_eq!(by, RefusedBy(refusal)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_large_file_arrives_and_one_above_the_bound_is_refused() {
    let relay = Relay::new();
    // Every byte of it takes two in JSON.
    let text = "\"\n\\\t".repeat(MAX_FILE_BYTES as usize / 4);
    let add = |text: &str| Request::Add {
        label: "big.toml".into(),
        text: text.into(),
    };
    let (answer, request) = relay.answered(Err(Refusal::Busy), |mut client| client.ask(add(&text)));
    assert!(request == add(&text), "another text arrived");
    assert!(answer.is_err());

    let refused = relay.client().ask(add(&"x".repeat(MOST_BYTES)));
    assert!(matches!(refused, Err(ClientError::TooLarge { .. })));
    let mut client = relay.raw();
    // The server closes before all of it is written.
    let _ = client.stream.write_all(&vec![b' '; MOST_BYTES + SMALL + 1]);
    let limit = MOST_BYTES as u64;
    assert_eq!(error(client.reply()), Fault::TooLarge { limit });
    assert_eq!(client.reply(), None);
}

#[test]
fn few_large_messages_are_in_memory_and_the_next_waits_for_an_answer() {
    let relay = Relay::new();
    let add = || Request::Add {
        label: "big.toml".into(),
        text: "x".repeat(1 << 20),
    };
    thread::scope(|scope| {
        let ask = || relay.client().ask(add());
        let asking: Vec<_> = (0..=MOST_LARGE).map(|_| scope.spawn(ask)).collect();
        let mut taken: Vec<_> = (0..MOST_LARGE).map(|_| relay.next().1).collect();
        thread::sleep(Duration::from_millis(200));
        assert!(relay.mailbox.take().is_none(), "one more was read");
        relay.client().status().unwrap();
        taken.pop().unwrap()(Err(Refusal::NothingToUndo));
        taken.push(relay.next().1);
        for reply in taken {
            reply(Err(Refusal::NothingToUndo));
        }
        for thread in asking {
            thread.join().unwrap().unwrap_err();
        }
    });
}

#[test]
fn clients_beyond_the_bound_are_told_so_and_room_is_made_by_those_that_leave() {
    let relay = Relay::new();
    let mut served: Vec<_> = (0..MOST_CLIENTS).map(|_| relay.raw()).collect();
    for client in &mut served {
        client.call(INFO, json!({}));
    }
    for _ in MOST_CLIENTS..200 {
        let mut client = relay.raw();
        let limit = MOST_CLIENTS as u64;
        assert_eq!(error(client.reply()), Fault::TooManyClients { limit });
        assert_eq!(client.reply(), None);
    }
    let refused = relay.client().status().unwrap_err();
    assert!(
        matches!(refused, ClientError::Fault(Fault::TooManyClients { .. })),
        "{refused}"
    );
    served.truncate(10);
    // Their closing and this connection may be seen in one round.
    let end = Instant::now() + PATIENCE;
    while relay.client().status().is_err() {
        assert!(Instant::now() < end);
    }
    for client in &mut served {
        client.call(INFO, json!({}));
    }
}

#[test]
fn a_client_that_does_not_go_on_is_closed_and_delays_no_other() {
    let relay = Relay::with(None, Duration::from_millis(500));
    relay.mailbox.publish(snapshot(20_000));
    let idle = relay.raw();
    let mut half = relay.raw();
    half.stream.write_all(b"{\"method\":\"org").unwrap();
    let mut deaf = relay.raw();
    deaf.send(&format!("{}.Status", interface::CONTROL), json!({}));
    let mut watching = relay.raw();
    let watch = json!({ "method": format!("{}.Status", interface::CONTROL), "more": true });
    watching
        .stream
        .write_all(&message::message(&watch))
        .unwrap();
    let mut waiting = relay.raw();
    waiting.send(&format!("{}.Undo", interface::CONTROL), json!({}));
    let (_, reply) = relay.next();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        let asked = Instant::now();
        relay.raw().call(INFO, json!({}));
        assert!(
            asked.elapsed() < Duration::from_millis(200),
            "{:?}",
            asked.elapsed()
        );
        thread::sleep(Duration::from_millis(20));
    }
    for mut closed in [idle, half] {
        assert_eq!(closed.reply(), None);
    }
    for mut deaf in [deaf, watching] {
        let mut got = Vec::new();
        let _ = deaf.stream.read_to_end(&mut got);
        assert!(!got.contains(&message::END), "it got all of it");
    }
    // It waits for the relay, and not the relay for it.
    reply(Err(Refusal::NothingToUndo));
    assert_eq!(error(waiting.reply()), Fault::NothingToUndo);
}

#[test]
fn one_that_watches_gets_the_latest_status_once_per_second() {
    let relay = Relay::with(None, Duration::from_millis(300));
    let started = Instant::now();
    let mut watch = relay.client().watch().unwrap();
    for uptime in [60.0, 61.0, 62.0] {
        let mut latest = snapshot(3);
        latest.uptime_seconds = uptime;
        if uptime > 60.0 {
            relay.mailbox.publish(latest.clone());
        }
        assert_eq!(watch.next().unwrap().unwrap().uptime_seconds, uptime);
    }
    let took = started.elapsed();
    assert!((1900..3000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn rules_are_all_or_one_and_a_relay_that_starts_says_so() {
    let relay = Relay::new();
    relay.mailbox.publish(snapshot(3));
    assert_eq!(relay.client().status().unwrap(), snapshot(3));
    let mut client = relay.client();
    assert_eq!(client.rules(None).unwrap(), snapshot(3).rules);
    assert_eq!(
        client.rules(Some("feed-1")).unwrap(),
        snapshot(3).rules[1..2]
    );
    let missing = client.rules(Some("feed-9")).unwrap_err();
    let refused = RefusedBy(Refusal::NoSuchRule("feed-9".into()));
    assert!(matches!(missing, ClientError::Refused(by) if by == refused));

    let (handle, _mailbox) = requests::pair().unwrap();
    let options = SocketOptions {
        path: relay.folder.join("starting.sock"),
        ..relay.options()
    };
    let _server = Server::start(handle, options.clone()).unwrap();
    let starting = Client::connect(&options.path).unwrap().status();
    assert!(matches!(starting, Err(ClientError::Fault(Fault::NotReady))));
}

#[test]
fn a_oneway_call_is_carried_out_and_not_answered() {
    let relay = Relay::new();
    let mut client = relay.raw();
    let stop = json!({ "method": format!("{}.Stop", interface::CONTROL), "oneway": true });
    client.stream.write_all(&message::message(&stop)).unwrap();
    let info = json!({ "method": INFO });
    client.stream.write_all(&message::message(&info)).unwrap();
    let (request, reply) = relay.next();
    assert_eq!(request, Request::Stop);
    reply(Ok(Answer::Stopping));
    assert_eq!(client.reply().unwrap()["parameters"]["product"], "relay");
}

#[test]
fn other_users_may_read_and_not_change() {
    let relay = Relay::new();
    let path = relay.path();
    as_user(65_534, &[], || {
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.status().unwrap(), snapshot(1));
        assert_eq!(client.rules(None).unwrap(), snapshot(1).rules);
        for request in [
            Request::Stop,
            Request::Save,
            Request::Confirm,
            Request::Remove {
                name: "feed-0".into(),
            },
        ] {
            let refused = client.ask(request).unwrap_err();
            let text = refused.to_string();
            assert!(
                matches!(refused, ClientError::NotPermitted { .. }),
                "{text}"
            );
            assert!(text.contains("uid 65534 may only read"), "{text}");
            assert!(text.contains("user root, members of group root"), "{text}");
        }
        let mut raw = Raw::connect(&path);
        let _ = raw.stream.write_all(&vec![b' '; 3 * SMALL]);
        let limit = SMALL as u64;
        assert_eq!(error(raw.reply()), Fault::TooLarge { limit });
    });
    assert!(relay.mailbox.take().is_none());
}

#[test]
fn members_of_the_sockets_group_may_change() {
    let relay = Relay::with(Some("4242"), IDLE);
    let (path, handle) = (relay.path(), relay.handle.clone());
    let ask = |id: u32, groups: &[u32]| {
        as_user(id, groups, || {
            Client::connect(&path).unwrap().ask(Request::Undo)
        })
    };
    for (id, groups) in [(4242, &[][..]), (65_534, &[1, 4242])] {
        thread::scope(|scope| {
            let asking = scope.spawn(move || ask(id, groups));
            let (_, reply) = relay.next();
            reply(Err(Refusal::NothingToUndo));
            assert!(matches!(
                asking.join().unwrap(),
                Err(ClientError::Refused(_))
            ));
        });
    }
    // More groups than fit into the first look.
    let many: Vec<u32> = (5000..5100).collect();
    assert!(matches!(
        ask(65_534, &many),
        Err(ClientError::NotPermitted { .. })
    ));
    assert!(handle.last_snapshot().is_some());
}

#[test]
fn guests_leave_room_for_owners() {
    let relay = Relay::new();
    let path = relay.path();
    let explain = json!({ "interface": "in0", "group": "239.1.1.1", "port": 5001 });
    let method = format!("{}.Explain", interface::CONTROL);
    let mut guests = as_user(65_534, &[], || {
        let mut guests: Vec<_> = (0..MOST_GUESTS).map(|_| Raw::connect(&path)).collect();
        for guest in &mut guests {
            guest.call(INFO, json!({}));
        }
        let limit = MOST_GUESTS as u64;
        let more = Raw::connect(&path).reply();
        assert_eq!(error(more), Fault::TooManyClients { limit });
        guests
    });
    let mut replies = Vec::new();
    for guest in &mut guests[..2] {
        guest.send(&method, explain.clone());
        replies.push(relay.next().1);
    }
    guests[2].send(&method, explain);
    assert_eq!(error(guests[2].reply()), Fault::Busy);
    let (answer, _) = relay.answered(Ok(Answer::Confirmed), |mut c| c.ask(Request::Confirm));
    assert_eq!(answer.unwrap(), Answer::Confirmed);
    for (reply, guest) in replies.into_iter().zip(&mut guests) {
        reply(Ok(Answer::Explained("feed-0".into())));
        assert_eq!(guest.reply().unwrap()["parameters"]["text"], "feed-0");
    }
}

#[test]
fn the_socket_of_a_dead_relay_is_replaced_and_that_of_a_live_one_is_not() {
    let mut relay = Relay::new();
    let path = relay.path();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&relay.folder)), (DEFAULT_MODE, 0o755));
    let start = |options| Server::start(relay.handle.clone(), options);
    let live = start(relay.options()).unwrap_err();
    let text = live.to_string();
    let process = format!("process {} (", std::process::id());
    assert!(text.starts_with(&process), "{text}");
    assert!(matches!(live, ControlError::InUse { .. }));
    relay.client().status().unwrap();

    relay.server = None;
    assert!(!path.exists());
    let gone = Client::connect(&path).unwrap_err();
    assert!(matches!(gone, ClientError::NotRunning { .. }));
    // A process that was killed leaves its socket.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Server::start(relay.handle.clone(), relay.options()).unwrap();
    assert_eq!(mode(server.path()), 0o600);
    relay.client().status().unwrap();
    // Another one has taken the name: its file stays.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "other").unwrap();
    drop(server);
    assert_eq!(fs::read_to_string(&path).unwrap(), "other");
    let other = Server::start(relay.handle.clone(), relay.options()).unwrap_err();
    assert!(matches!(other, ControlError::NotASocket { .. }));
    let options = SocketOptions {
        group: Some("no-such-group".into()),
        ..relay.options()
    };
    let group = Server::start(relay.handle.clone(), options).unwrap_err();
    assert!(matches!(group, ControlError::NoSuchGroup { .. }));
}

/// Those that find a dead relay's file at the same time would remove each other's.
#[test]
fn of_many_that_start_at_once_under_one_name_one_serves() {
    let folder = std::env::temp_dir().join(format!("relay-at-once-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let options = SocketOptions {
        path: folder.join("relay.sock"),
        group: None,
        mode: None,
    };
    for _ in 0..50 {
        let dead = std::os::unix::net::UnixListener::bind(&options.path).unwrap();
        drop(dead);
        let at_once = std::sync::Barrier::new(6);
        let made: Vec<_> = thread::scope(|scope| {
            let make = || {
                at_once.wait();
                super::listener::Listener::new(&options, None)
            };
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(make)).collect();
            let made = threads.into_iter().map(|thread| thread.join().unwrap());
            made.collect()
        });
        let served = made.iter().filter(|one| one.is_ok()).count();
        assert_eq!(served, 1, "{made:?}");
        UnixStream::connect(&options.path).unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_end_hands_out_the_answers_and_tells_those_that_wait() {
    let mut relay = Relay::new();
    let call = |method| (format!("{}.{method}", interface::CONTROL), json!({}));
    let (mut stopping, mut waiting) = (relay.raw(), relay.raw());
    let (method, parameters) = call("Undo");
    waiting.send(&method, parameters);
    let (_, unanswered) = relay.next();
    let (method, parameters) = call("Stop");
    stopping.send(&method, parameters);
    let (_, reply) = relay.next();
    reply(Ok(Answer::Stopping));
    let started = Instant::now();
    relay.server = None;
    assert!(started.elapsed() < Duration::from_millis(500));
    assert_eq!(stopping.reply().unwrap(), json!({ "parameters": {} }));
    assert_eq!(error(waiting.reply()), Fault::Ending);
    unanswered(Ok(Answer::Confirmed));
}

#[test]
fn the_thread_has_no_capabilities() {
    let relay = Relay::new();
    relay.client().status().unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        let mut seen = Vec::new();
        for task in fs::read_dir("/proc/self/task").unwrap() {
            // Threads of other tests come and go.
            let status = fs::read_to_string(task.unwrap().path().join("status"));
            seen.extend(status.ok().filter(|s| s.contains("Name:\trelay-control\n")));
        }
        assert!(!seen.is_empty());
        if seen
            .iter()
            .all(|s| s.contains("CapEff:\t0000000000000000\n"))
        {
            return;
        }
        assert!(Instant::now() < end, "{seen:?}");
    }
}

/// The description of the relay's interface, without comments.
fn description() -> String {
    let reply: Value = {
        let bytes = interface::description(interface::CONTROL).unwrap();
        serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap()
    };
    let text = reply["parameters"]["description"]
        .as_str()
        .unwrap()
        .to_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

/// The names of what `keyword` defines, each with its first list of fields.
fn defined<'a>(description: &'a str, keyword: &str) -> Vec<(&'a str, BTreeSet<String>)> {
    let starts = description.split('\n').collect::<Vec<_>>().join(" ");
    assert!(starts.contains(keyword));
    let mut found = Vec::new();
    for part in description.split(&format!("\n{keyword} ")).skip(1) {
        let (name, rest) = part.split_once('(').unwrap();
        let (fields, _) = rest.split_once(')').unwrap();
        let names = fields
            .split(',')
            .filter_map(|field| field.trim().split(':').next());
        let names = names.filter(|name| !name.is_empty()).map(str::to_owned);
        found.push((name.trim(), names.collect()));
    }
    found
}

#[test]
fn the_description_is_what_is_served() {
    let description = description();
    let looping = LoopStatus {
        rule: "feed-0".into(),
        kind: LoopKind::Expired,
        interface: "in0".into(),
        group: [239, 1, 1, 1].into(),
        port: PortMatch::One(5001),
        source: [10, 0, 0, 1].into(),
        source_mac: String::new(),
        last_seconds_ago: 0.0,
    };
    let snapshot = Snapshot {
        loops: vec![looping],
        ..snapshot(1)
    };
    let snapshot = serde_json::to_value(snapshot).unwrap();
    let change = serde_json::to_value(Change::default()).unwrap();
    let interface = serde_json::to_value(TapInterface::default()).unwrap();
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let types = defined(&description, "type");
    let source = &snapshot["rules"][0]["feed"]["sources"][0];
    let latency = &snapshot["interfaces"][0]["latency"];
    let compared = [
        ("Snapshot", &snapshot),
        ("LoopStatus", &snapshot["loops"][0]),
        ("LastChange", &snapshot["last_change"]),
        ("InterfaceStatus", &snapshot["interfaces"][0]),
        ("LatencyStatus", latency),
        ("Quantiles", &latency["all"]),
        ("LatencyBucket", &latency["buckets"][0]),
        ("RuleStatus", &snapshot["rules"][0]),
        ("OutputStatus", &snapshot["rules"][0]["outputs"][0]),
        (
            "NextHopStatus",
            &snapshot["rules"][0]["outputs"][0]["next_hop"],
        ),
        ("SeenSource", &snapshot["rules"][0]["sources"][0]),
        ("SilenceStatus", &snapshot["rules"][0]["silence"]),
        ("FeedStatus", &snapshot["rules"][0]["feed"]),
        ("SourceStatus", source),
        ("RtpStatus", &source["rtp"]),
        ("MpegTsStatus", &source["mpeg_ts"]),
        ("PidStatus", &source["mpeg_ts"]["pids"][0]),
        ("MoldUdp64Status", &source["moldudp64"]),
        ("Changes", &snapshot["changes"]),
        ("ProcessStatus", &snapshot["process"]),
        ("Totals", &snapshot["totals"]),
        ("Rates", &snapshot["rates"]),
        ("Change", &change),
        ("TapInterface", &interface),
    ];
    // The other types are words, and what a method takes.
    let others = ["Health", "State", "Origin", "LoopKind", "RuleFile"];
    let known: BTreeSet<&str> = compared.iter().map(|one| one.0).chain(others).collect();
    let all: BTreeSet<&str> = types.iter().map(|(name, _)| *name).collect();
    assert_eq!(all, known);
    for (name, value) in compared {
        let (_, fields) = types.iter().find(|(other, _)| *other == name).unwrap();
        assert_eq!(*fields, keys(value), "{name}");
    }
    let methods = defined(&description, "method");
    assert_eq!(methods.len(), 13);
    for (method, fields) in methods {
        let call = Call {
            method: format!("{}.{method}", interface::CONTROL).into(),
            parameters: None,
            more: None,
            oneway: None,
            upgrade: None,
        };
        let asked = methods::asked(&call);
        assert!(
            !matches!(asked, Err(Fault::MethodNotFound { .. })),
            "{method}"
        );
        // Unknown fields are refused with a list of the known ones.
        let wrong = serde_json::value::to_raw_value(&json!({ "-": 0 })).unwrap();
        let parameters = Some(&*wrong);
        let refused = methods::asked(&Call { parameters, ..call });
        let Err(Fault::InvalidParameter { parameter }) = refused else {
            panic!("{method}: {refused:?}");
        };
        for field in fields {
            let named = parameter.contains(&format!("`{field}`"));
            assert!(named, "{method}: {parameter}");
        }
    }
    let errors = defined(&description, "error");
    assert_eq!(errors.len(), 15);
    for (name, fields) in errors {
        let values = json!({
            "text": "", "changes": [], "name": "", "reason": "", "restored": true, "message": "",
            "limit": 1
        });
        let mut parameters = values.as_object().unwrap().clone();
        parameters.retain(|key, _| fields.contains(key));
        assert_eq!(parameters.len(), fields.len(), "{name}");
        let mut reply = json!({ "error": format!("{}.{name}", interface::CONTROL) });
        if !fields.is_empty() {
            reply["parameters"] = Value::Object(parameters);
        }
        let fault: Fault = serde_json::from_value(reply.clone()).unwrap();
        assert_eq!(serde_json::to_value(&fault).unwrap(), reply);
        let is_a_text = ["NotPermitted", "Mistakes", "CannotTap"].contains(&name);
        assert!(!fault.to_string().is_empty() || is_a_text);
    }
}

#[test]
fn a_tap_is_asked_for_as_the_client_asks_for_it_and_not_otherwise() {
    let all = [
        TapRequest::Rule {
            name: "feed".into(),
            outputs: TapOutputs::One(3),
            ring: 1 << 20,
        },
        TapRequest::Rule {
            name: "feed".into(),
            outputs: TapOutputs::All,
            ring: 4 << 20,
        },
        TapRequest::Passed {
            interface: "in0".into(),
        },
    ];
    let asked = |parameters: Option<&serde_json::value::RawValue>, upgrade| {
        methods::asked(&Call {
            method: format!("{}.Tap", interface::CONTROL).into(),
            parameters,
            more: None,
            oneway: None,
            upgrade,
        })
    };
    for request in all {
        let request = Request::Tap(request);
        let (method, parameters) = methods::call(request.clone()).unwrap();
        assert_eq!(method, "Tap");
        let parameters = parameters.as_deref();
        let read = asked(parameters, Some(true));
        assert_eq!(read.unwrap(), methods::Asked::Request(request));
        assert!(asked(parameters, None).is_err(), "without `upgrade`");
    }
    for wrong in [
        json!({}),
        json!({"rule": "feed", "passed": "in0"}),
        json!({"rule": "feed", "all": true, "output": 1}),
        json!({"passed": "in0", "output": 1}),
    ] {
        let parameters = serde_json::value::to_raw_value(&wrong).unwrap();
        let refused = asked(Some(&parameters), Some(true));
        let is_refused = matches!(refused, Err(Fault::InvalidParameter { .. }));
        assert!(is_refused, "{wrong}: {refused:?}");
    }
}

#[test]
fn the_page_has_the_description() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control-protocol.md");
    let page = fs::read_to_string(page).unwrap();
    let served = include_str!("io.github.relay.Control.varlink");
    let (_, block) = page.split_once("```varlink\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    assert!(
        block == served,
        "copy relay-userspace/src/control/io.github.relay.Control.varlink"
    );
}

#[test]
fn the_vlan_of_an_output_is_written_as_a_rule_file_has_it() {
    let mut output = snapshot(1).rules.remove(0).outputs.remove(0);
    for (vlan, expected) in [
        (OutputVlan::Untagged, None),
        (OutputVlan::Keep, Some(json!("keep"))),
        (OutputVlan::Tag(200), Some(json!(200))),
        (OutputVlan::Double(100, 200), Some(json!([100, 200]))),
    ] {
        output.vlan = vlan;
        let value = serde_json::to_value(&output).unwrap();
        assert_eq!(value.get("vlan"), expected.as_ref());
        let read: OutputStatus = serde_json::from_value(value).unwrap();
        assert_eq!(read, output);
    }
}
