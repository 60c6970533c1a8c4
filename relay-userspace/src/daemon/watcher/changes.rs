//! Log lines about an interface that has changed, and whether a plan depends on the change.
//!
//! They say what happened. What the relay does about it is control's to say.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use log::Level::{self, Debug, Info, Warn};

use crate::{
    datapath::output_link::State,
    events::Event,
    host::{
        Ipv6Address,
        watch::{Questions, Queues},
    },
    plan,
    plan::Interface,
};

/// An interface as it was last seen, as far as the relay depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub mac: [u8; 6],
    /// Administratively up. A carrier is in [`Self::state`].
    pub is_up: bool,
    /// Its addresses; `None` while they are not known.
    pub addresses: Option<Addresses>,
    /// It takes VLAN tags out of received frames; of an input.
    pub strips_tags: bool,
    /// The XDP program that is attached, if the relay attached one.
    pub program: Option<u32>,
    pub state: State,
}

impl Seen {
    /// The state that the plan assumes: up and with a carrier.
    pub fn planned(interface: &Interface, program: Option<u32>) -> Self {
        Self {
            name: interface.name.clone(),
            mac: interface.mac,
            is_up: true,
            addresses: None,
            strips_tags: interface.strips_tags,
            program,
            state: State::planned(interface),
        }
    }
}

/// The addresses of an interface that copies may leave with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub ipv4: Vec<Ipv4Addr>,
    pub ipv6: Vec<Ipv6Address>,
}

impl Addresses {
    /// Those of the interface with this index.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn ask(index: u32, questions: &mut Questions) -> io::Result<Self> {
        Ok(Self {
            ipv4: questions.addresses(index)?,
            ipv6: questions.ipv6_addresses(index)?,
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let ipv6 = self.ipv6.iter().map(|one| IpAddr::V6(one.address));
        self.ipv4.iter().copied().map(IpAddr::V4).chain(ipv6)
    }
}

impl Seen {
    /// It has this address, as far as is known.
    fn has(&self, address: IpAddr) -> bool {
        let known = self.addresses.as_ref();
        known.is_none_or(|all| all.iter().any(|one| one == address))
    }
}

/// One line about an interface. Its kind is that of its [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub level: Level,
    pub kind: &'static str,
    /// Tells it from others of its kind and interface.
    pub which: String,
    /// Which of the states begins that its kind has.
    pub turn: &'static str,
    /// A sentence.
    pub text: String,
    /// A plan depends on what has changed, so control is told as well.
    pub matters: bool,
}

impl Line {
    /// Writes it to the log, unless it repeats one about the same interface.
    pub fn say(&self, interface: &str) {
        Event::new(LOG, self.level, self.kind, &self.text)
            .interface(interface)
            .which(&self.which)
            .turn(self.turn)
            .say();
    }
}

/// Lines while they are collected.
#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    /// Adds a line about something that no plan depends on.
    fn say(&mut self, level: Level, (kind, turn): Turn, text: String) {
        let matters = false;
        self.0.push(Line {
            level,
            kind,
            which: String::new(),
            turn,
            text,
            matters,
        });
    }

    /// Adds a line about something that a plan depends on.
    fn matters(&mut self, level: Level, (kind, turn): Turn, text: String) {
        let matters = true;
        self.0.push(Line {
            level,
            kind,
            which: String::new(),
            turn,
            text,
            matters,
        });
    }
}

/// The target of the watcher's lines.
pub const LOG: &str = "relay::daemon::watcher";
/// What most lines are about: whether anything moves on an interface.
const LINK: &str = "link";

/// A kind, and which of its states begins.
type Turn = (&'static str, &'static str);

/// The line about an interface that has gone.
pub fn gone(name: &str) -> Line {
    Line {
        level: Warn,
        kind: LINK,
        which: String::new(),
        turn: "gone",
        text: format!(
            "{name} has gone: it was deleted, or moved to another network namespace; nothing moves there until it is \
             back"
        ),
        matters: true,
    }
}

/// The lines about what changed from `before` to `now`; `now` is `None` if the interface has gone.
pub fn between(interface: &Interface, before: &Seen, now: Option<&Seen>) -> Vec<Line> {
    let Some(now) = now else {
        return vec![gone(&interface.name)];
    };
    let mut lines = Lines::default();
    let name = &interface.name;
    if now.name != before.name {
        lines.matters(
            Warn,
            ("name", ""),
            format!(
                "{} is called {} now; rules name interfaces by their names",
                before.name, now.name
            ),
        );
    }
    match (before.is_up, now.is_up) {
        (true, false) => lines.say(
            Warn,
            (LINK, "down"),
            format!(
                "{name} is down: nothing moves there until it is up, `ip link set {} up`",
                now.name
            ),
        ),
        (false, true) if now.state.carries => {
            lines.say(Info, (LINK, "up"), format!("{name} is up"));
        }
        (false, true) => {
            let text = format!("{name} is up, without a carrier");
            lines.say(Warn, (LINK, "up without"), text);
        }
        (true, true) if before.state.carries && !now.state.carries => lines.say(
            Warn,
            (LINK, "lost"),
            format!("{name} has lost its carrier: nothing moves there until it is back"),
        ),
        (_, true) if now.state.carries && !before.state.carries => {
            lines.say(
                Info,
                (LINK, "back"),
                format!("{name} has its carrier again"),
            );
        }
        _ => {}
    }
    addressing(interface, before, now, &mut lines);
    if now.strips_tags != before.strips_tags {
        let does = match now.strips_tags {
            true => "takes VLAN tags out of frames now",
            false => "leaves VLAN tags in frames now",
        };
        lines.matters(
            Info,
            ("VLAN tags", if now.strips_tags { "taken" } else { "left" }),
            format!("{name} {does}"),
        );
    }
    if interface.is_output {
        sending(interface, before, now, &mut lines);
    }
    // By the relay or by another process: control knows which.
    if now.program != before.program && before.program.is_some() {
        let text = format!("the XDP program was detached from {name}");
        lines.matters(Debug, ("program", ""), text);
    }
    lines.0
}

/// Adds the lines about addresses and sizes.
fn addressing(interface: &Interface, before: &Seen, now: &Seen, lines: &mut Lines) {
    let name = &interface.name;
    if now.mac != before.mac {
        let [before, now] = [before.mac, now.mac].map(|mac| plan::Mac(mac).to_string());
        lines.matters(
            Warn,
            ("MAC address", ""),
            format!("{name} has the MAC address {now} now, {before} before"),
        );
    }
    let mut is_told = false;
    let ipv6 = interface.ipv6_sources.iter().copied().map(IpAddr::V6);
    for address in interface.address.map(IpAddr::V4).into_iter().chain(ipv6) {
        let (level, turn, text) = match [before, now].map(|seen| seen.has(address)) {
            [true, false] => (
                Warn,
                "lost",
                format!("{name} does not have the address {address} any more"),
            ),
            [false, true] => (
                Info,
                "back",
                format!("{name} has the address {address} again"),
            ),
            _ => continue,
        };
        lines.0.push(Line {
            level,
            kind: "address",
            which: address.to_string(),
            turn,
            text,
            matters: true,
        });
        is_told = true;
    }
    if !is_told && before.addresses.is_some() && now.addresses != before.addresses {
        let text = format!("{name} has other addresses than before");
        lines.matters(Debug, ("address", ""), text);
    }
    if now.state.mtu != before.state.mtu {
        let larger = if interface.is_output {
            "; larger copies do not leave there and count as too_big"
        } else {
            ""
        };
        lines.matters(
            Info,
            ("MTU", ""),
            format!(
                "{name} has MTU {} now, {} before{larger}",
                now.state.mtu, before.state.mtu
            ),
        );
    }
}

/// Adds the lines about GSO packets on an output. A plan depends on them wherever it may use GSO
/// packets; workers follow by themselves, so these changes cost nothing until then.
fn sending(interface: &Interface, before: &Seen, now: &Seen, lines: &mut Lines) {
    let name = &interface.name;
    let (was, is) = (before.state, now.state);
    if (was.takes_gso, was.queueless) == (is.takes_gso, is.queueless) {
        return;
    }
    let (turn, text) = match [was.joins(0), is.joins(0)] {
        [false, true] if interface.gso_packets => (
            "again",
            format!(
                "{name} takes GSO packets again; copies leave in GSO packets where the plan says so"
            ),
        ),
        [true, false] if interface.gso_packets => (
            "none",
            format!(
                "{name} takes no GSO packets any more: it has a queueing discipline, and `tx-udp-segmentation` is off. \
                 Copies leave there frame by frame, which costs more CPU time"
            ),
        ),
        _ if was.is_cut() == is.is_cut() || !interface.gso_packets => {
            let text = format!("{name} has another queueing discipline or other features now");
            return lines.matters(Debug, ("GSO packets", ""), text);
        }
        _ if is.is_cut() => {
            let text = format!("{name}: the kernel cuts GSO packets apart in front of it now");
            ("cut", text)
        }
        _ => ("whole", format!("{name}: it takes GSO packets whole now")),
    };
    lines.matters(Info, ("GSO packets", turn), text);
}

/// The line about queues whose number has changed.
pub fn queues(name: &str, queues: Queues) -> Line {
    Line {
        level: Info,
        kind: "queues",
        which: String::new(),
        turn: "",
        text: format!(
            "{name} has {} RX and {} TX queues in use now",
            queues.rx, queues.tx
        ),
        matters: true,
    }
}
