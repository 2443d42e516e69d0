//! What a sweep is asked for: a TOML file of settings in common, a grid or a random sample over any
//! of the others, how each trial is measured, and what counts as best. `check` reads and checks it.

use super::metric::Best;
use serde::Deserialize;
use toml::Table;

/// A spec as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Heading of the report.
    #[serde(default)]
    pub name: String,
    /// Settings that all trials share, as in a settings file, but for those that each trial sets
    /// itself. A swept setting goes over the one here.
    #[serde(default)]
    pub base: Table,
    /// Every combination of these: a setting (`in_flight`, `search.c_puct`) or several at once
    /// (`"worlds, simulations"`), and its values.
    #[serde(default)]
    pub grid: Table,
    /// Draws instead of all combinations, or in addition to each of the grid's.
    #[serde(default)]
    pub random: Option<Random>,
    /// How a trial is measured.
    #[serde(default)]
    pub trial: Measure,
    /// What is best.
    #[serde(default)]
    pub best: Best,
}

/// Settings drawn at random.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// Draws.
    pub samples: usize,
    /// Seed of the draws.
    #[serde(default)]
    pub seed: u64,
    /// From what: a list of values, or a range.
    pub space: Table,
}

/// How a trial is measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Seconds measured; 0: `rounds` rounds, start and end included.
    pub seconds: f64,
    /// Seconds before that, not counted.
    pub warm_up_s: f64,
    /// Rounds, when it is not seconds.
    pub rounds: u64,
    /// Repetitions of each combination.
    pub repetitions: usize,
    /// Seed of the order of trials.
    pub order_seed: u64,
    /// Rounds on which the policy distance is measured, if a constraint or the metric asks for it.
    pub reference_rounds: u64,
}

impl Default for Measure {
    fn default() -> Measure {
        Measure {
            seconds: 5.0,
            warm_up_s: 1.0,
            rounds: 0,
            repetitions: 3,
            order_seed: 1,
            reference_rounds: 16,
        }
    }
}
