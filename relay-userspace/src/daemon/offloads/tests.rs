//! Against the kernel: each test makes a network namespace of its own and needs root.

use std::{path::PathBuf, sync::atomic::AtomicU32};

use super::*;
use crate::{
    config,
    host::{self, facts_for},
    plan::{self, Constraints},
    testing::{in_namespace, run},
};
use VlanOffload::{StripServiceTag, StripTag};

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

fn on() -> Vec<VlanOffload> {
    host::facts("in0").unwrap().vlan_offloads.on
}

/// A plan from in0 to out0 as the relay makes it: what it has switched off counts as on.
fn planned(offloads: &mut Offloads, manage: bool) -> Plan {
    let manage = if manage { "manage" } else { "keep" };
    let text = format!(
        "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", group = \"239.1.1.1\", port = 1 }}\n\
         outputs = [{{ interface = \"out0\" }}]\n\
         [[interfaces]]\nname = \"in0\"\noffloads = \"{manage}\"\n"
    );
    let mut facts = facts_for(["in0", "out0"], &BTreeSet::new(), Vec::new());
    let offloads_stay = offloads.leave_out_of(&mut facts);
    let constraints = Constraints {
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
        .filter(|one| !one.offloads_off.is_empty())
    {
        offloads.switch_off_at(interface).unwrap();
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
            assert_eq!(plan.interfaces.iter().next().unwrap().offloads_off, before);
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
        assert_eq!(plan.interfaces.iter().next().unwrap().offloads_off, []);
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
            plan.interfaces.iter().next().unwrap().offloads_off,
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
        let refused = offloads.switch_off_at(in0).unwrap_err().to_string();
        std::fs::remove_file(&file.0).unwrap();
        let said = "cannot switch rx-vlan-hw-parse and rx-vlan-stag-hw-parse of in0 off: writing \
                    down in ";
        assert!(refused.starts_with(said), "{refused}");
        assert_eq!(on(), before);
    });
}
