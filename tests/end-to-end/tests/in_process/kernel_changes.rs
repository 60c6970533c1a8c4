//! The kernel side is changed interface by interface and flow by flow, while frames arrive: what is
//! done for one leaves the others alone, and counters go on.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use relay::config::{
    self,
    rules::{Limit, PortMatch},
};
use relay::daemon::this_machine;
use relay::datapath::xdp::{self, XdpWorker};
use relay::kernel::{Kernel, KernelError, OwnSource};
use relay::plan::{Backend, FlowKey, Interface, Mode, Plan};
use relay_common::abi::{Counter, MAX_INTERFACES, MAX_NEAR_INTERFACES};
use relay_common::wire::Vlan;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::sender::UdpSender;
use relay_tests::topology::Testbed;

/// Two inputs, each with a rule for [`GROUP_IN`], and one output.
struct Setting {
    bed: Testbed,
    plan: Plan,
    kernel: Kernel,
}

impl Setting {
    fn new() -> Result<Self> {
        let bed = Testbed::builder().inputs(2).without_capture().build()?;
        let rules = [0, 1].map(|at| {
            let input = format!("in{at}");
            Rule::new(format!("rule {at}"), &input, GROUP_IN, PORT_IN).outputs("out0", 1)
        });
        let plan = bed.relay.run(|| {
            let document = config::parse("test.toml", &to_toml(&rules));
            let document = document.map_err(|error| anyhow!("{error}"))?;
            this_machine::for_this_machine(&document, Some(Backend::Xdp))
                .map_err(|error| anyhow!("{error}"))
        })?;
        let kernel = Kernel::new();
        Ok(Self { bed, plan, kernel })
    }

    fn input(&self, at: usize) -> Result<Interface> {
        let name = &self.bed.inputs[at].interface;
        let mut interfaces = self.plan.interfaces.iter();
        let found = interfaces.find(|interface| &interface.name == name);
        found.cloned().context("the input")
    }

    fn key(&self, at: usize) -> Result<FlowKey> {
        Ok(key(self.input(at)?.index, PORT_IN))
    }

    /// Serves an input, attaches the program to it, and opens its rule.
    fn take_up(&mut self, at: usize, limit: Option<Limit>) -> Result<()> {
        let (input, key) = (self.input(at)?, self.key(at)?);
        let kernel = &mut self.kernel;
        self.bed.relay.run(|| {
            kernel.serve(&input)?;
            Ok(kernel.attach(&input)?)
        })?;
        Ok(kernel.open(&key, Backend::Xdp, 0, "a", limit)?)
    }

    /// Sends datagrams of an input's rule, and waits until `counter` of the input has become
    /// `expected`.
    #[track_caller]
    fn send(&self, at: usize, count: usize, counter: Counter, expected: u64) -> Result<()> {
        let sender = UdpSender::open(&self.bed.sources[at])?;
        for _ in 0..count {
            sender.send_one(GROUP_IN, PORT_IN, b"a datagram")?;
        }
        self.wait(at, &[counter], expected)
    }

    /// Waits until the sum of `counters` of an input has become `expected`.
    fn wait(&self, at: usize, counters: &[Counter], expected: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let now = self.counter(at, counters)?;
            if now == expected {
                return Ok(());
            }
            let name = counters[0].name();
            ensure!(Instant::now() < deadline, "{name} of in{at} is {now}");
            thread::yield_now();
        }
    }

    /// Datagrams above the limits of all rules.
    fn over_limits(&self) -> u64 {
        self.kernel.over_limits().map(|(_, over)| over).sum()
    }

    fn counter(&self, at: usize, counters: &[Counter]) -> Result<u64> {
        let values = self.kernel.counters(self.input(at)?.index);
        let values = values.context("counters")?;
        Ok(counters.iter().map(|one| values[*one as usize]).sum())
    }
}

fn key(interface: u32, port: u16) -> FlowKey {
    FlowKey {
        interface,
        vlan: Vlan::UNTAGGED,
        group: GROUP_IN.into(),
        ports: PortMatch::One(port),
        source: None,
    }
}

/// No socket is set in most tests: what matches counts as this, and the Linux stack gets it.
const MATCHED: Counter = Counter::PassNoSocket;

#[test]
fn an_interface_comes_and_goes_while_the_other_goes_on() -> Result<()> {
    let mut on = Setting::new()?;
    on.take_up(0, None)?;
    let (first, second) = (on.input(0)?, on.input(1)?);
    assert!(on.bed.inputs[0].has_xdp_program()?);
    assert!(!on.bed.inputs[1].has_xdp_program()?);
    assert!(on.kernel.program_on(first.index).is_some());
    assert_eq!(on.kernel.program_on(second.index), None);
    assert!(on.kernel.counters(second.index).is_none());
    on.send(0, 3, MATCHED, 3)?;

    on.take_up(1, None)?;
    on.send(1, 2, MATCHED, 2)?;
    on.send(0, 1, MATCHED, 4)?;

    on.kernel.close(&on.key(0)?, Backend::Xdp);
    on.send(0, 1, Counter::PassNoRule, 1)?;
    on.kernel.unserve(first.index);
    on.kernel.detach(&[first.index]);
    assert!(!on.bed.inputs[0].has_xdp_program()?);
    assert!(on.bed.inputs[1].has_xdp_program()?);
    assert_eq!(on.kernel.program_on(first.index), None);
    on.send(1, 2, MATCHED, 4)?;

    on.take_up(0, None)?;
    on.send(0, 1, MATCHED, 5)?;
    assert_eq!(on.counter(0, &[Counter::PassNoRule])?, 1);
    let Setting { bed, kernel, .. } = on;
    drop(kernel);
    for input in &bed.inputs {
        assert!(!input.has_xdp_program()?);
    }
    Ok(())
}

#[test]
fn a_frame_that_arrives_where_the_program_is_attached_and_nothing_is_served_counts_nowhere()
-> Result<()> {
    let mut on = Setting::new()?;
    let input = on.input(0)?;
    on.bed.relay.run(|| Ok(on.kernel.attach(&input)?))?;
    let arrived = || on.bed.inputs[0].frames_received();
    let before = arrived()?;
    UdpSender::open(&on.bed.sources[0])?.send_one(GROUP_IN, PORT_IN, b"early")?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while arrived()? == before {
        ensure!(Instant::now() < deadline, "it has not reached the stack");
    }
    on.kernel.serve(&input)?;
    assert_eq!(on.counter(0, &[Counter::Received])?, 0);
    // Served, and no flow is open.
    on.send(0, 1, Counter::PassNoRule, 1)
}

#[test]
fn an_interface_that_was_made_anew_with_its_index_is_attached_anew() -> Result<()> {
    let mut on = Setting::new()?;
    on.take_up(0, None)?;
    let input = on.input(0)?;
    let relay = &on.bed.relay;
    relay.ip("link delete in0")?;
    relay.ip(&format!(
        "link add name in0 index {} type veth peer name far",
        input.index
    ))?;
    relay.ip("link set in0 up")?;
    assert!(!on.bed.inputs[0].has_xdp_program()?);
    relay.run(|| Ok(on.kernel.attach(&input)?))?;
    assert!(on.bed.inputs[0].has_xdp_program()?);
    relay.run(|| Ok(on.kernel.attach(&input)?))?;
    on.kernel.detach(&[input.index]);
    assert!(!on.bed.inputs[0].has_xdp_program()?);
    Ok(())
}

#[test]
fn a_socket_gets_frames_from_when_it_is_set_until_it_is_cleared() -> Result<()> {
    let mut on = Setting::new()?;
    on.take_up(0, None)?;
    on.send(0, 1, MATCHED, 1)?;
    let (worker, remote) = on.bed.relay.run(|| {
        let planned = on.plan.workers.first().context("a worker")?;
        let chunks = xdp::chunk_count(planned, Mode::Copy);
        let (mut worker, remote) =
            XdpWorker::bind(&on.plan, planned, Mode::Copy, chunks, None, &Arc::default())?;
        worker.fill()?;
        Ok((worker, remote))
    })?;
    let index = on.input(0)?.index;
    let mut sockets = remote.receiving_sockets();
    let socket = sockets.find(|socket| socket.interface == index);
    let fd = socket.context("a socket of in0")?.fd;
    drop(sockets);
    on.kernel.set_socket(index, 0, fd)?;
    on.send(0, 2, Counter::Redirected, 2)?;
    on.kernel.clear_socket(index, 0);
    on.kernel.clear_socket(index, 0);
    on.send(0, 1, MATCHED, 2)?;
    on.kernel.set_socket(index, 0, fd)?;
    on.send(0, 1, Counter::Redirected, 3)?;
    // An interface that is served again starts without sockets.
    on.kernel.unserve(index);
    let refused = on.kernel.set_socket(index, 0, fd);
    assert!(
        matches!(refused, Err(KernelError::NotLoaded(_))),
        "{refused:?}"
    );
    on.kernel.serve(&on.input(0)?)?;
    on.send(0, 1, MATCHED, 3)?;
    drop(worker);
    Ok(())
}

#[test]
fn a_limit_that_stays_keeps_its_bucket_and_the_count_goes_on_over_every_change() -> Result<()> {
    let limit = |burst| {
        Some(Limit {
            packets_per_second: 1,
            burst,
        })
    };
    let mut on = Setting::new()?;
    on.take_up(0, limit(2))?;
    let key = on.key(0)?;
    on.send(0, 5, Counter::OverLimit, 3)?;
    assert_eq!(on.over_limits(), 3);
    // The rule has another number, and the limit is the same.
    on.kernel.open(&key, Backend::Xdp, 7, "a", limit(2))?;
    on.send(0, 1, Counter::OverLimit, 4)?;
    // Another limit has its burst.
    on.kernel.open(&key, Backend::Xdp, 7, "a", limit(10))?;
    on.send(0, 10, MATCHED, 12)?;
    assert_eq!(on.over_limits(), 4);
    on.send(0, 1, Counter::OverLimit, 5)?;
    // No limit.
    on.kernel.open(&key, Backend::Xdp, 7, "a", None)?;
    on.send(0, 100, MATCHED, 112)?;
    assert_eq!(on.over_limits(), 5);
    on.kernel.open(&key, Backend::Xdp, 7, "a", limit(1))?;
    on.send(0, 2, Counter::OverLimit, 6)?;
    assert_eq!(on.kernel.close(&key, Backend::Xdp), 6);
    assert_eq!(on.over_limits(), 0);
    assert_eq!(on.kernel.close(&key, Backend::Xdp), 0);
    // Open again, it is a new flow.
    on.kernel.open(&key, Backend::Xdp, 7, "a", limit(2))?;
    on.send(0, 3, Counter::OverLimit, 7)?;
    assert_eq!(on.over_limits(), 1);
    Ok(())
}

#[test]
fn flows_of_one_rule_share_its_limit_and_the_last_one_takes_the_count() -> Result<()> {
    let limit = Some(Limit {
        packets_per_second: 1,
        burst: 4,
    });
    let mut on = Setting::new()?;
    on.take_up(0, limit)?;
    let first = on.key(0)?;
    let second = key(first.interface, PORT_IN + 1);
    on.kernel.open(&second, Backend::Xdp, 0, "a", limit)?;
    let sender = UdpSender::open(&on.bed.sources[0])?;
    for port in [
        PORT_IN,
        PORT_IN,
        PORT_IN,
        PORT_IN + 1,
        PORT_IN + 1,
        PORT_IN + 1,
    ] {
        sender.send_one(GROUP_IN, port, b"a datagram")?;
    }
    on.wait(0, &[Counter::OverLimit], 2)?;
    assert_eq!(on.over_limits(), 2);
    // Another rule has a limit of its own.
    let third = key(first.interface, PORT_IN + 2);
    on.kernel.open(&third, Backend::Xdp, 1, "b", limit)?;
    sender.send_one(GROUP_IN, PORT_IN + 2, b"a datagram")?;
    on.wait(0, &[MATCHED], 5)?;
    assert_eq!(on.kernel.close(&first, Backend::Xdp), 0);
    assert_eq!(on.over_limits(), 2);
    assert_eq!(on.kernel.close(&second, Backend::Xdp), 2);
    assert_eq!(on.over_limits(), 0);
    Ok(())
}

#[test]
fn a_flow_that_is_changed_under_traffic_misses_no_frame() -> Result<()> {
    const FRAMES: usize = 50_000;
    let mut on = Setting::new()?;
    on.take_up(0, None)?;
    let key = on.key(0)?;
    let sender = UdpSender::open(&on.bed.sources[0])?;
    let changes = thread::scope(|scope| -> Result<u32> {
        let sending = scope.spawn(|| -> Result<()> {
            (0..FRAMES).try_for_each(|_| sender.send_one(GROUP_IN, PORT_IN, b"a datagram"))
        });
        let mut changes = 0;
        while !sending.is_finished() {
            let limit = Limit {
                packets_per_second: Limit::MAX_RATE,
                burst: Limit::MAX_BURST - changes % 2,
            };
            let limit = (changes % 3 != 0).then_some(limit);
            on.kernel.open(&key, Backend::Xdp, changes, "a", limit)?;
            changes += 1;
        }
        sending
            .join()
            .map_err(|_| anyhow!("the sender panicked"))??;
        Ok(changes)
    })?;
    assert!(changes > 100, "{changes} changes");
    on.wait(0, &[MATCHED], FRAMES as u64)?;
    assert_eq!(on.counter(0, &[Counter::PassNoRule])?, 0);
    Ok(())
}

#[test]
fn a_detach_waits_for_the_umem_once_and_only_where_zero_copy_was_on_a_device_that_is_there()
-> Result<()> {
    const RELEASE: Duration = Duration::from_millis(150);
    let mut on = Setting::new()?;
    let inputs = [on.input(0)?, on.input(1)?];
    let zero_copy = inputs.clone().map(|input| Interface {
        expected_mode: Some(Mode::ZeroCopy),
        ..input
    });
    let detach = |on: &mut Setting, attached: &[Interface], gone: bool| -> Result<Duration> {
        let (relay, kernel) = (&on.bed.relay, &mut on.kernel);
        relay.run(|| Ok(attached.iter().try_for_each(|one| kernel.attach(one))?))?;
        if gone {
            relay.ip("link delete in0")?;
        }
        let indices: Vec<u32> = attached.iter().map(|one| one.index).collect();
        let begun = Instant::now();
        kernel.detach(&indices);
        Ok(begun.elapsed())
    };
    // The shortest of three, since the machine may be busy.
    let mut shortest = |attached: &[Interface]| -> Result<Duration> {
        let mut shortest = Duration::MAX;
        for _ in 0..3 {
            shortest = shortest.min(detach(&mut on, attached, false)?);
        }
        Ok(shortest)
    };
    let (copy, one, both) = (
        shortest(&inputs)?,
        shortest(&zero_copy[..1])?,
        shortest(&zero_copy)?,
    );
    let gone = detach(&mut on, &zero_copy[..1], true)?;
    assert!(copy < RELEASE, "{copy:?}");
    assert!(one >= RELEASE, "{one:?}");
    assert!(both >= RELEASE && both < 2 * RELEASE, "{both:?}");
    assert!(gone < RELEASE, "{gone:?}");
    Ok(())
}

#[test]
fn there_is_room_for_4096_limits_or_twice_what_was_expected() -> Result<()> {
    let limit = |rate| {
        Some(Limit {
            packets_per_second: rate,
            burst: 1,
        })
    };
    for (expected, room) in [(0, 4096), (2049, 4098)] {
        let mut kernel = Kernel::new();
        kernel.expect_limits(expected);
        let input = Interface {
            backend: Backend::IoUring,
            ..Setting::new()?.input(0)?
        };
        kernel.serve(&input)?;
        let mut open = |port, limit| {
            let key = key(input.index, port);
            kernel.open(&key, Backend::IoUring, 0, &format!("rule {port}"), limit)
        };
        for port in 1..=room {
            open(port, limit(5))?;
        }
        let refused = open(room + 1, limit(5));
        let said = refused.err().context("no room")?.to_string();
        assert!(said.contains(&format!("rule {}", room + 1)), "{said}");
        assert!(said.contains(&format!("room for {room} limits")), "{said}");
        open(room + 1, None)?;
        // The others keep theirs; one that is changed needs a free place for a moment.
        open(1, limit(5))?;
        open(2, None)?;
        open(1, limit(6))?;
        open(2, limit(6))?;
        let refused = open(room + 1, limit(5));
        assert!(refused.is_err());
    }
    Ok(())
}

#[test]
fn own_sources_are_replaced_in_loaded_programs_and_known_to_later_ones() -> Result<()> {
    let mut on = Setting::new()?;
    let source = &on.bed.sources[0];
    let (mac, address) = (
        OwnSource::Mac(source.mac),
        OwnSource::Address(source.address),
    );
    let other = OwnSource::Address(Ipv4Addr::new(192, 0, 2, 1));
    on.kernel.set_own_sources(&BTreeSet::from([mac, other]))?;
    on.take_up(0, None)?;
    on.send(0, 1, Counter::OwnFrame, 1)?;
    on.kernel
        .set_own_sources(&BTreeSet::from([address, other]))?;
    on.send(0, 1, Counter::OwnFrame, 2)?;
    on.kernel.set_own_sources(&BTreeSet::from([other]))?;
    on.send(0, 1, MATCHED, 1)?;
    on.kernel.set_own_sources(&BTreeSet::from([other, mac]))?;
    on.send(0, 1, Counter::OwnFrame, 3)
}

/// The program looks for an interface in an array first, where two may want one place.
#[test]
fn of_two_interfaces_that_want_one_place_each_is_served_whoever_has_it() -> Result<()> {
    let mut on = Setting::new()?;
    let input = on.input(0)?;
    let other = Interface {
        index: input.index + MAX_NEAR_INTERFACES,
        ..input.clone()
    };
    on.kernel.serve(&other)?;
    on.take_up(0, None)?;
    on.send(0, 1, MATCHED, 1)?;
    on.kernel.unserve(other.index);
    on.send(0, 1, MATCHED, 2)?;
    // Written once more, this time into the place.
    on.kernel.serve(&input)?;
    on.kernel.serve(&other)?;
    on.send(0, 1, MATCHED, 3)?;
    on.kernel.unserve(other.index);
    on.send(0, 1, MATCHED, 4)?;

    on.kernel.unserve(input.index);
    on.kernel.serve(&other)?;
    UdpSender::open(&on.bed.sources[0])?.send_one(GROUP_IN, PORT_IN, b"nobody counts this")?;
    on.take_up(1, None)?;
    on.send(1, 1, MATCHED, 1)?;
    let counters = on.kernel.counters(other.index).context("counters")?;
    assert_eq!(counters, [0; Counter::COUNT as usize]);
    Ok(())
}

#[test]
fn a_slot_that_another_interface_had_starts_at_zero() -> Result<()> {
    let mut on = Setting::new()?;
    on.take_up(0, None)?;
    on.send(0, 3, MATCHED, 3)?;
    let input = on.input(0)?;
    on.kernel.unserve(input.index);
    let at = |index| Interface {
        index,
        ..input.clone()
    };
    // Every slot but the one that is free again is taken first.
    let others = 10_000..10_000 + MAX_INTERFACES;
    let last = others.end - 1;
    for index in others {
        on.kernel.serve(&at(index))?;
        let none = on.kernel.counters(input.index).is_none();
        assert_eq!(none, index == last, "{index}");
    }
    let counters = on.kernel.counters(last).context("the last one")?;
    assert!(counters.iter().all(|&counter| counter == 0), "{counters:?}");
    let of_name = on.kernel.counters_of(&input.name).context("the name")?;
    assert_eq!(of_name[MATCHED as usize], 3, "by name they go on");
    let refused = on.kernel.serve(&input);
    assert!(
        matches!(refused, Err(KernelError::TooManyInterfaces { .. })),
        "{refused:?}"
    );
    on.kernel.unserve(last - 1);
    on.take_up(0, None)?;
    on.send(0, 1, MATCHED, 1)
}

#[test]
fn counters_go_on_when_an_interface_changes_its_backend() -> Result<()> {
    let mut on = Setting::new()?;
    on.take_up(0, None)?;
    on.send(0, 2, MATCHED, 2)?;
    let io_uring = Interface {
        backend: Backend::IoUring,
        ..on.input(0)?
    };
    on.kernel.serve(&io_uring)?;
    assert_eq!(on.counter(0, &[MATCHED])?, 2);
    // The XDP program does not count it any more, and the filter is on no socket.
    UdpSender::open(&on.bed.sources[0])?.send_one(GROUP_IN, PORT_IN, b"nobody counts this")?;
    on.kernel.serve(&on.input(0)?)?;
    on.send(0, 1, MATCHED, 3)
}
