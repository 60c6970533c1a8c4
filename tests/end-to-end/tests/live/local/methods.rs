//! What a program of the relay's host gets, by every TX method.

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::methods::Method;
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

use super::{COUNT, RATE, has_device, local, program_on};

fn f1_a_program_of_the_relays_host_gets_each_datagram_once(method: Method) -> Result<()> {
    let rules = [local()];
    for (size, partial) in [(1472, false), (700, true), (4, true)] {
        let bed = Testbed::builder().without_capture().build()?;
        // The kernel refuses what arrives elsewhere, or with the mark by which the relay says
        // where.
        let mark = bed.inputs[0].index;
        for key in ["rp_filter", "src_valid_mark"] {
            bed.relay.sysctl(&format!("ipv4/conf/in0/{key}"), "1")?;
        }
        let rule = format!("rule add fwmark {mark} pref 1 prohibit");
        bed.relay.ip(&rule)?;
        bed.sources[0].set_checksum_offload(partial)?;
        let program = program_on(&bed.inputs[0], 0)?;
        let receivers = Receivers::start(&bed, &rules)?;
        let relay = method.start(&bed, &rules)?;
        let is_xdp = method.backend == Backend::Xdp;
        assert_eq!(has_device(&bed)?, is_xdp, "{}", relay.log());
        let stream = Stream::new(0, COUNT, size);
        method.source(&bed.sources[0])?.send(&stream, RATE)?;
        receivers.assert_exact(&[stream]);
        program.assert_all_exact(&stream, ARRIVAL);
        let stopped = relay.stop()?;
        stopped.report.assert_exact(&[COUNT]);
        method.assert_used(&stopped.report, &rules)?;
        assert!(!has_device(&bed)?);
        bed.relay.wait_for_no_packet_socket()?;
    }
    Ok(())
}

/// Bursts of a whole batch, and rules beside it that are not `local`.
fn f6_a_burst_reaches_the_program_whole_and_no_frame_of_other_rules_does(
    method: Method,
) -> Result<()> {
    const BURST: u64 = 256;
    let bed = Testbed::builder().without_capture().build()?;
    let other = Rule::new("other", "in0", GROUP_IN, PORT_IN + 1).outputs("out0", 1);
    let rules = [local(), other];
    let listen = [
        Listen::new(GROUP_IN, PORT_IN, 0),
        Listen::new(GROUP_IN, PORT_IN + 1, 1),
    ];
    let program = UdpReceiver::start(&bed.inputs[0], &listen)?;
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = method.start(&bed, &rules)?;
    let source = method.source(&bed.sources[0])?;
    source.send_in_one_burst(&Stream::new(0, BURST, 300), &relay)?;
    let others = Stream::new(1, 50, 300);
    let traffic = Traffic::new(GROUP_IN, PORT_IN + 1, others);
    UdpSender::open(&bed.sources[0])?.send(&traffic, RATE)?;
    receivers.assert_exact(&[Stream::new(0, BURST, 300), others]);
    program.settle();
    let tallies = program.tallies();
    tallies[0].assert_exact(&Stream::new(0, BURST, 300));
    match method.backend {
        Backend::Xdp => tallies[1].assert_nothing(),
        Backend::IoUring => tallies[1].assert_exact(&others),
    }
    relay.stop()?.report.assert_exact(&[BURST, 50]);
    Ok(())
}

relay_tests::on_all_methods!(
    f1_a_program_of_the_relays_host_gets_each_datagram_once,
    f6_a_burst_reaches_the_program_whole_and_no_frame_of_other_rules_does,
);
