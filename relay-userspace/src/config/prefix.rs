//! Groups, and prefixes of groups.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Groups that share their first bits; or one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Its host bits are 0.
    address: IpAddr,
    /// In bits: at most 32 for IPv4, at most 128 for IPv6.
    length: u8,
}

impl Prefix {
    /// The groups that have the first `length` bits of `address`; `None` if it has fewer bits.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Option<Self> {
        let host = width(address).checked_sub(length)?;
        let network = bits(address).checked_shr(host.into()).unwrap_or(0);
        let address = like(address, network.checked_shl(host.into()).unwrap_or(0));
        Some(Self { address, length })
    }

    /// Its first group.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its last group.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        let unused = u128::BITS - u32::from(self.host_bits());
        let hosts = u128::MAX.checked_shr(unused).unwrap_or(0);
        like(self.address, bits(self.address) | hosts)
    }

    /// How many bits its groups share.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// How many bits its groups do not share.
    #[must_use]
    pub fn host_bits(&self) -> u8 {
        width(self.address).saturating_sub(self.length)
    }

    /// It has one group.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.host_bits() == 0
    }

    /// Its group, if it has one only.
    #[must_use]
    pub fn one(&self) -> Option<IpAddr> {
        self.is_one().then_some(self.address)
    }

    /// How many groups it has; `u128::MAX` for all of IPv6.
    #[must_use]
    pub fn count(&self) -> u128 {
        let count = 1_u128.checked_shl(self.host_bits().into());
        count.unwrap_or(u128::MAX)
    }

    /// Its groups, ascending.
    pub fn groups(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (address, first) = (self.address, bits(self.address));
        (0..self.count()).map(move |host| like(address, first | host))
    }

    /// Whether `address` is one of its groups.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::around(address, self.length) == Some(*self)
    }

    /// Whether all groups of `other` are its own.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether they have a group in common. Then one of the two covers the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Where a copy of a datagram to `group`, which is one of `from`, goes: host part onto host
    /// part, or to the one group that this is.
    #[must_use]
    pub fn map(&self, from: &Self, group: IpAddr) -> IpAddr {
        if self.is_one() {
            return self.address;
        }
        let host = bits(group) ^ bits(from.address);
        like(self.address, bits(self.address) | host)
    }
}

/// One group.
impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        let length = width(address);
        Self { address, length }
    }
}

impl From<Ipv4Addr> for Prefix {
    fn from(group: Ipv4Addr) -> Self {
        IpAddr::V4(group).into()
    }
}

impl From<[u8; 4]> for Prefix {
    fn from(group: [u8; 4]) -> Self {
        Ipv4Addr::from(group).into()
    }
}

/// The number of bits of an address.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of these bits, of the family of `other`.
fn like(other: IpAddr, bits: u128) -> IpAddr {
    match other {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// "239.1.1.1", or "239.1.1.0/24"
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_one() {
            true => self.address.fmt(f),
            false => f.pad(&format!("{}/{}", self.address, self.length)),
        }
    }
}

/// A text that is no prefix: no address, a length that its family does not have, or host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no group and no prefix of groups, such as 239.1.1.1 or 239.1.1.0/24")]
pub struct NoPrefix;

impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let Some((address, length)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_| NoPrefix)?;
            return Ok(address.into());
        };
        let address = address.parse().map_err(|_| NoPrefix)?;
        let length = length.parse().map_err(|_| NoPrefix)?;
        let prefix = Self::around(address, length).ok_or(NoPrefix)?;
        (prefix.address == address)
            .then_some(prefix)
            .ok_or(NoPrefix)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
