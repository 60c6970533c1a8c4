//! XDP or io_uring, and what follows from it.

use super::*;

/// Facts of a host with GSO packets: `in0` and `in1`, and `out0` to `out2`, of which the last takes
/// no GSO packets. The inputs have two queues, and all interfaces except those in `without` have
/// native XDP.
fn with_io_uring(without: &[&str]) -> HostFacts {
    let names = ["in0", "in1", "out0", "out1", "out2"];
    let facts = names.iter().zip(1..).map(|(name, index)| {
        let native = !without.contains(name);
        InterfaceFacts {
            driver: if native { "ice" } else { "bridge" }.into(),
            xdp: Some(XdpFeatures::from_bits(if native { NATIVE } else { 0 })),
            segments_udp: *name != "out2",
            queueless: *name != "out2",
            ..nic(name, index, 2, 1)
        }
    });
    HostFacts {
        gso_packets: true,
        ..host_facts(facts)
    }
}

/// Why an input that strips tags is not on XDP.
const STRIPS: &str = "in0 takes VLAN tags out of the frames before XDP sees them, so that a tagged \
                      feed would be relayed as an untagged one; `ethtool -K in0 rx-vlan-offload \
                      off` leaves them in, or `offloads = \"manage\"` in its `[[interfaces]]` \
                      table for as long as the relay runs";

#[test]
fn a_group_is_on_xdp_unless_something_stands_against_it() {
    type Change = fn(&mut HostFacts, &mut Constraints);
    fn of<'a>(host_facts: &'a mut HostFacts, name: &str) -> &'a mut InterfaceFacts {
        host_facts.interfaces.get_mut(name).unwrap()
    }
    fn refuse(constraints: &mut Constraints, name: &str) {
        constraints.refused.push(Refusal {
            interface: name.into(),
            reason: format!("cannot attach to {name}: no"),
        });
    }
    let bridge = "in0 (driver bridge) has no native XDP";
    // The reason of each set of connected interfaces: the first has in0, out0 and out1, the second
    // in1 and out2. Empty is XDP.
    #[rustfmt::skip]
    let cases: &[(&[&str], Change, [&str; 2])] = &[
        (&[], |_, _| (), ["", ""]),
        (&["in0"], |_, _| (), [bridge, ""]),
        (&["in1"], |_, _| (), ["", "in1 (driver bridge) has no native XDP"]),
        (&["out0", "out1", "out2"], |_, _| (), ["", ""]),
        (&[], |s, _| of(s, "in0").mtu = 3818, ["", ""]),
        (&[], |s, _| of(s, "in0").mtu = 3819, ["in0 has MTU 3819; a UMEM chunk takes at most 3818", ""]),
        (&[], |s, _| of(s, "out0").mtu = 9000, ["", ""]),
        (&[], |s, _| of(s, "in0").driver = "tun".into(), ["in0 is a TAP device, which gives XDP programs GSO packets whole", ""]),
        (&[], |s, _| of(s, "out0").driver = "tun".into(), ["", ""]),
        (&[], |s, _| of(s, "in0").offloads.unwanted = vec![Offload::StripTag], [STRIPS, ""]),
        (&[], |s, _| of(s, "out0").offloads.unwanted = vec![Offload::StripTag], ["", ""]),
        (&[], |s, _| of(s, "in0").xdp = None, ["", ""]),
        (&[], |_, c| refuse(c, "in0"), ["XDP was refused: cannot attach to in0: no", ""]),
        (&[], |_, c| refuse(c, "out2"), ["", "XDP was refused: cannot attach to out2: no"]),
        (&["in0"], |_, c| refuse(c, "out1"), ["in0 (driver bridge) has no native XDP, and XDP was refused: cannot attach to out1: no", ""]),
        (&["in0"], |_, c| c.forced = Some(Backend::IoUring), ["`--backend io-uring` asks for it"; 2]),
        (&[], |_, c| c.forced = Some(Backend::Xdp), ["", ""]),
    ];
    let document = document(&["in0 -> out0 out1", "in1 -> out2"], "");
    for (without, change, expected) in cases {
        let (mut host_facts, mut constraints) = (with_io_uring(without), Constraints::default());
        change(&mut host_facts, &mut constraints);
        let plan = build(&document, &host_facts, &constraints).unwrap();
        for interface in &plan.interfaces {
            let second = ["in1", "out2"].contains(&interface.name.as_str());
            let expected = expected[usize::from(second)];
            let io_uring = !expected.is_empty();
            assert_eq!(interface.backend == Backend::IoUring, io_uring);
            // On XDP the reason is about the mode.
            let reason = if io_uring { &interface.reason[..] } else { "" };
            assert_eq!(reason, expected, "{}", interface.name);
            assert_eq!(
                interface.rx_queues.is_empty(),
                io_uring || !interface.is_input
            );
            assert!(!io_uring || interface.expected_mode.is_none());
        }
        for worker in &plan.workers {
            let flow = &plan.flows[worker.flows[0]];
            assert_eq!(worker.backend, plan.interfaces[flow.interface].backend);
            assert_eq!(worker.ports.is_empty(), worker.backend == Backend::IoUring);
        }
    }
}

#[test]
fn what_stands_against_xdp_is_refused_where_io_uring_may_not_or_cannot_take_over() {
    let forced = |backend| Constraints {
        forced: Some(backend),
        ..Constraints::default()
    };
    let (xdp, io_uring) = (forced(Backend::Xdp), forced(Backend::IoUring));
    let mut refused = forced(Backend::Xdp);
    refused.refused.push(Refusal {
        interface: "out0".into(),
        reason: "busy".into(),
    });
    let native = "interface `in0` (driver bridge) has no native XDP";
    #[rustfmt::skip]
    let cases: &[(&Constraints, bool, &[&str], u32, (usize, usize), &str, &str)] = &[
        (&xdp, true, &["in0"], 1500, (3, 23), native, "or leave `--backend xdp` out"),
        (&xdp, true, &[], 9000, (3, 23), "MTU 9000", "ip link set in0 mtu 3818`; or leave `--backend xdp` out"),
        (&xdp, false, &["in0"], 1500, (3, 23), native, "or use Linux 6.2 or later"),
        (&Constraints::default(), false, &["in0"], 1500, (3, 23), native, "or use Linux 6.2 or later"),
        (&refused, true, &[], 1500, (4, 26), "XDP was refused on `out0`: busy", "use another interface"),
        (&io_uring, false, &[], 1500, (3, 23), "`--backend io-uring` needs Linux 6.2", "use a newer kernel"),
    ];
    for (constraints, gso_packets, without, mtu, (line, column), cause, remedy) in cases {
        let mut host_facts = with_io_uring(without);
        host_facts.gso_packets = *gso_packets;
        host_facts.interfaces.get_mut("in0").unwrap().mtu = *mtu;
        let mistakes =
            build(&document(&["in0 -> out0"], ""), &host_facts, constraints).unwrap_err();
        assert_eq!(mistakes.iter().count(), 1, "{mistakes}");
        let first = mistakes.iter().next().unwrap();
        let place = first.place.unwrap();
        assert_eq!((place.line, place.column), (*line, *column), "{first}");
        assert!(first.cause.contains(cause), "{first}");
        assert!(first.remedy.contains(remedy), "{first}");
    }
}

#[test]
fn what_neither_backend_serves_stays_a_mistake() {
    for change in [
        |facts: &mut InterfaceFacts| facts.is_loopback = true,
        |facts: &mut InterfaceFacts| facts.mac = None,
    ] {
        let mut host_facts = with_io_uring(&["in0"]);
        change(host_facts.interfaces.get_mut("in0").unwrap());
        for forced in [None, Some(Backend::Xdp), Some(Backend::IoUring)] {
            let constraints = Constraints {
                forced,
                ..Constraints::default()
            };
            let mistakes =
                build(&document(&["in0 -> out0"], ""), &host_facts, &constraints).unwrap_err();
            assert_eq!(mistakes.iter().count(), 1, "{mistakes}");
        }
    }
}

#[test]
fn workers_on_io_uring_follow_the_inputs_and_their_cpus() {
    let rules = ["in0 -> out0 out2", "in1 -> out0 in0"];
    let in0 = options("in0", "cpus = [5, 1, 3]");
    let in1 = options("in1", "cpus = [2]");
    // Each worker's CPU, input, senders and flows.
    type Expected<'a> = &'a [(Option<u32>, usize, &'a [usize], &'a [usize])];
    #[rustfmt::skip]
    let cases: &[(String, Expected<'_>)] = &[
        (String::new(), &[(None, 0, &[1, 2], &[0]), (None, 3, &[0, 1], &[1])]),
        (in0.clone(), &[(Some(5), 0, &[1, 2], &[0]), (Some(1), 0, &[1, 2], &[0]), (Some(3), 0, &[1, 2], &[0]), (None, 3, &[0, 1], &[1])]),
        (in1.clone(), &[(None, 0, &[1, 2], &[0]), (Some(2), 3, &[0, 1], &[1])]),
        (in1 + &in0, &[(Some(5), 0, &[1, 2], &[0]), (Some(1), 0, &[1, 2], &[0]), (Some(3), 0, &[1, 2], &[0]), (Some(2), 3, &[0, 1], &[1])]),
    ];
    for (rest, expected) in cases {
        let plan = auto(&document(&rules, rest), &with_io_uring(&["in1"])).unwrap();
        let names: Vec<&str> = plan.interfaces.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["in0", "out0", "out2", "in1"]);
        let workers = plan.workers.iter();
        let found: Vec<_> = workers
            .map(|w| {
                (
                    w.cpu,
                    w.input.unwrap(),
                    w.tx_sockets.clone(),
                    w.flows.clone(),
                )
            })
            .collect();
        let ids = |positions: &[usize]| positions.iter().map(|&at| InterfaceId::new(at)).collect();
        let flows = |positions: &[usize]| positions.iter().map(|&at| FlowId::new(at)).collect();
        let expected = expected.iter();
        let expected: Vec<(_, _, Vec<_>, Vec<_>)> = expected
            .map(|&(cpu, input, outputs, of)| {
                (cpu, InterfaceId::new(input), ids(outputs), flows(of))
            })
            .collect();
        assert_eq!(found, expected);
        assert_eq!(plan.notes, [""; 0]);
        let engines: Vec<_> = plan.interfaces.iter().map(|i| i.tx_method).collect();
        let segmented = Some(TxMethod::Segmented);
        assert_eq!(
            engines,
            [segmented, segmented, Some(TxMethod::Frames), None]
        );
    }
}

#[test]
fn what_the_file_says_in_vain_on_io_uring_is_said() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &[&str])] = &[
        ("in0", "queues = [1]", &["The `queues` of in0 are not used: it is on io_uring, and a packet socket sees the frames of all queues."]),
        ("in0", "queues = [7]", &["The `queues` of in0 are not used"]),
        ("out0", "queues = [0]", &["The `queues` of out0 are not used: it is on io_uring, and the kernel chooses"]),
        ("out0", "transmit = \"xsk\"", &["The `transmit` \"xsk\" of out0 is not used: it is on io_uring, which has no AF_XDP sockets."]),
        ("out0", "transmit = \"segmented\"", &[]),
        ("out0", "cpus = [1]", &["The `cpus` of out0 are not used: workers belong to inputs, and out0 is only an output."]),
    ];
    for (name, rest, expected) in cases {
        let document = document(&["in0 -> out0"], &options(name, rest));
        let mut host_facts = with_io_uring(&["in0"]);
        // There neither zero copy matters nor the XDP features that the kernel reports.
        host_facts.interfaces.get_mut("out0").unwrap().xdp = None;
        let plan = auto(&document, &host_facts).unwrap();
        assert_eq!(plan.notes.len(), expected.len(), "{:#?}", plan.notes);
        for (note, expected) in plan.notes.iter().zip(*expected) {
            assert!(note.starts_with(expected), "{note}\n{expected}");
        }
        assert_eq!(plan.interfaces[1].tx_method, Some(TxMethod::Segmented));
    }
}

#[test]
fn zero_copy_is_no_matter_on_io_uring() {
    let mut host_facts = with_io_uring(&["in0"]);
    let out0 = host_facts.interfaces.get_mut("out0").unwrap();
    out0.xdp = Some(XdpFeatures::from_bits(ZERO_COPY));
    let plan = auto(&document(&["in0 -> out0"], ""), &host_facts).unwrap();
    assert_eq!(plan.notes, [""; 0]);
    assert_eq!(plan.interfaces[1].expected_mode, None);
}

#[test]
fn a_printed_plan_says_why_it_is_io_uring() {
    let rest = options("in0", "cpus = [1, 3]");
    let document = document(&["in0 -> out0 out2", "in1 -> in0"], &rest);
    let plan = auto(&document, &with_io_uring(&["in0"])).unwrap();
    let shown = plan.to_string();
    let why = "io_uring, because in0 (driver bridge) has no native XDP";
    for part in [
        &format!("  in0              input and output, {why}; transmits by GSO packets\n"),
        &format!("  out0             output, {why}; transmits by GSO packets\n"),
        &format!("  out2             output, {why}; transmits by packet sockets\n"),
        &format!("  in1              input, {why}\n"),
        "  worker 1, CPU 3\n    receives from  in0 by a packet socket (shared by 2 workers)\n    \
         transmits by   out0 in GSO packets; out2 frame by frame\n",
        "  worker 2, not pinned\n    receives from  in1 by a packet socket\n",
    ] {
        assert!(shown.contains(part), "{part}\nis not in\n{shown}");
    }
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["interfaces"][0]["backend"], "io-uring");
    let reason = "in0 (driver bridge) has no native XDP";
    assert_eq!(json["interfaces"][0]["reason"], reason);
    assert_eq!(json["workers"][0]["backend"], "io-uring");
}
