//! Against the kernel: each test makes a network namespace of its own and needs root.

use std::{
    path::PathBuf,
    sync::atomic::AtomicU32,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    config,
    host::{self, facts_for},
    plan::{self, Backend, Constraints},
    testing::{in_namespace, run},
};
use Offload::{Gro, StripServiceTag, StripTag, UdpGroForwarding};

/// A folder of its own that is removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("relay-offloads-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// A relay that has its records here.
    fn relay(&self) -> Offloads {
        Offloads {
            folder: self.0.clone(),
            ..Offloads::default()
        }
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).map_or(0, Iterator::count)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes in0 and out0, of which in0 strips both kinds of tags.
fn pair() {
    run(
        "ip link add name in0 address 02:00:00:00:00:71 index 71 type veth peer name out0 index 72",
    );
    run("ip address add 10.1.0.1/24 dev out0");
    run("ip link set in0 up");
    run("ip link set out0 up");
    switch("on on");
}

/// Switches the two kinds as `ethtool` does.
fn switch(states: &str) {
    let (tag, service) = states.split_once(' ').unwrap();
    run(&format!(
        "ethtool -K in0 rx-vlan-hw-parse {tag} rx-vlan-stag-hw-parse {service}"
    ));
}

/// What is on that takes tags out of frames.
fn on() -> Vec<Offload> {
    let unwanted = host::facts("in0").unwrap().offloads.unwanted;
    unwanted.into_iter().filter(|one| one.strips()).collect()
}

/// A plan from in0 to out0 as the relay makes it: what it has switched counts as it was.
fn planned(offloads: &mut Offloads, manage: bool) -> Plan {
    planned_on(None, offloads, manage)
}

fn planned_on(forced: Option<Backend>, offloads: &mut Offloads, manage: bool) -> Plan {
    let manage = if manage { "manage" } else { "keep" };
    let text = format!(
        "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", group = \"239.1.1.1\", port = 1 }}\n\
         outputs = [{{ interface = \"out0\" }}]\n\
         [[interfaces]]\nname = \"in0\"\noffloads = \"{manage}\"\n"
    );
    let mut facts = facts_for(["in0", "out0"], &BTreeSet::new(), Vec::new());
    let offloads_stay = offloads.leave_out_of(&mut facts);
    let constraints = Constraints {
        forced,
        offloads_stay,
        ..Constraints::default()
    };
    plan::build(
        &config::parse("relay.toml", &text).unwrap(),
        &facts,
        &constraints,
    )
    .unwrap()
}

fn switch_off(offloads: &mut Offloads, plan: &Plan) {
    for interface in plan
        .interfaces
        .iter()
        .filter(|one| !one.offloads.is_empty())
    {
        offloads.switch_at(interface).unwrap();
    }
}

/// in0 managed by a relay that claims it.
fn managed(folder: &Folder) -> (Offloads, Claims) {
    let mut offloads = folder.relay();
    let plan = planned(&mut offloads, true);
    let claims = Claims::of(&plan).unwrap();
    switch_off(&mut offloads, &plan);
    (offloads, claims)
}

#[test]
fn what_was_on_is_off_while_it_is_wanted_and_on_again_afterwards() {
    in_namespace(|| {
        pair();
        let folder = Folder::new();
        for states in ["on on", "on off", "off on"] {
            switch(states);
            let before = on();
            let (mut offloads, claims) = managed(&folder);
            assert_eq!((on(), folder.files()), (vec![], 1), "{states}");
            // Every further plan is the same.
            let plan = planned(&mut offloads, true);
            assert_eq!(plan.interfaces.iter().next().unwrap().offloads[..], before);
            switch_off(&mut offloads, &plan);
            offloads.give_back_others(&plan, &claims);
            assert_eq!(on(), [], "{states}");
            let plan = planned(&mut offloads, false);
            offloads.give_back_others(&plan, &claims);
            assert_eq!((on(), folder.files()), (before, 0), "{states}");
        }
        switch("off off");
        let (mut offloads, claims) = managed(&folder);
        offloads.give_back_all(&claims);
        assert_eq!((on(), folder.files()), (vec![], 0), "it was off before");
    });
}

#[test]
fn what_another_process_switches_on_again_is_left_alone() {
    in_namespace(|| {
        pair();
        let folder = Folder::new();
        let (mut offloads, claims) = managed(&folder);
        switch("on off");
        let plan = planned(&mut offloads, true);
        assert_eq!(plan.interfaces.iter().next().unwrap().offloads[..], []);
        offloads.give_back_others(&plan, &claims);
        // The other one is still the relay's.
        assert_eq!((on(), folder.files()), (vec![StripTag, StripServiceTag], 0));
        drop(claims);
        // Without a look at it in between.
        switch("on on");
        let (mut offloads, claims) = managed(&folder);
        switch("off on");
        offloads.give_back_all(&claims);
        assert_eq!((on(), folder.files()), (vec![StripTag, StripServiceTag], 0));
    });
}

#[test]
fn the_next_relay_gives_back_what_a_killed_one_left_off() {
    in_namespace(|| {
        pair();
        let folder = Folder::new();
        let (offloads, claims) = managed(&folder);
        // While the first one lives, it is not touched.
        let mut other = folder.relay();
        other.give_back_left(&BTreeSet::new());
        other.give_back_left(&BTreeSet::from(["in0"]));
        assert_eq!((on(), folder.files()), (vec![], 1));
        assert!(other.held.is_empty());
        drop((offloads, claims));

        let mut next = folder.relay();
        next.give_back_left(&BTreeSet::from(["in0"]));
        assert_eq!((on(), folder.files()), (vec![], 1), "wanted off");
        let plan = planned(&mut next, true);
        assert_eq!(
            plan.interfaces.iter().next().unwrap().offloads[..],
            [StripTag, StripServiceTag],
            "planned as if the first one had not been"
        );
        let claims = Claims::of(&plan).unwrap();
        switch_off(&mut next, &plan);
        next.give_back_others(&plan, &claims);
        assert_eq!((on(), folder.files()), (vec![], 1), "taken over");
        next.give_back_all(&claims);
        assert_eq!((on(), folder.files()), (vec![StripTag, StripServiceTag], 0));
        drop((next, claims));

        // One that ends before it has taken it over.
        drop(managed(&folder));
        let mut next = folder.relay();
        next.give_back_left(&BTreeSet::from(["in0"]));
        next.give_back_all(&Claims::default());
        assert_eq!((on(), folder.files()), (vec![StripTag, StripServiceTag], 0));

        drop(managed(&folder));
        let mut next = folder.relay();
        next.give_back_left(&BTreeSet::from(["out0"]));
        assert_eq!((on(), folder.files()), (vec![StripTag, StripServiceTag], 0));
    });
}

#[test]
fn what_was_switched_on_after_the_kill_is_switched_off_and_on_by_the_next_relay_as_its_own() {
    in_namespace(|| {
        pair();
        let folder = Folder::new();
        drop(managed(&folder));
        switch("on off");
        let mut next = folder.relay();
        next.give_back_left(&BTreeSet::from(["in0"]));
        let plan = planned(&mut next, true);
        let claims = Claims::of(&plan).unwrap();
        switch_off(&mut next, &plan);
        assert_eq!(on(), []);
        next.give_back_all(&claims);
        assert_eq!((on(), folder.files()), (vec![StripTag, StripServiceTag], 0));
    });
}

#[test]
fn on_io_uring_gro_is_on_while_it_is_wanted_and_what_was_off_is_off_again() {
    in_namespace(|| {
        pair();
        let joins = || {
            let unwanted = host::facts("in0").unwrap().offloads.unwanted;
            unwanted.into_iter().filter(|one| one.joins()).collect()
        };
        let io_uring = Some(Backend::IoUring);
        for (states, before) in [
            (["off", "off"], vec![Gro, UdpGroForwarding]),
            (["on", "off"], vec![UdpGroForwarding]),
            (["off", "on"], vec![Gro]),
        ] {
            let [gro, forwarding] = states;
            run(&format!(
                "ethtool -K in0 gro {gro} rx-udp-gro-forwarding {forwarding}"
            ));
            assert_eq!(joins(), before, "{states:?}");
            let folder = Folder::new();
            let mut offloads = folder.relay();
            let plan = planned_on(io_uring, &mut offloads, true);
            let claims = Claims::of(&plan).unwrap();
            switch_off(&mut offloads, &plan);
            assert_eq!(joins(), [], "{states:?}");
            // Every further plan is the same.
            let again = planned_on(io_uring, &mut offloads, true);
            assert_eq!(plan, again, "{states:?}");
            // On XDP, nothing is to be gained.
            offloads.give_back_others(&planned(&mut folder.relay(), true), &claims);
            assert_eq!(joins(), before, "{states:?}");
            switch_off(&mut offloads, &plan);
            assert_eq!((joins(), folder.files()), (vec![], 1), "{states:?}");
            // As if it was killed. A child that another test starts at this moment may still hold
            // the claim, until it becomes another program.
            drop((offloads, claims));
            let deadline = Instant::now() + Duration::from_secs(2);
            while folder.files() > 0 && Instant::now() < deadline {
                folder.relay().give_back_left(&BTreeSet::new());
            }
            assert_eq!((joins(), folder.files()), (before, 0), "{states:?}");
        }
    });
}

#[test]
fn a_record_of_an_earlier_version_is_understood() {
    let text = r#"{"interface":"in0","index":71,"mac":[2,0,0,0,0,113],"off":["rx-vlan-hw-parse"]}"#;
    let record: Record = serde_json::from_str(text).unwrap();
    assert_eq!(record.switched[..], [StripTag]);
    assert_eq!(serde_json::to_string(&record).unwrap(), text);
    let both = Record {
        switched: vec![UdpGroForwarding, StripTag].into(),
        ..record
    };
    let text = serde_json::to_string(&both).unwrap();
    let lists = r#""off":["rx-vlan-hw-parse"],"on":["rx-udp-gro-forwarding"]}"#;
    assert!(text.ends_with(lists), "{text}");
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), both);
}

#[test]
fn a_record_of_an_interface_that_has_gone_is_of_no_other_one() {
    in_namespace(|| {
        let folder = Folder::new();
        for again in ["", "address 02:00:00:00:00:99"] {
            pair();
            drop(managed(&folder));
            assert_eq!(folder.files(), 1);
            run("ip link delete in0");
            if !again.is_empty() {
                pair();
                run(&format!("ip link set in0 {again}"));
                switch("off off");
            }
            folder.relay().give_back_left(&BTreeSet::new());
            assert_eq!(folder.files(), 0, "{again}");
            if !again.is_empty() {
                assert_eq!(on(), []);
            }
        }
        // One that goes while the relay runs.
        switch("on on");
        let (mut offloads, _claims) = managed(&folder);
        assert_eq!(folder.files(), 1);
        run("ip link delete in0");
        offloads.forget(71);
        assert_eq!(folder.files(), 0);
    });
}

#[test]
fn another_network_namespace_has_records_of_its_own() {
    let folder = Folder::new();
    in_namespace(|| {
        pair();
        drop(managed(&folder));
    });
    in_namespace(|| {
        pair();
        switch("off off");
        folder.relay().give_back_left(&BTreeSet::new());
        assert_eq!((on(), folder.files()), (vec![], 1));
    });
}

#[test]
fn nothing_is_switched_off_where_it_cannot_be_written_down() {
    in_namespace(|| {
        pair();
        let before = on();
        let file = Folder::new();
        std::fs::write(&file.0, "").unwrap();
        let mut offloads = file.relay();
        let plan = planned(&mut offloads, true);
        let in0 = plan.interfaces.iter().next().unwrap();
        let refused = offloads.switch_at(in0).unwrap_err().to_string();
        std::fs::remove_file(&file.0).unwrap();
        let said = "cannot have rx-vlan-hw-parse off and rx-vlan-stag-hw-parse off at in0: writing \
                    down in ";
        assert!(refused.starts_with(said), "{refused}");
        assert_eq!(on(), before);
    });
}

/// A relay that was confined after it had switched them, for example.
#[test]
fn what_the_kernel_refuses_to_switch_back_stays_written_down_beside_what_is_still_wanted() {
    in_namespace(|| {
        pair();
        let folder = Folder::new();
        let before = on();
        let (mut offloads, claims) = managed(&folder);
        let mut plan = planned(&mut offloads, true);
        for interface in &mut plan.interfaces {
            let strip_tag = interface.offloads.iter().filter(|one| **one == StripTag);
            interface.offloads = strip_tag.copied().collect::<Vec<_>>().into();
        }
        std::thread::scope(|scope| {
            let without_rights = scope.spawn(|| {
                crate::daemon::privileges::give_up::give_up(&[]).unwrap();
                offloads.give_back_others(&plan, &claims);
            });
            without_rights.join().unwrap();
        });
        assert_eq!((on(), folder.files()), (vec![], 1));
        // Killed, and the next one starts.
        drop((offloads, claims));
        folder.relay().give_back_left(&BTreeSet::new());
        assert_eq!((on(), folder.files()), (before, 0));
    });
}
