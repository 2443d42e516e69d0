//! What lies in a replay's folder: records, the shards they are framed in, the manifest that says
//! what made them, and the digest over all. `docs/replay.md` describes every byte.

mod bounds;
mod check;
mod codec;
mod digest;
mod manifest;
mod record;
mod shard;

pub use bounds::{MAX_DECISIONS, MAX_RECORD_BYTES, MAX_VALUES, MAX_VISITS};
pub use digest::Digest;
pub use manifest::{MANIFEST_FILE, Manifest, MayHold, Network, PART_FILE, Status, is_part};
pub use record::{GamePlace, RoundRecord, SearchKind};
pub use shard::{FINISHED, FinishedShard, OpenShard, ShardScan, UNFINISHED, shards, sync_dir};
