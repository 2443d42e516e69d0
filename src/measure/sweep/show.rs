//! What a sweep found, for readers: combinations summed up over their repetitions, the best of
//! them, the table on the terminal and the page.

use super::check::Checked;
use super::metric::{POLICY_DISTANCE, unit};
use super::plots::plots;
use super::{Entry, describe};
use crate::measure::report::Page;
use crate::measure::stats::{Estimate, estimate, short};
use crate::plural::counted;
use std::fmt::Write;

/// One combination, all repetitions together.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its place in the spec's combinations.
    pub combination: usize,
    /// The metric; none if every repetition failed.
    pub metric: Option<Estimate>,
    /// Mean batch, median over repetitions.
    pub batch_mean: f64,
    /// Repetitions that failed, with the first one's reason.
    pub failed: usize,
    /// That reason.
    pub reason: String,
    /// Constraints that do not hold, in words.
    pub broken: Vec<String>,
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
fn metric(entry: &Entry, name: &str, timed: bool) -> Option<f64> {
    if OF_DECISIONS.contains(&name) && entry.report["decisions"] == 0 {
        return None;
    }
    if name == POLICY_DISTANCE {
        return entry.policy_distance;
    }
    if name == "rounds_per_min" && timed {
        let steady = entry.report["rounds_per_min_steady"].as_f64();
        return steady.filter(|&rate| rate > 0.0);
    }
    entry.report[name].as_f64()
}

/// Sums up the trials, in order of the spec's combinations.
pub fn summarize(checked: &Checked, entries: &[Entry]) -> Vec<Summary> {
    let timed = checked.spec.trial.seconds > 0.0;
    let summary = |(place, combination): (usize, &super::Combination)| {
        let own: Vec<&Entry> = entries
            .iter()
            .filter(|entry| entry.values == combination.values)
            .collect();
        let of = |name: &str| -> Option<Estimate> {
            let values: Vec<f64> = own
                .iter()
                .filter_map(|entry| metric(entry, name, timed))
                .collect();
            estimate(&values)
        };
        let failed: Vec<&String> = own
            .iter()
            .filter_map(|entry| entry.failed.as_ref())
            .collect();
        let mut broken: Vec<String> = checked
            .constraints
            .iter()
            .filter(|constraint| {
                !of(&constraint.metric).is_some_and(|value| constraint.holds(value.median))
            })
            .map(|constraint| {
                let sign = if constraint.at_most { "<=" } else { ">=" };
                let found =
                    of(&constraint.metric).map_or("unknown".into(), |value| short(value.median));
                format!(
                    "{} is {found}, not {sign} {}",
                    constraint.metric, constraint.bound
                )
            })
            .collect();
        let metric = of(&checked.spec.best.metric);
        if metric.is_none() && failed.is_empty() && !own.is_empty() {
            broken.push("no round finished: raise trial.seconds".to_owned());
        }
        Summary {
            combination: place,
            metric,
            batch_mean: of("batch_mean").map_or(0.0, |value| value.median),
            failed: failed.len(),
            reason: failed
                .first()
                .map_or(String::new(), |reason| (*reason).clone()),
            broken,
        }
    };
    checked
        .combinations
        .iter()
        .enumerate()
        .map(summary)
        .collect()
}

/// Summaries from best to worst; those that may not be best come last.
fn ranked<'a>(checked: &Checked, summaries: &'a [Summary]) -> Vec<&'a Summary> {
    let mut ranked: Vec<&Summary> = summaries.iter().collect();
    let sign = if checked.spec.best.minimize {
        1.0
    } else {
        -1.0
    };
    let value = |summary: &Summary| summary.metric.map_or(f64::INFINITY, |m| sign * m.median);
    ranked.sort_by(|a, b| {
        let fit = |s: &Summary| !is_fit(s);
        fit(a).cmp(&fit(b)).then(value(a).total_cmp(&value(b)))
    });
    ranked
}

fn is_fit(summary: &Summary) -> bool {
    summary.metric.is_some() && summary.failed == 0 && summary.broken.is_empty()
}

/// The best combination that never failed and keeps all constraints.
pub fn best<'a>(checked: &Checked, summaries: &'a [Summary]) -> Option<&'a Summary> {
    ranked(checked, summaries)
        .into_iter()
        .next()
        .filter(|summary| is_fit(summary))
}

fn remark(summary: &Summary) -> String {
    if summary.failed > 0 {
        return format!("{} failed: {}", summary.failed, summary.reason);
    }
    summary.broken.join("; ")
}

/// The table for the terminal, best first.
pub fn table(checked: &Checked, summaries: &[Summary]) -> String {
    let mut text = String::new();
    let metric = &checked.spec.best.metric;
    let _ = writeln!(
        text,
        "{:>12}  {:<23}  {:>10}  settings",
        metric, "interval", "batch mean"
    );
    for summary in ranked(checked, summaries) {
        let combination = &checked.combinations[summary.combination];
        let (value, ends) = summary.metric.map_or(("-".into(), String::new()), |m| {
            (
                short(m.median),
                format!("{} to {}", short(m.low), short(m.high)),
            )
        });
        let remark = remark(summary);
        let gap = if remark.is_empty() { "" } else { "  # " };
        let _ = writeln!(
            text,
            "{value:>width$}  {ends:<23}  {:>10}  {}{gap}{remark}",
            short(summary.batch_mean),
            describe(checked, combination),
            width = metric.len().max(12)
        );
    }
    text.trim_end().to_owned()
}

/// The page.
pub fn page(checked: &Checked, entries: &[Entry], summaries: &[Summary]) -> String {
    let spec = &checked.spec;
    let name = if spec.name.is_empty() {
        "sweep"
    } else {
        &spec.name
    };
    let mut page = Page::new(&format!("Ringmaster: {name}"));
    let failed = entries
        .iter()
        .filter(|entry| entry.failed.is_some())
        .count();
    page.note(&format!(
        "{}, {}, {failed} failed. The figure is {} ({}): medians over repetitions, in random order; the intervals \
are from order statistics and hold the true median with {:.0} %.",
        counted(checked.combinations.len(), "combination"),
        counted(entries.len(), "trial"),
        spec.best.metric,
        unit(&spec.best.metric),
        100.0 * summaries.iter().find_map(|s| s.metric).map_or(0.0, |m| m.coverage)
    ));
    match best(checked, summaries) {
        Some(best) => {
            let figure = best.metric.map_or(String::new(), |m| short(m.median));
            let combination = &checked.combinations[best.combination];
            page.text(&format!(
                "Best: {}, {} {figure}.",
                describe(checked, combination),
                spec.best.metric
            ));
        }
        None => page.text("No combination ran without failure and kept all constraints."),
    }
    page.plots(&plots(checked, &ranked(checked, summaries)));
    page.heading("All combinations, best first");
    let mut columns: Vec<(&str, &str)> = checked
        .swept
        .iter()
        .map(|name| (name.as_str(), ""))
        .collect();
    columns.extend([
        (spec.best.metric.as_str(), unit(&spec.best.metric)),
        ("interval", unit(&spec.best.metric)),
        ("spread", "% of the median"),
        ("batch mean", "leaves"),
        ("remark", ""),
    ]);
    let rows: Vec<Vec<String>> = ranked(checked, summaries)
        .into_iter()
        .map(|summary| {
            let mut row = checked.combinations[summary.combination].values.clone();
            row.extend(match summary.metric {
                Some(m) => [
                    short(m.median),
                    format!("{} to {}", short(m.low), short(m.high)),
                    format!(
                        "{:.1}",
                        100.0 * (m.high - m.low) / m.median.abs().max(1e-12)
                    ),
                ],
                None => ["–".into(), String::new(), String::new()],
            });
            row.extend([short(summary.batch_mean), remark(summary)]);
            row
        })
        .collect();
    page.table(&columns, &rows);
    page.finish()
}
