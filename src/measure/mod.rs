//! The engine as an object of study: `compare` (modes side by side), `sweep` and `tune` (settings
//! against each other), `profile` (where the time goes), and the machine with it: `doctor` (what it
//! offers), `infer` (what the network says of given observations). Measurements are runs of the
//! real program in processes of their own, so that one that crashes or hangs is a row with a
//! reason; reports are text, CSV and one HTML page without anything from outside.

mod agreement;
mod arithmetic;
pub mod batch_costs;
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
use crate::fault::Fault;
use serde::Serialize;
use std::path::Path;

/// What an interrupted study says that has nothing to keep.
const NOTHING_YET: &str = "nothing was measured yet";

/// What can end a study.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// Settings that are out of range.
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
    /// What was asked for makes no sense.
    #[error(transparent)]
    Usage(Fault),
    /// A trial failed, in its own words.
    #[error("{0}")]
    Trial(String),
    /// Playing or searching in this process.
    #[error(transparent)]
    Run(#[from] crate::engine::RunError),
    /// A file.
    #[error(transparent)]
    File(#[from] Refusal),
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] Fault),
    /// The user wants the end of a study; what is kept of it, and how to go on.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl StudyError {
    /// What was asked for makes no sense.
    pub fn usage(cause: impl Into<String>, remedy: impl Into<String>) -> StudyError {
        StudyError::Usage(Fault::new(cause, remedy))
    }

    /// An interruption says what is kept and how to go on; anything else stays as it is.
    fn keeping(self, kept: impl FnOnce() -> String) -> StudyError {
        match self {
            StudyError::Interrupted(_) => StudyError::Interrupted(kept()),
            other => other,
        }
    }

    /// For `map_err` on a file operation.
    fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StudyError {
        move |source| Refusal::of(action, path)(source).into()
    }

    /// For `map_err` on a table.
    fn table(path: &Path) -> impl FnOnce(csv::Error) -> StudyError {
        move |error| {
            let cause = format!("{}: {error}", path.display());
            Fault::new(cause, "is it a whole table of ringmaster's?").into()
        }
    }
}

/// Writes a table with a row for each of `rows`, whole or not at all.
fn write_table<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), StudyError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(StudyError::table(path))?;
    }
    let bytes = writer.into_inner().map_err(|error| error.into_error());
    Ok(disk::write(
        path,
        &bytes.map_err(StudyError::file("write", path))?,
    )?)
}
