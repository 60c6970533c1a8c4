//! The `[metrics]` table: where the relay shows its numbers over HTTP.

use std::{fmt, net::SocketAddr, path::PathBuf};

use super::{Place, draft::At, mistake::quoted, reader::Reader, values::Value};

/// Where the relay shows its numbers over HTTP, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where it listens.
    pub listen: Listen,
    /// Whether every output has series of its own.
    pub outputs: bool,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and a TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// As a rule file has it, without quotes.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The most bytes of a Unix socket's path (`sun_path` in include/uapi/linux/un.h, with its zero).
const MAX_PATH_BYTES: usize = 107;

impl Reader<'_, '_> {
    /// The `[metrics]` table.
    pub(super) fn metrics(&mut self, value: &Value<'_>) -> Option<At<Metrics>> {
        const LABEL: &str = "metrics";
        let place = self.found.place(&value.span());
        let table = self.table(value, LABEL, "[metrics] with `listen = \"127.0.0.1:9474\"`")?;
        self.known_keys(table, LABEL, &["listen", "outputs"]);
        let listen = self.required(table, place, "listen", LABEL);
        let listen = listen.and_then(|value| self.listen(value, LABEL));
        let outputs = match table.get("outputs") {
            Some(value) => self.boolean(value, "outputs", LABEL),
            None => Some(true),
        };
        let value = Metrics {
            listen: listen?,
            outputs: outputs?,
        };
        Some(At { place, value })
    }

    fn listen(&mut self, value: &Value<'_>, label: &str) -> Option<Listen> {
        let At { place, value: text } =
            self.string(value, "listen", label, "\"127.0.0.1:9474\"")?;
        if text.starts_with('/') {
            return self.socket_path(place, text, label);
        }
        let remedy = match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => return Some(Listen::Tcp(address)),
            Ok(_) => "give a port from 1 to 65535",
            Err(_) => {
                "give an address and a port, \"127.0.0.1:9474\" or \"[::1]:9474\", or the path of a \
                 Unix socket, \"/run/relay/metrics\""
            }
        };
        let cause = format!("{label}: `listen` \"{}\" is no address", quoted(&text));
        self.found.add(place, cause, remedy);
        None
    }

    fn socket_path(&mut self, place: Place, text: String, label: &str) -> Option<Listen> {
        let cause = if text.len() > MAX_PATH_BYTES {
            "is longer than the 107 bytes that the path of a Unix socket has at most"
        } else if text.contains(char::is_control) {
            "has a control character in it"
        } else {
            return Some(Listen::Unix(text.into()));
        };
        let cause = format!("{label}: `listen` \"{}\" {cause}", quoted(&text));
        self.found
            .add(place, cause, "give a path such as \"/run/relay/metrics\"");
        None
    }

    /// Keeps the table, of which a file has one at most.
    pub(super) fn keep_metrics(&mut self, value: &Value<'_>) {
        let place = self.found.place(&value.span());
        if let Some(first) = self.metrics_at {
            self.found.add(
                place,
                format!("the file has a second table `metrics`; the first is at {first}"),
                "put the keys of both into one table",
            );
            return;
        }
        self.metrics_at = Some(place);
        self.draft.metrics = self.metrics(value);
    }
}
