//! Tests against the kernel: each makes a network namespace of its own and needs root.

use std::collections::BTreeSet;

use super::*;
use crate::testing::{in_namespace, run};

fn make_pair() {
    run(
        "ip link add name va numtxqueues 4 numrxqueues 4 type veth peer name vb numtxqueues 4 numrxqueues 4",
    );
}

#[test]
fn queues_in_use_are_counted_up_and_down_and_after_a_change() {
    in_namespace(|| {
        make_pair();
        let queues = || facts("va").map(|facts| (facts.rx_queues, facts.tx_queues, facts.is_up));
        assert_eq!(queues(), Ok((4, 4, false)));
        run("ethtool -L va rx 2 tx 3");
        assert_eq!(queues(), Ok((2, 3, false)), "down: by ethtool");
        run("ip link set va up");
        assert_eq!(queues(), Ok((2, 3, true)), "up: by netlink");
    });
}

#[test]
fn a_veth_takes_gso_packets_whole_until_it_is_told_not_to() {
    in_namespace(|| {
        make_pair();
        run("ip link set va up");
        let va = facts("va").unwrap();
        assert!(va.segments_udp && va.queueless);
        run("ethtool -K va tx-udp-segmentation off");
        assert!(!facts("va").unwrap().segments_udp);
        run("tc qdisc add dev va root pfifo");
        assert!(!facts("va").unwrap().queueless);
    });
}

/// The relay reads the feature, but ignores a veth's: it says nothing about frames that arrive
/// there.
#[test]
fn tags_that_an_interface_takes_out_are_known() {
    in_namespace(|| {
        make_pair();
        run("ethtool -K va rx-vlan-offload on");
        let strips = || facts("va").unwrap().offloads.strips_tags();
        assert!(strips() && facts("va").unwrap().tag_may_be_beside());
        run("ethtool -K va rx-vlan-offload off rx-vlan-stag-hw-parse off");
        assert!(!strips());
        run("ip link add name br0 type bridge");
        let of_bridge = facts("br0").unwrap().offloads.unwanted;
        assert!(of_bridge.iter().all(|one| one.joins()), "{of_bridge:?}");
    });
}

#[test]
fn a_carrier_is_there_while_both_ends_are_up() {
    in_namespace(|| {
        make_pair();
        let has = || {
            with_carrier()
                .unwrap()
                .contains(&facts("va").unwrap().index)
        };
        assert!(!has());
        run("ip link set va up");
        assert!(!has(), "the other end is down");
        run("ip link set vb up");
        assert!(has());
        run("ip link set vb down");
        assert!(!has(), "at once, not when the kernel has acted upon it");
    });
}

#[test]
fn ethtool_and_netlink_agree_on_the_queues() {
    in_namespace(|| {
        make_pair();
        run("ip link set va up");
        run("ethtool -L va rx 3 tx 1");
        let index = facts("va").unwrap().index;
        let dump = netlink::everything().unwrap_or_else(|(what, error)| panic!("{what}: {error}"));
        assert_eq!(dump.queues.get(&index), Some(&(3, 1)));
        assert_eq!(ethtool::channels("va").unwrap(), Some((3, 1)));
    });
}

#[test]
fn the_facts_are_those_that_were_set() {
    in_namespace(|| {
        make_pair();
        run("ip link set va address 02:00:00:00:00:07 mtu 3000");
        run("ip addr add 10.7.0.1/24 dev va");
        run("ip addr add 10.7.0.2/24 dev va");
        run("ip addr add 10.8.0.1/24 dev va");
        run("ip addr add 10.9.0.1/24 dev vb");
        let va = facts("va").unwrap();
        assert_eq!(va.mac, Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(va.mtu, 3000);
        assert_eq!(va.driver, "veth");
        let addresses: Vec<String> = va.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            addresses,
            ["10.7.0.1", "10.8.0.1", "10.7.0.2"],
            "primary ones first"
        );
        let xdp = va.xdp.unwrap();
        assert!(xdp.native() && !xdp.zero_copy(), "{xdp:?}");
    });
}

#[test]
fn the_ipv6_addresses_are_those_that_may_be_sent_from_by_either_way_of_asking() {
    in_namespace(|| {
        make_pair();
        // Without a carrier addresses stay tentative: nothing can answer.
        run("ip link set va addrgenmode none up");
        run("ip -6 address add 2001:db8::1/64 dev va nodad");
        run("ip -6 address add 2001:db8::2/64 dev va nodad preferred_lft 0");
        run("ip -6 address add fe80::1/64 dev va nodad");
        run("ip -6 address add 2001:db8::3 peer 2001:db8::9 dev va nodad");
        run("ip -6 address add 2001:db8::4/64 dev va");
        run("ip -6 address add 2001:db8::5/64 dev vb nodad");
        let va = facts("va").unwrap();
        let shown = |all: &[Ipv6Address]| {
            let all = all.iter().map(|one| {
                let avoided = if one.avoided { " avoided" } else { "" };
                format!("{}{avoided}", one.address)
            });
            let mut all: Vec<String> = all.collect();
            all.sort();
            all
        };
        let right = [
            "2001:db8::1",
            "2001:db8::2 avoided",
            "2001:db8::3",
            "fe80::1",
        ];
        assert_eq!(shown(&va.ipv6_addresses), right);
        let asked = watch::Questions::open().unwrap().ipv6_addresses(va.index);
        assert_eq!(asked.unwrap(), va.ipv6_addresses, "in the same order");
    });
}

#[test]
fn loopback_and_bridge_interfaces_have_no_native_xdp() {
    in_namespace(|| {
        run("ip link add name br0 type bridge");
        run("ip link set br0 up");
        let host_facts = facts_for(["lo", "br0", "lo"], &BTreeSet::new(), Vec::new());
        assert_eq!(host_facts.failures, []);
        assert_eq!(host_facts.interfaces.len(), 2);
        let (lo, bridge) = (&host_facts.interfaces["lo"], &host_facts.interfaces["br0"]);
        assert!(lo.is_loopback && lo.mac.is_none() && !lo.is_up);
        assert!(!bridge.is_loopback && bridge.mac.is_some() && bridge.is_up);
        for facts in [lo, bridge] {
            assert!(!facts.xdp.unwrap().native(), "{}", facts.name);
            assert_eq!((facts.rx_queues, facts.tx_queues), (1, 1), "{}", facts.name);
        }
        assert!(host_facts.cpus >= 1);
    });
}

#[test]
fn a_missing_interface_is_named_with_those_that_there_are() {
    in_namespace(|| {
        make_pair();
        let error = facts("vx").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no interface `vx` in this network namespace"
        );
        assert_eq!(error.remedy(), "`ip link show` lists: lo, vb, va");
    });
}

#[test]
fn an_alternative_name_is_not_another_interface() {
    in_namespace(|| {
        make_pair();
        run("ip link property add dev va altname other");
        assert!(matches!(facts("other"), Err(HostError::Missing { .. })));
    });
}

#[test]
fn zero_copy_takes_native_xdp_too() {
    assert!(XdpFeatures::from_bits(0b1011).zero_copy());
    assert!(!XdpFeatures::from_bits(0b1001).zero_copy());
    assert!(XdpFeatures::from_bits(0b0011).native());
    assert!(!XdpFeatures::from_bits(0b0001).native());
}

/// What the relay watches of an interface, by request and by notification.
mod watched {
    use std::{
        net::Ipv4Addr,
        time::{Duration, Instant},
    };

    use super::watch::{Heard, News, Questions};
    use super::*;

    /// Reads until a notification about `index` arrives.
    fn hear(news: &mut News, index: u32) -> Heard {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let heard = news.read();
            if heard.touched.contains(&index) {
                return heard;
            }
            assert!(Instant::now() < deadline, "nothing was heard");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn an_interface_is_asked_for_by_its_index_whatever_it_is_called() {
        in_namespace(|| {
            make_pair();
            run("ip link set va up");
            run("ip link set vb up");
            run("ip address add 10.7.0.1/24 dev va");
            run("ip address add 10.8.0.1/24 dev vb");
            let index = facts("va").unwrap().index;
            let mut questions = Questions::open().unwrap();
            let addresses = questions.addresses(index).unwrap();
            assert_eq!(addresses, [Ipv4Addr::new(10, 7, 0, 1)]);
            assert_eq!(questions.takes_gso(index), Some(true));
            run("ethtool -K va tx-udp-segmentation off");
            assert_eq!(questions.takes_gso(index), Some(false));
            run("ip link set va name other mtu 1400 address 02:00:00:00:00:77");
            let now = questions.link(index).unwrap().unwrap();
            assert_eq!((now.name.as_str(), now.mtu), ("other", 1400));
            assert_eq!(now.mac, Some([2, 0, 0, 0, 0, 0x77]));
            assert_eq!((now.qdisc.as_str(), now.program), ("noqueue", None));
            assert!(now.is_up && now.carries);
            run("tc qdisc add dev other root pfifo");
            run("ip link set vb down");
            let now = questions.link(index).unwrap().unwrap();
            assert_eq!(now.qdisc, "pfifo");
            assert!(now.is_up && !now.carries);
            run("ip link del other");
            assert_eq!(questions.link(index).unwrap(), None);
            assert_eq!(questions.takes_gso(index), None);
            // An error, and not the empty list that an interface without addresses has.
            let gone = questions.addresses(index).unwrap_err();
            assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
        });
    }

    #[test]
    fn frames_that_a_device_drops_are_in_its_counter() {
        in_namespace(|| {
            make_pair();
            run("ip address add 10.7.0.1/24 dev va");
            run("ip link set va up");
            run("ip link set vb up");
            let index = facts("va").unwrap().index;
            let mut questions = Questions::open().unwrap();
            let mut dropped = || questions.link(index).unwrap().unwrap().tx_dropped;
            let before = dropped();
            // The far end drops frames larger than its MTU, and a veth counts that at the sending
            // end.
            run("ip link set vb mtu 1000");
            let socket = std::net::UdpSocket::bind("10.7.0.1:0").unwrap();
            for _ in 0..5 {
                socket.send_to(&[0; 1300], "10.7.0.255:9").unwrap_err();
            }
            socket.set_broadcast(true).unwrap();
            for _ in 0..5 {
                socket.send_to(&[0; 1300], "10.7.0.255:9").unwrap();
            }
            assert_eq!(dropped() - before, 5);
        });
    }

    #[test]
    fn news_come_of_links_addresses_and_queueing_disciplines() {
        in_namespace(|| {
            let mut news = News::subscribe().unwrap();
            make_pair();
            let index = facts("va").unwrap().index;
            let heard = hear(&mut news, index);
            assert!(
                heard.links.iter().any(|(_, now)| now.name == "va"),
                "{heard:?}"
            );
            for change in [
                "ip link set va up",
                "ip link set va mtu 1400",
                "ethtool -K va tx-udp-segmentation off",
                "ip address add 10.7.0.1/24 dev va",
                "ip address del 10.7.0.1/24 dev va",
                "tc qdisc add dev va root pfifo",
                "tc qdisc del dev va root",
                "ip link set vb up",
                "ip link del va",
            ] {
                std::thread::sleep(Duration::from_millis(50));
                news.read();
                run(change);
                let heard = hear(&mut news, index);
                assert!(!heard.lost, "{change}: {heard:?}");
                if change.starts_with("ethtool") {
                    assert_eq!(heard.takes_gso, [(index, false)], "{heard:?}");
                }
            }
        });
    }

    #[test]
    fn news_that_are_lost_are_told() {
        in_namespace(|| {
            let mut news = News::subscribe().unwrap();
            make_pair();
            let file = std::env::temp_dir().join(format!("relay-news-{}", std::process::id()));
            let changes = "link set va mtu 1400\nlink set va mtu 1500\n".repeat(1000);
            std::fs::write(&file, changes).unwrap();
            run(&format!("ip -batch {}", file.display()));
            std::fs::remove_file(&file).unwrap();
            assert!(news.read().lost);
            assert!(!news.read().lost, "told once");
        });
    }
}

/// Routes and neighbours, in a namespace with two wires: `va` to `vb` and `wa` to `wb`, whose other
/// ends are in a second namespace.
mod routed {
    use std::{
        net::IpAddr,
        time::{Duration, Instant},
    };

    use super::{
        neighbours::{Neighbours, OnLink},
        routes::{NoRoute, Route, RouteQuery, Routing},
        *,
    };
    use crate::far_namespace::Far;

    /// A query with words behind the destination as `ip route get` has them.
    fn query(words: &str) -> RouteQuery {
        let mut words = words.split(' ');
        let mut query = RouteQuery {
            destination: words.next().unwrap().parse().unwrap(),
            port: Some(5000),
            interface: None,
            mark: None,
            source: None,
        };
        while let Some(word) = words.next() {
            let value = words.next().unwrap();
            match word {
                "oif" => query.interface = Some(facts(value).unwrap().index),
                "mark" => query.mark = Some(value.parse().unwrap()),
                "from" => query.source = Some(value.parse().unwrap()),
                "dport" => query.port = Some(value.parse().unwrap()),
                _ => panic!("{word}"),
            }
        }
        query
    }

    /// Two interfaces with addresses whose far ends are in this namespace as well, without any.
    fn make_wires() {
        for (name, far, number) in [("va", "vb", 7), ("wa", "wb", 8)] {
            run(&format!(
                "ip link add name {name} type veth peer name {far}"
            ));
            run(&format!("ip link set {far} up"));
            run(&format!("ip link set {name} up"));
            run(&format!("ip address add 10.{number}.0.1/24 dev {name}"));
            run(&format!(
                "ip -6 address add 2001:db8:{number}::1/64 dev {name} nodad"
            ));
        }
    }

    #[test]
    fn a_look_up_says_interface_gateway_and_source_or_why_there_is_no_way() {
        in_namespace(|| {
            make_wires();
            run("ip link set lo up");
            for route in [
                "10.20.0.0/24 via 10.7.0.9",
                "10.21.0.0/24 via 10.8.0.9 src 10.7.0.1",
                "10.22.0.0/24 via inet6 fe80::9 dev wa",
                "10.23.0.0/24 nhid 5",
                "10.24.0.0/24 dev wa",
                "10.20.0.0/24 via 10.8.0.7 table 100",
                "unreachable 10.30.0.0/24",
                "prohibit 10.31.0.0/24",
                "blackhole 10.32.0.0/24",
            ] {
                if route.contains("nhid") {
                    run("ip nexthop add id 5 via 10.8.0.5 dev wa");
                }
                run(&format!("ip route add {route}"));
            }
            run("ip rule add fwmark 9 table 100");
            run("ip rule add ipproto udp dport 6000 table 100");
            for route in [
                "2001:db8:20::/64 via 2001:db8:7::9",
                "2001:db8:21::/64 via fe80::9 dev wa",
                "unreachable 2001:db8:30::/64",
                "prohibit 2001:db8:31::/64",
                "blackhole 2001:db8:32::/64",
            ] {
                run(&format!("ip -6 route add {route}"));
            }
            let mut routing = Routing::open().unwrap();
            for (words, right) in [
                ("10.7.0.9", "va - 10.7.0.1"),
                ("10.20.0.1", "va 10.7.0.9 10.7.0.1"),
                ("10.20.0.1 mark 9", "wa 10.8.0.7 10.8.0.1"),
                ("10.20.0.1 dport 6000", "wa 10.8.0.7 10.8.0.1"),
                ("10.20.0.1 from 10.8.0.1", "va 10.7.0.9 10.8.0.1"),
                ("10.20.0.1 from 192.0.2.1", "va 10.7.0.9 10.7.0.1"),
                ("10.20.0.1 oif wa", "wa - 10.8.0.1"),
                ("10.21.0.1", "wa 10.8.0.9 10.7.0.1"),
                ("10.22.0.1", "wa fe80::9 10.8.0.1"),
                ("10.23.0.1", "wa 10.8.0.5 10.8.0.1"),
                ("10.24.0.1", "wa - 10.8.0.1"),
                ("2001:db8:7::9", "va - 2001:db8:7::1"),
                ("2001:db8:20::1", "va 2001:db8:7::9 2001:db8:7::1"),
                ("2001:db8:21::1", "wa fe80::9 2001:db8:8::1"),
            ] {
                let route = routing.look_up(&query(words));
                let mut right = right.split(' ');
                let mut next = || right.next().unwrap();
                let expected = Route {
                    interface: facts(next()).unwrap().index,
                    gateway: next().parse().ok(),
                    source: next().parse().ok(),
                };
                assert_eq!(route, Ok(expected), "{words}");
            }
            for (words, right) in [
                ("10.99.0.1", NoRoute::Missing),
                ("2001:db8:99::1", NoRoute::Missing),
                ("10.30.0.1", NoRoute::Unreachable),
                ("10.31.0.1", NoRoute::Prohibited),
                ("10.32.0.1", NoRoute::Blackhole),
                ("2001:db8:30::1", NoRoute::Unreachable),
                ("2001:db8:31::1", NoRoute::Prohibited),
                ("2001:db8:32::1", NoRoute::Blackhole),
                ("10.7.0.1", NoRoute::Local),
                ("127.0.0.1", NoRoute::Local),
                ("2001:db8:7::1", NoRoute::Local),
                ("10.7.0.255", NoRoute::Broadcast),
            ] {
                assert_eq!(routing.look_up(&query(words)), Err(right), "{words}");
            }
        });
    }

    /// Waits until the neighbour is as `right` says.
    fn await_mac(neighbours: &mut Neighbours, host: OnLink, right: Option<[u8; 6]>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let known = neighbours.get(host).unwrap();
            let mac = known.and_then(|known| known.usable_mac());
            if mac == right && known.is_some_and(|known| right.is_some() || known.has_failed()) {
                return;
            }
            assert!(Instant::now() < deadline, "{host:?}: {known:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn the_kernel_resolves_what_it_shall_keep_fresh_and_fixed_entries_are_known() {
        in_namespace(|| {
            make_wires();
            let index = facts("va").unwrap().index;
            let on_link = |address: &str| OnLink {
                interface: index,
                address: address.parse::<IpAddr>().unwrap(),
            };
            let far = Far::new();
            let mac = "02:00:00:00:00:99";
            far.take("vb", mac, &["10.7.0.9/24", "2001:db8:7::9/64"]);
            let mut neighbours = Neighbours::open().unwrap();
            let mac = Some([2, 0, 0, 0, 0, 0x99]);
            for address in ["10.7.0.9", "2001:db8:7::9"] {
                let host = on_link(address);
                assert_eq!(neighbours.get(host).unwrap(), None);
                neighbours.keep_fresh(host, None).unwrap();
                await_mac(&mut neighbours, host, mac);
                let known = neighbours.get(host).unwrap().unwrap();
                assert!(known.is_managed() && !known.is_fixed());
                neighbours.use_once(host, Some(known)).unwrap();
                let known = neighbours.get(host).unwrap().unwrap();
                assert!(!known.is_managed() && known.usable_mac() == mac);
            }
            let nobody = on_link("10.7.0.77");
            neighbours.keep_fresh(nobody, None).unwrap();
            await_mac(&mut neighbours, nobody, None);
            run("ip neigh add 10.7.0.50 lladdr 02:00:00:00:00:50 dev va");
            let known = neighbours.get(on_link("10.7.0.50")).unwrap().unwrap();
            assert!(known.is_fixed() && known.usable_mac() == Some([2, 0, 0, 0, 0, 0x50]));
            run("ip link set va arp off");
            let noarp = on_link("10.7.0.60");
            neighbours.keep_fresh(noarp, None).unwrap();
            let known = neighbours.get(noarp).unwrap().unwrap();
            let own = facts("va").unwrap().mac;
            assert!(known.is_fixed() && known.usable_mac() == own, "{known:?}");
        });
    }
}

#[test]
fn the_addresses_of_all_interfaces_are_known() {
    in_namespace(|| {
        make_pair();
        run("ip link set lo up");
        run("ip address add 10.9.0.1/32 dev lo");
        run("ip address add 10.0.0.1/24 dev vb");
        run("ip address add 2001:db8::1/64 dev vb nodad");
        let host_facts = facts_for(["va"], &BTreeSet::new(), Vec::new());
        let mut addresses: Vec<String> = host_facts
            .addresses
            .keys()
            .map(ToString::to_string)
            .collect();
        addresses.sort_unstable();
        assert_eq!(
            addresses,
            ["10.0.0.1", "10.9.0.1", "127.0.0.1", "2001:db8::1", "::1"]
        );
    });
}
