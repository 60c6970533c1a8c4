//! Which running relay a command talks to.

use std::path::PathBuf;

use clap::Args;

use crate::control::{Client, ClientError, DEFAULT_NAME, default_path};

/// The most bytes of a relay's name: with its folder, it must fit into a socket's address.
const MAX_NAME_BYTES: usize = 64;

/// Options that name a relay.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Target {
    /// The name of the relay
    #[arg(id = "relay-name", long = "name", value_name = "NAME", default_value = DEFAULT_NAME, value_parser = name)]
    pub name: String,
    /// The control socket [default: /run/relay/NAME.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

impl Target {
    /// The control socket.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let path = self.control.clone();
        path.unwrap_or_else(|| default_path(&self.name))
    }

    /// Whether the user chose the relay's name or its socket.
    #[must_use]
    pub fn is_chosen(&self) -> bool {
        self.control.is_some() || self.name != DEFAULT_NAME
    }

    /// Connects to it.
    ///
    /// # Errors
    ///
    /// No relay serves there, or this user may not connect.
    pub fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.path())
    }
}

fn name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len());
    if !fits || text.starts_with('.') || !text.chars().all(allowed) {
        return Err(format!(
            "a name has 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_`, `.` or `@`, and does not start with `.`"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_the_folder_of_the_sockets() {
        for good in ["default", "studio-2", "a.b", "relay@eth0"] {
            assert_eq!(name(good).unwrap(), good);
        }
        for bad in ["", "..", ".x", "a/b", "a b", "\u{1b}[2J", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
