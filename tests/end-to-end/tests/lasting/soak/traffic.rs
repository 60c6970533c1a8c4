//! Datagrams while changes are made: some for every rule, of which a part may be lost, and those of
//! the witness, of which none may.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::net::if_::if_nametoindex;
use relay_tests::frames::UdpFrame;
use relay_tests::payload::mix;
use relay_tests::raw::RawSender;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::scenario::ARRIVAL;
use relay_tests::sender::{Pacer, Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::veth::Endpoint;

use crate::system::Wire;
use crate::universe::{self, Form, Input, RULES, WITNESS};

/// Frames per second at each input that changes.
const RATE: u32 = 1_000;
/// Bytes of payload, at most: in an MTU of 1500.
const LARGEST: u64 = 1_400;
/// Datagrams of the witness per second, their size, and how many may be on their way: less than a
/// queue of a veth holds.
const WITNESS_RATE: u32 = 500;
const WITNESS_SIZE: usize = 700;
const WITNESS_WINDOW: u64 = 128;
/// How many the witness sends between two looks at whether it is over.
const AT_ONCE: u64 = 50;

/// Random numbers that follow from a seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end.max(1)
    }

    /// One of `choices`.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let at = self.below(choices.len() as u64) as usize;
        choices.get(at).copied()
    }
}

/// A far end as it is now: the interface may have been made anew since.
pub fn now(far: &Endpoint) -> Result<Endpoint> {
    let name = far.interface.as_str();
    let index = far
        .namespace
        .run(|| if_nametoindex(name).with_context(|| format!("looking up {name}")))?;
    Ok(Endpoint {
        index,
        ..far.clone()
    })
}

/// What is sent to an input for a rule.
pub fn frame(wire: &Wire, input: &Input, payload: Vec<u8>) -> UdpFrame {
    let mut frame = UdpFrame::new(&wire.far, input.to, input.port, payload);
    frame.to_mac = input.owner.map(|_| wire.near.mac);
    frame.tags = input.tags.to_vec();
    frame
}

/// Senders to inputs that change, until this is dropped.
pub struct Background {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Sends at each of these wires.
    pub fn start(wires: &[Wire], seed: u64) -> Self {
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let threads = wires.iter().zip(seed..).map(|(wire, seed)| {
            let (wire, over, sent) = (wire.clone(), Arc::clone(&over), Arc::clone(&sent));
            thread::spawn(move || send_until(&over, &wire, &mut Dice::new(mix(seed)), &sent))
        });
        Self {
            threads: threads.collect(),
            over,
            sent,
        }
    }

    /// Ends it. Returns how many datagrams were sent.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends for random rules of an input. The interface may go and come back meanwhile.
fn send_until(over: &AtomicBool, wire: &Wire, dice: &mut Dice, sent: &AtomicU64) {
    let numbers: Vec<usize> = (0..RULES)
        .filter(|number| universe::input(*number).interface == wire.near.interface)
        .collect();
    let mut pacer = Pacer::new(RATE, 16);
    let is_over = || over.load(Ordering::Relaxed);
    while !is_over() {
        let opened = now(&wire.far).and_then(|far| {
            let both = (RawSender::open(&far)?, UdpSender::open(&far)?);
            Ok(both)
        });
        let Ok((frames, datagrams)) = opened else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        while !is_over()
            && let Some(number) = dice.one_of(&numbers)
        {
            pacer.wait();
            match send_one(&frames, &datagrams, wire, number, dice) {
                Ok(count) => sent.fetch_add(count, Ordering::Relaxed),
                Err(_) => break,
            };
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a frame, or now and then datagrams that one system call joins. Returns how many datagrams.
fn send_one(
    frames: &RawSender,
    datagrams: &UdpSender,
    wire: &Wire,
    number: usize,
    dice: &mut Dice,
) -> Result<u64> {
    const JOINED: u32 = 8;
    let input = universe::input(number);
    let is_plain = input.to.is_ipv4() && input.to.is_multicast() && input.tags.is_empty();
    if is_plain && dice.below(32) == 0 {
        let stream = Stream::new(number as u32, JOINED.into(), 300);
        let traffic = Traffic::new(input.to, input.port, stream);
        datagrams.send_segmented(&traffic, JOINED, u32::MAX, &Window::unlimited())?;
        return Ok(JOINED.into());
    }
    let mut payload = b"soak".to_vec();
    payload.resize(4 + dice.below(LARGEST - 4) as usize, dice.any() as u8);
    frames.send(&frame(wire, &input, payload).build()?)?;
    Ok(1)
}

/// Sends `count` datagrams of `size` bytes for a rule, at `rate` per second.
pub fn send_steadily(wire: &Wire, number: usize, count: u32, size: usize, rate: u32) -> Result<()> {
    let (input, sender) = (universe::input(number), UdpSender::open(&now(&wire.far)?)?);
    let mut pacer = Pacer::new(rate, 16);
    let payload = vec![0; size];
    for _ in 0..count {
        pacer.wait();
        sender.send_one(input.to, input.port, &payload)?;
    }
    Ok(())
}

/// The steady flow between interfaces that never change.
pub struct Witness {
    over: Arc<AtomicBool>,
    receiver: Arc<UdpReceiver>,
    thread: Option<JoinHandle<Result<u64>>>,
    first: u64,
}

impl Witness {
    /// Sends from `source`, from sequence `first` on, and listens at `far`.
    pub fn start(source: &Endpoint, far: &Endpoint, first: u64) -> Result<Self> {
        let flow = WITNESS as u32;
        let listen: Vec<Listen> = universe::outputs(WITNESS, Form::A)
            .into_iter()
            .map(|out| Listen::new(out.to, out.port, flow))
            .collect();
        let receiver = Arc::new(UdpReceiver::start(far, &listen)?);
        let over = Arc::new(AtomicBool::new(false));
        let sender = UdpSender::open(source)?;
        let input = universe::input(WITNESS);
        let thread = thread::spawn({
            let (over, receiver) = (Arc::clone(&over), Arc::clone(&receiver));
            move || send_witness(&sender, (input.to, input.port), first, &receiver, &over)
        });
        Ok(Self {
            over,
            receiver,
            thread: Some(thread),
            first,
        })
    }

    /// Ends it, and fails unless all of it has arrived, once, in order, at all outputs. Returns how
    /// many datagrams were sent.
    pub fn exact(mut self) -> Result<u64> {
        let sent = self.end()?;
        self.receiver.wait_until(ARRIVAL, |tallies| {
            tallies.iter().all(|tally| tally.received >= sent)
        });
        self.receiver.settle();
        let stream = Stream::new(WITNESS as u32, sent, WITNESS_SIZE).starting_at(self.first);
        for tally in self.receiver.tallies() {
            let verdict = tally.verdict(&stream);
            verdict.map_err(|why| anyhow!("the witness: {why}"))?;
        }
        Ok(sent)
    }

    /// Ends it after the relay was killed: what has arrived must be right, and in order. Returns
    /// how many datagrams were sent.
    pub fn cut_off(mut self) -> Result<u64> {
        let sent = self.end()?;
        self.receiver.settle();
        for tally in self.receiver.tallies() {
            let wrong = [tally.duplicates, tally.mismatched, tally.foreign];
            ensure!(
                wrong == [0; 3] && tally.out_of_order == 0,
                "the witness of a killed relay: {tally}"
            );
        }
        Ok(sent)
    }

    fn end(&mut self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the witness has ended")?;
        thread.join().map_err(|_| anyhow!("the witness panicked"))?
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send_witness(
    sender: &UdpSender,
    (group, port): (IpAddr, u16),
    first: u64,
    receiver: &UdpReceiver,
    over: &AtomicBool,
) -> Result<u64> {
    let window = Window::new(WITNESS_WINDOW, || {
        let mut least = 0;
        receiver.look(|tallies| {
            least = tallies.iter().map(|one| one.received).min().unwrap_or(0);
        });
        least
    });
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        let stream = Stream::new(WITNESS as u32, AT_ONCE, WITNESS_SIZE).starting_at(first + sent);
        let traffic = Traffic::new(group, port, stream);
        sender.send_interleaved(&[traffic], WITNESS_RATE, 16, &window)?;
        sent += AT_ONCE;
    }
    Ok(sent)
}
