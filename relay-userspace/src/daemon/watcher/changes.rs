//! Log lines about an interface that has changed: what it means for the rules, and what to do.

use log::Level::{Info, Warn};

use super::budget::Line;
use crate::{datapath::output_link::State, plan, plan::Interface};

/// An interface as it was last seen, as far as the relay depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub mac: [u8; 6],
    /// Administratively up. A carrier is in [`Self::state`].
    pub is_up: bool,
    /// It has the address that copies leave with.
    pub has_address: bool,
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
            has_address: true,
            program,
            state: State {
                mtu: interface.mtu,
                takes_gso: interface.segments_udp,
                queueless: interface.queueless,
                carries: true,
            },
        }
    }
}

/// The lines about what changed from `before` to `now`; `now` is `None` if the interface has gone.
pub fn between(interface: &Interface, before: &Seen, now: Option<&Seen>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |level, text: String| lines.push(Line { level, text });
    let name = &interface.name;
    let Some(now) = now else {
        say(
            Warn,
            format!(
                "{name} has gone: it was deleted, or moved to another network namespace. The relay receives and \
                 sends nothing there any more, even if it is created again: restart the relay then"
            ),
        );
        return lines;
    };
    if now.name != before.name {
        say(
            Warn,
            format!(
                "{} is called {} now. The relay goes on serving it; correct the rule file before the next start",
                before.name, now.name
            ),
        );
    }
    match (before.is_up, now.is_up) {
        (true, false) => say(
            Warn,
            format!(
                "{name} is down: nothing moves there until it is up, `ip link set {} up`",
                now.name
            ),
        ),
        (false, true) if now.state.carries => say(Info, format!("{name} is up")),
        (false, true) => say(Warn, format!("{name} is up, without a carrier")),
        (true, true) if before.state.carries && !now.state.carries => say(
            Warn,
            format!("{name} has lost its carrier: nothing moves there until it is back"),
        ),
        (_, true) if now.state.carries && !before.state.carries => {
            say(Info, format!("{name} has its carrier again"));
        }
        _ => {}
    }
    if interface.is_output {
        sending(interface, before, now, &mut say);
    }
    if now.program != before.program && before.program.is_some() {
        say(
            Warn,
            format!(
                "the XDP program of the relay is not attached to {name} any more: another process detached it by force. \
                 Nothing is relayed from there: restart the relay"
            ),
        );
    }
    lines
}

/// Passes the lines about what matters on an output to `say`.
fn sending(
    interface: &Interface,
    before: &Seen,
    now: &Seen,
    say: &mut impl FnMut(log::Level, String),
) {
    let name = &interface.name;
    if now.mac != before.mac {
        let mac = |mac| plan::Mac(mac).to_string();
        let text = if now.mac == interface.mac {
            format!("{name} has the MAC address {} again", mac(now.mac))
        } else {
            format!(
                "{name} has the MAC address {} now, and copies still leave with {}: restart the relay",
                mac(now.mac),
                mac(interface.mac)
            )
        };
        say(Warn, text);
    }
    let address = interface.address.map(|address| address.to_string());
    let address = address.unwrap_or_default();
    match (before.has_address, now.has_address) {
        (true, false) => say(
            Warn,
            format!(
                "{name} does not have the address {address} any more, and copies still leave with it: restart the relay"
            ),
        ),
        (false, true) => say(Info, format!("{name} has the address {address} again")),
        _ => {}
    }
    if now.state.mtu != before.state.mtu {
        say(
            Info,
            format!(
                "{name} has MTU {} now, {} before; larger copies do not leave there and count as too_big",
                now.state.mtu, before.state.mtu
            ),
        );
    }
    if now.state.joins() != before.state.joins() && interface.gso_packets {
        let text = if now.state.joins() {
            format!(
                "{name} takes GSO packets again; copies leave in GSO packets where the plan says so"
            )
        } else {
            format!(
                "{name} takes no GSO packets any more: it has a queueing discipline, and `tx-udp-segmentation` is off. \
                 Copies leave there frame by frame, which costs more CPU time"
            )
        };
        say(Info, text);
    } else if now.state.is_cut() != before.state.is_cut() && interface.gso_packets {
        let who = if now.state.is_cut() {
            "the kernel cuts GSO packets apart in front of it now"
        } else {
            "it takes GSO packets whole now"
        };
        say(Info, format!("{name}: {who}"));
    }
}

/// The line about a new interface with the name of one that had gone.
pub fn there_again(interface: &Interface, index: u32) -> Line {
    let name = &interface.name;
    Line {
        level: Warn,
        text: format!(
            "there is an interface {name} again (index {index}, {} before). The relay does not serve it: restart the relay",
            interface.index
        ),
    }
}
