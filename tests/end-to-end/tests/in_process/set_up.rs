//! A relay's worker inside the test's process, for what cannot be seen from outside.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use relay::config;
use relay::daemon::{memberships::Memberships, this_machine};
use relay::datapath::{Remote, Worker, uring, xdp};
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

/// The attached program, the joined groups, and what changes the worker while it runs.
pub struct Feeds {
    pub remote: Remote,
    _memberships: Memberships,
    #[allow(
        dead_code,
        reason = "not every test binary that has this module changes ports"
    )]
    pub kernel: Kernel,
}

#[allow(
    dead_code,
    reason = "not every test binary that has this module changes tables"
)]
impl Feeds {
    /// Replaces the worker's table by that of the rule file `text`, and waits until the worker,
    /// which must be running, has taken it. The flows that reach the worker stay the same.
    pub fn change(&mut self, bed: &Testbed, backend: Backend, text: &str) -> Result<()> {
        let plan = bed.relay.run(|| plan(backend, text))?;
        self.change_to(bed, &plan)
    }

    /// The same by the one worker of `plan`.
    pub fn change_to(&mut self, bed: &Testbed, plan: &Plan) -> Result<()> {
        let remote = &mut self.remote;
        bed.relay.run(|| {
            let prepared = remote.prepare(plan, plan.workers.first().context("a worker")?)?;
            ensure!(remote.send(prepared), "prepared for another table");
            let deadline = Instant::now() + Duration::from_secs(1);
            while !remote.is_taken() {
                ensure!(Instant::now() < deadline, "the worker does not take it");
                thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        })
    }

    /// What changes the worker, once nothing reaches it any more.
    pub fn into_remote(self) -> Remote {
        self.remote
    }
}

/// The plan of the rule file `text` for the calling thread's network namespace.
pub fn plan(backend: Backend, text: &str) -> Result<Plan> {
    let forced = match backend {
        Backend::Xdp => relay::plan::Backend::Xdp,
        Backend::IoUring => relay::plan::Backend::IoUring,
    };
    let document = config::parse("test.toml", text).map_err(|error| anyhow!("{error}"))?;
    this_machine::for_this_machine(&document, Some(forced)).map_err(|error| anyhow!("{error}"))
}

/// Makes ring outputs share payloads, as in zero copy on some NICs.
#[allow(
    dead_code,
    reason = "not every test binary that has this module has ring outputs"
)]
pub fn share_payloads(plan: &mut Plan) {
    for interface in &mut plan.interfaces {
        interface.shares_payloads = true;
    }
}

impl SetUp {
    /// For the one worker of the rule file `text`, with `chunks` chunks or receive buffers, or with
    /// as many as the relay would have.
    #[allow(
        dead_code,
        reason = "not every test binary that has this module leaves plans as they are"
    )]
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
        bed.relay.run(|| {
            let mut plan = plan(backend, text)?;
            alter(&mut plan);
            assert_eq!(plan.workers.len(), 1);
            let mut kernel = Kernel::for_plan(&plan)?;
            let (worker, remote) = match backend {
                Backend::Xdp => by_xdp(&plan, &mut kernel, chunks)?,
                Backend::IoUring => by_io_uring(&plan, &kernel, chunks)?,
            };
            let memberships = Memberships::join(&plan)?;
            kernel.open_plan(&plan)?;
            let feeds = Feeds {
                remote,
                _memberships: memberships,
                kernel,
            };
            Ok(Self { worker, feeds })
        })
    }
}

fn by_xdp(plan: &Plan, kernel: &mut Kernel, chunks: Option<u32>) -> Result<(Worker, Remote)> {
    let planned = plan.workers.first().context("a worker")?;
    let chunks = chunks.unwrap_or_else(|| xdp::chunk_count(planned, Mode::Copy));
    let local_device = match plan.local_inputs(planned).is_empty() {
        true => None,
        false => Some(kernel.open_local_device("an input")?),
    };
    let bound = xdp::XdpWorker::bind(
        plan,
        planned,
        Mode::Copy,
        chunks,
        local_device,
        &std::sync::Arc::default(),
    );
    let (mut worker, remote) = bound?;
    worker.fill()?;
    for socket in remote.receiving_sockets() {
        kernel.set_socket(socket.interface, socket.queue, socket.fd)?;
    }
    Ok((Worker::Xdp(Box::new(worker)), remote))
}

fn by_io_uring(plan: &Plan, kernel: &Kernel, buffers: Option<u32>) -> Result<(Worker, Remote)> {
    let planned = plan.workers.first().context("a worker")?;
    let buffers = buffers.map_or(Ok(uring::BUFFERS), u16::try_from)?;
    let attach = |socket: std::os::fd::BorrowedFd<'_>| kernel.attach_filter(socket);
    let (worker, remote) =
        uring::UringWorker::bind(plan, planned, buffers, &attach, &std::sync::Arc::default())?;
    Ok((Worker::IoUring(Box::new(worker)), remote))
}
