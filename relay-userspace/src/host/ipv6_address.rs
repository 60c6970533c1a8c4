//! An IPv6 address of an interface, with what decides whether copies leave with it.

use std::net::Ipv6Addr;

/// An IPv6 address that an interface may send from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Address {
    /// The address.
    pub address: Ipv6Addr,
    /// Its preferred lifetime is over (`IFA_F_DEPRECATED`), or it is used before it is known to be
    /// unique (`IFA_F_OPTIMISTIC`): any other is better.
    pub avoided: bool,
    /// It is made for a day or so and then another takes its place (`IFA_F_TEMPORARY`, RFC 8981).
    pub temporary: bool,
}

impl Ipv6Address {
    /// The address with these `flags` of a `struct ifaddrmsg`; `None` while it is not known to be
    /// unique (`IFA_F_TENTATIVE`), and where it is not (`IFA_F_DADFAILED`): nothing may leave with
    /// it (RFC 4862, section 5.4).
    #[must_use]
    pub fn usable(address: Ipv6Addr, flags: u8) -> Option<Self> {
        let has = |flag: u32| u32::from(flags) & flag != 0;
        let optimistic = has(libc::IFA_F_OPTIMISTIC);
        let tentative = has(libc::IFA_F_TENTATIVE) && !optimistic;
        (!tentative && !has(libc::IFA_F_DADFAILED)).then_some(Self {
            address,
            avoided: optimistic || has(libc::IFA_F_DEPRECATED),
            temporary: has(libc::IFA_F_TEMPORARY),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_to_be_unique_sends_nothing() {
        let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let usable = |flags: u32| {
            let usable = Ipv6Address::usable(address, flags as u8)?;
            Some((usable.avoided, usable.temporary))
        };
        let (tentative, optimistic) = (libc::IFA_F_TENTATIVE, libc::IFA_F_OPTIMISTIC);
        assert_eq!(usable(libc::IFA_F_PERMANENT), Some((false, false)));
        assert_eq!(usable(libc::IFA_F_TEMPORARY), Some((false, true)));
        assert_eq!(usable(libc::IFA_F_DEPRECATED), Some((true, false)));
        assert_eq!(usable(tentative | optimistic), Some((true, false)));
        assert_eq!(usable(tentative), None);
        assert_eq!(usable(tentative | libc::IFA_F_DADFAILED), None);
        assert_eq!(usable(libc::IFA_F_DADFAILED), None);
    }
}
