//! The copy of a datagram: every header field of it, for any rule and any datagram.
//!
//! Input: the choices that make a rule and a datagram, see `Case`. What the copy must be is
//! written down here once more, from docs/configuration.md.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use relay::{
    config::rules::{Header, Match, OutputVlan, PortMatch, Prefix, Ttl, Vlan},
    packet::{
        HEADERS_ROOM, Keeping, Known, PATCH_ROOM, Patch, Patched, Received, Target, Template,
    },
};
use relay_common::wire::{self, Tag};

use crate::frames::{Checksum, Fields, mac_of};

const CUSTOMER: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;

/// Runs the target.
pub fn run(data: &[u8]) {
    // Too short an input makes no case.
    if let Ok(case) = Case::choose(&mut Unstructured::new(data)) {
        case.check();
    }
}

/// A rule with one output, and a datagram that it takes.
#[derive(Debug)]
struct Case {
    input: Match,
    group: Prefix,
    port: PortMatch,
    source: Option<IpAddr>,
    header: Header,
    macs: [[u8; 6]; 2],
    came: Fields,
    known: Known,
    /// The outermost tag lies beside the frame.
    is_stripped: bool,
    /// Bytes behind the datagram.
    padding: usize,
}

impl Case {
    fn choose(u: &mut Unstructured<'_>) -> Result<Self> {
        let came_v4: bool = u.arbitrary()?;
        let leaves_v4 = came_v4 != u.ratio(1, 4)?;
        let bits = |is_v4| if is_v4 { 32 } else { 128_u8 };
        let most = if came_v4 { 28 } else { 120 };
        let host_bits = if u.ratio(1, 3)? {
            u.int_in_range(0..=most)?
        } else {
            0
        };
        let place = group(u, came_v4)?;
        let prefix = Prefix::around(place, bits(came_v4) - host_bits).unwrap();
        let keeps_host = host_bits > 0 && (!leaves_v4 || host_bits <= 28) && u.arbitrary()?;
        let to = match u.ratio(1, 8)? && !keeps_host {
            true => address(u, leaves_v4)?,
            false => group(u, leaves_v4)?,
        };
        let kept_bits = if keeps_host { host_bits } else { 0 };
        let to = Prefix::around(to, bits(leaves_v4) - kept_bits).unwrap();
        let (ports, port, came_to) = ports(u)?;
        let vlan = *u.choose(&[
            Vlan::Untagged,
            Vlan::Untagged,
            Vlan::Tag(100),
            Vlan::Double(7, 4094),
        ])?;
        let source = match came_v4 != leaves_v4 || u.arbitrary()? {
            true => Some(address(u, leaves_v4)?),
            false => None,
        };
        let header = header(u)?;
        let checksum = *u.choose(&[
            Checksum::Right,
            Checksum::Right,
            Checksum::Partial,
            Checksum::Wrong,
            Checksum::Absent,
        ])?;
        let checksum = match checksum {
            Checksum::Absent if !came_v4 => Checksum::Right,
            other => other,
        };
        let known = *u.choose(match checksum {
            Checksum::Right => &[Known::Nothing, Known::Complete, Known::Right],
            Checksum::Partial => &[Known::Nothing, Known::Partial, Known::Nothing],
            Checksum::Wrong => &[Known::Nothing, Known::Complete, Known::Complete],
            Checksum::Absent => &[Known::Nothing, Known::Complete, Known::Right],
        })?;
        let class: u8 = u.arbitrary()?;
        let came = Fields {
            destination_mac: mac_of(place),
            source_mac: [2, 0, 0, 0, 0, 1],
            tags: tags(u, vlan)?,
            source: address(u, came_v4)?,
            destination: place,
            class,
            id: if came_v4 { u.arbitrary()? } else { 0 },
            dont_fragment: came_v4 && u.arbitrary()?,
            label: if came_v4 {
                0
            } else {
                u.int_in_range(0..=0xf_ffff)?
            },
            ttl: u.arbitrary()?,
            source_port: u.arbitrary()?,
            port: came_to,
            checksum,
            payload: payload(u)?,
        };
        Ok(Self {
            input: Match {
                group: prefix,
                ports,
                sources: Vec::new(),
                vlan,
            },
            group: to,
            port,
            source,
            header,
            macs: [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 2, 2]],
            came,
            known,
            is_stripped: u.arbitrary()?,
            padding: u.int_in_range(0..=8)?,
        })
    }

    /// Where the copy goes.
    fn destination(&self) -> IpAddr {
        let host = host_part(self.came.destination, self.input.group);
        match self.group.address() {
            one if self.group.is_one() => one,
            IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() | host as u32).into(),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() | host).into(),
        }
    }

    /// Whether the destination is a group, whose Ethernet address is derived from it.
    fn destination_mac(&self) -> [u8; 6] {
        match self.group.address().is_multicast() {
            true => mac_of(self.destination()),
            false => self.macs[1],
        }
    }

    fn ttl(&self) -> Option<u8> {
        let came = self.came.ttl;
        match self.header.ttl {
            Ttl::Auto => match came {
                33 => None,
                34..=64 => Some(came - 1),
                _ => Some(64),
            },
            Ttl::Decrement => came.checked_sub(1).filter(|&left| left > 0),
            Ttl::Set(ttl) => Some(ttl),
        }
    }

    /// The tags of the copy.
    fn tags(&self) -> Vec<(u16, u16)> {
        let named: Vec<_> = self
            .came
            .tags
            .iter()
            .filter(|(_, tci)| tci & 0xfff != 0)
            .collect();
        let ids = match (self.header.vlan, self.input.vlan) {
            (OutputVlan::Untagged, _) | (OutputVlan::Keep, Vlan::Untagged) => vec![],
            (OutputVlan::Tag(id), _) | (OutputVlan::Keep, Vlan::Tag(id)) => vec![id],
            (OutputVlan::Double(outer, inner), _)
            | (OutputVlan::Keep, Vlan::Double(outer, inner)) => vec![outer, inner],
        };
        let count = ids.len();
        let of = |(at, id): (usize, u16)| {
            // The inner tag has what the inner one had, and so has the only one.
            let came = if at + 1 == count {
                named.last()
            } else {
                named.first()
            };
            let usual = if at + 1 == count { CUSTOMER } else { SERVICE };
            let tpid = match self.header.vlan {
                OutputVlan::Keep => came.unwrap().0,
                _ => usual,
            };
            let priority = match (self.header.pcp, came) {
                (Some(pcp), _) => u16::from(pcp) << 13,
                (None, Some((_, tci))) => tci & 0xf000,
                (None, None) => 0,
            };
            (tpid, id | priority)
        };
        ids.into_iter().enumerate().map(of).collect()
    }

    /// What the copy must be, but for the time to live.
    fn expected(&self, ttl: u8) -> Fields {
        let came = &self.came;
        let destination = self.destination();
        let (came_v4, leaves_v4) = (came.destination.is_ipv4(), destination.is_ipv4());
        let (id, dont_fragment) = match (came_v4, leaves_v4) {
            (true, true) => (came.id, came.dont_fragment),
            (false, true) => (0, true),
            (_, false) => (0, false),
        };
        // Its value alone tells a partial checksum.
        let looks_partial =
            self.known == Known::Nothing && came.checksum_field() == came.pseudo_sum();
        Fields {
            destination_mac: self.destination_mac(),
            source_mac: self.macs[0],
            tags: self.tags(),
            source: self.source.unwrap_or(came.source),
            destination,
            class: match self.header.dscp {
                Some(dscp) => dscp << 2 | came.class & 3,
                None => came.class,
            },
            id,
            dont_fragment,
            label: if leaves_v4 { 0 } else { came.label },
            ttl,
            source_port: self.header.source_port.unwrap_or(came.source_port),
            port: match (self.port, self.input.ports) {
                (PortMatch::One(port), _) => port,
                (PortMatch::Range(first, _), PortMatch::Range(from, _)) => {
                    first + (came.port - from)
                }
                _ => came.port,
            },
            checksum: match came.checksum {
                Checksum::Absent if leaves_v4 => Checksum::Absent,
                Checksum::Wrong if !looks_partial => Checksum::Wrong,
                _ => Checksum::Right,
            },
            payload: came.payload.clone(),
        }
    }

    fn check(&self) {
        let (frame, beside) = self.frame();
        let datagram = wire::decode_stripped(&frame[..], beside).unwrap();
        assert!(self.input.group.contains(datagram.group()));
        let payload = &frame[datagram.payload()..datagram.end()];
        assert_eq!(payload, self.came.payload);
        let received = Received::read(&frame, &datagram, self.known).unwrap();
        let template = Template::new(&Target {
            source_mac: self.macs[0],
            destination_mac: match self.group.address().is_multicast() {
                true => mac_of(self.group.address()),
                false => self.macs[1],
            },
            source: self.source,
            group: self.group,
            port: self.port,
            header: &self.header,
            input: &self.input,
        });
        let template = template.unwrap();
        let ttl = template.ttl(&received);
        assert_eq!(ttl, self.ttl());
        let Some(ttl) = ttl else {
            return;
        };
        let vouches = received.checksum_ok(payload);
        let expected = self.expected(ttl);
        assert_eq!(vouches, expected.checksum != Checksum::Wrong);
        let sum = received.udp_sum(payload);
        let kept = Keeping::new(&self.input, template.keeps()).kept(&datagram, &frame, beside);
        let adapted = template.keeping(&kept);
        let changed = template.received(&received);
        let changed_sum = template.udp_sum(&received, payload, sum);
        let copy = copy(&adapted, &changed, ttl, changed_sum, payload);
        assert_eq!(Fields::read(&copy), expected);
        if template.is_plain() {
            assert_eq!(self::copy(&template, &received, ttl, sum, payload), copy);
        }
        let len = copy.len() - payload.len();
        assert_eq!(len, template.headers_len());
        if let Some(patched) = template.patched(ttl) {
            let patch = Patch::new(&received, sum);
            let mut place = [0xee; PATCH_ROOM];
            if patched.is_ipv6() {
                patched.write::<true>(&mut place, &patch);
                assert_eq!(Patched::len::<true>(), len);
            } else {
                patched.write::<false>(&mut place, &patch);
                assert_eq!(Patched::len::<false>(), len);
            }
            assert_eq!(place[..len], copy[..len]);
        }
    }

    /// The frame, and the tag beside it.
    fn frame(&self) -> (Vec<u8>, Option<Tag>) {
        let mut came = self.came.clone();
        let beside = match self.is_stripped && !came.tags.is_empty() {
            true => {
                let (tpid, tci) = came.tags.remove(0);
                Some(Tag { tpid, tci })
            }
            false => None,
        };
        let mut frame = came.write();
        frame.resize(frame.len() + self.padding, 0xdd);
        (frame, beside)
    }
}

/// The copy that a template writes.
fn copy(
    template: &Template,
    received: &Received,
    ttl: u8,
    sum: Option<u32>,
    payload: &[u8],
) -> Vec<u8> {
    let mut headers = [0xee; HEADERS_ROOM];
    let len = template.write(&mut headers, received, ttl, sum);
    let mut in_place = [0x11; HEADERS_ROOM];
    assert_eq!(
        template.write_in_place(&mut in_place, received, ttl, sum),
        len
    );
    assert_eq!(headers[..len], in_place[..len]);
    assert!(
        headers[len..].iter().all(|&byte| byte == 0xee),
        "only the headers"
    );
    assert_eq!(
        template.write(&mut headers[..len - 1], received, ttl, sum),
        0
    );
    [&in_place[..len], payload].concat()
}

/// The host part of an address in a prefix.
fn host_part(address: IpAddr, prefix: Prefix) -> u128 {
    match (address, prefix.address()) {
        (IpAddr::V4(address), IpAddr::V4(base)) => (address.to_bits() ^ base.to_bits()).into(),
        (IpAddr::V6(address), IpAddr::V6(base)) => address.to_bits() ^ base.to_bits(),
        _ => panic!("two versions of IP"),
    }
}

fn group(u: &mut Unstructured<'_>, is_v4: bool) -> Result<IpAddr> {
    Ok(match is_v4 {
        true => Ipv4Addr::from_bits(0xe000_0000 | u.int_in_range(0..=0x0fff_ffff)?).into(),
        false => Ipv6Addr::from_bits(0xff << 120 | u.arbitrary::<u128>()? >> 8).into(),
    })
}

/// The address of a host.
fn address(u: &mut Unstructured<'_>, is_v4: bool) -> Result<IpAddr> {
    Ok(match is_v4 {
        true => Ipv4Addr::from_bits(u.int_in_range(0x0100_0000..=0x7eff_ffff)?).into(),
        false => Ipv6Addr::from_bits(0x2001 << 112 | u.arbitrary::<u128>()? >> 16).into(),
    })
}

/// Ports of an input and of its output, and one that a datagram is sent to.
fn ports(u: &mut Unstructured<'_>) -> Result<(PortMatch, PortMatch, u16)> {
    let one = PortMatch::One(u.int_in_range(1..=u16::MAX)?);
    Ok(match u.int_in_range(0..=3)? {
        0 => {
            let came_to = u.arbitrary()?;
            let keeps = u.arbitrary()?;
            (
                PortMatch::Any,
                if keeps { PortMatch::Any } else { one },
                came_to,
            )
        }
        1 => {
            let span = u.int_in_range(1..=u16::MAX - 1)?;
            let first = u.int_in_range(1..=u16::MAX - span)?;
            let to = u.int_in_range(1..=u16::MAX - span)?;
            let came_to = u.int_in_range(first..=first + span)?;
            let keeps = u.arbitrary()?;
            let to = PortMatch::Range(to, to + span);
            let input = PortMatch::Range(first, first + span);
            (input, if keeps { to } else { one }, came_to)
        }
        _ => {
            let port = u.int_in_range(1..=u16::MAX)?;
            (PortMatch::One(port), one, port)
        }
    })
}

fn header(u: &mut Unstructured<'_>) -> Result<Header> {
    let ttl = match u.int_in_range(0..=3)? {
        0 => Ttl::Decrement,
        1 => Ttl::Set(u.int_in_range(1..=u8::MAX)?),
        _ => Ttl::Auto,
    };
    let vlan = match u.int_in_range(0..=5)? {
        0 => OutputVlan::Keep,
        1 => OutputVlan::Tag(u.int_in_range(1..=4094)?),
        2 => OutputVlan::Double(u.int_in_range(1..=4094)?, u.int_in_range(1..=4094)?),
        _ => OutputVlan::Untagged,
    };
    Ok(Header {
        ttl,
        source_port: u.arbitrary::<Option<u16>>()?.filter(|&port| port != 0),
        dscp: u.arbitrary::<Option<u8>>()?.map(|dscp| dscp & 63),
        vlan,
        pcp: u.arbitrary::<Option<u8>>()?.map(|pcp| pcp & 7),
    })
}

/// Tags that name a VLAN, with any priorities, and now and then a tag that has only a priority.
fn tags(u: &mut Unstructured<'_>, vlan: Vlan) -> Result<Vec<(u16, u16)>> {
    let mut priority = || Ok(u.arbitrary::<u16>()? & 0xf000);
    let any = |choice: u16| {
        if choice & 0x1000 == 0 {
            CUSTOMER
        } else {
            SERVICE
        }
    };
    Ok(match vlan {
        Vlan::Untagged => match priority()? {
            0 => vec![],
            tci if tci < 0x8000 => vec![(any(tci), tci)],
            tci => vec![(any(tci), tci), (any(priority()?), priority()?)],
        },
        Vlan::Tag(id) => match priority()? {
            choice @ 0..0x6000 => vec![(any(choice), priority()?), (CUSTOMER, id | priority()?)],
            choice @ 0x6000..0x8000 => {
                vec![(CUSTOMER, id | priority()?), (any(choice), priority()?)]
            }
            _ => vec![(CUSTOMER, id | priority()?)],
        },
        Vlan::Double(outer, inner) => vec![
            (any(priority()?), outer | priority()?),
            (CUSTOMER, inner | priority()?),
        ],
    })
}

fn payload(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = u.int_in_range(0..=1472)?;
    let (first, step): (u8, u8) = u.arbitrary()?;
    let mut payload: Vec<u8> = (0..len)
        .map(|at| first.wrapping_add(step.wrapping_mul(at as u8)))
        .collect();
    // Some bytes of its own.
    let own = u.arbitrary_len::<u8>()?.min(len);
    payload[..own].copy_from_slice(u.bytes(own)?);
    Ok(payload)
}
