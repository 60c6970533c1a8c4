//! All packet sockets of a worker, and what they have in common: the memory of their messages.
//!
//! What came in one batch has left, is counted, or waits copied when [`Senders::send`] returns:
//! `sendmmsg` takes the payloads from the chunks, which are free then.

use std::{os::fd::AsRawFd, sync::Arc};

use nix::errno::Errno;

use super::{
    messages::{HandOver, Messages, Queue},
    umem::{Chunk, Chunks},
};
use crate::{
    backend::{SetupError, batch::Batch, copies, flows::Flows, outlet::Outlet},
    link::Link,
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

    /// The same, to send what waits in them.
    pub fn outlets_mut(&mut self) -> &mut [Outlet] {
        &mut self.outlets
    }

    /// The outlets, in the worker's order.
    pub fn outlets(&self) -> &[Outlet] {
        &self.outlets
    }

    /// What each outlet knows of its device.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        self.outlets.iter().map(Outlet::link)
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
            let limits = outlet.limits_now();
            let take = |messages: Messages<'_>| send(outlet, messages, &stats.outputs);
            let mut outbox = HandOver {
                queue,
                limits,
                take,
            };
            copies::make(number, batch, flows, chunks, stats, &mut outbox);
        }
    }
}

/// Sends the messages, and counts each frame as sent or under the reason why not. What a full ring
/// refuses waits, and all that follows it.
fn send(outlet: &mut Outlet, mut messages: Messages<'_>, outputs: &[OutputStats]) {
    outlet.begin(outputs);
    let mut done = 0;
    while done < messages.len() {
        if outlet.waits() {
            wait(outlet, &messages, done, outputs);
            return;
        }
        let (refusal, answered) = match send_messages(outlet, messages.from(done)) {
            Ok(sent) => (None, sent),
            Err(Errno::EINTR) => continue,
            // A device that is down or gone refuses them all.
            Err(error @ (Errno::ENETDOWN | Errno::ENXIO)) => (Some(error), messages.len() - done),
            Err(error) => {
                let frames = messages.frames(done, 1).map(|(_, frames)| frames).sum();
                if outlet.can_wait(error, outlet.is_direct(), frames) {
                    wait(outlet, &messages, done, outputs);
                    return;
                }
                (Some(error), 1)
            }
        };
        for (output, frames) in messages.frames(done, answered) {
            match (outputs.get(output as usize), refusal) {
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

/// Has the messages from number `first` on wait for the device.
#[cold]
fn wait(outlet: &mut Outlet, messages: &Messages<'_>, first: usize, outputs: &[OutputStats]) {
    for at in first..messages.len() {
        for (output, frames) in messages.frames(at, 1) {
            outlet.wait(output, frames as u16, messages.parts(at), outputs);
        }
    }
}

/// One `sendmmsg` of as many of the messages as may be sent at once: how many the kernel took, at
/// least one.
#[inline]
fn send_messages(outlet: &Outlet, messages: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
    let count = messages.len().min(outlet.at_once());
    // SAFETY: the messages are of `Messages`, whose pointers are all valid.
    let sent = unsafe {
        libc::sendmmsg(
            outlet.socket().as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    match Errno::result(sent)? {
        // The kernel never says so; taken for a refusal, it cannot become an endless loop.
        0 => Err(Errno::EIO),
        sent => Ok(sent as usize),
    }
}
