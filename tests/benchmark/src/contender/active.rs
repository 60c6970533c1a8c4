//! What every contender can do once it runs.

use anyhow::Result;

use crate::drops::Drops;

/// A contender that forwards; killed on drop.
pub trait Active: Send {
    /// Processes and kernel threads whose CPU time is the contender's.
    fn pids(&self) -> Vec<u32>;
    /// Ends it, and returns what it has counted as lost.
    fn stop(self: Box<Self>) -> Result<Drops>;
}
