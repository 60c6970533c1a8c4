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

/// What is done with a datagram that was judged.
pub trait Verdict {
    /// What it is about.
    type Output;

    /// Takes a datagram that came from the Ethernet address `from`.
    fn of(&self, datagram: Datagram, from: Mac) -> Self::Output;
}

/// Decodes a frame that arrived on an interface with the Ethernet address `own`, and looks at the
/// addresses that it came with. The frame's outermost tag may be beside it. The destination may be
/// a group or a host. Returns the datagram and the Ethernet source.
///
/// # Errors
///
/// The reason why the frame is left to the Linux stack.
#[inline(always)]
pub fn judge<B: Bytes + ?Sized>(
    frame: &B,
    beside: Option<Tag>,
    own: [u8; 6],
) -> Result<(Datagram, Mac), Skip> {
    /// The datagram itself.
    struct Both;

    impl Verdict for Both {
        type Output = (Datagram, Mac);

        #[inline(always)]
        fn of(&self, datagram: Datagram, from: Mac) -> (Datagram, Mac) {
            (datagram, from)
        }
    }

    judge_all_for(frame, beside, own, &Both)
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
        if !is_to_group && words.is_to_many() {
            // A broadcast, and not a frame to another host.
            Err(Skip::NotMulticast)
        } else if ethernet::is_martian(from) || addresses.is_martian(is_to_group) {
            Err(Skip::Martian)
        } else if is_to_group && words.is_to(ethernet::of_group(addresses)) || words.is_to(self.own)
        {
            Ok(self.verdict.of(datagram, from))
        } else {
            Err(Skip::OtherMac)
        }
    }
}
