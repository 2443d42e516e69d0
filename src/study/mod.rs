//! The engine as an object of study: `compare` (modes side by side), `sweep` and `tune` (settings against
//! each other), `profile` (where the time goes), and the machine with it: `doctor` (what it offers), `infer`
//! (what the network says of given observations). Measurements are runs of the real program in processes
//! of their own, so that one that crashes or hangs is a row with a reason; reports are text, CSV and one
//! HTML page without anything from outside.

mod arithmetic;
pub mod compare;
pub mod doctor;
mod infer;
pub mod positions;
mod profile_evaluator;
pub mod profile_ring;
pub mod profile_selfplay;
pub mod report;
pub mod stats;
pub mod sweep;
pub mod trial;
pub mod tune;

pub use infer::{InferError, infer};
pub use profile_evaluator::{EvaluatorProfile, SizeTimes, profile_evaluator};

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
    Run(#[from] crate::process::RunError),
    /// A file.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A table.
    #[error("{path}: {source}")]
    Table {
        /// The CSV file.
        path: PathBuf,
        /// What is wrong.
        source: csv::Error,
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
        let path = path.to_owned();
        move |source| StudyError::File {
            action,
            path,
            source,
        }
    }

    /// For `map_err` on a table.
    fn table(path: &Path) -> impl FnOnce(csv::Error) -> StudyError {
        let path = path.to_owned();
        move |source| StudyError::Table { path, source }
    }
}

/// Writes a file whole or not at all: under another name first.
fn write_file(path: &Path, text: &str) -> Result<(), StudyError> {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, text).map_err(StudyError::file("write", &unfinished))?;
    std::fs::rename(&unfinished, path).map_err(StudyError::file("write", path))
}

/// Makes a folder and those above it.
fn make_folder(path: &Path) -> Result<(), StudyError> {
    std::fs::create_dir_all(path).map_err(StudyError::file("make the folder", path))
}
