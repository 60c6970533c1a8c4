//! AF_XDP in copy mode in one direction: the same rings, sizes and kicks as the relay's, and
//! nothing else.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use relay_bench::{
    ceiling::Measured,
    job::Output,
    peer::{BATCH, BUFFER},
    programs::abi::HEADERS_LEN,
};
use xsk_rs::{
    CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
    umem::frame::FrameDesc,
};

use crate::{frame, measure::measure};

/// Entries of the RX, TX and completion rings, and chunks of the UMEM.
const RING: u32 = 2048;
/// Entries of the FILL ring. Twice the chunks, because the kernel shows frames on the RX ring a
/// moment before it gives back the room on the FILL ring (`xsk_flush`, net/xdp/xsk.c).
const FILL_RING: u32 = 2 * RING;
/// Bytes of a chunk.
const CHUNK: u32 = 2048;
/// How long to wait for the first frame, and for a pause in the middle, in milliseconds.
const FIRST: i32 = 20_000;
const PAUSE: i32 = 100;

/// A UMEM and one socket on queue 0.
struct Port {
    umem: Umem,
    descs: Vec<FrameDesc>,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

/// Binds to `interface`. With `flags` of zero, libxdp attaches a program that redirects every frame
/// to the socket.
fn bind(interface: &str, flags: LibxdpFlags) -> Result<Port> {
    let ring = QueueSize::new(RING)?;
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(CHUNK)?)
        .fill_queue_size(QueueSize::new(FILL_RING)?)
        .comp_queue_size(ring)
        .build()?;
    let count = NonZeroU32::new(RING).context("no chunks")?;
    let (umem, descs) = Umem::new(config, count, false).context("registering a UMEM")?;
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(flags)
        .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let name = interface
        .parse()
        .map_err(|_| anyhow!("{interface} is no name of an interface"))?;
    // SAFETY: the one socket of this UMEM; its rings are kept together in `Port`.
    let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &name, 0) }
        .with_context(|| format!("binding an AF_XDP socket to queue 0 of {interface}"))?;
    let (fill, completion) = rings.context("the socket came without its rings")?;
    Ok(Port {
        umem,
        descs,
        tx,
        rx,
        fill,
        completion,
    })
}

/// Transmits to `outputs` in turn, as fast as possible.
pub fn transmit(outputs: &[Output], payload: usize, time: Duration) -> Result<Measured> {
    let [first, ..] = outputs else {
        bail!("the flow has no outputs");
    };
    ensure!(
        outputs.iter().all(|o| o.interface == first.interface),
        "outputs on several interfaces; this measures one"
    );
    let mut port = bind(
        &first.interface,
        LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD,
    )?;
    // SAFETY: the descriptor is the socket's, which lives as long as `port`.
    let socket = unsafe { BorrowedFd::borrow_raw(port.tx.fd().as_raw_fd()) };
    setsockopt(&socket, sockopt::SndBufForce, &BUFFER).context("enlarging the send buffer")?;
    // A chunk always goes to the same output, so only its stamp changes.
    for (number, desc) in port.descs.iter_mut().enumerate() {
        let frame = frame::build(&outputs[number % outputs.len()], payload)?;
        // SAFETY: the chunk is of this UMEM and on no ring yet.
        let mut data = unsafe { port.umem.data_mut(desc) };
        ensure!(
            frame.len() <= data.cursor().buf_len(),
            "a frame of {} bytes does not fit a chunk",
            frame.len()
        );
        data.cursor().set_pos(frame.len());
        data.contents_mut().copy_from_slice(&frame);
    }
    let chunk_of = |desc: &FrameDesc| desc.addr() / CHUNK as usize;
    let mut sequences = vec![0u64; outputs.len()];
    let mut free: VecDeque<usize> = (0..port.descs.len()).collect();
    let mut staged = Vec::with_capacity(BATCH);
    let mut completed = [FrameDesc::default(); BATCH];
    measure(time, || {
        staged.clear();
        while let Some(number) = (staged.len() < BATCH).then(|| free.pop_front()).flatten() {
            let sequence = &mut sequences[number % outputs.len()];
            let desc = &mut port.descs[number];
            // SAFETY: the chunk is of this UMEM, and free: on no ring.
            let mut data = unsafe { port.umem.data_mut(desc) };
            frame::set_stamp(&mut data.contents_mut()[HEADERS_LEN..], *sequence);
            *sequence += 1;
            staged.push(*desc);
        }
        // SAFETY: the chunks have left the free list, and nothing writes to them until they
        // complete.
        let produced = unsafe { port.tx.produce(&staged) };
        ensure!(
            produced == staged.len(),
            "the TX ring has no room for its own chunks"
        );
        port.tx.wakeup().context("kicking the TX ring")?;
        // SAFETY: the descriptors are only used to find the chunks' numbers.
        let count = unsafe { port.completion.consume(&mut completed) };
        free.extend(completed[..count].iter().map(chunk_of));
        Ok(count as u64)
    })
}

/// Receives and drops, from the first frame on.
pub fn receive(interface: &str, time: Duration) -> Result<Measured> {
    let mut port = bind(interface, LibxdpFlags::empty())?;
    // SAFETY: the chunks are of this UMEM and on no ring yet.
    let filled = unsafe { port.fill.produce(&port.descs) };
    ensure!(
        filled == port.descs.len(),
        "the FILL ring holds {filled} chunks only"
    );
    eprintln!("{}", relay_bench::peer::READY);
    ensure!(
        port.rx.poll(FIRST).context("waiting for a frame")?,
        "nothing came to {interface} for {FIRST} ms; is something sending?"
    );
    let mut batch = [FrameDesc::default(); BATCH];
    measure(time, || {
        // SAFETY: the descriptors go to the FILL ring right here, each once.
        let count = unsafe { port.rx.consume(&mut batch) };
        if count == 0 {
            port.rx.poll(PAUSE).context("waiting for a frame")?;
            return Ok(0);
        }
        // SAFETY: the chunks came from the RX ring just now.
        let filled = unsafe { port.fill.produce(&batch[..count]) };
        ensure!(
            filled == count,
            "the FILL ring has no room for its own chunks"
        );
        Ok(count as u64)
    })
}
