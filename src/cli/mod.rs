//! The command line: the list of commands, and the way results and errors leave the program. stdout
//! is data, stderr is progress and errors. Each group of commands has a module with its arguments
//! and what they run: `selfplay` (with the merging of flags, file and defaults), `replay`,
//! `network`, `study`, `profile`.

mod flags;
mod network;
mod profile;
mod replay;
mod selfplay;
mod study;

use self::flags::id;
use crate::engine::{self, INTERRUPTED, RunError};
use crate::measure::{StudyError, doctor};
use crate::say::{NotWritten, data, note};
use crate::settings::SettingsError;
use anyhow::{Context, Result};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code of whatever else goes wrong.
const FAILED: u8 = 1;
/// Exit code of a bad command line or bad settings.
const BAD_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "ringmaster", version, about, long_about = LONG_ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Plays the card game Blob against itself, as training data for an AlphaZero-style agent.\n\n\
Worker processes keep many rounds in flight, each searched in several sampled worlds. Their \
leaves travel through lock-free rings in shared memory to one evaluator process, which answers \
them in batches of hundreds. Results depend on the seed, the weights and the search settings \
alone: not on workers, batches or timing.";

const EXAMPLES: &str = "\
Examples:\n  \
ringmaster selfplay                                1000 rounds of 4 players x 5 cards, medium \
search\n  \
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
    #[command(after_help = selfplay::help())]
    Selfplay(Box<selfplay::SelfplayArgs>),
    /// Run the modes side by side: throughput, batches, distance from sequential search
    #[command(after_help = study::COMPARE_HELP)]
    Compare(Box<study::CompareArgs>),
    /// Try settings against each other: a grid or random sample of any of them, resumable
    #[command(after_help = study::SWEEP_HELP)]
    Sweep(study::SweepArgs),
    /// Find good settings for this machine in a few minutes
    #[command(after_help = study::TUNE_HELP)]
    Tune(study::TuneArgs),
    /// Measure the parts: ring, evaluator, selfplay
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// (started by profile ring)
    #[command(hide = true)]
    RingPeer(profile::RingPeerArgs),
    /// Look at a replay: show, verify, digest
    #[command(subcommand)]
    Replay(replay::ReplayCommand),
    /// Turn a replay into training arrays (.npy)
    #[command(after_help = replay::EXPORT_HELP)]
    Export(replay::ExportArgs),
    /// Run the network on feature arrays
    #[command(after_help = network::INFER_HELP)]
    Infer(network::InferArgs),
    /// Make or describe network weights
    #[command(subcommand)]
    Weights(network::WeightsCommand),
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

/// The command line, with the flags of those settings that each command takes.
fn command_line() -> clap::Command {
    Cli::command()
        .mut_subcommand("selfplay", |selfplay| {
            let exclude = |rounds: Arg| rounds.conflicts_with(id("games"));
            selfplay.args(flags::all()).mut_arg(id("rounds"), exclude)
        })
        .mut_subcommand("compare", |compare| {
            let workers = "Worker processes [default: 4; with --config, as it says]";
            compare
                .args(flags::of(&["workers", "weights", "seed"]))
                .mut_arg(id("workers"), |arg| arg.help(workers))
        })
        .mut_subcommand("tune", |tune| tune.args(flags::of(&["weights"])))
        .mut_subcommand("infer", |infer| infer.args(flags::of(&["weights"])))
        .mut_subcommand("profile", |profile| {
            let largest = "Largest batch [default: 8192 on a GPU, 1024 on the CPU]";
            let of_run = ["workers", "in_flight", "max_batch", "weights"];
            let of_network = ["backend", "weights", "max_batch", "threads"];
            profile
                .mut_subcommand("selfplay", |selfplay| selfplay.args(flags::of(&of_run)))
                .mut_subcommand("evaluator", |evaluator| {
                    evaluator
                        .args(flags::of(&of_network))
                        .mut_arg(id("max_batch"), |arg| arg.help(largest))
                })
        })
}

/// Runs the program.
pub fn main() -> ExitCode {
    let told = command_line().try_get_matches();
    let ended = match told.and_then(|told| Cli::from_arg_matches(&told)) {
        Ok(cli) => run(cli.command),
        Err(answer) => explain(&answer),
    };
    match ended {
        Ok(code) => code,
        Err(error) if is_unwanted(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note!("ringmaster: {}", one_line(&error));
            ExitCode::from(code_of(&error))
        }
    }
}

/// What clap answers instead of running anything: help and version as data, what is wrong with a
/// command line as an error.
fn explain(answer: &clap::Error) -> Result<ExitCode> {
    if answer.use_stderr() {
        // Worth no more than any other word on stderr.
        let _ = answer.print();
        return Ok(ExitCode::from(BAD_USAGE));
    }
    answer
        .print()
        .and_then(|()| stdout().flush())
        .map_err(NotWritten::from)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a result: as one JSON object, or as people read it.
fn print(as_json: bool, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    let shown = match as_json {
        true => serde_json::to_string(result)?,
        false => text(),
    };
    Ok(data!("{shown}")?)
}

/// The exit code that stands for an error.
fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<SettingsError>() {
        return BAD_USAGE;
    }
    match error.downcast_ref() {
        Some(RunError::Settings(_) | RunError::ResumeWhat) => return BAD_USAGE,
        Some(_) => return FAILED,
        None => {}
    }
    match error.downcast_ref() {
        Some(StudyError::Settings(_) | StudyError::Usage(_)) => BAD_USAGE,
        Some(StudyError::Interrupted(_)) => INTERRUPTED,
        _ => FAILED,
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

fn is_unwanted(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(NotWritten::is_unwanted)
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Selfplay(arguments) => return selfplay::selfplay(&arguments),
        Command::Compare(arguments) => study::compare(&arguments)?,
        Command::Sweep(arguments) => study::sweep(&arguments)?,
        Command::Tune(arguments) => study::tune(&arguments)?,
        Command::Profile(command) => profile::profile(&command)?,
        Command::RingPeer(arguments) => profile::ring_peer(&arguments)?,
        Command::Replay(command) => replay::replay(&command)?,
        Command::Export(arguments) => replay::export(&arguments)?,
        Command::Infer(arguments) => network::infer(&arguments)?,
        Command::Weights(command) => network::weights(&command)?,
        Command::Doctor { clean, json } => {
            let examination = doctor::examine(clean);
            print(json, &examination, || examination.to_string())?;
        }
        Command::Worker {
            segment,
            index,
            parent,
        } => {
            engine::worker::run(&segment, index, parent)
                .with_context(|| format!("worker {index}"))?;
        }
        Command::Evaluator {
            replay,
            segment,
            parent,
        } => engine::evaluator::run(&segment, &replay, parent).context("evaluator")?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }
}
