//! What is kept of the rounds that were played: one compact record per round, append-only shards of
//! records with a manifest beside them, one digest over everything (`format`), and the ways out of
//! it again: checking, showing, and arrays for training. `docs/replay.md` lists the files of a
//! replay's folder and describes the format byte by byte.

mod error;
mod export;
mod folder;
mod format;
mod npy;
mod played;
mod reader;
mod show;
mod verify;
mod write_lock;
mod writer;

pub use error::ReplayError;
pub use export::{Exported, export};
pub use folder::new_folder;
pub use format::{
    Digest, GamePlace, MANIFEST_FILE, MAX_DECISIONS, MAX_RECORD_BYTES, MAX_VALUES, MAX_VISITS,
    Manifest, MayHold, Network, RoundRecord, SearchKind, Status,
};
pub use npy::{Array, prepare_f32, read_features, read_mask};
pub use played::{Decision, Played};
pub use reader::{ReplayReader, Stored};
pub use show::{ShownDecision, ShownGame, ShownRound, show};
pub use verify::{VerifiedReplay, verify};
pub use writer::{Pushed, ReplayWriter};
