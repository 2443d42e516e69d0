//! Combinations summed up over their repetitions, and the best of them.

use super::check::CheckedSpec;
use super::metric::POLICY_DISTANCE;
use super::{Combination, TrialEntry};
use crate::measure::stats::{Estimate, estimate};

/// One combination, all repetitions together.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its place in the spec's combinations.
    pub combination: usize,
    /// The metric; none if every repetition failed.
    pub metric: Option<Estimate>,
    /// Mean batch, median over repetitions.
    pub batch_mean: f64,
    /// Why it may not be best: what failed, or which constraints do not hold. Empty if it may.
    pub remark: String,
}

impl Summary {
    /// May it be best?
    pub fn may_be_best(&self) -> bool {
        self.metric.is_some() && self.remark.is_empty()
    }
}

/// What searches tell when their decision is done: of a trial that ended before, there is none of
/// these.
const OF_DECISIONS: [&str; 6] = [
    "decision_ms_p50",
    "decision_ms_p99",
    "depth_mean",
    "duplicates",
    "cache_hits",
    "simulations",
];

/// The value of a metric in one trial. Rounds per minute are the steady ones where time ends a run,
/// since then rounds finish in bursts; none if it ended before the first of them.
fn metric(entry: &TrialEntry, name: &str, timed: bool) -> Option<f64> {
    let figure = |name: &str| entry.report[name].as_f64();
    match name {
        _ if OF_DECISIONS.contains(&name) && entry.report["decisions"] == 0 => None,
        POLICY_DISTANCE => entry.policy_distance,
        "rounds_per_min" if timed => figure("rounds_per_min_steady").filter(|&rate| rate > 0.0),
        _ => figure(name),
    }
}

/// Sums up the trials of one combination.
fn summary(checked: &CheckedSpec, entries: &[TrialEntry], place: usize) -> Summary {
    let timed = checked.spec.trial.seconds > 0.0;
    let values = &checked.combinations[place].values;
    let own: Vec<&TrialEntry> = entries
        .iter()
        .filter(|entry| entry.values == *values)
        .collect();
    let of = |name: &str| {
        let figures = own.iter().filter_map(|entry| metric(entry, name, timed));
        estimate(&figures.collect::<Vec<f64>>())
    };
    let metric = of(&checked.spec.best.metric);
    let failed: Vec<&String> = own
        .iter()
        .filter_map(|entry| entry.failed.as_ref())
        .collect();
    let remark = match failed.first() {
        Some(first) => format!("{} failed: {first}", failed.len()),
        None => {
            let constraints = checked.constraints.iter();
            let broken = constraints.filter_map(|constraint| {
                constraint.broken_by(of(&constraint.metric).map(|value| value.median))
            });
            let unfinished = metric.is_none() && !own.is_empty();
            let unfinished = unfinished.then(|| "no round finished: raise trial.seconds".into());
            broken.chain(unfinished).collect::<Vec<String>>().join("; ")
        }
    };
    Summary {
        combination: place,
        metric,
        batch_mean: of("batch_mean").map_or(0.0, |value| value.median),
        remark,
    }
}

/// Sums up the trials by combination, from best to worst; those that may not be best come last.
pub fn summarize(checked: &CheckedSpec, entries: &[TrialEntry]) -> Vec<Summary> {
    let places = 0..checked.combinations.len();
    let mut summaries: Vec<Summary> = places
        .map(|place| summary(checked, entries, place))
        .collect();
    let sign = if checked.spec.best.minimize {
        1.0
    } else {
        -1.0
    };
    let value = |summary: &Summary| summary.metric.map_or(f64::INFINITY, |m| sign * m.median);
    summaries.sort_by(|a, b| {
        b.may_be_best()
            .cmp(&a.may_be_best())
            .then(value(a).total_cmp(&value(b)))
    });
    summaries
}

/// The best combination that never failed and keeps all constraints.
pub fn best<'a>(checked: &'a CheckedSpec, summaries: &[Summary]) -> Option<&'a Combination> {
    let best = summaries.first().filter(|best| best.may_be_best())?;
    Some(&checked.combinations[best.combination])
}
