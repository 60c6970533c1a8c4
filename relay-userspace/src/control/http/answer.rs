//! From a request to its answer.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use tokio::time::sleep;

use super::texts::{Part, Texts};
use crate::{
    daemon::requests::Handle,
    observe::{exposition::Format, snapshot::Snapshot},
};

/// How long a client waits for the main thread, which makes the snapshots.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look for a snapshot while one is made.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The type of a body that is plain text.
const PLAIN: &str = "text/plain; charset=utf-8";

/// The answers to all clients.
pub struct Answers {
    handle: Handle,
    /// Whether every output has metrics of its own.
    outputs: bool,
    texts: RefCell<Texts>,
}

/// A status, the type of the body, and the body.
type Answer = (StatusCode, &'static str, Bytes);

impl Answers {
    pub fn new(handle: Handle, outputs: bool) -> Self {
        Self {
            handle,
            outputs,
            texts: RefCell::default(),
        }
    }

    /// The answer to a request.
    pub async fn to<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let (status, kind, body) = match request.uri().path() {
            _ if !reads => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are possible",
            ),
            "/metrics" => {
                let format = wanted(request.headers().get(ACCEPT));
                self.show(Part::Metrics(format)).await
            }
            "/status.json" => self.show(Part::Status).await,
            "/healthz" => self.health().await,
            "/readyz" => self.readiness().await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /status.json, /healthz and /readyz",
            ),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if !reads {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    /// A text of the last snapshot that is fresh, or if the main thread does not turn, of the last.
    async fn show(&self, part: Part) -> Answer {
        let snapshot = self.fresh().await.or_else(|| self.handle.last_snapshot());
        let Some(snapshot) = snapshot else {
            return starting();
        };
        let kind = part.content_type();
        match self.texts.borrow_mut().of(&snapshot, part, self.outputs) {
            Some(body) => (StatusCode::OK, kind, body),
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many clients read former answers; try again",
            ),
        }
    }

    /// Whether the main thread turns.
    async fn health(&self) -> Answer {
        match (self.fresh().await, self.handle.last_snapshot()) {
            (Some(_), _) => text(StatusCode::OK, "ok"),
            (None, None) => starting(),
            (None, Some(_)) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the relay's main thread has not answered for 5 s",
            ),
        }
    }

    /// Whether the relay has begun to relay, with what does not run.
    async fn readiness(&self) -> Answer {
        let Some(snapshot) = self.fresh().await.or_else(|| self.handle.last_snapshot()) else {
            return starting();
        };
        let mut lines = vec!["ready".to_owned()];
        lines.extend(snapshot.problems.iter().cloned());
        text(StatusCode::OK, &lines.join("\n"))
    }

    /// A fresh snapshot; `None` if the main thread makes none in time.
    async fn fresh(&self) -> Option<Arc<Snapshot>> {
        let until = Instant::now() + PATIENCE;
        // Before the relay is ready there is none to wait for.
        self.handle.last_snapshot()?;
        loop {
            if let Some(snapshot) = self.handle.fresh_snapshot() {
                return Some(snapshot);
            }
            self.handle.want_snapshot();
            if Instant::now() >= until {
                return None;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

fn starting() -> Answer {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the relay is still starting",
    )
}

fn text(status: StatusCode, line: &str) -> Answer {
    (status, PLAIN, Bytes::from(format!("{line}\n")))
}

/// The format that a client asks for: the older one, unless it names the newer.
fn wanted(accept: Option<&HeaderValue>) -> Format {
    let accept = accept.and_then(|accept| accept.to_str().ok());
    match accept {
        Some(accept) if accept.contains("application/openmetrics-text") => Format::OpenMetrics,
        _ => Format::Text,
    }
}
