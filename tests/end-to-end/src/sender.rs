//! Senders as applications have them: UDP sockets that send to a group at a steady rate.
//!
//! A sender never bursts more than a token bucket allows, because the tests check the relay's
//! correctness and not the depth of the queues in front of it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::encapsulation::Tag;
use crate::payload;
use crate::sys;
use crate::tagged::TaggedSender;
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
    pub group: IpAddr,
    /// The destination port.
    pub port: u16,
    /// What is sent.
    pub stream: Stream,
}

impl Traffic {
    /// Sends `stream` to `group`:`port`.
    pub fn new(group: impl Into<IpAddr>, port: u16, stream: Stream) -> Self {
        Self {
            group: group.into(),
            port,
            stream,
        }
    }
}

/// A sender of multicast through one interface, over IPv4, and over IPv6 where the interface has
/// it.
#[derive(Debug)]
pub struct UdpSender {
    by: By,
}

#[derive(Debug)]
enum By {
    /// UDP sockets, as applications have them.
    Sockets {
        ipv4: UdpSocket,
        ipv6: Option<UdpSocket>,
    },
    /// Frames with VLAN tags.
    Frames(TaggedSender),
}

/// The port that tagged frames come from where any would do.
const ANY: u16 = 40_000;

/// The hop limit of what is sent.
const TTL: u8 = 8;

impl UdpSender {
    /// Opens sockets whose multicast leaves through `endpoint`, TTL 8, without loopback.
    pub fn open(endpoint: &Endpoint) -> Result<Self> {
        Self::open_from_port(endpoint, 0)
    }

    /// The same with a fixed source port.
    pub fn open_from_port(endpoint: &Endpoint, port: u16) -> Result<Self> {
        endpoint.namespace.run(|| {
            let bound = |address: IpAddr| -> Result<UdpSocket> {
                let socket = UdpSocket::bind((address, port))
                    .with_context(|| format!("binding a UDP socket to {address}:{port}"))?;
                // An error instead of a test that never ends, where a wire takes no frames.
                socket.set_write_timeout(Some(Duration::from_secs(5)))?;
                setsockopt(&socket, sockopt::SndBuf, &(4usize << 20))?;
                Ok(socket)
            };
            let ipv4 = bound(endpoint.address.into())?;
            let index = i32::try_from(endpoint.index).map_err(|_| anyhow!("interface index"))?;
            let request = libc::ip_mreqn {
                imr_multiaddr: libc::in_addr { s_addr: 0 },
                imr_address: libc::in_addr { s_addr: 0 },
                imr_ifindex: index,
            };
            let fd = ipv4.as_fd();
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
                .with_context(|| format!("sending multicast by {}", endpoint.interface))?;
            ipv4.set_multicast_ttl_v4(TTL.into())?;
            ipv4.set_multicast_loop_v4(false)?;
            let ipv6 = match endpoint.ipv6 {
                None => None,
                Some(address) => {
                    let socket = bound(address.into())?;
                    let fd = socket.as_fd();
                    sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &index)
                        .with_context(|| format!("sending IPv6 multicast by {index}"))?;
                    setsockopt(&socket, sockopt::Ipv6MulticastHops, &i32::from(TTL))?;
                    socket.set_multicast_loop_v6(false)?;
                    Some(socket)
                }
            };
            Ok(Self {
                by: By::Sockets { ipv4, ipv6 },
            })
        })
    }

    /// A sender whose frames have these VLAN tags; sockets as above if there are none.
    pub fn open_tagged(endpoint: &Endpoint, tags: &[Tag], port: u16) -> Result<Self> {
        if tags.is_empty() {
            return Self::open_from_port(endpoint, port);
        }
        Ok(Self {
            by: By::Frames(TaggedSender::open(
                endpoint,
                tags,
                if port == 0 { ANY } else { port },
            )?),
        })
    }

    fn ipv4(&self) -> Result<&UdpSocket> {
        match &self.by {
            By::Sockets { ipv4, .. } => Ok(ipv4),
            By::Frames(_) => bail!("a sender of tagged frames has no socket"),
        }
    }

    /// Datagrams over IPv4 leave with UDP checksum 0 from now on.
    pub fn without_checksum(&self) -> Result<()> {
        let (one, fd): (libc::c_int, _) = (1, self.ipv4()?.as_fd());
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, &one)
            .context("setting SO_NO_CHECK")
    }

    /// The address that datagrams over IPv4 come from.
    pub fn address(&self) -> Result<SocketAddr> {
        self.ipv4()?
            .local_addr()
            .context("asking for the local address")
    }

    /// Sends one datagram.
    pub fn send_one(&self, group: impl Into<IpAddr>, port: u16, payload: &[u8]) -> Result<()> {
        let (group, len) = (group.into(), payload.len());
        let socket = match (&self.by, group) {
            (By::Frames(frames), _) => return frames.send_one(group, port, payload),
            (By::Sockets { ipv4, .. }, IpAddr::V4(_)) => ipv4,
            (By::Sockets { ipv6, .. }, IpAddr::V6(_)) => {
                ipv6.as_ref().context("the sender's host has no IPv6")?
            }
        };
        let sent = socket
            .send_to(payload, SocketAddr::new(group, port))
            .with_context(|| format!("sending {len} bytes to {group}:{port}"))?;
        ensure!(sent == len, "sent {sent} of {len} bytes");
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
        Self::send_in_turns(std::slice::from_ref(self), traffic, rate, burst, window)
    }

    /// The same by several senders, which take turns within each stream.
    pub fn send_in_turns(
        senders: &[Self],
        traffic: &[Traffic],
        rate: u32,
        burst: u32,
        window: &Window<'_>,
    ) -> Result<()> {
        let mut turns = senders.iter().cycle();
        let mut pacer = Pacer::new(rate, burst);
        let most = traffic.iter().map(|t| t.stream.count).max().unwrap_or(0);
        let mut buffer = Vec::new();
        for n in 0..most {
            let sender = turns.next().context("no sender")?;
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
                sender.send_one(*group, *port, &buffer)?;
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
        let (ipv4, ipv6) = match &self.by {
            By::Sockets { ipv4, ipv6 } => (ipv4, ipv6),
            By::Frames(frames) => {
                frames.cut_into(size);
                return Ok(());
            }
        };
        let size = libc::c_int::try_from(size).map_err(|_| anyhow!("payload size"))?;
        for socket in [Some(ipv4), ipv6.as_ref()].into_iter().flatten() {
            sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &size)
                .context("setting UDP_SEGMENT")?;
        }
        Ok(())
    }
}
