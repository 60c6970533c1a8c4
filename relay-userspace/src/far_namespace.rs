//! A second network namespace for the unit tests that need a neighbour.

use std::process::{Child, Command};

use crate::testing::run;

/// Another network namespace, for as long as this lives.
pub(crate) struct Far(Child);

impl Far {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(["-n", "sleep", "1000"]).spawn().unwrap();
        let far = Self(child);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let theirs = || std::fs::read_link(format!("/proc/{}/ns/net", far.0.id())).unwrap();
        while theirs() == own {
            std::thread::yield_now();
        }
        far
    }

    /// Moves an interface of this namespace there, and gives it an Ethernet address and addresses.
    pub(crate) fn take(&self, interface: &str, mac: &str, addresses: &[&str]) {
        run(&format!("ip link set {interface} netns {}", self.0.id()));
        self.run(&format!("ip link set {interface} address {mac} up"));
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            self.run(&format!("ip address add {address} dev {interface}{nodad}"));
        }
    }

    /// Runs a command there, which must succeed.
    pub(crate) fn run(&self, command: &str) -> String {
        run(&format!("nsenter -t {} -n {command}", self.0.id()))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
