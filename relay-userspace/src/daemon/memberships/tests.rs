//! Memberships as the kernel lists them, in network namespaces.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::*;
use crate::testing::{in_namespace, run};

/// The groups of 239.0.0.0/8 that /proc lists for an interface of this thread's namespace.
fn listed(name: &str) -> BTreeSet<Ipv4Addr> {
    let text = fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
    let mut here = false;
    let mut groups = BTreeSet::new();
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        if !line.starts_with('\t') {
            here = words.next() == Some(name);
        } else if here {
            // The address as the kernel holds it, big-endian, read as a native number.
            let bits = u32::from_str_radix(first, 16).unwrap();
            groups.insert(Ipv4Addr::from(bits.to_ne_bytes()));
        }
    }
    groups.retain(|group| group.octets()[0] == 239);
    groups
}

fn group(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(239, 1, high, low)
}

fn groups(numbers: std::ops::RangeInclusive<u16>) -> BTreeSet<Ipv4Addr> {
    numbers.map(group).collect()
}

fn on(index: u32, numbers: std::ops::RangeInclusive<u16>) -> BTreeSet<Membership> {
    numbers
        .map(|number| of(index, group(number), None))
        .collect()
}

fn of(interface: u32, group: impl Into<IpAddr>, source: Option<IpAddr>) -> Membership {
    Membership {
        interface,
        group: group.into(),
        source,
    }
}

/// The groups of ff3e::/16 that /proc lists for an interface.
fn listed_six(name: &str) -> Vec<IpAddr> {
    let text = fs::read_to_string("/proc/thread-self/net/igmp6").unwrap();
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[1] == name && words[2].starts_with("ff3e")).then(|| six(words[2]))
    });
    let mut groups: Vec<IpAddr> = lines.collect();
    groups.sort_unstable();
    groups
}

/// An IPv6 address as /proc has it, without colons.
fn six(hex: &str) -> IpAddr {
    IpAddr::from(u128::from_str_radix(hex, 16).unwrap().to_be_bytes())
}

/// Groups and sources that /proc lists for an interface, of both IP versions. A source is listed as
/// well where some socket has joined the group of any source.
fn sources(name: &str) -> Vec<(IpAddr, IpAddr)> {
    let four = |hex: &str| {
        let bits = u32::from_str_radix(hex.trim_start_matches("0x"), 16).unwrap();
        IpAddr::from(Ipv4Addr::from_bits(bits))
    };
    let read = |list: &str, address: &dyn Fn(&str) -> IpAddr| -> Vec<(IpAddr, IpAddr)> {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{list}")).unwrap();
        let lines = text.lines().skip(1).filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[1] == name).then(|| (address(words[2]), address(words[3])))
        });
        lines.collect()
    };
    let mut all = read("mcfilter", &four);
    all.extend(read("mcfilter6", &six));
    all.sort_unstable();
    all
}

/// The memberships of a group of the sources 10.9.0.1 and so on, or 2001:db8::1 and so on.
fn of_sources(
    index: u32,
    group: IpAddr,
    numbers: std::ops::RangeInclusive<u8>,
) -> BTreeSet<Membership> {
    let source = |number: u8| match group {
        IpAddr::V4(_) => IpAddr::from([10, 9, 0, number]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()]),
    };
    numbers
        .map(|number| of(index, group, Some(source(number))))
        .collect()
}

/// Groups and sources of memberships.
fn pairs(memberships: &BTreeSet<Membership>) -> Vec<(IpAddr, IpAddr)> {
    let pairs = memberships
        .iter()
        .filter_map(|one| Some((one.group, one.source?)));
    pairs.collect()
}

fn name(index: u32) -> String {
    format!("if{index}")
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// `va` and `vb`, with the indices 71 and 72.
fn pair() {
    run("ip link add name va index 71 type veth peer name vb index 72");
    run("ip link set va up");
    run("ip link set vb up");
}

#[test]
fn more_groups_than_a_socket_takes_are_joined_and_left_on_drop() {
    in_namespace(|| {
        pair();
        let mut wanted = on(71, 1..=70);
        wanted.extend(on(72, 1..=1));
        let mut joined = Memberships::default();
        joined.join_missing(&wanted, name).unwrap();
        assert_eq!(joined.len(), 71);
        assert_eq!(joined.sockets.len(), 4);
        assert_eq!(listed("va"), groups(1..=70));
        assert_eq!(listed("vb"), groups(1..=1));
        drop(joined);
        assert_eq!(listed("va"), BTreeSet::new());
        assert_eq!(listed("vb"), BTreeSet::new());
    });
}

#[test]
fn only_what_is_missing_is_joined_and_what_was_left_makes_room() {
    in_namespace(|| {
        pair();
        let mut joined = Memberships::default();
        joined.join_missing(&on(71, 1..=40), name).unwrap();
        assert_eq!(joined.sockets.len(), 2);
        // Half of the groups of each socket.
        let kept: BTreeSet<_> = on(71, 1..=40)
            .into_iter()
            .filter(|one| matches!(one.group, IpAddr::V4(group) if group.octets()[3] % 2 == 0))
            .collect();
        assert!(joined.leave_others(&kept, later()));
        assert_eq!(joined.len(), 20);
        assert_eq!(listed("va").len(), 20);
        let mut more = kept.clone();
        more.extend(on(72, 1..=20));
        joined.join_missing(&more, name).unwrap();
        assert_eq!(joined.len(), 40);
        assert_eq!(joined.sockets.len(), 2, "there was room for 20 more");
        assert_eq!(listed("vb"), groups(1..=20));
        joined.join_missing(&more, name).unwrap();
        assert!(joined.leave_others(&on(72, 1..=20), later()));
        assert_eq!(listed("va"), BTreeSet::new());
        assert_eq!(listed("vb"), groups(1..=20));
        assert!(!joined.leave_others(&BTreeSet::new(), Instant::now()));
        assert_eq!(joined.len(), 20, "the deadline has passed");
        assert!(joined.leave_others(&BTreeSet::new(), later()));
        assert!(joined.is_empty() && joined.sockets.is_empty());
        assert!(joined.with_room.is_empty());
        assert_eq!(listed("vb"), BTreeSet::new());
    });
}

#[test]
fn a_lowered_limit_takes_more_sockets() {
    in_namespace(|| {
        pair();
        let mut joined = Memberships::default();
        joined.join_missing(&on(71, 1..=10), name).unwrap();
        fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "7").unwrap();
        joined.join_missing(&on(71, 1..=30), name).unwrap();
        assert_eq!(joined.sockets.len(), 4, "10, 7, 7 and 6");
        assert_eq!(listed("va"), groups(1..=30));
    });
}

#[test]
fn a_refused_membership_names_interface_group_and_remedy_and_leaves_those_of_its_call() {
    in_namespace(|| {
        pair();
        let mut joined = Memberships::default();
        joined.join_missing(&on(71, 1..=1), name).unwrap();
        let mut wanted = on(71, 1..=30);
        wanted.extend(on(4711, 1..=1));
        let error = joined.join_missing(&wanted, name).unwrap_err().to_string();
        assert!(
            error.contains("joining group 239.1.0.1 on interface if4711: "),
            "{error}"
        );
        assert!(error.contains("the interface has gone"), "{error}");
        assert_eq!(listed("va"), groups(1..=1));
        assert_eq!(joined.sockets.len(), 1);

        fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "0").unwrap();
        let error = joined.join_missing(&on(71, 1..=2), name);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("on interface if71: "), "{error}");
        assert!(error.contains("igmp_max_memberships"), "{error}");
        assert_eq!(listed("va"), groups(1..=1));
    });
}

#[test]
fn an_interface_that_is_there_again_is_joined_anew_whatever_its_index() {
    in_namespace(|| {
        pair();
        let mut joined = Memberships::default();
        joined.join_missing(&on(71, 1..=30), name).unwrap();
        run("ip link delete va");
        // Another index: the old one is forgotten by itself.
        run("ip link add name va index 81 type veth peer name vb index 82");
        run("ip link set va up");
        joined.join_missing(&on(81, 1..=30), name).unwrap();
        assert_eq!(joined.len(), 30);
        assert_eq!(joined.sockets.len(), 2);
        assert_eq!(listed("va"), groups(1..=30));
        // The same index: the caller has to say so.
        run("ip link delete va");
        run("ip link add name va index 81 type veth peer name vb index 82");
        run("ip link set va up");
        joined.forget(81);
        assert_eq!(joined.len(), 0);
        joined.join_missing(&on(81, 1..=30), name).unwrap();
        assert_eq!(listed("va"), groups(1..=30));
    });
}

#[test]
fn ten_thousand_groups_are_replaced_and_left_without_a_long_wait() {
    in_namespace(|| {
        pair();
        let mut joined = Memberships::default();
        let (old, new) = (on(71, 1..=10_000), on(71, 10_001..=20_000));
        joined.join_missing(&old, name).unwrap();
        joined.join_missing(&new, name).unwrap();
        let mut turns = 1;
        while !joined.leave_others(&new, Instant::now() + Duration::from_millis(100)) {
            turns += 1;
            assert!(turns < 200);
        }
        assert_eq!(joined.len(), 10_000);
        let begun = Instant::now();
        drop(joined);
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(listed("va"), BTreeSet::new());
    });
}

#[test]
fn sources_of_both_ip_versions_are_joined_and_left_one_by_one() {
    in_namespace(|| {
        pair();
        for group in [
            IpAddr::from([232, 1, 1, 1]),
            "ff3e::8000:1".parse().unwrap(),
        ] {
            let mut joined = Memberships::default();
            let (first, more) = (of_sources(71, group, 1..=3), of_sources(71, group, 1..=25));
            joined.join_missing(&first, name).unwrap();
            assert_eq!(joined.sockets.len(), 1);
            assert_eq!(sources("va"), pairs(&first));
            joined.join_missing(&more, name).unwrap();
            assert_eq!(joined.sockets.len(), 3, "10, 10 and 5");
            assert_eq!(sources("va"), pairs(&more));
            assert_eq!(sources("vb"), []);
            let few = of_sources(71, group, 9..=12);
            assert!(joined.leave_others(&few, later()));
            assert_eq!(sources("va"), pairs(&few));
            assert_eq!(joined.len(), 4);
            joined
                .join_missing(&of_sources(71, group, 9..=13), name)
                .unwrap();
            assert_eq!(sources("va"), pairs(&of_sources(71, group, 9..=13)));
            assert_eq!(joined.sockets.len(), 2, "they had room again");
            drop(joined);
            assert_eq!(sources("va"), []);
            assert_eq!(listed_six("va"), [] as [IpAddr; 0]);
        }
    });
}

#[test]
fn a_group_is_joined_of_any_source_beside_one_of_its_sources() {
    in_namespace(|| {
        pair();
        let group = IpAddr::from(group(1));
        let any = on(71, 1..=1);
        let one = of_sources(71, group, 1..=1);
        let both: BTreeSet<_> = any.union(&one).copied().collect();
        let mut joined = Memberships::default();
        joined.join_missing(&both, name).unwrap();
        assert_eq!(joined.sockets.len(), 2, "one socket cannot have both");
        assert_eq!((listed("va"), sources("va")), (groups(1..=1), pairs(&one)));
        assert!(joined.leave_others(&one, later()));
        assert_eq!((listed("va"), sources("va")), (groups(1..=1), pairs(&one)));
        joined.join_missing(&both, name).unwrap();
        assert!(joined.leave_others(&any, later()));
        assert_eq!((listed("va"), sources("va")), (groups(1..=1), Vec::new()));
        drop(joined);
        assert_eq!(listed("va"), BTreeSet::new());
    });
}

/// A group over IPv6.
fn ipv6_group(number: u16) -> IpAddr {
    IpAddr::from([0xff3e, 0, 0, 0, 0, 0, 0x8000, number])
}

/// Thirty groups over IPv6 and five over IPv4.
fn of_both_versions() -> BTreeSet<Membership> {
    let mut wanted: BTreeSet<_> = (1..=30)
        .map(|number| of(71, ipv6_group(number), None))
        .collect();
    wanted.extend(on(71, 1..=5));
    wanted
}

#[test]
fn groups_of_ipv6_are_joined_on_sockets_of_their_own() {
    in_namespace(|| {
        pair();
        let wanted = of_both_versions();
        let mut joined = Memberships::default();
        joined.join_missing(&wanted, name).unwrap();
        assert_eq!(joined.sockets.len(), 3, "20 and 10, and 5 of IPv4");
        assert_eq!(
            listed_six("va"),
            (1..=30).map(ipv6_group).collect::<Vec<_>>()
        );
        assert_eq!(listed("va"), groups(1..=5));
        assert!(joined.leave_others(&on(71, 1..=5), later()));
        assert_eq!(listed_six("va"), [] as [IpAddr; 0]);
        assert_eq!(listed("va"), groups(1..=5));
        let error = joined.join_missing(&[of(4711, ipv6_group(1), None)].into(), name);
        let error = error.unwrap_err().to_string();
        let expected = "joining group ff3e::8000:1 on interface if4711: ";
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains("MTU must be at least 1280"), "{error}");
    });
}

#[test]
fn groups_whose_interface_lost_its_ipv6_meanwhile_are_joined_again() {
    in_namespace(|| {
        pair();
        let wanted = of_both_versions();
        let mut joined = Memberships::default();
        joined.join_missing(&wanted, name).unwrap();
        assert!(!joined.forget_ended());
        run("ip link set va mtu 1279");
        run("ip link set va mtu 1500");
        // The sockets have heard nothing.
        joined.join_missing(&wanted, name).unwrap();
        assert_eq!(listed_six("va"), [] as [IpAddr; 0]);
        assert!(joined.forget_ended());
        assert_eq!(joined.len(), 5, "those over IPv4 are untouched");
        joined.join_missing(&wanted, name).unwrap();
        assert_eq!(
            listed_six("va"),
            (1..=30).map(ipv6_group).collect::<Vec<_>>()
        );
        assert_eq!(listed("va"), groups(1..=5));
        assert!(!joined.forget_ended());
    });
}

#[test]
fn a_lowered_limit_of_sources_takes_more_sockets_and_a_refused_source_is_named() {
    in_namespace(|| {
        pair();
        let group = IpAddr::from([232, 1, 1, 1]);
        fs::write("/proc/sys/net/ipv4/igmp_max_msf", "4").unwrap();
        let mut joined = Memberships::default();
        let wanted = of_sources(71, group, 1..=10);
        joined.join_missing(&wanted, name).unwrap();
        assert_eq!(joined.sockets.len(), 3, "4, 4 and 2");
        assert_eq!(sources("va"), pairs(&wanted));
        drop(joined);
        assert_eq!(sources("va"), []);

        // A socket takes a first source whatever the limit says.
        fs::write("/proc/sys/net/ipv4/igmp_max_msf", "0").unwrap();
        let mut joined = Memberships::default();
        joined.join_missing(&wanted, name).unwrap();
        assert_eq!(joined.sockets.len(), 10);
        drop(joined);
        assert_eq!(sources("va"), []);

        fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "0").unwrap();
        let mut joined = Memberships::default();
        let error = joined.join_missing(&wanted, name).unwrap_err().to_string();
        let expected = "joining group 232.1.1.1 of source 10.9.0.1 on interface if71: ";
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains("net.ipv4.igmp_max_memberships"), "{error}");
        assert!(joined.is_empty() && joined.sockets.is_empty());
    });
}

#[test]
fn sources_of_an_interface_that_has_gone_are_forgotten_and_joined_anew() {
    in_namespace(|| {
        run("ip link add name vc index 73 type veth peer name vd index 74");
        run("ip link set vc up");
        run("ip link set vd up");
        for group in [
            IpAddr::from([232, 1, 1, 1]),
            "ff3e::8000:1".parse().unwrap(),
        ] {
            pair();
            // The sockets stay, for the sake of the other interface.
            let stays = of_sources(73, group, 1..=12);
            let wanted = of_sources(71, group, 1..=12);
            let both: BTreeSet<_> = stays.union(&wanted).copied().collect();
            let mut joined = Memberships::default();
            joined.join_missing(&both, name).unwrap();
            run("ip link delete va");
            joined.join_missing(&stays, name).unwrap();
            assert_eq!(joined.len(), 12);
            // The same index.
            pair();
            joined.join_missing(&both, name).unwrap();
            assert_eq!(sources("va"), pairs(&wanted));
            run("ip link delete va");
            pair();
            joined.forget(71);
            assert_eq!(joined.len(), 12);
            joined.join_missing(&both, name).unwrap();
            assert_eq!(sources("va"), pairs(&wanted));
            assert_eq!(sources("vc"), pairs(&stays));
            run("ip link delete va");
        }
    });
}

#[test]
fn thousands_of_sources_and_groups_of_ipv6_are_joined_and_left_without_a_long_wait() {
    in_namespace(|| {
        pair();
        let mut wanted: BTreeSet<_> = (0..5000)
            .map(|number| of(71, ipv6_group(number), None))
            .collect();
        let source = |number: u16| {
            let [high, low] = number.to_be_bytes();
            IpAddr::from([10, 1, high, low])
        };
        wanted.extend((0..2000).map(|number| of(71, group(number % 50), Some(source(number)))));
        let begun = Instant::now();
        let mut joined = Memberships::default();
        joined.join_missing(&wanted, name).unwrap();
        assert_eq!(joined.len(), 7000);
        assert_eq!(sources("va").len(), 2000);
        println!("joined after {:?}", begun.elapsed());
        drop(joined);
        println!("left after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(listed_six("va"), [] as [IpAddr; 0]);
        assert_eq!(sources("va"), []);
    });
}
