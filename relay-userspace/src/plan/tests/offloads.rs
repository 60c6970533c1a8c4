//! What a NIC does with VLAN tags, and what the relay does about it.

use super::*;
use Offload::{Filter, FilterServiceTag, Gro, StripServiceTag, StripTag, UdpGroForwarding};

const MANAGE: &str = "[[interfaces]]\nname = \"in0\"\noffloads = \"manage\"\n";
const FORCED: Constraints = Constraints {
    forced: Some(Backend::Xdp),
    refused: Vec::new(),
    without_zero_copy: Vec::new(),
    offloads_stay: Vec::new(),
    without_local_device: Vec::new(),
    in_use: std::collections::BTreeSet::new(),
    unavailable: Vec::new(),
};

/// From in0, whose offloads `unwanted` are not as the relay would have them, to out0.
fn host(driver: &str, unwanted: &[Offload], fixed: &[Offload]) -> HostFacts {
    let mut in0 = nic("in0", 1, 1, 1);
    in0.driver = driver.into();
    in0.offloads = OffloadFacts {
        unwanted: unwanted.into(),
        fixed: fixed.into(),
    };
    HostFacts {
        gso_packets: true,
        ..host_facts([in0, nic("out0", 2, 1, 1)])
    }
}

fn rules(vlan: &str, tables: &str) -> Document {
    let text = format!(
        "[[rules]]\nname = \"r\"\n\
         input = {{ interface = \"in0\", group = \"239.1.1.1\", port = 1{vlan} }}\n\
         outputs = [{{ interface = \"out0\" }}]\n{tables}"
    );
    config::parse("relay.toml", &text).unwrap()
}

const VLAN: &str = ", vlan = 7";

#[test]
fn tags_stay_in_the_bytes_by_the_nic_or_by_the_relay_or_the_input_is_on_io_uring() {
    let (ice, veth) = ("ice", "veth");
    // VLAN of the rule, tables, driver, what is on, what of it is fixed; the backend, what is
    // switched off, and words of the reason.
    type Offs = &'static [Offload];
    let (xdp, io_uring) = (Backend::Xdp, Backend::IoUring);
    let off = "`ethtool -K in0 rx-vlan-offload off` leaves them in, or `offloads = \"manage\"`";
    let both = "`ethtool -K in0 rx-vlan-offload off rx-vlan-stag-hw-parse off` leaves them in";
    let service = "`ethtool -K in0 rx-vlan-stag-hw-parse off` leaves them in";
    let fixed = "its driver does not let `rx-vlan-hw-parse` be switched off";
    let beside = "in0 is a veth, whose other end may leave VLAN tags beside the bytes";
    let cases: [([&str; 3], Offs, Offs, (Backend, Offs, &str)); 15] = [
        ([VLAN, "", ice], &[], &[], (xdp, &[], "")),
        ([VLAN, MANAGE, ice], &[], &[], (xdp, &[], "")),
        ([VLAN, "", ice], &[StripTag], &[], (io_uring, &[], off)),
        (["", "", ice], &[StripTag], &[], (io_uring, &[], off)),
        (
            ["", "", ice],
            &[StripTag, StripServiceTag],
            &[],
            (io_uring, &[], both),
        ),
        (
            [VLAN, "", ice],
            &[StripServiceTag],
            &[],
            (io_uring, &[], service),
        ),
        (["", MANAGE, ice], &[StripTag], &[], (xdp, &[StripTag], "")),
        (
            [VLAN, MANAGE, ice],
            &[StripTag, StripServiceTag],
            &[],
            (xdp, &[StripTag, StripServiceTag], ""),
        ),
        (
            ["", MANAGE, ice],
            &[StripTag],
            &[StripTag],
            (io_uring, &[], fixed),
        ),
        // A filter drops what a rule with a VLAN wants, on either backend.
        (
            ["", MANAGE, ice],
            &[StripTag, Filter],
            &[],
            (xdp, &[StripTag], ""),
        ),
        (
            [VLAN, MANAGE, ice],
            &[StripTag, Filter, FilterServiceTag],
            &[FilterServiceTag],
            (xdp, &[StripTag, Filter], ""),
        ),
        (
            [VLAN, MANAGE, "bridge"],
            &[StripTag, Filter],
            &[],
            (io_uring, &[Filter], "no native XDP"),
        ),
        // What a veth says of itself is not what arrives there.
        (["", "", veth], &[StripTag], &[], (xdp, &[], "")),
        ([VLAN, "", veth], &[], &[], (io_uring, &[], beside)),
        (["", MANAGE, veth], &[StripTag], &[], (xdp, &[StripTag], "")),
    ];
    for ([vlan, tables, driver], on, fixed, (backend, off, words)) in cases {
        let what = format!("{vlan} {tables} {driver} {on:?} {fixed:?}");
        let mut facts = host(driver, on, fixed);
        if driver == "bridge" {
            let in0 = facts.interfaces.get_mut("in0").unwrap();
            in0.xdp = Some(XdpFeatures::from_bits(0));
        }
        let plan = build(&rules(vlan, tables), &facts, &Constraints::default()).unwrap();
        let in0 = &plan.interfaces[InterfaceId::new(0)];
        assert_eq!((in0.backend, &in0.offloads[..]), (backend, off), "{what}");
        if backend == Backend::IoUring {
            assert!(in0.reason.contains(words), "{what}: {}", in0.reason);
        }
        let strips = on.iter().any(|one| one.strips() && !off.contains(one));
        assert_eq!(in0.strips_tags, strips, "{what}");
        let text = plan.to_string();
        for one in off {
            assert!(
                text.contains(one.name()) && text.contains(" off as long as"),
                "{text}"
            );
        }
    }
}

#[test]
fn where_the_file_insists_on_xdp_tags_that_are_taken_out_are_a_mistake() {
    for (tables, fixed, remedy) in [
        (
            "",
            &[][..],
            "`ethtool -K in0 rx-vlan-offload off`, or `offloads = \"manage\"`",
        ),
        (
            MANAGE,
            &[StripTag][..],
            "use an interface that leaves tags in",
        ),
    ] {
        let facts = host("ice", &[StripTag], fixed);
        let refused = build(&rules(VLAN, tables), &facts, &FORCED).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.contains("`in0` takes VLAN tags out of the frames"),
            "{refused}"
        );
        assert!(refused.contains(remedy), "{refused}");
    }
    let facts = host("ice", &[StripTag], &[]);
    build(&rules(VLAN, MANAGE), &facts, &FORCED).unwrap();
    // The operator may know the other end of a veth.
    let plan = build(&rules(VLAN, ""), &host("veth", &[], &[]), &FORCED).unwrap();
    assert!(plan.is_on(Backend::Xdp) && !plan.is_on(Backend::IoUring));
    let note = "Rules name VLANs on in0, a veth, and XDP sees only tags that are in the bytes";
    assert!(
        plan.notes.iter().any(|one| one.starts_with(note)),
        "{:?}",
        plan.notes
    );
}

#[test]
fn an_input_on_io_uring_that_is_managed_has_gro() {
    let both = &[Gro, UdpGroForwarding][..];
    for (tables, driver, unwanted, fixed, switched) in [
        (MANAGE, "r8169", both, &[][..], both),
        (
            MANAGE,
            "r8169",
            &[UdpGroForwarding],
            &[],
            &[UdpGroForwarding],
        ),
        (MANAGE, "r8169", both, &[Gro], &[UdpGroForwarding]),
        ("", "r8169", both, &[], &[]),
        (MANAGE, "bridge", both, &[], &[]),
        (MANAGE, "802.1Q VLAN Support", both, &[], &[]),
    ] {
        let what = format!("{tables} {driver} {unwanted:?} {fixed:?}");
        let mut facts = host(driver, unwanted, fixed);
        let in0 = facts.interfaces.get_mut("in0").unwrap();
        in0.xdp = Some(XdpFeatures::from_bits(0));
        let plan = build(&rules("", tables), &facts, &Constraints::default()).unwrap();
        let in0 = &plan.interfaces[InterfaceId::new(0)];
        assert_eq!(
            (in0.backend, &in0.offloads[..]),
            (Backend::IoUring, switched),
            "{what}"
        );
        let json = serde_json::to_value(&plan).unwrap();
        let names: Vec<&str> = switched.iter().map(|one| one.name()).collect();
        let of_in0 = &json["interfaces"][0];
        assert_eq!(of_in0["offloads_on"], serde_json::json!(names), "{what}");
        assert_eq!(of_in0["offloads_off"], serde_json::json!([]), "{what}");
        let text = plan.to_string();
        for one in switched {
            assert!(text.contains(&format!("{one} on")), "{what}\n{text}");
        }
    }
    // XDP takes frames before they could be joined.
    let facts = host("ice", both, &[]);
    let plan = build(&rules("", MANAGE), &facts, &Constraints::default()).unwrap();
    assert!(plan.interfaces[InterfaceId::new(0)].offloads.is_empty());
}

#[test]
fn offloads_that_the_kernel_or_another_process_keeps_on_stay() {
    let mut constraints = Constraints::default();
    constraints.offloads_stay.push(Refusal {
        interface: "in0".into(),
        reason: "the driver left it on".into(),
    });
    let facts = host("ice", &[StripTag, Filter], &[]);
    let plan = build(&rules(VLAN, MANAGE), &facts, &constraints).unwrap();
    let in0 = &plan.interfaces[InterfaceId::new(0)];
    assert_eq!(
        (in0.backend, &in0.offloads[..]),
        (Backend::IoUring, &[][..])
    );
    let why = "one, and the driver left it on; `ethtool -K in0 rx-vlan-offload off` leaves them in";
    assert!(in0.reason.contains(why), "{}", in0.reason);
}

#[test]
fn a_nic_that_drops_vlans_that_a_rule_names_is_told() {
    for (vlan, tables, fixed, note) in [
        ("", "", &[][..], ""),
        (VLAN, MANAGE, &[], ""),
        (
            VLAN,
            "",
            &[],
            "or `ethtool -K in0 rx-vlan-filter off`, or set `offloads = \"manage\"`",
        ),
        (
            VLAN,
            "",
            &[Filter],
            "`ip link add link in0 name in0.ID type vlan id ID`",
        ),
        (
            VLAN,
            MANAGE,
            &[Filter],
            "`ip link add link in0 name in0.ID type vlan id ID`",
        ),
    ] {
        let facts = host("ice", &[Filter], fixed);
        let plan = build(&rules(vlan, tables), &facts, &Constraints::default()).unwrap();
        let mut notes = plan.notes.iter();
        let found = notes.find(|one| one.contains("drops frames of VLANs"));
        assert_eq!(found.is_some(), !note.is_empty(), "{:?}", plan.notes);
        assert!(found.is_none_or(|found| found.contains(note)), "{found:?}");
    }
    let unused = MANAGE.replace("in0", "out0");
    let plan = build(
        &rules("", &unused),
        &host("ice", &[], &[]),
        &Constraints::default(),
    )
    .unwrap();
    let note = "The `offloads` \"manage\" of out0 has no effect: no rule receives there.";
    assert!(plan.notes.iter().any(|one| one == note), "{:?}", plan.notes);
}
