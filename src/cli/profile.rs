//! The command line of the measurements of parts: `profile ring`, `evaluator`, `selfplay`.

use super::flags::{FileAndFlags, Flags};
use super::network::network;
use super::print;
use super::study::destination;
use crate::disk;
use crate::measure::profile_ring::{self, RingBudget};
use crate::measure::{self, StudyError, profile_selfplay};
use crate::network::{BackendKind, choose};
use crate::say::note;
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `ringmaster profile`.
#[derive(Subcommand)]
pub(super) enum ProfileCommand {
    /// Round trips between two processes: rings against bare atomics, a pipe, a Unix socket
    #[command(after_help = RING_HELP)]
    Ring(RingArgs),
    /// The network alone: time per batch size, arithmetic rate, cost model t(batch)
    Evaluator(EvaluatorArgs),
    /// Where the time of a run goes: requests stamped from stage to stage, a trace, the bottleneck
    #[command(after_help = SELFPLAY_HELP)]
    Selfplay(Box<SelfplayArgs>),
}

const RING_HELP: &str = "\
All ways take turns in one run between the same two cores. \"Polling\" never sleeps, \"parking\" \
looks 32 times and then sleeps in the kernel, as the engine does with --parking poll and park.";

const SELFPLAY_HELP: &str = "\
One request in --every is stamped: leaf selected, in the ring, seen by the evaluator, batch \
sealed, network started, network ended, reply in the ring, reply taken. Stamps are nanoseconds of \
CLOCK_MONOTONIC, kept by each process and joined at the end. Writes to --out: stages.csv, \
trace.json (open it with ui.perfetto.dev) and the stamps themselves. --overhead N runs N pairs \
with stamps on and off and says what they cost.\n\n\
Example: ringmaster profile selfplay --workers 2 --seconds 10";

#[derive(Args)]
pub(super) struct RingArgs {
    /// The two cores, as in 0,1 [default: the first two this process may use]
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Round trips of each way and repetition
    #[arg(long, default_value_t = 20_000)]
    trips: u64,
    /// Repetitions, in turns
    #[arg(long, default_value_t = 5)]
    repetitions: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The echoing process of `profile ring`.
#[derive(Args)]
pub(super) struct RingPeerArgs {
    #[arg(long)]
    segment: String,
    #[arg(long)]
    parent: u32,
    #[arg(long)]
    core: usize,
}

#[derive(Args)]
pub(super) struct SelfplayArgs {
    #[command(flatten)]
    settings: FileAndFlags,
    /// Seconds measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that, not counted
    #[arg(long, default_value_t = 2.0)]
    warm_up_s: f64,
    /// One request of a worker in so many is stamped
    #[arg(long, default_value_t = 64)]
    every: usize,
    /// Seconds that trace.json shows, from the middle of the run
    #[arg(long, default_value_t = 2.0)]
    window_s: f64,
    /// Pairs of runs, stamps on and off, that measure what stamps cost
    #[arg(long, default_value_t = 0)]
    overhead: usize,
    /// Folder for stages.csv, trace.json and stamps [default: profile]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct EvaluatorArgs {
    #[command(flatten)]
    flags: Flags,
    /// Write the sizes as CSV
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn profile(command: &ProfileCommand) -> Result<()> {
    match command {
        ProfileCommand::Ring(arguments) => ring(arguments),
        ProfileCommand::Evaluator(arguments) => evaluator(arguments),
        ProfileCommand::Selfplay(arguments) => selfplay(arguments),
    }
}

fn ring(arguments: &RingArgs) -> Result<()> {
    let cores = match arguments.cores[..] {
        [first, second] => [first, second],
        [] => profile_ring::default_cores().ok_or_else(|| {
            StudyError::usage("profile ring needs two cores; this process may use one", "")
        })?,
        _ => return Err(StudyError::usage("--cores takes two, as in 0,1", "").into()),
    };
    let budget = RingBudget {
        ways: profile_ring::WAYS.len(),
        trips: arguments.trips.max(1),
        repetitions: arguments.repetitions.max(1),
        streamed: arguments.trips.max(1) * 10,
    };
    let profile = profile_ring::run(cores, budget)?;
    print(arguments.json, &profile, || profile.table())
}

pub(super) fn ring_peer(arguments: &RingPeerArgs) -> Result<()> {
    Ok(profile_ring::serve(
        &arguments.segment,
        arguments.parent,
        arguments.core,
    )?)
}

fn evaluator(arguments: &EvaluatorArgs) -> Result<()> {
    let settings = arguments.flags.over(Settings::default())?;
    let (backend, max_batch) = (settings.backend, settings.max_batch);
    let (weights, mut limits) = network(settings)?;
    if let Some(path) = &arguments.csv {
        // Now, and not after all measuring.
        disk::check_writable(path)?;
    }
    let chosen = choose(backend, weights.shape())?;
    if let Some(reason) = &chosen.reason {
        note!("{reason}");
    }
    limits.max_batch = match (max_batch, chosen.kind) {
        (0, BackendKind::Cpu) => 1024,
        (0, BackendKind::Cuda) => 8192,
        (told, _) => told,
    };
    let profile = measure::profile_evaluator(chosen.kind, &weights, limits)?;
    if let Some(path) = &arguments.csv {
        profile.write_csv(path)?;
    }
    print(arguments.json, &profile, || profile.to_string())
}

fn selfplay(arguments: &SelfplayArgs) -> Result<()> {
    let settings = Settings {
        seconds: arguments.warm_up_s + arguments.seconds,
        warm_up_s: arguments.warm_up_s,
        rounds: None,
        games: 0,
        trace_every: arguments.every,
        ..arguments.settings.settings(Settings::default())?
    };
    let profile = profile_selfplay::run(
        &settings,
        &destination(&arguments.out, "profile"),
        arguments.window_s,
        arguments.overhead,
    )?;
    print(arguments.json, &profile, || profile.table())
}
