//! The testbed of the virtual machine: real drivers, NICs that QEMU emulates, and wires inside of
//! QEMU.
//!
//! Wire N joins the NICs in the PCI slots 2N + 2 (left) and 2N + 3 (right), as
//! `xtask/src/vm/machine.rs` lays them out. A test moves a NIC into the namespace of a host, and
//! the kernel moves it back when that namespace is gone. So the next test may have to wait for it,
//! and finds it by its slot, not its name.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::net::if_::if_nametoindex;

use crate::background::eventually;
use crate::netns::Namespace;
use crate::relay::{RelayProcess, RuleFile};
use crate::rules::Rule;
use crate::scenario::Receivers;
use crate::sender::{Traffic, UdpSender, Window};
use crate::tally::Stream;
use crate::topology::Testbed;
use crate::veth::{Endpoint, finish, format_mac, wait_for_carrier};

/// How long the kernel may take to move a NIC back into the initial namespace.
const RETURN: Duration = Duration::from_secs(10);

/// Frames per second that a test sends through all outputs together: the CPUs that run the test
/// emulate the NICs too.
const OUTPUT_RATE: u32 = 6_000;

/// Frames that may be on their way to the receivers at once: less than the emulated NICs' rings
/// hold.
const OUTPUT_WINDOW: u32 = 192;

/// A kind of NIC at the relay. At the far end of its wire is a NIC of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// Its driver does zero copy.
    Igb,
    /// virtio-net that does zero copy, because it goes through the DMA API.
    Virtio,
    /// Its driver has no native XDP.
    E1000e,
    /// virtio-net that does not go through the DMA API: native XDP, and no zero copy.
    PlainVirtio,
}

impl Nic {
    /// Whether its driver does zero copy in the running kernel: igb since Linux 6.14, virtio-net
    /// since
    /// 6.13.
    pub fn does_zero_copy(self) -> Result<bool> {
        let since = match self {
            Self::Igb => (6, 14),
            Self::Virtio => (6, 13),
            Self::E1000e | Self::PlainVirtio => return Ok(false),
        };
        Ok(kernel()? >= since)
    }

    /// The wires that have a NIC of this kind, and its end there: 0 is left, 1 is right.
    fn wires(self) -> (std::ops::RangeInclusive<u8>, u8) {
        match self {
            Self::Igb => (1..=4, 0),
            Self::Virtio => (1..=4, 1),
            Self::E1000e => (5..=5, 0),
            Self::PlainVirtio => (5..=5, 1),
        }
    }
}

/// Major and minor version of the running kernel.
fn kernel() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("the kernel is {release}"),
    }
}

/// Sources, relay and receivers: the relay has one NIC for each of its inputs and outputs, `in0`,
/// ..., `out0`, `out1`, ..., and addresses are those of every [`Testbed`].
pub fn testbed(inputs: &[Nic], outputs: &[Nic]) -> Result<Testbed> {
    let relay = Arc::new(Namespace::new("relay")?);
    let mut taken = Vec::new();
    let mut wire = |nic: Nic, near: &str, far: &str, subnet: u8, number: u8| -> Result<_> {
        let (mut wires, end) = nic.wires();
        let wire = wires.find(|wire| !taken.contains(wire));
        let wire = wire.with_context(|| format!("no wire is left for {nic:?}"))?;
        taken.push(wire);
        let host = Arc::new(Namespace::new(&format!("{far}{number}"))?);
        let address = |last| Ipv4Addr::new(10, subnet, number, last);
        let near = take(
            slot(wire, end),
            &relay,
            &format!("{near}{number}"),
            address(1),
        )?;
        let far = take(
            slot(wire, 1 - end),
            &host,
            &format!("{far}{number}"),
            address(2),
        )?;
        Ok((near, far))
    };
    let (mut sources, mut ends) = (Vec::new(), Vec::new());
    for (number, &nic) in (0..).zip(inputs) {
        sources.push(wire(nic, "in", "src", 1, number)?);
    }
    for (number, &nic) in (0..).zip(outputs) {
        ends.push(wire(nic, "out", "rcv", 2, number)?);
    }
    // All NICs are up, and get their carriers at the same time.
    let ready = |wires: Vec<(Taken, Taken)>| -> Result<Vec<(Endpoint, Endpoint)>> {
        wires
            .into_iter()
            .map(|(near, far)| Ok((near.finish()?, far.finish()?)))
            .collect()
    };
    let (sources, ends) = (ready(sources)?, ready(ends)?);
    Ok(Testbed::of_wires(relay, sources, ends))
}

/// The PCI slot of an end of a wire.
fn slot(wire: u8, end: u8) -> u8 {
    2 * wire + 2 + end
}

/// A NIC in a host, up, perhaps without carrier yet.
#[derive(Debug)]
struct Taken {
    namespace: Arc<Namespace>,
    interface: String,
    mac: [u8; 6],
    address: Ipv4Addr,
}

impl Taken {
    fn finish(self) -> Result<Endpoint> {
        finish(self.namespace, self.interface, self.mac, self.address)
    }
}

/// Moves the NIC in `slot` to a host, gives it a MAC of its own, and takes it up.
fn take(slot: u8, namespace: &Arc<Namespace>, name: &str, address: Ipv4Addr) -> Result<Taken> {
    let found = eventually(RETURN, || interface_in(slot).is_some());
    let old = interface_in(slot).filter(|_| found.is_some());
    let old = old.with_context(|| format!("no NIC in PCI slot {slot:#x} after {RETURN:?}"))?;
    let mac = [0x52, 0x54, 0, 0, 0, slot];
    ip(&format!("link set {old} down"))?;
    // What an earlier test may have left.
    ip(&format!("link set {old} promisc off allmulticast off"))?;
    ip(&format!("link set {old} address {}", format_mac(mac)))?;
    ip(&format!(
        "link set {old} netns {} name {name}",
        namespace.name()
    ))?;
    // The emulated igb sends a UDP GSO packet as the fragments of one datagram, so let the kernel
    // cut it.
    namespace.tool("ethtool", &["-K", name, "tx-udp-segmentation", "off"])?;
    // Where a NIC takes tags out of the frames, the relay does not put the input on XDP.
    namespace.tool("ethtool", &["-K", name, "rx-vlan-offload", "off"])?;
    namespace.ip(&format!("address add {address}/24 dev {name}"))?;
    namespace.ip(&format!("link set {name} up"))?;
    Ok(Taken {
        namespace: Arc::clone(namespace),
        interface: name.to_owned(),
        mac,
        address,
    })
}

/// A NIC whose driver is unbound from it, so that its interface is gone, as when it is pulled out.
/// It is bound again at the latest when this is dropped: the next test needs the NIC.
#[derive(Debug)]
pub struct Unplugged {
    slot: u8,
    /// The driver's folder.
    driver: PathBuf,
    was: Endpoint,
    is_bound: bool,
}

/// Unbinds the driver of the relay's NIC `near`. Returns once the interface is gone.
pub fn unplug(near: &Endpoint) -> Result<Unplugged> {
    let [.., slot] = near.mac;
    let driver = Path::new(&device(slot)).join("driver");
    let driver = fs::canonicalize(&driver)
        .with_context(|| format!("looking for the driver of {near:?} by {}", driver.display()))?;
    let unplugged = Unplugged {
        slot,
        driver,
        was: near.clone(),
        is_bound: false,
    };
    unplugged.write("unbind")?;
    Ok(unplugged)
}

impl Unplugged {
    /// The name that its interface had.
    pub fn name(&self) -> &str {
        &self.was.interface
    }

    /// Binds the driver again, and gives the new interface the place, the name and the addresses
    /// that it had. Returns its index when it is up, perhaps without carrier yet.
    pub fn plug_in(mut self) -> Result<u32> {
        self.is_bound = true;
        self.write("bind")?;
        let Endpoint {
            namespace,
            interface,
            address,
            ..
        } = &self.was;
        take(self.slot, namespace, interface, *address)?;
        let name = interface.as_str();
        namespace.run(|| if_nametoindex(name).with_context(|| format!("looking up {name}")))
    }

    fn write(&self, file: &str) -> Result<()> {
        let path = self.driver.join(file);
        let address = pci_address(self.slot);
        fs::write(&path, &address).with_context(|| format!("writing {address} to {path:?}"))
    }
}

impl Drop for Unplugged {
    fn drop(&mut self) {
        if !self.is_bound
            && let Err(error) = self.write("bind")
        {
            eprintln!("{error:#}");
        }
    }
}

/// The device in a slot, as the kernel names it.
fn pci_address(slot: u8) -> String {
    format!("0000:00:{slot:02x}.0")
}

/// The folder of the device in a slot.
fn device(slot: u8) -> String {
    format!("/sys/bus/pci/devices/{}", pci_address(slot))
}

/// The interface of the NIC in a slot, if it is in the initial namespace. virtio has a device of
/// its own in between.
fn interface_in(slot: u8) -> Option<String> {
    let first = |folder: &Path, beginning: &str| {
        let mut entries = fs::read_dir(folder).ok()?.flatten();
        let found = entries.find(|e| e.file_name().to_string_lossy().starts_with(beginning));
        found.map(|entry| entry.path())
    };
    let device = device(slot);
    let device = Path::new(&device);
    let above = first(device, "virtio").unwrap_or_else(|| device.to_owned());
    let interface = first(&above.join("net"), "")?;
    Some(interface.file_name()?.to_string_lossy().into_owned())
}

/// How the IOMMU treats the DMA of each NIC: the type of its IOMMU group, `None` without an IOMMU.
pub fn iommu_types() -> Vec<Option<String>> {
    let of = |slot| {
        let path = format!("{}/iommu_group/type", device(slot));
        let read = fs::read_to_string(path).ok();
        read.map(|text| text.trim().to_owned())
    };
    (slot(1, 0)..=slot(5, 1)).map(of).collect()
}

/// Runs `ip` in the initial namespace.
fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| format!("running `ip {arguments}`"))?;
    ensure!(
        output.status.success(),
        "`ip {arguments}` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Runs the relay with `rules`, which chooses backend and mode by itself, and waits until all of
/// its interfaces have a carrier: attaching a program resets some NICs.
pub fn start(bed: &Testbed, rules: &[Rule]) -> Result<RelayProcess> {
    let relay = RelayProcess::start_unforced(&bed.relay, RuleFile::of(rules)?)?;
    wait_for_carriers(bed)?;
    Ok(relay)
}

/// Waits until all of the relay's interfaces have a carrier.
pub fn wait_for_carriers(bed: &Testbed) -> Result<()> {
    for near in bed.inputs.iter().chain(&bed.outputs) {
        wait_for_carrier(&bed.relay, &near.interface)?;
    }
    Ok(())
}

/// Sends `stream` for `rule` from the first source, never far ahead of what the receivers have.
pub fn send(bed: &Testbed, rule: &Rule, stream: &Stream, receivers: &Receivers) -> Result<()> {
    let fan_out = (rule.outputs.len() as u32).max(1);
    let before = receivers.progress();
    let window = Window::new(u64::from((OUTPUT_WINDOW / fan_out).max(2)), || {
        receivers.progress().saturating_sub(before)
    });
    let source = bed.sources.first().context("the testbed has no source")?;
    let traffic = Traffic::new(rule.group, rule.port, *stream);
    let burst = (OUTPUT_WINDOW / fan_out / 2).max(1);
    UdpSender::open(source)?.send_interleaved(&[traffic], OUTPUT_RATE / fan_out, burst, &window)
}
