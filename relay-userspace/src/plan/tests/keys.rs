//! Which workers of two plans are the same.

use super::*;

fn keys(document: &Document, host_facts: &HostFacts) -> Vec<WorkerKey> {
    let plan = auto(document, host_facts).unwrap();
    let keys = worker_keys(&plan);
    let mut unique = keys.clone();
    unique.dedup();
    assert_eq!(keys.len(), unique.len(), "keys are unique");
    assert_eq!(keys.len(), plan.workers.len());
    keys
}

fn host() -> HostFacts {
    host_facts([
        nic("in0", 1, 2, 2),
        nic("in1", 2, 1, 1),
        nic("out0", 3, 2, 2),
        nic("out1", 4, 2, 2),
    ])
}

#[test]
fn a_key_has_the_kernels_numbers_and_not_those_of_the_plan() {
    let before = keys(&document(&["in0 -> out0"], ""), &host());
    let port = |interface, queue, receives| PortKey {
        interface,
        queue,
        receives,
        transmits: !receives,
    };
    let expected = WorkerKey {
        backend: Backend::Xdp,
        cpu: None,
        ports: vec![port(1, 1, true), port(3, 1, false)],
        input: None,
        mode: Some(Mode::Copy),
        chunk_size: 2048,
        fanout: 0,
    };
    assert_eq!(before[1], expected);

    let first = keys(&document(&["in1 -> out1", "in0 -> out0"], ""), &host());
    assert_eq!(
        first[1..],
        before,
        "another rule, which does not connect them"
    );
    let turned = keys(&document(&["out0 -> in0"], ""), &host());
    let both = keys(&document(&["out0 -> in0", "in0 -> out0"], ""), &host());
    let both_turned = keys(&document(&["in0 -> out0", "out0 -> in0"], ""), &host());
    assert_eq!(both, both_turned, "the order of rules");
    assert!(
        before
            .iter()
            .all(|key| !turned.contains(key) && !both.contains(key))
    );
}

#[test]
fn what_needs_another_socket_another_cpu_or_other_chunks_makes_another_key() {
    type Change = fn(&mut HostFacts);
    fn of<'a>(host: &'a mut HostFacts, name: &str) -> &'a mut InterfaceFacts {
        host.interfaces.get_mut(name).unwrap()
    }
    let before = keys(&document(&["in0 -> out0"], ""), &host());
    let same: &[(&str, Change)] = &[
        ("another MAC", |h| of(h, "out0").mac = Some([2; 6])),
        ("another address", |h| {
            of(h, "out0").addresses = vec![[10, 9, 9, 9].into()];
        }),
        ("an MTU that the chunks hold", |h| of(h, "in0").mtu = 1700),
        ("an output's MTU in copy mode", |h| of(h, "out0").mtu = 3000),
        ("down", |h| of(h, "in0").is_up = false),
    ];
    for (what, change) in same {
        let mut host = host();
        change(&mut host);
        assert_eq!(
            keys(&document(&["in0 -> out0"], ""), &host),
            before,
            "{what}"
        );
    }
    let others: &[(&str, &str, Change)] = &[
        ("another index", "", |h| of(h, "in0").index = 9),
        ("an MTU that they do not hold", "", |h| {
            of(h, "in0").mtu = 2000;
        }),
        (
            "pinned",
            "[[interfaces]]\nname = \"in0\"\ncpus = [1, 2]",
            |_| (),
        ),
        (
            "another queue",
            "[[interfaces]]\nname = \"in0\"\nqueues = [1]",
            |_| (),
        ),
        ("zero copy", "", |h| {
            for name in ["in0", "out0"] {
                of(h, name).xdp = Some(XdpFeatures::from_bits(ZERO_COPY));
            }
        }),
        ("io_uring", "", |h| {
            h.gso_packets = true;
            of(h, "in0").offloads.unwanted = vec![Offload::StripTag];
        }),
    ];
    for (what, rest, change) in others {
        let mut host = host();
        change(&mut host);
        let after = keys(&document(&["in0 -> out0"], rest), &host);
        assert_ne!(after.first(), before.first(), "{what}");
    }
}

#[test]
fn on_io_uring_a_worker_is_its_input_its_cpu_and_how_many_share() {
    let host = HostFacts {
        gso_packets: true,
        ..host()
    };
    let forced = Constraints {
        forced: Some(Backend::IoUring),
        ..Constraints::default()
    };
    let keys = |rest: &str| {
        let document = document(&["in0 -> out0", "in1 -> out0"], rest);
        worker_keys(&build(&document, &host, &forced).unwrap())
    };
    let key = |input, cpu, fanout| WorkerKey {
        backend: Backend::IoUring,
        cpu,
        ports: Vec::new(),
        input: Some(input),
        mode: None,
        chunk_size: 0,
        fanout,
    };
    assert_eq!(keys(""), [key(1, None, 1), key(2, None, 1)]);
    let pinned = keys(&options("in0", "cpus = [3, 5]"));
    assert_eq!(
        pinned,
        [key(1, Some(3), 2), key(1, Some(5), 2), key(2, None, 1)]
    );
}
