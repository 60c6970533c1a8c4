//! The seam: what moves the frames of a worker, and the ladder that chooses it.

pub mod xdp;
