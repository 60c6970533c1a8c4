//! The reference `two-threads`: the first design that comes to mind. One thread receives, copies
//! the payload once per output, and passes the copies through a channel to the thread that sends
//! them.
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

use anyhow::Result;
use relay_bench::peer::{self, Feeds, Outputs};

/// Copies that may wait for the sending thread: what it can send in 50 ms or more, and as many as
/// the relay's rings hold frames for one output. A channel without a limit would hide the loss in
/// memory that grows.
const CHANNEL: usize = 1 << 13;

/// The largest UDP payload on Ethernet.
const PAYLOAD: usize = 2048;

/// A copy on its way to its output's socket.
struct Copy {
    flow: usize,
    output: usize,
    payload: Vec<u8>,
}

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
    let copies: Vec<usize> = work.flows.iter().map(|flow| flow.outputs.len()).collect();
    let outputs = Outputs::new(&work.flows);
    let lost = Arc::new(Lost::default());
    let (sender, receiver) = sync_channel(CHANNEL);
    let egress = Arc::clone(&lost);
    thread::spawn(move || report(send(&receiver, outputs, &egress)));
    let ingress = Arc::clone(&lost);
    thread::spawn(move || report(receive(feeds, &copies, &sender, &ingress)));
    peer::until_terminated(|| {
        BTreeMap::from([
            ("channel_full", lost.channel_full.load(Ordering::Relaxed)),
            ("send_failed", lost.send_failed.load(Ordering::Relaxed)),
        ])
    })
}

/// A thread ends only with an error, and then the program must end too.
fn report(ended: Result<()>) {
    if let Err(error) = ended {
        eprintln!("two-threads: {error:#}");
        std::process::exit(1);
    }
}

fn receive(
    mut feeds: Feeds,
    copies: &[usize],
    channel: &SyncSender<Copy>,
    lost: &Lost,
) -> Result<()> {
    let mut buffer = vec![0; PAYLOAD];
    let turn = feeds.turn();
    loop {
        feeds.serve(|flow, mut socket| {
            for _ in 0..turn {
                let Ok(length) = socket.read(&mut buffer) else {
                    break;
                };
                for output in 0..copies[flow] {
                    let payload = buffer[..length].to_vec();
                    let copy = Copy {
                        flow,
                        output,
                        payload,
                    };
                    if let Err(TrySendError::Full(_)) = channel.try_send(copy) {
                        lost.channel_full.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Ok(())
        })?;
    }
}

fn send(channel: &Receiver<Copy>, mut outputs: Outputs, lost: &Lost) -> Result<()> {
    for copy in channel {
        let socket = &outputs.of(copy.flow)?[copy.output];
        if socket.send(&copy.payload).is_err() {
            lost.send_failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
