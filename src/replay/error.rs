//! Everything that can be wrong with a replay, each in one line that says what and what to do.

use crate::disk::Refusal;
use std::io;
use std::path::{Path, PathBuf};

/// Why a replay could not be written, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The operating system refused something.
    #[error(transparent)]
    Io(#[from] Refusal),
    /// Bytes that are no record of a round, or a record that breaks its bounds.
    #[error("no valid record of a round: {0}")]
    Record(String),
    /// A record that contradicts the rules of the game, or the run it is said to belong to.
    #[error("round {round}: {what}")]
    Round {
        /// The round's number.
        round: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The same round number with different contents, or twice in one replay.
    #[error("round {round} {what}")]
    Twice {
        /// The round's number.
        round: u64,
        /// Where or how.
        what: String,
    },
    /// A shard that is not as it was written.
    #[error(
        "{}: damaged at byte {offset}: {what}; move the file away: selfplay --resume plays its rounds again",
        file.display()
    )]
    Damaged {
        /// The shard.
        file: PathBuf,
        /// Where in it, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file or folder that is something else than a replay.
    #[error("{}: {what}", path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// What it is, what to do.
        what: String,
    },
    /// RoundIndex by another version of the format.
    #[error(
        "{}: replay format {found}, this program reads format {wanted}; use the version that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version wanted.
        wanted: u32,
    },
    /// A manifest that is damaged or was edited.
    #[error("{}: {what}; restore the file from a copy, or begin another replay", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Rounds that should be there and are not.
    #[error("{}: {what}; restore the shard, or have them played again: selfplay --resume", path.display())]
    Incomplete {
        /// The replay's folder.
        path: PathBuf,
        /// Which rounds.
        what: String,
    },
    /// A new run into a folder that holds a replay.
    #[error(
        "{}: already holds a replay; add --resume to go on with it, or choose another --out",
        .0.display()
    )]
    Taken(PathBuf),
    /// Nothing to go on with.
    #[error("{}: holds no replay to resume; leave --resume away to start one", .0.display())]
    NothingToResume(PathBuf),
    /// Another process has begun to write here, where no lock could keep it out.
    #[error(
        "{}: another run has begun to write to this replay, and this file system has no locks to keep the two apart: \
         what this run had written is left to the other",
        .0.display()
    )]
    Overtaken(PathBuf),
    /// Another process writes here.
    #[error(
        "{}: another run is writing to this replay; wait for it to end, or choose another --out",
        .0.display()
    )]
    Locked(PathBuf),
    /// A run that would not give the rounds that the folder holds.
    #[error(
        "{}: cannot resume with another {field}: the replay has {stored}, this run has {wanted}; use the same, or another --out",
        path.display()
    )]
    Different {
        /// The replay's folder.
        path: PathBuf,
        /// The first field that differs, as a path into the manifest.
        field: String,
        /// Its value in the folder's manifest.
        stored: String,
        /// Its value in this run.
        wanted: String,
    },
    /// Other weights than those the folder's rounds end with.
    #[error(
        "{}: its rounds end with other weights ({stored}) than these ({wanted}); use the same, --append to have these play \
         the rounds not yet begun, or another --out",
        path.display()
    )]
    OtherWeights {
        /// The replay's folder.
        path: PathBuf,
        /// Hash of the newest weights in the folder's manifest.
        stored: String,
        /// Hash of this run's.
        wanted: String,
    },
    /// A .npy file that is not the array wanted.
    #[error("{}: {what}", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// What is wrong and what is wanted.
        what: String,
    },
}

impl ReplayError {
    /// For `map_err`: what was tried, and on which path.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReplayError {
        move |source| Refusal::of(what, path)(source).into()
    }

    pub(super) fn round(round: u64, what: impl Into<String>) -> ReplayError {
        ReplayError::Round {
            round,
            what: what.into(),
        }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> ReplayError {
        ReplayError::Damaged {
            file: file.to_path_buf(),
            offset,
            what: what.into(),
        }
    }

    pub(super) fn foreign(path: &Path, what: impl Into<String>) -> ReplayError {
        ReplayError::Foreign {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }
}
