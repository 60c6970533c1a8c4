//! Rules with `local`: programs and routes of the relay's own host get each datagram as well, once
//! and unchanged, on XDP as on io_uring, and whatever becomes of that, the copies leave.

mod methods;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use nix::sys::socket::{setsockopt, sockopt};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::frames::{Checksum, UdpFrame, group_mac};
use relay_tests::ipv6::parsed;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::relay::{RelayProcess, RuleFile, binary, relay};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml, transmit_by};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Pacer, Traffic, UdpSender};
use relay_tests::sys;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{Endpoint, plug};

use super::under_traffic;

const COUNT: u64 = 600;
const RATE: u32 = 5_000;
/// How long the relay may take to act on what changes.
const SOON: Duration = Duration::from_secs(5);

/// The feed, with more keys of its input.
fn feed(more: &str) -> Rule {
    Rule::feed()
        .takes(&format!("group = \"{GROUP_IN}\", port = {PORT_IN}{more}"))
        .outputs("out0", 2)
}

fn local() -> Rule {
    feed(", local = true")
}

/// A program of the relay's host that listens to the feed on `at`.
fn program_on(at: &Endpoint, flow: u32) -> Result<UdpReceiver> {
    UdpReceiver::start(at, &[Listen::new(GROUP_IN, PORT_IN, flow)])
}

/// Sends the feed, and fails unless a program of the relay's host and the receivers get all of it.
#[track_caller]
fn assert_both_get_all(bed: &Testbed) -> Result<()> {
    let program = program_on(&bed.inputs[0], 0)?;
    let receivers = Receivers::start(bed, &[local()])?;
    let stream = Stream::new(0, COUNT, 700);
    UdpSender::open(&bed.sources[0])?.send(&Traffic::new(GROUP_IN, PORT_IN, stream), RATE)?;
    receivers.assert_exact(&[stream]);
    program.assert_all_exact(&stream, ARRIVAL);
    Ok(())
}

/// Whether the relay's TAP device is there.
fn has_device(bed: &Testbed) -> Result<bool> {
    Ok(bed.relay.ip("-oneline link show")?.contains("relay0"))
}

const GROUP6: &str = "ff3e::8000:1";
const GROUP6_OUT: &str = "ff3e::8000:2";

/// A socket at `at` that listens to `group`:`port`.
fn listening(at: &Endpoint, group: &str, port: u16) -> Result<UdpSocket> {
    let socket = at.namespace.run(|| {
        // A child of another test that is about to start its program may still have a socket of
        // before.
        let mut bound = None;
        let is_free = eventually(ARRIVAL, || {
            bound = UdpSocket::bind(("::", port)).ok();
            bound.is_some()
        });
        ensure!(is_free.is_some(), "port {port} is in use");
        bound.context("a socket")
    })?;
    setsockopt(&socket, sockopt::RcvBufForce, &sys::RECEIVE_BUFFER)?;
    socket.join_multicast_v6(&parsed(group), at.index)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

/// What a socket has received: it waits for `count` datagrams, and then until nothing has arrived
/// for a while.
fn received(socket: &UdpSocket, count: u64) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 2048];
    let deadline = Instant::now() + ARRIVAL;
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => all.push(buffer[..len].to_vec()),
            Err(_) if all.len() as u64 >= count || Instant::now() > deadline => return all,
            Err(_) => {}
        }
    }
}

fn a_program_gets_ipv6_datagrams_and_not_the_damaged_one(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let source = &bed.sources[0];
    bed.inputs[0].switch_on_ipv6(&["2001:db8:1::1"])?;
    source.switch_on_ipv6(&["2001:db8:1::2"])?;
    bed.outputs[0].switch_on_ipv6(&["2001:db8:2::1"])?;
    bed.receivers[0].switch_on_ipv6(&["2001:db8:2::2"])?;
    let rules = [Rule::feed()
        .takes(&format!(
            "group = \"{GROUP6}\", port = {PORT_IN}, local = true"
        ))
        .output_that_goes("out0", &format!("group = \"{GROUP6_OUT}\", port = 6000"))];
    for table in ["xsk", "segmented"] {
        let program = listening(&bed.inputs[0], GROUP6, PORT_IN)?;
        let receiver = listening(&bed.receivers[0], GROUP6_OUT, 6000)?;
        let tables = match backend {
            Backend::Xdp => transmit_by(&rules, table),
            Backend::IoUring => String::new(),
        };
        let relay = RelayProcess::start_with(&bed.relay, backend, &rules, &tables)?;
        // Their checksums are those of the pseudo-header, and complete ones.
        let socket = source.namespace.run(|| {
            let socket = UdpSocket::bind(("2001:db8:1::2", 40_000))?;
            let index = libc::c_int::try_from(source.index)?;
            sys::set_option(
                std::os::fd::AsFd::as_fd(&socket),
                libc::IPPROTO_IPV6,
                libc::IPV6_MULTICAST_IF,
                &index,
            )?;
            Ok(socket)
        })?;
        let raw = RawSender::open(source)?;
        let mut pacer = Pacer::new(RATE, 16);
        for number in 0..COUNT {
            let bytes = payload(0, number, 500);
            pacer.wait();
            if number % 3 == 0 {
                let send = || socket.send_to(&bytes, (parsed(GROUP6), PORT_IN));
                // The kernel adds the route to groups when it has noticed the carrier.
                let sent = eventually(ARRIVAL, || send().is_ok());
                ensure!(sent.is_some(), "sending: {:?}", send());
                continue;
            }
            let mut frame = Vec::new();
            let addresses = (parsed("2001:db8:1::2"), parsed(GROUP6));
            PacketBuilder::ethernet2(source.mac, group_mac(parsed(GROUP6)))
                .ipv6(addresses.0.octets(), addresses.1.octets(), 8)
                .udp(40_000, PORT_IN)
                .write(&mut frame, &bytes)?;
            raw.send(&frame)?;
            if number % 100 == 1 {
                if let Some(last) = frame.last_mut() {
                    *last ^= 1;
                }
                raw.send(&frame)?;
            }
        }
        let sent: Vec<_> = (0..COUNT).map(|number| payload(0, number, 500)).collect();
        assert_eq!(received(&receiver, COUNT).len() as u64, COUNT);
        assert!(
            received(&program, COUNT) == sent,
            "each once, in order, as it was sent"
        );
        let stopped = relay.stop()?;
        let damaged = (0..COUNT).filter(|number| number % 100 == 1).count() as u64;
        let damaged = damaged - (0..COUNT).filter(|n| n % 100 == 1 && n % 3 == 0).count() as u64;
        stopped.report.assert_exact(&[COUNT + damaged]);
    }
    Ok(())
}

/// By a packet socket of the relay's host, which sees what the kernel would give a VLAN device: the
/// outer tag beside the frame, and every byte of the rest as it was sent.
fn m7_what_was_tagged_reaches_the_host_with_its_tags(backend: Backend) -> Result<()> {
    const TAGS: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 100)], &[(0x88a8, 300), (0x8100, 200)]];
    let bed = Testbed::builder().without_capture().build()?;
    let (input, source) = (&bed.inputs[0], &bed.sources[0]);
    let keys = ["", ", vlan = 100", ", vlan = [300, 200]"];
    let rules: Vec<Rule> = keys
        .iter()
        .zip(0..)
        .map(|(vlan, number)| {
            let takes = format!("group = \"{GROUP_IN}\", port = {PORT_IN}{vlan}, local = true");
            Rule::new(format!("r{number}"), "in0", GROUP_IN, PORT_IN)
                .takes(&takes)
                .output("out0", [239, 3, 3, number], 6000)
        })
        .collect();
    for table in ["xsk", "segmented"] {
        let host = RawReceiver::start(input)?;
        let program = program_on(input, 0)?;
        let receivers = Receivers::start(&bed, &rules)?;
        let tables = match backend {
            Backend::Xdp => transmit_by(&rules, table),
            Backend::IoUring => String::new(),
        };
        let relay = RelayProcess::start_with(&bed.relay, backend, &rules, &tables)?;
        let (raw, mut pacer, mut sent) = (RawSender::open(source)?, Pacer::new(RATE, 16), vec![]);
        for number in 0..COUNT {
            for (flow, tags) in (0..).zip(TAGS) {
                // Every other frame of the untagged flow has a tag that names no VLAN.
                let has_priority = flow == 0 && number % 2 == 1;
                let tags = if has_priority { &[(0x8100, 0)] } else { tags };
                let bytes = payload(flow, number, 700);
                let mut frame = UdpFrame::new(source, GROUP_IN, PORT_IN, bytes);
                // A checksum that is still to be completed, which a local socket leaves on a veth.
                if backend == Backend::Xdp && flow == 1 {
                    frame.checksum = Checksum::LikePartial;
                }
                let mut frame = frame.build()?;
                let mut seen = frame.clone();
                for (at, &(ethertype, id)) in tags.iter().enumerate().rev() {
                    let tag = [ethertype.to_be_bytes(), id.to_be_bytes()].concat();
                    frame.splice(12..12, tag.clone());
                    if at > 0 {
                        seen.splice(12..12, tag);
                    }
                }
                pacer.wait();
                raw.send(&frame)?;
                sent.push((tags.first().map(|&(_, id)| id), seen));
            }
        }
        let streams: Vec<Stream> = (0..3).map(|flow| Stream::new(flow, COUNT, 700)).collect();
        receivers.assert_exact(&streams);
        program.assert_all_exact(&streams[0], ARRIVAL);
        host.settle();
        let of_feed = |frame: &Frame| frame.bytes.len() > 700;
        let frames = host.frames();
        let frames: Vec<_> = frames.into_iter().filter(of_feed).collect();
        // Their order is that of their own flow.
        let mut got: Vec<_> = frames.iter().map(|f| (f.vlan, f.bytes.clone())).collect();
        got.sort_by_key(|(vlan, _)| vlan.filter(|&id| id > 0));
        sent.sort_by_key(|(vlan, _)| vlan.filter(|&id| id > 0));
        assert!(got == sent, "{} frames of {}", got.len(), sent.len());
        let partial = frames.iter().filter(|frame| frame.partial_checksum);
        let expected = if backend == Backend::Xdp { COUNT } else { 0 };
        assert_eq!(partial.count() as u64, expected);
        relay.stop()?.report.assert_exact(&[COUNT; 3]);
    }
    Ok(())
}

fn a_route_of_the_kernel_goes_on(backend: Backend) -> Result<()> {
    for is_local in [true, false] {
        let bed = Testbed::builder().outputs(2).without_capture().build()?;
        let rules = [feed(&format!(", local = {is_local}"))];
        let (input, output) = (bed.inputs[0].index, bed.outputs[1].index);
        let source = bed.sources[0].address;
        let _route = bed.relay.run(|| {
            sys::multicast_route(source, GROUP_IN, input, output).context("making a route")
        })?;
        let routed = program_on(&bed.receivers[1], 0)?;
        let receivers = Receivers::start(&bed, &rules)?;
        let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
        let note = relay.log().contains("the kernel has a multicast route");
        assert_eq!(
            note,
            !is_local && backend == Backend::Xdp,
            "{}",
            relay.log()
        );
        let stream = Stream::new(0, COUNT, 700);
        UdpSender::open(&bed.sources[0])?.send(&Traffic::new(GROUP_IN, PORT_IN, stream), RATE)?;
        receivers.assert_exact(&[stream]);
        if is_local || backend == Backend::IoUring {
            routed.assert_all_exact(&stream, ARRIVAL);
        } else {
            routed.settle();
            routed.tallies()[0].assert_nothing();
        }
        relay.stop()?.report.assert_exact(&[COUNT]);
    }
    Ok(())
}

fn what_local_does_is_in_the_plan_and_the_log(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let _program = program_on(&bed.inputs[0], 0)?;
    let file = RuleFile::of(&[local()])?;
    let path = file.path().display().to_string();
    let plan = relay(&bed.relay, &["plan", "--backend", backend.name(), &path])?.stdout;
    let relay = RelayProcess::start_file(&bed.relay, backend, file)?;
    let note = match backend {
        Backend::Xdp => "in0: 239.1.1.1: each frame goes to this host's own stack as well",
        Backend::IoUring => "in0: 239.1.1.1: `local` changes nothing on io_uring",
    };
    for said in [&plan, &relay.log()] {
        assert!(said.contains(note), "{said}");
        assert!(!said.contains("another program of this host"), "{said}");
    }
    assert!(
        plan.contains("5001 on in0, for this host too, 2 outputs"),
        "{plan}"
    );
    relay.stop().map(drop)
}

fn o1_local_is_switched_on_and_off_under_traffic(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let program = program_on(&bed.inputs[0], 0)?;
    let receivers = Receivers::start(&bed, &[local()])?;
    let relay = RelayProcess::start(&bed.relay, backend, &[feed("")])?;
    let (sent, ()) = under_traffic(&bed.sources[0], &local(), 0, RATE, || {
        for is_local in [true, false].repeat(4) {
            let rule = if is_local { local() } else { feed("") };
            let before = program.tallies()[0].received;
            let answer = relay.reload(&to_toml(&[rule]))?;
            ensure!(answer.code == Some(0), "{answer:?}");
            let wanted = is_local && backend == Backend::Xdp;
            ensure!(has_device(&bed)? == wanted, "{answer:?}: {}", relay.log());
            if is_local {
                ensure!(program.wait_for(before + 500, ARRIVAL), "{}", relay.log());
            }
        }
        Ok(())
    })?;
    receivers.assert_exact(&[Stream::new(0, sent, 500)]);
    program.settle();
    let got = program.tallies().remove(0);
    assert_eq!(
        (got.duplicates, got.out_of_order, got.mismatched),
        (0, 0, 0),
        "{got}"
    );
    assert_eq!(
        got.unique == sent,
        backend == Backend::IoUring,
        "{got} of {sent}"
    );
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[sent]);
    assert!(!has_device(&bed)?);
    Ok(())
}

/// Changes of other rules cost a program nothing.
fn o1_a_program_loses_nothing_while_other_rules_change(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let program = program_on(&bed.inputs[0], 0)?;
    let receivers = Receivers::start(&bed, &[local()])?;
    let relay = RelayProcess::start(&bed.relay, backend, &[local()])?;
    let (sent, ()) = under_traffic(&bed.sources[0], &local(), 0, RATE, || {
        for round in 0..20_u8 {
            let keys = format!(", local = {}", round % 3 == 0);
            let other = Rule::new("other", "in0", [239, 1, 9, round], 7)
                .takes(&format!("group = \"239.1.9.{round}\", port = 7{keys}"))
                .outputs("out0", 1 + usize::from(round) % 3);
            let rules = if round % 2 == 0 {
                [other, local()]
            } else {
                [local(), other]
            };
            let answer = relay.reload(&to_toml(&rules))?;
            ensure!(answer.code == Some(0), "{answer:?}");
        }
        Ok(())
    })?;
    let stream = Stream::new(0, sent, 500);
    receivers.assert_exact(&[stream]);
    program.assert_all_exact(&stream, ARRIVAL);
    assert_eq!(relay.stop()?.report.dropped_total(), 0);
    Ok(())
}

fn x2_an_input_that_comes_back_is_local_again_and_a_kill_leaves_nothing(
    backend: Backend,
) -> Result<()> {
    let mut bed = Testbed::builder().without_capture().build()?;
    let relay = RelayProcess::start(&bed.relay, backend, &[local()])?;
    let is_active = |wanted: bool| {
        let states = relay.rule_states();
        states.is_ok_and(|all| all.iter().all(|(_, state)| (state == "active") == wanted))
    };
    bed.relay.ip("link del in0")?;
    ensure!(
        eventually(SOON, || is_active(false)).is_some(),
        "{}",
        relay.log()
    );
    ensure!(!has_device(&bed)?, "nothing needs it");
    (bed.inputs[0], bed.sources[0]) = plug(&bed.inputs[0], &bed.sources[0])?;
    ensure!(
        eventually(SOON, || is_active(true)).is_some(),
        "{}",
        relay.log()
    );
    assert_both_get_all(&bed)?;
    relay.kill()?;
    let gone = || {
        matches!(
            (has_device(&bed), bed.relay.packet_sockets()),
            (Ok(false), Ok(0))
        )
    };
    ensure!(
        eventually(SOON, gone).is_some(),
        "{}",
        bed.relay.ip("link show")?
    );
    Ok(())
}

relay_tests::on_both_backends!(
    a_program_gets_ipv6_datagrams_and_not_the_damaged_one,
    m7_what_was_tagged_reaches_the_host_with_its_tags,
    a_route_of_the_kernel_goes_on,
    what_local_does_is_in_the_plan_and_the_log,
    o1_local_is_switched_on_and_off_under_traffic,
    o1_a_program_loses_nothing_while_other_rules_change,
    x2_an_input_that_comes_back_is_local_again_and_a_kill_leaves_nothing,
);

/// The device is down, and then deleted: what the host does not get is counted, and the relay makes
/// it anew.
#[test]
fn what_the_kernel_does_not_take_back_is_counted_and_costs_no_copy() -> Result<()> {
    for table in ["xsk", "segmented"] {
        let bed = Testbed::builder().without_capture().build()?;
        let rules = [local()];
        let program = program_on(&bed.inputs[0], 0)?;
        let receivers = Receivers::start(&bed, &rules)?;
        let tables = transmit_by(&rules, table);
        let relay = RelayProcess::start_with(&bed.relay, Backend::Xdp, &rules, &tables)?;
        let part = |number| Stream::new(0, COUNT, 700).starting_at(number * COUNT);
        let send = |number| {
            let traffic = Traffic::new(GROUP_IN, PORT_IN, part(number));
            UdpSender::open(&bed.sources[0])?.send(&traffic, RATE)?;
            receivers.wait_for(&[(number + 1) * COUNT]);
            program.settle();
            anyhow::Ok(())
        };
        send(0)?;
        bed.relay.ip("link set relay0 down")?;
        send(1)?;
        bed.relay.ip("link del relay0")?;
        let said = "another process has removed the TAP device";
        ensure!(relay.wait_for_log(said), "{}", relay.log());
        let is_back = || has_device(&bed).is_ok_and(|is| is);
        ensure!(eventually(SOON, is_back).is_some(), "{}", relay.log());
        ensure!(
            relay.wait_for_log("adapted to the interfaces"),
            "{}",
            relay.log()
        );
        let status = relay.status()?;
        assert_eq!(status["rules"][0]["local_failed"], COUNT, "{status:#}");
        assert_eq!(status["totals"]["dropped"]["local_failed"], COUNT);
        let shown = relay.verb(&["rules", "feed"])?.stdout;
        assert!(shown.contains(", 600 not given to this host;"), "{shown}");
        send(2)?;
        receivers.assert_exact(&[Stream::new(0, 3 * COUNT, 700)]);
        let got = program.tallies().remove(0);
        for (number, missing) in [(0, 0), (1, COUNT), (2, 0)] {
            assert_eq!(
                got.missing(&part(number)).len() as u64,
                missing,
                "{number}: {got}"
            );
        }
        let report = relay.stop()?.report;
        assert_eq!(report.rules[0].local_failed, COUNT, "{report:#?}");
        assert_eq!(report.dropped_total(), COUNT, "{report:#?}");
        report.assert_balanced();
    }
    Ok(())
}

/// A container without TAP devices: `hide` hides `/dev/net/tun`.
fn without_tap(
    hide: &str,
    forced: Option<Backend>,
    file: &RuleFile,
) -> Result<(Testbed, RelayProcess)> {
    let bed = Testbed::builder().without_capture().build()?;
    let mut command = bed.relay.command("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{hide} && exec \"$@\""))
        .arg("sh")
        .arg(binary()?)
        .args(["run", "--json", "--progress"]);
    if let Some(backend) = forced {
        command.args(["--backend", backend.name()]);
    }
    command.arg(file.path());
    let relay = RelayProcess::start_command(command)?;
    Ok((bed, relay))
}

const MISSING: &str = "mount -t tmpfs none /dev/net";
const USELESS: &str = "mount --bind /dev/null /dev/net/tun";

#[test]
fn without_tap_devices_the_input_is_on_io_uring_with_the_reason() -> Result<()> {
    for (hide, why, remedy) in [
        (
            MISSING,
            "/dev/net/tun cannot be opened",
            "--device /dev/net/tun",
        ),
        (
            USELESS,
            "cannot make a TAP device",
            "On io_uring this host gets them anyway",
        ),
    ] {
        let file = RuleFile::of(&[local()])?;
        let (bed, relay) = without_tap(hide, None, &file)?;
        assert_both_get_all(&bed)?;
        // Without `local` nothing is in the way of XDP.
        let answer = relay.reload(&to_toml(&[feed("")]))?;
        ensure!(answer.code == Some(0), "{answer:?}");
        let stopped = relay.expecting(Backend::Xdp).stop()?;
        stopped.report.assert_exact(&[COUNT]);
        for said in [why, remedy] {
            assert!(stopped.log.contains(said), "{said} in: {}", stopped.log);
        }
    }
    Ok(())
}

#[test]
fn without_tap_devices_a_rule_that_must_be_on_xdp_waits_and_others_run() -> Result<()> {
    for hide in [MISSING, USELESS] {
        let other = Rule::new("other", "out0", GROUP_IN, PORT_IN).outputs("in0", 1);
        let file = RuleFile::of(&[local(), other])?;
        let (_bed, relay) = without_tap(hide, Some(Backend::Xdp), &file)?;
        let waits = |name: &str, state: &str| (name.to_owned(), state.to_owned());
        let expected = [waits("feed", "pending"), waits("other", "active")];
        assert_eq!(relay.rule_states()?, expected, "{}", relay.log());
        let status = relay.status()?;
        let reason = status["rules"][0]["reason"].to_string();
        assert!(reason.contains("takes a TAP device on XDP"), "{reason}");
        assert!(reason.contains("take `local` out of the rule"), "{reason}");
        relay.stop()?;
    }
    Ok(())
}
