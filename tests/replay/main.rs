//! The replay: records, shards, resuming, damage, and the ways out (show, verify, arrays).

// The lint knows tests only by their attribute; their helpers may unwrap too.
#![allow(clippy::unwrap_used)]

mod export;
mod files;
mod made;
mod records;
mod runs;
mod versions;
