//! A relay's worker inside the test's process, for what cannot be seen from outside.

use anyhow::{Context, Result, anyhow};
use relay::backend::xdp::{self, Worker};
use relay::kernel::Kernel;
use relay::membership::Memberships;
use relay::plan::Mode;
use relay::{config, plan};
use relay_tests::topology::Testbed;

/// Everything that `relay run` sets up before its worker runs, in the testbed's relay host.
pub struct SetUp {
    pub worker: Worker,
    /// What the worker needs to be fed, and ends with.
    pub feeds: Feeds,
}

/// The attached program and the joined groups.
pub struct Feeds {
    _memberships: Memberships,
    _kernel: Kernel,
}

impl SetUp {
    /// For the one worker of the rule file `text`, with as many chunks as the plan asks for or as the test wants.
    pub fn new(bed: &Testbed, text: &str, chunks: Option<u32>) -> Result<Self> {
        bed.relay.run(|| {
            let document = config::parse("test.toml", text).map_err(|error| anyhow!("{error}"))?;
            let plan =
                plan::for_this_machine(&document, None).map_err(|error| anyhow!("{error}"))?;
            assert_eq!(plan.workers.len(), 1);
            let mut kernel = Kernel::attach(&plan)?;
            let planned = plan.workers.first().context("a worker")?;
            let chunks = chunks.unwrap_or_else(|| xdp::chunk_count(planned));
            let mut worker = Worker::bind(&plan, planned, Mode::Copy, chunks)?;
            worker.fill()?;
            for socket in worker.receiving_sockets() {
                kernel.set_socket(&plan, socket.interface, socket.queue, socket.fd)?;
            }
            let memberships = Memberships::join(&plan)?;
            kernel.open(&plan)?;
            let feeds = Feeds {
                _memberships: memberships,
                _kernel: kernel,
            };
            Ok(Self { worker, feeds })
        })
    }
}
