//! Exit codes: how a shell or a service manager learns why `relay` ended.
//!
//! The numbers are those of sysexits(3). Only this module contains them, and only this module maps
//! errors to them.

use crate::{
    config::Mistakes,
    control::{ClientError, ControlError, RefusedBy},
    daemon::{RunError, descriptors::TooFew, requests::Refusal},
};

/// All went well.
pub const OK: u8 = 0;
/// The relay runs, and something that is wanted does not, or loses frames.
pub const DEGRADED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 64;
/// The rule file cannot be opened.
pub const NO_INPUT: u8 = 66;
/// Something that the relay needs is missing or in use: an interface, a queue, XDP itself. For the
/// commands that ask a running relay: none runs, or it refuses.
pub const UNAVAILABLE: u8 = 69;
/// A mistake in the relay itself.
pub const SOFTWARE: u8 = 70;
/// The operating system refused a call.
pub const OS_ERROR: u8 = 71;
/// A privilege is missing.
pub const NO_PERMISSION: u8 = 77;
/// The rule file has mistakes.
pub const CONFIG: u8 = 78;

/// The exit code for an error.
///
/// Mistakes in the rule file and errors that ended a run are recognised by their type. Otherwise
/// the first I/O error in the chain tells a missing privilege from a refused system call, and the
/// rest is [`SOFTWARE`].
#[must_use]
pub fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
        return of_mistakes(mistakes);
    }
    if let Some(run) = error.downcast_ref::<RunError>() {
        return of_run(run);
    }
    if let Some(client) = error.downcast_ref::<ClientError>() {
        return of_client(client);
    }
    if let Some(control) = error.downcast_ref::<ControlError>() {
        return of_control(control);
    }
    if error.downcast_ref::<TooFew>().is_some() {
        return OS_ERROR;
    }
    let io = error
        .chain()
        .find_map(<dyn std::error::Error>::downcast_ref::<std::io::Error>);
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::PermissionDenied) => NO_PERMISSION,
        Some(_) => OS_ERROR,
        None => SOFTWARE,
    }
}

fn of_mistakes(mistakes: &Mistakes) -> u8 {
    if mistakes.is_unreadable() {
        NO_INPUT
    } else {
        CONFIG
    }
}

fn of_client(error: &ClientError) -> u8 {
    match error {
        ClientError::Refused(RefusedBy(Refusal::Mistakes(_))) => CONFIG,
        ClientError::NotPermitted { .. } => NO_PERMISSION,
        _ => UNAVAILABLE,
    }
}

fn of_control(error: &ControlError) -> u8 {
    match error {
        ControlError::InUse { .. } => UNAVAILABLE,
        ControlError::NoSuchGroup { .. } | ControlError::NotASocket { .. } => USAGE,
        _ => OS_ERROR,
    }
}

fn of_run(error: &RunError) -> u8 {
    match error {
        RunError::Rules(mistakes) => of_mistakes(mistakes),
        RunError::Privilege(_) => NO_PERMISSION,
        RunError::Claim(_)
        | RunError::Offload(_)
        | RunError::Kernel(_)
        | RunError::Setup(_)
        | RunError::Unsettled
        | RunError::Waiting(_) => UNAVAILABLE,
        RunError::Descriptors(_) | RunError::Membership(_) | RunError::System { .. } => OS_ERROR,
        RunError::Defect(_)
        | RunError::Hang { .. }
        | RunError::HangAtEnd(_)
        | RunError::Untaken(_) => SOFTWARE,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::{Context as _, anyhow};

    use super::*;
    use crate::{config, control::Client, datapath::SetupError, plan::Mode};

    #[test]
    fn what_ended_a_run_wins_over_what_the_chain_says() {
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = anyhow::Error::new(denied()).context("opening a socket");
        assert_eq!(code_of(&error), NO_PERMISSION);
        let error = anyhow::Error::new(RunError::Setup(SetupError::Bind {
            interface: "in0".into(),
            queue: 0,
            mode: Mode::Copy,
            error: denied(),
        }));
        assert_eq!(code_of(&error), UNAVAILABLE);
        assert_eq!(code_of(&error.context("starting")), UNAVAILABLE);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_from_one_with_mistakes() {
        let missing = config::load(Path::new("/nonexistent/relay.toml")).unwrap_err();
        assert_eq!(code_of(&missing.into()), NO_INPUT);
        let wrong = || config::parse("relay.toml", "rules = 1").unwrap_err();
        assert_eq!(code_of(&wrong().into()), CONFIG);
        assert_eq!(code_of(&RunError::Rules(wrong()).into()), CONFIG);
    }

    #[test]
    fn what_a_running_relay_refuses_is_told_from_mistakes_and_from_missing_rights() {
        let refused = |refusal| code_of(&ClientError::from(RefusedBy(refusal)).into());
        assert_eq!(refused(Refusal::Mistakes("rules.toml:1:1".into())), CONFIG);
        for other in [
            Refusal::WouldDiscard(Vec::new()),
            Refusal::NoSuchRule("feed".into()),
            Refusal::Busy,
            Refusal::NothingToUndo,
            Refusal::Ending,
        ] {
            assert_eq!(refused(other), UNAVAILABLE);
        }
        let path = Path::new("/nonexistent/relay.sock");
        let missing = Client::connect(path).unwrap_err();
        assert_eq!(code_of(&missing.into()), UNAVAILABLE);
        let denied = ClientError::NotPermitted {
            path: path.into(),
            message: String::new(),
        };
        assert_eq!(code_of(&denied.into()), NO_PERMISSION);
    }

    #[test]
    fn too_few_descriptors_are_the_systems_and_not_the_rule_files() {
        let few = crate::daemon::descriptors::check("a test", u64::from(u32::MAX)).unwrap_err();
        assert!(few.to_string().contains("`ulimit -n 42949"), "{few}");
        assert_eq!(code_of(&few.into()), OS_ERROR);
    }

    #[test]
    fn other_io_errors_are_the_systems_and_the_rest_is_ours() {
        let io: Result<(), _> = Err(std::io::Error::from_raw_os_error(libc::ENOBUFS));
        assert_eq!(code_of(&io.context("joining").unwrap_err()), OS_ERROR);
        assert_eq!(code_of(&anyhow!("a queue was lost")), SOFTWARE);
    }
}
