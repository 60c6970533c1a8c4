//! The reference `two-threads`: how a relay is written first. One thread receives, copies the payload once an
//! output, and hands the copies through a channel to the thread that sends them.
//!
//! Usage: `two-threads WORK.json`; ends with a report on SIGTERM.

use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use anyhow::{Context, Result};
use relay_bench::{
    job::Work,
    peer::{self, Feeds},
};
use socket2::Socket;

/// Copies that may wait for the sending thread: more than a second of what it can send. A channel without
/// a bound would hide the loss in memory that grows.
const CHANNEL: usize = 1 << 19;

/// The largest UDP payload on Ethernet.
const PAYLOAD: usize = 2048;

/// A copy and the number of its socket.
type Copy = (usize, Vec<u8>);

#[derive(Debug, Default)]
struct Lost {
    channel_full: AtomicU64,
    send_failed: AtomicU64,
}

fn main() -> Result<()> {
    let work = peer::read_work()?;
    peer::allow_many_sockets()?;
    peer::hold_termination()?;
    let feeds = Feeds::open(&work.input, &work.flows)?;
    let (sockets, numbers) = outputs(&work)?;
    let lost = Arc::new(Lost::default());
    let (sender, receiver) = sync_channel(CHANNEL);
    let egress = Arc::clone(&lost);
    thread::spawn(move || send(&receiver, &sockets, &egress));
    let ingress = Arc::clone(&lost);
    thread::spawn(move || {
        if let Err(error) = receive(feeds, &numbers, &sender, &ingress) {
            eprintln!("two-threads: {error:#}");
            std::process::exit(1);
        }
    });
    peer::until_terminated(|| {
        BTreeMap::from([
            ("channel_full", lost.channel_full.load(Ordering::Relaxed)),
            ("send_failed", lost.send_failed.load(Ordering::Relaxed)),
        ])
    })
}

/// One socket an output, and the numbers of each flow's.
fn outputs(work: &Work) -> Result<(Vec<Socket>, Vec<Vec<usize>>)> {
    let mut sockets = Vec::new();
    let mut numbers = Vec::new();
    for flow in &work.flows {
        let mut of_flow = Vec::new();
        for output in &flow.outputs {
            of_flow.push(sockets.len());
            sockets.push(peer::open_output(output)?);
        }
        numbers.push(of_flow);
    }
    Ok((sockets, numbers))
}

fn receive(
    mut feeds: Feeds,
    numbers: &[Vec<usize>],
    channel: &SyncSender<Copy>,
    lost: &Lost,
) -> Result<()> {
    let mut buffer = vec![0; PAYLOAD];
    let turn = feeds.turn();
    loop {
        feeds
            .serve(|feed, mut socket| {
                for _ in 0..turn {
                    let Ok(length) = socket.read(&mut buffer) else {
                        break;
                    };
                    for &output in &numbers[feed] {
                        let copy = buffer[..length].to_vec();
                        if let Err(TrySendError::Full(_)) = channel.try_send((output, copy)) {
                            lost.channel_full.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
            .context("receiving")?;
    }
}

fn send(channel: &Receiver<Copy>, sockets: &[Socket], lost: &Lost) {
    for (output, payload) in channel {
        if sockets[output].send(&payload).is_err() {
            lost.send_failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
