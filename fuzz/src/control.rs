//! The control protocol: what a client sends, cut into messages, read, and answered.
//!
//! Input: a byte that says in what pieces the rest arrives, and what the client sends.

use std::io::{self, Read};

use relay::control::{
    Fault,
    inbox::{Got, Inbox},
    message::{self, Call},
    methods::{self, Asked},
};

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((&piece, sent)) = data.split_first() else {
        return;
    };
    let messages = received(sent, usize::from(piece) + 1);
    let (whole, rest) = match sent.iter().rposition(|&byte| byte == message::END) {
        Some(last) => (sent.split_at(last).0, &sent[last + 1..]),
        None => (&[][..], sent),
    };
    let expected = whole
        .split(|&byte| byte == message::END)
        .map(<[u8]>::to_vec);
    if rest.len() == sent.len() {
        assert!(messages.is_empty());
    } else {
        assert_eq!(messages, expected.collect::<Vec<_>>());
    }
    for message in &messages {
        answer(message);
    }
}

/// The messages that an inbox makes of what arrives in pieces of `size` bytes.
fn received(sent: &[u8], size: usize) -> Vec<Vec<u8>> {
    /// A client that sends in pieces, and now and then nothing.
    struct Pieces<'a> {
        left: &'a [u8],
        size: usize,
        paused: bool,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            self.paused = !self.paused;
            if self.paused {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = self.size.min(room.len()).min(self.left.len());
            let (piece, left) = self.left.split_at(count);
            room[..count].copy_from_slice(piece);
            self.left = left;
            Ok(count)
        }
    }

    let mut client = Pieces {
        left: sent,
        size,
        paused: false,
    };
    let mut inbox = Inbox::default();
    let mut messages = Vec::new();
    loop {
        let got = inbox.read_from(&mut client).unwrap();
        while inbox.has_message() {
            let length = inbox.first_len();
            let message = inbox.take().unwrap();
            assert_eq!(message.len(), length);
            messages.push(message);
        }
        assert_eq!(inbox.take(), None);
        if got == Got::End {
            return messages;
        }
    }
}

/// What the relay makes of a message: a request that means the same if it is written again, or an
/// error that can be sent.
fn answer(message: &[u8]) {
    let Ok(call) = serde_json::from_slice::<Call<'_>>(message) else {
        return;
    };
    match methods::asked(&call) {
        Ok(Asked::Request(request)) => {
            let (method, parameters) = methods::call(request.clone()).unwrap();
            let call = Call {
                method: format!("io.github.relay.Control.{method}").into(),
                parameters: parameters.as_deref(),
                more: None,
                oneway: None,
                upgrade: None,
            };
            let written = message::message(&call);
            let (end, written) = written.split_last().unwrap();
            assert_eq!(*end, message::END);
            assert!(!written.contains(&message::END));
            let read: Call<'_> = serde_json::from_slice(written).unwrap();
            assert_eq!(methods::asked(&read), Ok(Asked::Request(request)));
        }
        Ok(_) => {}
        Err(fault) => {
            let reply = message::message(&fault);
            let (end, reply) = reply.split_last().unwrap();
            assert_eq!(*end, message::END);
            assert!(!reply.contains(&message::END));
            assert_eq!(serde_json::from_slice::<Fault>(reply).unwrap(), fault);
            assert!(!fault.to_string().is_empty());
        }
    }
}
