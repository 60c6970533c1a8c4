//! One relay an input interface: whoever runs first claims it, and a second one is told who that is.
//!
//! XDP programs exclude one another, packet sockets do not: two relays would both send every copy. A claim is a
//! listening socket with an abstract name. Such names belong to the network namespace, as interface indices do, and
//! the kernel gives them back when the process ends, however it ends.

use std::{fs, io};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::plan::Plan;

/// The claims on all input interfaces of a plan, held for as long as this lives.
#[derive(Debug)]
pub struct Claims(#[expect(dead_code, reason = "held, never used")] Vec<Socket>);

/// Why an interface could not be claimed.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// A relay receives there already.
    #[error(
        "cannot receive on {interface}: {holder} relays from it already; stop that process, or give one of the two \
         another input interface"
    )]
    Held {
        /// The interface's name.
        interface: String,
        /// The process, as far as it can be told.
        holder: String,
    },
    /// The claim itself was refused.
    #[error(
        "cannot claim {interface} by the socket `@{name}`: {error}; {}",
        remedy(error)
    )]
    Refused {
        /// The interface's name.
        interface: String,
        /// The socket's name.
        name: String,
        /// The kernel's reason.
        error: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise the limit of open files, `ulimit -n`",
        Some(libc::ENFILE) => "raise `sysctl fs.file-max`",
        Some(libc::EPERM | libc::EACCES) => {
            "the sandbox that the relay runs in must allow unix sockets"
        }
        _ => "free memory, or look for a limit of the sandbox that the relay runs in",
    }
}

impl Claims {
    /// Claims every input interface of `plan`.
    ///
    /// # Errors
    ///
    /// The first interface that is not to be had; those claimed before it are free again.
    pub fn of(plan: &Plan) -> Result<Self, ClaimError> {
        let inputs = plan.interfaces.iter().filter(|i| i.is_input);
        let claims = inputs.map(|interface| claim(&interface.name, interface.index));
        Ok(Self(claims.collect::<Result<_, _>>()?))
    }
}

fn claim(interface: &str, index: u32) -> Result<Socket, ClaimError> {
    let name = format!("relay-input-{index}");
    let claimed = address(&name).and_then(|address| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&address)?;
        // Only a socket that listens tells others whose it is.
        socket.listen(libc::SOMAXCONN)?;
        Ok(socket)
    });
    claimed.map_err(|error| {
        let interface = interface.to_owned();
        if error.raw_os_error() == Some(libc::EADDRINUSE) {
            let holder = holder(&name).unwrap_or_else(|_| "another process".into());
            ClaimError::Held { interface, holder }
        } else {
            ClaimError::Refused {
                interface,
                name,
                error,
            }
        }
    })
}

/// A leading NUL makes the name abstract (unix(7)).
fn address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{name}"))
}

/// Asks the kernel who listens: "process 4711 (relay)".
fn holder(name: &str) -> io::Result<String> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Nobody accepts: a backlog that is full would block for ever.
    socket.set_nonblocking(true)?;
    socket.connect(&address(name)?)?;
    let process = getsockopt(&socket, PeerCredentials)?.pid();
    if process == 0 {
        return Ok("a process of another PID namespace".into());
    }
    Ok(match fs::read_to_string(format!("/proc/{process}/comm")) {
        Ok(command) => format!("process {process} ({})", command.trim()),
        Err(_) => format!("process {process}"),
    })
}

#[cfg(test)]
mod tests {
    use std::{os::fd::OwnedFd, process::Command};

    use super::*;
    use crate::testing::in_namespace;

    #[test]
    fn a_claimed_interface_names_its_holder_and_is_free_when_the_claim_ends() {
        in_namespace(|| {
            let first = claim("in0", 7).unwrap();
            let other = claim("in1", 8).unwrap();
            let comm = fs::read_to_string("/proc/self/comm").unwrap();
            let me = format!("process {} ({})", std::process::id(), comm.trim());
            for _ in 0..3 {
                let error = claim("in0", 7).unwrap_err().to_string();
                assert!(error.contains("cannot receive on in0: "), "{error}");
                assert!(error.contains(&me), "{me}: {error}");
                assert!(error.contains("stop that process"), "{error}");
            }
            drop(first);
            let _again = claim("in0", 7).unwrap();
            claim("in1", 8).unwrap_err();
            drop(other);
        });
    }

    #[test]
    fn another_network_namespace_has_claims_of_its_own() {
        in_namespace(|| {
            let _here = claim("in0", 7).unwrap();
            in_namespace(|| claim("in0", 7).map(drop)).unwrap();
            claim("in0", 7).unwrap_err();
        });
    }

    #[test]
    fn a_claim_ends_with_the_last_process_that_holds_it_however_that_ends() {
        in_namespace(|| {
            let held = OwnedFd::from(claim("in0", 7).unwrap());
            let mut process = Command::new("sleep").arg("60").stdin(held).spawn().unwrap();
            let error = claim("in0", 7);
            process.kill().unwrap();
            process.wait().unwrap();
            assert!(matches!(error, Err(ClaimError::Held { .. })), "{error:?}");
            claim("in0", 7).unwrap();
        });
    }
}
