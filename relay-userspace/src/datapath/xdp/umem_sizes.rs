//! How much memory a worker takes: its chunks, and how many of them each FILL ring holds.
//!
//! For every socket that is bound to the UMEM, the kernel keeps a record of every chunk
//! (`pool->heads`, 127 bytes on Linux 6.18, xp_create_and_assign_umem in net/xdp/xsk_buff_pool.c)
//! and clears it during the bind. So many large FILL rings cost memory and time by the square of
//! their number: 63 inputs with 8192 chunks each took 4.1 GB of the kernel's memory, 1 GB of their
//! own, and 10 s to bind. Five and more inputs therefore share as many chunks as four have.

use super::ring_sizes::{BATCH, FILL_SIZE, STACK_FILL, TX_SIZE};
use crate::plan::{self, Mode};

/// Chunks in all FILL rings of a worker's inputs together, unless [`LEAST_FILL`] asks for more: as
/// many frames may arrive while the worker does something else, which is 32 ms at a million frames
/// per second.
const ALL_FILL: u32 = 4 * FILL_SIZE;
/// Chunks that each FILL ring has at least: two of the largest bursts of one NAPI poll.
const LEAST_FILL: u32 = 128;

/// The chunks that `worker` needs so that full FILL rings and full TX rings never compete: one for
/// every frame that can be lent or in flight, and one batch in the worker's hands.
#[must_use]
pub fn chunk_count(worker: &plan::WorkerPlan, mode: Mode) -> u32 {
    let of_port =
        |port: &plan::Port| lends(worker, port, mode) + u32::from(port.transmits) * TX_SIZE;
    worker.ports.iter().map(of_port).sum::<u32>() + BATCH as u32
}

/// How many chunks a port of `worker` lends to the kernel to receive into.
///
/// In zero copy a bound queue receives into the UMEM only, even frames for the Linux stack. So a
/// queue that only transmits lends some as well; without them the Linux stack would get no ARP, no
/// IGMP and nothing else from that queue.
pub fn lends(worker: &plan::WorkerPlan, port: &plan::Port, mode: Mode) -> u32 {
    match (port.receives, mode) {
        (true, _) => fill(worker.ports.iter().filter(|port| port.receives).count() as u32),
        (false, Mode::ZeroCopy) => STACK_FILL,
        (false, Mode::Copy) => 0,
    }
}

/// The chunks in each FILL ring of a worker with `inputs` inputs, a power of two.
fn fill(inputs: u32) -> u32 {
    let share = ALL_FILL / inputs.max(1);
    let power = share.checked_ilog2().map_or(0, |log| 1 << log);
    power.clamp(LEAST_FILL, FILL_SIZE)
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
        let batch = BATCH as u32;
        let copy = FILL_SIZE + TX_SIZE + batch;
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
                chunks <= ALL_FILL + BATCH as u32,
                "{inputs} inputs: {chunks}"
            );
        }
    }
}
