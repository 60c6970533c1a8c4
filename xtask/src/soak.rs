//! `cargo xtask soak`: traffic, changes, faults and hostile frames at random, for as long as it is
//! asked to, and a picture of what the relay held.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    bench, build, native_xdp, process,
    setup::{self, Purpose},
    workspace::Workspace,
};

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// For how many minutes, on each backend
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// What all random choices follow from; printed, and another one each time if absent
    #[arg(long)]
    seed: Option<u64>,
    /// The backend
    #[arg(long, value_enum, default_value = "both")]
    backend: Backend,
    /// Draw what the relay held into FILE
    #[arg(long, value_name = "FILE")]
    graph: Option<PathBuf>,
    /// Write everything that was measured to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    /// A run of so many minutes on each backend, of which nothing is kept.
    pub fn lasting(minutes: f64) -> Self {
        Self {
            minutes,
            seed: None,
            backend: Backend::Both,
            graph: None,
            json: None,
        }
    }
}

/// A choice of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// XDP and AF_XDP
    Xdp,
    /// Packet sockets and io_uring
    IoUring,
    /// One after the other
    Both,
}

impl Backend {
    /// The names: of the module of tests, and in the name of the record.
    fn names(self) -> &'static [(&'static str, &'static str)] {
        const XDP: (&str, &str) = ("xdp", "xdp");
        const IO_URING: (&str, &str) = ("io_uring", "io-uring");
        match self {
            Self::Xdp => &[XDP],
            Self::IoUring => &[IO_URING],
            Self::Both => &[XDP, IO_URING],
        }
    }
}

/// Runs on one backend after the other, also where the first fails, and draws.
pub fn run(ws: &Workspace, options: &Options) -> Result<ExitCode> {
    if !process::is_root() {
        bail!(
            "the soak run needs root: it makes network namespaces and attaches XDP programs. \
             Run it as root: sudo -E env PATH=\"$PATH\" cargo xtask soak"
        );
    }
    setup::system(Purpose::Test)?;
    native_xdp::check(ws)?;
    build::relay(ws)?;
    let record = ws.target.join("soak.json");
    let (mut records, mut failed) = (Vec::new(), false);
    for (module, name) in options.backend.names() {
        let written = record.with_extension(format!("{name}.json"));
        let _ = fs::remove_file(&written);
        let mut test = ws.cargo();
        test.args(["test", "--package", "relay-tests", "--test", "lasting"])
            .args(["--locked", "--", "--nocapture"])
            .arg(format!("soak::{module}::"))
            .env("RELAY_BIN", ws.release("relay"))
            .env("RELAY_SOAK_MINUTES", options.minutes.to_string())
            .env("RELAY_SOAK_RECORD", &record);
        if let Some(seed) = options.seed {
            test.env("RELAY_TESTS_SEED", seed.to_string());
        }
        failed |= !process::status(&mut test)?.success();
        if written.is_file() {
            records.push(written);
        }
    }
    if let Some(json) = &options.json {
        fs::write(json, together(&records)?)
            .with_context(|| format!("writing {}", json.display()))?;
    }
    if let Some(graph) = &options.graph
        && !records.is_empty()
    {
        let mut draw = bench::program(ws)?;
        draw.arg("soak").arg("--to").arg(graph).args(&records);
        process::run(&mut draw)?;
        println!("drawn into {}", graph.display());
    }
    Ok(match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The records as one array.
fn together(records: &[PathBuf]) -> Result<String> {
    let read = |path: &PathBuf| -> Result<serde_json::Value> {
        let what = || format!("reading {}", path.display());
        serde_json::from_slice(&fs::read(path).with_context(what)?).with_context(what)
    };
    let records: Vec<_> = records.iter().map(read).collect::<Result<_>>()?;
    Ok(serde_json::to_string_pretty(&records)? + "\n")
}
