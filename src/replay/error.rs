//! What can be wrong with a replay, each in one line that says what and what to do.

use crate::disk::Refusal;
use crate::fault::Fault;
use std::io;
use std::path::Path;

/// Why a replay could not be written, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The operating system refused something.
    #[error(transparent)]
    Io(#[from] Refusal),
    /// Bytes that are no record of a round, or a record that contradicts the rules of the game or
    /// its run. What to do depends on where it came from: see `at`.
    #[error(transparent)]
    Record(Fault),
    /// The same round number with different contents, or twice in one replay.
    #[error(transparent)]
    Twice(Fault),
    /// A shard that is not as it was written.
    #[error(transparent)]
    Damaged(Fault),
    /// Another process has begun to write to the replay, where no lock could keep it out.
    #[error(transparent)]
    Overtaken(Fault),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Fault),
}

impl ReplayError {
    /// For `map_err`: what was tried, and on which path.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReplayError {
        move |source| Refusal::of(what, path)(source).into()
    }

    /// Bytes that are no record.
    pub(super) fn record(what: impl AsRef<str>) -> ReplayError {
        let what = format!("no valid record of a round: {}", what.as_ref());
        ReplayError::Record(Fault::new(what, ""))
    }

    /// A record that contradicts the rules or its run.
    pub(super) fn round(round: u64, what: impl AsRef<str>) -> ReplayError {
        ReplayError::Record(Fault::new(format!("round {round}: {}", what.as_ref()), ""))
    }

    pub(super) fn twice(round: u64, what: &str, remedy: &str) -> ReplayError {
        ReplayError::Twice(Fault::new(format!("round {round} {what}"), remedy))
    }

    /// A shard that is damaged at this byte.
    pub(super) fn damaged(file: &Path, offset: u64, what: impl AsRef<str>) -> ReplayError {
        let (file, what) = (file.display(), what.as_ref());
        ReplayError::Damaged(Fault::new(
            format!("{file}: damaged at byte {offset}: {what}"),
            "move the file away: selfplay --resume plays its rounds again",
        ))
    }

    /// With the place of the record in a shard, if this is about a record.
    pub(super) fn at(self, file: &Path, offset: u64) -> ReplayError {
        match self {
            ReplayError::Record(fault) => ReplayError::damaged(file, offset, fault.cause),
            other => other,
        }
    }

    /// A manifest that is damaged or was edited.
    pub(super) fn manifest(path: &Path, what: impl AsRef<str>) -> ReplayError {
        let remedy = "restore the file from a copy, or begin another replay";
        ReplayError::of_path(path, what, remedy)
    }

    /// Anything else about a file or folder.
    pub(super) fn of_path(path: &Path, what: impl AsRef<str>, remedy: &str) -> ReplayError {
        Fault::new(format!("{}: {}", path.display(), what.as_ref()), remedy).into()
    }
}
