//! The relay's numbers while rules and interfaces change: whoever draws them over time sees none
//! of them fall.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::counters::Counters;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{Rule, to_toml};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::{plug, wait_for_carrier};

use super::{SetOnDrop, under_traffic};

/// Asks for the status without a pause while `work` runs, which gets a function that waits until
/// what is now was looked at. Fails if a number falls.
fn while_watched(
    relay: &RelayProcess,
    counters: &mut Counters,
    work: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>,
) -> Result<()> {
    let (over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    // One look may have begun before.
    let seen = || {
        let now = looks.load(Ordering::Relaxed);
        let twice = || looks.load(Ordering::Relaxed) >= now + 2;
        let seen = eventually(Duration::from_secs(10), twice);
        seen.map(drop).context("nobody looks")
    };
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                counters.look(relay)?;
                looks.fetch_add(1, Ordering::Relaxed);
            }
            counters.look(relay)
        });
        let done = {
            let _ends = SetOnDrop(&over);
            work(&seen)
        };
        let watched = watching.join();
        let watched = watched.map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        done.and(watched)
    })
}

/// Where the kernel cuts GSO packets: what a device drops of them is known later than that it was
/// sent, and by its interface alone, which leaves the plan here and comes back as another one.
fn no_number_falls_while_rules_and_interfaces_change(backend: Backend) -> Result<()> {
    let method = Method {
        backend,
        tx: TxMethod::Cut,
    };
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let narrow = Rule::feed().outputs("out0", 2);
    let wide = narrow.clone().outputs("out1", 1);
    let other =
        Rule::new("other", "in0", [239, 1, 9, 9], 7000).output("out1", [239, 3, 9, 9], 7001);
    let both = [wide.clone(), other.clone()];
    let relay = method.start(&bed, &both)?;
    let reload = |rules: &[Rule]| -> Result<()> {
        let answer = relay.reload(&(to_toml(rules) + &method.tables(rules)))?;
        ensure!(answer.code == Some(0), "{answer:?}");
        Ok(())
    };
    let mut counters = Counters::default();
    counters.look(&relay)?;
    let (_, ()) = under_traffic(&bed.sources[0], &narrow, 0, 2_000, || {
        while_watched(&relay, &mut counters, |seen| {
            // The far end takes none of these, and the relay's device drops them.
            let far = &bed.receivers[1];
            far.namespace
                .ip(&format!("link set {} mtu 1000", far.interface))?;
            let many = Traffic::new(other.group, other.port, Stream::new(1, 640, 1200));
            let sender = UdpSender::open(&bed.sources[0])?;
            sender.send_segmented(&many, 32, 20_000, &Window::unlimited())?;
            let dropped = || {
                let status = relay.status();
                status.is_ok_and(|now| now["totals"]["dropped"]["device_dropped"] != 0)
            };
            let dropped = eventually(Duration::from_secs(10), dropped);
            ensure!(
                dropped.is_some(),
                "the device dropped nothing: {}",
                relay.status()?
            );
            // The interface leaves the plan, comes back, and is another one from then on.
            let [alone, wider] = [&narrow, &wide].map(std::slice::from_ref);
            for rules in [alone, &both, wider, &both] {
                reload(rules)?;
                // What goes and comes between two looks begins at 0.
                seen()?;
            }
            bed.relay.ip("link del out1")?;
            thread::sleep(Duration::from_millis(200));
            plug(&bed.outputs[1], &bed.receivers[1])?;
            for rules in [&both[..], alone, &both] {
                reload(rules)?;
                seen()?;
            }
            for interface in ["in0", "out0"] {
                bed.relay.ip(&format!("link set {interface} down"))?;
                thread::sleep(Duration::from_millis(100));
                bed.relay.ip(&format!("link set {interface} up"))?;
                wait_for_carrier(&bed.relay, interface)?;
            }
            // On XDP the worker ends, and another one counts from then on.
            let pinned = to_toml(&both) + &method.tables(&both);
            let pinned = pinned + "\n[[interfaces]]\nname = \"in0\"\ncpus = [0]\n";
            let answer = relay.reload(&pinned)?;
            ensure!(answer.code == Some(0), "{answer:?}");
            thread::sleep(Duration::from_millis(200));
            Ok(())
        })
    })?;
    ensure!(counters.looks() > 20, "{} looks", counters.looks());
    ensure!(counters.last("total device_dropped") > 0, "{counters:?}");
    let stopped = relay.stop()?;
    counters.end(&stopped.report)
}

relay_tests::on_both_backends! {
    no_number_falls_while_rules_and_interfaces_change,
}
