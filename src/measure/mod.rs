//! The engine as an object of study: `compare` (modes side by side), `sweep` and `tune` (settings
//! against each other), `profile` (where the time goes), and the machine with it: `doctor` (what it
//! offers), `infer` (what the network says of given observations). Measurements are runs of the
//! real program in processes of their own, so that one that crashes or hangs is a row with a
//! reason; reports are text, CSV and one HTML page without anything from outside.

mod agreement;
mod arithmetic;
pub mod compare;
pub mod doctor;
mod infer;
pub mod positions;
mod profile_evaluator;
pub mod profile_ring;
pub mod profile_selfplay;
pub mod report;
pub mod scratch;
pub mod stats;
pub mod sweep;
pub mod trial;
pub mod tune;

pub use agreement::Agreement;
pub use infer::{InferError, infer};
pub use profile_evaluator::{EvaluatorProfile, SizeTimes, profile_evaluator};

use crate::disk::{self, Refusal};
use crate::plural::counted;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What an interrupted study says that has nothing to keep.
const NOTHING_YET: &str = "nothing was measured yet";

/// What can end a study.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// Settings that are out of range.
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A run failed where all must work.
    #[error(transparent)]
    Trial(#[from] trial::TrialError),
    /// Playing or searching in this process.
    #[error(transparent)]
    Run(#[from] crate::engine::RunError),
    /// A file.
    #[error(transparent)]
    File(#[from] Refusal),
    /// A table.
    #[error("{path}: {source}; is it a whole table of ringmaster's?")]
    Table {
        /// The CSV file.
        path: PathBuf,
        /// What is wrong.
        source: csv::Error,
    },
    /// A sweep that is over, but not for all its trials.
    #[error(
        "{failed} of {} failed; the same command tries {} again",
        counted(*trials, "trial"),
        if *failed == 1 { "it" } else { "them" }
    )]
    TrialsFailed {
        /// How many.
        failed: usize,
        /// Of how many.
        trials: usize,
    },
    /// The user wants the end of a study; what is kept of it, and how to go on.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl StudyError {
    /// An interruption says what is kept and how to go on; anything else stays as it is.
    fn keeping(self, kept: impl FnOnce() -> String) -> StudyError {
        match self {
            StudyError::Trial(trial::TrialError::Interrupted) => StudyError::Interrupted(kept()),
            other => other,
        }
    }

    /// For `map_err` on a file operation.
    fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StudyError {
        move |source| Refusal::of(action, path)(source).into()
    }

    /// For `map_err` on a table.
    fn table(path: &Path) -> impl FnOnce(csv::Error) -> StudyError {
        let path = path.to_owned();
        move |source| StudyError::Table { path, source }
    }
}

/// Makes a folder and those above it.
fn make_folder(path: &Path) -> Result<(), StudyError> {
    Ok(disk::make_folder(path)?)
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, text: &str) -> Result<(), StudyError> {
    Ok(disk::write(path, text.as_bytes())?)
}

/// Writes a table with a row for each of `rows`, whole or not at all.
fn write_table<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), StudyError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(StudyError::table(path))?;
    }
    put_table(path, writer)
}

/// Writes a table from memory, whole or not at all.
fn put_table(path: &Path, table: csv::Writer<Vec<u8>>) -> Result<(), StudyError> {
    let bytes = table.into_inner().map_err(|error| error.into_error());
    let bytes = bytes.map_err(StudyError::file("write", path))?;
    Ok(disk::write(path, &bytes)?)
}
