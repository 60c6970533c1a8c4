//! From a plan to the flows of a worker: their outputs follow each other in the arrays of
//! [`Flows`], flow by flow, ring outputs with identical frames together, socket outputs by TX
//! socket.
//!
//! Control does this for every new table; a worker only takes it over.

use std::sync::Arc;

use super::{
    Flow, Flows, Followed, Ports, RingCopies, RingOutput, SocketOutput,
    followed_hops::FollowedHops, most_in,
};
use crate::{
    datapath::{
        output_link::{Links, State},
        slots::{FlowSlots, Slots},
    },
    host::neighbours::OnLink,
    matching::{MatchKey, Table},
    packet::{Keeping, Keeps, Target, Template},
    plan::{self, Interface, InterfaceId, LinkDestination, Plan, TxMethod},
};

impl Flows {
    /// Lays out the flows of a worker, for its ports and TX sockets in the worker's order. `slots`
    /// has the slots of these flows, `links` the links that their copies leave through.
    #[must_use]
    pub fn new(
        plan: &Plan,
        worker: &plan::WorkerPlan,
        slots: &Slots,
        links: &Links,
        ports: &Ports,
    ) -> Self {
        let mut layout = Layout {
            plan,
            worker,
            ports,
            frame_room: worker.frame_room(plan) as usize,
            keys: Vec::new(),
            inputs: Vec::new(),
            flows: vec![Flow::default(); slots.flows_end()],
            ring_copies: Vec::new(),
            ring_outputs: Vec::new(),
            socket_outputs: Vec::new(),
            hops: FollowedHops::new(&links.next_hops),
        };
        let planned = worker.flows.iter().filter_map(|&at| plan.flows.get(at));
        for (flow, slots) in planned.zip(slots.iter()) {
            layout.add_keys(flow, slots.flow);
            layout.add_flow(flow, slots);
        }
        layout.end(links)
    }
}

/// What is laid out so far.
struct Layout<'a> {
    plan: &'a Plan,
    worker: &'a plan::WorkerPlan,
    ports: &'a Ports,
    frame_room: usize,
    /// What the table matches, with the number of the flow.
    keys: Vec<(MatchKey, u32)>,
    inputs: Vec<u32>,
    flows: Vec<Flow>,
    ring_copies: Vec<RingCopies>,
    ring_outputs: Vec<RingOutput>,
    socket_outputs: Vec<SocketOutput>,
    hops: FollowedHops,
}

/// The outputs of one flow, in the order of the plan. Unicast outputs have a next hop.
struct Outputs {
    /// What some copies keep.
    keeps: Keeps,
    keeps_apart: bool,
    ring_copies: Vec<Identical>,
    socket_outputs: Vec<(SocketOutput, Option<OnLink>)>,
}

/// Ring outputs whose frames are identical.
struct Identical {
    template: Template,
    next_hop: Option<OnLink>,
    ring_outputs: Vec<RingOutput>,
}

impl Layout<'_> {
    /// Adds what is matched for a flow with this number.
    fn add_keys(&mut self, flow: &plan::Flow, number: u32) {
        for key in self.plan.keys(flow) {
            let known = self.inputs.iter().position(|&input| input == key.interface);
            let at = known.unwrap_or(self.inputs.len());
            if known.is_none() {
                self.inputs.push(key.interface);
            }
            let slot = u8::try_from(at);
            self.keys.extend(slot.map(|slot| (key.at(slot), number)));
        }
    }

    /// Adds a flow and its outputs.
    fn add_flow(&mut self, flow: &plan::Flow, slots: &FlowSlots) {
        let outputs = self.outputs(flow, slots);
        let Outputs {
            keeps, keeps_apart, ..
        } = outputs;
        let first_copies = self.ring_copies.len();
        let first_socket_output = self.socket_outputs.len();
        self.add_ring_copies(outputs.ring_copies);
        self.add_socket_outputs(outputs.socket_outputs);
        if let Some(place) = self.flows.get_mut(slots.flow as usize) {
            *place = Flow {
                ring_copies: first_copies..self.ring_copies.len(),
                socket_outputs: first_socket_output..self.socket_outputs.len(),
                keeping: (!keeps.nothing()).then(|| Keeping::new(&flow.matches, keeps)),
                keeps_apart,
            };
        }
    }

    /// The outputs of a flow.
    fn outputs(&mut self, flow: &plan::Flow, slots: &FlowSlots) -> Outputs {
        let mut outputs = Outputs::none();
        for (output, &number) in flow.outputs.iter().zip(&slots.outputs) {
            let Some(interface) = self.plan.interfaces.get(output.interface) else {
                continue;
            };
            let Some((template, next_hop)) = self.template(flow, output, interface) else {
                continue;
            };
            outputs.keeps = outputs.keeps.or(template.keeps());
            outputs.keeps_apart &= template.keeps().all_places_of(&flow.matches);
            let max_payload = template.max_payload(interface.mtu);
            match leaves_by(self.plan, self.worker, output.interface, self.ports) {
                Some(LeavesBy::Port(port)) => {
                    let ring_output = RingOutput {
                        port,
                        output: number,
                        max_payload: max_payload.min(most_in(self.frame_room, &template)),
                    };
                    outputs.add_ring_output(template, next_hop, ring_output);
                }
                Some(LeavesBy::TxSocket { tx_socket, joins }) => {
                    let socket_output = SocketOutput {
                        joins: joins && State::planned(interface).joins(template.tags()),
                        template,
                        tx_socket,
                        output: number,
                        max_payload,
                    };
                    outputs.socket_outputs.push((socket_output, next_hop));
                }
                None => {}
            }
        }
        outputs
    }

    /// The headers of an output's copies, and the next hop that they go to if it is a unicast
    /// output.
    fn template(
        &mut self,
        flow: &plan::Flow,
        output: &plan::Output,
        interface: &Interface,
    ) -> Option<(Template, Option<OnLink>)> {
        let (destination_mac, next_hop) = match output.to {
            LinkDestination::Group(mac) => (mac, None),
            LinkDestination::NextHop(address) => {
                let interface = interface.index;
                ([0; 6], Some(OnLink { interface, address }))
            }
        };
        let mut template = Template::new(&Target {
            source_mac: interface.mac,
            destination_mac,
            source: output.source,
            group: output.group,
            port: output.port,
            header: &output.header,
            input: &flow.matches,
        })?;
        if let Some(host) = next_hop {
            template.set_destination_mac(self.hops.mac(host));
        }
        Some((template, next_hop))
    }

    /// Adds the ring outputs of a flow.
    fn add_ring_copies(&mut self, ring_copies: Vec<Identical>) {
        for copies in ring_copies {
            if let Some(host) = copies.next_hop {
                self.hops.add_ring_copies(self.ring_copies.len(), host);
            }
            let first_output = self.ring_outputs.len();
            self.ring_outputs.extend(copies.ring_outputs);
            self.ring_copies.push(RingCopies {
                template: copies.template,
                ring_outputs: first_output as u32..self.ring_outputs.len() as u32,
            });
        }
    }

    /// Adds the socket outputs of a flow.
    fn add_socket_outputs(&mut self, mut socket_outputs: Vec<(SocketOutput, Option<OnLink>)>) {
        socket_outputs.sort_by_key(|(socket_output, _)| socket_output.tx_socket);
        for (socket_output, next_hop) in socket_outputs {
            if let Some(host) = next_hop {
                self.hops.add_socket_output(self.socket_outputs.len(), host);
            }
            self.socket_outputs.push(socket_output);
        }
    }

    /// The flows, when all have been added.
    fn end(self, links: &Links) -> Flows {
        Flows {
            // The plan has no more shapes than a table takes.
            table: Table::new(self.keys).unwrap_or_default(),
            inputs: self.inputs.into(),
            waiting: Arc::default(),
            local: None,
            monitors: Box::default(),
            any_keeps: self.flows.iter().any(|flow| flow.keeping.is_some()),
            frame_room: self.frame_room,
            flows: self.flows.into(),
            ring_copies: self.ring_copies.into(),
            ring_outputs: self.ring_outputs.into(),
            socket_outputs: self.socket_outputs.into(),
            next_hops: self.hops.into_any(),
            followed: followed(self.plan, self.worker, links, self.ports),
        }
    }
}

impl Outputs {
    fn none() -> Self {
        Self {
            keeps: Keeps::default(),
            keeps_apart: true,
            ring_copies: Vec::new(),
            socket_outputs: Vec::new(),
        }
    }

    /// Adds a ring output to those whose frames are identical.
    fn add_ring_output(
        &mut self,
        template: Template,
        next_hop: Option<OnLink>,
        ring_output: RingOutput,
    ) {
        let mut known = self.ring_copies.iter_mut();
        let same = known.find(|one| one.next_hop == next_hop && one.template == template);
        match same {
            Some(copies) => copies.ring_outputs.push(ring_output),
            None => self.ring_copies.push(Identical {
                template,
                next_hop,
                ring_outputs: vec![ring_output],
            }),
        }
    }
}

/// The links of all interfaces that copies of `worker` leave through.
fn followed(
    plan: &Plan,
    worker: &plan::WorkerPlan,
    links: &Links,
    places: &Ports,
) -> Box<[Followed]> {
    let interfaces = plan.interfaces.with_ids();
    let followed = interfaces.filter_map(|(at, interface)| {
        let tx_method = worker.tx_method(plan, at)?;
        let ports = worker.ports.iter();
        let ports = ports.filter(|port| port.transmits && port.interface == at);
        let mut tx_sockets = worker.tx_sockets.iter();
        let tx_socket = tx_sockets.position(|&tx_socket| tx_socket == at);
        Some(Followed {
            // The outputs are made from the plan. Where the link knows better, they follow it in
            // the first round.
            seen: State::planned(interface),
            link: links.get(interface.index)?,
            ports: ports.filter_map(|port| places.place(plan, port)).collect(),
            tx_socket: tx_socket.map(|tx_socket| (tx_socket, tx_method == TxMethod::Segmented)),
        })
    });
    followed.collect()
}

/// Whether copies of a worker of a plan can leave through an interface, with the ports that it has.
pub(in crate::datapath) fn can_leave(
    plan: &Plan,
    worker: &plan::WorkerPlan,
    interface: InterfaceId,
    places: &Ports,
) -> bool {
    leaves_by(plan, worker, interface, places).is_some()
}

/// How a worker's copies leave through an interface.
enum LeavesBy {
    Port(usize),
    TxSocket { tx_socket: usize, joins: bool },
}

fn leaves_by(
    plan: &Plan,
    worker: &plan::WorkerPlan,
    interface: InterfaceId,
    places: &Ports,
) -> Option<LeavesBy> {
    let tx_method = worker.tx_method(plan, interface)?;
    if tx_method == TxMethod::Xsk {
        let mut ports = worker.ports.iter();
        let port = ports.find(|port| port.transmits && port.interface == interface)?;
        return places.place(plan, port).map(LeavesBy::Port);
    }
    let mut tx_sockets = worker.tx_sockets.iter();
    let tx_socket = tx_sockets.position(|&at| at == interface)?;
    let joins = tx_method == TxMethod::Segmented;
    Some(LeavesBy::TxSocket { tx_socket, joins })
}
