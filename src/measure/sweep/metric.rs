//! What a sweep looks at: the figures that trials report, bounds on them, and which figure is to be
//! best.

use super::refused;
use crate::measure::StudyError;
use crate::measure::stats::short;
use serde::Deserialize;

/// What is best.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Best {
    /// A figure of `selfplay --json`, or `policy_distance`, or `rounds_per_min`.
    pub metric: String,
    /// The lowest is best, not the highest.
    pub minimize: bool,
    /// Such as `policy_distance <= 0.02`; a combination that breaks one is not best.
    pub constraints: Vec<String>,
}

impl Default for Best {
    fn default() -> Best {
        Best {
            metric: "rounds_per_min".into(),
            minimize: false,
            constraints: Vec::new(),
        }
    }
}

/// The name of the mean total variation from sequential search, as a metric.
pub const POLICY_DISTANCE: &str = "policy_distance";

/// What metrics and constraints can name, and what each counts.
pub const METRICS: [(&str, &str); 17] = [
    ("rounds_per_min", "rounds per minute"),
    ("evaluations_per_s", "unique evaluations per second"),
    ("evaluator_busy", "share of the time, 0 to 1"),
    ("batch_mean", "leaves"),
    ("batch_p50", "leaves"),
    ("batch_p99", "leaves"),
    ("batch_max", "leaves"),
    ("decision_ms_p50", "milliseconds"),
    ("decision_ms_p99", "milliseconds"),
    ("depth_mean", "choices below the root"),
    ("duplicates", "leaves"),
    ("cache_hits", "leaves"),
    ("evaluations", "unique evaluations"),
    ("simulations", "simulations"),
    ("decisions", "decisions"),
    ("elapsed_s", "seconds"),
    (POLICY_DISTANCE, "total variation, 0 to 1"),
];

/// What a metric counts.
pub fn unit(metric: &str) -> &'static str {
    let known = METRICS.iter().find(|(name, _)| *name == metric);
    known.map_or("", |(_, unit)| unit)
}

/// A bound on a metric.
#[derive(Clone, PartialEq, Debug)]
pub struct Constraint {
    /// Which.
    pub metric: String,
    /// At most, not at least.
    pub at_most: bool,
    /// The bound.
    pub bound: f64,
}

impl Constraint {
    /// What is wrong with a value that does not keep the bound, or is not known.
    pub(super) fn broken_by(&self, value: Option<f64>) -> Option<String> {
        let Constraint {
            metric,
            at_most,
            bound,
        } = self;
        let holds = |value| {
            if *at_most {
                value <= *bound
            } else {
                value >= *bound
            }
        };
        if value.is_some_and(holds) {
            return None;
        }
        let sign = if *at_most { "<=" } else { ">=" };
        let found = value.map_or("unknown".into(), short);
        Some(format!("{metric} is {found}, not {sign} {bound}"))
    }
}

/// Refuses a metric that no trial reports.
pub(super) fn known_metric(name: &str) -> Result<(), StudyError> {
    let known = METRICS.map(|(name, _)| name);
    if known.contains(&name) {
        return Ok(());
    }
    let known = known.join(", ");
    Err(refused(format!(
        "there is no metric {name}; there are {known}"
    )))
}

/// Understands a constraint.
pub(super) fn constraint(text: &str) -> Result<Constraint, StudyError> {
    let wrong = || {
        refused(format!(
            "the constraint \"{text}\" must look like \"{POLICY_DISTANCE} <= 0.02\" or \
             \"batch_mean >= 256\""
        ))
    };
    let (at_most, (metric, bound)) = match (text.split_once("<="), text.split_once(">=")) {
        (Some(sides), None) => (true, sides),
        (None, Some(sides)) => (false, sides),
        _ => return Err(wrong()),
    };
    known_metric(metric.trim())?;
    let bound: f64 = bound.trim().parse().map_err(|_| wrong())?;
    if bound.is_nan() {
        return Err(wrong());
    }
    let metric = metric.trim().to_owned();
    Ok(Constraint {
        metric,
        at_most,
        bound,
    })
}
