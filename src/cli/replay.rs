//! The command line of what reads a replay: show, verify, digest, export.

use super::print;
use crate::plural::counted;
use crate::replay;
use crate::say::data;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::io::stdout;
use std::path::{Path, PathBuf};

/// `ringmaster replay`.
#[derive(Subcommand)]
pub(super) enum ReplayCommand {
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

pub(super) const EXPORT_HELP: &str = "Writes features.npy f32 [N,256], mask.npy u8 [N,52], \
policy.npy f32 [N,52] (the record's policy target if it has one, else visits / sum), \
value.npy f32 [N,8] (the round's scores relative to the mover, 2 * points / (10 + cards) - 1) and \
seat_mask.npy u8 [N,8] (1 where a seat exists), one row per decision searched in full, in order of \
rounds.";

/// `ringmaster export`.
#[derive(Args)]
pub(super) struct ExportArgs {
    /// The replay's folder
    dir: PathBuf,
    /// Folder for the arrays
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn replay(command: &ReplayCommand) -> Result<()> {
    match command {
        ReplayCommand::Show { dir } => Ok(replay::show(dir, stdout().lock())?),
        ReplayCommand::Verify { dir, json } => verify(dir, *json),
        ReplayCommand::Digest { dir } => digest(dir),
    }
}

fn verify(dir: &Path, as_json: bool) -> Result<()> {
    let summary = replay::verify(dir)?;
    print(as_json, &summary, || {
        format!(
            "{}: sound; {}, {}, {}\ndigest {}",
            dir.display(),
            counted(summary.rounds, "round"),
            counted(summary.decisions, "searched decision"),
            counted(summary.simulations, "simulation"),
            summary.digest
        )
    })
}

fn digest(dir: &Path) -> Result<()> {
    let reader = replay::ReplayReader::open(dir)?;
    let mut digest = replay::Digest::new();
    for stored in reader.records() {
        let stored = stored?;
        digest.push(stored.record.round, &stored.bytes)?;
    }
    data!("{}", digest.finish())?;
    Ok(())
}

pub(super) fn export(arguments: &ExportArgs) -> Result<()> {
    let exported = replay::export(&arguments.dir, &arguments.out)?;
    data!(
        "{} of {} in {}",
        counted(exported.rows, "decision"),
        counted(exported.rounds, "round"),
        arguments.out.display()
    )?;
    Ok(())
}
