//! Checks the rules against the interfaces that there are, and resolves names to positions.
//!
//! Which worker owns which queue is decided in [`super::queues`]. Everything that cannot be is a
//! mistake with a place in the file; everything that can be but may surprise is a note.

use std::collections::HashMap;

use super::{
    Backend, Checksums, Choice, Engine, Flow, Interface, Mode, Output, Plan,
    choice::{self, Chosen},
    engines, group_notes, loops, mac, missing, queues,
};
use crate::{
    config::{Document, InterfacePlaces, Mistake, Mistakes, Place},
    nic::{Facts, Survey},
    rules::{InterfaceOptions, Rule, Transmit},
};

/// veth attaches a native XDP program only when the other end's MTU is at most this
/// (veth_xdp_set in drivers/net/veth.c, with 4 KiB pages).
const MAX_VETH_PEER_MTU: u32 = 3506;

/// One interface as the rules use it, with the first place that needs it for each purpose.
pub(super) struct Use<'a> {
    pub(super) facts: &'a Facts,
    pub(super) backend: Backend,
    /// On io_uring, why it is not XDP. On XDP, why the mode is what it is, see [`Interface::reason`].
    pub(super) reason: String,
    /// What stands against zero copy here.
    pub(super) against_zero_copy: Option<String>,
    pub(super) is_input: bool,
    pub(super) is_output: bool,
    /// The queues whose frames are relayed; empty unless an input on XDP.
    pub(super) rx: Vec<u32>,
    /// The queues that copies may leave by; empty unless an output on XDP.
    pub(super) tx: Vec<u32>,
    /// What the file says of how copies leave.
    pub(super) transmit: Transmit,
    /// How they leave; `None` unless an output.
    pub(super) engine: Option<Engine>,
}

impl Use<'_> {
    /// Whether AF_XDP sockets are bound here.
    pub(super) fn has_sockets(&self) -> bool {
        self.backend == Backend::Xdp && (self.is_input || self.engine == Some(Engine::Xsk))
    }
}

/// The names in the order of their first appearance, with the first place of each kind.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) input: Option<Place>,
    output: Option<Place>,
}

/// Resolves `document` against the interfaces in `survey`. Reads and changes nothing else.
///
/// # Errors
///
/// Everything that stands against running the rules, with its place in the file.
pub fn build(document: &Document, survey: &Survey, choice: &Choice) -> Result<Plan, Mistakes> {
    let mut mistakes = Vec::new();
    let mut notes = Vec::new();
    let named = names(document);
    let positions: HashMap<&str, usize> = (0..)
        .zip(&named)
        .map(|(position, named)| (named.name, position))
        .collect();
    let groups = queues::groups(named.len(), &links(document, &positions));
    let chosen = choice::choose(document, &groups, &named, survey, choice, &mut mistakes);
    let mut uses = Vec::with_capacity(named.len());
    let mut missing_names = Vec::new();
    for (named, chosen) in named.iter().zip(chosen) {
        let options = options_of(document, named.name);
        if let Some((options, places)) = options {
            cpus(document, options, places, survey.cpus, &mut mistakes);
        }
        match survey.interfaces.get(named.name) {
            Some(facts) => {
                suitable(document, named, facts, &mut mistakes);
                super_frames(document, options, facts, survey, &mut mistakes);
                let used = used(
                    document,
                    named,
                    facts,
                    chosen,
                    choice,
                    options,
                    &mut mistakes,
                );
                uses.push(used);
            }
            None => missing_names.push(named),
        }
    }
    missing::add(document, &missing_names, survey, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(Mistakes::of(mistakes));
    }
    for used in &uses {
        interface_notes(used, &mut notes);
        match used.backend {
            Backend::Xdp => xdp_notes(used, &mut notes),
            Backend::IoUring => io_uring_notes(document, used, &mut notes),
        }
    }

    let flows: Vec<Flow> = document
        .rules
        .rules
        .iter()
        .filter_map(|rule| flow(rule, &positions, &uses))
        .collect();
    mtu_notes(&flows, &uses, &mut notes);
    group_notes::add(&flows, &uses, &survey.bystanders, &mut notes);
    let modes = engines::choose(&groups, &mut uses, survey.super_frames, &mut notes);
    let workers = queues::workers(document, &groups, &flows, &uses, &mut notes);
    let interfaces = uses
        .into_iter()
        .zip(modes)
        .filter_map(|(used, mode)| interface(used, mode, survey.super_frames))
        .collect();
    loops::notes(&flows, &mut notes);
    Ok(Plan {
        interfaces,
        flows,
        workers,
        notes,
    })
}

/// What every rule connects: its input and its outputs, as positions.
fn links(document: &Document, positions: &HashMap<&str, usize>) -> Vec<(usize, Vec<usize>)> {
    let at = |name: &str| positions.get(name).copied();
    let rules = document.rules.rules.iter();
    rules
        .filter_map(|rule| {
            let outputs = rule.outputs.iter();
            let outputs = outputs.filter_map(|output| at(&output.interface)).collect();
            Some((at(&rule.input.interface)?, outputs))
        })
        .collect()
}

fn names(document: &Document) -> Vec<Named<'_>> {
    let mut named: Vec<Named<'_>> = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut place_of = |name, is_input: bool, place| {
        let position = *positions.entry(name).or_insert(named.len());
        if position == named.len() {
            named.push(Named {
                name,
                input: None,
                output: None,
            });
        }
        if let Some(named) = named.get_mut(position) {
            let slot = if is_input {
                &mut named.input
            } else {
                &mut named.output
            };
            slot.get_or_insert(place);
        }
    };
    for (rule, places) in document.rules.rules.iter().zip(&document.places.rules) {
        place_of(&rule.input.interface, true, places.input_interface);
        for (output, places) in rule.outputs.iter().zip(&places.outputs) {
            place_of(&output.interface, false, places.interface);
        }
    }
    named
}

impl Named<'_> {
    /// Where the file first names the interface.
    pub(super) fn place(&self) -> Place {
        let places = self.input.into_iter().chain(self.output);
        places.min().unwrap_or(Place { line: 1, column: 1 })
    }
}

pub(super) fn options_of<'a>(
    document: &'a Document,
    name: &str,
) -> Option<(&'a InterfaceOptions, &'a InterfacePlaces)> {
    let mut all = document
        .rules
        .interfaces
        .iter()
        .zip(&document.places.interfaces);
    all.find(|(options, _)| options.name == name)
}

/// What an interface must be for the relay to use it at all, whatever the backend.
fn suitable(document: &Document, named: &Named<'_>, facts: &Facts, mistakes: &mut Vec<Mistake>) {
    let name = named.name;
    let unfit = if facts.is_loopback {
        Some((
            "is the loopback interface, which the relay does not serve",
            "name the interface that the datagrams travel by; between programs of one host that is a \
             veth pair or a bridge",
        ))
    } else if facts.mac.is_none() {
        Some((
            "is no Ethernet interface, and the relay reads and writes Ethernet frames",
            "use an Ethernet interface; of the tunnels, those of the kinds gretap and vxlan are",
        ))
    } else {
        None
    };
    if let Some((is, remedy)) = unfit {
        mistakes.push(document.mistake(
            named.place(),
            format!("interface `{name}` (driver {}) {is}", facts.driver),
            remedy.into(),
        ));
    }
    if let Some(place) = named.output
        && facts.addresses.is_empty()
    {
        mistakes.push(document.mistake(
            place,
            format!("the output interface `{name}` has no IPv4 address to send from"),
            format!("give it one: `ip address add ADDRESS/LENGTH dev {name}`"),
        ));
    }
}

/// The interface with the queues that are used; a mistake for each that there is not.
fn used<'a>(
    document: &Document,
    named: &Named<'_>,
    facts: &'a Facts,
    chosen: Chosen,
    choice: &Choice,
    options: Option<(&'a InterfaceOptions, &InterfacePlaces)>,
    mistakes: &mut Vec<Mistake>,
) -> Use<'a> {
    let name = named.name;
    let mut of_kind = |wanted: Option<Place>, kind: &str, count: u32| {
        let Some(place) = wanted.filter(|_| chosen.backend == Backend::Xdp) else {
            return Vec::new();
        };
        if count == 0 {
            mistakes.push(document.mistake(
                place,
                format!("interface `{name}` has no {kind} queue"),
                format!("`ethtool -l {name}` shows its queues and `ethtool -L {name}` sets them"),
            ));
            return Vec::new();
        }
        let Some((Some(listed), places)) =
            options.map(|(options, places)| (options.queues.as_ref(), places))
        else {
            return (0..count).collect();
        };
        for (queue, place) in listed.iter().zip(&places.queues) {
            if *queue >= count {
                mistakes.push(document.mistake(
                    *place,
                    format!(
                        "interface `{name}` has no {kind} queue {queue}: it has {}",
                        numbered(count)
                    ),
                    format!(
                        "correct `queues`, or change how many there are: `ethtool -l {name}` shows \
                         them and `ethtool -L {name}` sets them"
                    ),
                ));
            }
        }
        listed.clone()
    };
    let rx = of_kind(named.input, "RX", facts.rx_queues);
    let tx = of_kind(named.output, "TX", facts.tx_queues);
    Use {
        facts,
        backend: chosen.backend,
        reason: chosen.reason,
        against_zero_copy: engines::against_zero_copy(facts, choice),
        is_input: named.input.is_some(),
        is_output: named.output.is_some(),
        rx,
        tx,
        transmit: options.map_or(Transmit::Auto, |(options, _)| options.transmit),
        engine: None,
    }
}

/// "1, queue 0" or "4, queues 0 to 3".
fn numbered(count: u32) -> String {
    if count == 1 {
        "1, queue 0".into()
    } else {
        format!("{count}, queues 0 to {}", count - 1)
    }
}

/// A mistake where the file asks for super-frames and they cannot leave.
fn super_frames(
    document: &Document,
    options: Option<(&InterfaceOptions, &InterfacePlaces)>,
    facts: &Facts,
    survey: &Survey,
    mistakes: &mut Vec<Mistake>,
) {
    let Some((options, places)) = options else {
        return;
    };
    let Some(place) = places
        .transmit
        .filter(|_| options.transmit == Transmit::Segmented)
    else {
        return;
    };
    let name = &facts.name;
    if !survey.super_frames {
        mistakes.push(document.mistake(
            place,
            "`transmit` \"segmented\" needs Linux 6.2, whose packet sockets take UDP super-frames"
                .into(),
            "leave `transmit` out, or use a newer kernel".into(),
        ));
    } else if !engines::takes_super_frames(facts) {
        mistakes.push(document.mistake(
            place,
            format!("`transmit` \"segmented\": interface `{name}` does not take UDP super-frames"),
            format!(
                "`ethtool -k {name}` shows `tx-udp-segmentation`, and `ethtool -K {name} tx-udp-segmentation on` \
                 sets it where the driver can; otherwise leave `transmit` out"
            ),
        ));
    }
}

fn cpus(
    document: &Document,
    options: &InterfaceOptions,
    places: &InterfacePlaces,
    configured: u32,
    mistakes: &mut Vec<Mistake>,
) {
    for (cpu, place) in options.cpus.iter().flatten().zip(&places.cpus) {
        if *cpu >= configured {
            mistakes.push(
                document.mistake(
                    *place,
                    format!("there is no CPU {cpu}: this machine has {configured}, counted from 0"),
                    "`lscpu` lists them; correct `cpus`, or leave it out to let the kernel choose"
                        .into(),
                ),
            );
        }
    }
}

fn flow(rule: &Rule, positions: &HashMap<&str, usize>, uses: &[Use<'_>]) -> Option<Flow> {
    let output = |output: &crate::rules::Output| {
        let interface = *positions.get(output.interface.as_str())?;
        Some(Output {
            interface,
            group: output.group,
            port: output.port,
            ttl: output.ttl,
            source: *uses.get(interface)?.facts.addresses.first()?,
            destination_mac: mac::of_group(output.group),
        })
    };
    Some(Flow {
        rule: rule.name.clone(),
        interface: *positions.get(rule.input.interface.as_str())?,
        group: rule.input.group,
        port: rule.input.port,
        limit: rule.limit,
        outputs: rule.outputs.iter().filter_map(output).collect(),
    })
}

fn interface(used: Use<'_>, mode: Mode, super_frames: bool) -> Option<Interface> {
    let facts = used.facts;
    let has_sockets = used.has_sockets();
    Some(Interface {
        name: facts.name.clone(),
        index: facts.index,
        mac: facts.mac?,
        mtu: facts.mtu,
        address: facts.addresses.first().copied(),
        driver: facts.driver.clone(),
        backend: used.backend,
        reason: used.reason,
        is_input: used.is_input,
        is_output: used.is_output,
        rx_queues: used.rx,
        checksums: (used.is_input).then(|| Checksums::of(used.backend, &facts.driver)),
        tx_queues: facts.tx_queues,
        zero_copy: used.against_zero_copy.is_none(),
        expected_mode: has_sockets.then_some(mode),
        transmit: used.transmit,
        engine: used.engine,
        super_frames: super_frames && engines::takes_super_frames(facts),
        segments_udp: facts.segments_udp,
        queueless: facts.queueless,
        gso: facts.gso,
    })
}

fn interface_notes(used: &Use<'_>, notes: &mut Vec<String>) {
    let name = &used.facts.name;
    if !used.is_output && used.transmit != Transmit::Auto {
        notes.push(format!(
            "The `transmit` of {name} is not used: no copy leaves there."
        ));
    }
    if !used.facts.is_up {
        notes.push(format!(
            "{name} is down; nothing moves there until it is up: `ip link set {name} up`."
        ));
    }
    if used.is_input && used.facts.addresses.is_empty() {
        notes.push(format!(
            "{name} has no IPv4 address; its IGMP reports leave from 0.0.0.0, which some switches and \
             routers ignore."
        ));
    }
}

/// What may surprise of an interface on XDP.
fn xdp_notes(used: &Use<'_>, notes: &mut Vec<String>) {
    let Facts {
        name, mtu, driver, ..
    } = used.facts;
    if used.facts.xdp.is_none() {
        notes.push(format!(
            "The kernel does not tell what XDP can do on {name} (that came with Linux 6.3); copy mode \
             is expected, and whether native XDP works shows when the program is attached."
        ));
    }
    if used.is_input && driver == "veth" && *mtu > MAX_VETH_PEER_MTU {
        notes.push(format!(
            "{name} is a veth with MTU {mtu}; the kernel attaches XDP to it only if the other end's \
             MTU is at most {MAX_VETH_PEER_MTU}."
        ));
    }
    if used.is_input && used.facts.tag_may_be_beside() {
        notes.push(format!(
            "{name} is a veth: a VLAN tag that its other end leaves beside the bytes of the frame is \
             not seen on XDP, and the frame is relayed as an untagged one. If tagged frames can come, \
             run `ethtool -K OTHER-END tx-vlan-offload off` at the other end, or the relay with \
             `--backend io-uring`."
        ));
    }
    let unused: Vec<u32> = (0..used.facts.rx_queues)
        .filter(|queue| !used.rx.contains(queue))
        .collect();
    if used.is_input && !unused.is_empty() {
        notes.push(format!(
            "{name} relays from RX {} only, as `queues` says; datagrams that it steers to RX {} are \
             not relayed. `ethtool -X {name}` or `ethtool -N {name}` steers them.",
            queues::list(&used.rx),
            queues::list(&unused)
        ));
    }
}

/// What the file says of an interface and does not matter on io_uring.
fn io_uring_notes(document: &Document, used: &Use<'_>, notes: &mut Vec<String>) {
    let name = &used.facts.name;
    let listed = options_of(document, name).is_some_and(|(options, _)| options.queues.is_some());
    if listed && used.is_input {
        notes.push(format!(
            "The `queues` of {name} are not used: it is on io_uring, and a packet socket sees the frames \
             of all queues."
        ));
    } else if listed {
        notes.push(format!(
            "The `queues` of {name} are not used: it is on io_uring, and the kernel chooses the queue of \
             what a packet socket sends."
        ));
    }
    if used.is_output && used.transmit == Transmit::Xsk {
        notes.push(format!(
            "The `transmit` \"xsk\" of {name} is not used: it is on io_uring, which has no AF_XDP sockets."
        ));
    }
}

fn mtu_notes(flows: &[Flow], uses: &[Use<'_>], notes: &mut Vec<String>) {
    let mut said = std::collections::HashSet::new();
    for flow in flows {
        for output in &flow.outputs {
            let (Some(from), Some(to)) = (uses.get(flow.interface), uses.get(output.interface))
            else {
                continue;
            };
            let (from, to) = (from.facts, to.facts);
            if to.mtu < from.mtu && said.insert((flow.interface, output.interface)) {
                notes.push(format!(
                    "{} has MTU {} and {} has MTU {}; larger datagrams from {} do not leave by {} and \
                     are counted there as too_big.",
                    from.name, from.mtu, to.name, to.mtu, from.name, to.name
                ));
            }
        }
    }
}
