//! The io_uring loop, run inside the test's process.

use anyhow::{Result, anyhow};
use relay::backend::uring::Worker;
use relay::membership::Memberships;
use relay::plan::{Backend, Engine};
use relay::{config, plan};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::{Receivers, streams};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::topology::Testbed;

struct SetUp {
    worker: Worker,
    _memberships: Memberships,
}

fn set_up(bed: &Testbed, text: &str, buffers: u16) -> Result<SetUp> {
    bed.relay.run(|| {
        let document = config::parse("test.toml", text).map_err(|error| anyhow!("{error}"))?;
        let plan = plan::for_this_machine(&document, Some(Backend::IoUring))
            .map_err(|error| anyhow!("{error}"))?;
        let worker = Worker::bind(&plan, &plan.workers[0], buffers, &|_| Ok(()))?;
        assert_eq!(plan.workers[0].engine(&plan, 1), Some(Engine::Segmented));
        let _memberships = Memberships::join(&plan)?;
        Ok(SetUp {
            worker,
            _memberships,
        })
    })
}

#[test]
fn it_forwards() -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 4)];
    let receivers = Receivers::start(&bed, &rules)?;
    let mut set_up = set_up(&bed, &to_toml(&rules), 1024)?;
    let worker = &mut set_up.worker;
    worker.turn();
    let stream = streams(&rules, 500, 1000)[0];
    UdpSender::open(&bed.sources[0])?.send(&Traffic::new(GROUP_IN, PORT_IN, stream), 100_000)?;
    let mut turns = 0;
    while worker.turn() {
        turns += 1;
    }
    eprintln!("{turns} turns, {:?}", worker.stats());
    receivers.assert_exact(&[stream]);
    Ok(())
}
