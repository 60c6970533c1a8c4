//! Which running relay a command talks to.

use std::path::PathBuf;

use clap::Args;

use crate::control::{Client, ClientError, DEFAULT_NAME, default_path};

/// The most bytes of a relay's name: with its folder, it must fit into a socket's address.
const MAX_NAME_BYTES: usize = 64;

/// Options that name a relay.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Target {
    /// The name of the relay [default: default]
    #[arg(id = "relay-name", long = "name", value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// The control socket [default: /run/relay/NAME.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

impl Target {
    /// The control socket.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let path = self.control.clone();
        let name = self.name.as_deref().unwrap_or(DEFAULT_NAME);
        path.unwrap_or_else(|| default_path(name))
    }

    /// Whether the user chose the relay's name, be it the default one, or its socket.
    #[must_use]
    pub fn is_chosen(&self) -> bool {
        self.control.is_some() || self.name.is_some()
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        target: Target,
    }

    #[test]
    fn the_default_name_is_chosen_as_any_other_one() {
        let of = |options: &[&str]| Only::parse_from([&["relay"], options].concat()).target;
        let (none, default) = (of(&[]), of(&["--name", "default"]));
        assert!(!none.is_chosen() && default.is_chosen());
        assert_eq!(none.path(), default.path());
        let studio = of(&["--name", "studio"]);
        assert!(studio.is_chosen() && studio.path() == default_path("studio"));
        assert!(of(&["--control", "/tmp/x.sock"]).is_chosen());
    }

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
