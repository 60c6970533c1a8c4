//! How much memory a worker takes: its chunks, and how many of them each FILL ring holds.
//!
//! For every socket that is bound to the UMEM, the kernel keeps a record of every chunk
//! (`pool->heads`, 127 bytes on Linux 6.18, xp_create_and_assign_umem in net/xdp/xsk_buff_pool.c)
//! and clears it during the bind. So many large FILL rings cost memory and time by the square of
//! their number: 63 inputs with 8192 chunks each took 4.1 GB of the kernel's memory, 1 GB of their
//! own, and 10 s to bind. Five and more inputs therefore share as many chunks as four have.

use super::ring_sizes::{FILL_SIZE, LARGEST_BATCH, STACK_FILL, TX_SIZE};
use crate::plan::{self, Mode};

/// Chunks in all FILL rings of a worker's inputs together, unless [`LEAST_FILL`] asks for more: as
/// many frames may arrive while the worker does something else, which is 32 ms at a million frames
/// per second.
const ALL_FILL: u32 = 4 * FILL_SIZE;
/// Chunks that each FILL ring has at least: two of the largest bursts of one NAPI poll.
const LEAST_FILL: u32 = 128;

/// Chunks for ports that come while the worker runs: an input with a whole FILL ring, or two
/// outputs in zero copy, four in copy mode. The UMEM cannot grow, so the ports that come after them
/// take from the FILL rings.
const SPARE: u32 = FILL_SIZE;
/// Chunks that a FILL ring keeps when ports come, unless so many inputs share that it had fewer
/// from the start: 2 ms at a million frames per second.
const KEPT_FILL: u32 = 2048;

/// The chunks that `worker` is given: enough so that full FILL rings and full TX rings never
/// compete, one for every frame that can be lent or in flight, and one batch in the worker's hands;
/// and some to spare.
#[must_use]
pub fn chunk_count(worker: &plan::WorkerPlan, mode: Mode) -> u32 {
    let of_port =
        |port: &plan::Port| lends(worker, port, mode) + u32::from(port.transmits) * TX_SIZE;
    worker.ports.iter().map(of_port).sum::<u32>() + LARGEST_BATCH as u32 + SPARE
}

/// How many chunks a port of `worker` lends to the kernel to receive into.
///
/// In zero copy a bound queue receives into the UMEM only, even frames for the Linux stack. So a
/// queue that only transmits lends some as well; without them the Linux stack would get no ARP, no
/// IGMP and nothing else from that queue.
pub fn lends(worker: &plan::WorkerPlan, port: &plan::Port, mode: Mode) -> u32 {
    match (port.receives, mode) {
        (true, _) => fill(inputs(worker)),
        (false, Mode::ZeroCopy) => STACK_FILL,
        (false, Mode::Copy) => 0,
    }
}

/// The same in a UMEM with `chunks` chunks, which may have been made for fewer ports.
pub fn lends_of(worker: &plan::WorkerPlan, port: &plan::Port, mode: Mode, chunks: u32) -> u32 {
    let lends = lends(worker, port, mode);
    if port.receives {
        lends.min(share(worker, mode, chunks))
    } else {
        lends
    }
}

/// Whether a UMEM with `chunks` chunks does for the ports of `worker`.
pub fn has_room_for(worker: &plan::WorkerPlan, mode: Mode, chunks: u32) -> bool {
    let least = fill(inputs(worker)).min(KEPT_FILL);
    share(worker, mode, chunks) >= least
}

/// The chunks that a UMEM with `chunks` chunks has for each FILL ring of an input, a power of two.
fn share(worker: &plan::WorkerPlan, mode: Mode, chunks: u32) -> u32 {
    let others = worker.ports.iter().map(|port| {
        let lends = if port.receives {
            0
        } else {
            lends(worker, port, mode)
        };
        lends + u32::from(port.transmits) * TX_SIZE
    });
    let taken = others.sum::<u32>() + LARGEST_BATCH as u32;
    power_of_two(chunks.saturating_sub(taken) / inputs(worker).max(1))
}

fn inputs(worker: &plan::WorkerPlan) -> u32 {
    worker.ports.iter().filter(|port| port.receives).count() as u32
}

/// The chunks in each FILL ring of a worker with `inputs` inputs, a power of two.
fn fill(inputs: u32) -> u32 {
    power_of_two(ALL_FILL / inputs.max(1)).clamp(LEAST_FILL, FILL_SIZE)
}

/// The largest power of two that is not above `number`; 0 for 0.
fn power_of_two(number: u32) -> u32 {
    number.checked_ilog2().map_or(0, |log| 1 << log)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(interface: usize, receives: bool) -> plan::Port {
        plan::Port {
            interface: plan::InterfaceId::new(interface),
            queue: 0,
            receives,
            transmits: !receives,
        }
    }

    fn worker() -> plan::WorkerPlan {
        plan::WorkerPlan {
            backend: plan::Backend::Xdp,
            cpu: None,
            ports: vec![port(0, true), port(1, false)],
            input: None,
            tx_sockets: Vec::new(),
            flows: Vec::new(),
        }
    }

    #[test]
    fn in_zero_copy_a_queue_that_only_transmits_has_chunks_for_the_linux_stack() {
        let batch = LARGEST_BATCH as u32;
        let copy = FILL_SIZE + TX_SIZE + batch + SPARE;
        assert_eq!(chunk_count(&worker(), Mode::Copy), copy);
        let zero_copy = copy + STACK_FILL;
        assert_eq!(chunk_count(&worker(), Mode::ZeroCopy), zero_copy);
    }

    /// A worker with `inputs` inputs, whose copies all leave through TX sockets.
    fn of_inputs(inputs: usize) -> plan::WorkerPlan {
        plan::WorkerPlan {
            ports: (0..inputs).map(|at| port(at, true)).collect(),
            ..worker()
        }
    }

    #[test]
    fn few_inputs_have_the_largest_fill_rings_and_many_share_what_four_have() {
        for (inputs, expected) in [
            (1, 8192),
            (4, 8192),
            (5, 4096),
            (8, 4096),
            (9, 2048),
            (16, 2048),
            (63, 512),
            (64, 512),
            (256, 128),
            (1000, 128),
        ] {
            let worker = of_inputs(inputs);
            let lends = lends(&worker, &worker.ports[0], Mode::Copy);
            assert_eq!(lends, expected, "{inputs} inputs");
        }
        for inputs in 1..=256 {
            let chunks = chunk_count(&of_inputs(inputs), Mode::Copy);
            assert!(
                chunks <= ALL_FILL + LARGEST_BATCH as u32 + SPARE,
                "{inputs} inputs: {chunks}"
            );
        }
    }

    #[test]
    fn ports_that_come_take_what_is_spare_and_then_from_the_fill_rings() {
        let first = of_inputs(1);
        let chunks = chunk_count(&first, Mode::Copy);
        // Inputs, outputs of their own, and how many chunks each FILL ring has.
        for (inputs, outputs, expected) in [
            (1, 0, Some(8192)),
            (2, 0, Some(8192)),
            (1, 4, Some(8192)),
            (1, 5, Some(4096)),
            (3, 0, Some(4096)),
            (8, 0, Some(2048)),
            (1, 7, Some(2048)),
            (1, 8, None),
            (9, 0, None),
        ] {
            let mut worker = of_inputs(inputs);
            let more = (inputs..inputs + outputs).map(|at| port(at, false));
            worker.ports.extend(more);
            let fits = has_room_for(&worker, Mode::Copy, chunks);
            assert_eq!(
                fits,
                expected.is_some(),
                "{inputs} inputs, {outputs} outputs"
            );
            if let Some(expected) = expected {
                let lends = lends_of(&worker, &worker.ports[0], Mode::Copy, chunks);
                assert_eq!(lends, expected, "{inputs} inputs, {outputs} outputs");
            }
        }
    }

    #[test]
    fn a_new_worker_has_room_for_all_its_ports() {
        for inputs in 1..=256 {
            for mode in [Mode::Copy, Mode::ZeroCopy] {
                let worker = of_inputs(inputs);
                let chunks = chunk_count(&worker, mode);
                assert!(has_room_for(&worker, mode, chunks), "{inputs} inputs");
                let port = &worker.ports[0];
                let all = lends(&worker, port, mode);
                assert_eq!(
                    lends_of(&worker, port, mode, chunks),
                    all,
                    "{inputs} inputs"
                );
            }
        }
    }
}
