//! How frames of a tap read, as lines and in a pcapng file, and what is said at its end.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use relay_common::{
    abi::Counter,
    wire::{self, Addresses, UDP_LEN, ethernet::field as ethernet, ipv6, udp::field as udp},
};

use super::sink::Sink;
use crate::{
    config::quoted,
    daemon::taps::summary::{Summary, TapInterface},
    datapath::tap::record::{Header, Way, reason},
    observe::pcapng::{self, Direction, Packet},
    plan::Mac,
};

/// The frames that were shown.
#[derive(Debug)]
pub struct Shown {
    interfaces: Vec<TapInterface>,
    /// By interface, its number in the file: one for each name.
    numbers: Vec<u32>,
    /// The names, in the order of their numbers.
    names: Vec<String>,
    /// By interface, how many were shown.
    counts: Vec<u64>,
    /// Frames that the tap lost and no shown frame has told of: in, out.
    lost: [u64; 2],
    sink: Sink,
}

impl Shown {
    /// None yet.
    pub fn new(interfaces: Vec<TapInterface>, sink: Sink) -> Self {
        let mut names: Vec<String> = Vec::new();
        let number = |interface: &TapInterface| {
            let name = named(interface);
            let known = names.iter().position(|known| *known == name);
            let at = known.unwrap_or(names.len());
            if known.is_none() {
                names.push(name);
            }
            at as u32
        };
        let numbers = interfaces.iter().map(number).collect();
        Self {
            counts: vec![0; interfaces.len()],
            numbers,
            names,
            interfaces,
            lost: [0; 2],
            sink,
        }
    }

    /// Begins a file.
    pub fn begin(&mut self) {
        if self.sink.is_pcapng {
            pcapng::section(&mut self.sink.bytes);
            for name in &self.names {
                pcapng::interface(&mut self.sink.bytes, name);
            }
        }
    }

    /// How many were shown.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Whether nothing reads them any more.
    pub fn has_no_reader(&self) -> bool {
        self.sink.is_closed
    }

    /// Shows a frame, or only notes what its header tells.
    ///
    /// # Errors
    ///
    /// What was to be written cannot be written.
    pub fn note(&mut self, header: &Header, frame: Option<&[u8]>) -> anyhow::Result<()> {
        let [lost_in, lost_out] = &mut self.lost;
        *lost_in += u64::from(header.lost_in);
        *lost_out += u64::from(header.lost_out);
        let at = usize::from(header.at);
        let (Some(frame), Some(way)) = (frame, header.way) else {
            return Ok(());
        };
        let (Some(interface), Some(count)) = (self.interfaces.get(at), self.counts.get_mut(at))
        else {
            return Ok(());
        };
        *count += 1;
        let lost = match way {
            Way::In | Way::Passed => std::mem::take(lost_in),
            Way::Out => std::mem::take(lost_out),
        };
        let to = &mut self.sink.bytes;
        if self.sink.is_pcapng {
            let comment = format!("{}{}", interface.label, fate(header, ": "));
            let packet = Packet {
                interface: self.numbers.get(at).copied().unwrap_or_default(),
                time: header.time,
                direction: match way {
                    Way::In | Way::Passed => Direction::Inbound,
                    Way::Out => Direction::Outbound,
                },
                lost,
                comment: &comment,
                bytes: frame,
            };
            pcapng::packet(to, &packet);
        } else {
            let mut text = String::new();
            if lost > 0 {
                let _ = writeln!(text, "(the tap lost {lost} frames here)");
            }
            line(&mut text, header, way, interface, frame);
            to.extend_from_slice(text.as_bytes());
        }
        if self.sink.is_full() {
            self.sink.flush()?;
        }
        Ok(())
    }

    /// Writes what was not written yet.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.sink.flush()
    }
}

/// An interface's name for people.
fn named(interface: &TapInterface) -> String {
    match &interface.name[..] {
        "" => "routing".into(),
        name => quoted(name),
    }
}

/// What became of a frame, behind `before`; nothing for one that came in.
fn fate(header: &Header, before: &str) -> String {
    match (header.way, reason(header.why)) {
        (Some(Way::Out), None) => format!("{before}left"),
        (Some(Way::Out), Some(reason)) => format!("{before}dropped, {}", reason.name()),
        (Some(Way::Passed), _) => {
            let counter = Counter::ALL.get(usize::from(header.why));
            match counter {
                Some(Counter::Redirected) => format!("{before}taken by a rule and given back"),
                counter => format!("{before}{}", counter.map_or("unknown", |one| one.name())),
            }
        }
        _ => String::new(),
    }
}

fn line(text: &mut String, header: &Header, way: Way, interface: &TapInterface, frame: &[u8]) {
    let time = Duration::from_nanos(header.time);
    let of_day = time.as_secs() % 86_400;
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let micros = time.subsec_micros();
    let way = match way {
        Way::In | Way::Passed => "in ",
        Way::Out => "out",
    };
    let output = interface
        .output
        .map_or_else(String::new, |number| format!(" output {number}"));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{hours:02}:{minutes:02}:{seconds:02}.{micros:06} {way} {}{output} {}, {} bytes{}",
        named(interface),
        ends(frame),
        frame.len(),
        fate(header, ": ")
    );
}

/// Where a frame comes from and goes to.
fn ends(frame: &[u8]) -> String {
    let of_udp = || {
        let datagram = wire::decode(frame).ok()?;
        let header = datagram.payload().checked_sub(UDP_LEN)?;
        let port = frame.get(header + udp::SOURCE_PORT.start..)?;
        let port = u16::from_be_bytes(*port.first_chunk()?);
        let v4 = |address: u32| IpAddr::from(Ipv4Addr::from(address.to_ne_bytes()));
        let v6 = |address| IpAddr::from(ipv6::from_memory(address));
        let (source, group) = match datagram.addresses {
            Addresses::V4 { source, group } => (v4(source), v4(group)),
            Addresses::V6 { source, group } => (v6(source), v6(group)),
        };
        let source = SocketAddr::new(source, port);
        let to = SocketAddr::new(group, datagram.port);
        let vlan = match datagram.vlan.bits() == wire::Vlan::UNTAGGED.bits() {
            true => "",
            false => " tagged",
        };
        Some(format!("{source} > {to}{vlan}"))
    };
    of_udp().unwrap_or_else(|| {
        let mac = |field| {
            let bytes: Option<&[u8]> = frame.get::<std::ops::Range<usize>>(field);
            let mac = bytes.and_then(<[u8]>::first_chunk).copied();
            Mac(mac.unwrap_or_default())
        };
        let (from, to) = (mac(ethernet::SOURCE), mac(ethernet::DESTINATION));
        let kind = frame.get(ethernet::TYPE).and_then(<[u8]>::first_chunk);
        let kind = u16::from_be_bytes(kind.copied().unwrap_or_default());
        format!("{from} > {to} type {kind:#06x}")
    })
}

/// What was counted while a tap was on, and what it lost.
pub fn ended(summary: &Summary, shown: &Shown) -> String {
    let mut text = format!(
        "relay: the tap ended after {:.1} s: {}\n",
        summary.seconds, summary.reason
    );
    let line = |text: &mut String, at: usize, what: &str| {
        let (Some(interface), Some(count)) = (shown.interfaces.get(at), shown.counts.get(at))
        else {
            return;
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {} by {}: {what}; shown {count}",
            interface.label,
            named(interface)
        );
    };
    let numbers = |numbers: &std::collections::BTreeMap<String, u64>| {
        let all = numbers
            .iter()
            .map(|(name, count)| format!("{name} {count}"));
        all.collect::<Vec<_>>().join(", ")
    };
    if summary.outputs.is_empty() {
        let what = match summary.passed.is_empty() {
            true => "the program counted nothing".into(),
            false => format!("the program counted {}", numbers(&summary.passed)),
        };
        line(&mut text, 0, &what);
    } else {
        line(&mut text, 0, &format!("{} matched", summary.matched));
    }
    for output in &summary.outputs {
        let dropped: u64 = output.dropped.values().sum();
        let why = match dropped {
            0 => String::new(),
            _ => format!(" ({})", numbers(&output.dropped)),
        };
        let what = format!("{} left, {dropped} dropped{why}", output.sent);
        line(&mut text, usize::from(output.at), &what);
    }
    let _ = match (summary.lost_in, summary.lost_out) {
        (0, 0) => writeln!(text, "  the tap lost nothing"),
        (came, left) => writeln!(
            text,
            "  the tap lost {came} frames that came in and {left} that left or should have: they \
             are in no record, because it was read more slowly than they came. Use a larger \
             `--buffer`"
        ),
    };
    text
}
