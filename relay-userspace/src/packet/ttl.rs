//! The time to live that a copy leaves with: one table lookup, whatever the rule is.

use crate::config::rules::Ttl;

/// A [`Ttl`] in the form that is cheapest to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TtlRule {
    /// The copy's time to live, by that of the received datagram; 0 if the copy does not leave, or
    /// leaves with `fixed`.
    left: &'static [u8; 256],
    fixed: u8,
}

static NOTHING: [u8; 256] = [0; 256];

impl TtlRule {
    /// No copy leaves.
    pub(super) const NOTHING_LEAVES: Self = Self {
        left: &NOTHING,
        fixed: 0,
    };

    pub(super) const fn new(ttl: Ttl) -> Self {
        static AUTO: [u8; 256] = {
            let mut left = [Ttl::FRESH; 256];
            left[Ttl::LAST as usize] = 0;
            let mut came = Ttl::LAST + 1;
            while came <= Ttl::FRESH {
                left[came as usize] = came - 1;
                came += 1;
            }
            left
        };
        static DECREMENT: [u8; 256] = {
            let mut left = [0; 256];
            let mut came = 1;
            while came < left.len() {
                left[came] = (came - 1) as u8;
                came += 1;
            }
            left
        };
        let (left, fixed) = match ttl {
            Ttl::Auto => (&AUTO, 0),
            Ttl::Decrement => (&DECREMENT, 0),
            Ttl::Set(ttl) => (&NOTHING, ttl),
        };
        Self { left, fixed }
    }

    /// The time to live of a copy whose datagram arrived with `came`; `None` if it must not leave.
    #[inline]
    pub(super) fn after(self, came: u8) -> Option<u8> {
        Some(self.left[usize::from(came)] | self.fixed).filter(|&left| left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(came: u8) -> Option<u8> {
        TtlRule::new(Ttl::Auto).after(came)
    }

    #[test]
    fn by_default_a_copy_leaves_with_64_or_one_less_than_it_came_with_and_not_at_all_with_33() {
        for (came, left) in [
            (0, Some(64)),
            (1, Some(64)),
            (32, Some(64)),
            (33, None),
            (34, Some(33)),
            (63, Some(62)),
            (64, Some(63)),
            (65, Some(64)),
            (255, Some(64)),
        ] {
            assert_eq!(auto(came), left, "{came}");
        }
    }

    #[test]
    fn by_default_at_most_32_relays_in_a_row_pass_a_datagram_on_whatever_its_sender_set() {
        for sent in 0..=255 {
            let passed = std::iter::successors(auto(sent), |&ttl| auto(ttl)).take(100);
            assert!(passed.count() <= 32, "{sent}");
        }
        assert_eq!(std::iter::successors(auto(1), |&ttl| auto(ttl)).count(), 32);
    }

    #[test]
    fn a_fixed_ttl_is_what_every_datagram_leaves_with() {
        for came in 0..=255 {
            for fixed in 1..=255 {
                assert_eq!(TtlRule::new(Ttl::Set(fixed)).after(came), Some(fixed));
            }
        }
    }

    #[test]
    fn one_less_than_one_or_none_does_not_leave() {
        let left = [0, 1, 2, 255].map(|came| TtlRule::new(Ttl::Decrement).after(came));
        assert_eq!(left, [None, None, Some(1), Some(254)]);
    }
}
