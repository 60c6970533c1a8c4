//! Datagrams of several flows in rounds, each of which the relay finds at once: in one round the
//! datagrams of a flow follow each other, and are joined where they may be; in the next one the
//! flows take turns.

use anyhow::Result;
use relay_tests::frames::UdpFrame;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::payload::payload;
use relay_tests::raw::RawSender;
use relay_tests::relay::RelayProcess;
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::veth::Endpoint;

const ROUNDS: u64 = 12;
/// Datagrams of a flow in a round.
const BURST: u64 = 8;
const SIZE: usize = 700;

/// Sends datagrams of as many `flows` from `source`, and fails unless `receivers`, which look at
/// headers, get each of them once and in order, with right headers, and joined by the TX method
/// that never cuts GSO packets apart. `frame` makes a flow's frame of a payload. Returns how many
/// datagrams each flow has had.
pub(super) fn send_in_rounds(
    method: Method,
    source: &Endpoint,
    relay: &RelayProcess,
    receivers: &Receivers,
    flows: usize,
    frame: impl Fn(usize, Vec<u8>) -> UdpFrame,
) -> Result<u64> {
    let sender = RawSender::open(source)?;
    let send = |flow: usize, number: u64| -> Result<()> {
        let mut frame = frame(flow, payload(flow as u32, number, SIZE));
        frame.identification = number as u16;
        frame.source_port += method.port(number);
        sender.send(&frame.build()?)
    };
    for round in 0..ROUNDS {
        let paused = relay.pause()?;
        let numbers = round * BURST..(round + 1) * BURST;
        if round % 2 == 0 {
            for flow in 0..flows {
                numbers.clone().try_for_each(|number| send(flow, number))?;
            }
        } else {
            for number in numbers {
                (0..flows).try_for_each(|flow| send(flow, number))?;
            }
        }
        drop(paused);
        // A TX ring has room for the copies of two rounds.
        let sent = (round + 1) * BURST;
        receivers.wait_until_each(|_, tally| tally.received >= sent);
    }
    let sent = ROUNDS * BURST;
    let streams = (0..flows).map(|flow| Stream::new(flow as u32, sent, SIZE));
    receivers.assert_exact(&streams.collect::<Vec<_>>());
    let gso_packets = receivers.assert_headers();
    if method.tx == TxMethod::Whole {
        assert!(gso_packets > 0, "nothing was joined");
    }
    Ok(sent)
}
