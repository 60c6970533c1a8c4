//! Senders as applications have them: UDP sockets that send to a group at a steady rate.
//!
//! A sender never bursts more than a token bucket allows, because the tests check the relay's
//! correctness and not the depth of the queues in front of it.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::payload;
use crate::sys;
use crate::tally::Stream;
use crate::veth::Endpoint;

/// Datagrams that may be sent at once after a pause.
pub const MAX_BURST: u32 = 64;

/// If nothing has arrived for this long while datagrams are outstanding, something was lost.
const STALL: Duration = Duration::from_secs(1);

/// A token bucket: `rate` tokens per second, at most `burst` at once.
#[derive(Debug)]
pub struct Pacer {
    interval: Duration,
    burst: u32,
    /// When the next token is due.
    next: Instant,
}

impl Pacer {
    /// Paces to `rate` per second; `burst` is limited to [`MAX_BURST`].
    pub fn new(rate: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self {
            interval,
            burst: burst.clamp(1, MAX_BURST),
            next: Instant::now(),
        }
    }

    /// Waits for one token.
    pub fn wait(&mut self) {
        let now = Instant::now();
        if now < self.next {
            thread::sleep(self.next - now);
        } else {
            // Late: keep the tokens that fit into the bucket, forget the others.
            let oldest = now
                .checked_sub(self.interval * (self.burst - 1))
                .unwrap_or(self.next);
            self.next = self.next.max(oldest);
        }
        self.next += self.interval;
    }
}

/// How far senders may run ahead of the receivers, so that a machine that is busy with something
/// else makes a test slow instead of making the relay's rings overflow.
///
/// Shared by all senders of a test. When the receivers make no progress for a second (something was
/// lost, and the test will say what), it opens for good.
pub struct Window<'a> {
    size: u64,
    /// Datagrams that have arrived everywhere.
    progress: Box<dyn Fn() -> u64 + Sync + 'a>,
    sent: AtomicU64,
    arrived: AtomicU64,
    open: AtomicBool,
}

impl<'a> Window<'a> {
    /// At most `size` datagrams sent and not yet counted by `progress`.
    pub fn new(size: u64, progress: impl Fn() -> u64 + Sync + 'a) -> Self {
        Self {
            size,
            progress: Box::new(progress),
            sent: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            open: AtomicBool::new(false),
        }
    }

    /// No limit.
    pub fn unlimited() -> Self {
        Self::new(u64::MAX, || 0)
    }

    /// Waits until `count` more datagrams may be sent, and counts them as sent.
    pub fn take(&self, count: u64) {
        let sent = self.sent.fetch_add(count, Ordering::Relaxed) + count;
        let fits = |arrived: u64| sent.saturating_sub(arrived) <= self.size;
        let mut last_progress = Instant::now();
        while !fits(self.arrived.load(Ordering::Relaxed)) && !self.open.load(Ordering::Relaxed) {
            let arrived = (self.progress)();
            if self.arrived.fetch_max(arrived, Ordering::Relaxed) < arrived {
                last_progress = Instant::now();
            } else if last_progress.elapsed() > STALL {
                self.open.store(true, Ordering::Relaxed);
            } else {
                thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

/// One stream and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// The destination group.
    pub group: Ipv4Addr,
    /// The destination port.
    pub port: u16,
    /// What is sent.
    pub stream: Stream,
}

impl Traffic {
    /// Sends `stream` to `group`:`port`.
    pub fn new(group: Ipv4Addr, port: u16, stream: Stream) -> Self {
        Self {
            group,
            port,
            stream,
        }
    }
}

/// A UDP socket that sends multicast through one interface.
#[derive(Debug)]
pub struct UdpSender {
    socket: UdpSocket,
}

impl UdpSender {
    /// Opens a socket whose multicast leaves through `endpoint`, TTL 8, without loopback.
    pub fn open(endpoint: &Endpoint) -> Result<Self> {
        Self::open_from_port(endpoint, 0)
    }

    /// The same with a fixed source port.
    pub fn open_from_port(endpoint: &Endpoint, port: u16) -> Result<Self> {
        endpoint.namespace.run(|| {
            let socket = UdpSocket::bind((endpoint.address, port))
                .with_context(|| format!("binding a UDP socket to {}:{port}", endpoint.address))?;
            let index = i32::try_from(endpoint.index).map_err(|_| anyhow!("interface index"))?;
            let request = libc::ip_mreqn {
                imr_multiaddr: libc::in_addr { s_addr: 0 },
                imr_address: libc::in_addr { s_addr: 0 },
                imr_ifindex: index,
            };
            sys::set_option(
                socket.as_fd(),
                libc::IPPROTO_IP,
                libc::IP_MULTICAST_IF,
                &request,
            )
            .with_context(|| format!("sending multicast by {}", endpoint.interface))?;
            socket.set_multicast_ttl_v4(8)?;
            socket.set_multicast_loop_v4(false)?;
            // An error instead of a test that never ends, where a wire takes no frames.
            socket.set_write_timeout(Some(Duration::from_secs(5)))?;
            nix::sys::socket::setsockopt(
                &socket,
                nix::sys::socket::sockopt::SndBuf,
                &(4usize << 20),
            )?;
            Ok(Self { socket })
        })
    }

    /// Datagrams leave with UDP checksum 0 from now on.
    pub fn without_checksum(&self) -> Result<()> {
        let one: libc::c_int = 1;
        sys::set_option(
            self.socket.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            &one,
        )
        .context("setting SO_NO_CHECK")
    }

    /// The address that the datagrams come from.
    pub fn address(&self) -> Result<std::net::SocketAddr> {
        self.socket
            .local_addr()
            .context("asking for the local address")
    }

    /// Sends one datagram.
    pub fn send_one(&self, group: Ipv4Addr, port: u16, payload: &[u8]) -> Result<()> {
        let sent = self
            .socket
            .send_to(payload, SocketAddrV4::new(group, port))
            .with_context(|| format!("sending {} bytes to {group}:{port}", payload.len()))?;
        anyhow::ensure!(
            sent == payload.len(),
            "sent {sent} of {} bytes",
            payload.len()
        );
        Ok(())
    }

    /// Sends one stream at `rate` datagrams per second.
    pub fn send(&self, traffic: &Traffic, rate: u32) -> Result<()> {
        self.send_interleaved(
            std::slice::from_ref(traffic),
            rate,
            MAX_BURST,
            &Window::unlimited(),
        )
    }

    /// Sends all streams, one datagram of each in turn, at `rate` datagrams per second in all and
    /// at most `burst` at once, within `window`.
    pub fn send_interleaved(
        &self,
        traffic: &[Traffic],
        rate: u32,
        burst: u32,
        window: &Window<'_>,
    ) -> Result<()> {
        let mut pacer = Pacer::new(rate, burst);
        let most = traffic.iter().map(|t| t.stream.count).max().unwrap_or(0);
        let mut buffer = Vec::new();
        for n in 0..most {
            for Traffic {
                group,
                port,
                stream,
            } in traffic
            {
                if n >= stream.count {
                    continue;
                }
                buffer.resize(stream.size, 0);
                payload::fill(stream.flow, stream.first + n, &mut buffer);
                pacer.wait();
                window.take(1);
                self.send_one(*group, *port, &buffer)?;
            }
        }
        Ok(())
    }

    /// Sends a stream with UDP segmentation offload: `joined` datagrams in one system call, which
    /// the kernel or the device cuts. `rate` and `window` count datagrams.
    pub fn send_segmented(
        &self,
        traffic: &Traffic,
        joined: u32,
        rate: u32,
        window: &Window<'_>,
    ) -> Result<()> {
        let Traffic {
            group,
            port,
            stream,
        } = traffic;
        self.cut_into(stream.size)?;
        let joined = u64::from(joined.max(1));
        let mut pacer = Pacer::new((u64::from(rate) / joined) as u32, 1);
        let mut next = stream.first;
        let end = stream.first + stream.count;
        while next < end {
            let upto = end.min(next + joined);
            let bytes: Vec<u8> = (next..upto)
                .flat_map(|n| payload::payload(stream.flow, n, stream.size))
                .collect();
            pacer.wait();
            window.take(upto - next);
            self.send_one(*group, *port, &bytes)?;
            next = upto;
        }
        self.cut_into(0)
    }

    /// From now on the kernel or the device cuts what is sent into datagrams of `size` bytes; 0
    /// ends that.
    pub fn cut_into(&self, size: usize) -> Result<()> {
        let size = libc::c_int::try_from(size).map_err(|_| anyhow!("payload size"))?;
        sys::set_option(self.socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &size)
            .context("setting UDP_SEGMENT")
    }
}
