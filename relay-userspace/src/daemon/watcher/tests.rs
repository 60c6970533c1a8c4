//! The watcher on real interfaces, in network namespaces of their own.

use std::time::Instant;

use super::*;
use crate::{
    daemon::wait::wait,
    datapath::output_link::Link,
    host,
    plan::{Backend, Interface},
    testing::{in_namespace, run},
};

/// A pair of interfaces, `va` with an address; both are up.
fn make_pair() {
    run(
        "ip link add name va numrxqueues 4 numtxqueues 4 type veth peer name vb numrxqueues 4 numtxqueues 4",
    );
    // The kernel gives it no IPv6 address whose end and return would be told.
    run("ip link set va addrgenmode none");
    run("ip address add 10.7.0.1/24 dev va");
    run("ip link set va up");
    run("ip link set vb up");
}

/// An interface as a plan has it, which receives and sends there.
fn planned(name: &str) -> Interface {
    let facts = host::facts(name).unwrap();
    Interface {
        name: facts.name,
        index: facts.index,
        mac: facts.mac.unwrap(),
        mtu: facts.mtu,
        address: facts.addresses.first().copied(),
        ipv6_sources: Vec::new(),
        driver: facts.driver,
        backend: Backend::IoUring,
        reason: String::new(),
        is_input: true,
        is_output: true,
        rx_queues: Vec::new(),
        igmp: None,
        checksums: None,
        offloads: Default::default(),
        strips_tags: facts.offloads.strips_tags(),
        tx_queues: facts.tx_queues,
        zero_copy: false,
        expected_mode: None,
        shares_payloads: false,
        transmit: crate::config::rules::Transmit::default(),
        tx_method: None,
        gso_packets: true,
        segments_udp: facts.segments_udp,
        queueless: facts.queueless,
        gso: facts.gso,
    }
}

/// A watcher, as control uses it.
struct Control {
    bell: Bell,
    watcher: Watcher,
}

impl Control {
    fn start() -> Self {
        let bell = Bell::new().unwrap();
        let watcher = Watcher::start(bell.clone(), &Arc::default()).unwrap();
        Self { bell, watcher }
    }

    /// Follows `interfaces` as they are now, and `names` besides. Returns the links that a worker
    /// would read.
    fn follow(&self, interfaces: &[&str], names: &[&str]) -> Vec<Arc<Link>> {
        self.follow_with(None, interfaces, names)
    }

    /// The same where the XDP program with this id is attached to the interfaces.
    fn follow_with(
        &self,
        program: Option<u32>,
        interfaces: &[&str],
        names: &[&str],
    ) -> Vec<Arc<Link>> {
        let followed: Vec<Followed> = interfaces
            .iter()
            .map(|name| {
                let facts = planned(name);
                Followed {
                    links: vec![Arc::new(Link::new(&facts))],
                    program,
                    facts,
                }
            })
            .collect();
        let links = followed.iter().flat_map(|one| one.links.clone()).collect();
        let names = interfaces.iter().chain(names);
        let names = names.map(|name| (*name).to_owned());
        self.watcher
            .follow(followed, names.collect(), BTreeSet::new(), Vec::new());
        links
    }

    /// All events until one of them names `text`; fails after ten seconds.
    #[track_caller]
    fn until(&self, text: &str) -> Events {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut all = Events::default();
        while Instant::now() < deadline {
            wait([Some(self.bell.fd())], deadline);
            self.bell.silence();
            let events = self.watcher.take_events();
            all.changed |= events.changed;
            all.lost |= events.lost;
            all.gone.extend(events.gone);
            all.why.extend(events.why);
            if all.why.iter().any(|why| why.contains(text)) {
                return all;
            }
        }
        panic!("no event says `{text}`: {all:?}");
    }

    /// Fails if anything is told within a second and a half, in which the watcher looks once.
    #[track_caller]
    fn nothing(&self) {
        let end = Instant::now() + Duration::from_millis(1500);
        assert_eq!(
            wait([Some(self.bell.fd())], end),
            [false],
            "{:?}",
            self.watcher.take_events()
        );
    }
}

#[test]
fn what_a_plan_depends_on_is_told_and_what_it_does_not_is_not() {
    in_namespace(|| {
        make_pair();
        let control = Control::start();
        let links = control.follow(&["va"], &[]);
        let index = links[0].index();
        control.nothing();
        assert_eq!(control.watcher.carries(index), Some(true));
        for (change, told) in [
            (
                "ip link set va mtu 1400",
                "va has MTU 1400 now, 1500 before",
            ),
            (
                "ip link set va address 02:00:00:00:00:77",
                "va has the MAC address 02:00:00:00:00:77 now",
            ),
            (
                "ip address add 10.8.0.1/24 dev va",
                "va has other addresses",
            ),
            (
                "ip address del 10.7.0.1/24 dev va",
                "va does not have the address 10.7.0.1",
            ),
            (
                "ip address add 10.7.0.1/24 dev va",
                "va has the address 10.7.0.1 again",
            ),
            (
                "ip -6 address add 2001:db8::1/64 dev va nodad",
                "va has other addresses",
            ),
            (
                "ip -6 address change 2001:db8::1/64 dev va preferred_lft 0",
                "va has other addresses",
            ),
            (
                "ethtool -L va rx 2 tx 3",
                "va has 2 RX and 3 TX queues in use now",
            ),
            (
                "ethtool -K va tx-udp-segmentation off",
                "cuts GSO packets apart",
            ),
            (
                "tc qdisc add dev va root pfifo",
                "va takes no GSO packets any more",
            ),
        ] {
            run(change);
            let events = control.until(told);
            assert!(
                events.changed && !events.lost && events.gone.is_empty(),
                "{events:?}"
            );
        }
        // Down and without a carrier is a matter of the links.
        run("ip link set vb down");
        let lost = Instant::now();
        while links[0].state().carries {
            assert!(lost.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(1));
        }
        control.nothing();
        assert_eq!(control.watcher.carries(index), Some(false));
    });
}

#[test]
fn a_program_that_is_detached_as_soon_as_it_is_attached_again_is_missed_each_time() {
    in_namespace(|| {
        make_pair();
        let control = Control::start();
        for _ in 0..3 {
            // For the same plan, each time after it was attached; nobody saw it attached.
            control.follow_with(Some(1), &["va"], &[]);
            control.until("the XDP program was detached from va");
            control.nothing();
        }
    });
}

#[test]
fn an_interface_that_goes_and_comes_back_is_told_with_what_it_was() {
    in_namespace(|| {
        make_pair();
        let control = Control::start();
        let old = control.follow(&["va"], &[])[0].index();
        run("ip link del va");
        let events = control.until("va has gone");
        assert_eq!(events.gone, [old].into());
        assert_eq!(events.why.len(), 1, "{events:?}");
        // As control does: nothing uses it, rules still name it.
        control.follow(&[], &["va"]);
        run("ip link add name va type veth peer name vb");
        let new = host::facts("va").unwrap().index;
        assert_ne!(old, new);
        let again = format!("there is an interface va again (index {new}, {old} before)");
        control.until(&again);
        // No link-local address, which comes a moment after the carrier.
        run("ip link set va addrgenmode none");
        run("ip link set va up");
        control.until("va is up");
        run("ip address add 10.7.0.1/24 dev va");
        control.until("va has the address 10.7.0.1 now");
        run("ip link set vb up");
        let links = control.follow(&["va"], &[]);
        assert_eq!(links[0].index(), new);
        control.nothing();
        run("ip link set va down");
        run("ip link set va name vc");
        control.until("va is called vc now");
        control.follow(&[], &["va"]);
        run("ip link set vc name va");
        control.until("there is an interface va again");
    });
}

#[test]
fn one_that_is_back_under_its_index_has_gone_all_the_same() {
    in_namespace(|| {
        run("ip link add name va index 4711 type veth peer name vb");
        let control = Control::start();
        control.follow(&["va"], &[]);
        // All of it before the watcher may have asked.
        let file = std::env::temp_dir().join(format!("relay-again-{}", std::process::id()));
        std::fs::write(
            &file,
            "link del va\nlink add name va index 4711 type veth peer name vb\n",
        )
        .unwrap();
        run(&format!("ip -batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        let events = control.until("va has gone");
        assert_eq!(events.gone, [4711].into());
        // Followed again, it is watched again.
        control.follow(&["va"], &[]);
        run("ip link set va mtu 1400");
        control.until("va has MTU 1400");
    });
}

#[test]
fn an_interface_that_rules_wait_for_is_told_when_it_appears_and_as_it_changes() {
    in_namespace(|| {
        let control = Control::start();
        control.follow(&[], &["va", "vx"]);
        control.nothing();
        run("ip link add name vb type veth peer name vc");
        run("ip link add name br0 type bridge");
        control.nothing();
        run("ip link set vb name va");
        let events = control.until("there is an interface va now");
        assert!(events.changed && events.gone.is_empty());
        // Rules may wait for other reasons than that it is missing.
        run("ip link set va mtu 1400");
        control.until("va has changed");
        run("ip link set va up");
        control.until("va is up");
        run("ip address add 10.7.0.1/24 dev va");
        control.until("va has the address 10.7.0.1 now");
        run("ip link del va");
        control.until("there is no interface va any more");
        // One that was there before anything asked for it: control may not know of it.
        control.follow(&[], &["br0"]);
        control.until("there is an interface br0");
        control.follow(&[], &["br0"]);
        control.nothing();
    });
}

#[test]
fn lost_news_are_told_and_everything_is_asked_for_anew() {
    in_namespace(|| {
        make_pair();
        let control = Control::start();
        control.follow(&["va"], &["vx"]);
        let file = std::env::temp_dir().join(format!("relay-lost-{}", std::process::id()));
        let flaps = "link set va mtu 1400\nlink set va mtu 1500\n".repeat(3000);
        let last = "link set vb name vx\nlink set va mtu 1300\n";
        std::fs::write(&file, flaps + last).unwrap();
        // The thread that hears is kept from reading.
        let locked = control.watcher.table.lock();
        run(&format!("ip -batch {}", file.display()));
        drop(locked);
        std::fs::remove_file(&file).unwrap();
        let mut events = control.until("there is an interface vx now");
        if !events.why.iter().any(|why| why.contains("va has MTU 1300")) {
            events = control.until("va has MTU 1300");
        }
        assert!(events.changed);
    });
}

#[test]
fn counters_go_on_when_an_interface_is_followed_again() {
    in_namespace(|| {
        make_pair();
        let control = Control::start();
        let drop_five = || {
            let socket = std::net::UdpSocket::bind("10.7.0.1:0").unwrap();
            socket.set_broadcast(true).unwrap();
            for _ in 0..5 {
                socket.send_to(&[0; 1300], "10.7.0.255:9").unwrap();
            }
        };
        // The kernel cuts in front of it, and its peer takes nothing.
        run("ethtool -K va tx-udp-segmentation off");
        run("ip link set vb mtu 1000");
        let index = control.follow(&["va"], &[])[0].index();
        let expect = |number: u64| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while control.watcher.device_dropped(index) != number {
                let dropped = control.watcher.device_dropped(index);
                assert!(Instant::now() < deadline, "{dropped}, not {number}");
                thread::sleep(Duration::from_millis(10));
            }
        };
        drop_five();
        expect(5);
        control.follow(&["va"], &[]);
        drop_five();
        expect(10);
        // What is dropped while nothing of the relay leaves there is not the relay's.
        control.follow(&[], &["va"]);
        drop_five();
        assert_eq!(control.watcher.carries(index), None);
        control.follow(&["va"], &[]);
        assert_eq!(control.watcher.device_dropped(index), 10);
        drop_five();
        expect(15);
    });
}

#[test]
fn what_devices_dropped_in_all_stays_when_an_interface_goes() {
    in_namespace(|| {
        make_pair();
        let control = Control::start();
        run("ethtool -K va tx-udp-segmentation off");
        run("ip link set vb mtu 1000");
        let drop_five_of = |followed: &[&str]| {
            control.follow(followed, &["va"]);
            let socket = std::net::UdpSocket::bind("10.7.0.1:0").unwrap();
            socket.set_broadcast(true).unwrap();
            for _ in 0..5 {
                socket.send_to(&[0; 1300], "10.7.0.255:9").unwrap();
            }
        };
        let expect = |number: u64| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while control.watcher.all_device_dropped() != number {
                let dropped = control.watcher.all_device_dropped();
                assert!(Instant::now() < deadline, "{dropped}, not {number}");
                thread::sleep(Duration::from_millis(10));
            }
        };
        drop_five_of(&["va"]);
        expect(5);
        // Of no plan, while it is there, and once it has gone.
        drop_five_of(&[]);
        expect(5);
        run("ip link del va");
        expect(5);
        // Of a plan, when it goes, and of the next plan.
        make_pair();
        run("ethtool -K va tx-udp-segmentation off");
        run("ip link set vb mtu 1000");
        drop_five_of(&["va"]);
        expect(10);
        run("ip link del va");
        control.until("va has gone");
        control.follow(&[], &["va"]);
        expect(10);
    });
}
