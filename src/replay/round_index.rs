//! Which rounds are on disk, with a checksum of each, to tell a round that comes twice from one
//! that comes differently: 4 bytes a round for those without a gap from 0 on, which are nearly all;
//! a map for the few beyond.

use std::collections::BTreeMap;

/// Rounds by number.
#[derive(Debug, Default)]
pub(super) struct RoundIndex {
    /// Of rounds 0, 1, 2, ... without a gap.
    first: Vec<u32>,
    /// Of rounds beyond the gap.
    rest: BTreeMap<u64, u32>,
}

impl RoundIndex {
    /// Adds a round; false if it was there, and is then left as it was.
    pub(super) fn insert(&mut self, round: u64, check: u32) -> bool {
        if self.check_of(round).is_some() {
            return false;
        }
        self.rest.insert(round, check);
        while let Some(check) = self.rest.remove(&self.next()) {
            self.first.push(check);
        }
        true
    }

    /// The checksum of a round that is there.
    pub(super) fn check_of(&self, round: u64) -> Option<u32> {
        let early = usize::try_from(round).ok();
        early
            .and_then(|round| self.first.get(round))
            .or_else(|| self.rest.get(&round))
            .copied()
    }

    /// The lowest round that is not there.
    pub(super) fn next(&self) -> u64 {
        self.first.len() as u64
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        (self.first.len() + self.rest.len()) as u64
    }

    /// Their numbers, ascending.
    pub(super) fn rounds(&self) -> impl Iterator<Item = u64> {
        (0..self.next()).chain(self.rest.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_close() {
        let mut written = RoundIndex::default();
        for round in [3, 0, 4, 1] {
            assert!(written.insert(round, round as u32 + 10));
        }
        assert_eq!((written.next(), written.len()), (2, 4));
        assert!(!written.insert(4, 1) && !written.insert(0, 1));
        assert!(written.insert(2, 12));
        assert_eq!((written.next(), written.rest.len()), (5, 0));
        assert_eq!(written.check_of(4), Some(14));
        assert_eq!(written.check_of(5), None);
        assert!(written.insert(7, 17));
        assert_eq!(written.rounds().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 7]);
    }
}
