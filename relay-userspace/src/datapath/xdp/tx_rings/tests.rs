//! The rings against another thread, and against the kernel: real sockets on a veth pair.

use std::{
    io::Read as _,
    num::NonZeroU32,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::{
    net::if_::if_nametoindex,
    sys::memfd::{MFdFlags, memfd_create},
};
use xsk_rs::{
    FillQueue, RxQueue, Socket, Umem,
    config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
    umem::frame::FrameDesc,
};

use super::*;
use crate::{
    host::packet_socket,
    testing::{in_namespace, run},
};

/// Entries of the rings between two threads.
const SIZE: u32 = 8;
/// Where the parts of such a ring are: each number in a cache line of its own.
const OFFSETS: [u64; 4] = [0, 64, 192, 128];

/// Memory that is mapped as often as a test likes, as a ring of the kernel is.
fn memory() -> OwnedFd {
    let memory = memfd_create(c"ring", MFdFlags::empty()).unwrap();
    nix::unistd::ftruncate(&memory, 4096).unwrap();
    memory
}

fn ends(memory: &OwnedFd) -> (Producer<u64>, Consumer<u64>) {
    let map = || Ring::map(memory.as_raw_fd(), 0, OFFSETS, SIZE).unwrap();
    (Producer(map()), Consumer(map()))
}

#[test]
fn entries_are_put_on_a_ring_all_or_none_and_come_off_it_in_order() {
    let memory = memory();
    let (mut producer, mut consumer) = ends(&memory);
    let mut came = [0; 16];
    assert_eq!(producer.free(), SIZE);
    assert_eq!(producer.produce([&[1, 2, 3], &[4, 5]]), 5);
    assert_eq!(producer.free(), 3);
    assert_eq!(producer.produce([&[6, 7], &[8, 9]]), 0, "one too many");
    assert_eq!(consumer.consume(&mut came[..2], |entry| entry), 2);
    assert_eq!(producer.produce([&[], &[6, 7, 8, 9]]), 4, "around the end");
    assert_eq!(consumer.consume(&mut came[2..], |entry| entry), 7);
    assert_eq!(came[..9], [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(consumer.consume(&mut came, |entry| entry), 0);
    assert_eq!(producer.free(), SIZE);
}

#[test]
fn a_ring_goes_on_where_the_counters_are_and_they_may_wrap() {
    let memory = memory();
    let (producer, _consumer) = ends(&memory);
    let start = u32::MAX - 1;
    producer.0.producer().store(start, Relaxed);
    producer.0.consumer().store(start, Relaxed);
    let (mut producer, mut consumer) = ends(&memory);
    assert_eq!(producer.produce([&[1, 2, 3, 4, 5], &[]]), 5);
    let mut came = [0; 8];
    assert_eq!(consumer.consume(&mut came, |entry| entry), 5);
    assert_eq!(came[..5], [1, 2, 3, 4, 5]);
}

#[test]
fn what_is_published_was_written_before() {
    const COUNT: u64 = 200_000;
    let memory = memory();
    let (mut producer, mut consumer) = ends(&memory);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut next = 0;
            while next < COUNT {
                let entries = [next, next + 1, next + 2];
                match producer.produce([&entries[..1], &entries[1..]]) {
                    0 => std::thread::yield_now(),
                    count => next += u64::from(count),
                }
            }
        });
        let (mut came, mut next) = ([0; 5], 0);
        while next < COUNT {
            let count = consumer.consume(&mut came, |entry| entry);
            for entry in &came[..count] {
                assert_eq!(*entry, next);
                next += 1;
            }
            if count == 0 {
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn a_ring_whose_parts_are_not_in_its_memory_is_refused() {
    let memory = memory();
    for offsets in [
        [1 << 20, 64, 192, 128],
        [0, u64::MAX, 192, 128],
        [0, 64, u64::MAX - 8, 128],
    ] {
        Ring::<u64>::map(memory.as_raw_fd(), 0, offsets, SIZE).unwrap_err();
    }
}

/// Bytes of a chunk.
const CHUNK: usize = 4096;

/// A socket on one end of a wire, and a packet socket on the other.
struct Wire {
    rings: TxRings,
    far: std::fs::File,
    umem: Umem,
    chunks: Vec<FrameDesc>,
    _receiver: (RxQueue, FillQueue),
}

impl Wire {
    /// In the network namespace of the thread.
    fn new() -> Self {
        run("ip link add near type veth peer name far");
        for end in ["near", "far"] {
            run(&format!("ip link set {end} up"));
        }
        let config = UmemConfig::builder()
            .comp_queue_size(QueueSize::new(COMPLETION_SIZE).unwrap())
            .build()
            .unwrap();
        let count = NonZeroU32::new(4).unwrap();
        let (umem, chunks) = Umem::new(config, count, false).unwrap();
        let config = SocketConfig::builder()
            .tx_queue_size(QueueSize::new(TX_SIZE).unwrap())
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(
                BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG,
            )
            .build();
        // SAFETY: the only socket of this UMEM.
        let bound = unsafe { Socket::new(config, &umem, &"near".parse().unwrap(), 0) };
        let (tx, rx, rings) = bound.unwrap();
        let (fill, completion) = rings.unwrap();
        let far = packet_socket::open().unwrap();
        packet_socket::bind(&far, if_nametoindex("far").unwrap(), libc::ETH_P_ALL as u16).unwrap();
        Self {
            rings: TxRings::new(tx, completion).unwrap(),
            far: far.into(),
            umem,
            chunks,
            _receiver: (rx, fill),
        }
    }

    /// Writes `bytes` so far behind the place where chunk `number` would have a received frame.
    fn write(&mut self, number: usize, behind: usize, bytes: &[u8]) -> Descriptor {
        let desc = &mut self.chunks[number];
        // SAFETY: the chunk is in no ring.
        let mut data = unsafe { self.umem.data_mut(desc) };
        data.cursor().set_pos(CHUNK / 2);
        data.contents_mut()[behind..behind + bytes.len()].copy_from_slice(bytes);
        Descriptor {
            addr: (desc.addr() + behind) as u64,
            len: bytes.len() as u32,
            options: 0,
        }
    }

    /// Submits descriptors, and returns what comes back.
    fn transmit(&mut self, descs: &[Descriptor]) -> Vec<u64> {
        // SAFETY: nothing is written to the chunks before they come back below.
        let submitted = unsafe { self.rings.submit([descs, &[]]) };
        assert_eq!(submitted as usize, descs.len());
        assert!(self.rings.needs_wakeup(), "always so in copy mode");
        let (mut back, mut batch) = (Vec::new(), [Descriptor::default(); 64]);
        let deadline = Instant::now() + Duration::from_secs(5);
        while back.len() < descs.len() && Instant::now() < deadline {
            match self.rings.wake() {
                Ok(()) | Err(Errno::EAGAIN) => {}
                Err(error) => panic!("{error}"),
            }
            let count = self.rings.complete(&mut batch);
            back.extend(batch[..count].iter().map(|desc| even(desc.addr)));
        }
        back
    }

    /// The next frame at the other end that is of the kind that [`frame`] makes.
    fn receive(&mut self) -> Vec<u8> {
        let mut frame = [0; CHUNK];
        loop {
            let len = self.far.read(&mut frame).unwrap();
            if frame[12..14] == KIND {
                return frame[..len].to_vec();
            }
        }
    }
}

/// An EtherType for experiments (IEEE 802).
const KIND: [u8; 2] = [0x88, 0xb5];

/// A frame whose bytes differ from those of another `number`.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend(KIND);
    frame.extend(number.to_be_bytes());
    frame.extend((0..=255).cycle().take(len - frame.len()));
    frame
}

/// The same as a part of a frame that goes on in the next descriptor.
fn part(desc: Descriptor) -> Descriptor {
    Descriptor {
        options: libc::XDP_PKT_CONTD,
        ..desc
    }
}

/// Linux 6.18 keeps the last bit of an address for itself, and gives it back as 0
/// (`xsk_skb_destructor_set_addr`, net/xdp/xsk.c).
fn even(addr: u64) -> u64 {
    addr & !1
}

#[test]
fn a_frame_starts_anywhere_and_has_one_part_or_two() {
    in_namespace(|| {
        let mut wire = Wire::new();
        for (number, (behind, headers)) in [(0, 42), (3, 62), (11, 14), (700, 70)]
            .into_iter()
            .enumerate()
        {
            let frame = frame(number as u32, 1000);
            let whole = wire.write(0, behind, &frame);
            assert_eq!(wire.transmit(&[whole]), [even(whole.addr)]);
            assert_eq!(wire.receive(), frame);
            let first = part(wire.write(1, behind, &frame[..headers]));
            let second = wire.write(2, 5 + behind, &frame[headers..]);
            let mut back = wire.transmit(&[first, second]);
            back.sort_unstable();
            assert_eq!(back, [first.addr, second.addr].map(even));
            assert_eq!(wire.receive(), frame, "in two parts");
        }
    });
}

#[test]
fn many_frames_go_around_the_rings_in_order() {
    in_namespace(|| {
        let mut wire = Wire::new();
        for number in 0..TX_SIZE * 3 / 2 {
            let frame = frame(number, 64);
            let first = part(wire.write(1, 0, &frame[..20]));
            let second = wire.write(2, 0, &frame[20..]);
            assert_eq!(wire.transmit(&[first, second]).len(), 2);
            assert_eq!(wire.receive(), frame, "{number}");
        }
        assert_eq!(wire.rings.free(), TX_SIZE);
    });
}
