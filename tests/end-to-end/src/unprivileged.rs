//! The relay as a user who is not root, with the capabilities that a test allows and no others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::backend::Backend;
use crate::netns::Namespace;
use crate::relay::binary;

/// The user `nobody`.
pub const NOBODY: u32 = 65_534;

/// What the relay needs on a backend, in the order of the kernel's numbers.
pub fn needed_capabilities(backend: Backend) -> &'static [&'static str] {
    match backend {
        Backend::Xdp => &[
            "CAP_NET_ADMIN",
            "CAP_NET_RAW",
            "CAP_IPC_LOCK",
            "CAP_PERFMON",
            "CAP_BPF",
        ],
        Backend::IoUring => &["CAP_NET_RAW", "CAP_BPF"],
    }
}

/// The relay binary where every user can read it; removed on drop.
#[derive(Debug)]
pub struct PublicCopy(PathBuf);

impl PublicCopy {
    /// Copies the binary to a file named after `name` and this process.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("relay-{name}-{}", std::process::id()));
        fs::copy(binary()?, &path).with_context(|| format!("copying to {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }

    /// Runs it in `namespace` as `user` with `capabilities`, each as `CAP_...`, and no others.
    pub fn command(
        &self,
        namespace: &Namespace,
        user: u32,
        capabilities: &[impl AsRef<str>],
    ) -> Command {
        let names = capabilities.iter().map(|name| {
            let name = name.as_ref().trim_start_matches("CAP_");
            format!(",+{}", name.to_lowercase())
        });
        let list = format!("-all{}", names.collect::<String>());
        let mut command = namespace.command("setpriv");
        command
            .arg(format!("--reuid={user}"))
            .args(["--regid=65534", "--clear-groups", "--no-new-privs"])
            .arg(format!("--inh-caps={list}"))
            .arg(format!("--ambient-caps={list}"))
            .arg(format!("--bounding-set={list}"))
            .arg(&self.0);
        command
    }
}

impl Drop for PublicCopy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
