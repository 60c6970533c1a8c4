//! What the benchmark's own reference programs share: they read their work, open their sockets, say that
//! they are ready, and account for themselves when they are told to end.
//!
//! Sockets are as good as an application can have them: large buffers, one socket a feed bound to its
//! group, one connected socket an output, so that the kernel looks up each route once.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd,
};

use anyhow::{Context, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, Signal},
        socket::{SockaddrIn, setsockopt, sockopt},
    },
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::job::{Flow, Output, Work};

/// Bytes that the kernel may keep for one socket: about 3,500 datagrams of 1000 bytes.
pub const BUFFER: usize = 8 << 20;

/// The line on standard error that says that everything is open.
pub const READY: &str = "ready";

/// Datagrams taken from one feed before the next one has its turn.
pub const BATCH: usize = 64;

/// The work in the file that the command line names.
pub fn read_work() -> Result<Work> {
    let Some(path) = env::args_os().nth(1) else {
        bail!("the command line names no file with the work, as JSON");
    };
    work_of(path.as_ref())
}

/// The work in `path`.
pub fn work_of(path: &std::path::Path) -> Result<Work> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understanding {}", path.display()))
}

/// The primary IPv4 address of `interface`, in the calling thread's namespace.
pub fn address_of(interface: &str) -> Result<Ipv4Addr> {
    getifaddrs()
        .context("listing the interfaces")?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_sockaddr_in().map(SockaddrIn::ip))
        .with_context(|| format!("{interface} has no IPv4 address; give it one"))
}

/// Allows as many files as the system does: one a feed, one an output.
pub fn allow_many_sockets() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of files")
}

/// The sockets that the feeds come in by, in the order of the flows.
#[derive(Debug)]
pub struct Feeds {
    sockets: Vec<Socket>,
    /// None for a single feed: its socket blocks, which saves a system call a datagram.
    epoll: Option<Epoll>,
    events: Vec<EpollEvent>,
}

impl Feeds {
    /// Joins every flow's group on the input and listens to it.
    pub fn open(input: &str, flows: &[Flow]) -> Result<Self> {
        let sockets = flows
            .iter()
            .map(|flow| {
                open_feed(input, flow)
                    .with_context(|| format!("receiving {}:{} on {input}", flow.group, flow.port))
            })
            .collect::<Result<Vec<_>>>()?;
        let epoll = if let [_] = sockets[..] {
            None
        } else {
            let epoll = Epoll::new(EpollCreateFlags::empty()).context("creating an epoll")?;
            for (number, socket) in sockets.iter().enumerate() {
                socket.set_nonblocking(true)?;
                let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
                epoll.add(socket, event).context("adding to an epoll")?;
            }
            Some(epoll)
        };
        Ok(Self {
            sockets,
            epoll,
            events: vec![EpollEvent::empty(); BATCH],
        })
    }

    /// Waits for feeds that have something, and calls `serve` with the number and the socket of each. A single feed is
    /// served at once: its socket blocks.
    pub fn serve(&mut self, mut serve: impl FnMut(usize, &Socket) -> Result<()>) -> Result<()> {
        let Some(epoll) = &self.epoll else {
            return self.sockets.iter().try_for_each(|socket| serve(0, socket));
        };
        let count = epoll
            .wait(&mut self.events, EpollTimeout::NONE)
            .context("waiting for datagrams")?;
        for event in self.events.iter().take(count) {
            let number = event.data() as usize;
            if let Some(socket) = self.sockets.get(number) {
                serve(number, socket)?;
            }
        }
        Ok(())
    }

    /// How many datagrams may be asked of one feed in a row: one where asking for another would block.
    pub fn turn(&self) -> usize {
        if self.epoll.is_some() { BATCH } else { 1 }
    }
}

fn open_feed(input: &str, flow: &Flow) -> Result<Socket> {
    let index = nix::net::if_::if_nametoindex(input).context("looking up the interface")?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &BUFFER).context("enlarging the buffer")?;
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddrV4::new(flow.group, flow.port).into())?;
    socket
        .join_multicast_v4_n(&flow.group, &InterfaceIndexOrAddress::Index(index))
        .context("joining the group")?;
    Ok(socket)
}

/// The sockets that copies leave by. Those of a flow are opened with its first datagram, because a rule without
/// traffic should cost nothing, and a process may not have enough files for ten thousand of them.
#[derive(Debug)]
pub struct Outputs(Vec<OutputsOfFlow>);

#[derive(Debug)]
struct OutputsOfFlow {
    wanted: Vec<Output>,
    open: Vec<Socket>,
}

impl Outputs {
    /// Of all flows, none open yet.
    pub fn new(flows: &[Flow]) -> Self {
        let of_flow = |flow: &Flow| OutputsOfFlow {
            wanted: flow.outputs.clone(),
            open: Vec::new(),
        };
        Self(flows.iter().map(of_flow).collect())
    }

    /// The sockets of one flow, in the order of its outputs.
    ///
    /// # Errors
    ///
    /// When they cannot be opened.
    pub fn of(&mut self, flow: usize) -> Result<&[Socket]> {
        let outputs = self.0.get_mut(flow).context("there is no such flow")?;
        if outputs.open.is_empty() {
            outputs.open = outputs
                .wanted
                .iter()
                .map(open_output)
                .collect::<Result<_>>()?;
        }
        Ok(&outputs.open)
    }
}

/// A socket that sends to one output.
fn open_output(output: &Output) -> Result<Socket> {
    let opened = || -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        setsockopt(&socket.as_fd(), sockopt::SndBufForce, &BUFFER)
            .context("enlarging the buffer")?;
        socket.set_multicast_if_v4(&address_of(&output.interface)?)?;
        socket.set_multicast_ttl_v4(64)?;
        socket.set_multicast_loop_v4(false)?;
        socket.connect(&SocketAddrV4::new(output.group, output.port).into())?;
        Ok(socket)
    };
    opened().with_context(|| {
        format!(
            "sending to {}:{} by {}",
            output.group, output.port, output.interface
        )
    })
}

/// Keeps SIGTERM for [`until_terminated`]. Before any thread starts.
pub fn hold_termination() -> Result<()> {
    SigSet::from(Signal::SIGTERM)
        .thread_block()
        .context("blocking SIGTERM")
}

/// Says that the program is ready, waits for SIGTERM, and prints what was lost and where.
pub fn until_terminated(drops: impl FnOnce() -> BTreeMap<&'static str, u64>) -> Result<()> {
    eprintln!("{READY}");
    SigSet::from(Signal::SIGTERM)
        .wait()
        .context("waiting for SIGTERM")?;
    serde_json::to_writer(io::stdout(), &drops()).context("printing the report")
}
