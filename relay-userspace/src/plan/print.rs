//! The plan as text for people, in the order in which an operator needs it in an outage.

use std::fmt;

use super::{
    backend::Backend,
    header_text::HeaderText,
    ids::InterfaceId,
    mac::Mac,
    model::{Flow, Mode, Output, Plan, Port, TxMethod, WorkerPlan},
    wording::spans,
};
use crate::config::rules::{GroupPort, Vlan};

/// The most rule names that one worker's line shows.
const NAMED_FLOWS: usize = 6;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print_interfaces(f)?;
        self.print_workers(f)?;
        self.print_flows(f)?;
        if !self.notes.is_empty() {
            writeln!(f, "\nnotes")?;
            for note in &self.notes {
                writeln!(f, "  - {note}")?;
            }
        }
        Ok(())
    }
}

impl Mode {
    /// What to print after the mode, so that users do not take copy mode for a fault.
    #[must_use]
    pub fn remark(self) -> &'static str {
        match self {
            Self::ZeroCopy => "",
            Self::Copy => " (no fault: every rule works in it)",
        }
    }
}

impl Backend {
    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::IoUring => "io-uring",
        }
    }
}

impl Mode {
    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        }
    }
}

impl TxMethod {
    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xsk => "xsk",
            Self::Segmented => "segmented",
            Self::Frames => "frames",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero copy",
            Self::Copy => "copy",
        })
    }
}

impl fmt::Display for TxMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xsk => "AF_XDP TX rings",
            Self::Segmented => "GSO packets",
            Self::Frames => "packet sockets",
        })
    }
}

impl Plan {
    fn name(&self, interface: InterfaceId) -> &str {
        self.interfaces
            .get(interface)
            .map_or("?", |interface| &interface.name)
    }

    fn print_interfaces(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "interfaces")?;
        for interface in &self.interfaces {
            let role = match (interface.is_input, interface.is_output) {
                (true, true) => "input and output",
                (true, false) => "input",
                (false, _) => "output",
            };
            let ipv4 = interface.address.map(|address| address.to_string());
            let ipv6 = interface.ipv6_sources.iter().map(ToString::to_string);
            let addresses: Vec<String> = ipv4.into_iter().chain(ipv6).collect();
            let address = match addresses.is_empty() {
                true => "no IPv4 address".to_owned(),
                false => addresses.join(" and "),
            };
            let because = match &interface.reason[..] {
                "" => String::new(),
                reason => format!(", because {reason}"),
            };
            let way = match (interface.backend, interface.expected_mode) {
                (Backend::Xdp, None) => None,
                (Backend::Xdp, Some(mode)) => {
                    let remark = mode.remark();
                    Some(format!("AF_XDP {mode} expected{remark}{because}"))
                }
                (Backend::IoUring, _) => Some(format!("io_uring{because}")),
            };
            let tx_method = interface.tx_method.map(|tx_method| match way {
                Some(_) => format!("; transmits by {tx_method}"),
                None => format!(", transmits by {tx_method}{because}"),
            });
            let igmp = interface.igmp.map(|version| format!(", IGMPv{version}"));
            let checksums = interface
                .checksums
                .map(|known| format!(", checksums {known}"));
            let switched = match &interface.offloads[..] {
                [] => String::new(),
                switched => format!(
                    "; {} as long as the relay runs",
                    switched
                        .iter()
                        .map(|one| format!("{one} {}", if one.wanted_on() { "on" } else { "off" }))
                        .collect::<Vec<_>>()
                        .join(" and ")
                ),
            };
            writeln!(
                f,
                "  {:<15}  {role}{}{}\n  {:<15}  index {}, driver {}, {}, {address}, MTU {}{}{}{switched}",
                interface.name,
                way.map(|way| format!(", {way}")).unwrap_or_default(),
                tx_method.unwrap_or_default(),
                "",
                interface.index,
                interface.driver,
                Mac(interface.mac),
                interface.mtu,
                igmp.unwrap_or_default(),
                checksums.unwrap_or_default(),
            )?;
        }
        Ok(())
    }

    fn print_workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nworkers")?;
        for (number, worker) in self.workers.iter().enumerate() {
            let cpu = worker
                .cpu
                .map_or("not pinned".to_owned(), |cpu| format!("CPU {cpu}"));
            let mut rules: Vec<&str> = worker
                .flows
                .iter()
                .take(NAMED_FLOWS)
                .filter_map(|flow| self.flows.get(*flow))
                .map(|flow| flow.rule.as_str())
                .collect();
            let more = worker.flows.len().saturating_sub(NAMED_FLOWS);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            if rules.is_empty() {
                rules.push("none");
            }
            writeln!(f, "  worker {number}, {cpu}")?;
            writeln!(f, "    receives from  {}", self.receivers(worker))?;
            writeln!(f, "    transmits by   {}", self.transmitters(worker))?;
            writeln!(f, "    rules          {}{more}", rules.join(", "))?;
        }
        Ok(())
    }

    /// "in0 queues 0, 2; in1 queue 0"
    fn ports(&self, worker: &WorkerPlan, wanted: impl Fn(&Port) -> bool) -> String {
        let mut parts: Vec<(InterfaceId, Vec<u32>)> = Vec::new();
        for port in worker.ports.iter().filter(|port| wanted(port)) {
            match parts.last_mut() {
                Some((interface, queues)) if *interface == port.interface => {
                    queues.push(port.queue);
                }
                _ => parts.push((port.interface, vec![port.queue])),
            }
        }
        let part = |(interface, queues): &(InterfaceId, Vec<u32>)| {
            let plural = if queues.len() == 1 { "" } else { "s" };
            format!("{} queue{plural} {}", self.name(*interface), spans(queues))
        };
        if parts.is_empty() {
            return "nothing".into();
        }
        parts.iter().map(part).collect::<Vec<_>>().join("; ")
    }

    /// "in0 queues 0, 2", or "in0 by a packet socket (shared by 2 workers)"
    fn receivers(&self, worker: &WorkerPlan) -> String {
        let Some(input) = worker.input else {
            return self.ports(worker, |port| port.receives);
        };
        let workers = self.workers.iter();
        let sharing = workers.filter(|other| other.input == Some(input)).count();
        let shared = if sharing > 1 {
            format!(" (shared by {sharing} workers)")
        } else {
            String::new()
        };
        format!("{} by a packet socket{shared}", self.name(input))
    }

    /// "out0 queue 0; out1 in GSO packets; out2 frame by frame"
    fn transmitters(&self, worker: &WorkerPlan) -> String {
        let mut parts = Vec::new();
        if worker.ports.iter().any(|port| port.transmits) {
            parts.push(self.ports(worker, |port| port.transmits));
        }
        for &interface in &worker.tx_sockets {
            let how = match worker.tx_method(self, interface) {
                Some(TxMethod::Frames) => "frame by frame",
                _ => "in GSO packets",
            };
            parts.push(format!("{} {how}", self.name(interface)));
        }
        if parts.is_empty() {
            return "nothing".into();
        }
        parts.join("; ")
    }

    fn print_flows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nrules")?;
        for flow in &self.flows {
            let count = flow.outputs.len();
            let limit = flow.limit.map_or_else(String::new, |limit| {
                format!(
                    ", at most {} per second and {} at once",
                    limit.packets_per_second, limit.burst
                )
            });
            let local = if flow.local {
                ", for this host too"
            } else {
                ""
            };
            writeln!(
                f,
                "  {}: {}{limit}{local}, {count} output{}",
                flow.rule,
                flow.matches.on(self.name(flow.interface)),
                if count == 1 { "" } else { "s" }
            )?;
            for output in &flow.outputs {
                self.print_output(flow, output, f)?;
            }
        }
        Ok(())
    }

    fn print_output(
        &self,
        flow: &Flow,
        output: &Output,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let routed = if output.is_routed {
            ", chosen by routing"
        } else {
            ""
        };
        let tags = match output.header.vlan.of_copy(flow.matches.vlan) {
            Vlan::Untagged => String::new(),
            tags => format!(", {tags}"),
        };
        writeln!(
            f,
            "    -> {} by {}{routed}{tags}\n       {}",
            GroupPort(output.group, output.port),
            self.name(output.interface),
            HeaderText::planned(self, output, flow.matches.vlan),
        )
    }
}
