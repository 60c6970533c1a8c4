//! All packet sockets of a worker, and what they have in common: the memory of their messages.
//!
//! What came in one batch has left, or is counted, when [`Senders::send`] returns: `sendmmsg` takes the payloads from
//! the chunks, which are free then.

use std::{os::fd::AsRawFd, sync::Arc};

use nix::errno::Errno;

use super::{
    messages::{HandOver, Messages, Queue},
    umem::{Chunk, Chunks},
};
use crate::{
    backend::{SetupError, batch::Batch, copies, flows::Flows, outlet::Outlet},
    device_drops::Cut,
    plan::{self, Plan},
    stats::{OutputStats, WorkerStats},
};

/// A worker's packet sockets, one an interface that copies leave by in super-frames.
#[derive(Debug)]
pub struct Senders {
    outlets: Vec<Outlet>,
    queue: Queue,
}

impl Senders {
    /// Opens the sockets of `worker`, in its order.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn open(plan: &Plan, worker: &plan::Worker) -> Result<Self, SetupError> {
        Ok(Self {
            outlets: Outlet::open_all(plan, worker)?,
            queue: Queue::default(),
        })
    }

    /// What each outlet believes of its device, in the worker's order.
    pub fn devices(&self) -> impl Iterator<Item = Arc<Cut>> {
        self.outlets.iter().map(Outlet::device)
    }

    /// Sends every run of `batch` by all legs of its flow.
    #[inline]
    pub fn send(
        &mut self,
        batch: &mut Batch<Chunk>,
        flows: &Flows,
        chunks: &Chunks,
        stats: &WorkerStats,
    ) {
        let Self { outlets, queue } = self;
        for (number, outlet) in outlets.iter_mut().enumerate() {
            let take = |messages: Messages<'_>| send(outlet, messages, &stats.outputs);
            let mut outbox = HandOver { queue, take };
            copies::make(number, batch, flows, chunks, stats, &mut outbox);
        }
    }
}

/// Sends the messages, and counts each frame as sent or under the reason why not.
fn send(outlet: &mut Outlet, mut messages: Messages<'_>, stats: &[OutputStats]) {
    outlet.follow_device();
    let mut done = 0;
    while done < messages.len() {
        let (refusal, answered) = match send_messages(outlet, messages.from(done)) {
            Ok(sent) => (None, sent),
            Err(Errno::EINTR) => continue,
            Err(Errno::ENOBUFS) if outlet.finds_itself_cut() => continue,
            // A device that is down or gone refuses them all.
            Err(error @ (Errno::ENETDOWN | Errno::ENXIO)) => (Some(error), messages.len() - done),
            Err(error) => (Some(error), 1),
        };
        for (output, frames) in messages.frames(done, answered) {
            match (stats.get(output as usize), refusal) {
                (Some(output), None) => output.sent.add(frames),
                (Some(output), Some(error)) => {
                    outlet.count_refused(error, outlet.is_direct(), output, frames);
                }
                (None, _) => {}
            }
        }
        done += answered;
    }
}

/// One `sendmmsg`: how many of the messages the kernel took, at least one.
#[inline]
fn send_messages(outlet: &Outlet, messages: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
    // SAFETY: the messages are of `Messages`, whose pointers are all valid.
    let sent = unsafe {
        libc::sendmmsg(
            outlet.socket().as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    match Errno::result(sent)? {
        // The kernel never says so; taken for a refusal, it cannot become an endless loop.
        0 => Err(Errno::EIO),
        sent => Ok(sent as usize),
    }
}
