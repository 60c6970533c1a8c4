//! What to do without where the kernel refuses a step: zero copy, XDP, or an interface altogether.
//!
//! A driver may refuse what it announces, and only when a program is attached or a socket is bound.
//! Then the relay goes down the ladder on that interface: zero copy, copy mode, io_uring.

use crate::{
    datapath::SetupError,
    host::InterfaceFacts,
    kernel::KernelError,
    plan::{Backend, Mode, Plan},
};

use super::{
    claim::ClaimError, error::RunError, memberships::MembershipError, offloads::OffloadError,
};

/// The rung of the ladder that the kernel refused on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Zero copy: the relay can do without it.
    ZeroCopy,
    /// XDP: io_uring may take over.
    Xdp,
    /// Offloads switched off: without that, another rung may be left.
    Offloads,
    /// Frames given back to this host's stack on XDP: on io_uring it gets them anyway.
    Local,
}

/// The interface where the kernel refused a rung that the relay can do without, and the rung.
/// `None` where no other rung would help: the interface has gone, or a privilege or a file
/// descriptor is missing.
pub fn rung<'a>(error: &'a RunError, plan: &Plan) -> Option<(&'a str, Rung)> {
    let (name, mode) = match error {
        RunError::Offload(error) => return Some((&error.interface, Rung::Offloads)),
        RunError::Kernel(KernelError::LocalDevice {
            interface, code, ..
        }) => {
            let few_files = matches!(code, Some(libc::EMFILE | libc::ENFILE));
            return (!few_files).then_some((interface, Rung::Local));
        }
        RunError::Kernel(KernelError::Occupied { interface, .. }) => (&interface[..], None),
        RunError::Kernel(error) => (error.refused_interface()?, None),
        RunError::Setup(SetupError::Bind {
            interface,
            error,
            mode,
            ..
        }) => match error.raw_os_error() {
            Some(
                libc::ENODEV
                | libc::ENETDOWN
                | libc::EPERM
                | libc::EACCES
                | libc::EMFILE
                | libc::ENFILE,
            ) => {
                return None;
            }
            _ => (&interface[..], Some(*mode)),
        },
        _ => return None,
    };
    let mut interfaces = plan.interfaces.iter();
    let interface = interfaces.find(|interface| interface.name == name)?;
    if interface.backend != Backend::Xdp {
        return None;
    }
    // On an interface that is only an output, the program is there for zero copy alone.
    let attaching_for_zero_copy = mode.is_none() && !interface.is_input;
    if mode == Some(Mode::ZeroCopy) || attaching_for_zero_copy {
        return Some((name, Rung::ZeroCopy));
    }
    // If another program holds an input, the operator decides which of the two gets it.
    let occupied = matches!(error, RunError::Kernel(KernelError::Occupied { .. }));
    (!occupied).then_some((name, Rung::Xdp))
}

/// The interface that an error is about, if it is about one.
pub fn interface(error: &RunError) -> Option<&str> {
    match error {
        RunError::Kernel(
            KernelError::Occupied { interface, .. }
            | KernelError::Attach { interface, .. }
            | KernelError::LocalDevice { interface, .. }
            | KernelError::TooManyQueues { interface, .. },
        )
        | RunError::Setup(
            SetupError::Bind { interface, .. } | SetupError::Socket { interface, .. },
        )
        | RunError::Claim(
            ClaimError::Held { interface, .. } | ClaimError::Refused { interface, .. },
        )
        | RunError::Offload(OffloadError { interface, .. })
        | RunError::Membership(MembershipError::Join { interface, .. }) => Some(interface),
        _ => None,
    }
}

/// Whether a rung that the kernel refused on an interface is refused still, as far as what is known
/// of it tells: it was like `before`, and is like `now`. What the relay itself changes when it
/// attaches a program does not count, nor do addresses or up and down.
pub fn may_stand(now: &InterfaceFacts, before: &InterfaceFacts) -> bool {
    let told = |facts: &InterfaceFacts| (facts.index, facts.mtu, facts.rx_queues);
    told(now) == told(before) && now.driver == before.driver
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        config,
        host::{XdpFeatures, fixture::in0_and_out0},
        plan::{self, Constraints},
    };

    /// `in0` and `out0`, both with the XDP features `bits`.
    fn plan(bits: u64, forced: Option<Backend>) -> Plan {
        let text = "[[rules]]\nname = \"r\"\n\
                    input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n\
                    outputs = [{ interface = \"out0\", group = \"239.2.1.1\", port = 5002 }]\n";
        let host_facts = in0_and_out0(bits);
        let constraints = Constraints {
            forced,
            ..Constraints::default()
        };
        let document = config::parse("relay.toml", text).unwrap();
        plan::build(&document, &host_facts, &constraints).unwrap()
    }

    fn bind(interface: &str, mode: Mode, code: i32) -> RunError {
        RunError::Setup(SetupError::Bind {
            interface: interface.into(),
            queue: 0,
            mode,
            error: io::Error::from_raw_os_error(code),
        })
    }

    fn attach(interface: &str, code: i32) -> RunError {
        RunError::Kernel(KernelError::Attach {
            interface: interface.into(),
            reason: String::new(),
            code: Some(code),
            remedy: "",
        })
    }

    fn occupied(interface: &str) -> RunError {
        RunError::Kernel(KernelError::Occupied {
            interface: interface.into(),
            holder: String::new(),
        })
    }

    #[test]
    fn every_refusal_of_zero_copy_leads_to_copy_mode_and_every_one_of_copy_mode_to_io_uring() {
        const ENOTSUPP: i32 = 524;
        let all = XdpFeatures::BASIC | XdpFeatures::REDIRECT | XdpFeatures::XSK_ZEROCOPY;
        let plan = plan(all, None);
        for code in [
            libc::EOPNOTSUPP,
            libc::EINVAL,
            ENOTSUPP,
            libc::EBUSY,
            libc::ENXIO,
            libc::ENOMEM,
            libc::EIO,
        ] {
            for name in ["in0", "out0"] {
                let error = bind(name, Mode::ZeroCopy, code);
                assert_eq!(rung(&error, &plan), Some((name, Rung::ZeroCopy)), "{error}");
                let error = bind(name, Mode::Copy, code);
                assert_eq!(rung(&error, &plan), Some((name, Rung::Xdp)), "{error}");
            }
        }
        for code in [
            libc::ENODEV,
            libc::EPERM,
            libc::EACCES,
            libc::EMFILE,
            libc::ENFILE,
        ] {
            assert_eq!(rung(&bind("in0", Mode::ZeroCopy, code), &plan), None);
            assert_eq!(rung(&attach("out0", code), &plan), None);
        }
        let error = bind("eth7", Mode::Copy, libc::EINVAL);
        assert_eq!(rung(&error, &plan), None, "not of this plan");
    }

    #[test]
    fn a_program_that_is_there_for_zero_copy_alone_can_be_done_without() {
        let all = XdpFeatures::BASIC | XdpFeatures::REDIRECT | XdpFeatures::XSK_ZEROCOPY;
        let plan = plan(all, None);
        assert_eq!(
            rung(&attach("out0", libc::ERANGE), &plan),
            Some(("out0", Rung::ZeroCopy))
        );
        assert_eq!(
            rung(&occupied("out0"), &plan),
            Some(("out0", Rung::ZeroCopy))
        );
        assert_eq!(
            rung(&attach("in0", libc::ERANGE), &plan),
            Some(("in0", Rung::Xdp))
        );
        assert_eq!(rung(&occupied("in0"), &plan), None);
    }

    #[test]
    fn a_refused_rung_is_tried_again_on_another_device_or_mtu_and_not_for_another_address() {
        let mut facts = in0_and_out0(0);
        let before = facts.interfaces.remove("in0").unwrap();
        let stands = |change: &dyn Fn(&mut InterfaceFacts)| {
            let mut now = before.clone();
            change(&mut now);
            may_stand(&now, &before)
        };
        assert!(stands(&|now| now.addresses.clear()));
        assert!(stands(&|now| now.is_up = !now.is_up));
        assert!(stands(&|now| now.segments_udp = !now.segments_udp));
        assert!(!stands(&|now| now.index += 1));
        assert!(!stands(&|now| now.mtu += 1));
        assert!(!stands(&|now| now.rx_queues += 1));
        assert!(!stands(&|now| now.driver.push('2')));
    }

    #[test]
    fn without_a_way_back_to_the_stack_there_is_io_uring_unless_files_are_missing() {
        let plan = plan(0, None);
        let refused = |code| {
            RunError::Kernel(KernelError::LocalDevice {
                interface: "in0".into(),
                what: "make a TAP device",
                reason: String::new(),
                code,
                remedy: "",
            })
        };
        for code in [
            None,
            Some(libc::EPERM),
            Some(libc::ENOTTY),
            Some(libc::EBUSY),
        ] {
            assert_eq!(rung(&refused(code), &plan), Some(("in0", Rung::Local)));
        }
        let missing = refused(Some(libc::EMFILE));
        assert_eq!(rung(&missing, &plan), None);
        assert_eq!(interface(&missing), Some("in0"));
    }

    #[test]
    fn below_io_uring_there_is_no_rung() {
        let plan = plan(0, Some(Backend::IoUring));
        assert_eq!(rung(&bind("in0", Mode::Copy, libc::EINVAL), &plan), None);
    }
}
