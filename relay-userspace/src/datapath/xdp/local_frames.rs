//! Frames of rules with `local`, given back to the Linux stack as they arrived.
//!
//! XDP has taken them from the stack, and the kernel cannot hand out a frame twice. So the worker
//! sends each through the local device ([`crate::kernel::Kernel::open_local_device`]), whose
//! program makes it arrive on its input interface again, behind XDP. Nothing waits: what the kernel
//! does not take at once is counted as `local_failed` of its rule, and the copies leave in any
//! case.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::Arc,
};

use nix::errno::Errno;

use super::{
    sendmmsg::{Messages, Queue},
    umem::{Chunk, Chunks},
};
use crate::{
    datapath::{
        batch::{Frame, Memory as _},
        error::SetupError,
        flow_table::Flows,
        gso_packets::{InRun, Message},
        slots::Slots,
        stats::WorkerStats,
        vnet_header::VnetHeader,
    },
    host::{packet_socket, socket_options},
    plan::{self, Interface, Plan},
};

/// Bytes that the kernel may keep for frames that the stack has not looked at yet; the kernel takes
/// twice the number. The smallest frame takes 768 of them, and 1000 frames have room in front of
/// the stack (`net.core.netdev_max_backlog`): so this socket refuses a frame, which is counted,
/// before the kernel drops one there without a word.
const SEND_BUFFER: libc::c_int = 384 << 10;

/// A packet socket whose frames arrive on one input interface.
#[derive(Debug)]
pub struct LocalSocket {
    socket: OwnedFd,
    /// The kernel's index of the input interface.
    input: u32,
}

impl LocalSocket {
    /// Opens the socket for `input` on the local device, which has this index.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open(input: &Interface, device: u32) -> Result<Self, SetupError> {
        let failed = |what: &'static str| {
            let interface = input.name.clone();
            move |error: Errno| SetupError::Socket {
                interface,
                what,
                error: error.into(),
            }
        };
        let socket = packet_socket::open().map_err(failed("open a socket for local frames"))?;
        let fd = socket.as_raw_fd();
        socket_options::set(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
            .map_err(failed("set PACKET_VNET_HDR of a socket for local frames"))?;
        let mark = input.index as libc::c_int;
        socket_options::set(fd, libc::SOL_SOCKET, libc::SO_MARK, mark)
            .map_err(failed("set SO_MARK of a socket for local frames"))?;
        socket_options::set_send_buffer(fd, SEND_BUFFER);
        packet_socket::bind(&socket, device, 0)
            .map_err(failed("bind a socket for local frames"))?;
        Ok(Self {
            socket,
            input: input.index,
        })
    }

    /// Whether it makes frames arrive on the interface with the index `input`, by the local device
    /// with the index `device`.
    fn is_for(&self, input: u32, device: u32) -> bool {
        let bound = packet_socket::bound_to(self.socket.as_raw_fd());
        self.input == input && bound == Ok(Some(device))
    }

    /// Hands the messages to the kernel, and counts each frame that it does not take.
    fn send(&self, mut messages: Messages<'_>, stats: &WorkerStats) {
        let mut done = 0;
        while done < messages.len() {
            done += match messages.send(self.socket.as_fd(), done, usize::MAX) {
                Ok(sent) => sent,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    let refused = match error {
                        // What fills the socket, or has taken the device, refuses the others too.
                        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENETDOWN | Errno::ENXIO => {
                            messages.len() - done
                        }
                        _ => 1,
                    };
                    for (flow, frames) in messages.frames(done, refused) {
                        if let Some(failed) = stats.local_failed.get(flow as usize) {
                            failed.add(frames);
                        }
                    }
                    refused
                }
            };
        }
    }
}

/// The sockets of a worker's table for local frames, from control's side.
#[derive(Debug, Default, Clone)]
pub struct LocalSockets(Vec<Arc<LocalSocket>>);

impl LocalSockets {
    /// One for each input of `worker` that has a flow with `local`, on the local device with the
    /// index `device`: those of `self` that are, and new ones.
    ///
    /// # Errors
    ///
    /// The kernel refuses one, or there is no local device.
    pub fn for_worker(
        &self,
        plan: &Plan,
        worker: &plan::WorkerPlan,
        device: Option<u32>,
    ) -> Result<Self, SetupError> {
        let mut sockets = Vec::new();
        for id in plan.local_inputs(worker) {
            let (Some(input), Some(device)) = (plan.interfaces.get(id), device) else {
                return Err(SetupError::NoLocalDevice);
            };
            let known = self.0.iter().find(|one| one.is_for(input.index, device));
            sockets.push(match known {
                Some(known) => Arc::clone(known),
                None => Arc::new(LocalSocket::open(input, device)?),
            });
        }
        Ok(Self(sockets))
    }
}

/// What a table needs to give frames back. Only tables with `local` flows have it.
#[derive(Debug)]
pub struct LocalFrames {
    /// By the flow's number: whether its frames are given back.
    is_local: Box<[bool]>,
    sockets: LocalSockets,
    queue: Queue,
}

impl LocalFrames {
    /// For the flows of `worker`, whose numbers are in `slots`; `None` if no frame is given back.
    pub fn new(
        plan: &Plan,
        worker: &plan::WorkerPlan,
        slots: &Slots,
        sockets: LocalSockets,
    ) -> Option<Box<Self>> {
        if sockets.0.is_empty() {
            return None;
        }
        let mut is_local = vec![false; slots.flows_end()];
        let flows = worker.flows.iter().filter_map(|&at| plan.flows.get(at));
        for (flow, slots) in flows.zip(slots.iter()) {
            if let Some(is_local) = is_local.get_mut(slots.flow as usize) {
                *is_local = flow.local;
            }
        }
        Some(Box::new(Self {
            is_local: is_local.into(),
            sockets,
            queue: Queue::default(),
        }))
    }

    /// Gives the frames of a batch back that are of flows with `local`. They arrived on the
    /// interface with this index, and nothing has been written into them. When this returns, the
    /// kernel has copied or refused all of them.
    pub fn give_back(
        &mut self,
        interface: u32,
        frames: &[Frame<Chunk>],
        chunks: &Chunks,
        stats: &WorkerStats,
    ) {
        let Self {
            is_local,
            sockets,
            queue,
        } = self;
        let Some(socket) = sockets.0.iter().find(|one| one.input == interface) else {
            return;
        };
        for frame in frames {
            if is_local.get(frame.flow as usize) != Some(&true) {
                continue;
            }
            if queue.is_full() {
                queue.hand_over(|messages| socket.send(messages, stats));
            }
            let headers = chunks.bytes(&frame.place, 0..frame.payload_at());
            let message = Message {
                output: frame.flow,
                count: 1,
                write: |vnet_header: &mut VnetHeader| {
                    vnet_header.as_received(headers, frame.received.has_partial_checksum())
                },
                frames: std::iter::once(frame),
                in_run: InRun::ALONE,
            };
            // SAFETY: the batch is borrowed, and nothing writes into its chunks, until the queue
            // has been handed over below.
            unsafe { queue.push(message, chunks) };
        }
        queue.hand_over(|messages| socket.send(messages, stats));
    }
}

impl Flows {
    /// The table with flows whose frames are given back to the Linux stack.
    #[must_use]
    pub fn with_local(mut self, local: Option<Box<LocalFrames>>) -> Self {
        self.local = local;
        self
    }

    /// What gives frames back to the Linux stack, if a flow has `local`.
    #[inline]
    pub(super) fn local(&mut self) -> Option<&mut LocalFrames> {
        self.local.as_deref_mut()
    }
}
