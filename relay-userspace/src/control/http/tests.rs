//! A server and its clients, with a main thread that answers or does not.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::HttpServers;
use crate::{
    config::rules::{Listen, Metrics},
    control::tests::snapshot,
    daemon::requests::{self, Handle},
    observe::snapshot::Snapshot,
};

/// A main thread that publishes snapshots when they are asked for.
struct Main {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Main {
    fn turning(rules: usize) -> (Handle, Self) {
        let (handle, mailbox) = requests::pair().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        mailbox.publish(snapshot(rules));
        let work = move || {
            while !stops.load(Relaxed) {
                let mut fds = [PollFd::new(mailbox.fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(10_u8)).unwrap();
                while mailbox.take().is_some() {}
                if mailbox.snapshot_is_wanted() {
                    mailbox.publish(snapshot(rules));
                }
            }
        };
        let thread = Some(thread::spawn(work));
        (handle, Self { stop, thread })
    }
}

impl Drop for Main {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// An address on loopback that nothing listens on.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn at(listen: SocketAddr) -> Metrics {
    Metrics {
        listen: Listen::Tcp(listen),
        outputs: true,
    }
}

/// The status line, the headers in small letters, and the body of an answer.
fn parts(answer: &str) -> (&str, String, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status, headers.to_lowercase(), body)
}

/// What comes back for a request, until the server closes.
fn ask(mut stream: impl std::io::Read + std::io::Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let stream = TcpStream::connect(address).unwrap();
    ask(
        stream,
        &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"),
    )
}

#[test]
fn every_path_has_its_answer_and_all_show_the_same_snapshot() {
    let (handle, _main) = Main::turning(2);
    let mut servers = HttpServers::new(handle);
    let address = free();
    let place = servers.follow(Some(&at(address))).unwrap();
    assert_eq!(place, Some(Listen::Tcp(address)));
    assert_eq!(
        servers.follow(Some(&at(address))).unwrap(),
        None,
        "it is served"
    );

    let answer = get(address, "/metrics", "");
    let (status, headers, body) = parts(&answer);
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(
        headers.contains("content-type: text/plain; version=0.0.4"),
        "{headers}"
    );
    assert!(headers.contains("cache-control: no-store"), "{headers}");
    let series = "relay_output_sent_packets_total{rule=\"feed-1\",output=\"239.2.2.2:5002, VLAN 200\",\
                  interface=\"out0\"} 7\n";
    assert!(body.contains(series), "{body}");
    assert!(
        body.contains("relay_rule_received_packets_total{rule=\"feed-0\"} 10\n"),
        "{body}"
    );
    assert!(!body.contains("# EOF"), "{body}");

    let answer = get(
        address,
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0\r\n",
    );
    let (_, headers, body) = parts(&answer);
    assert!(
        headers.contains("application/openmetrics-text; version=1.0.0"),
        "{headers}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");

    let answer = get(address, "/status.json", "");
    let (_, headers, body) = parts(&answer);
    assert!(
        headers.contains("content-type: application/json"),
        "{headers}"
    );
    let read: Snapshot = serde_json::from_str(body).unwrap();
    assert_eq!(read, snapshot(2));

    for (path, expected) in [
        ("/healthz", "HTTP/1.1 200 OK"),
        ("/readyz", "HTTP/1.1 200 OK"),
        ("/", "HTTP/1.1 404 Not Found"),
        ("/metrics/../../etc/passwd", "HTTP/1.1 404 Not Found"),
    ] {
        let answer = get(address, path, "");
        assert_eq!(parts(&answer).0, expected, "{path}");
    }
    let post = "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let answer = ask(TcpStream::connect(address).unwrap(), post);
    assert_eq!(parts(&answer).0, "HTTP/1.1 405 Method Not Allowed");

    servers.follow(None).unwrap();
    assert!(
        TcpStream::connect(address).is_err(),
        "nothing listens any more"
    );
}

#[test]
fn without_outputs_no_output_has_series_of_its_own() {
    let (handle, _main) = Main::turning(1);
    let mut servers = HttpServers::new(handle);
    let address = free();
    servers.follow(Some(&at(address))).unwrap();
    let metrics = Metrics {
        outputs: false,
        ..at(address)
    };
    let place = servers.follow(Some(&metrics)).unwrap();
    assert!(place.is_some(), "the same address is taken again");
    let answer = get(address, "/metrics", "");
    assert!(!answer.contains("output="), "{answer}");
    let sum = "relay_dropped_packets_total{reason=\"tx_full\",rule=\"feed-0\"} 3\n";
    assert!(answer.contains(sum), "{answer}");
}

#[test]
fn it_is_served_on_a_unix_socket_and_the_file_goes_with_it() {
    let (handle, _main) = Main::turning(0);
    let mut servers = HttpServers::new(handle);
    let path = std::env::temp_dir().join(format!("relay-metrics-{}", std::process::id()));
    let metrics = Metrics {
        listen: Listen::Unix(path.clone()),
        outputs: true,
    };
    servers.follow(Some(&metrics)).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    let answer = ask(stream, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(parts(&answer).0, "HTTP/1.1 200 OK");
    drop(servers);
    assert!(!path.exists());
}

#[test]
fn a_place_that_is_taken_is_named_and_what_was_served_is_served_still() {
    let (handle, _main) = Main::turning(0);
    let mut servers = HttpServers::new(handle);
    let address = free();
    servers.follow(Some(&at(address))).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = servers
        .follow(Some(&at(taken.local_addr().unwrap())))
        .unwrap_err();
    let expected = format!(
        "cannot serve metrics at {}: Address already in use",
        taken.local_addr().unwrap()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(get(address, "/healthz", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_relay_that_starts_and_one_whose_main_thread_stands_still_say_so() {
    let (handle, mailbox) = requests::pair().unwrap();
    let mut servers = HttpServers::new(handle);
    let address = free();
    servers.follow(Some(&at(address))).unwrap();
    for path in ["/healthz", "/readyz", "/metrics", "/status.json"] {
        let answer = get(address, path, "");
        let (status, _, body) = parts(&answer);
        assert_eq!(status, "HTTP/1.1 503 Service Unavailable", "{path}");
        assert_eq!(body, "the relay is still starting\n", "{path}");
    }
    mailbox.publish(snapshot(1));
    mailbox.changed();
    let answer = get(address, "/healthz", "");
    let (status, _, body) = parts(&answer);
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, "the relay's main thread has not answered for 5 s\n");
    let answer = get(address, "/metrics", "");
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "the last numbers are better than none: {answer}"
    );
}

#[test]
fn clients_that_send_nothing_half_a_request_or_garbage_keep_nobody_else_out() {
    let (handle, _main) = Main::turning(1);
    let mut servers = HttpServers::new(handle);
    let address = free();
    servers.follow(Some(&at(address))).unwrap();
    let hostile: Vec<TcpStream> = (0..120)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            let bytes: &[u8] = match number % 4 {
                0 => b"",
                1 => b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Slow: ",
                2 => &[0xff; 512],
                _ => b"GET ",
            };
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    assert!(get(address, "/metrics", "").starts_with("HTTP/1.1 200"));
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    // None of them is kept for longer than it may be.
    for mut stream in hostile {
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let (handle, _main) = Main::turning(0);
    let mut servers = HttpServers::new(handle);
    let address = free();
    servers.follow(Some(&at(address))).unwrap();
    let headers = format!("X-Large: {}\r\n", "x".repeat(1 << 20));
    let mut stream = TcpStream::connect(address).unwrap();
    // The server may close before all of it is written.
    let _ = stream.write_all(format!("GET /metrics HTTP/1.1\r\n{headers}\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert!(get(address, "/healthz", "").starts_with("HTTP/1.1 200"));
}
