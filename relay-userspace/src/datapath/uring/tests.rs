//! What end-to-end tests cannot see: where messages are gathered from, and that every buffer comes
//! back.

mod ending;
mod partial_checksums;

use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{MsgFlags, recv},
};

use super::*;
use crate::{
    config,
    daemon::{memberships::Memberships, this_machine},
    datapath::stats::Dropped,
    host::{packet_socket, socket_options},
    plan::Backend,
    testing::{in_namespace, run},
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
const PORT: u16 = 5001;
/// Outputs of the one rule.
const OUTPUTS: usize = 3;

/// A worker that receives the datagrams of a local socket over one veth, and sends through another.
struct Bench {
    worker: UringWorker,
    remote: Remote,
    sender: UdpSocket,
    _memberships: Memberships,
}

impl Bench {
    fn new(buffers: u16, completions: Option<u32>) -> Self {
        // Nothing but the test's datagrams shall be on the wire.
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        run("ip link add va type veth peer name in0");
        run("ip link add out0 type veth peer name vb");
        run("ip address add 10.1.0.2/24 dev va");
        run("ip address add 10.2.0.1/24 dev out0");
        for name in ["va", "in0", "out0", "vb"] {
            run(&format!("ip link set {name} up"));
        }
        let outputs: Vec<_> = (1..=OUTPUTS).collect();
        let document = document(&[("a", PORT, &outputs)]);
        let plan = plan(&document);
        let worker = &plan.workers[0];
        let completions = completions.unwrap_or_else(|| super::completions(worker, buffers));
        let attach = |_: BorrowedFd<'_>| Ok(());
        let (worker, remote) = UringWorker::with_ring(
            completions,
            &plan,
            worker,
            buffers,
            &attach,
            &Arc::default(),
        )
        .unwrap();
        let memberships = Memberships::join(&plan).unwrap();
        let sender = UdpSocket::bind("10.1.0.2:40000").unwrap();
        sender.set_multicast_ttl_v4(4).unwrap();
        wait_until_up("va");
        wait_until_up("out0");
        let mut bench = Self {
            worker,
            remote,
            sender,
            _memberships: memberships,
        };
        bench.poll_until_idle();
        bench
    }

    /// Sends payloads, one per datagram or GSO packet, and waits until all of them are in the
    /// worker's socket.
    fn send(&self, payloads: &[Vec<u8>]) {
        let socket = self.worker.socket();
        // Reading the statistics resets them to 0.
        let arrived = || {
            let [packets, _]: [u32; 2] =
                socket_options::get(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS).unwrap();
            packets as usize
        };
        arrived();
        for payload in payloads {
            self.sender.send_to(payload, (GROUP, PORT)).unwrap();
        }
        let (mut count, deadline) = (0, Instant::now() + Duration::from_secs(5));
        while count < payloads.len() {
            assert!(Instant::now() < deadline, "{count} of {}", payloads.len());
            count += arrived();
        }
    }

    fn poll_until_idle(&mut self) {
        while self.worker.poll_once() {}
    }

    fn matched(&self) -> u64 {
        self.worker.stats.matched.get()
    }

    /// Of all outputs.
    fn sent(&self) -> u64 {
        let outputs = self.worker.stats.outputs.iter();
        outputs.map(|output| output.sent.get()).sum()
    }

    /// Of all outputs.
    fn dropped(&self, reason: Dropped) -> u64 {
        let drops = self.worker.stats.outputs.iter();
        let drops = drops.flat_map(|output| output.drops.iter());
        drops
            .filter(|(why, _)| *why == reason)
            .map(|(_, count)| count)
            .sum()
    }

    #[track_caller]
    fn assert_all_buffers_provided(&self) {
        assert_eq!(self.worker.buffers.held(), 0);
        let chunks = &self.worker.stats.chunks;
        assert_eq!(chunks.fill.get(), chunks.total.get(), "{chunks:?}");
        assert_eq!(self.worker.ring.slots.in_flight(), 0);
    }
}

/// Rules: for each its name, its port, and the last bytes of its outputs' groups.
fn document(rules: &[(&str, u16, &[usize])]) -> config::Document {
    let rule = |(name, port, outputs): &(&str, u16, &[usize])| {
        let output =
            |n: &usize| format!("{{ interface = \"out0\", group = \"239.2.2.{n}\", port = 5002 }}");
        let outputs: Vec<_> = outputs.iter().map(output).collect();
        format!(
            "[[rules]]\nname = \"{name}\"\n\
             input = {{ interface = \"in0\", group = \"{GROUP}\", port = {port} }}\n\
             outputs = [{}]\n",
            outputs.join(", ")
        )
    };
    let text: String = rules.iter().map(rule).collect();
    config::parse("test.toml", &text).unwrap()
}

fn plan(document: &config::Document) -> Plan {
    this_machine::for_this_machine(document, Some(Backend::IoUring)).unwrap()
}

/// The kernel starts an interface's queue a moment after its link has come up, and drops frames
/// sent before.
fn wait_until_up(interface: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !run(&format!("ip link show {interface}")).contains("state UP") {
        assert!(Instant::now() < deadline, "{interface} does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Payloads that differ, of lengths that cannot all be joined.
fn payloads(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| vec![n as u8; 200 + 100 * (n % 3)])
        .collect()
}

#[test]
fn every_message_is_gathered_from_the_buffers_that_its_payloads_were_received_in() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        let sent = payloads(20);
        bench.send(&sent);
        // Posted by this round, submitted by the next one.
        assert!(bench.worker.poll_once());
        assert_eq!(bench.matched(), 20);
        let UringWorker { ring, buffers, .. } = &bench.worker;
        let mut seen = [const { Vec::new() }; OUTPUTS];
        for slot in 0..ring.slots.total() as u32 {
            let Some(sent) = ring.slots.look(slot).filter(|sent| sent.frames > 0) else {
                continue;
            };
            for (address, len) in ring.slots.payloads(slot) {
                assert!(
                    buffers.has(address, len),
                    "{len} bytes at {address:#x} are outside of the receive buffers"
                );
                // SAFETY: they are in buffers that the message holds.
                let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, len) };
                seen[sent.output as usize].push((address, bytes.to_vec()));
            }
        }
        // Each datagram was received at one address, which all outputs share.
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0], seen[2]);
        let gathered: Vec<_> = seen[0].iter().map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(gathered, sent);
        assert_eq!(buffers.held(), 20, "until the sends have completed");
        bench.poll_until_idle();
        assert_eq!(bench.sent(), 20 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
    });
}

#[test]
fn a_gso_packet_is_one_buffer_and_the_datagrams_that_it_was_made_of() {
    in_namespace(|| {
        use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
        let mut bench = Bench::new(64, None);
        setsockopt(&bench.sender, UdpGsoSegment, &700).unwrap();
        bench.send(&[(0..=255).cycle().take(700 * 40 + 13).collect()]);
        assert!(bench.worker.poll_once());
        assert_eq!(bench.matched(), 41);
        assert_eq!(bench.worker.stats.progress.arrivals.get(), 1);
        let UringWorker { ring, buffers, .. } = &bench.worker;
        assert_eq!(buffers.held(), 1);
        let parts: Vec<_> = (0..ring.slots.total() as u32)
            .filter(|&slot| ring.slots.look(slot).is_some_and(|sent| sent.frames > 0))
            .map(|slot| ring.slots.payloads(slot))
            .collect();
        assert_eq!(parts.len(), OUTPUTS, "a message an output");
        for parts in &parts {
            assert_eq!(
                parts[..],
                parts[..1],
                "payloads that follow each other are one part"
            );
            assert_eq!(parts[0].1, 700 * 40 + 13);
        }
        bench.poll_until_idle();
        assert_eq!(bench.sent(), 41 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
    });
}

#[test]
fn with_few_buffers_frames_wait_and_none_is_lost() {
    in_namespace(|| {
        let mut bench = Bench::new(4, None);
        for round in 1..=10 {
            bench.send(&payloads(50));
            bench.poll_until_idle();
            assert_eq!(bench.matched(), round * 50);
        }
        assert!(bench.worker.stats.ring.out_of_buffers.get() > 0);
        assert_eq!(bench.sent(), 500 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
    });
}

#[test]
fn a_completion_queue_that_overflows_loses_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new(1024, Some(256));
        for round in 1..=4 {
            bench.send(&payloads(400));
            // Rounds that take nothing off the queue.
            for _ in 0..20 {
                bench.worker.ring.enter();
            }
            bench.poll_until_idle();
            assert_eq!(bench.matched(), round * 400);
        }
        assert!(bench.worker.stats.ring.overflows.get() > 0);
        assert_eq!(bench.sent(), 1600 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
    });
}

#[test]
fn an_output_that_is_down_refuses_its_copies_and_gives_every_buffer_back() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        bench.send(&payloads(10));
        bench.poll_until_idle();
        run("ip link set out0 down");
        bench.send(&payloads(30));
        bench.poll_until_idle();
        assert_eq!(bench.matched(), 40);
        assert_eq!(bench.sent(), 10 * OUTPUTS as u64);
        assert_eq!(bench.dropped(Dropped::DeviceRefused), 30 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
        run("ip link set out0 up");
        wait_until_up("out0");
        bench.send(&payloads(10));
        bench.poll_until_idle();
        assert_eq!(bench.sent(), 20 * OUTPUTS as u64);
        run("ip link delete out0");
        bench.send(&payloads(10));
        bench.poll_until_idle();
        assert_eq!(bench.dropped(Dropped::DeviceRefused), 40 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
    });
}

#[test]
fn an_input_that_goes_down_is_received_from_again_when_it_is_up() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        for round in 1..=3 {
            bench.send(&payloads(10));
            bench.poll_until_idle();
            assert_eq!(bench.matched(), round * 10);
            run("ip link set in0 down");
            bench.poll_until_idle();
            assert_eq!(bench.worker.stats.ring.interrupted.get(), round);
            run("ip link set in0 up");
            bench.poll_until_idle();
            wait_until_up("va");
        }
        bench.assert_all_buffers_provided();
        run("ip link delete in0");
        // The interface is gone: the receive ends, and the worker does not spin.
        bench.poll_until_idle();
        assert!(!bench.worker.poll_once());
    });
}

#[test]
fn a_worker_that_ends_in_the_middle_of_its_work_takes_no_memory_from_the_kernel() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        let wire = packet_socket::open().unwrap();
        let index = if_nametoindex("vb").unwrap();
        packet_socket::bind(&wire, index, libc::ETH_P_IP as u16).unwrap();
        let posted = payloads(40);
        bench.send(&posted);
        assert!(bench.worker.poll_once());
        assert!(bench.worker.ring.is_busy());
        // Posted sends are submitted and completed before the memory is unmapped.
        let stats = bench.worker.stats();
        drop(bench.worker);
        let sent: u64 = stats.outputs.iter().map(|output| output.sent.get()).sum();
        assert_eq!(sent, (posted.len() * OUTPUTS) as u64);
        // Every byte of them arrives, and no byte that was not in them.
        let mut expected = [0; 256];
        for (byte, payload) in posted.iter().enumerate() {
            expected[byte] = payload.len() * OUTPUTS;
        }
        let (mut arrived, deadline) = ([0; 256], Instant::now() + Duration::from_secs(5));
        while arrived != expected && Instant::now() < deadline {
            for byte in received(&wire) {
                arrived[usize::from(byte)] += 1;
            }
        }
        assert_eq!(arrived, expected);
    });
}

/// The payload of the next UDP packet in a packet socket, which may be a GSO packet; empty if there
/// is none.
fn received(wire: &impl AsRawFd) -> Vec<u8> {
    const HEADERS: usize = 14 + 20 + 8;
    let mut packet = vec![0; 65_536];
    match recv(wire.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
        Ok(len) if packet[23] == 17 => packet[HEADERS..len].to_vec(),
        _ => Vec::new(),
    }
}

#[test]
fn a_ring_that_the_kernel_refuses_to_serve_is_counted_and_never_waited_for() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        bench.send(&payloads(10));
        bench.poll_until_idle();
        assert_eq!(bench.sent(), 10 * OUTPUTS as u64);
        bench.send(&payloads(40));
        assert!(bench.worker.poll_once());
        forbid_io_uring_enter();
        bench.poll_until_idle();
        bench.worker.run(&AtomicBool::new(true), false);
        assert!(bench.worker.stats.ring.refusals.get() > 0);
        // The posted sends could not be submitted: none counts as sent, and all are counted.
        let posted = bench.matched() - 10;
        assert!(posted > 0);
        assert_eq!(bench.sent(), 10 * OUTPUTS as u64);
        assert_eq!(
            bench.dropped(Dropped::UnsentAtExit),
            posted * OUTPUTS as u64
        );
        assert_eq!(bench.worker.buffers.held(), posted);
    });
}

#[test]
fn a_submission_queue_that_takes_nothing_more_costs_copies_and_holds_no_slot_and_no_buffer() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        bench.send(&payloads(10));
        // The datagrams are in the completion queue; from now on the kernel accepts no submission.
        bench.worker.ring.enter();
        forbid_io_uring_enter();
        let nothing = io_uring::opcode::Nop::new().build();
        // SAFETY: no pointers.
        while unsafe { bench.worker.ring.push(&nothing) } {}
        bench.poll_until_idle();
        assert_eq!(bench.matched(), 10);
        assert_eq!(bench.dropped(Dropped::RingFull), 10 * OUTPUTS as u64);
        bench.assert_all_buffers_provided();
    });
}

/// Forbids the call by a seccomp filter, for the calling thread and for good.
fn forbid_io_uring_enter() {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = [
        // The number of the call is the first field of `struct seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                libc::SYS_io_uring_enter as u32,
            )
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the pointer is to a local that outlives the call.
    let result = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_table_is_replaced_between_two_batches_and_no_copy_is_lost_or_counted_twice() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        bench.send(&payloads(20));
        // Posted, and not submitted before the change.
        assert!(bench.worker.poll_once());
        assert!(bench.worker.ring.is_busy());
        let other = plan(&document(&[("b", 6000, &[7]), ("a", PORT, &[3, 4, 1])]));
        let prepared = bench.remote.prepare(&other, &other.workers[0]).unwrap();
        assert!(bench.remote.send(prepared));
        assert!(!bench.remote.is_taken());
        bench.send(&payloads(10));
        bench.poll_until_idle();
        assert!(bench.remote.is_taken() && bench.remote.is_settled());
        let sent = |bench: &Bench, rule| -> Vec<u64> {
            let counters = bench.remote.flow(rule).unwrap();
            counters.outputs.iter().map(|output| output.sent).collect()
        };
        assert_eq!(bench.remote.flow("a").unwrap().matched, 30);
        assert_eq!(sent(&bench, "a"), [30, 10, 30]);
        assert_eq!(sent(&bench, "b"), [0]);
        let retired = bench.remote.retired();
        assert_eq!(retired.len(), 1);
        assert_eq!((&retired[0].rule[..], retired[0].matched), ("a", None));
        assert_eq!(retired[0].outputs[0].sent, 20);
        bench.assert_all_buffers_provided();
    });
}

/// The interface of the outputs is deleted and made anew; it gets another index, so another socket.
#[test]
fn tx_sockets_come_and_go_with_the_interfaces_and_none_stays_open() {
    in_namespace(|| {
        let mut bench = Bench::new(64, None);
        // Of this namespace.
        let packet_sockets = || std::fs::read_to_string("/proc/thread-self/net/packet").unwrap();
        let open = || packet_sockets().lines().count();
        let before = open();
        for round in 1..=20 {
            run("ip link delete out0");
            run("ip link add out0 type veth peer name vb");
            run("ip address add 10.2.0.1/24 dev out0");
            run("ip link set out0 up");
            run("ip link set vb up");
            wait_until_up("out0");
            let other = plan(&document(&[("a", PORT, &[1, 2, 3])]));
            let prepared = bench.remote.prepare(&other, &other.workers[0]).unwrap();
            assert!(bench.remote.send(prepared));
            bench.poll_until_idle();
            assert!(bench.remote.is_taken());
            bench.send(&payloads(10));
            bench.poll_until_idle();
            assert_eq!(bench.sent(), round * 10 * OUTPUTS as u64);
            // The kernel lets go of a socket a moment after it was closed.
            let deadline = Instant::now() + Duration::from_secs(5);
            while open() != before && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(open(), before, "round {round}");
        }
        bench.assert_all_buffers_provided();
    });
}
