//! A relay's worker inside the test's process, for what cannot be seen from outside.

use anyhow::{Context, Result, anyhow};
use relay::config;
use relay::daemon::{memberships::Memberships, this_machine};
use relay::datapath::{Worker, uring, xdp};
use relay::kernel::Kernel;
use relay::plan::{Mode, Plan};
use relay_tests::backend::Backend;
use relay_tests::topology::Testbed;

/// Everything that `relay run` sets up before its worker runs, in the testbed's relay host.
pub struct SetUp {
    pub worker: Worker,
    /// What makes frames reach the worker; must live as long as it.
    pub feeds: Feeds,
}

/// The attached program and the joined groups.
pub struct Feeds {
    _memberships: Memberships,
    _kernel: Kernel,
}

impl SetUp {
    /// For the one worker of the rule file `text`, with `chunks` chunks or receive buffers, or with
    /// as many as the relay would have.
    pub fn new(bed: &Testbed, backend: Backend, text: &str, chunks: Option<u32>) -> Result<Self> {
        Self::altered(bed, backend, text, chunks, |_| ())
    }

    /// The same with a plan that `alter` has changed, for interfaces that no test has.
    pub fn altered(
        bed: &Testbed,
        backend: Backend,
        text: &str,
        chunks: Option<u32>,
        alter: impl FnOnce(&mut Plan) + Send,
    ) -> Result<Self> {
        let forced = match backend {
            Backend::Xdp => relay::plan::Backend::Xdp,
            Backend::IoUring => relay::plan::Backend::IoUring,
        };
        bed.relay.run(|| {
            let document = config::parse("test.toml", text).map_err(|error| anyhow!("{error}"))?;
            let mut plan = this_machine::for_this_machine(&document, Some(forced))
                .map_err(|error| anyhow!("{error}"))?;
            alter(&mut plan);
            assert_eq!(plan.workers.len(), 1);
            let mut kernel = Kernel::attach(&plan)?;
            let worker = match backend {
                Backend::Xdp => by_xdp(&plan, &mut kernel, chunks)?,
                Backend::IoUring => by_io_uring(&plan, &kernel, chunks)?,
            };
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

fn by_xdp(plan: &Plan, kernel: &mut Kernel, chunks: Option<u32>) -> Result<Worker> {
    let planned = plan.workers.first().context("a worker")?;
    let chunks = chunks.unwrap_or_else(|| xdp::chunk_count(planned, Mode::Copy));
    let mut worker = xdp::XdpWorker::bind(plan, planned, Mode::Copy, chunks)?;
    worker.fill()?;
    for socket in worker.receiving_sockets() {
        kernel.set_socket(plan, socket.interface, socket.queue, socket.fd)?;
    }
    Ok(Worker::Xdp(Box::new(worker)))
}

fn by_io_uring(plan: &Plan, kernel: &Kernel, buffers: Option<u32>) -> Result<Worker> {
    let planned = plan.workers.first().context("a worker")?;
    let buffers = buffers.map_or(Ok(uring::BUFFERS), u16::try_from)?;
    let attach = |socket: std::os::fd::BorrowedFd<'_>| kernel.attach_filter(socket);
    let worker = uring::UringWorker::bind(plan, planned, buffers, &attach)?;
    Ok(Worker::IoUring(Box::new(worker)))
}
