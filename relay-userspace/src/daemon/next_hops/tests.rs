//! Next hops of plans in network namespaces: what the kernel resolves, and what becomes of it.

use std::{collections::BTreeSet, thread};

use super::*;
use crate::{
    config,
    daemon::{this_machine, watcher::Watcher},
    far_namespace::Far,
    host::{Bell, HostFacts},
    plan::{self, Constraints},
    testing::{in_namespace, run},
};

const MAC: &str = "02:00:00:00:00:99";

/// A namespace with in0 and out0, whose far end has 10.7.0.9, 2001:db8:7::9 and [`MAC`].
fn make_wires() -> Far {
    for (name, far, number) in [("in0", "src0", 6), ("out0", "dst0", 7), ("out1", "dst1", 8)] {
        run(&format!(
            "ip link add name {name} type veth peer name {far}"
        ));
        run(&format!("ip link set {name} up"));
        run(&format!("ip address add 10.{number}.0.1/24 dev {name}"));
        run(&format!(
            "ip -6 address add 2001:db8:{number}::1/64 dev {name} nodad"
        ));
    }
    run("ip link set src0 up");
    let far = Far::new();
    far.take("dst0", MAC, &["10.7.0.9/24", "2001:db8:7::9/64"]);
    far.take("dst1", "02:00:00:00:00:88", &["10.8.0.9/24"]);
    far
}

/// The plan of a rule with these unicast outputs, and the facts that it was made of.
fn plan(outputs: &[&str]) -> (Plan, HostFacts) {
    let outputs: Vec<String> = outputs
        .iter()
        .map(|address| format!("{{ address = \"{address}\", port = 5002 }}"))
        .collect();
    let text = format!(
        "[[rules]]\nname = \"r\"\n\
         input = {{ interface = \"in0\", group = \"239.1.1.1\", port = 5001 }}\n\
         outputs = [{}]\n",
        outputs.join(", ")
    );
    let document = config::parse("relay.toml", &text).unwrap();
    let facts = this_machine::host_facts(&document, &BTreeSet::new());
    let plan = plan::build(&document, &facts, &Constraints::default()).unwrap();
    (plan, facts)
}

/// The Ethernet address of a next hop on an interface, as workers see it.
fn mac(resolution: &Resolution, interface: &str, address: &str) -> Option<String> {
    let interface = crate::host::facts(interface).unwrap().index;
    let address = address.parse().unwrap();
    let known = resolution.table.known(OnLink { interface, address })?;
    known.mac().map(|mac| plan::Mac(mac).to_string())
}

/// How the kernel describes a neighbour.
fn shown(address: &str) -> String {
    run(&format!("ip neigh show {address}"))
}

#[test]
fn next_hops_are_resolved_at_once_and_given_back_and_what_is_of_others_stays() {
    in_namespace(|| {
        let _far = make_wires();
        // Until then the far end may not hear of a question over IPv6, and the next one is late.
        thread::sleep(Duration::from_secs(2));
        run("ip neigh add 10.7.0.50 lladdr 02:00:00:00:00:50 dev out0");
        run("ip neigh add 10.7.0.51 managed dev out0");
        let (plan, _) = plan(&[
            "10.7.0.9",
            "2001:db8:7::9",
            "10.7.0.50",
            "10.7.0.51",
            "10.7.0.77",
        ]);
        let mut resolution = Resolution::default();
        let began = Instant::now();
        resolution.want(&plan);
        let took = began.elapsed();
        assert!(took < 2 * PATIENCE, "nobody answers for two: {took:?}");
        let macs = |resolution: &Resolution| {
            ["10.7.0.9", "2001:db8:7::9", "10.7.0.50", "10.7.0.77"]
                .map(|address| mac(resolution, "out0", address))
        };
        let right = [
            Some(MAC.into()),
            Some(MAC.into()),
            Some("02:00:00:00:00:50".into()),
            None,
        ];
        assert_eq!(macs(&resolution), right);
        for (address, managed) in [
            ("10.7.0.9", true),
            ("2001:db8:7::9", true),
            ("10.7.0.50", false),
            ("10.7.0.51", true),
            ("10.7.0.77", true),
        ] {
            assert_eq!(shown(address).contains("managed"), managed, "{address}");
        }
        assert!(shown("10.7.0.50").contains("PERMANENT"));
        // What somebody deletes is made anew, and costs no copy meanwhile.
        run("ip neigh flush dev out0 nud all");
        resolution.doubt_all();
        resolution.tend(Instant::now());
        assert!(shown("10.7.0.9").contains("managed"));
        assert_eq!(mac(&resolution, "out0", "10.7.0.9"), Some(MAC.into()));
        run("ip neigh replace 10.7.0.51 managed dev out0");
        resolution.release(&Plan::default());
        assert!(
            !shown("10.7.0.9").contains("managed"),
            "{}",
            shown("10.7.0.9")
        );
        assert!(!shown("2001:db8:7::9").contains("managed"));
        assert_eq!(resolution.table.all(), []);
    });
}

#[test]
fn what_another_program_keeps_fresh_is_left_to_it() {
    in_namespace(|| {
        let _far = make_wires();
        run("ip neigh add 10.7.0.9 managed dev out0");
        let (plan, _) = plan(&["10.7.0.9"]);
        let mut resolution = Resolution::default();
        resolution.want(&plan);
        assert_eq!(mac(&resolution, "out0", "10.7.0.9"), Some(MAC.into()));
        resolution.release(&Plan::default());
        assert!(shown("10.7.0.9").contains("managed"));
        // It ends, and the relay goes on with it.
        resolution.want(&plan);
        run("ip neigh del 10.7.0.9 dev out0");
        resolution.doubt_all();
        resolution.tend(Instant::now());
        assert!(shown("10.7.0.9").contains("managed"));
        resolution.release(&Plan::default());
        assert!(!shown("10.7.0.9").contains("managed"));
    });
}

/// A kernel before 5.16 resolves what it is asked for, once.
#[test]
fn where_the_kernel_keeps_nothing_fresh_the_relay_asks_again() {
    in_namespace(|| {
        let _far = make_wires();
        let (plan, _) = plan(&["10.7.0.9"]);
        let mut resolution = Resolution::default();
        resolution.want(&plan);
        for (host, keeper) in std::mem::take(&mut resolution.kept) {
            assert_eq!(keeper, Keeper::Kernel);
            resolution.give_back(host);
            resolution.kept.insert(host, Keeper::Relay);
        }
        run("ip neigh flush dev out0 nud all");
        assert_eq!(shown("10.7.0.9"), "");
        resolution.doubt_all();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !shown("10.7.0.9").contains("REACHABLE") {
            assert!(Instant::now() < deadline, "{}", shown("10.7.0.9"));
            resolution.tend(Instant::now());
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!shown("10.7.0.9").contains("managed"));
    });
}

/// What the watcher and control do together.
struct Control {
    bell: Bell,
    watcher: Watcher,
    resolution: Resolution,
    why: Vec<String>,
}

impl Control {
    fn start(plan: &Plan, facts: &HostFacts) -> Self {
        let bell = Bell::new().unwrap();
        let mut resolution = Resolution::default();
        let watcher = Watcher::start(bell.clone(), &resolution.table).unwrap();
        watcher.follow(
            Vec::new(),
            BTreeSet::new(),
            BTreeSet::new(),
            facts.routes.values().cloned().collect(),
        );
        resolution.want(plan);
        let why = Vec::new();
        Self {
            bell,
            watcher,
            resolution,
            why,
        }
    }

    /// Hears and tends until `is` holds; fails after ten seconds. Returns how long it took.
    #[track_caller]
    fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !is(self) {
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{what}: {:?}",
                self.why
            );
            self.bell.silence();
            let events = self.watcher.take_events();
            self.why.extend(events.why);
            if events.doubt_next_hops {
                self.resolution.doubt_all();
            }
            if events.unresolved || events.doubt_next_hops {
                self.resolution.tend(Instant::now());
            }
            thread::sleep(Duration::from_millis(1));
        }
        began.elapsed()
    }

    fn mac(&self, address: &str) -> Option<String> {
        mac(&self.resolution, "out0", address)
    }

    /// The next event must be this one.
    #[track_caller]
    fn until_told(&mut self, text: &str) {
        self.until(text, |control| control.why.iter().any(|why| why == text));
        self.why.clear();
    }
}

#[test]
fn a_neighbour_that_changes_its_address_is_followed_and_one_that_is_deleted_comes_back() {
    in_namespace(|| {
        let far = make_wires();
        let (plan, facts) = plan(&["10.7.0.9", "2001:db8:7::9"]);
        let mut control = Control::start(&plan, &facts);
        let other = "02:00:00:00:00:aa";
        far.run("sysctl -qw net.ipv4.conf.dst0.arp_notify=1");
        far.run(&format!("ip link set dst0 address {other}"));
        let at = |address: &'static str, mac: &'static str| {
            move |control: &Control| control.mac(address).as_deref() == Some(mac)
        };
        let took = control.until("a gratuitous ARP", at("10.7.0.9", other));
        assert!(took < Duration::from_millis(500), "{took:?}");
        run("ip neigh del 10.7.0.9 dev out0");
        control.until("made anew", |_| shown("10.7.0.9").contains("managed"));
        control.until("kept", at("10.7.0.9", other));
        // Nobody answers any more.
        far.run("ip address del 10.7.0.9/24 dev dst0");
        run("ip neigh flush dev out0");
        control.until("failed", |control| control.mac("10.7.0.9").is_none());
        far.run("ip address add 10.7.0.9/24 dev dst0");
        control.resolution.tend(Instant::now());
        control.until("back", at("10.7.0.9", other));
    });
}

#[test]
fn next_hops_behind_a_wire_that_carries_again_are_asked_for_at_once() {
    in_namespace(|| {
        let far = make_wires();
        let (plan, facts) = plan(&["10.7.0.9"]);
        let mut control = Control::start(&plan, &facts);
        assert_eq!(control.mac("10.7.0.9").as_deref(), Some(MAC));
        far.run("ip link set dst0 down");
        control.until("lost", |control| control.mac("10.7.0.9").is_none());
        far.run("ip link set dst0 up");
        let took = control.until("found", |control| control.mac("10.7.0.9").is_some());
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn routes_that_lead_elsewhere_are_told_and_others_are_not() {
    in_namespace(|| {
        let _far = make_wires();
        run("ip route add 10.20.0.0/24 via 10.7.0.9");
        let (plan, facts) = plan(&["10.20.0.1", "10.7.0.9"]);
        let mut control = Control::start(&plan, &facts);
        for (change, told) in [
            (
                "ip route replace 10.20.0.0/24 via 10.8.0.9",
                "the route to 10.20.0.1 leads through out1, 10.8.0.9 now, through out0, 10.7.0.9 \
                 before",
            ),
            (
                "ip route add 10.20.0.1/32 via 10.7.0.8",
                "the route to 10.20.0.1 leads through out0, 10.7.0.8 now, through out1, 10.8.0.9 \
                 before",
            ),
            (
                "ip rule add to 10.20.0.1 prohibit",
                "no copies reach 10.20.0.1 any more: the route is of type `prohibit`",
            ),
            (
                "ip rule del to 10.20.0.1 prohibit",
                "there is a route to 10.20.0.1 now, through out0, 10.7.0.8",
            ),
            (
                "ip link set out0 down",
                "no copies reach 10.7.0.9 any more: there is no route",
            ),
            (
                "ip link set out0 up",
                "there is a route to 10.7.0.9 now, through out0",
            ),
        ] {
            run(change);
            control.until_told(told);
        }
        for number in 0..200 {
            run(&format!("ip route add 10.99.{number}.0/24 via 10.7.0.9"));
        }
        thread::sleep(Duration::from_millis(500));
        assert_eq!(control.watcher.take_events().why, [""; 0]);
    });
}

#[test]
fn a_refusal_names_what_helps_against_it() {
    let remedy = |code| remedy(&io::Error::from_raw_os_error(code));
    assert!(remedy(libc::EPERM).contains("CAP_NET_ADMIN"));
    assert!(remedy(libc::ENOBUFS).contains("gc_thresh3"));
    assert!(!remedy(libc::ENOMEM).contains("CAP_NET_ADMIN"));
}
