//! The addresses that a datagram came with: whether a host can have sent it, and whether it was
//! sent to this one.

use super::{
    bytes::Bytes,
    datagram::Datagram,
    decode::{Step, decode_for},
    ethernet::{self, Mac},
    skip::Skip,
    vlan::Tag,
};

/// A datagram that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The datagram.
    pub datagram: Datagram,
    /// Its Ethernet source.
    pub from: Mac,
    /// Of a datagram to the address of a host: the reason why it is left to the Linux stack even if a
    /// rule names it. A datagram to a group has none: it is not judged any further then.
    pub fault: Option<Skip>,
}

/// What is done with a datagram that was judged.
pub trait Verdict {
    /// What it is about.
    type Output;

    /// Takes a datagram that arrived.
    fn of(&self, arrival: Arrival) -> Self::Output;
}

/// Decodes a frame that arrived on an interface with the Ethernet address `own`, and looks at the
/// addresses that it came with. The frame's outermost tag may be beside it. The destination may be
/// a group or a host.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn judge<B: Bytes + ?Sized>(
    frame: &B,
    beside: Option<Tag>,
    own: [u8; 6],
) -> Result<Arrival, Skip> {
    /// The arrival itself.
    struct Whole;

    impl Verdict for Whole {
        type Output = Arrival;

        #[inline(always)]
        fn of(&self, arrival: Arrival) -> Arrival {
            arrival
        }
    }

    judge_all_for(frame, beside, own, &Whole)
}

/// [`judge`] for datagrams to groups alone, and what `verdict` makes of its result. The code of
/// `verdict` is there once for every kind of header, which the kernel programs want: joining the
/// kinds costs as much as decoding.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn judge_for<B: Bytes + ?Sized, V: Verdict>(
    frame: &B,
    beside: Option<Tag>,
    own: [u8; 6],
    verdict: &V,
) -> Result<V::Output, Skip> {
    let judging = Judging::<_, _, false> {
        frame,
        own,
        verdict,
    };
    decode_for(frame, beside, &judging)
}

/// The same for datagrams to groups and to hosts.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn judge_all_for<B: Bytes + ?Sized, V: Verdict>(
    frame: &B,
    beside: Option<Tag>,
    own: [u8; 6],
    verdict: &V,
) -> Result<V::Output, Skip> {
    let judging = Judging::<_, _, true> {
        frame,
        own,
        verdict,
    };
    decode_for(frame, beside, &judging)
}

/// A frame that is decoded and judged.
struct Judging<'a, B: ?Sized, V, const HOSTS: bool> {
    frame: &'a B,
    own: [u8; 6],
    verdict: &'a V,
}

impl<B: Bytes + ?Sized, V: Verdict, const HOSTS: bool> Step for Judging<'_, B, V, HOSTS> {
    type Output = V::Output;
    const HOSTS: bool = HOSTS;

    #[inline(always)]
    fn take(&self, datagram: Datagram) -> Result<V::Output, Skip> {
        let Some(words) = ethernet::AddressWords::read(self.frame) else {
            return Err(Skip::NotIp);
        };
        let (from, addresses) = (words.source(), &datagram.addresses);
        let is_to_group = !HOSTS || addresses.is_to_group();
        let fault = if ethernet::is_martian(from) || addresses.is_martian(is_to_group) {
            Some(Skip::Martian)
        } else if is_to_group && words.is_to(ethernet::of_group(addresses))
            || words.is_to(self.own)
        {
            None
        } else {
            Some(Skip::OtherMac)
        };
        match fault {
            Some(skip) if is_to_group => Err(skip),
            fault => Ok(self.verdict.of(Arrival {
                datagram,
                from,
                fault,
            })),
        }
    }
}
