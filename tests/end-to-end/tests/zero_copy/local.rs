//! Rules with `local` on NICs: a program of the relay's own host gets each datagram as well, out of
//! the chunk that the copies leave from.

use anyhow::Result;
use relay_tests::lab;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::tally::Stream;

use super::Nics;

const COUNT: u64 = 400;
const SIZE: usize = 700;

pub fn a_program_of_the_relays_host_gets_what_the_outputs_get(nics: Nics) -> Result<()> {
    let bed = nics.testbed(2)?;
    let rules = [Rule::feed()
        .takes(&format!(
            "group = \"{GROUP_IN}\", port = {PORT_IN}, local = true"
        ))
        .outputs("out0", 1)
        .outputs("out1", 1)];
    let stream = Stream::new(0, COUNT, SIZE);
    let program = UdpReceiver::start(&bed.inputs[0], &[Listen::new(GROUP_IN, PORT_IN, 0)])?;
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = lab::start(&bed, &rules)?;
    lab::send(&bed, &rules[0], &stream, &receivers)?;
    receivers.assert_exact(&[stream]);
    program.assert_all_exact(&stream, ARRIVAL);
    let stopped = relay.stop()?;
    nics.assert_mode(&stopped)?;
    stopped.report.assert_exact(&[COUNT]);
    Ok(())
}
