//! Counts the frames that are moved in a given time.

use std::time::{Duration, Instant};

use anyhow::Result;
use relay_bench::{ceiling::Measured, peer};

/// Prints that everything is open, and then for `time` calls `step`, which returns how many frames
/// it moved.
pub fn measure(time: Duration, mut step: impl FnMut() -> Result<u64>) -> Result<Measured> {
    eprintln!("{}", peer::READY);
    let start = Instant::now();
    let mut frames = 0;
    loop {
        frames += step()?;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Ok(Measured {
                frames,
                seconds: elapsed.as_secs_f64(),
            });
        }
    }
}
