//! What is kept of the rounds that were played: one compact record per round, append-only shards of
//! records with a manifest beside them, one digest over everything, and the ways out of it again:
//! checking, showing, and arrays for training. A folder of replay holds:
//!
//! | file | what |
//! |---|---|
//! | `manifest.json` | what made the rounds: seed, settings, weights, backend; and whether all are there |
//! | `rounds-000000.shard`, ... | finished shards, never written again, but for a short last one that a resumed run adds rounds to |
//! | `rounds-000007.part` | the shard being written, such a short one among them; `resume` goes on from its last whole round |
//! | `weights-3.safetensors` | the weights of network 3, kept while rounds of it are still to be played |
//! | `lock` | held by the one writer while it lives; empty |

mod arrays;
mod bounds;
mod digest;
mod error;
mod export;
mod guard;
mod manifest;
mod played;
mod reader;
mod record;
mod shard;
mod show;
mod verify;
mod writer;
mod written;

pub use arrays::{Array, prepare_f32, read_features, read_mask, write_f32};
pub use bounds::{MAX_RECORD_BYTES, MAX_VALUES, MAX_VISITS};
pub use digest::Digest;
pub use error::ReplayError;
pub use export::{Exported, export};
pub use manifest::{MANIFEST_FILE, Manifest, Network, Status};
pub use played::{Decision, Played};
pub use reader::{Records, ReplayReader, Stored};
pub use record::{GamePlace, RoundRecord};
pub use show::{ShownDecision, ShownGame, ShownRound, show};
pub use verify::{Summary, verify};
pub use writer::{Pushed, ReplayWriter, new_folder};
