//! Zero copy or copy, and how copies leave.

use super::*;

/// The expected mode and the TX method of every interface.
fn paths(plan: &Plan) -> Vec<(Option<Mode>, Option<TxMethod>)> {
    let interfaces = plan.interfaces.iter();
    interfaces.map(|i| (i.expected_mode, i.tx_method)).collect()
}

#[test]
fn zero_copy_is_expected_only_where_the_whole_group_can() {
    let modes = |mtu: u32, bits: [u64; 4]| -> Vec<Option<Mode>> {
        let names = ["in0", "out0", "in1", "out1"];
        let facts = names
            .iter()
            .zip(bits)
            .zip(1..)
            .map(|((name, bits), index)| InterfaceFacts {
                xdp: Some(XdpFeatures::from_bits(bits)),
                mtu,
                driver: "ice".into(),
                ..nic(name, index, 1, 1)
            });
        let document = document(&["in0 -> out0", "in1 -> out1"], "");
        let plan = auto(&document, &host_facts(facts)).unwrap();
        plan.interfaces
            .iter()
            .map(|interface| interface.expected_mode)
            .collect()
    };
    let (copy, zero_copy) = (Some(Mode::Copy), Some(Mode::ZeroCopy));
    assert_eq!(modes(3050, [ZERO_COPY; 4]), [zero_copy; 4]);
    assert_eq!(
        modes(3051, [ZERO_COPY; 4]),
        [copy; 4],
        "a frame would not fit"
    );
    assert_eq!(modes(1500, [NATIVE; 4]), [copy; 4]);
    assert_eq!(
        modes(1500, [ZERO_COPY, ZERO_COPY, ZERO_COPY, NATIVE]),
        [zero_copy, zero_copy, copy, copy]
    );
}

#[test]
fn payloads_are_shared_only_in_zero_copy_and_where_every_interface_takes_a_frame_in_two_parts() {
    let shares = |bits: u64, segments: [u32; 4]| -> Vec<bool> {
        let names = ["in0", "out0", "in1", "out1"];
        let each = names.iter().zip(segments).zip(1..);
        let facts = each.map(|((name, segments), index)| InterfaceFacts {
            xdp: Some(XdpFeatures::from_bits(bits).with_zero_copy_segments(segments)),
            driver: "ice".into(),
            ..nic(name, index, 1, 1)
        });
        let document = document(&["in0 -> out0", "in1 -> out1"], "");
        let plan = auto(&document, &host_facts(facts)).unwrap();
        for interface in plan.interfaces.iter().filter(|one| one.is_output) {
            let copied = interface.reason.contains("with a payload in each copy: ");
            let zero_copy = interface.expected_mode == Some(Mode::ZeroCopy);
            assert_eq!(copied, zero_copy && !interface.shares_payloads);
        }
        let interfaces = plan.interfaces.iter();
        interfaces.map(|one| one.shares_payloads).collect()
    };
    assert_eq!(shares(ZERO_COPY, [8, 8, 2, 2]), [true; 4]);
    assert_eq!(shares(ZERO_COPY, [8, 8, 1, 8]), [true, true, false, false]);
    assert_eq!(shares(ZERO_COPY, [8, 1, 8, 8]), [false, false, true, true]);
    assert_eq!(shares(NATIVE, [8; 4]), [false; 4]);
}

/// Facts of a host with GSO packets; its interfaces have the given XDP features.
fn with_gso_packets(bits: &[(&str, u64)]) -> HostFacts {
    let facts = bits
        .iter()
        .zip(1..)
        .map(|((name, bits), index)| InterfaceFacts {
            xdp: Some(XdpFeatures::from_bits(*bits)),
            ..nic(name, index, 2, 1)
        });
    HostFacts {
        gso_packets: true,
        ..host_facts(facts)
    }
}

#[test]
fn copies_leave_by_tx_rings_in_zero_copy_and_as_gso_packets_otherwise() {
    use TxMethod::{Segmented, Xsk};
    let (copy, zero_copy) = (Some(Mode::Copy), Some(Mode::ZeroCopy));
    let xsk = options("out0", "transmit = \"xsk\"");
    let segmented = options("out0", "transmit = \"segmented\"");
    #[rustfmt::skip]
    let cases: &[(&str, [u64; 3], &str, [(Option<Mode>, Option<TxMethod>); 3])] = &[
        ("no zero copy", [NATIVE; 3], "", [(copy, None), (None, Some(Segmented)), (None, Some(Segmented))]),
        ("zero copy", [ZERO_COPY; 3], "", [(zero_copy, None), (zero_copy, Some(Xsk)), (zero_copy, Some(Xsk))]),
        ("an output without does not hinder", [ZERO_COPY, ZERO_COPY, 0], "", [(zero_copy, None), (zero_copy, Some(Xsk)), (None, Some(Segmented))]),
        ("an input without does", [NATIVE, ZERO_COPY, ZERO_COPY], "", [(copy, None), (None, Some(Segmented)), (None, Some(Segmented))]),
        ("so does a TX ring that is asked for", [ZERO_COPY, NATIVE, ZERO_COPY], &xsk, [(copy, None), (copy, Some(Xsk)), (None, Some(Segmented))]),
        ("GSO packets may be asked for", [ZERO_COPY; 3], &segmented, [(zero_copy, None), (None, Some(Segmented)), (zero_copy, Some(Xsk))]),
    ];
    for (name, bits, rest, expected) in cases {
        let [input, first, second] = *bits;
        let host_facts = with_gso_packets(&[("in0", input), ("out0", first), ("out1", second)]);
        let plan = auto(&document(&["in0 -> out0 out1"], rest), &host_facts).unwrap();
        assert_eq!(paths(&plan), expected, "{name}");
        for worker in &plan.workers {
            let methods = plan.interfaces.ids().map(|id| worker.tx_method(&plan, id));
            assert!(methods.eq(expected.iter().map(|path| path.1)), "{name}");
        }
    }
}

#[test]
fn gso_packets_need_no_queue_of_their_own() {
    let host_facts = with_gso_packets(&[("in0", NATIVE), ("out0", NATIVE)]);
    let plan = auto(&document(&["in0 -> out0"], ""), &host_facts).unwrap();
    assert_eq!(ports(&plan), ["in0/0r", "in0/1r"]);
    assert!(
        plan.workers
            .iter()
            .all(|worker| worker.tx_sockets == [InterfaceId::new(1)])
    );
    assert_eq!(plan.notes, [""; 0]);
    let shown = plan.to_string();
    assert!(
        shown.contains("out0             output, transmits by GSO packets\n"),
        "{shown}"
    );
    assert!(
        shown.contains("transmits by   out0 in GSO packets\n"),
        "{shown}"
    );
}

#[test]
fn an_output_without_zero_copy_and_gso_packets_leaves_frame_by_frame_where_another_output_gains() {
    use TxMethod::{Frames, Segmented, Xsk};
    let (copy, zero_copy) = (Some(Mode::Copy), Some(Mode::ZeroCopy));
    let xsk = options("out1", "transmit = \"xsk\"");
    let segmented = options("out0", "transmit = \"segmented\"");
    #[rustfmt::skip]
    let cases: &[(&str, [u64; 3], &str, [(Option<Mode>, Option<TxMethod>); 3])] = &[
        ("another gains", [ZERO_COPY, ZERO_COPY, NATIVE], "", [(zero_copy, None), (zero_copy, Some(Xsk)), (None, Some(Frames))]),
        ("no other gains", [ZERO_COPY, NATIVE, NATIVE], "", [(copy, None), (None, Some(Segmented)), (copy, Some(Xsk))]),
        ("the other would not use it", [ZERO_COPY, ZERO_COPY, NATIVE], &segmented, [(copy, None), (None, Some(Segmented)), (copy, Some(Xsk))]),
        ("its TX ring is asked for", [ZERO_COPY, ZERO_COPY, NATIVE], &xsk, [(copy, None), (None, Some(Segmented)), (copy, Some(Xsk))]),
        ("it has zero copy itself", [ZERO_COPY, NATIVE, ZERO_COPY], "", [(zero_copy, None), (None, Some(Segmented)), (zero_copy, Some(Xsk))]),
    ];
    for (name, bits, rest, expected) in cases {
        let [input, first, second] = *bits;
        let mut host_facts = with_gso_packets(&[("in0", input), ("out0", first), ("out1", second)]);
        let out1 = host_facts.interfaces.get_mut("out1").unwrap();
        (out1.segments_udp, out1.queueless) = (false, false);
        let plan = auto(&document(&["in0 -> out0 out1"], rest), &host_facts).unwrap();
        assert_eq!(paths(&plan), expected, "{name}");
        for worker in &plan.workers {
            let methods = plan.interfaces.ids().map(|id| worker.tx_method(&plan, id));
            assert!(methods.eq(expected.iter().map(|path| path.1)), "{name}");
            assert_eq!(Some(worker.mode(&plan)), expected[0].0, "{name}");
        }
    }
}

#[test]
fn the_program_is_attached_to_inputs_and_where_zero_copy_transmits() {
    let attached = |bits: [u64; 3], rest: &str| -> Vec<String> {
        let [input, first, second] = bits;
        let host_facts = with_gso_packets(&[("in0", input), ("out0", first), ("out1", second)]);
        let plan = auto(&document(&["in0 -> out0 out1"], rest), &host_facts).unwrap();
        let with = plan.interfaces.iter().filter(|i| i.needs_program());
        with.map(|interface| interface.name.clone()).collect()
    };
    let xsk = options("out0", "transmit = \"xsk\"");
    assert_eq!(attached([ZERO_COPY; 3], ""), ["in0", "out0", "out1"]);
    assert_eq!(
        attached([ZERO_COPY, ZERO_COPY, NATIVE], ""),
        ["in0", "out0"]
    );
    assert_eq!(attached([NATIVE, ZERO_COPY, ZERO_COPY], ""), ["in0"]);
    assert_eq!(attached([NATIVE, ZERO_COPY, ZERO_COPY], &xsk), ["in0"]);
    assert_eq!(attached([NATIVE, NATIVE, 0], &xsk), ["in0"]);
    let no_xdp = attached([0, ZERO_COPY, ZERO_COPY], "");
    assert_eq!(no_xdp, [""; 0], "on io_uring there is none");
}

#[test]
fn what_refused_zero_copy_does_without_and_the_plan_has_the_kernels_words() {
    use TxMethod::{Segmented, Xsk};
    let (copy, zero_copy) = (Some(Mode::Copy), Some(Mode::ZeroCopy));
    let host_facts =
        with_gso_packets(&[("in0", ZERO_COPY), ("out0", ZERO_COPY), ("out1", ZERO_COPY)]);
    let refused = |name: &str| Constraints {
        without_zero_copy: vec![Refusal {
            interface: name.into(),
            reason: "Invalid argument".into(),
        }],
        ..Constraints::default()
    };
    let document = document(&["in0 -> out0 out1"], "");

    let plan = build(&document, &host_facts, &refused("out1")).unwrap();
    assert_eq!(
        paths(&plan),
        [
            (zero_copy, None),
            (zero_copy, Some(Xsk)),
            (None, Some(Segmented))
        ]
    );
    let why = "out1 (driver ena) refused zero copy: Invalid argument";
    assert_eq!(plan.interfaces[2].reason, why);
    assert_eq!(plan.interfaces[0].reason, "the driver offers it");
    let shown = plan.to_string();
    for part in [
        "in0              input, AF_XDP zero copy expected, because the driver offers it\n",
        "out0             output, AF_XDP zero copy expected, because the driver offers it, with a payload in each copy: in0 (driver ena) takes a frame in 1 descriptor only (xdp-zc-max-segs); transmits by AF_XDP TX rings\n",
        &format!("out1             output, transmits by GSO packets, because {why}\n"),
    ] {
        assert!(shown.contains(part), "{part}\nis not in\n{shown}");
    }

    let plan = build(&document, &host_facts, &refused("in0")).unwrap();
    assert_eq!(
        paths(&plan),
        [
            (copy, None),
            (None, Some(Segmented)),
            (None, Some(Segmented))
        ]
    );
    assert!(
        plan.interfaces[0]
            .reason
            .contains("in0 (driver ena) refused zero copy")
    );
    assert!(plan.interfaces.iter().filter(|i| i.needs_program()).count() == 1);
    let note = "Zero copy is possible on out0, out1 but not on in0";
    assert!(
        plan.notes.iter().any(|said| said.starts_with(note)),
        "{:?}",
        plan.notes
    );
}

#[test]
fn gso_packets_are_refused_on_a_kernel_without_them() {
    let rest = options("out0", "transmit = \"segmented\"");
    let host_facts = host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)]);
    let mistakes = auto(&document(&["in0 -> out0"], &rest), &host_facts).unwrap_err();
    let first = mistakes.iter().next().unwrap();
    assert_eq!(first.place.unwrap().line, 7);
    assert!(first.cause.contains("needs Linux 6.2"), "{first}");
}

#[test]
fn gso_packets_leave_by_no_queue_that_the_kernel_would_cut_them_for() {
    let rest = options("out0", "transmit = \"segmented\"");
    for (segments_udp, queueless) in [(true, false), (false, true), (false, false)] {
        let mut host_facts = with_gso_packets(&[("in0", NATIVE), ("out0", NATIVE)]);
        let out0 = host_facts.interfaces.get_mut("out0").unwrap();
        (out0.segments_udp, out0.queueless) = (segments_udp, queueless);
        let forced = auto(&document(&["in0 -> out0"], &rest), &host_facts);
        let plan = auto(&document(&["in0 -> out0"], ""), &host_facts).unwrap();
        if segments_udp || queueless {
            assert!(forced.is_ok());
            assert_eq!(plan.interfaces[1].tx_method, Some(TxMethod::Segmented));
        } else {
            let mistakes = forced.unwrap_err();
            let first = mistakes.iter().next().unwrap();
            assert!(
                first.cause.contains("`out0` does not take UDP GSO packets"),
                "{first}"
            );
            assert!(
                first
                    .remedy
                    .contains("ethtool -K out0 tx-udp-segmentation on")
            );
            assert_eq!(plan.interfaces[1].tx_method, Some(TxMethod::Xsk));
        }
    }
}
