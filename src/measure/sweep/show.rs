//! What a sweep found, for readers: combinations summed up over their repetitions, the best of
//! them, the table on the terminal and the page.

use super::check::CheckedSpec;
use super::metric::unit;
use super::plots::plots;
use super::summary::{Summary, best};
use super::{TrialEntry, describe};
use crate::measure::report::{Column, Page, Table};
use crate::measure::stats::short;
use crate::plural::counted;

/// All combinations, best first.
pub fn table(checked: &CheckedSpec, summaries: &[Summary]) -> Table {
    let metric = checked.spec.best.metric.as_str();
    let swept = checked.swept.iter().map(|name| Column::text(name));
    let figures = [
        Column::number(metric, ""),
        Column::number("interval", ""),
        Column::number("spread %", ""),
        Column::number("batch mean", ""),
        Column::text("remark"),
    ];
    let row = |summary: &Summary| {
        let [figure, interval, spread] = match summary.metric {
            Some(m) => [
                short(m.median),
                format!("{} to {}", short(m.low), short(m.high)),
                format!(
                    "{:.1}",
                    100.0 * (m.high - m.low) / m.median.abs().max(1e-12)
                ),
            ],
            None => ["–".into(), String::new(), String::new()],
        };
        let values = checked.combinations[summary.combination]
            .values
            .iter()
            .cloned();
        let batch = short(summary.batch_mean);
        values
            .chain([figure, interval, spread, batch, summary.remark.clone()])
            .collect()
    };
    Table {
        columns: swept.chain(figures).collect(),
        rows: summaries.iter().map(row).collect(),
    }
}

/// The page.
pub fn page(checked: &CheckedSpec, entries: &[TrialEntry], summaries: &[Summary]) -> String {
    let (spec, metric) = (&checked.spec, &checked.spec.best.metric);
    let name = if spec.name.is_empty() {
        "sweep"
    } else {
        &spec.name
    };
    let mut page = Page::new(&format!("Ringmaster: {name}"));
    let failed = entries.iter().filter(|entry| entry.failed.is_some());
    page.note(&format!(
        "{}, {}, {} failed. The figure is {metric} ({}): medians over repetitions, in random \
         order; the intervals are from order statistics and hold the true median with {:.0} %.",
        counted(checked.combinations.len(), "combination"),
        counted(entries.len(), "trial"),
        failed.count(),
        unit(metric),
        100.0
            * summaries
                .iter()
                .find_map(|s| s.metric)
                .map_or(0.0, |m| m.coverage)
    ));
    match best(checked, summaries) {
        Some(best) => {
            let figure = summaries[0]
                .metric
                .map_or(String::new(), |m| short(m.median));
            page.text(&format!(
                "Best: {}, {metric} {figure}.",
                describe(checked, best)
            ));
        }
        None => page.text("No combination ran without failure and kept all constraints."),
    }
    page.plots(&plots(checked, summaries));
    page.heading("All combinations, best first");
    page.table(&table(checked, summaries));
    page.finish()
}
