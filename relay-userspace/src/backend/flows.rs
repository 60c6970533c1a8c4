//! Everything a worker needs to know of its flows, laid out flat, and the look-up.
//!
//! A flow's outputs are either [`Group`]s, which leave by AF_XDP TX rings, or [`Leg`]s, which leave by packet sockets,
//! as super-frames where the interface takes them. Both are ranges of one array a worker, so that the loop walks memory in order.

use std::{ops::Range, sync::Arc};

use relay_common::{abi::FlowKey, wire::ETHERNET_LEN};
use rustc_hash::FxHashMap;

use crate::{
    kernel,
    link::{Link, State},
    plan::{self, Engine, Plan},
    rewrite::{Target, Template},
};

/// The flows of one worker.
#[derive(Debug)]
pub struct Flows {
    by_key: FxHashMap<FlowKey, u32>,
    /// The flow that the last frame belonged to: feeds come in bursts.
    last: Option<(FlowKey, u32)>,
    flows: Box<[Flow]>,
    groups: Box<[Group]>,
    members: Box<[Member]>,
    legs: Box<[Leg]>,
    followed: Box<[Followed]>,
}

/// A link that copies leave by.
#[derive(Debug)]
struct Followed {
    link: Arc<Link>,
    /// What members and legs have of it.
    seen: State,
    /// Of its ports, the positions in the worker.
    ports: Vec<usize>,
    /// Of its sender, the position in the worker, and whether the plan lets GSO packets leave by it.
    sender: Option<(usize, bool)>,
}

/// A flow's outputs, as ranges of the arrays in [`Flows`].
#[derive(Debug)]
struct Flow {
    groups: Range<usize>,
    legs: Range<usize>,
}

/// Outputs that leave by TX rings and whose frames are identical, a range of the members in [`Flows`].
#[derive(Debug)]
pub struct Group {
    /// Their headers.
    pub template: Template,
    members: Range<usize>,
}

/// One output that leaves by a TX ring.
#[derive(Debug)]
pub struct Member {
    /// Position of its port in the worker.
    pub port: usize,
    /// Position of its counters in [`crate::stats::WorkerStats::outputs`].
    pub output: u32,
    /// The largest frame its interface takes, in bytes from the Ethernet header on.
    pub max_len: usize,
}

/// One output that leaves by a packet socket.
#[derive(Debug)]
pub struct Leg {
    /// Its headers.
    pub template: Template,
    /// Position of its sender in the worker.
    pub sender: usize,
    /// Whether its interface takes super-frames; else every frame leaves for itself.
    pub joins: bool,
    /// Position of its counters in [`crate::stats::WorkerStats::outputs`].
    pub output: u32,
    /// The largest frame its interface takes, in bytes from the Ethernet header on.
    pub max_len: usize,
}

impl Flows {
    /// Lays out the flows of a worker, for its ports and senders in the worker's order.
    #[must_use]
    pub fn new(plan: &Plan, worker: &plan::Worker) -> Self {
        let mut by_key = FxHashMap::default();
        let (mut flows, mut groups) = (Vec::new(), Vec::new());
        let (mut members, mut legs) = (Vec::new(), Vec::new());
        let mut first_output = 0;
        for flow in worker.flows.iter().filter_map(|&at| plan.flows.get(at)) {
            let Some(key) = kernel::key(plan, flow) else {
                continue;
            };
            by_key.insert(key, flows.len() as u32);
            let (first_group, first_leg) = (groups.len(), legs.len());
            let mut by_template: Vec<(Template, Vec<Member>)> = Vec::new();
            for (output, number) in flow.outputs.iter().zip(first_output..) {
                let Some(interface) = plan.interfaces.get(output.interface) else {
                    continue;
                };
                let template = Template::new(&Target {
                    source_mac: interface.mac,
                    destination_mac: output.destination_mac,
                    source: output.source,
                    destination: output.group,
                    port: output.port,
                    ttl: output.ttl,
                });
                let max_len = ETHERNET_LEN + interface.mtu as usize;
                match way(plan, worker, output.interface) {
                    Some(Way::Sender { sender, joins }) => legs.push(Leg {
                        template,
                        sender,
                        joins,
                        output: number,
                        max_len,
                    }),
                    Some(Way::Port(port)) => {
                        let member = Member {
                            port,
                            output: number,
                            max_len,
                        };
                        match by_template.iter_mut().find(|(other, _)| *other == template) {
                            Some((_, members)) => members.push(member),
                            None => by_template.push((template, vec![member])),
                        }
                    }
                    None => {}
                }
            }
            first_output += flow.outputs.len() as u32;
            for (template, of_group) in by_template {
                let first_member = members.len();
                members.extend(of_group);
                groups.push(Group {
                    template,
                    members: first_member..members.len(),
                });
            }
            if let Some(of_flow) = legs.get_mut(first_leg..) {
                of_flow.sort_by_key(|leg| leg.sender);
            }
            flows.push(Flow {
                groups: first_group..groups.len(),
                legs: first_leg..legs.len(),
            });
        }
        Self {
            by_key,
            last: None,
            flows: flows.into(),
            groups: groups.into(),
            members: members.into(),
            legs: legs.into(),
            followed: followed(plan, worker),
        }
    }

    /// The links that its copies leave by.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        self.followed.iter().map(|one| Arc::clone(&one.link))
    }

    /// Takes over what has become known of the links. Once a round.
    #[inline]
    pub fn follow_links(&mut self) {
        for at in 0..self.followed.len() {
            let changed = self.followed.get(at).and_then(|followed| {
                let state = followed.link.state();
                (state != followed.seen).then_some(state)
            });
            if let Some(state) = changed {
                self.follow(at, state);
            }
        }
    }

    #[cold]
    fn follow(&mut self, at: usize, state: State) {
        let Some(followed) = self.followed.get_mut(at) else {
            return;
        };
        followed.seen = state;
        let mine = |member: &&mut Member| followed.ports.contains(&member.port);
        for member in self.members.iter_mut().filter(mine) {
            member.max_len = state.max_len();
        }
        if let Some((sender, joins)) = followed.sender {
            for leg in self.legs.iter_mut().filter(|leg| leg.sender == sender) {
                leg.max_len = state.max_len();
                leg.joins = joins && state.joins();
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The number of the flow that frames with `key` belong to.
    #[inline]
    pub fn look_up(&mut self, key: FlowKey) -> Option<u32> {
        if let Some((last, flow)) = self.last
            && last == key
        {
            return Some(flow);
        }
        let flow = *self.by_key.get(&key)?;
        self.last = Some((key, flow));
        Some(flow)
    }

    /// The groups of a flow.
    #[inline]
    #[must_use]
    pub fn groups(&self, flow: u32) -> &[Group] {
        let flow = self.flows.get(flow as usize);
        flow.and_then(|flow| self.groups.get(flow.groups.clone()))
            .unwrap_or(&[])
    }

    /// The legs of a flow, in the order of their senders.
    #[inline]
    #[must_use]
    pub fn legs(&self, flow: u32) -> &[Leg] {
        let flow = self.flows.get(flow as usize);
        flow.and_then(|flow| self.legs.get(flow.legs.clone()))
            .unwrap_or(&[])
    }

    /// The members of a group.
    #[inline]
    #[must_use]
    pub fn members(&self, group: &Group) -> &[Member] {
        self.members.get(group.members.clone()).unwrap_or(&[])
    }
}

/// The links of all interfaces that copies of `worker` leave by.
fn followed(plan: &Plan, worker: &plan::Worker) -> Box<[Followed]> {
    let interfaces = plan.interfaces.iter().enumerate();
    let followed = interfaces.filter_map(|(at, interface)| {
        let engine = worker.engine(plan, at)?;
        let ports = worker.ports.iter().enumerate();
        let ports = ports.filter(|(_, port)| port.transmits && port.interface == at);
        let mut senders = worker.senders.iter();
        let sender = senders.position(|&sender| sender == at);
        let link = Link::new(interface);
        Some(Followed {
            seen: link.state(),
            link: Arc::new(link),
            ports: ports.map(|(position, _)| position).collect(),
            sender: sender.map(|sender| (sender, engine == Engine::Segmented)),
        })
    });
    followed.collect()
}

/// How a worker's copies leave by an interface.
enum Way {
    Port(usize),
    Sender { sender: usize, joins: bool },
}

fn way(plan: &Plan, worker: &plan::Worker, interface: usize) -> Option<Way> {
    let engine = worker.engine(plan, interface)?;
    if engine == Engine::Xsk {
        let mut ports = worker.ports.iter();
        return ports
            .position(|port| port.transmits && port.interface == interface)
            .map(Way::Port);
    }
    let mut senders = worker.senders.iter();
    let sender = senders.position(|&at| at == interface)?;
    let joins = engine == Engine::Segmented;
    Some(Way::Sender { sender, joins })
}
