//! What can end a run early, in whichever of its processes.

use crate::disk::Refusal;
use crate::fault::Fault;
use crate::network::{BackendError, WeightsError};
use crate::pasted::quoted;
use crate::plural::counted;
use crate::replay::ReplayError;
use crate::settings::SettingsError;
use crate::shm::{Corrupt, ShmError};
use std::io;
use std::path::{Path, PathBuf};

/// What can end a run early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Resuming needs to know what.
    #[error("--resume needs --out: the folder of the replay to go on with")]
    ResumeWhat,
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network's device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The replay's folder.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Another file.
    #[error(transparent)]
    File(#[from] Refusal),
    /// The shared memory.
    #[error(transparent)]
    Shm(#[from] ShmError),
    /// Anything else.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Something that ended a run which can be resumed.
    #[error(
        "{error}; kept so far: {}; go on with: ringmaster selfplay --resume --out {}",
        counted(*kept, "finished round"),
        quoted(out)
    )]
    Kept {
        /// What.
        error: Box<RunError>,
        /// Rounds in the replay.
        kept: u64,
        /// The replay's folder.
        out: PathBuf,
    },
}

impl From<Corrupt> for RunError {
    fn from(corrupt: Corrupt) -> RunError {
        ShmError::from(corrupt).into()
    }
}

impl RunError {
    /// About which the user can do nothing else than try again.
    pub(super) fn new(cause: impl Into<String>) -> RunError {
        Fault::new(cause, "").into()
    }

    /// For `map_err`: what the system did not let us do.
    pub(super) fn cannot(action: &str) -> impl FnOnce(io::Error) -> RunError {
        move |reason| RunError::new(format!("cannot {action}: {reason}"))
    }

    /// With what is kept in `out`, and how to go on. A run that another one has replaced has
    /// nothing to go on with.
    pub(super) fn kept(self, kept: u64, out: &Path) -> RunError {
        match self {
            RunError::Replay(ReplayError::Overtaken(_)) | RunError::Kept { .. } => self,
            error => RunError::Kept {
                error: Box::new(error),
                kept,
                out: out.to_owned(),
            },
        }
    }

    /// What happened, without what is kept and how to go on: for whoever does not keep it.
    pub fn into_cause(self) -> RunError {
        match self {
            RunError::Kept { error, .. } => *error,
            other => other,
        }
    }
}
