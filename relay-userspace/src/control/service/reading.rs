//! Clients that read the status: they get the last snapshot if it is fresh, or else the next one,
//! which the main thread makes for all of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Service;
use crate::{
    control::{
        connection::{Connection, Doing},
        fault::Fault,
        message::END,
        status_texts::Part,
    },
    observe::snapshot::Snapshot,
};

/// How long a client waits for a new snapshot of the status before it gets the last one, because
/// the main thread does not turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// A client that gets what it asked for with the next snapshot.
pub(super) struct Reader {
    number: u64,
    wants: Wants,
    /// When it gets the last snapshot instead.
    pub until: Instant,
}

/// What a client wants to read.
pub(super) enum Wants {
    /// The status. If it watches, until when.
    Status { next: Option<Instant> },
    /// All rules, or the one of a name.
    Rules { name: Option<String> },
}

impl Service {
    /// Lets a client read a snapshot: at once if the last one is fresh, or the next one.
    pub(super) fn read(&mut self, client: &mut Connection, wants: Wants) {
        let last = self.handle.last_snapshot();
        if last.is_none() || self.handle.fresh_snapshot().is_some() {
            self.send(client, wants, last);
            return;
        }
        client.doing = Doing::Waiting { oneway: false };
        self.readers.push(Reader {
            number: client.number,
            wants,
            until: Instant::now() + PATIENCE,
        });
        self.handle.want_snapshot();
    }

    /// Sends the clients that wait for a snapshot what they want, if there is a new one, or if they
    /// have waited long enough.
    pub(super) fn hand_out_snapshots(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let (fresh, now) = (self.handle.fresh_snapshot(), Instant::now());
        let mut clients = std::mem::take(&mut self.clients);
        for reader in std::mem::take(&mut self.readers) {
            let Some(client) = clients.iter_mut().find(|one| one.number == reader.number) else {
                continue;
            };
            let snapshot = match &fresh {
                None if reader.until <= now => self.handle.last_snapshot(),
                fresh => fresh.clone(),
            };
            match snapshot {
                None => self.readers.push(reader),
                snapshot => self.send(client, reader.wants, snapshot),
            }
        }
        self.clients = clients;
    }

    /// Sends a client what it wants of `snapshot`.
    fn send(&mut self, client: &mut Connection, wants: Wants, snapshot: Option<Arc<Snapshot>>) {
        client.doing = match wants {
            Wants::Status { next: Some(next) } => Doing::Watching { next },
            _ => Doing::Nothing,
        };
        let sent = match (snapshot, wants) {
            (None, _) => Err(Fault::NotReady),
            (Some(snapshot), Wants::Status { next }) => {
                self.send_status(client, &snapshot, next.is_some());
                Ok(())
            }
            (Some(snapshot), Wants::Rules { name }) => self.send_rules(client, &snapshot, name),
        };
        if let Err(fault) = sent {
            client.doing = Doing::Nothing;
            client.refuse(&fault);
        }
    }

    fn send_status(&mut self, client: &mut Connection, snapshot: &Arc<Snapshot>, continues: bool) {
        let text = self.texts.of(snapshot, Part::Status);
        let end: &[u8] = match continues {
            true => b"},\"continues\":true}",
            false => b"}}",
        };
        client.send_parts(around(b"{\"parameters\":{\"status\":", text, end));
    }

    fn send_rules(
        &mut self,
        client: &mut Connection,
        snapshot: &Arc<Snapshot>,
        name: Option<String>,
    ) -> Result<(), Fault> {
        let text = match name {
            None => self.texts.of(snapshot, Part::Rules),
            Some(name) => {
                let mut rules = snapshot.rules.iter();
                match rules.find(|rule| rule.name == name) {
                    Some(rule) => Arc::new(serde_json::to_vec(&[rule]).unwrap_or_default()),
                    None => return Err(Fault::NoSuchRule { name }),
                }
            }
        };
        client.send_parts(around(b"{\"parameters\":{\"rules\":", text, b"}}"));
        Ok(())
    }
}

/// A message whose middle is shared.
fn around(head: &[u8], middle: Arc<Vec<u8>>, tail: &[u8]) -> [Arc<Vec<u8>>; 3] {
    let tail = [tail, &[END]].concat();
    [Arc::new(head.to_vec()), middle, Arc::new(tail)]
}
