//! The reference `sendmmsg-fanout`: the fastest that one thread can be with UDP sockets and without
//! segmentation. It receives up to 64 datagrams with one `recvmmsg`, and sends them with one
//! `sendmmsg` per output, from the same buffers.
//!
//! Usage: `sendmmsg-fanout WORK.json`; ends with a report on SIGTERM.

use std::{
    collections::BTreeMap,
    io, mem,
    os::fd::AsRawFd as _,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::Result;
use relay_bench::peer::{self, BATCH, Feeds, Outputs};
use socket2::Socket;

/// The largest UDP payload on Ethernet, rounded up.
const PAYLOAD: usize = 2048;

fn main() -> Result<()> {
    let work = peer::read_work()?;
    peer::allow_many_sockets()?;
    peer::hold_termination()?;
    let feeds = Feeds::open(&work.input, &work.flows)?;
    let outputs = Outputs::new(&work.flows);
    let failed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&failed);
    thread::spawn(move || {
        if let Err(error) = forward(feeds, outputs, &counter) {
            eprintln!("sendmmsg-fanout: {error:#}");
            std::process::exit(1);
        }
    });
    peer::until_terminated(|| BTreeMap::from([("send_failed", failed.load(Ordering::Relaxed))]))
}

fn forward(mut feeds: Feeds, mut outputs: Outputs, failed: &AtomicU64) -> Result<()> {
    let mut buffers = vec![[0u8; PAYLOAD]; BATCH];
    let mut batch = Batch::new(&mut buffers);
    loop {
        feeds.serve(|feed, socket| {
            let count = batch.receive(socket);
            for output in outputs.of(feed)? {
                let lost = batch.send(output, count);
                failed.fetch_add(lost, Ordering::Relaxed);
            }
            Ok(())
        })?;
    }
}

/// Message headers that receive into the buffers and then send out of them.
struct Batch<'a> {
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// The vectors point into these.
    _buffers: &'a mut [[u8; PAYLOAD]],
}

impl<'a> Batch<'a> {
    fn new(buffers: &'a mut [[u8; PAYLOAD]]) -> Self {
        let mut vectors: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: PAYLOAD,
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all-zero bytes are a valid `mmsghdr`.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_iov = ptr::from_mut(vector);
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self {
            vectors,
            headers,
            _buffers: buffers,
        }
    }

    /// Receives the datagrams that are there, at least one if the socket blocks, and sets the
    /// lengths to send.
    fn receive(&mut self, socket: &Socket) -> usize {
        for vector in &mut self.vectors {
            vector.iov_len = PAYLOAD;
        }
        // SAFETY: every header leads to one vector of `self`, which leads to one borrowed buffer of
        // the length beside it. The vectors were never moved since: `self.vectors` does not grow.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as u32,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        // An error means that there is nothing to send; it does not stay.
        let count = usize::try_from(received).unwrap_or(0);
        for (vector, header) in self.vectors.iter_mut().zip(&self.headers).take(count) {
            vector.iov_len = header.msg_len as usize;
        }
        count
    }

    /// Sends the first `count` datagrams to one output; returns how many of them the kernel
    /// refused.
    fn send(&mut self, output: &Socket, count: usize) -> u64 {
        let mut refused = 0;
        let mut rest = &mut self.headers[..count];
        while !rest.is_empty() {
            // SAFETY: as in `receive`; the kernel only reads the buffers.
            let sent = unsafe {
                libc::sendmmsg(output.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0)
            };
            let done = match usize::try_from(sent) {
                Ok(sent) => sent,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => 0,
                Err(_) => {
                    refused += 1;
                    1
                }
            };
            rest = &mut rest[done..];
        }
        refused
    }
}
