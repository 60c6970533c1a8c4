//! The local device: a TAP device through which frames of rules with `local` go back to the Linux
//! stack. A tc program on it makes each frame arrive on the interface that its mark names.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions},
    },
};
use relay_common::abi;

use super::{
    Kernel, XdpProgram,
    error::{KernelError, chain, os_error},
    object, quiet,
};
use crate::host::tap::{self, Refused, Tap};

/// The device with its program. It does not outlive the process.
#[derive(Debug)]
pub struct LocalDevice {
    tap: Tap,
    link: SchedClassifierLinkId,
}

/// Why there is no local device.
struct NoDevice {
    what: &'static str,
    reason: String,
    code: Option<i32>,
    remedy: &'static str,
}

impl From<Refused> for NoDevice {
    fn from((what, error): Refused) -> Self {
        Self {
            what,
            reason: error.to_string(),
            code: error.raw_os_error(),
            remedy: tap::remedy(&error),
        }
    }
}

impl LocalDevice {
    /// Makes the device for frames that arrive on `interface`, among others.
    pub fn new(ebpf: &mut Ebpf, interface: &str) -> Result<Self, KernelError> {
        let program: &mut SchedClassifier = object::program(ebpf, abi::LOCAL)?;
        if program.fd().is_err() {
            quiet::load(object::LOCAL, || program.load())?;
        }
        let mut link = None;
        let made = Tap::new(|name| {
            link = Some(attach(program, name)?);
            Ok::<_, NoDevice>(())
        });
        match (made, link) {
            (Ok(tap), Some(link)) => Ok(Self { tap, link }),
            (made, link) => {
                if let Some(link) = link {
                    let _ = program.detach(link);
                }
                let no = made.err();
                Err(KernelError::LocalDevice {
                    interface: interface.to_owned(),
                    what: no.as_ref().map_or("attach a program", |no| no.what),
                    code: no.as_ref().and_then(|no| no.code),
                    remedy: no.as_ref().map_or("", |no| no.remedy),
                    reason: no.map_or_else(String::new, |no| no.reason),
                })
            }
        }
    }

    /// The kernel's index when it was made.
    pub fn made_as(&self) -> u32 {
        self.tap.index()
    }

    /// The kernel's index, if the device is there still.
    pub fn index(&self) -> Option<u32> {
        self.tap.is_there().then(|| self.tap.index())
    }

    /// Removes the device.
    pub fn remove(self, ebpf: &mut Ebpf) {
        if let Ok(program) = object::program::<SchedClassifier>(ebpf, abi::LOCAL) {
            // If it has gone already, so has the program on it.
            let _ = program.detach(self.link);
        }
    }
}

impl Kernel {
    /// The index of the local device, through which frames of rules with `local` go back to the
    /// Linux stack; makes it if it is not there. `interface` is one that needs it, for errors.
    ///
    /// # Errors
    ///
    /// The kernel refuses the device or the program on it.
    pub fn open_local_device(&mut self, interface: &str) -> Result<u32, KernelError> {
        self.xdp_program()?.open_local_device(interface)
    }

    /// The index of the local device, if it is there.
    #[must_use]
    pub fn local_device(&self) -> Option<u32> {
        self.xdp.as_ref()?.local_device()
    }

    /// Whether another process has removed the local device.
    #[must_use]
    pub fn lost_local_device(&self) -> bool {
        self.xdp.as_ref().is_some_and(XdpProgram::lost_local_device)
    }

    /// Removes the local device. One that is not there is no error.
    pub fn close_local_device(&mut self) {
        if let Some(xdp) = &mut self.xdp {
            xdp.close_local_device();
        }
    }
}

/// Attaches the program to the device by itself (tcx, since Linux 6.6); before, by a queueing
/// discipline `clsact`, which ends with the device as well.
fn attach(program: &mut SchedClassifier, device: &str) -> Result<SchedClassifierLinkId, NoDevice> {
    let what = "attach a tc program to a TAP device";
    let by_itself = TcAttachOptions::TcxOrder(LinkOrder::default());
    if let Ok(link) = program.attach_with_options(device, TcAttachType::Egress, by_itself) {
        return Ok(link);
    }
    tc::qdisc_add_clsact(device).map_err(|error| no_program(what, &error))?;
    let by_clsact = TcAttachOptions::Netlink(NlOptions::default());
    program
        .attach_with_options(device, TcAttachType::Egress, by_clsact)
        .map_err(|error| no_program(what, &error))
}

fn no_program(what: &'static str, error: &(dyn std::error::Error + 'static)) -> NoDevice {
    NoDevice {
        what,
        reason: chain(error),
        code: os_error(error),
        remedy: "",
    }
}
