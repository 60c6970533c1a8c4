//! One relay per input interface: the first relay claims it, and a second one reports which process
//! holds it.
//!
//! XDP programs exclude one another, packet sockets do not: two relays would both send every copy.
//! A claim is a packet socket that is bound to the interface and to a protocol that no frame has.
//! Only a process with CAP_NET_RAW can open one. The kernel lists them for every process of the
//! network namespace, whatever its mounts and its user, and releases them when the process ends,
//! however it ends.
//!
//! A list is no lock, so a relay claims first and looks afterwards. If two relays see each other,
//! the one with the older socket waits a moment for the other to withdraw, and the younger
//! withdraws.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use nix::sys::stat::fstat;
use thiserror::Error;

use crate::{
    host::{limits, packet_socket},
    plan::Plan,
};

/// The protocol that claims are bound to. Values below 0x600 are lengths on the wire (IEEE 802.3),
/// so the kernel never delivers a frame to a socket with this protocol.
const PROTOCOL: u16 = 0x05e1;
/// The kernel's list of packet sockets, oldest first (net/packet/af_packet.c).
const LIST: &str = "/proc/thread-self/net/packet";
/// How often the relay that was first looks for one that must withdraw, and the time between looks.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// The claims on input interfaces, held for as long as this lives.
#[derive(Debug, Default)]
pub struct Claims {
    /// The sockets, by the index of their interface.
    held: BTreeMap<u32, OwnedFd>,
}

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
        /// The process, as far as it is known.
        holder: String,
    },
    /// The claim itself was refused.
    #[error("cannot claim {interface}: {what}: {error}{}", remedy(error))]
    Refused {
        /// The interface's name.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    if let Some(remedy) = limits::of_files(error) {
        return remedy;
    }
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => {
            "; the interface has gone: `ip link show` lists those that exist"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "; CAP_NET_RAW is needed, and a sandbox must allow packet sockets"
        }
        Some(libc::ENOENT) => "; the sandbox that the relay runs in must show /proc",
        _ => "; free memory, or look for a limit of the sandbox that the relay runs in",
    }
}

impl Claims {
    /// Claims every input interface of `plan`.
    ///
    /// # Errors
    ///
    /// The first interface that cannot be claimed; those claimed before it are released.
    pub fn of(plan: &Plan) -> Result<Self, ClaimError> {
        let mut claims = Self::default();
        for interface in plan.interfaces.iter().filter(|i| i.is_input) {
            claims.claim(&interface.name, interface.index)?;
        }
        Ok(claims)
    }

    /// Claims the interface with this name and index, unless it is claimed already. A claim ends
    /// with its interface: a new one with the same index is claimed anew.
    ///
    /// # Errors
    ///
    /// The interface cannot be claimed.
    pub fn claim(&mut self, interface: &str, index: u32) -> Result<(), ClaimError> {
        let held = self.held.get(&index);
        // The kernel takes a socket from an interface that goes (`packet_notifier`).
        if held.is_some_and(|socket| packet_socket::bound_to(socket.as_raw_fd()) == Ok(Some(index)))
        {
            return Ok(());
        }
        self.held.remove(&index);
        self.held.insert(index, claim(interface, index)?);
        Ok(())
    }

    /// Releases the claim on the interface with this index, which may have gone. One that is not
    /// claimed is no error.
    pub fn release(&mut self, index: u32) {
        self.held.remove(&index);
    }

    /// Whether the interface with this index is claimed.
    #[must_use]
    pub fn holds(&self, index: u32) -> bool {
        self.held.contains_key(&index)
    }

    /// The indices of the interfaces that are claimed, ascending; some may have gone.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.held.keys().copied()
    }
}

/// One sentence for each input of `plan` that a relay holds now.
#[must_use]
pub fn notes(plan: &Plan) -> Vec<String> {
    let inputs = plan.interfaces.iter().filter(|i| i.is_input);
    let held = inputs.filter_map(|interface| {
        let claims = claims_on(interface.index).ok()?;
        let holder = holder(*claims.first()?);
        let name = &interface.name;
        Some(format!(
            "{name}: {holder} relays from it already; `relay run` would refuse to start."
        ))
    });
    held.collect()
}

/// The indices of the interfaces that relays claim now.
#[must_use]
pub fn claimed() -> BTreeSet<u32> {
    // Where the list cannot be read, the attempt to claim says why.
    let claims = claims().unwrap_or_default();
    claims.into_iter().map(|(index, _)| index).collect()
}

fn claim(interface: &str, index: u32) -> Result<OwnedFd, ClaimError> {
    let refused = |what| {
        move |error: io::Error| ClaimError::Refused {
            interface: interface.to_owned(),
            what,
            error,
        }
    };
    let socket = packet_socket::open()
        .map_err(io::Error::from)
        .map_err(refused("opening a packet socket"))?;
    packet_socket::bind(&socket, index, PROTOCOL)
        .map_err(io::Error::from)
        .map_err(refused("binding a packet socket"))?;
    let own = fstat(&socket)
        .map_err(io::Error::from)
        .map_err(refused("asking for a socket's number"))?
        .st_ino;
    for look in 0.. {
        let claims = claims_on(index).map_err(refused("reading /proc/thread-self/net/packet"))?;
        let Some(other) = claims.iter().find(|claim| claim.inode != own) else {
            return Ok(socket);
        };
        let is_first = claims.first().is_some_and(|claim| claim.inode == own);
        if !is_first || look == LOOKS {
            // Before the search for the holder, which may take long: the other one waits for this.
            drop(socket);
            let holder = holder(*other);
            let interface = interface.to_owned();
            return Err(ClaimError::Held { interface, holder });
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    Ok(socket)
}

/// A socket that claims an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    inode: u64,
    user: u32,
}

/// The claims on the interface with `index`, the oldest first.
fn claims_on(index: u32) -> io::Result<Vec<Claim>> {
    let on_it = claims()?.into_iter().filter(|(on, _)| *on == index);
    Ok(on_it.map(|(_, claim)| claim).collect())
}

/// The claims on all interfaces, each with the index of its interface, the oldest first.
///
/// The kernel hands out the list one page at a time and finds its place again by position, so a
/// socket that closes meanwhile can hide the one behind it. Two readings are not expected to miss
/// the same one.
fn claims() -> io::Result<Vec<(u32, Claim)>> {
    let mut claims = Vec::new();
    for _ in 0..2 {
        for claim in listed(&fs::read_to_string(LIST)?) {
            if !claims.contains(&claim) {
                claims.push(claim);
            }
        }
    }
    Ok(claims)
}

/// The claims in the kernel's list, each with the index of its interface. The list's columns are
/// sk, RefCnt, Type, Proto, Iface, R, Rmem, User and Inode.
fn listed(list: &str) -> Vec<(u32, Claim)> {
    let lines = list.lines().skip(1);
    let claims = lines.filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, protocol, interface, _, _, user, inode] = columns[..] else {
            return None;
        };
        let is_claim = u16::from_str_radix(protocol, 16) == Ok(PROTOCOL);
        let claim = Claim {
            inode: inode.parse().ok()?,
            user: user.parse().ok()?,
        };
        is_claim.then_some((interface.parse().ok()?, claim))
    });
    claims.collect()
}

/// The process that has a claim open: "process 4711 (relay)".
///
/// The kernel shows the descriptors of a process only to processes that may trace it, and only
/// within one PID namespace.
fn holder(claim: Claim) -> String {
    let wanted = format!("socket:[{}]", claim.inode);
    let mut holders = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if has_open(&process.path(), Path::new(&wanted)) {
            holders.insert(id, process.path());
        }
    }
    // A child inherits the socket, so the oldest process is the relay itself.
    let Some((id, path)) = holders.first_key_value() else {
        return format!(
            "a process of user {} that this user may not inspect, or of another PID namespace \
             (`sudo ss --packet --processes` lists socket {})",
            claim.user, claim.inode
        );
    };
    match fs::read_to_string(path.join("comm")) {
        Ok(command) => format!("process {id} ({})", command.trim()),
        Err(_) => format!("process {id}"),
    }
}

fn has_open(process: &Path, wanted: &Path) -> bool {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten();
    let mut targets = files.flatten().flat_map(|file| fs::read_link(file.path()));
    targets.any(|target| target == wanted)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing::{in_namespace, run};

    /// Interfaces with the indices 71 and 72.
    fn pair() {
        run("ip link add name in0 index 71 type veth peer name in1 index 72");
    }

    /// A process that another test is just starting has copies of closed sockets for a moment.
    fn wait_until_free(index: u32) {
        while !claims_on(index).unwrap().is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_claimed_interface_names_its_holder_and_is_free_when_the_claim_ends() {
        in_namespace(|| {
            pair();
            let first = claim("in0", 71).unwrap();
            let other = claim("in1", 72).unwrap();
            let comm = fs::read_to_string("/proc/self/comm").unwrap();
            let me = format!("process {} ({})", std::process::id(), comm.trim());
            for _ in 0..3 {
                let error = claim("in0", 71).unwrap_err().to_string();
                assert!(error.contains("cannot receive on in0: "), "{error}");
                assert!(error.contains(&me), "{me}: {error}");
                assert!(error.contains("stop that process"), "{error}");
            }
            drop(first);
            wait_until_free(71);
            let _again = claim("in0", 71).unwrap();
            claim("in1", 72).unwrap_err();
            drop(other);
        });
    }

    #[test]
    fn another_network_namespace_has_claims_of_its_own() {
        in_namespace(|| {
            pair();
            let _here = claim("in0", 71).unwrap();
            in_namespace(|| {
                pair();
                claim("in0", 71).map(drop)
            })
            .unwrap();
            claim("in0", 71).unwrap_err();
        });
    }

    #[test]
    fn a_claim_ends_with_the_last_process_that_holds_it_however_that_ends() {
        in_namespace(|| {
            pair();
            let held = claim("in0", 71).unwrap();
            let mut process = Command::new("sleep").arg("60").stdin(held).spawn().unwrap();
            let error = claim("in0", 71);
            process.kill().unwrap();
            process.wait().unwrap();
            assert!(matches!(error, Err(ClaimError::Held { .. })), "{error:?}");
            wait_until_free(71);
            claim("in0", 71).unwrap();
        });
    }

    #[test]
    fn claims_are_made_and_released_one_by_one() {
        in_namespace(|| {
            pair();
            let mut claims = Claims::default();
            claims.claim("in0", 71).unwrap();
            claims.claim("in0", 71).unwrap();
            claims.claim("in1", 72).unwrap();
            assert_eq!(claims.indices().collect::<Vec<_>>(), [71, 72]);
            claim("in0", 71).unwrap_err();
            claims.release(71);
            wait_until_free(71);
            drop(claim("in0", 71).unwrap());
            claim("in1", 72).unwrap_err();
            claims.release(71);
        });
    }

    #[test]
    fn an_interface_that_is_there_again_with_the_same_index_is_claimed_anew() {
        in_namespace(|| {
            pair();
            let mut claims = Claims::default();
            claims.claim("in0", 71).unwrap();
            run("ip link delete in0");
            let error = claims.claim("in0", 71).unwrap_err().to_string();
            assert!(error.contains("the interface has gone"), "{error}");
            pair();
            claims.claim("in0", 71).unwrap();
            claim("in0", 71).unwrap_err();
        });
    }

    #[test]
    fn of_many_that_claim_at_once_one_gets_it() {
        in_namespace(|| {
            pair();
            for _ in 0..20 {
                wait_until_free(71);
                let claims: Vec<_> = thread::scope(|scope| {
                    let threads: Vec<_> =
                        (0..4).map(|_| scope.spawn(|| claim("in0", 71))).collect();
                    threads
                        .into_iter()
                        .map(|thread| thread.join().unwrap())
                        .collect()
                });
                let held = claims.iter().filter(|claim| claim.is_ok()).count();
                assert_eq!(held, 1, "{claims:?}");
            }
        });
    }

    #[test]
    fn a_claim_holds_while_its_interface_is_down_and_hears_nothing() {
        in_namespace(|| {
            pair();
            run("ip link set in0 up");
            run("ip link set in1 up");
            let _held = claim("in0", 71).unwrap();
            run("ip link set in0 down");
            claim("in0", 71).unwrap_err();
            run("ip link set in0 up");
            claim("in0", 71).unwrap_err();
        });
    }

    #[test]
    fn other_packet_sockets_are_no_claims() {
        let list = "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                    0000000000000000 3      3    0003   71    1 0      0      10    \n\
                    0000000000000000 3      3    05e1   72    1 0      0      11    \n\
                    0000000000000000 3      3    05e1   71    1 0      1000   12    \n";
        let claim = |inode, user| Claim { inode, user };
        assert_eq!(listed(list), [(72, claim(11, 0)), (71, claim(12, 1000))]);
    }
}
