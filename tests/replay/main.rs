//! The replay: records, shards, resuming, damage, and the ways out (show, verify, arrays).

mod export;
mod files;
mod made;
mod records;
mod runs;
