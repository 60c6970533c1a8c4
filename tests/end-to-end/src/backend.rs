//! The two backends, which move the relay's frames. The same rule file gives the same result on
//! both, so a scenario is one function that runs on both.

use serde::{Deserialize, Serialize};

/// What moves the frames of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// An XDP program and AF_XDP sockets.
    Xdp,
    /// Packet sockets and io_uring.
    IoUring,
}

impl Backend {
    /// Both backends.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::IoUring];

    /// The name on the command line and in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::IoUring => "io-uring",
        }
    }
}

/// Makes two tests of each function `fn(Backend) -> anyhow::Result<()>`: `xdp::NAME` and
/// `io_uring::NAME`.
///
/// A function that is in no list is dead code, which the compiler reports and `cargo xtask test`
/// refuses.
#[macro_export]
macro_rules! on_both_backends {
    ($($scenario:ident),+ $(,)?) => {
        mod xdp {
            $(
                #[test]
                fn $scenario() -> anyhow::Result<()> {
                    super::$scenario($crate::backend::Backend::Xdp)
                }
            )+
        }

        mod io_uring {
            $(
                #[test]
                fn $scenario() -> anyhow::Result<()> {
                    super::$scenario($crate::backend::Backend::IoUring)
                }
            )+
        }
    };
}
