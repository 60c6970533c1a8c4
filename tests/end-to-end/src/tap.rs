//! A tap device of the relay's host: an output whose far end is a file that the test reads when it
//! wants to.
//!
//! The device has a ring of as many frames as its `txqueuelen`, and drops a frame that finds it
//! full. So the test decides, to the frame, how much room there is.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::inspect;
use crate::netns::Namespace;
use crate::sys;

/// What cuts GSO packets into datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts {
    /// The device, which has a queueing discipline, as NICs have, and takes GSO packets whole
    /// (`tx-udp-segmentation`).
    Itself,
    /// The kernel, in front of the device, which has no queueing discipline.
    Kernel,
}

/// Bytes of the vnet header (`struct virtio_net_hdr`) in front of every frame.
const VNET_HEADER: usize = 10;

/// A tap device, removed on drop.
#[derive(Debug)]
pub struct Tap {
    namespace: Arc<Namespace>,
    file: File,
    /// The interface's name.
    pub interface: String,
}

impl Tap {
    /// Makes `interface` in `namespace`, up, with `address` in a /24 and room for `ring` frames or
    /// GSO packets.
    pub fn new(
        namespace: &Arc<Namespace>,
        interface: &str,
        address: Ipv4Addr,
        ring: u32,
        cuts: Cuts,
    ) -> Result<Self> {
        let offload = cuts == Cuts::Itself;
        let file = namespace.run(|| {
            sys::open_tap(interface, offload).with_context(|| format!("making tap {interface}"))
        })?;
        namespace.ip(&format!("link set {interface} txqueuelen {ring}"))?;
        namespace.ip(&format!("address add {address}/24 dev {interface}"))?;
        let discipline = match cuts {
            Cuts::Itself => "pfifo",
            Cuts::Kernel => "noqueue",
        };
        let replace = ["qdisc", "replace", "dev", interface, "root", discipline];
        namespace.tool("tc", &replace)?;
        namespace.ip(&format!("link set {interface} up"))?;
        // The device has a carrier for as long as the file is open, so there is no need to wait.
        Ok(Self {
            namespace: Arc::clone(namespace),
            file,
            interface: interface.to_owned(),
        })
    }

    /// The payloads of the datagrams in the next frame or GSO packet that is in the ring; `None` if
    /// it is empty. Frames that are no datagrams have none.
    pub fn read(&self) -> Result<Option<Vec<Vec<u8>>>> {
        let mut buffer = vec![0; 70_000];
        let len = match (&self.file).read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => bail!("reading from {}: {error}", self.interface),
        };
        let vnet_header = buffer.get(..VNET_HEADER).context("no vnet header")?;
        let gso_size = usize::from(u16::from_ne_bytes([vnet_header[4], vnet_header[5]]));
        let frame = buffer.get(VNET_HEADER..len).context("no frame")?;
        let Some(datagram) = inspect::datagram(frame, true) else {
            return Ok(Some(Vec::new()));
        };
        let payload = datagram.payload;
        Ok(Some(if gso_size == 0 {
            vec![payload]
        } else {
            payload.chunks(gso_size).map(<[u8]>::to_vec).collect()
        }))
    }

    /// Frames and GSO packets that the device had no room for.
    pub fn dropped(&self) -> Result<u64> {
        let name = &self.interface;
        let shown = self.namespace.ip(&format!("-stats link show dev {name}"))?;
        let mut lines = shown
            .lines()
            .skip_while(|line| !line.trim().starts_with("TX:"));
        let numbers = lines.nth(1).and_then(|line| line.split_whitespace().nth(3));
        numbers
            .and_then(|dropped| dropped.parse().ok())
            .with_context(|| format!("no count of frames dropped in: {shown}"))
    }

    /// The payloads of everything that is in the ring.
    pub fn read_all(&self) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some(payloads) = self.read()? {
            all.extend(payloads);
        }
        Ok(all)
    }
}
