//! The command line of the studies: compare, sweep, tune, profile.

use crate::settings::Settings;
use crate::study::compare::{self, Preset};
use crate::study::profile_ring::{self, Effort};
use crate::study::{StudyError, profile_selfplay, sweep, tune};
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::{Write, stdout};
use std::path::PathBuf;

pub(crate) const COMPARE_HELP: &str = "Modes: 1 sequential, 2 intra-game batching, 3 cross-worker batching, 4 central server, \
5 rounds in flight (ours). Modes 1 and 2 run as many processes side by side as there are workers, each with a network of its \
own, as the replaced system did. Each run is cut after --seconds, so slow modes cost no more than fast ones; rounds per minute \
are unique evaluations per second over those a round takes.\n\n\
Writes compare.csv and compare.html to --out.\n\n\
Examples:\n  \
ringmaster compare                                     4 workers, medium search, about 4 minutes\n  \
ringmaster compare --search light --search heavy --repetitions 6\n  \
ringmaster compare --from here.csv --from there.csv    one report over earlier results";

/// `ringmaster compare`.
#[derive(Args)]
pub(crate) struct CompareArgs {
    /// Worker processes
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Search to compare at: light 2x20, medium 3x30, heavy 5x50; may be given several times [default: medium]
    #[arg(long, value_enum)]
    search: Vec<Preset>,
    /// Leaves of one tree in flight in modes 2 and 3
    #[arg(long, default_value_t = 10)]
    leaves: usize,
    /// Repetitions of each mode, interleaved
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Seconds measured per repetition
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that, not counted
    #[arg(long, default_value_t = 3.0)]
    warm_up_s: f64,
    /// Rounds on whose decisions the policies are compared
    #[arg(long, default_value_t = 16)]
    reference_rounds: u64,
    /// Settings that all modes share (TOML)
    #[arg(long)]
    config: Option<PathBuf>,
    /// Weights (safetensors) [default: a built-in seeded network]
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Seed of the rounds
    #[arg(long)]
    seed: Option<u64>,
    /// What to call this machine in reports
    #[arg(long)]
    label: Option<String>,
    /// Folder for compare.csv and compare.html
    #[arg(long, default_value = "compare")]
    out: PathBuf,
    /// Measure nothing: a report over these earlier results
    #[arg(long, value_name = "FILE.csv")]
    from: Vec<PathBuf>,
    /// Print the rows as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn compare(arguments: &CompareArgs) -> Result<()> {
    let rows = if arguments.from.is_empty() {
        compare::run(&plan_of(arguments)?)?
    } else {
        let rows = compare::read_csv(&arguments.from)?;
        std::fs::create_dir_all(&arguments.out)?;
        std::fs::write(arguments.out.join("compare.html"), compare::page(&rows))?;
        rows
    };
    if arguments.json {
        writeln!(stdout(), "{}", json!({ "rows": rows }))?;
    } else {
        writeln!(stdout(), "{}", compare::table(&rows))?;
        let page = arguments.out.join("compare.html");
        writeln!(stdout(), "report: {}", page.display())?;
    }
    Ok(())
}

fn plan_of(arguments: &CompareArgs) -> Result<compare::Plan, StudyError> {
    let mut settings = match &arguments.config {
        Some(file) => Settings::load(file)?,
        None => Settings::default(),
    };
    settings.workers = arguments.workers;
    settings.seed = arguments.seed.unwrap_or(settings.seed);
    settings.weights = arguments.weights.clone().or(settings.weights);
    if arguments.repetitions == 0 || arguments.reference_rounds == 0 || arguments.leaves == 0 {
        let what = "--repetitions, --reference-rounds and --leaves must be at least 1";
        return Err(StudyError::Usage(what.into()));
    }
    let searches = match &arguments.search[..] {
        [] if arguments.config.is_some() => vec![(settings.worlds, settings.simulations)],
        [] => vec![Preset::Medium.size()],
        presets => presets.iter().map(|preset| preset.size()).collect(),
    };
    Ok(compare::Plan {
        settings,
        searches,
        leaves: arguments.leaves,
        repetitions: arguments.repetitions,
        seconds: arguments.seconds,
        warm_up_s: arguments.warm_up_s,
        reference_rounds: arguments.reference_rounds,
        label: arguments.label.clone(),
        out: arguments.out.clone(),
    })
}

pub(crate) const SWEEP_HELP: &str = "A spec (TOML):\n  \
[base]          settings in common, as in a settings file:  cards = 5\n  \
[grid]          every combination of these:  workers = [1, 2, 4]   \"worlds, simulations\" = [[2, 20], [3, 30]]\n  \
[random]        samples = 20, seed = 1; [random.space]  max_wait_us = { low = 0, high = 10000 }   parking = [\"park\", \"poll\"]\n  \
[trial]         seconds = 5, warm_up_s = 1 (or rounds = 200), repetitions = 3\n  \
[best]          metric = \"rounds_per_min\", constraints = [\"policy_distance <= 0.02\", \"decision_ms_p99 <= 500\"]\n\n\
Any setting can be swept, search.* and rules.* among them. The spec is checked as a whole before the first trial. Writes to \
--out, trial by trial: trials.jsonl; at the end trials.csv, best.toml (for selfplay --config) and sweep.html. Started again, it \
runs only what is not there yet; another program, seed or weights file makes another trial.\n\n\
Example: ringmaster sweep scripts/quick.toml && ringmaster selfplay --config sweeps/quick/best.toml";

/// `ringmaster sweep`.
#[derive(Args)]
pub(crate) struct SweepArgs {
    /// The spec (TOML)
    spec: PathBuf,
    /// Folder for the results [default: sweeps/ and the spec's name]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print what was found as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn sweep(arguments: &SweepArgs) -> Result<()> {
    let checked = sweep::load(&arguments.spec)?;
    let name = arguments.spec.file_stem().unwrap_or_default();
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("sweeps").join(name));
    let outcome = sweep::run(&checked, &out)?;
    let failed = outcome
        .entries
        .iter()
        .filter(|entry| entry.failed.is_some());
    let failed = failed.count();
    if arguments.json {
        let summary = json!({
            "combinations": checked.combinations.len(),
            "trials": outcome.entries.len(),
            "ran": outcome.ran,
            "failed": failed,
            "best": outcome.best,
            "out": out,
        });
        writeln!(stdout(), "{summary}")?;
        return Ok(());
    }
    let summaries = sweep::summarize(&checked, &outcome.entries);
    writeln!(stdout(), "{}", sweep::table(&checked, &summaries))?;
    let page = out.join("sweep.html");
    writeln!(
        stdout(),
        "{} trials, {failed} failed; report: {}",
        outcome.entries.len(),
        page.display()
    )?;
    match outcome.best {
        Some(best) => writeln!(
            stdout(),
            "best: ringmaster selfplay --config {}",
            best.display()
        )?,
        None => writeln!(
            stdout(),
            "best: none ran without failure and kept all constraints"
        )?,
    }
    Ok(())
}

/// `ringmaster profile`.
#[derive(Subcommand)]
pub(crate) enum ProfileCommand {
    /// Round trips between two processes: rings against bare atomics, a pipe, a Unix socket
    #[command(after_help = RING_HELP)]
    Ring(RingArgs),
    /// The network alone: time per batch size, arithmetic rate, cost model t(batch)
    Evaluator(crate::cli::ProfileEvaluatorArgs),
    /// Where the time of a run goes: requests stamped from stage to stage, a trace, the bottleneck
    #[command(after_help = PROFILE_SELFPLAY_HELP)]
    Selfplay(Box<ProfileSelfplayArgs>),
}

const RING_HELP: &str = "All ways take turns in one run between the same two cores. \"Polling\" never sleeps, \"parking\" looks 32 \
times and then sleeps in the kernel, as the engine does with --parking poll and park.";

const PROFILE_SELFPLAY_HELP: &str = "One request in --every is stamped: leaf selected, in the ring, seen by the evaluator, batch \
sealed, network started, network ended, reply in the ring, reply taken. Stamps are nanoseconds of CLOCK_MONOTONIC, kept by each \
process and joined at the end. Writes to --out: stages.csv, trace.json (open it with ui.perfetto.dev) and the stamps \
themselves. --overhead N runs N pairs with stamps on and off and says what they cost.\n\n\
Example: ringmaster profile selfplay --workers 2 --seconds 10";

#[derive(Args)]
pub(crate) struct RingArgs {
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
pub(crate) struct RingPeerArgs {
    #[arg(long)]
    segment: String,
    #[arg(long)]
    parent: u32,
    #[arg(long)]
    core: usize,
}

#[derive(Args)]
pub(crate) struct ProfileSelfplayArgs {
    /// Settings of the run (TOML)
    #[arg(long)]
    config: Option<PathBuf>,
    /// Worker processes [default: one per core]
    #[arg(long)]
    workers: Option<usize>,
    /// Rounds in flight per worker [default: enough to fill batches]
    #[arg(long)]
    in_flight: Option<usize>,
    /// Most leaves in a batch [default: 512]
    #[arg(long)]
    max_batch: Option<usize>,
    /// Weights (safetensors) [default: a built-in seeded network]
    #[arg(long)]
    weights: Option<PathBuf>,
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
    /// Folder for stages.csv, trace.json and stamps
    #[arg(long, default_value = "profile")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn profile(command: &ProfileCommand) -> Result<()> {
    match command {
        ProfileCommand::Ring(arguments) => {
            let cores = match arguments.cores[..] {
                [first, second] => [first, second],
                [] => profile_ring::default_cores().ok_or_else(|| {
                    StudyError::Usage(
                        "profile ring needs two cores; this process may use one".into(),
                    )
                })?,
                _ => return Err(StudyError::Usage("--cores takes two, as in 0,1".into()).into()),
            };
            let effort = Effort {
                trips: arguments.trips.max(1),
                repetitions: arguments.repetitions.max(1),
                streamed: arguments.trips.max(1) * 10,
            };
            let profile = profile_ring::run(cores, effort)?;
            if arguments.json {
                writeln!(stdout(), "{}", serde_json::to_string(&profile)?)?;
            } else {
                writeln!(stdout(), "{}", profile.table())?;
            }
        }
        ProfileCommand::Evaluator(arguments) => crate::cli::profile_evaluator(arguments)?,
        ProfileCommand::Selfplay(arguments) => {
            let mut settings = match &arguments.config {
                Some(file) => Settings::load(file)?,
                None => Settings::default(),
            };
            settings.workers = arguments.workers.unwrap_or(settings.workers);
            settings.in_flight = arguments.in_flight.unwrap_or(settings.in_flight);
            settings.max_batch = arguments.max_batch.unwrap_or(settings.max_batch);
            settings.weights = arguments.weights.clone().or(settings.weights);
            settings.seconds = arguments.warm_up_s + arguments.seconds;
            settings.warm_up_s = arguments.warm_up_s;
            settings.rounds = 0;
            settings.games = 0;
            settings.trace_every = arguments.every;
            let profile = profile_selfplay::run(
                &settings,
                &arguments.out,
                arguments.window_s,
                arguments.overhead,
            )?;
            if arguments.json {
                writeln!(stdout(), "{}", serde_json::to_string(&profile)?)?;
            } else {
                writeln!(stdout(), "{}", profile.table())?;
            }
        }
    }
    Ok(())
}

pub(crate) fn ring_peer(arguments: &RingPeerArgs) -> Result<()> {
    Ok(profile_ring::serve(
        &arguments.segment,
        arguments.parent,
        arguments.core,
    )?)
}

pub(crate) const TUNE_HELP: &str = "Measures the network's time by batch size, then turns workers, max_batch, in_flight, parking, \
max_wait_us and threads one after the other, keeps what is more than 2 % better, and stops when nothing helps any more or after \
--limit-s. What was found then runs in turns with the settings to begin with; those figures count. None of these changes a result.\n\n\
Example: ringmaster tune && ringmaster selfplay --config tuned.toml";

/// `ringmaster tune`.
#[derive(Args)]
pub(crate) struct TuneArgs {
    /// Settings to begin with (TOML): table, search, weights, backend
    #[arg(long)]
    config: Option<PathBuf>,
    /// Weights (safetensors) [default: a built-in seeded network]
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Seconds of each trial that count
    #[arg(long, default_value_t = 3.0)]
    trial_s: f64,
    /// Trials of each change; their median counts
    #[arg(long, default_value_t = 1)]
    repetitions: usize,
    /// Seconds after which no new change is tried
    #[arg(long, default_value_t = 180.0)]
    limit_s: f64,
    /// The settings file to write
    #[arg(long, default_value = "tuned.toml")]
    out: PathBuf,
    /// Print what was tried as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn tune(arguments: &TuneArgs) -> Result<()> {
    let mut settings = match &arguments.config {
        Some(file) => Settings::load(file)?,
        None => Settings::default(),
    };
    settings.weights = arguments.weights.clone().or(settings.weights);
    if !(0.01..=3600.0).contains(&arguments.trial_s) {
        return Err(StudyError::Usage("--trial-s must be 0.01 to 3600".into()).into());
    }
    let effort = tune::Effort {
        trial_s: arguments.trial_s,
        repetitions: arguments.repetitions,
        limit_s: arguments.limit_s,
    };
    let tuned = tune::run(&settings, effort, &arguments.out)?;
    if arguments.json {
        writeln!(stdout(), "{}", serde_json::to_string(&tuned)?)?;
    } else {
        writeln!(stdout(), "{}", tuned.table())?;
    }
    Ok(())
}
