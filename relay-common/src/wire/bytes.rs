//! How the decoder reads a frame: from a slice in user space, and checked against the end of the
//! frame in the kernel programs, which implement [`Bytes`] themselves.

/// A frame's bytes, behind whatever they may be read with.
///
/// Everything that is read lies at an even offset, and most of it is read in words of 32 bits, each
/// in the order in which its bytes lie in memory: the kernel starts every frame at an even address
/// (`NET_IP_ALIGN` is 0 or 2), and BPF loads what may not be aligned byte by byte.
pub trait Bytes {
    /// The 16 bits at the even `offset`, or `None` where the frame ends before.
    fn half(&self, offset: usize) -> Option<u16>;

    /// The `N` words at the even `offset`, or `None` where the frame ends before.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;

    /// The `N` words of 64 bits at the even `offset`, or `None` where the frame ends before.
    fn longs<const N: usize>(&self, offset: usize) -> Option<[u64; N]>;

    /// The same words as [`Self::words`], read anew. For what is rarely needed: the compiler then
    /// does not keep for it what was read before.
    #[inline(always)]
    fn words_anew<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.words(offset)
    }

    /// Whether the frame has at least `headers` bytes, and `payload` bytes behind them.
    fn holds(&self, headers: usize, payload: usize) -> bool;
}

impl Bytes for [u8] {
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        let bytes = self.get(offset..offset + 2)?.first_chunk()?;
        Some(u16::from_ne_bytes(*bytes))
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let (words, _) = self.get(offset..)?.as_chunks();
        Some(words.first_chunk()?.map(u32::from_ne_bytes))
    }

    #[inline(always)]
    fn longs<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let (longs, _) = self.get(offset..)?.as_chunks();
        Some(longs.first_chunk()?.map(u64::from_ne_bytes))
    }

    #[inline(always)]
    fn holds(&self, headers: usize, payload: usize) -> bool {
        let rest = self.len().checked_sub(headers);
        rest.is_some_and(|rest| rest >= payload)
    }
}
