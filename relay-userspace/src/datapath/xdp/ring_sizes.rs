//! How many entries the rings have, and how many frames a worker takes at once.

/// Entries of a FILL ring, and so the frames that can arrive while the worker does something else:
/// 8 ms at a million frames per second. With 2048 entries, a pause of 2 ms by the scheduler lost
/// frames at that rate.
pub const FILL_SIZE: u32 = 8192;
/// Chunks in the FILL ring of a queue that only transmits in zero copy, for frames to the Linux
/// stack: as many as the RX rings of most NICs take. The kernel uses them over and over.
pub const STACK_FILL: u32 = 2048;
/// Entries of a completion ring. As many as a TX ring has, so that it never overflows.
pub const COMPLETION_SIZE: u32 = TX_SIZE;
/// Entries of a TX ring, and the most descriptors that one port may have in flight. A power of two,
/// so that slots stay right when the counters wrap.
pub const TX_SIZE: u32 = 2048;
/// Entries of an RX ring: as many as the FILL ring can lend, so that the FILL ring empties first
/// and overload is dropped where that is cheapest.
pub const RX_SIZE: u32 = FILL_SIZE;
/// The most frames that a worker takes from an RX ring at once. They fit into the second-level
/// cache: with four times as many a single flow loses a tenth of its rate.
pub const BATCH: usize = 1024;
/// The most frames in a batch. Where many flows alternate the worker takes several times [`BATCH`],
/// so that there are enough of each to join: with a hundred flows and 16 outputs half as many
/// copies again leave.
pub const LARGEST_BATCH: usize = 4 * BATCH;
