//! What the benchmark's own reference programs share: they read their work, open their sockets,
//! print that they are ready, and on SIGTERM print what they lost.
//!
//! Sockets are set up as well as an application can: large buffers, one socket per feed, bound to
//! its group, and one connected socket per output, so that the kernel looks up each route once.

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

/// Datagrams received from one feed before the next feed is served.
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

/// Raises the limit of open files as far as the system allows: one per feed, one per output.
pub fn allow_many_sockets() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of files")
}

/// The sockets that receive the feeds, in the order of the flows.
#[derive(Debug)]
pub struct Feeds {
    sockets: Vec<Socket>,
    /// None for a single feed: its socket blocks, which saves one system call per datagram.
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

    /// Waits for feeds with datagrams, and calls `serve` with the number and the socket of each. A
    /// single feed is served at once: its socket blocks.
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

    /// How many datagrams may be received from one feed in a row: one where receiving another would
    /// block.
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

/// The sockets that send the copies. Those of a flow are opened with its first datagram, because a
/// rule without traffic should cost nothing, and a process may not be allowed ten thousand open
/// files.
#[derive(Debug)]
pub struct Outputs(Vec<OutputsOfFlow>);

#[derive(Debug)]
struct OutputsOfFlow {
    wanted: Vec<Output>,
    open: Vec<Socket>,
}

impl Outputs {
    /// The sockets of all flows, none open yet.
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

/// Blocks SIGTERM, for [`until_terminated`]. Call it before any thread starts.
pub fn hold_termination() -> Result<()> {
    SigSet::from(Signal::SIGTERM)
        .thread_block()
        .context("blocking SIGTERM")
}

/// Prints that the program is ready, waits for SIGTERM, and prints what was lost and where.
pub fn until_terminated(drops: impl FnOnce() -> BTreeMap<&'static str, u64>) -> Result<()> {
    eprintln!("{READY}");
    SigSet::from(Signal::SIGTERM)
        .wait()
        .context("waiting for SIGTERM")?;
    serde_json::to_writer(io::stdout(), &drops()).context("printing the report")
}
