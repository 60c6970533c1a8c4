//! The socket filter on a real packet socket: which frames it lets through, what it counts, and
//! which capability loading it needs.
#![expect(clippy::expect_used, reason = "counters of a testbed, in a test")]

mod kernel_program;
mod packets;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::SocketFilter;
use kernel_program::program;
use packets::{
    Case, GROUP6, INPUT_MAC, OUTPUT_ADDRESS, OUTPUT_MAC, PORT, TAG, matching, priority_tagged,
    rules, table, tagged, udp6_to,
};
use relay::daemon::this_machine;
use relay::kernel::{Kernel, KernelError};
use relay::plan::{Backend, Plan};
use relay_common::abi::{self, Counter};
use relay_common::wire::{self, IPV4_HEADERS_LEN, VLAN_LEN};
use relay_tests::frames::{SHORTEST_TAGGED, is_tagged};
use relay_tests::raw::RawSender;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::sys::{Batch, Receives};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::format_mac;

type Counts = [u64; Counter::COUNT as usize];

/// The plan of one rule with all interfaces on `backend`, in the relay's host.
fn plan_on(backend: Backend) -> Result<Plan> {
    let text = to_toml(&[Rule::feed().outputs("out0", 1)]);
    let document = relay::config::parse("test.toml", &text).map_err(|e| anyhow!("{e}"))?;
    this_machine::for_this_machine(&document, Some(backend)).map_err(|e| anyhow!("{e}"))
}

/// The index of the plan's input.
fn input_of(plan: &Plan) -> Result<u32> {
    let mut interfaces = plan.interfaces.iter();
    let input = interfaces.find(|interface| interface.is_input);
    Ok(input.context("an input")?.index)
}

/// A packet socket of the relay's host with the filter on it.
struct Filtered {
    socket: OwnedFd,
    kernel: Kernel,
    plan: Plan,
    /// The input's index.
    input: u32,
}

impl Filtered {
    fn new(bed: &Testbed) -> Result<Self> {
        let (input, output) = (&bed.inputs[0], &bed.outputs[0]);
        ensure!(input.mac == INPUT_MAC, "the table is about another input");
        ensure!(
            (output.mac, output.address.octets()) == (OUTPUT_MAC, OUTPUT_ADDRESS),
            "the table is about another output"
        );
        let socket = input.packet_socket(Receives::Arriving)?;
        bed.relay.run(|| {
            let plan = plan_on(Backend::IoUring)?;
            let mut kernel = Kernel::for_plan(&plan)?;
            kernel.attach_filter(socket.as_fd())?;
            kernel.open_plan(&plan)?;
            let input = input_of(&plan)?;
            // The plan has the first of them.
            for key in rules(input).into_iter().skip(1) {
                kernel.open(&key, Backend::IoUring, 0, "a", None)?;
            }
            Ok(Self {
                socket,
                kernel,
                plan,
                input,
            })
        })
    }

    fn counts(&self) -> Counts {
        self.kernel.counters(self.input).expect("an input")
    }

    /// The frames that the socket receives before the datagram of the rule with the payload `last`.
    /// Frames of one wire keep their order, so no earlier frame can still arrive after that.
    fn frames_before(&self, last: &[u8]) -> Result<Vec<Vec<u8>>> {
        let last = matching(last);
        let mut batch = Batch::new(16, 70_000);
        let mut frames = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if batch.receive(self.socket.as_fd())? == 0 {
                thread::yield_now();
            }
            for message in batch.messages() {
                if message.bytes == last {
                    return Ok(frames);
                }
                frames.push(message.bytes.to_vec());
            }
        }
        anyhow::bail!("the last datagram has not come; before it came {frames:x?}")
    }
}

/// Sends `frames` and then one datagram of the rule; returns which of `frames` the socket received,
/// and the counters.
fn through_the_filter(frames: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, Counts)> {
    let bed = Testbed::new()?;
    // The host answers some of the frames, and must not ask for the sender's Ethernet address
    // first: the answer to that would be counted.
    let (address, mac) = (bed.sources[0].address, format_mac(bed.sources[0].mac));
    let neighbour = format!("neighbour replace {address} lladdr {mac} dev in0");
    bed.relay.ip(&neighbour)?;
    let filtered = Filtered::new(&bed)?;
    let sender = RawSender::open(&bed.sources[0])?;
    for frame in frames {
        sender.send(frame)?;
    }
    sender.send(&matching(b"the last one"))?;
    let arrived = filtered.frames_before(b"the last one")?;
    Ok((arrived, filtered.counts()))
}

/// What the counters must be after `verdicts`, and one more datagram of the rule.
fn expected(verdicts: impl Iterator<Item = Counter>) -> Counts {
    let mut counts = [0; Counter::COUNT as usize];
    for verdict in verdicts.chain([Counter::Redirected]) {
        counts[Counter::Received as usize] += 1;
        counts[verdict as usize] += 1;
    }
    counts
}

#[test]
fn the_packet_table_over_a_wire_lets_the_datagrams_of_the_rule_through_and_nothing_else()
-> Result<()> {
    // A frame that ends inside its tag reaches no socket: the kernel drops it (skb_vlan_untag).
    let table: Vec<Case> = table()
        .into_iter()
        .filter(|case| !is_tagged(&case.frame) || case.frame.len() >= SHORTEST_TAGGED)
        .collect();
    let frames: Vec<_> = table.iter().map(|case| case.frame.clone()).collect();
    let (arrived, counts) = through_the_filter(&frames)?;
    let mut arrived = arrived.iter();
    for case in &table {
        if case.expected == Counter::Redirected {
            let mut frame = case.frame.clone();
            if is_tagged(&frame) {
                frame.drain(TAG..TAG + VLAN_LEN); // the kernel keeps the tag beside the frame
            }
            assert_eq!(arrived.next(), Some(&frame), "{}", case.what);
        }
    }
    assert_eq!(arrived.next(), None, "more than the datagrams of the rule");
    assert_eq!(counts, expected(table.iter().map(|case| case.expected)));
    Ok(())
}

#[test]
fn a_tag_that_the_kernel_took_out_keeps_a_frame_from_the_rule() -> Result<()> {
    let plain = matching(b"payload");
    let six = udp6_to(GROUP6, PORT, b"payload");
    let frames = [
        tagged(0x8100, &plain),
        tagged(0x88a8, &plain),
        tagged(0x8100, &tagged(0x8100, &plain)),
        tagged(0x8100, &tagged(0x88a8, &plain)),
        tagged(0x88a8, &tagged(0x8100, &plain)),
        tagged(0x8100, &six),
        tagged(0x88a8, &six),
        tagged(0x8100, &tagged(0x8100, &six)),
        priority_tagged(0x8100, &tagged(0x8100, &plain)),
        tagged(0x8100, &priority_tagged(0x8100, &plain)),
    ];
    let (arrived, counts) = through_the_filter(&frames)?;
    assert_eq!(arrived, [[0; 0]; 0]);
    // The decoder sees the tags in the bytes here.
    let verdicts = frames.iter().map(|frame| match wire::decode(&frame[..]) {
        Err(skip) => skip.into(),
        Ok(datagram) => Counter::unmatched(&datagram),
    });
    assert_eq!(counts, expected(verdicts));
    assert_eq!(counts[Counter::PassVlan as usize], 10);
    Ok(())
}

#[test]
fn a_gso_packet_comes_through_whole_and_counts_as_its_datagrams() -> Result<()> {
    const SIZE: usize = 1400;
    const JOINED: u64 = 46;
    let bed = Testbed::new()?;
    let filtered = Filtered::new(&bed)?;
    let traffic = |port| Traffic::new(GROUP_IN, port, Stream::new(0, JOINED, SIZE));
    let udp = UdpSender::open(&bed.sources[0])?;
    let all = JOINED as u32;
    udp.send_segmented(&traffic(PORT_IN), all, 1_000_000, &Window::unlimited())?;
    // Without a rule it counts as one frame: the filter does not know the datagrams in it.
    udp.send_segmented(&traffic(PORT_IN + 1), all, 1_000_000, &Window::unlimited())?;
    RawSender::open(&bed.sources[0])?.send(&matching(b"the last one"))?;
    let arrived = filtered.frames_before(b"the last one")?;
    let lengths: Vec<_> = arrived.iter().map(Vec::len).collect();
    assert_eq!(lengths, [IPV4_HEADERS_LEN + SIZE * JOINED as usize]);
    let counts = filtered.counts();
    assert_eq!(counts[Counter::Redirected as usize], JOINED + 1);
    assert_eq!(counts[Counter::PassNoRule as usize], 1);
    assert_eq!(counts[Counter::Received as usize], JOINED + 2);
    Ok(())
}

#[test]
fn nothing_comes_through_before_the_flows_are_open_and_after_they_are_closed() -> Result<()> {
    let bed = Testbed::new()?;
    let mut filtered = Filtered::new(&bed)?;
    let sender = RawSender::open(&bed.sources[0])?;
    filtered.kernel.close_plan(&filtered.plan);
    sender.send(&matching(b"closed"))?;
    while filtered.counts()[Counter::PassNoRule as usize] == 0 {
        thread::yield_now();
    }
    filtered.kernel.open_plan(&filtered.plan)?;
    sender.send(&matching(b"open"))?;
    assert_eq!(filtered.frames_before(b"open")?, [[0; 0]; 0]);
    Ok(())
}

#[test]
fn the_filter_stays_on_the_socket_when_the_kernel_side_is_gone() -> Result<()> {
    let bed = Testbed::new()?;
    let Filtered { socket, kernel, .. } = Filtered::new(&bed)?;
    drop(kernel);
    let sender = RawSender::open(&bed.sources[0])?;
    sender.send(&table()[8].frame)?;
    sender.send(&matching(b"x"))?;
    let mut batch = Batch::new(16, 2000);
    let deadline = Instant::now() + Duration::from_secs(5);
    while batch.receive(socket.as_fd())? == 0 {
        ensure!(Instant::now() < deadline, "nothing came");
        thread::yield_now();
    }
    let frames: Vec<_> = batch.messages().map(|message| message.bytes).collect();
    assert_eq!(frames, [matching(b"x")]);
    Ok(())
}

#[test]
fn only_the_program_that_the_plan_needs_is_loaded() -> Result<()> {
    let bed = Testbed::new()?;
    let socket = bed.inputs[0].packet_socket(Receives::Arriving)?;
    for backend in [Backend::IoUring, Backend::Xdp] {
        bed.relay.run(|| {
            let plan = plan_on(backend)?;
            let mut kernel = Kernel::for_plan(&plan)?;
            let input = input_of(&plan)?;
            assert!(kernel.counters(input).is_some());
            assert_eq!(bed.inputs[0].has_xdp_program()?, backend == Backend::Xdp);
            let filter = kernel.attach_filter(socket.as_fd());
            // An XSKMAP does not take a packet socket: then the map refuses, and not the relay.
            let sockets = kernel.set_socket(input, 0, socket.as_raw_fd());
            match backend {
                Backend::IoUring => {
                    filter?;
                    assert!(matches!(sockets, Err(KernelError::NotLoaded(_))));
                }
                Backend::Xdp => {
                    assert!(matches!(filter, Err(KernelError::NotLoaded(_))));
                    assert!(matches!(sockets, Err(KernelError::MapWrite { .. })));
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Takes all capabilities but `number` (linux/capability.h) from the calling thread.
fn keep_only_capability(number: u32) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut sets = [[0_u32; 3]; 2];
    let bit = 1 << (number % 32);
    // Effective and permitted; not inheritable.
    sets[(number / 32) as usize] = [bit, bit, 0];
    // SAFETY: a header of two words and two sets of three words each, as version 3 wants; both
    // outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    ensure!(result == 0, "capset: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn the_filter_needs_cap_bpf_and_nothing_else() -> Result<()> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_BPF: u32 = 39;
    let load_with = |capability| {
        let loading = thread::spawn(move || -> Result<()> {
            keep_only_capability(capability)?;
            let mut ebpf = relay::kernel::load_filter()?;
            ensure!(ebpf.map(abi::SOCKETS).is_none(), "an XSKMAP");
            Ok(program::<SocketFilter>(&mut ebpf, abi::FILTER)?.load()?)
        });
        loading.join().expect("a thread without a panic")
    };
    load_with(CAP_BPF)?;
    let refused = load_with(CAP_NET_ADMIN)
        .expect_err("no CAP_BPF")
        .to_string();
    assert!(refused.contains("CAP_BPF is needed"), "{refused}");
    Ok(())
}
