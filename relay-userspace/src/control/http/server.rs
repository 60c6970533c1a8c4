//! The thread that serves HTTP: takes connections, as many as are allowed, and gives each its time.

use std::{
    convert::Infallible,
    io,
    net::TcpListener,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::{Level, warn};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net,
    runtime::{Builder, Runtime},
    sync::{Notify, Semaphore},
    task::LocalSet,
    time::{sleep, timeout},
};

use super::{answer::Answers, of_socket};
use crate::{
    config::rules::{Listen, Metrics},
    control::{listener::Listener, server::SocketOptions},
    daemon::{helper_thread, privileges::give_up, requests::Handle},
    events::Event,
    host::limits,
};

/// The target of the lines.
const LOG: &str = module_path!();
/// The most connections at a time. Others wait until the kernel has no room for them.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take for its request.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(30);
/// The most bytes of a request.
const MOST_BYTES: usize = 16 << 10;
/// How long to wait after the kernel has refused a connection, because descriptors are short.
const REFUSED: Duration = Duration::from_millis(100);
/// The mode of a Unix socket: whoever may read the status may read this.
const MODE: u32 = 0o666;

/// Why nothing is served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// It cannot listen there.
    #[error(
        "cannot serve metrics at {listen}: {cause}; free it, or give another `listen` in [metrics]"
    )]
    Listen {
        /// The place.
        listen: Listen,
        /// Why not.
        cause: String,
    },
    /// The thread cannot be started.
    #[error(
        "cannot start the thread that serves metrics: {0}{remedy}",
        remedy = limits::of_threads()
    )]
    Thread(#[source] io::Error),
}

/// Metrics, served by a thread of its own until this is dropped.
pub struct HttpServer {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    /// Removes its file when it is dropped.
    _socket: Option<Listener>,
}

/// A socket that listens.
enum Listening {
    Tcp(TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl HttpServer {
    /// Serves at once.
    ///
    /// # Errors
    ///
    /// The system refuses the socket or the thread.
    pub fn start(handle: Handle, metrics: &Metrics) -> Result<Self, HttpError> {
        let refused = |cause: String| HttpError::Listen {
            listen: metrics.listen.clone(),
            cause,
        };
        let (listening, socket) = match &metrics.listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address);
                let listener = listener.and_then(|one| one.set_nonblocking(true).map(|()| one));
                let listener = listener.map_err(|error| refused(error.to_string()))?;
                (Listening::Tcp(listener), None)
            }
            Listen::Unix(path) => {
                let options = SocketOptions {
                    path: path.clone(),
                    group: None,
                    mode: Some(MODE),
                };
                let socket = Listener::new(&options, None);
                let socket = socket.map_err(|error| refused(of_socket(&error)))?;
                let listener = socket.socket().try_clone();
                let listener = listener.map_err(|error| refused(error.to_string()))?;
                (Listening::Unix(listener), Some(socket))
            }
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HttpError::Thread)?;
        let stop = Arc::new(Notify::new());
        let stops = Arc::clone(&stop);
        let outputs = metrics.outputs;
        let work = move || {
            give_up::all_of_server("metrics");
            run(&runtime, listening, &stops, Answers::new(handle, outputs));
        };
        let thread = thread::Builder::new()
            .name("relay-http".into())
            .spawn(work)
            .map_err(HttpError::Thread)?;
        Ok(Self {
            stop,
            thread: Some(thread),
            _socket: socket,
        })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            helper_thread::join(thread);
        }
    }
}

/// Serves until `stop` is notified. Connections that are open then are closed.
fn run(runtime: &Runtime, listening: Listening, stop: &Notify, answers: Answers) {
    let answers = Rc::new(answers);
    LocalSet::new().block_on(runtime, async {
        let serve = async {
            match listening {
                Listening::Tcp(listener) => {
                    let listener = net::TcpListener::from_std(listener)?;
                    serve_all(async || Ok(listener.accept().await?.0), answers).await
                }
                Listening::Unix(listener) => {
                    let listener = net::UnixListener::from_std(listener)?;
                    serve_all(async || Ok(listener.accept().await?.0), answers).await
                }
            }
        };
        tokio::task::spawn_local(async {
            let ended: io::Result<Infallible> = serve.await;
            let Err(error) = ended;
            warn!("metrics are not served any more: {error}");
        });
        stop.notified().await;
    });
}

/// Serves what `accept` gives, without end.
async fn serve_all<S>(
    accept: impl AsyncFn() -> io::Result<S>,
    answers: Rc<Answers>,
) -> io::Result<Infallible>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        if permits.available_permits() == 0 {
            let text = format!(
                "metrics: {MOST_CONNECTIONS} clients are connected, as many as are served at once; \
                 others wait"
            );
            Event::new(LOG, Level::Warn, "HTTP clients", &text).say();
        }
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                let text = format!("metrics: cannot accept a client: {error}");
                Event::new(LOG, Level::Warn, "HTTP clients", &text)
                    .turn("accept")
                    .say();
                sleep(REFUSED).await;
                continue;
            }
        };
        let answers = Rc::clone(&answers);
        tokio::task::spawn_local(async move {
            serve(stream, answers).await;
            drop(permit);
        });
    }
}

/// Serves one connection: one request.
async fn serve<S>(stream: S, answers: Rc<Answers>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let answer = service_fn(move |request| {
        let answers = Rc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.to(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .keep_alive(false)
        .max_buf_size(MOST_BYTES)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that is gone, or sends nothing that is HTTP, has no use for an answer.
    let _ = timeout(CONNECTION, connection).await;
}
