//! The program behind `cargo xtask bench`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use relay_bench::{
    bed::{Bed, CONTENDER_CPU},
    charts, check,
    compare::{self, Comparison},
    contender::Contender,
    framing::Framing,
    load::{Load, Matches, To},
    markdown,
    relay::Options,
    results::Results,
    scenario::{self, Cast, Scenario, Selection},
    sink::NextHop,
    soak, table,
    trial::Trial,
};
use relay_tests::soak::Record;

/// The relay and its peers, side by side on the same wires.
#[derive(Debug, Parser)]
#[command(name = "relay-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare the relay with other programs
    Compare(CompareArgs),
    /// Draw charts from what `compare` wrote with --json, and print its tables as Markdown
    Charts {
        /// The file
        results: PathBuf,
        /// The folder that the charts are written to
        #[arg(long)]
        to: PathBuf,
    },
    /// Draw what `cargo xtask soak` has measured
    Soak {
        /// The records, one for each run
        #[arg(required = true)]
        records: Vec<PathBuf>,
        /// The picture
        #[arg(long)]
        to: PathBuf,
    },
    /// One trial of the relay
    Trial(TrialArgs),
    /// Start every contender, send a little through it, and check that every byte arrives
    Check {
        /// The relay's binary
        #[arg(long)]
        relay: PathBuf,
        /// A part of the contender's name; all if absent
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// The relay's binary
    #[arg(long)]
    relay: PathBuf,
    /// The benchmark's kernel programs
    #[arg(long)]
    programs: PathBuf,
    /// Scenarios, or parts of their names, `ceilings` (what one core can do without a relay) or
    /// `unmatched` (what the relay costs frames that no rule takes) or `watched` (what it costs to
    /// watch feeds), separated by commas;
    /// everything if absent
    scenario: Option<String>,
    /// Another build of the relay, measured right after the relay in every round, and in turns with
    /// it in pairs of half a second under overload; ratios are printed
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Only these contenders, by their names, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    contenders: Option<Vec<String>>,
    /// Also write everything that was found to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// How often everything is measured; with 0 only pairs in turns: with the build of `--against`,
    /// and of scenarios with more than one IPv4 rule beside the plain one
    #[arg(long, default_value_t = 3)]
    rounds: u8,
    /// One round, and rates must be without loss for one second only: for a first look
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
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
    /// Wires that they leave through
    #[arg(long, default_value_t = 1)]
    interfaces: usize,
    /// Bytes of UDP payload
    #[arg(long, default_value_t = 1000)]
    payload: usize,
    /// Flows with traffic
    #[arg(long, default_value_t = 1)]
    flows: usize,
    /// Senders of each flow
    #[arg(long, default_value_t = 1)]
    senders: u16,
    /// Rules; at least one per flow
    #[arg(long, default_value_t = 1)]
    rules: usize,
    /// The rules have `local = true`
    #[arg(long)]
    local: bool,
    /// Copies go to hosts and not to groups
    #[arg(long)]
    unicast: bool,
    /// Frames per second, all flows together
    #[arg(long)]
    rate: u64,
    /// For how long, in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// What receives
    #[arg(long, value_enum, default_value = "host")]
    next_hop: NextHop,
    /// The key `transmit` of the output interfaces; not written if absent
    #[arg(long)]
    transmit: Option<String>,
    /// The relay's flag of that name
    #[arg(long)]
    backend: Option<String>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Compare(args) => compare(args),
        Command::Charts { results, to } => charts(&results, &to),
        Command::Soak { records, to } => draw_soak(&records, &to),
        Command::Trial(args) => trial(args),
        Command::Check { relay, name } => check(relay, name.as_deref()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: CompareArgs) -> Result<bool> {
    let Selection {
        scenarios,
        ceilings,
        unmatched,
        watched,
    } = scenario::select(args.scenario.as_deref())?;
    let has_pairs =
        watched || args.against.is_some() || scenarios.iter().any(|one| one.plain().is_some());
    ensure!(
        args.rounds > 0 || has_pairs,
        "`--rounds 0` measures pairs only: name another build with `--against`, or scenarios that \
         are compared with a plain one, like rules-10000"
    );
    let results = compare::run(&Comparison {
        relay: args.relay,
        before: args.against,
        contenders: args.contenders,
        programs: args.programs,
        scenarios,
        ceilings,
        unmatched,
        watched,
        rounds: if args.quick { 1 } else { args.rounds.into() },
        confirm_seconds: if args.quick { 1.0 } else { 3.0 },
    })?;
    println!("{}", table::of(&results));
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&results).context("writing the results as JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(results.failures.is_empty())
}

fn charts(file: &Path, folder: &Path) -> Result<bool> {
    let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let results: Results = serde_json::from_slice(&text).with_context(|| {
        format!(
            "reading {}: is it from `cargo xtask bench --json`?",
            file.display()
        )
    })?;
    charts::write(&results, folder)?;
    print!("{}", markdown::of(&results));
    Ok(true)
}

fn draw_soak(files: &[PathBuf], to: &Path) -> Result<bool> {
    let read = |path: &PathBuf| -> Result<Record> {
        let what = || format!("reading {}", path.display());
        serde_json::from_slice(&fs::read(path).with_context(what)?).with_context(what)
    };
    let records: Vec<Record> = files.iter().map(read).collect::<Result<_>>()?;
    soak::write(&records, to)?;
    Ok(true)
}

fn check(relay: PathBuf, name: Option<&str>) -> Result<bool> {
    let contenders: Vec<_> = Contender::all(&relay)
        .into_iter()
        .filter(|contender| name.is_none_or(|name| contender.name().contains(name)))
        .collect();
    ensure!(!contenders.is_empty(), "no contender has such a name");
    Ok(check::all(&contenders, CONTENDER_CPU)? == 0)
}

fn trial(args: TrialArgs) -> Result<bool> {
    let scenario = Scenario {
        name: "trial",
        load: Load {
            outputs: args.outputs,
            flows: args.flows,
            senders: args.senders,
            rules: args.rules.max(args.flows),
            matches: if args.local {
                Matches::Local
            } else {
                Matches::Exact
            },
            to: if args.unicast { To::Hosts } else { To::Groups },
        },
        interfaces: args.interfaces,
        payload: args.payload,
        framing: Framing::Ipv4,
        next_hop: args.next_hop,
        cast: Cast::RelayAlone,
    };
    let relay = Contender::Relay {
        binary: args.relay,
        options: Options {
            backend: args.backend,
            transmit: args.transmit,
            watched: false,
        },
    };
    let mut bed = Bed::new(&scenario, &args.programs)?;
    bed.expect(&relay.delivered(&bed.job))?;
    let running = relay.start(&bed.job)?;
    let trial = bed.trial(args.rate, args.seconds, &running.pids())?;
    bed.drain()?;
    let lost = running.stop()?;
    let unaccounted = bed.balance()?.unaccounted(&lost.own);
    let drops = lost.all();
    println!("{}", line(&trial));
    let some: Vec<_> = drops.iter().filter(|(_, count)| **count > 0).collect();
    println!("dropped, warm-up included: {some:?}; {unaccounted} copies are unaccounted for");
    Ok(unaccounted == 0)
}

fn line(trial: &Trial) -> String {
    let us = |per_mille| match trial.latency.per_mille(per_mille) {
        Some(ns) => format!("{:.1}", ns as f64 / 1e3),
        None => "-".to_owned(),
    };
    format!(
        "offered {:.1} kpps, {} frames; out {:.1} kpps, {} of {}; lost {}, late {}, bad {}, refused \
         by the wire {}; {:.0} CPU ns per copy; latency us p50 {} p99 {} p99.9 {}",
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
