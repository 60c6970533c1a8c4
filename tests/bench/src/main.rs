//! The program behind `cargo xtask bench`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use relay_bench::{
    check,
    contender::Contender,
    generator::{Generator, Traffic},
    load::Load,
    relay::Relay,
    sink::{NextHop, Sink},
    trial::{Ends, Trial, expected},
    wire::{Shape, Wires},
};

/// The CPU of the contender, and of the sinks.
const CONTENDER_CPU: u32 = 0;
/// The CPU of the generator, and of the input's interrupts.
const GENERATOR_CPU: usize = 1;

/// Compare the relay with other programs on the same wires.
#[derive(Debug, Parser)]
#[command(name = "relay-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One trial of the relay
    Trial(TrialArgs),
    /// Start every contender, send a little through it, and see that every byte arrives
    Check {
        /// The relay's binary
        #[arg(long)]
        relay: PathBuf,
        /// A part of the contender's name; all if absent
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
struct TrialArgs {
    /// The relay's binary
    #[arg(long)]
    relay: PathBuf,
    /// The benchmark's kernel programs
    #[arg(long)]
    programs: PathBuf,
    /// Copies of each datagram
    #[arg(long, default_value_t = 16)]
    outputs: usize,
    /// Wires that they leave by
    #[arg(long, default_value_t = 1)]
    interfaces: usize,
    /// Bytes of UDP payload
    #[arg(long, default_value_t = 1000)]
    payload: usize,
    /// Flows with traffic
    #[arg(long, default_value_t = 1)]
    flows: usize,
    /// Rules; at least one a flow
    #[arg(long, default_value_t = 1)]
    rules: usize,
    /// Frames a second, all flows together
    #[arg(long)]
    rate: u64,
    /// For how long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// What receives
    #[arg(long, value_enum, default_value = "host")]
    next_hop: NextHop,
    /// The key `transmit` of the output interfaces; not written if absent
    #[arg(long)]
    transmit: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Trial(args) => trial(&args),
        Command::Check { relay, name } => check(relay, name.as_deref()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn check(relay: PathBuf, name: Option<&str>) -> Result<ExitCode> {
    let contenders: Vec<_> = Contender::all(&relay)
        .into_iter()
        .filter(|contender| name.is_none_or(|name| contender.name().contains(name)))
        .collect();
    ensure!(!contenders.is_empty(), "no contender has such a name");
    let failed = check::all(&contenders, CONTENDER_CPU)?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn trial(args: &TrialArgs) -> Result<ExitCode> {
    let wires = Wires::new(Shape {
        interfaces: args.interfaces,
        mtu: 1500,
    })?;
    let load = Load {
        outputs: args.outputs,
        flows: args.flows,
        rules: args.rules.max(args.flows),
    };
    let job = load.job(&wires, CONTENDER_CPU)?;
    let mut ends = Ends {
        generator: Generator::new(&args.programs, &wires.source, GENERATOR_CPU)?,
        sink: Sink::attach(&args.programs, &wires.sinks, args.next_hop)?,
    };
    let traffic = Traffic {
        rate: args.rate,
        seconds: args.seconds,
        payload: args.payload,
        flows: load.traffic(&job),
    };
    let slots = expected(&job, &wires, args.flows)?;
    let relay = Relay::start(&args.relay, &job, args.transmit.as_deref())?;
    let trial = ends.trial(&wires, &traffic, &slots, &[relay.id()])?;
    let report = relay.stop()?.report;
    println!("{}", line(&trial));
    println!("the relay's drops: {:?}", report.dropped);
    Ok(ExitCode::SUCCESS)
}

fn line(trial: &Trial) -> String {
    let us = |per_mille| match trial.latency.per_mille(per_mille) {
        Some(ns) => format!("{:.1}", ns as f64 / 1e3),
        None => "-".to_owned(),
    };
    format!(
        "offered {:.1} kpps, {} frames; out {:.1} kpps, {} of {}; lost {}, late {}, bad {}, refused by the wire {}; \
         {:.0} CPU ns a copy; latency us p50 {} p99 {} p99.9 {}",
        trial.offered_rate / 1e3,
        trial.sent,
        trial.received_rate() / 1e3,
        trial.copies(),
        trial.wanted,
        trial.lost,
        trial.late,
        trial.bad,
        trial.refused,
        trial.cpu_ns_per_copy(),
        us(500.0),
        us(990.0),
        us(999.0),
    )
}
