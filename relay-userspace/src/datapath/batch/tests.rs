//! Which frames of a line-up leave together: those of one place, in the order of their arrival.

use etherparse::PacketBuilder;
use relay_common::wire;

use super::*;
use crate::{
    config,
    datapath::{
        flow_table::Ports, open_runs::OpenRuns, output_link::Links, slots::Slots,
        stats::WorkerStats,
    },
    host::{XdpFeatures, fixture::in0_and_out0},
    packet::{Known, Offset},
    plan::{self, Constraints},
};

const SIZE: usize = 100;

/// Frames, each at its position.
struct Frames(Vec<Vec<u8>>);

impl Memory for Frames {
    type Place = usize;

    fn bytes<'a>(&'a self, place: &'a usize, range: Range<usize>) -> &'a [u8] {
        &self.0[*place][range]
    }
}

/// The flow of a line-up with these outputs.
fn flows(outputs: &str) -> Flows {
    let text = format!(
        "[[rules]]\nname = \"lineup\"\n\
         input = {{ interface = \"in0\", group = \"239.1.1.0/24\", port = \"5000-5009\" }}\n\
         outputs = [{outputs}]\n"
    );
    let document = config::parse("relay.toml", &text).unwrap();
    let host_facts = in0_and_out0(XdpFeatures::BASIC | XdpFeatures::REDIRECT);
    let plan = plan::build(&document, &host_facts, &Constraints::default()).unwrap();
    let worker = &plan.workers[0];
    assert_eq!(worker.tx_sockets.len(), 1, "copies leave in GSO packets");
    let links = Links::of(&plan, worker, &Links::default());
    let (slots, ports) = (
        Slots::in_order(&plan, worker),
        Ports::planned(&plan, worker),
    );
    Flows::new(&plan, worker, &slots, &links, &ports)
}

/// A datagram to 239.1.1.`group`:`port`.
fn frame(group: u8, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, group])
        .ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                dont_fragment: true,
                ..etherparse::Ipv4Header::new(
                    0,
                    9,
                    etherparse::IpNumber::UDP,
                    [10, 1, 0, 2],
                    [239, 1, 1, group],
                )
                .unwrap()
            },
            etherparse::Ipv4Extensions::default(),
        ))
        .udp(40_000, port)
        .write(&mut frame, &[group; SIZE])
        .unwrap();
    frame
}

/// A frame for each group and port.
fn frames(sent: &[(u8, u16)]) -> Frames {
    Frames(
        sent.iter()
            .map(|&(group, port)| frame(group, port))
            .collect(),
    )
}

/// Adds all frames to `batch`, in their order.
fn add_all(batch: &mut Batch<usize>, memory: &Frames, flows: &mut Flows) {
    let stats = WorkerStats::new(1, 3).unwrap();
    for (at, frame) in memory.0.iter().enumerate() {
        let datagram = wire::decode(&frame[..]).unwrap();
        let flow = flows.look_up(0, &datagram).unwrap();
        let received = Received::read(frame, &datagram, Known::Complete).unwrap();
        let keeps = flows.keep_any() && batch.keep(flows.kept(flow, &datagram, frame, None));
        let frame = Frame::new(at, received, flow, datagram.payload());
        batch.add(frame, keeps, memory, flows, &stats);
    }
}

/// Sorts datagrams to these groups and ports, twice, and returns the positions of the frames of
/// each run.
fn runs(flows: &mut Flows, sent: &[(u8, u16)]) -> Vec<Vec<usize>> {
    let memory = frames(sent);
    let mut batch = Batch::new(sent.len(), OpenRuns::new(1));
    let sort = |batch: &mut Batch<usize>, flows: &mut Flows| {
        add_all(batch, &memory, flows);
        let (runs, frames) = batch.runs();
        let positions = |run: &Run| run.frames(frames).map(|frame| frame.place).collect();
        let runs: Vec<Vec<usize>> = runs.iter().map(positions).collect();
        let (ended, _) = batch.end();
        assert!(ended.map(|frame| frame.place).eq(0..sent.len()));
        runs
    };
    let first = sort(&mut batch, flows);
    assert_eq!(
        sort(&mut batch, flows),
        first,
        "a batch leaves nothing behind"
    );
    first
}

/// Which frames leave together where those of one place came from `ports`, one after the other.
fn runs_from(ports: &[u16], keeps: &str) -> Vec<Vec<usize>> {
    let mut memory = Frames(vec![frame(1, 5000); ports.len()]);
    for (frame, port) in memory.0.iter_mut().zip(ports) {
        // The UDP checksum is known to be right, so that it need not fit.
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame[40..42].fill(0);
    }
    let mut batch = Batch::new(ports.len(), OpenRuns::new(1));
    add_all(&mut batch, &memory, &mut flows(keeps));
    let (runs, frames) = batch.runs();
    let positions = |run: &Run| run.frames(frames).map(|frame| frame.place).collect();
    runs.iter().map(positions).collect()
}

const KEEPS_ALL: &str = "{ interface = \"out0\", group = \"239.7.7.0/24\", port = \"6000-6009\" }";
const IN_TURNS: [(u8, u16); 8] = [
    (1, 5000),
    (2, 5000),
    (1, 5001),
    (1, 5000),
    (2, 5000),
    (1, 5001),
    (2, 5000),
    (1, 5000),
];

#[test]
fn frames_of_a_line_up_that_arrive_in_turns_leave_together_by_place() {
    let by_place = [vec![0, 3, 7], vec![1, 4, 6], vec![2, 5]];
    assert_eq!(runs(&mut flows(KEEPS_ALL), &IN_TURNS), by_place);
    let two = format!("{KEEPS_ALL}, {{ interface = \"out0\", group = \"239.8.0.0/24\" }}");
    assert_eq!(runs(&mut flows(&two), &IN_TURNS), by_place);
}

#[test]
fn beside_an_output_that_merges_they_keep_the_order_of_their_arrival() {
    let in_order = [
        vec![0],
        vec![1],
        vec![2],
        vec![3],
        vec![4],
        vec![5],
        vec![6],
        vec![7],
    ];
    for merging in [
        "{ interface = \"out0\", group = \"239.9.9.9\", port = \"7000-7009\" }",
        "{ interface = \"out0\", group = \"239.8.0.0/24\", port = 7000 }",
        "{ interface = \"out0\", group = \"239.9.9.9\", port = 7000 }",
    ] {
        let beside = format!("{KEEPS_ALL}, {merging}");
        assert_eq!(runs(&mut flows(&beside), &IN_TURNS), in_order, "{merging}");
    }
    let in_a_row = [(1, 5000), (1, 5000), (2, 5000), (2, 5000), (1, 5000)];
    let beside =
        format!("{KEEPS_ALL}, {{ interface = \"out0\", group = \"239.9.9.9\", port = 7000 }}");
    let by_row = [vec![0, 1], vec![2, 3], vec![4]];
    assert_eq!(runs(&mut flows(&beside), &in_a_row), by_row);
}

#[test]
fn copies_that_all_go_to_one_group_and_port_leave_together_whatever_they_were_sent_to() {
    let merges = "{ interface = \"out0\", group = \"239.9.9.9\", port = 7000 }";
    let all = [(0..IN_TURNS.len()).collect::<Vec<_>>()];
    assert_eq!(runs(&mut flows(merges), &IN_TURNS), all);
}

#[test]
fn senders_of_a_flow_that_take_turns_have_runs_of_their_own() {
    let exact = "{ interface = \"out0\", group = \"239.9.9.9\", port = 7000 }";
    let two = [7, 8, 7, 8, 8, 7];
    let apart = [vec![0, 2, 5], vec![1, 3, 4]];
    assert_eq!(runs_from(&two, exact), apart);
    let four = [1, 2, 3, 4, 1, 2, 3, 4];
    let apart = [vec![0, 4], vec![1, 5], vec![2, 6], vec![3, 7]];
    assert_eq!(runs_from(&four, exact), apart);
    // Whoever is not among the last four begins anew, behind all others.
    let five = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5];
    let alone: Vec<Vec<usize>> = (0..five.len()).map(|at| vec![at]).collect();
    assert_eq!(runs_from(&five, exact), alone);
    let comes_back = [1, 2, 3, 4, 5, 1, 1, 5];
    let runs = [vec![0], vec![1], vec![2], vec![3], vec![4, 7], vec![5, 6]];
    assert_eq!(runs_from(&comes_back, exact), runs);
    // Copies that keep something of their datagram tell two senders apart by that alone.
    let all_keep = "{ interface = \"out0\", source = \"keep\" }";
    assert_eq!(runs_from(&[7, 8, 8], all_keep), [vec![0], vec![1, 2]]);
}

#[test]
fn a_run_knows_what_is_kept_of_its_frames() {
    let memory = frames(&[(3, 5002), (200, 5009)]);
    let mut batch = Batch::new(2, OpenRuns::new(1));
    add_all(&mut batch, &memory, &mut flows(KEEPS_ALL));
    let (runs, frames) = batch.runs();
    let of_runs: Vec<Kept> = runs.iter().map(|run| run.kept(frames)).collect();
    let places = [Offset::at(3, 2), Offset::at(200, 9)].map(Kept::at);
    assert_eq!(of_runs, places);
    let (_, kept) = batch.end();
    assert_eq!([0, 1].map(|at| kept.frame(at)), places);
}
