//! Checks one interface against the rules and against its own table in the file.

use super::{
    backend::Backend,
    backend_choice::Chosen,
    constraints::Constraints,
    finding::{Finding, Role},
    named_interfaces::Named,
    offloads, tx_methods,
    used_interface::Use,
};
use crate::{
    config::{
        InterfacePlaces, Spot,
        rules::{InterfaceOptions, Transmit},
    },
    host::{HostFacts, InterfaceFacts},
};

/// Adds a finding for every reason why the relay cannot use an interface, on either backend.
pub(super) fn suitable(named: &Named<'_>, facts: &InterfaceFacts, findings: &mut Vec<Finding>) {
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
            "use an Ethernet interface; of the tunnels, gretap and vxlan are such interfaces",
        ))
    } else {
        None
    };
    if let Some((is, remedy)) = unfit {
        let mistake = named.first.mistake(
            format!("interface `{name}` (driver {}) {is}", facts.driver),
            remedy.into(),
        );
        findings.push(Finding::about(name, &Role::ALL, mistake));
    }
    if let Some(spot) = named.ipv4_source
        && facts.addresses.is_empty()
    {
        let mistake = spot.mistake(
            format!("the output interface `{name}` has no IPv4 address to send from"),
            format!("give it one: `ip address add ADDRESS/LENGTH dev {name}`"),
        );
        findings.push(Finding::about(name, &[Role::Ipv4Source], mistake));
    }
    if let Some(spot) = named.ipv6_source
        && facts.ipv6_addresses.is_empty()
    {
        let mistake = spot.mistake(
            format!("the output interface `{name}` has no IPv6 address to send from"),
            format!(
                "give it one: `ip address add ADDRESS/LENGTH dev {name}`; one that \
                 `ip -6 address show {name}` calls tentative is used as soon as it is known to be \
                 unique"
            ),
        );
        findings.push(Finding::about(name, &[Role::Ipv6Source], mistake));
    }
}

/// The interface with the queues that are used. Adds a mistake for each queue that does not exist.
pub(super) fn used<'a>(
    named: &Named<'_>,
    facts: &'a InterfaceFacts,
    chosen: Chosen,
    constraints: &Constraints,
    options: Option<(&InterfaceOptions, &InterfacePlaces)>,
    findings: &mut Vec<Finding>,
) -> Use<'a> {
    let name = named.name;
    let mut of_kind = |wanted: Option<Spot<'_>>, role: &'static [Role], kind: &str, count: u32| {
        let Some(spot) = wanted.filter(|_| chosen.backend == Backend::Xdp) else {
            return Vec::new();
        };
        if count == 0 {
            let mistake = spot.mistake(
                format!("interface `{name}` has no {kind} queue"),
                format!("`ethtool -l {name}` shows its queues and `ethtool -L {name}` sets them"),
            );
            findings.push(Finding::about(name, role, mistake));
            return Vec::new();
        }
        let Some((Some(listed), places)) =
            options.map(|(options, places)| (options.queues.as_ref(), places))
        else {
            return (0..count).collect();
        };
        for (queue, place) in listed.iter().zip(&places.queues) {
            if *queue >= count {
                let mistake = places.spot(*place).mistake(
                    format!(
                        "interface `{name}` has no {kind} queue {queue}: it has {}",
                        numbered(count)
                    ),
                    format!(
                        "correct `queues`, or change how many there are: `ethtool -l {name}` shows \
                         them and `ethtool -L {name}` sets them"
                    ),
                );
                findings.push(Finding::about(name, role, mistake));
            }
        }
        listed.clone()
    };
    let rx = of_kind(named.input, &[Role::Input], "RX", facts.rx_queues);
    let output = named.ipv4_output.or(named.ipv6_output);
    let tx = of_kind(output, &Role::OUTPUTS, "TX", facts.tx_queues);
    Use {
        offloads: offloads::to_switch(named, facts, chosen.backend, constraints),
        facts,
        backend: chosen.backend,
        reason: chosen.reason,
        against_zero_copy: tx_methods::against_zero_copy(facts, constraints),
        is_input: named.input.is_some(),
        takes_ipv4: named.takes_ipv4,
        is_output: named.is_output(),
        rx,
        tx,
        transmit: options.map_or(Transmit::Auto, |(options, _)| options.transmit),
        tx_method: None,
        shares_payloads: false,
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

/// Adds a finding where the file asks for GSO packets and they cannot leave.
pub(super) fn gso_packets(
    options: Option<(&InterfaceOptions, &InterfacePlaces)>,
    facts: &InterfaceFacts,
    host_facts: &HostFacts,
    findings: &mut Vec<Finding>,
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
    let (cause, remedy) = if !host_facts.gso_packets {
        (
            "`transmit` \"segmented\" needs Linux 6.2, whose packet sockets take UDP GSO packets"
                .into(),
            "leave `transmit` out, or use a newer kernel".into(),
        )
    } else if !tx_methods::takes_gso_packets(facts) {
        (
            format!("`transmit` \"segmented\": interface `{name}` does not take UDP GSO packets"),
            format!(
                "`ethtool -k {name}` shows `tx-udp-segmentation`, and `ethtool -K {name} tx-udp-segmentation on` \
                 sets it where the driver can; otherwise leave `transmit` out"
            ),
        )
    } else {
        return;
    };
    let mistake = places.spot(place).mistake(cause, remedy);
    findings.push(Finding::about(name, &Role::OUTPUTS, mistake));
}

/// Adds a finding for each CPU that this machine does not have.
pub(super) fn cpus(
    options: &InterfaceOptions,
    places: &InterfacePlaces,
    configured: u32,
    findings: &mut Vec<Finding>,
) {
    for (cpu, place) in options.cpus.iter().flatten().zip(&places.cpus) {
        if *cpu >= configured {
            let mistake = places.spot(*place).mistake(
                format!("there is no CPU {cpu}: this machine has {configured}, counted from 0"),
                "`lscpu` lists them; correct `cpus`, or leave it out to let the kernel choose"
                    .into(),
            );
            findings.push(Finding::about(&options.name, &[Role::Input], mistake));
        }
    }
}
