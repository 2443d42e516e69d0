//! What searches did, counted.

use bytemuck::{Pod, Zeroable};
use std::ops::AddAssign;

/// What searches did, added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SearchStats {
    /// Decisions searched.
    pub decisions: u64,
    /// Simulations finished.
    pub simulations: u64,
    /// Leaves sent to the network, each observation once per decision.
    pub evaluations: u64,
    /// Leaves whose observation had been asked for already in the same decision.
    pub cache_hits: u64,
    /// Selections that fell on a leaf of the same tree already in flight; never sent.
    pub duplicates: u64,
    /// Simulations that ended at the end of a round.
    pub terminal_leaves: u64,
    /// Summed depth of simulations, in choices below the root.
    pub depth_sum: u64,
}

impl AddAssign for SearchStats {
    fn add_assign(&mut self, other: SearchStats) {
        combine(self, &other, u64::saturating_add);
    }
}

/// Puts `by` of both words in place of each word of `counters`, a struct of `u64` alone.
pub(crate) fn combine<T: Pod>(counters: &mut T, other: &T, by: fn(u64, u64) -> u64) {
    let words: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(counters));
    let others: &[u64] = bytemuck::cast_slice(std::slice::from_ref(other));
    for (word, &other) in words.iter_mut().zip(others) {
        *word = by(*word, other);
    }
}
