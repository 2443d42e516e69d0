//! One hash of a whole replay: the SHA-256 over the SHA-256 of each record's bytes, in ascending
//! order of round number, in whatever order they come and however they are spread over files.

use crate::plural::hex;
use crate::replay::error::ReplayError;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Takes rounds in any order, and knows which it has. Memory: 4 bytes for each round without a gap
/// from 0 on, which are nearly all; 32 bytes for each that has a lower one missing.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    hasher: Sha256,
    /// The beginnings of the hashes of rounds 0, 1, 2, ...; all these are hashed.
    hashed: Vec<[u8; 4]>,
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
        if self.contains(round) {
            return Err(ReplayError::twice(
                round,
                "is there twice",
                "each round may come once",
            ));
        }
        self.waiting.insert(round, Sha256::digest(bytes).into());
        while let Some(hash) = self.waiting.remove(&self.next()) {
            self.hasher.update(hash);
            self.hashed.push(beginning(&hash));
        }
        Ok(())
    }

    /// Was this round added, and with these bytes (as far as 4 bytes of their hash tell)?
    pub fn has_same(&self, round: u64, bytes: &[u8]) -> Option<bool> {
        let found = self.beginning_of(round)?;
        Some(found == beginning(&Sha256::digest(bytes).into()))
    }

    /// Was this round added?
    pub fn contains(&self, round: u64) -> bool {
        self.beginning_of(round).is_some()
    }

    fn beginning_of(&self, round: u64) -> Option<[u8; 4]> {
        let place = usize::try_from(round).ok();
        let hashed = place.and_then(|place| self.hashed.get(place)).copied();
        hashed.or_else(|| self.waiting.get(&round).map(beginning))
    }

    /// The lowest round that is missing; the number of rounds when there is none beyond it.
    pub fn next(&self) -> u64 {
        self.hashed.len() as u64
    }

    /// Is there a round beyond a missing one?
    pub fn has_gap(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Number of rounds added.
    pub fn count(&self) -> u64 {
        self.next() + self.waiting.len() as u64
    }

    /// The rounds added, ascending.
    pub fn rounds(&self) -> impl Iterator<Item = u64> {
        (0..self.next()).chain(self.waiting.keys().copied())
    }

    /// The digest of all rounds added, 64 hexadecimal digits.
    pub fn finish(mut self) -> String {
        for hash in self.waiting.values() {
            self.hasher.update(hash);
        }
        hex(&self.hasher.finalize())
    }
}

fn beginning(hash: &[u8; 32]) -> [u8; 4] {
    let [a, b, c, d, ..] = *hash;
    [a, b, c, d]
}
