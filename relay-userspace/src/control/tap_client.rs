//! The client's side of a tap: records out of the stream that the connection has become.

use std::{
    io::{self, Read as _},
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    daemon::taps::summary::{Summary, TapInterface},
    datapath::tap::record::{HEADER, Header},
};

/// Bytes that are read at once.
const AT_ONCE: usize = 256 << 10;

/// A tap that is on.
#[derive(Debug)]
pub struct TapClient {
    stream: UnixStream,
    received: Vec<u8>,
    /// How much of it was handed out.
    at: usize,
    interfaces: Vec<TapInterface>,
}

/// What comes of a tap.
#[derive(Debug)]
pub enum TapEvent<'a> {
    /// A frame.
    Frame(Header, &'a [u8]),
    /// Nothing for now.
    Nothing,
    /// It is over.
    End(Box<Summary>),
}

impl TapClient {
    /// What is left of a connection after the reply, and what came behind that.
    pub(super) fn new(
        stream: UnixStream,
        received: Vec<u8>,
        interfaces: Vec<TapInterface>,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            received,
            at: 0,
            interfaces,
        })
    }

    /// What the records name by their positions.
    #[must_use]
    pub fn interfaces(&self) -> &[TapInterface] {
        &self.interfaces
    }

    /// Says that this is enough: what was recorded up to now still comes, and the end.
    pub fn finish(&self) {
        // A relay that is gone needs not be told.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame, or the end; or nothing, after `at_most` or a signal.
    ///
    /// # Errors
    ///
    /// The relay is gone, or sent what is no record.
    pub fn next(&mut self, at_most: Duration) -> io::Result<TapEvent<'_>> {
        if self.whole()?.is_none() {
            self.wait(at_most)?;
        }
        let Some(header) = self.whole()? else {
            return Ok(TapEvent::Nothing);
        };
        let start = self.at + HEADER;
        self.at += header.record_len();
        let bytes = self.received.get(start..start + header.len as usize);
        let bytes = bytes.unwrap_or_default();
        if header.way.is_some() {
            return Ok(TapEvent::Frame(header, bytes));
        }
        let summary = serde_json::from_slice(bytes);
        summary.map(TapEvent::End).map_err(io::Error::other)
    }

    /// The header of the next record, if all of that is there.
    fn whole(&self) -> io::Result<Option<Header>> {
        let rest = self.received.get(self.at..).unwrap_or_default();
        let Some(header) = rest.first_chunk() else {
            return Ok(None);
        };
        let header = Header::read(header)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no record of a tap"))?;
        Ok((rest.len() >= header.record_len()).then_some(header))
    }

    fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        self.received.drain(..self.at);
        self.at = 0;
        let before = self.received.len();
        self.received.resize(before + AT_ONCE, 0);
        let room = self.received.get_mut(before..).unwrap_or_default();
        let result = self.stream.read(room);
        let count = *result.as_ref().unwrap_or(&0);
        self.received.truncate(before + count);
        match result {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}
