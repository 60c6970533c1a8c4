//! The machine's own stalls: for how much of the time a CPU is not there for the program that has
//! it.
//!
//! A virtual CPU is taken away, and a tick of its clock takes as long as a hundred datagrams. An
//! idle loop that reads the clock on the contender's CPU, between the trials of a latency, shows
//! what of that latency is the machine's: the [share](Stalls::share) of the moments that lie in a
//! stall is the share of datagrams that arrive in one. As large a share of the slowest datagrams is
//! set aside ([`crate::measure::Latency::set_aside`]).
//!
//! At a rate that is far below its limit a contender is done with what has waited soon after a
//! stall; at half of its limit that takes as long as the stall again. So the rule is for the low
//! rate only.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::cpu;

/// A gap between two looks at the clock that is as long as this is a stall: longer than any
/// contender needs for a datagram at the low rate to one output, and shorter than a tick of the
/// clock in a virtual machine (20 to 50 us).
const STALL: Duration = Duration::from_micros(10);
/// Room for the gaps of one look, so that the loop does not allocate: a stall every 10 us.
const MOST_PER_SECOND: f64 = 100_000.0;

/// What idle loops saw.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// The stalls, in nanoseconds.
    stalls: Vec<u64>,
    /// The time of all loops, in nanoseconds.
    time: u64,
}

/// The stalls of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stalls {
    /// The part of the time that lies in stalls.
    pub share: f64,
    /// What a program that needs no time at all would have as p99, in microseconds: 99 of 100
    /// moments have no more than this of a stall before them.
    pub p99: f64,
    /// The same for 999 of 1000 moments.
    pub p999: f64,
}

impl Watch {
    /// Runs the loop on `cpu` for some time, ahead of everything that is not real-time, also of a
    /// contender that polls. Longer than half a second would not do: the kernel then gives the CPU
    /// to others for a while.
    pub fn look(&mut self, cpu: usize, time: Duration) -> Result<()> {
        let idle = thread::spawn(move || -> Result<_> {
            cpu::only_for_us(cpu)?;
            Ok(gaps(time))
        });
        let seen = idle
            .join()
            .map_err(|_| anyhow!("the idle loop panicked"))?
            .with_context(|| format!("taking CPU {cpu} for an idle loop"))?;
        self.stalls.extend(seen.stalls);
        self.time += seen.time;
        Ok(())
    }

    /// `None` if there was no look.
    pub fn stalls(&self) -> Option<Stalls> {
        let stalled: u64 = self.stalls.iter().sum();
        (self.time > 0).then(|| Stalls {
            share: stalled as f64 / self.time as f64,
            p99: self.delay(0.01),
            p999: self.delay(0.001),
        })
    }

    /// The delay, in microseconds, that this part of all moments exceeds: a moment waits for the
    /// end of the stall that it lies in.
    fn delay(&self, part: f64) -> f64 {
        let longest = self.stalls.iter().copied().max().unwrap_or(0);
        let exceeds = |delay: u64| {
            let rests = self.stalls.iter().map(|stall| stall.saturating_sub(delay));
            rests.sum::<u64>() as f64 > part * self.time as f64
        };
        let (mut low, mut high) = (0, longest);
        while low < high {
            let middle = low.midpoint(high);
            if exceeds(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low as f64 / 1e3
    }
}

/// Reads the clock over and over.
fn gaps(time: Duration) -> Watch {
    let room = (time.as_secs_f64() * MOST_PER_SECOND) as usize;
    let mut stalls = Vec::with_capacity(room);
    let start = Instant::now();
    let mut last = start;
    while last - start < time {
        let now = Instant::now();
        let gap = now - last;
        if gap >= STALL {
            stalls.push(gap.as_nanos() as u64);
        }
        last = now;
    }
    let time = (last - start).as_nanos() as u64;
    Watch { stalls, time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_in_a_stall_waits_for_its_end() {
        // 2 % of a second: a hundred stalls of 100 us, and one of 10 ms.
        let mut watch = Watch {
            stalls: vec![100_000; 100],
            time: 1_000_000_000,
        };
        watch.stalls.push(10_000_000);
        let stalls = watch.stalls().unwrap();
        assert!((stalls.share - 0.02).abs() < 1e-9, "{stalls:?}");
        // More than 99 us: 100 x 1 us, and 9.901 ms of the long one, about 1 %.
        assert!((99.0..=100.0).contains(&stalls.p99), "{stalls:?}");
        // More than 9 ms: the last of the long one, 0.1 %.
        assert!((stalls.p999 - 9000.0).abs() < 0.1, "{stalls:?}");
    }

    #[test]
    fn without_stalls_no_moment_waits() {
        let watch = Watch {
            stalls: Vec::new(),
            time: 1,
        };
        let none = Stalls {
            share: 0.0,
            p99: 0.0,
            p999: 0.0,
        };
        assert_eq!(watch.stalls(), Some(none));
        assert_eq!(Watch::default().stalls(), None);
    }

    #[test]
    fn a_loop_sees_no_more_than_there_was() {
        let seen = gaps(Duration::from_millis(20));
        assert!(seen.time >= 20_000_000);
        assert!(seen.stalls.iter().all(|&stall| stall >= 10_000));
        assert!(seen.stalls.iter().sum::<u64>() <= seen.time);
    }
}
