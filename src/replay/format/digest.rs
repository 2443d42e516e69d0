//! One hash of a whole replay: the SHA-256 over the SHA-256 of each record's bytes, in ascending
//! order of round number, in whatever order they come and however they are spread over files.

use crate::replay::error::ReplayError;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Takes rounds in any order. Memory grows only with how far out of order they come: 32 bytes wait
/// for each round that has a lower one missing.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    hasher: Sha256,
    /// Every round below is hashed.
    next: u64,
    waiting: BTreeMap<u64, [u8; 32]>,
}

impl Digest {
    /// Of no round yet.
    pub fn new() -> Digest {
        Digest::default()
    }

    /// Adds one round's encoded record.
    ///
    /// # Errors
    /// When this round was added before.
    pub fn push(&mut self, round: u64, bytes: &[u8]) -> Result<(), ReplayError> {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        if round < self.next || self.waiting.insert(round, hash).is_some() {
            return Err(ReplayError::twice(
                round,
                "is there twice",
                "each round may come once",
            ));
        }
        while let Some(hash) = self.waiting.remove(&self.next) {
            self.hasher.update(hash);
            self.next += 1;
        }
        Ok(())
    }

    /// The lowest round that is missing; the number of rounds when there is none beyond it.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Is there a round beyond a missing one?
    pub fn has_gap(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The digest of all rounds added, 64 hexadecimal digits.
    pub fn finish(mut self) -> String {
        for hash in self.waiting.values() {
            self.hasher.update(hash);
        }
        let hash: [u8; 32] = self.hasher.finalize().into();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
