//! The command line: names and help of every command, flags over settings file over defaults, and the
//! way results and errors leave the program. stdout is data, stderr is progress and errors.

use crate::network::{BackendChoice, BackendKind, Limits, Shape, Weights, choose};
use crate::process::{self, BUILT_IN_WEIGHTS_SEED, INTERRUPTED, Start};
use crate::replay;
use crate::settings::{ParkingChoice, Settings};
use crate::study::{self, doctor};
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use std::io::{ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit code of a bad command line or bad settings.
const BAD_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "ringmaster", version, about, long_about = LONG_ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "Plays the card game Blob against itself, as training data for an AlphaZero-style agent.\n\n\
Worker processes keep many rounds in flight, each searched in several sampled worlds. Their leaves travel through \
lock-free rings in shared memory to one evaluator process, which answers them in batches of hundreds. Results depend \
on the seed, the weights and the search settings alone: not on workers, batches or timing.";

const EXAMPLES: &str = "Examples:\n  \
ringmaster selfplay                                1000 rounds of 4 players x 5 cards, medium search\n  \
ringmaster selfplay --games 20 --players 5 --cards 7 --out games\n  \
ringmaster selfplay --resume --out games           go on after an interruption\n  \
ringmaster replay show games | head -1             one JSON object per round\n  \
ringmaster export games --out arrays               features, mask, policy, value as .npy\n  \
ringmaster compare                                 five modes side by side\n  \
ringmaster tune                                    good settings for this machine\n\n\
Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted (finished rounds kept).";

#[derive(Subcommand)]
enum Command {
    /// Play rounds or games and keep them as a replay
    #[command(after_help = SELFPLAY_HELP)]
    Selfplay(Box<SelfplayArgs>),
    /// Run the modes side by side: throughput, batches, distance from sequential search
    #[command(after_help = crate::cli_study::COMPARE_HELP)]
    Compare(Box<crate::cli_study::CompareArgs>),
    /// Try settings against each other: a grid or random sample of any of them, resumable
    #[command(after_help = crate::cli_study::SWEEP_HELP)]
    Sweep(crate::cli_study::SweepArgs),
    /// Find good settings for this machine in a few minutes
    #[command(after_help = crate::cli_study::TUNE_HELP)]
    Tune(crate::cli_study::TuneArgs),
    /// Measure the parts: ring, evaluator, selfplay
    #[command(subcommand)]
    Profile(crate::cli_study::ProfileCommand),
    /// (started by profile ring)
    #[command(hide = true)]
    RingPeer(crate::cli_study::RingPeerArgs),
    /// Look at a replay: show, verify, digest
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Turn a replay into training arrays (.npy)
    #[command(
        after_help = "Writes features.npy f32 [N,256], mask.npy u8 [N,52], policy.npy f32 [N,52] (visits / sum), \
value.npy f32 [N,8] (the round's scores relative to the mover, 2 * points / (10 + cards) - 1) and seat_mask.npy u8 [N,8] \
(1 where a seat exists), one row per searched decision in order of rounds."
    )]
    Export {
        /// The replay's folder
        dir: PathBuf,
        /// Folder for the arrays
        #[arg(long)]
        out: PathBuf,
    },
    /// Run the network on feature arrays
    #[command(
        after_help = "Writes policy.npy f32 [N,52] (softmax over the legal actions, 0 elsewhere) and value.npy f32 [N,8] \
(seats relative to the mover, in [-1, 1])."
    )]
    Infer {
        /// features.npy, f32 [N,256]
        #[arg(long)]
        features: PathBuf,
        /// mask.npy, u8 [N,52], 1 for legal actions
        #[arg(long)]
        mask: PathBuf,
        /// Weights (safetensors); none: the built-in seeded network
        #[arg(long)]
        weights: Option<PathBuf>,
        /// What runs the network; a GPU takes only features of positions of the game
        #[arg(long, value_enum, default_value = "cpu")]
        backend: BackendChoice,
        /// Folder for the results
        #[arg(long)]
        out: PathBuf,
    },
    /// Make or describe network weights
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// What this machine offers, what it lacks, and the remedy
    Doctor {
        /// Remove shared memory that dead runs left behind
        #[arg(long)]
        clean: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// (started by selfplay)
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        segment: String,
        #[arg(long)]
        index: usize,
        #[arg(long)]
        parent: u32,
    },
    /// (started by selfplay)
    #[command(hide = true)]
    Evaluator {
        #[arg(long)]
        replay: PathBuf,
        #[arg(long)]
        segment: String,
        #[arg(long)]
        parent: u32,
    },
}

#[derive(Args)]
pub(crate) struct ProfileEvaluatorArgs {
    /// What runs the network
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendChoice,
    /// Weights (safetensors); none: the built-in seeded network
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Largest batch [default: 8192 on a GPU, 1024 on the CPU]
    #[arg(long)]
    max_batch: Option<usize>,
    /// Threads of the network on the CPU; 0: one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Write the sizes as CSV
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum ReplayCommand {
    /// Print one JSON object per round, everything needed to recheck it by the rules
    Show {
        /// The replay's folder
        dir: PathBuf,
    },
    /// Check every byte, rule, visit count and round number
    Verify {
        /// The replay's folder
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print one hash of all rounds in order of their numbers
    Digest {
        /// The replay's folder
        dir: PathBuf,
    },
}

#[derive(Subcommand)]
enum WeightsCommand {
    /// Write a seeded random network
    Init {
        /// Seed; the default is the network that is used without --weights
        #[arg(long, default_value_t = BUILT_IN_WEIGHTS_SEED)]
        seed: u64,
        /// Width of the network
        #[arg(long, default_value_t = 256)]
        width: usize,
        /// Encoder layers
        #[arg(long, default_value_t = 6)]
        depth: usize,
        /// Width of the feed-forward layers
        #[arg(long, default_value_t = 1024)]
        ffn: usize,
        /// The file to write (safetensors)
        #[arg(long)]
        out: PathBuf,
    },
    /// Describe a weights file: shape, tensors, parameters, hash
    Inspect {
        /// The file
        file: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

const SELFPLAY_HELP: &str = "The settings file (TOML) takes the same names with underscores, and more:\n  \
[search]  c_puct, fpu_reduction, virtual_loss, noise_alpha, noise_fraction, temperature_start, temperature_end\n  \
[rules]   trump = rotating | turned | spades | hearts | clubs | diamonds | none, dealer_restriction, missed_bid_scores_tricks\n  \
[[mix]]   players, cards, weight: independent rounds drawn from several tables\n\n\
Ctrl-C finishes and keeps the rounds in hand; a second Ctrl-C, or SIGTERM, ends at once and keeps those that are finished.\n\
--resume --out DIR goes on, with the settings the folder was begun with.";

#[derive(Args, Default)]
struct SelfplayArgs {
    /// Independent rounds to play [default: 1000]
    #[arg(long, conflicts_with = "games")]
    rounds: Option<u64>,
    /// Whole games to play instead
    #[arg(long)]
    games: Option<u64>,
    /// Players, 3 to 8 [default: 4]
    #[arg(long)]
    players: Option<usize>,
    /// Cards dealt to each; in games, those of the first round [default: 5]
    #[arg(long)]
    cards: Option<usize>,
    /// Worker processes; 0 plays in one process without shared memory [default: one per core]
    #[arg(long)]
    workers: Option<usize>,
    /// Rounds (or games) in flight per worker [default: enough to fill batches]
    #[arg(long)]
    in_flight: Option<usize>,
    /// Worlds sampled per decision [default: 3]
    #[arg(long)]
    worlds: Option<usize>,
    /// Simulations in each world [default: 30]
    #[arg(long)]
    simulations: Option<usize>,
    /// Leaves in flight per tree; 1 is exactly the sequential search [default: 1]
    #[arg(long)]
    leaves: Option<usize>,
    /// Worlds of a decision searched at once; changes only the speed [default: all]
    #[arg(long)]
    worlds_in_flight: Option<usize>,
    /// Most leaves in a batch [default: 512]
    #[arg(long)]
    max_batch: Option<usize>,
    /// Longest wait of an idle network for a batch to fill, microseconds [default: 0]
    #[arg(long)]
    max_wait_us: Option<u64>,
    /// What runs the network [default: auto]
    #[arg(long, value_enum)]
    backend: Option<BackendChoice>,
    /// Threads of the network on the CPU [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// GPU memory the network may take, MiB; 0: no cap [default: 0]
    #[arg(long)]
    gpu_memory_mib: Option<usize>,
    /// How idle processes wait: park (sleep) or poll (a core each, for GPU machines) [default: park]
    #[arg(long, value_enum)]
    parking: Option<ParkingChoice>,
    /// End after so many seconds, however many rounds that is (or at --rounds, if that comes first)
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds at the start that the figures leave out, of --seconds
    #[arg(long)]
    warm_up_s: Option<f64>,
    /// Folder for time stamps of sampled requests; better: ringmaster profile selfplay
    #[arg(long)]
    trace: Option<PathBuf>,
    /// (of a study) End with this process
    #[arg(long, hide = true)]
    parent: Option<u32>,
    /// Weights (safetensors), or a folder whose newest are taken [default: a built-in seeded network]
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Seconds between two looks for new weights there, for rounds not yet begun; 0: never [default: 1]
    #[arg(long)]
    reload_s: Option<f64>,
    /// Seed of all random numbers [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Folder of the replay [default: the next free replays/NNNN]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the replay in --out
    #[arg(long)]
    resume: bool,
    /// As --resume, and with other weights than the replay's if they are others, for rounds not yet begun
    #[arg(long)]
    append: bool,
    /// Settings file (TOML); flags override it
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

impl SelfplayArgs {
    fn start(&self) -> Start {
        match (self.append, self.resume) {
            (true, _) => Start::Append,
            (false, true) => Start::Resume,
            (false, false) => Start::New,
        }
    }

    /// Flags over the settings file, or over the resumed replay's own settings, over the defaults.
    fn settings(&self) -> Result<Settings> {
        let mut settings = match (&self.config, &self.out) {
            (Some(file), _) => Settings::load(file)?,
            (None, Some(out))
                if self.start() != Start::New && out.join(replay::MANIFEST_FILE).exists() =>
            {
                let manifest = replay::Manifest::read(out)?;
                serde_json::from_value(manifest.notes).with_context(|| {
                    format!("{}: the manifest's settings do not parse", out.display())
                })?
            }
            _ => Settings::default(),
        };
        if self.rounds.is_some() {
            settings.games = 0;
        }
        let overrides: [(&mut usize, Option<usize>); 9] = [
            (&mut settings.players, self.players),
            (&mut settings.cards, self.cards),
            (&mut settings.workers, self.workers),
            (&mut settings.in_flight, self.in_flight),
            (&mut settings.worlds, self.worlds),
            (&mut settings.simulations, self.simulations),
            (&mut settings.leaves, self.leaves),
            (&mut settings.threads, self.threads),
            (&mut settings.worlds_in_flight, self.worlds_in_flight),
        ];
        for (setting, flag) in overrides {
            *setting = flag.unwrap_or(*setting);
        }
        if self.seconds.is_some() && self.games.is_none() {
            settings.rounds = 0;
        }
        settings.rounds = self.rounds.unwrap_or(settings.rounds);
        settings.seconds = self.seconds.unwrap_or(settings.seconds);
        settings.warm_up_s = self.warm_up_s.unwrap_or(settings.warm_up_s);
        settings.trace = self.trace.clone().or(settings.trace);
        settings.games = self.games.unwrap_or(settings.games);
        settings.max_batch = self.max_batch.unwrap_or(settings.max_batch);
        settings.max_wait_us = self.max_wait_us.unwrap_or(settings.max_wait_us);
        settings.seed = self.seed.unwrap_or(settings.seed);
        settings.backend = self.backend.unwrap_or(settings.backend);
        settings.gpu_memory_mib = self.gpu_memory_mib.unwrap_or(settings.gpu_memory_mib);
        settings.parking = self.parking.unwrap_or(settings.parking);
        settings.weights = self.weights.clone().or(settings.weights);
        settings.reload_s = self.reload_s.unwrap_or(settings.reload_s);
        settings.out = self.out.clone().or(settings.out);
        Ok(settings)
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        // Whoever reads stdout has had enough (`| head`): that is no failure.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmaster: {}", one_line(&error));
            let usage = error.is::<crate::settings::SettingsError>()
                || matches!(
                    error.downcast_ref(),
                    Some(process::RunError::Settings(_) | process::RunError::ResumeWhat)
                );
            use crate::study::{StudyError, trial::TrialError};
            let code = match error.downcast_ref() {
                Some(StudyError::Settings(_) | StudyError::Usage(_)) => BAD_USAGE,
                Some(StudyError::Interrupted | StudyError::Trial(TrialError::Interrupted)) => {
                    INTERRUPTED
                }
                _ if usage => BAD_USAGE,
                _ => 1,
            };
            ExitCode::from(code)
        }
    }
}

/// An error and its causes, each said once: many messages quote their cause already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Selfplay(arguments) => return selfplay(&arguments),
        Command::Compare(arguments) => crate::cli_study::compare(&arguments)?,
        Command::Sweep(arguments) => crate::cli_study::sweep(&arguments)?,
        Command::Profile(command) => crate::cli_study::profile(&command)?,
        Command::RingPeer(arguments) => crate::cli_study::ring_peer(&arguments)?,
        Command::Tune(arguments) => crate::cli_study::tune(&arguments)?,
        Command::Replay(ReplayCommand::Show { dir }) => replay::show(&dir, stdout().lock())?,
        Command::Replay(ReplayCommand::Verify { dir, json }) => verify(&dir, json)?,
        Command::Replay(ReplayCommand::Digest { dir }) => digest(&dir)?,
        Command::Export { dir, out } => {
            let exported = replay::export(&dir, &out)?;
            writeln!(
                stdout(),
                "{} decisions of {} rounds in {}",
                exported.rows,
                exported.rounds,
                out.display()
            )?;
        }
        Command::Infer {
            features,
            mask,
            weights,
            backend,
            out,
        } => {
            let (weights, limits) = network(weights.as_deref(), 0, 1)?;
            let (rows, device) = study::infer(&features, &mask, &weights, backend, limits, &out)?;
            writeln!(stdout(), "{rows} rows in {} ({device})", out.display())?;
        }
        Command::Doctor { clean, json } => {
            let examination = doctor::examine(clean);
            if json {
                writeln!(stdout(), "{}", serde_json::to_string(&examination)?)?;
            } else {
                writeln!(stdout(), "{examination}")?;
            }
        }
        Command::Weights(WeightsCommand::Init {
            seed,
            width,
            depth,
            ffn,
            out,
        }) => {
            let weights = Weights::seeded(seed, Shape::new(width, depth, ffn)?);
            weights.save(&out)?;
            writeln!(
                stdout(),
                "{}: {} parameters",
                out.display(),
                weights.shape().parameters()
            )?;
        }
        Command::Weights(WeightsCommand::Inspect { file, json }) => inspect(&file, json)?,
        Command::Worker {
            segment,
            index,
            parent,
        } => {
            process::worker::run(&segment, index, parent)
                .with_context(|| format!("worker {index}"))?;
        }
        Command::Evaluator {
            replay,
            segment,
            parent,
        } => process::evaluator::run(&segment, &replay, parent).context("evaluator")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn selfplay(arguments: &SelfplayArgs) -> Result<ExitCode> {
    if let Some(parent) = arguments.parent {
        crate::shm::liveness::die_with_parent(parent, nix::sys::signal::Signal::SIGTERM)?;
    }
    let settings = arguments.settings()?;
    if let Some(folder) = &settings.trace {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let report = process::selfplay(settings, arguments.start())?;
    if arguments.json {
        writeln!(stdout(), "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(stdout(), "{report}")?;
    }
    if !report.interrupted {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "interrupted: {} of {} rounds are kept; go on with: ringmaster selfplay --resume --out {}",
        report.rounds_in_replay,
        report.rounds_planned,
        report.out.display()
    );
    Ok(ExitCode::from(INTERRUPTED))
}

fn verify(dir: &Path, as_json: bool) -> Result<()> {
    let summary = replay::verify(dir)?;
    if as_json {
        writeln!(stdout(), "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(
            stdout(),
            "{}: sound; {} rounds, {} searched decisions, {} simulations\ndigest {}",
            dir.display(),
            summary.rounds,
            summary.decisions,
            summary.simulations,
            summary.digest
        )?;
    }
    Ok(())
}

fn digest(dir: &Path) -> Result<()> {
    let reader = replay::ReplayReader::open(dir)?;
    let mut digest = replay::Digest::new();
    for stored in reader.records() {
        let stored = stored?;
        digest.push(stored.record.round, &stored.bytes)?;
    }
    writeln!(stdout(), "{}", digest.finish())?;
    Ok(())
}

fn inspect(file: &Path, as_json: bool) -> Result<()> {
    let description = Weights::load(file)?.describe();
    let hash: String = description
        .hash
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let shape = description.shape;
    if as_json {
        let tensors: Vec<_> = description
            .tensors
            .iter()
            .map(|tensor| json!({"name": tensor.name, "shape": tensor.dims, "dtype": tensor.stored.to_string()}))
            .collect();
        let object = json!({
            "width": shape.width(), "depth": shape.depth(), "ffn": shape.ffn(),
            "parameters": description.parameters, "multiply_adds_folded": description.multiply_adds,
            "hash": hash, "tensors": tensors,
        });
        writeln!(stdout(), "{object}")?;
        return Ok(());
    }
    for tensor in &description.tensors {
        writeln!(
            stdout(),
            "{:<48} {:<5} {:?}",
            tensor.name,
            tensor.stored.to_string(),
            tensor.dims
        )?;
    }
    writeln!(
        stdout(),
        "BlobNet, width {}, {} layers, ffn {}: {} parameters, {} multiply-adds once folded\nhash {hash}",
        shape.width(),
        shape.depth(),
        shape.ffn(),
        description.parameters,
        description.multiply_adds
    )?;
    Ok(())
}

/// The weights named (or built in), and what the network may use: 0 threads are one per core.
fn network(weights: Option<&Path>, threads: usize, max_batch: usize) -> Result<(Weights, Limits)> {
    let settings = Settings {
        weights: weights.map(Path::to_owned),
        threads,
        max_batch,
        ..Settings::default()
    };
    settings.check()?;
    let settings = settings.resolve();
    Ok((process::weights_of(&settings)?, settings.limits()))
}

pub(crate) fn profile_evaluator(arguments: &ProfileEvaluatorArgs) -> Result<()> {
    let (weights, mut limits) = network(
        arguments.weights.as_deref(),
        arguments.threads,
        arguments.max_batch.unwrap_or(1),
    )?;
    let chosen = choose(arguments.backend, weights.shape())?;
    if let Some(reason) = &chosen.reason {
        eprintln!("{reason}");
    }
    limits.max_batch = arguments.max_batch.unwrap_or(match chosen.kind {
        BackendKind::Cpu => 1024,
        BackendKind::Cuda => 8192,
    });
    let profile = study::profile_evaluator(chosen.kind, &weights, limits)?;
    if let Some(path) = &arguments.csv {
        profile
            .write_csv(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if arguments.json {
        writeln!(stdout(), "{}", serde_json::to_string(&profile)?)?;
    } else {
        writeln!(stdout(), "{profile}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
