//! What a sweep found, for readers: combinations summed up over their repetitions, the best of them, the
//! table on the terminal and the page.

use super::spec::{Checked, POLICY_DISTANCE};
use super::{Entry, describe};
use crate::study::report::{Heat, Page, Point, Series, heat, lines};
use crate::study::stats::{Estimate, estimate, short};
use std::cmp::Ordering;
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

/// The value of a metric in one trial. Rounds per minute are the steady ones where time ends a run,
/// since then rounds finish in bursts.
fn metric(entry: &Entry, name: &str, timed: bool) -> Option<f64> {
    if name == POLICY_DISTANCE {
        return entry.policy_distance;
    }
    if name == "rounds_per_min" && timed {
        let steady = entry.report["rounds_per_min_steady"].as_f64();
        if let Some(steady) = steady.filter(|&rate| rate > 0.0) {
            return Some(steady);
        }
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
        let broken = checked
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
        Summary {
            combination: place,
            metric: of(&checked.spec.best.metric),
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
        "{} combinations, {} trials, {failed} failed. The figure is {}; medians over repetitions, in random order; the intervals \
are from order statistics and hold the true median with {:.0} %.",
        checked.combinations.len(),
        entries.len(),
        spec.best.metric,
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
    let mut plots = vec![against_batch(checked, summaries)];
    let swept = &checked.swept;
    for down in 0..swept.len() {
        for across in down + 1..swept.len() {
            plots.extend(heat_map(checked, summaries, down, across));
        }
    }
    page.plots(&plots);
    page.heading("All combinations, best first");
    let mut columns: Vec<(&str, &str)> = swept.iter().map(|name| (name.as_str(), "")).collect();
    columns.extend([
        (spec.best.metric.as_str(), "median"),
        ("interval", ""),
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

/// The metric over the mean batch, one point per combination.
fn against_batch(checked: &Checked, summaries: &[Summary]) -> (String, String, String) {
    let mut points: Vec<Point> = summaries
        .iter()
        .filter_map(|summary| {
            let metric = summary.metric?;
            Some(Point {
                x: summary.batch_mean,
                y: metric.median,
                interval: (metric.low, metric.high),
            })
        })
        .collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    let metric = &checked.spec.best.metric;
    let caption = format!("{metric} against batch");
    let series = Series {
        colour: 3,
        points,
        joined: false,
    };
    let svg = lines(&caption, "mean batch, leaves", metric, &[series]);
    (
        caption,
        "a point per combination, its interval as a whisker".into(),
        svg,
    )
}

/// The best the metric reaches for each pair of values of two settings, whatever the others are.
fn heat_map(
    checked: &Checked,
    summaries: &[Summary],
    down: usize,
    across: usize,
) -> Option<(String, String, String)> {
    let values = |place: usize| {
        let mut values: Vec<String> = Vec::new();
        for combination in &checked.combinations {
            if !values.contains(&combination.values[place]) {
                values.push(combination.values[place].clone());
            }
        }
        values.sort_by(|a, b| match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => a.total_cmp(&b),
            // Numbers before words, or there is no order at all: 9 < 10 < 1a < 9.
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => a.cmp(b),
        });
        values
    };
    let (rows, columns) = (values(down), values(across));
    // A random sample gives almost every draw a row of its own: a list, not a map.
    if rows.len() < 2 || columns.len() < 2 || rows.len() > 16 || columns.len() > 10 {
        return None;
    }
    let cell = |row: &String, column: &String| {
        let here = summaries.iter().filter(|summary| {
            let values = &checked.combinations[summary.combination].values;
            values[down] == *row && values[across] == *column
        });
        let medians = here.filter_map(|summary| summary.metric).map(|m| m.median);
        medians.reduce(if checked.spec.best.minimize {
            f64::min
        } else {
            f64::max
        })
    };
    let cells = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(row, column)).collect())
        .collect();
    let (down, across) = (&checked.swept[down], &checked.swept[across]);
    let caption = format!("{down} by {across}");
    let map = Heat {
        across: across.clone(),
        columns,
        down: down.clone(),
        rows,
        cells,
    };
    let below = format!(
        "{}, the best over all other settings",
        checked.spec.best.metric
    );
    let svg = heat(&caption, &map);
    Some((caption, below, svg))
}
