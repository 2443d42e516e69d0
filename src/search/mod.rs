//! Determinized tree search: D sampled worlds, S simulations in each, visits added up. Written as a
//! state machine that never waits: `Search::gather` yields the leaves it needs evaluated, `apply`
//! takes the answers. It knows no clock, no file and no ring; the same search runs under a worker
//! process, in a single process, and in tests.

mod cache;
mod decision;
mod root;
mod select;
mod stats;
mod tree;
mod worlds;

pub use decision::{Search, SearchResult};
pub use root::RootNoise;
pub use select::Puct;
pub use stats::SearchStats;
pub(crate) use stats::combine;
pub use tree::{Leaf, ROOT, Tree, Values, scaled_scores};
pub use worlds::WorldSampler;

/// How a decision is searched.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SearchSettings {
    /// Worlds sampled per decision (D).
    pub worlds: usize,
    /// Simulations in each world (S).
    pub simulations: usize,
    /// Leaves of one tree in flight (L). One gives exactly the sequential search.
    pub leaves: usize,
    /// Worlds searched at once; 0: all together. Visits and values do not depend on it.
    pub worlds_in_flight: usize,
    /// How actions are selected.
    pub puct: Puct,
    /// Noise on the root's priors.
    pub noise: RootNoise,
}
