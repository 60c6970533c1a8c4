//! How long workers look for frames, sleep and finish: the same on both backends.

use std::time::Duration;

/// How long a worker with a CPU of its own looks for frames before it sleeps. Waking up costs tens
/// of microseconds, which this spares a feed of 5,000 frames per second and more; slower feeds are
/// not worth a busy CPU.
pub const SPIN: Duration = Duration::from_micros(200);
/// How long a worker sleeps while copies wait that a full TX ring has refused: neither `poll` nor a
/// completion reports when there is room.
pub const WAITING: Duration = Duration::from_micros(200);
/// How long a stopping worker forwards frames that have arrived, and waits for those on their way.
pub const DRAIN: Duration = Duration::from_millis(200);
