//! Asks a relay for its metrics over HTTP, as a scraper does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The body of `path` from the server at the other end of `stream`, if the answer is 200. `headers`
/// are further ones, each with its line end.
pub fn get(mut stream: impl Read + Write, path: &str, headers: &str) -> Result<String> {
    // Of this version, so that no server answers in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: a\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no answer to {path}: {answer}"))?;
    let status = head.split_whitespace().nth(1);
    ensure!(status == Some("200"), "{path}: {answer}");
    Ok(body.to_owned())
}

/// The same from a TCP `address` of a namespace.
pub fn get_from(namespace: &Namespace, address: &str, path: &str) -> Result<String> {
    let stream = namespace.run(|| Ok(TcpStream::connect(address)?));
    let stream = stream.with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    get(stream, path, "")
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Where a relay serves its metrics: a Unix socket, which is the same in every network namespace.
#[derive(Debug)]
pub struct MetricsSocket(PathBuf);

impl MetricsSocket {
    /// A path that no other test has.
    pub fn new() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-test-{}-{n}.metrics", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The `[metrics]` table, with more `keys`.
    pub fn table(&self, keys: &str) -> String {
        format!("\n[metrics]\nlisten = \"{}\"\n{keys}\n", self.0.display())
    }

    /// The body of `path`, if the answer is 200.
    pub fn get(&self, path: &str) -> Result<String> {
        self.get_with(path, "")
    }

    /// The same with more headers, each with its line end.
    pub fn get_with(&self, path: &str, headers: &str) -> Result<String> {
        let stream = UnixStream::connect(&self.0)
            .with_context(|| format!("connecting to {}", self.0.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        get(stream, path, headers)
    }

    /// All series now.
    pub fn scrape(&self) -> Result<Series> {
        Series::read(&self.get("/metrics")?)
    }
}

impl Default for MetricsSocket {
    fn default() -> Self {
        Self::new()
    }
}

/// Values by series, as the text has them: `name{label="value",...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Series(BTreeMap<String, f64>);

impl Series {
    /// Reads the text; fails if a series is there twice.
    pub fn read(text: &str) -> Result<Self> {
        let mut series = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let value = value.parse().with_context(|| line.to_owned())?;
            let before = series.insert(name.to_owned(), value);
            ensure!(before.is_none(), "{name} is there twice");
        }
        Ok(Self(series))
    }

    /// The value of one series.
    pub fn value(&self, series: &str) -> Result<f64> {
        let value = self.0.get(series).copied();
        value.with_context(|| format!("no {series} in {self:#?}"))
    }

    /// The sum of all series of a family.
    pub fn sum(&self, family: &str) -> f64 {
        self.of(family).map(|(_, value)| value).sum()
    }

    /// All series of a family.
    pub fn of(&self, family: &str) -> impl Iterator<Item = (&str, f64)> {
        let series = self.0.iter().map(|(name, value)| (name.as_str(), *value));
        series.filter(move |(name, _)| name.split('{').next() == Some(family))
    }
}
