//! Writes to files that may have no reader: a pipe whose reader has stopped must not keep the relay
//! from ending.
//!
//! `poll` does not promise that a write returns (a stopped terminal, a pipe with less room than the
//! write needs), and `O_NONBLOCK` would affect every process that shares the file. So a separate
//! thread writes, and the thread that waits for it gives up when the output stands still.

use std::{
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

/// How long a write may stand still before the relay gives it up.
pub const STANDSTILL: Duration = Duration::from_millis(300);
/// How long the whole output may take while it moves.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes per write: fewer than a pipe holds, to tell a slow reader from none.
const CHUNK: usize = 16 << 10;

/// Writes to standard output. A reader that closes early, such as `head`, is no error.
///
/// # Errors
///
/// The system call fails.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_while_read(text).map(drop)
}

/// As [`print()`]; returns false if the reader has closed.
///
/// # Errors
///
/// The system call fails.
pub fn print_while_read(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("writing to standard output"),
    }
}

/// Writes `text` to standard output, and gives up when nothing reads it.
///
/// # Errors
///
/// The system call fails, or [`io::ErrorKind::TimedOut`] if nothing reads. A reader that has closed
/// its end is no error.
pub fn print_or_give_up(text: Vec<u8>) -> io::Result<()> {
    let (moved, moves) = channel();
    let work = move || {
        for chunk in text.chunks(CHUNK) {
            let written = write_all(io::stdout().as_fd(), chunk);
            let stop = written.is_err();
            // The receiver is gone only if it has given up.
            if moved.send(written).is_err() || stop {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("relay-output".into())
        .spawn(work)?;
    let started = Instant::now();
    loop {
        let stands_still = match moves.recv_timeout(STANDSTILL) {
            Ok(Ok(())) => started.elapsed() > PATIENCE,
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => true,
        };
        if stands_still {
            let why = "nothing reads standard output";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}

/// Writes all of `bytes`, despite signals, and despite an `O_NONBLOCK` that another process set on
/// the same file. Takes no lock: that of [`io::stderr`] would be held for as long as nothing reads.
///
/// # Errors
///
/// The system call fails.
pub fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut set = [PollFd::new(to, PollFlags::POLLOUT)];
                match poll(&mut set, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    #[test]
    fn a_pipe_that_does_not_block_gets_all_of_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let text: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let read = thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).unwrap();
                read
            });
            write_all(writer.as_fd(), &text).unwrap();
            drop(writer);
            reading.join().unwrap()
        });
        assert!(read == text, "{} bytes of {}", read.len(), text.len());
    }
}
