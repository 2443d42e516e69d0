//! The settings file's `[search]`: fine parameters of the search, and of the choice by its result.

use serde::{Deserialize, Serialize};

/// Fine parameters of the search and of the choice of the action played.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSection {
    /// Weight of the prior in PUCT.
    pub c_puct: f32,
    /// An untried action is worth the node's value less this times the square root of the prior
    /// tried.
    pub fpu_reduction: f32,
    /// Visits of value -1 that a leaf in flight counts as (with more than one leaf per tree).
    pub virtual_loss: f32,
    /// Dirichlet parameter of the noise on the root's priors.
    pub noise_alpha: f32,
    /// Share of the noise in the root's priors, 0 (none) to 1.
    pub noise_fraction: f32,
    /// Temperature of the choice while bidding; 0 plays the most visited action.
    pub temperature_start: f32,
    /// Temperature of the choice in the last trick; between, it falls evenly from trick to trick.
    pub temperature_end: f32,
}

impl Default for SearchSection {
    fn default() -> SearchSection {
        SearchSection {
            c_puct: 1.5,
            fpu_reduction: 0.2,
            virtual_loss: 1.0,
            noise_alpha: 0.5,
            noise_fraction: 0.25,
            temperature_start: 1.0,
            temperature_end: 0.25,
        }
    }
}
