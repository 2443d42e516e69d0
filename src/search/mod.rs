//! Determinized tree search: D sampled worlds, S simulations in each, visits added up. Written as a
//! state machine that never waits: `Search::gather` yields the leaves it needs evaluated, `apply` takes
//! the answers. It knows no clock, no file and no ring; the same search runs under a worker process, in
//! a single process, and in tests.

mod cache;
mod exhaustive;
mod step;
mod tree;
mod worlds;

pub use exhaustive::{Outcomes, exhaustive};
pub use step::{Counts, Search};
pub use tree::{Leaf, Tree, Values, nth_action, points, scaled_scores};
pub use worlds::WorldSampler;

use serde::{Deserialize, Serialize};

/// How a decision is searched.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSettings {
    /// Worlds sampled per decision (D).
    pub worlds: usize,
    /// Simulations in each world (S).
    pub simulations: usize,
    /// Leaves of one tree in flight (L). One gives exactly the sequential search.
    pub leaves: usize,
    /// Visits of value -1 that a leaf in flight counts as.
    pub virtual_loss: f32,
    /// Weight of the prior in PUCT.
    pub c_puct: f32,
    /// An untried action is worth the node's value less this times the square root of the prior tried.
    pub fpu_reduction: f32,
    /// Dirichlet parameter of the root noise.
    pub noise_alpha: f32,
    /// Share of the noise in the root's priors; 0 for none.
    pub noise_fraction: f32,
}

impl Default for SearchSettings {
    fn default() -> SearchSettings {
        SearchSettings {
            worlds: 3,
            simulations: 30,
            leaves: 1,
            virtual_loss: 1.0,
            c_puct: 1.5,
            fpu_reduction: 0.2,
            noise_alpha: 0.5,
            noise_fraction: 0.25,
        }
    }
}
