//! The next hops that a table has taken over: after a change of any, the templates of its outputs
//! get the Ethernet addresses of now.

use std::{collections::BTreeMap, sync::Arc};

use super::{RingCopies, SocketOutput};
use crate::{
    datapath::next_hops::{NextHop, NextHops},
    host::neighbours::OnLink,
};

/// The next hops of the unicast outputs of a table.
#[derive(Debug)]
pub(super) struct FollowedHops {
    table: Arc<NextHops>,
    /// The generation of the addresses that the templates have.
    seen: u64,
    hops: Vec<FollowedHop>,
    /// Where each of them is.
    known: BTreeMap<OnLink, usize>,
}

/// One next hop, with the positions of its outputs in the table.
#[derive(Debug)]
struct FollowedHop {
    hop: Arc<NextHop>,
    seen: Option<[u8; 6]>,
    ring_copies: Vec<usize>,
    socket_outputs: Vec<usize>,
}

impl FollowedHops {
    /// None yet, of those in `table`.
    pub(super) fn new(table: &Arc<NextHops>) -> Self {
        Self {
            // Before any address is read: what changes from here on is taken over later.
            seen: table.generation(),
            table: Arc::clone(table),
            hops: Vec::new(),
            known: BTreeMap::new(),
        }
    }

    /// All of them; `None` if there are none.
    pub(super) fn into_any(self) -> Option<Box<Self>> {
        (!self.hops.is_empty()).then(|| Box::new(self))
    }

    /// The Ethernet address of a next hop, which is the same for all outputs of the table until the
    /// next change is taken over.
    pub(super) fn mac(&mut self, host: OnLink) -> Option<[u8; 6]> {
        self.followed(host).and_then(|followed| followed.seen)
    }

    /// The ring copies at this position go to `host`.
    pub(super) fn add_ring_copies(&mut self, at: usize, host: OnLink) {
        if let Some(followed) = self.followed(host) {
            followed.ring_copies.push(at);
        }
    }

    /// The socket output at this position goes to `host`.
    pub(super) fn add_socket_output(&mut self, at: usize, host: OnLink) {
        if let Some(followed) = self.followed(host) {
            followed.socket_outputs.push(at);
        }
    }

    fn followed(&mut self, host: OnLink) -> Option<&mut FollowedHop> {
        let at = *self.known.entry(host).or_insert(self.hops.len());
        if at == self.hops.len() {
            let hop = self.table.get(host);
            self.hops.push(FollowedHop {
                seen: hop.mac(),
                hop,
                ring_copies: Vec::new(),
                socket_outputs: Vec::new(),
            });
        }
        self.hops.get_mut(at)
    }

    /// Gives the outputs the addresses of now, if any has changed.
    #[inline]
    pub(super) fn follow(
        &mut self,
        ring_copies: &mut [RingCopies],
        socket_outputs: &mut [SocketOutput],
    ) {
        let generation = self.table.generation();
        if generation != self.seen {
            self.seen = generation;
            self.take_over(ring_copies, socket_outputs);
        }
    }

    #[cold]
    fn take_over(&mut self, ring_copies: &mut [RingCopies], socket_outputs: &mut [SocketOutput]) {
        for followed in &mut self.hops {
            let mac = followed.hop.mac();
            if mac == followed.seen {
                continue;
            }
            followed.seen = mac;
            for &at in &followed.ring_copies {
                if let Some(copies) = ring_copies.get_mut(at) {
                    copies.template.set_destination_mac(mac);
                }
            }
            for &at in &followed.socket_outputs {
                if let Some(socket_output) = socket_outputs.get_mut(at) {
                    socket_output.template.set_destination_mac(mac);
                }
            }
        }
    }
}
