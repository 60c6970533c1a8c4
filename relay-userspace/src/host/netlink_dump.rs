//! Requests for netlink lists, on one socket and on the calling thread.
//!
//! The kernel sends a list in pieces. If the listed objects change in between, pieces may be
//! missing or doubled, and the kernel marks the rest with `NLM_F_DUMP_INTR`: then the list is
//! requested again.

use std::fmt;

use neli::{
    FromBytesWithInput, Size, ToBytes,
    consts::{
        genl::{CtrlAttr, CtrlCmd},
        nl::{GenlId, NlmF, Nlmsg},
        socket::NlFamily,
    },
    genl::{AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, NlattrBuilder},
    nl::{NlPayload, NlmsghdrBuilder},
    socket::synchronous::NlSocketHandle,
    types::GenlBuffer,
    utils::Groups,
};

/// What was tried, and the kernel's answer.
pub(super) type Failure = (&'static str, String);

/// How often a list is requested before the relay gives up.
const ATTEMPTS: usize = 20;

/// The payload of a netlink message, in both directions.
pub(super) trait Body:
    Size + ToBytes + FromBytesWithInput<Input = usize> + fmt::Debug
{
}
impl<T: Size + ToBytes + FromBytesWithInput<Input = usize> + fmt::Debug> Body for T {}

pub(super) fn failed<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| (what, error.to_string())
}

/// Opens a socket.
pub(super) fn connect(family: NlFamily, what: &'static str) -> Result<NlSocketHandle, Failure> {
    NlSocketHandle::connect(family, None, Groups::empty()).map_err(failed(what))
}

/// The list that the kernel returns for a message of type `kind` with `body`; `read` makes an entry
/// of each message. Empty if the kernel does not know the request (EOPNOTSUPP).
pub(super) fn dump<B: Body, T>(
    socket: &NlSocketHandle,
    kind: u16,
    body: B,
    what: &'static str,
    read: impl Fn(&B) -> Option<T>,
) -> Result<Vec<T>, Failure> {
    let request = NlmsghdrBuilder::default()
        .nl_type(kind)
        .nl_flags(NlmF::REQUEST | NlmF::DUMP)
        .nl_payload(NlPayload::Payload(body))
        .build()
        .map_err(failed(what))?;
    until_whole(what, || {
        socket.send(&request).map_err(failed(what))?;
        once(socket, what, &read)
    })
}

/// Repeats `list` until no change interrupts it.
fn until_whole<T>(
    what: &'static str,
    mut list: impl FnMut() -> Result<(T, Interrupted), Failure>,
) -> Result<T, Failure> {
    for _ in 0..ATTEMPTS {
        if let (all, Interrupted(false)) = list()? {
            return Ok(all);
        }
    }
    let why = format!(
        "something changed during each of {ATTEMPTS} attempts; try again when the host is calmer"
    );
    Err((what, why))
}

/// Whether a change interrupted the list while the kernel sent it.
#[derive(Debug, Clone, Copy)]
struct Interrupted(bool);

/// Reads the answer to one request.
///
/// The kernel does not mark the messages of the generic family `netdev` as parts of a list
/// (`NLM_F_MULTI`), so only the closing `NLMSG_DONE` ends the list.
fn once<B: Body, T>(
    socket: &NlSocketHandle,
    what: &'static str,
    read: impl Fn(&B) -> Option<T>,
) -> Result<(Vec<T>, Interrupted), Failure> {
    let mut all = Vec::new();
    let mut interrupted = Interrupted(false);
    loop {
        let (messages, _) = socket.recv::<u16, B>().map_err(failed(what))?;
        for message in messages {
            let message = message.map_err(failed(what))?;
            interrupted.0 |= message.nl_flags().contains(NlmF::DUMP_INTR);
            match message.nl_payload() {
                NlPayload::Err(error) if *error.error() == -libc::EOPNOTSUPP => {
                    return Ok((all, interrupted));
                }
                NlPayload::Err(error) => return Err((what, error.to_string())),
                NlPayload::DumpExtAck(end) if *end.error() < 0 => {
                    let error = std::io::Error::from_raw_os_error(-end.error());
                    return Err((what, error.to_string()));
                }
                _ if *message.nl_type() == u16::from(Nlmsg::Done) => {
                    return Ok((all, interrupted));
                }
                NlPayload::Payload(payload) => all.extend(read(payload)),
                NlPayload::Ack(_) | NlPayload::DumpExtAck(_) | NlPayload::Empty => {}
            }
        }
    }
}

/// The number of a generic netlink family; `None` if the kernel does not have it.
pub(super) fn family(
    socket: &NlSocketHandle,
    name: &str,
    what: &'static str,
) -> Result<Option<u16>, Failure> {
    type Answer = Genlmsghdr<CtrlCmd, CtrlAttr>;
    let attribute_type = AttrTypeBuilder::default()
        .nla_type(CtrlAttr::FamilyName)
        .build()
        .map_err(failed(what))?;
    let attribute = NlattrBuilder::default()
        .nla_type(attribute_type)
        .nla_payload(name)
        .build()
        .map_err(failed(what))?;
    let body: Answer = GenlmsghdrBuilder::default()
        .cmd(CtrlCmd::Getfamily)
        .version(2)
        .attrs(std::iter::once(attribute).collect::<GenlBuffer<_, _>>())
        .build()
        .map_err(failed(what))?;
    let request = NlmsghdrBuilder::default()
        .nl_type(u16::from(GenlId::Ctrl))
        .nl_flags(NlmF::REQUEST)
        .nl_payload(NlPayload::Payload(body))
        .build()
        .map_err(failed(what))?;
    socket.send(&request).map_err(failed(what))?;
    let (messages, _) = socket.recv::<u16, Answer>().map_err(failed(what))?;
    for message in messages {
        match message.map_err(failed(what))?.nl_payload() {
            NlPayload::Payload(answer) => {
                let attributes = answer.attrs().get_attr_handle();
                let number = attributes.get_attr_payload_as::<u16>(CtrlAttr::FamilyId);
                return number.map(Some).map_err(failed(what));
            }
            NlPayload::Err(error) if *error.error() == -libc::ENOENT => return Ok(None),
            NlPayload::Err(error) => return Err((what, error.to_string())),
            _ => {}
        }
    }
    Err((what, "the kernel sent no answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_list_is_asked_for_again_and_given_up_at_last() {
        let mut rounds = 0;
        let whole = until_whole("listing", || {
            rounds += 1;
            Ok((rounds, Interrupted(rounds < 3)))
        });
        assert_eq!(whole, Ok(3));

        let mut rounds = 0;
        let failure = until_whole("listing", || {
            rounds += 1;
            Ok(((), Interrupted(true)))
        });
        assert_eq!(rounds, ATTEMPTS);
        let (what, why) = failure.unwrap_err();
        assert_eq!(what, "listing");
        assert!(why.contains("something changed"), "{why}");
    }
}
