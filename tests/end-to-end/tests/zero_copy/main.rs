//! Zero copy, on the drivers that do it: runs in the virtual machine of `cargo xtask test
//! --zero-copy`, where the NICs of [`relay_tests::lab`] are.
//!
//! The relay chooses backend and mode everywhere, as in production, and the tests check its choice
//! beside what arrived. On a kernel whose drivers do not do zero copy yet, the same tests expect
//! copy mode.

mod changes;
mod chunks;
mod faults;
mod forwarding;
mod gso_tags;
mod headers;
mod hot_plug;
mod local;
mod matching;
mod modes;
mod tags;
mod traffic;
mod unicast;

use anyhow::Result;
use relay_tests::backend::Backend;
use relay_tests::lab::{self, Nic};
use relay_tests::relay::Stopped;
use relay_tests::rules::Rule;
use relay_tests::scenario::Receivers;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// The relay's NICs: one for the input, and one for each output in turn.
#[derive(Clone, Copy)]
struct Nics {
    input: Nic,
    outputs: [Nic; 3],
}

const IGB: Nics = Nics {
    input: Nic::Igb,
    outputs: [Nic::Igb; 3],
};

const VIRTIO: Nics = Nics {
    input: Nic::Virtio,
    outputs: [Nic::Virtio; 3],
};

const MIXED: Nics = Nics {
    input: Nic::Igb,
    outputs: [Nic::Virtio, Nic::Igb, Nic::Virtio],
};

const MIXED_THE_OTHER_WAY: Nics = Nics {
    input: Nic::Virtio,
    outputs: [Nic::Igb, Nic::Virtio, Nic::Igb],
};

impl Nics {
    /// A testbed with as many output interfaces as given.
    fn testbed(&self, outputs: usize) -> Result<Testbed> {
        lab::testbed(&[self.input], &self.outputs[..outputs])
    }

    /// A testbed with two inputs of the same kind, and two output interfaces.
    fn testbed_of_two_inputs(&self) -> Result<Testbed> {
        lab::testbed(&[self.input; 2], &self.outputs[..2])
    }

    /// The mode that the relay must choose: zero copy if the drivers of all NICs do it.
    fn mode(&self) -> Result<&'static str> {
        let mut zero_copy = self.input.does_zero_copy()?;
        for output in self.outputs {
            zero_copy &= output.does_zero_copy()?;
        }
        Ok(if zero_copy { "zero-copy" } else { "copy" })
    }

    /// Fails unless report and log say that every interface is in that mode.
    #[track_caller]
    fn assert_mode(&self, stopped: &Stopped) -> Result<()> {
        let mode = self.mode()?;
        for interface in &stopped.report.interfaces {
            assert_eq!(interface.backend, Backend::Xdp, "{stopped:#?}");
            assert_eq!(interface.mode.as_deref(), Some(mode), "{stopped:#?}");
            let begin = format!("{} (driver ", interface.name);
            let said = format!("): {} mode", mode.replace('-', " "));
            let mut lines = stopped.log.lines();
            let found = lines.any(|line| line.contains(&begin) && line.contains(&said));
            assert!(found, "`{begin}...{said}` in:\n{}", stopped.log);
        }
        Ok(())
    }

    /// [`forward`]; also fails unless all interfaces are in the expected mode and send by TX rings.
    fn forward(&self, bed: &Testbed, rule: &Rule, count: u64, size: usize) -> Result<Stopped> {
        let stopped = forward(bed, rule, count, size)?;
        self.assert_mode(&stopped)?;
        let rules = std::slice::from_ref(rule);
        stopped.report.assert_tx_method(rules, "xsk")?;
        Ok(stopped)
    }
}

/// Runs the relay, sends, and fails unless every output is exact and the relay's account agrees.
fn forward(bed: &Testbed, rule: &Rule, count: u64, size: usize) -> Result<Stopped> {
    let rules = std::slice::from_ref(rule);
    let stream = Stream::new(0, count, size);
    let receivers = Receivers::start(bed, rules)?;
    let relay = lab::start(bed, rules)?;
    lab::send(bed, rule, &stream, &receivers)?;
    receivers.assert_exact(&[stream]);
    let stopped = relay.stop()?;
    assert!(stopped.status.success(), "{stopped:#?}");
    stopped.report.assert_exact(&[count]);
    Ok(stopped)
}

/// Makes a test of each function for each set of NICs.
macro_rules! on_all_nics {
    ($($name:ident = $nics:ident),+ => $scenarios:tt) => {
        $( on_all_nics!(@ $name $nics $scenarios); )+
    };
    (@ $name:ident $nics:ident [$($file:ident::$scenario:ident),+ $(,)?]) => {
        mod $name {
            $(
                #[test]
                fn $scenario() -> anyhow::Result<()> {
                    super::$file::$scenario(super::$nics)
                }
            )+
        }
    };
}

on_all_nics! {
    igb = IGB, virtio = VIRTIO, mixed = MIXED, mixed_the_other_way = MIXED_THE_OTHER_WAY => [
        forwarding::f1_one_input_to_one_output_is_exact,
        forwarding::f2_one_input_to_four_outputs_is_exact,
        forwarding::f3_one_input_to_sixteen_outputs_is_exact,
        forwarding::f4_outputs_spread_over_three_interfaces_are_exact,
        forwarding::f4_outputs_on_the_inputs_own_interface_and_on_another_are_exact,
        forwarding::f8_ten_thousand_datagrams_have_the_same_hash_at_the_receiver,
        chunks::identical_outputs_on_two_nics_are_exact_on_both,
        chunks::no_chunk_is_overwritten_before_the_slower_nic_has_read_it,
        chunks::a_chunk_freed_too_early_would_be_noticed,
        chunks::an_output_still_receives_what_is_for_the_host,
        faults::x1_after_the_input_was_down_forwarding_resumes_within_a_second,
        faults::x1_after_the_output_was_down_forwarding_resumes_within_a_second,
        faults::x3_after_kill_9_the_interface_is_clean_and_a_new_start_works_at_once,
        faults::after_ten_link_flaps_no_chunk_is_missing_and_the_traffic_is_exact,
        faults::a_relay_that_was_paused_goes_on_and_accounts_for_everything,
        changes::o1_twenty_changes_lose_nothing_of_a_rule_that_does_not_change,
        local::a_program_of_the_relays_host_gets_what_the_outputs_get,
        matching::m2_of_two_sources_only_the_one_in_the_rule_passes_and_is_joined,
        matching::m4_ipv6_copies_have_right_headers_in_every_byte,
        headers::m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says,
        unicast::m6_copies_to_hosts_follow_a_gateway_that_changes_its_address,
        unicast::m6_unicast_becomes_multicast_and_the_host_keeps_the_rest,
        hot_plug::x2_nics_that_are_unplugged_and_plugged_in_again_are_served_again,
        modes::the_plan_expects_the_mode_that_the_drivers_have,
    ]
}
