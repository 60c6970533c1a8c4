//! From runs to messages: one GSO packet per output for each run of a batch.
//!
//! The messages of one interface follow each other, whichever flows they are of, and nothing is
//! kept for the next batch. No system call is made here: an [`Outbox`] takes the messages.

use std::borrow::Borrow;

use super::{
    batch::{Batch, Frame, Frames, Memory, Run},
    expired,
    flow_table::{Flows, SocketOutput},
    stats::{Dropped, WorkerStats},
    tap::Unmade,
    vnet_header::VnetHeader,
};
use crate::{
    host::GsoLimits,
    packet::{Received, Template},
};

/// One message for a packet socket: a frame, or a GSO packet of several.
#[derive(Debug)]
pub struct Message<W, F> {
    /// Position of the output's counters in [`WorkerStats::outputs`].
    pub output: u32,
    /// How many frames it holds.
    pub count: u16,
    /// Writes the vnet header and the frame's headers, and returns their length in all.
    pub write: W,
    /// The frames whose payloads follow the headers, at most [`super::batch::MAX_JOINED`].
    pub frames: F,
    /// Which messages around it have the same frames.
    pub in_run: InRun,
}

/// Which messages of an outbox have the same frames as one of them.
#[derive(Debug, Clone, Copy)]
pub struct InRun {
    /// The one right before it, so that what was made of them for that one can be used once more.
    pub repeats: bool,
    /// At most so many that follow it.
    pub may_follow: usize,
}

impl InRun {
    /// None.
    pub const ALONE: Self = Self {
        repeats: false,
        may_follow: 0,
    };
}

/// Sends the messages of one interface.
pub trait Outbox<M: Memory> {
    /// The limits that every message of more than one frame must stay within.
    fn limits(&self) -> GsoLimits;

    /// Takes a message. Counts every frame of it as sent, or under the reason why it was not.
    ///
    /// # Safety
    ///
    /// The payloads must stay where they are, and unwritten, until [`Outbox::finish`] has returned,
    /// and for as long after that as the outbox holds their places.
    unsafe fn post<'a, W, F>(&mut self, message: Message<W, F>, memory: &'a M)
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<M::Place>> + Clone,
        M::Place: 'a;

    /// Ends the messages of a batch.
    fn finish(&mut self);
}

/// Makes the messages of all runs of `batch` for the socket outputs of one TX socket, at position
/// `tx_socket`, and posts them to its `outbox`. Called once per batch and TX socket, in their
/// order.
#[inline]
pub fn make<M: Memory>(
    tx_socket: usize,
    batch: &mut Batch<M::Place>,
    flows: &Flows,
    memory: &M,
    stats: &WorkerStats,
    outbox: &mut impl Outbox<M>,
) {
    let (runs, frames) = batch.runs();
    let limits = outbox.limits();
    for run in runs {
        let socket_outputs = flows
            .socket_outputs(run.flow)
            .get(run.socket_output..)
            .unwrap_or(&[]);
        let mine =
            socket_outputs.partition_point(|socket_output| socket_output.tx_socket == tx_socket);
        run.socket_output += mine;
        let Some(first) = run.frames(frames).next().filter(|_| mine > 0) else {
            continue;
        };
        let copies = Copies {
            run,
            frames,
            first,
            // Once per run and not once per socket output: it may read the payload.
            udp_sum: (run.count == 1)
                .then(|| first.received.udp_sum(first.payload(memory)))
                .flatten(),
            limits,
            memory,
        };
        let mut repeats = false;
        for (may_follow, socket_output) in (0..mine).rev().zip(socket_outputs) {
            let in_run = InRun {
                repeats,
                may_follow,
            };
            repeats = if socket_output.template.is_plain() {
                copies.post(socket_output, AsReceived, in_run, outbox, stats)
            } else {
                copies.post_adapted(socket_output, in_run, outbox, stats)
            };
        }
    }
    outbox.finish();
}

/// A run, and what its copies have in common.
struct Copies<'a, M: Memory> {
    run: &'a Run,
    frames: Frames<'a, M::Place>,
    first: &'a Frame<M::Place>,
    /// The UDP sum of the first frame, if it is the only one.
    udp_sum: Option<u32>,
    limits: GsoLimits,
    memory: &'a M,
}

/// The header fields that copies are made from: those that the datagram came with, or what an
/// output makes of them.
trait Fields<'a>: Copy {
    type Received: Borrow<Received> + Copy;

    fn received(self, received: &'a Received) -> Self::Received;

    /// [`Received::udp_sum`] of those, where `sum` is that of `received`.
    fn udp_sum(self, received: &Received, payload: &[u8], sum: Option<u32>) -> Option<u32>;
}

/// As they came.
#[derive(Clone, Copy)]
struct AsReceived;

impl<'a> Fields<'a> for AsReceived {
    type Received = &'a Received;

    #[inline(always)]
    fn received(self, received: &'a Received) -> &'a Received {
        received
    }

    #[inline(always)]
    fn udp_sum(self, _: &Received, _: &[u8], sum: Option<u32>) -> Option<u32> {
        sum
    }
}

/// As an output changes them.
impl<'a> Fields<'a> for &Template {
    type Received = Received;

    fn received(self, received: &'a Received) -> Received {
        Template::received(self, received)
    }

    fn udp_sum(self, received: &Received, payload: &[u8], sum: Option<u32>) -> Option<u32> {
        Template::udp_sum(self, received, payload, sum)
    }
}

impl<'a, M: Memory> Copies<'a, M> {
    /// Posts the run's copy for one socket output, or counts it as dropped. Returns whether the
    /// last message is one of the whole run then.
    #[inline]
    fn post<F: Fields<'a>>(
        &self,
        socket_output: &SocketOutput,
        fields: F,
        in_run: InRun,
        outbox: &mut impl Outbox<M>,
        stats: &WorkerStats,
    ) -> bool {
        let (run, received) = (self.run, &self.first.received);
        let Some(ttl) = socket_output.template.ttl(received) else {
            self.expire(socket_output, fields, stats);
            return in_run.repeats;
        };
        let too_big = self.first.payload_len() > socket_output.max_payload;
        if too_big || (run.count > 1 && !socket_output.joins) {
            self.post_apart(socket_output, fields, ttl, outbox, stats);
            return false;
        }
        if run.count == 1 {
            self.post_one(self.first, self.udp_sum, socket_output, fields, ttl, outbox);
            return false;
        }
        let template = &socket_output.template;
        let len = template.headers_len() + usize::from(run.payload_len);
        if !self.limits.take(run.count, len) {
            self.post_in_parts(socket_output, fields, ttl, outbox);
            return false;
        }
        let (each, all) = (self.first.payload_len(), run.payload_len);
        let received = fields.received(received);
        let write = move |vnet_header: &mut VnetHeader| {
            vnet_header.joined(each, |headers| {
                template.write_joined(headers, received.borrow(), ttl, all)
            })
        };
        let frames = run.frames(self.frames);
        // SAFETY: the batch is borrowed until `make` has finished the outbox, and gives its places
        // back one by one after that.
        unsafe {
            outbox.post(
                Message {
                    output: socket_output.output,
                    count: run.count,
                    write,
                    frames,
                    in_run,
                },
                self.memory,
            );
        };
        true
    }

    /// [`Self::post`] where the template is not plain. What it keeps, all frames of a run have in
    /// common.
    #[inline(never)]
    fn post_adapted(
        &self,
        socket_output: &SocketOutput,
        in_run: InRun,
        outbox: &mut impl Outbox<M>,
        stats: &WorkerStats,
    ) -> bool {
        let fields = &socket_output.template;
        if fields.keeps().nothing() {
            self.post(socket_output, fields, in_run, outbox, stats)
        } else {
            let adapted = socket_output.keeping(&self.run.kept(self.frames));
            self.post(&adapted, fields, in_run, outbox, stats)
        }
    }

    /// Counts the run's copy as dropped because it has no TTL to leave with, and notes who sent it
    /// if that was used up. A call, so that copies that leave pay nothing for it.
    #[cold]
    #[inline(never)]
    fn expire<F: Fields<'a>>(&self, socket_output: &SocketOutput, fields: F, stats: &WorkerStats) {
        let run = self.run;
        let reason = expired::reason(&socket_output.template);
        if reason == Dropped::TtlExpired {
            expired::note(run.flow, &self.first.place, self.memory, stats);
        }
        count(socket_output, reason, run.count, stats);
        if stats.outputs.taps().is_on() {
            for frame in run.frames(self.frames) {
                self.tell(frame, socket_output, fields, reason, stats);
            }
        }
    }

    /// Tells the taps of a copy that is not made.
    #[cold]
    #[inline(never)]
    fn tell<F: Fields<'a>>(
        &self,
        frame: &'a Frame<M::Place>,
        socket_output: &SocketOutput,
        fields: F,
        reason: Dropped,
        stats: &WorkerStats,
    ) {
        let (template, payload) = (&socket_output.template, frame.payload(self.memory));
        let udp_sum = frame.received.udp_sum(payload);
        let udp_sum = fields.udp_sum(&frame.received, payload, udp_sum);
        let received = fields.received(&frame.received);
        let ttl = template.ttl(&frame.received).unwrap_or(0);
        let unmade = Unmade {
            template,
            received: received.borrow(),
            ttl,
            udp_sum,
            payload,
        };
        let taps = stats.outputs.taps();
        taps.unmade(socket_output.output, reason, &unmade);
    }

    /// Posts one frame, whose UDP sum, as it came, is `udp_sum`.
    #[inline]
    fn post_one<F: Fields<'a>>(
        &self,
        frame: &'a Frame<M::Place>,
        udp_sum: Option<u32>,
        socket_output: &SocketOutput,
        fields: F,
        ttl: u8,
        outbox: &mut impl Outbox<M>,
    ) {
        let template = &socket_output.template;
        let udp_sum = fields.udp_sum(&frame.received, frame.payload(self.memory), udp_sum);
        let received = fields.received(&frame.received);
        let write = move |vnet_header: &mut VnetHeader| {
            vnet_header.single(|headers| template.write(headers, received.borrow(), ttl, udp_sum))
        };
        // SAFETY: as above.
        unsafe {
            outbox.post(
                Message {
                    output: socket_output.output,
                    count: 1,
                    write,
                    frames: std::iter::once(frame),
                    in_run: InRun::ALONE,
                },
                self.memory,
            );
        };
    }

    /// Posts the run as several messages, each with as many frames as the device takes in one.
    #[cold]
    fn post_in_parts<F: Fields<'a>>(
        &self,
        socket_output: &SocketOutput,
        fields: F,
        ttl: u8,
        outbox: &mut impl Outbox<M>,
    ) {
        let template = &socket_output.template;
        let size = usize::from(self.first.payload_len());
        let most = self.limits.frames_of(template.headers_len(), size);
        let (mut frames, mut left) = (self.run.frames(self.frames), self.run.payload_len);
        while let Some(first) = frames.clone().next() {
            let part = frames.clone().take(most);
            // Only the last frame of a run may be shorter.
            let count = usize::from(left).div_ceil(size).clamp(1, most) as u16;
            let payload_len = left.min(count.saturating_mul(size as u16));
            if count == 1 {
                let udp_sum = first.received.udp_sum(first.payload(self.memory));
                self.post_one(first, udp_sum, socket_output, fields, ttl, outbox);
            } else {
                let received = fields.received(&first.received);
                let write = |vnet_header: &mut VnetHeader| {
                    vnet_header.joined(first.payload_len(), |headers| {
                        template.write_joined(headers, received.borrow(), ttl, payload_len)
                    })
                };
                // SAFETY: as above.
                unsafe {
                    outbox.post(
                        Message {
                            output: socket_output.output,
                            count,
                            write,
                            frames: part,
                            in_run: InRun::ALONE,
                        },
                        self.memory,
                    );
                };
            }
            left -= payload_len;
            frames.by_ref().take(most).for_each(drop);
        }
    }

    /// Posts the frames one by one: for a socket output that takes no GSO packets, and for a run
    /// whose first datagram is too big for the socket output; only the last one may be shorter.
    fn post_apart<F: Fields<'a>>(
        &self,
        socket_output: &SocketOutput,
        fields: F,
        ttl: u8,
        outbox: &mut impl Outbox<M>,
        stats: &WorkerStats,
    ) {
        for frame in self.run.frames(self.frames) {
            if frame.payload_len() > socket_output.max_payload {
                count(socket_output, Dropped::TooBig, 1, stats);
                if stats.outputs.taps().is_on() {
                    self.tell(frame, socket_output, fields, Dropped::TooBig, stats);
                }
            } else {
                let udp_sum = frame.received.udp_sum(frame.payload(self.memory));
                self.post_one(frame, udp_sum, socket_output, fields, ttl, outbox);
            }
        }
    }
}

#[cold]
fn count(socket_output: &SocketOutput, reason: Dropped, frames: u16, stats: &WorkerStats) {
    if let Some(output) = stats.outputs.get(socket_output.output as usize) {
        output.drops.add(reason, u64::from(frames));
    }
}
