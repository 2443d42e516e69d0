//! What a worker has played, counted.

use crate::search::{SearchStats, combine};
use bytemuck::{Pod, Zeroable};
use std::ops::AddAssign;

/// What was played, and what its searches did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PlayStats {
    /// Moves made: bids and cards, forced ones too.
    pub moves: u64,
    /// Rounds finished.
    pub rounds: u64,
    /// Evaluations of the rounds finished: with `rounds`, what a round takes.
    pub round_evaluations: u64,
    /// The searches.
    pub search: SearchStats,
}

impl AddAssign for PlayStats {
    /// Saturates: the counts of another process are whatever it wrote.
    fn add_assign(&mut self, other: PlayStats) {
        combine(self, &other, u64::saturating_add);
    }
}

impl PlayStats {
    /// What was done since `earlier`, a state of the same counts.
    pub fn since(mut self, earlier: &PlayStats) -> PlayStats {
        combine(&mut self, earlier, u64::saturating_sub);
        self
    }
}
