//! Hostile clients of the control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::relay::{Finished, RelayProcess};

/// Clients that say nothing, half a message, garbage and ten megabytes, and more clients at once
/// than the relay serves. Fails unless `relay status` is answered in time meanwhile, and afterwards,
/// with one of these exit `codes`.
pub fn abuse(relay: &RelayProcess, codes: &[i32]) -> Result<()> {
    let is_answer = |answer: &Finished| answer.code.is_some_and(|code| codes.contains(&code));
    let connect = || UnixStream::connect(relay.control());
    let mut silent: Vec<UnixStream> = Vec::new();
    for _ in 0..40 {
        silent.push(connect()?);
    }
    let mut half = connect()?;
    half.write_all(b"{\"method\":\"io.github.relay")?;
    let mut garbage = connect()?;
    garbage.write_all(&[0xff; 4096])?;
    let _ = garbage.write_all(b"\0");
    let mut large = connect()?;
    large.set_write_timeout(Some(Duration::from_secs(5)))?;
    // It may be closed in the middle.
    let _ = large.write_all(&vec![b'x'; 10 << 20]);
    let started = Instant::now();
    let answer = relay.verb(&["status"])?;
    ensure!(is_answer(&answer), "{answer:?}");
    ensure!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    drop((half, garbage, large, silent));
    // Two hundred at once: those beyond the limit are told so, or find a place.
    let crowd: Vec<_> = (0..200).filter_map(|_| connect().ok()).collect();
    ensure!(crowd.len() > 64, "{} connected", crowd.len());
    let mut refused = 0;
    for mut one in &crowd {
        one.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut told = [0; 256];
        refused += u32::from(one.read(&mut told).is_ok_and(|bytes| bytes > 0));
    }
    ensure!(
        refused > 0,
        "none of {} was told that they are too many",
        crowd.len()
    );
    drop(crowd);
    thread::sleep(Duration::from_millis(300));
    let answer = relay.verb(&["status"])?;
    ensure!(is_answer(&answer), "{answer:?}");
    Ok(())
}
