//! The comparison for readers: the tables on the terminal and the page.

use super::ModeRow;
use crate::measure::report::{Bar, Column, Page, Plot, Table, bars};
use crate::measure::stats::{Estimate, estimate, short};
use crate::plural::counted;
use std::fmt::Write;
use std::ops::Range;

/// Rounds of a training: 500 iterations of 10,000.
const TRAINING_ROUNDS: f64 = 5_000_000.0;

/// All repetitions of one mode at one search on one machine; at least one.
type Repetitions<'a> = Vec<&'a ModeRow>;

/// Rows with the same key together, in order of first appearance.
fn grouped<'a, K: PartialEq>(
    rows: impl IntoIterator<Item = &'a ModeRow>,
    key: impl Fn(&'a ModeRow) -> K,
) -> Vec<Vec<&'a ModeRow>> {
    let mut groups: Vec<Vec<&ModeRow>> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|group| key(group[0]) == key(row)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// The modes of each machine and search.
fn parts(rows: &[ModeRow]) -> Vec<Vec<Repetitions<'_>>> {
    let parts = grouped(rows, |row| (&row.machine, &row.search));
    let modes = |part| grouped(part, |row| row.number);
    parts.into_iter().map(modes).collect()
}

/// Of the repetitions that measured it.
fn measured(rows: &[&ModeRow], figure: impl Fn(&ModeRow) -> Option<f64>) -> Option<Estimate> {
    let values: Vec<f64> = rows.iter().filter_map(|row| figure(row)).collect();
    estimate(&values)
}

fn median(rows: &[&ModeRow], figure: impl Fn(&ModeRow) -> f64) -> f64 {
    measured(rows, |row| Some(figure(row)))
        .unwrap_or_default()
        .median
}

fn rounds_per_min(rows: &[&ModeRow]) -> Estimate {
    measured(rows, |row| Some(row.rounds_per_min)).unwrap_or_default()
}

/// How long a training takes in a mode, with the mode's name.
fn training_time(rows: &[&ModeRow], gap: &str) -> String {
    let minutes = TRAINING_ROUNDS / rounds_per_min(rows).median.max(1e-9);
    let time = match minutes {
        m if m < 120.0 => format!("{} minutes", short(m)),
        m if m < 48.0 * 60.0 => format!("{} hours", short(m / 60.0)),
        m => format!("{} days", short(m / 1440.0)),
    };
    format!("{}{gap}{time}", rows[0].mode)
}

/// Columns of the table: name, unit.
const COLUMNS: [(&str, &str); 14] = [
    ("mode", ""),
    ("rounds", "per min"),
    ("interval", "per min"),
    ("times", "mode 1"),
    ("unique evals", "per s"),
    ("batch", "mean"),
    ("batch", "p50/p99/max"),
    ("network", "busy %"),
    ("decision", "ms p50"),
    ("decision", "ms p99"),
    ("duplicates", "per 1000 evals"),
    ("distance TV", "mean/p95"),
    ("same top", "%"),
    ("depth", "mean"),
];

/// On the terminal the columns stand in two blocks, each of which usually fits 100 characters: what
/// stands over the modes' names, and which columns follow.
const BLOCKS: [(&str, Range<usize>); 2] = [("how fast", 1..8), ("at what price", 8..COLUMNS.len())];

/// Median milliseconds of a decision; none of a repetition too short for a decision to end in it.
/// Earlier tables have 0 there.
fn decision_ms(row: &ModeRow) -> Option<f64> {
    row.decision_ms_p50.filter(|&time| time > 0.0)
}

fn cells(rows: &[&ModeRow], baseline: f64) -> Vec<String> {
    let (first, rate) = (rows[0], rounds_per_min(rows));
    let told = |figure: &dyn Fn(&ModeRow) -> Option<f64>| {
        measured(rows, figure).map_or("-".to_owned(), |estimate| short(estimate.median))
    };
    let duplicates = |row: &ModeRow| {
        // They are counted when their decision is done.
        decision_ms(row)?;
        let evaluations = row.evaluations_per_s * row.seconds;
        Some(1000.0 * row.duplicates as f64 / evaluations.max(1.0))
    };
    vec![
        format!("{} {}", first.number, first.mode),
        short(rate.median),
        format!("{}-{}", short(rate.low), short(rate.high)),
        short(rate.median / baseline),
        short(median(rows, |row| row.evaluations_per_s)),
        short(median(rows, |row| row.batch_mean)),
        format!(
            "{:.0}/{:.0}/{:.0}",
            median(rows, |row| row.batch_p50),
            median(rows, |row| row.batch_p99),
            median(rows, |row| row.batch_max)
        ),
        format!("{:.0}", 100.0 * median(rows, |row| row.evaluator_busy)),
        told(&decision_ms),
        told(&|row| row.decision_ms_p99.filter(|&time| time > 0.0)),
        told(&duplicates),
        format!("{}/{}", short(first.tv_mean), short(first.tv_p95)),
        format!("{:.1}", 100.0 * first.same_top),
        format!("{:.2}", first.depth_mean),
    ]
}

/// The table of one machine and search.
fn table_of(part: &[Repetitions<'_>]) -> Table {
    let baseline = rounds_per_min(&part[0]).median.max(1e-9);
    let column = |(name, unit): (&str, &str)| match name {
        "mode" => Column::text(name),
        _ => Column::number(name, unit),
    };
    Table {
        columns: COLUMNS.map(column).to_vec(),
        rows: part.iter().map(|rows| cells(rows, baseline)).collect(),
    }
}

fn heading(row: &ModeRow) -> String {
    format!(
        "{}: search {}, {} x {}, {}",
        row.machine,
        row.search,
        counted(row.players, "player"),
        counted(row.cards, "card"),
        counted(row.workers, "worker")
    )
}

/// How the figures came about: a few sentences.
fn method(part: &[Repetitions<'_>]) -> Vec<String> {
    let (row, rate) = (part[0][0], rounds_per_min(&part[0]));
    let (seconds, decisions) = (row.seconds, counted(row.positions, "decision"));
    let sure = 100.0 * rate.coverage;
    let mut sentences = match rate.count {
        1 => vec![
            format!("One repetition of {seconds} s; distances on {decisions}."),
            "Without more of them there is no interval.".to_owned(),
        ],
        count => vec![
            format!("Medians of {count} repetitions of {seconds} s; distances on {decisions}."),
            format!(
                "The interval is from order statistics and holds the true median with {sure:.0} %."
            ),
        ],
    };
    let rows = part.iter().flatten();
    let unmeasured = rows.filter(|row| decision_ms(row).is_none()).count();
    if unmeasured > 0 {
        sentences.push(format!(
            "In {} no decision finished, and none counts for its time: more --seconds.",
            counted(unmeasured, "run")
        ));
    }
    sentences
}

/// The tables for the terminal.
pub fn table(rows: &[ModeRow]) -> String {
    let mut text = String::new();
    for part in parts(rows) {
        let _ = writeln!(text, "{}", heading(part[0][0]));
        let table = table_of(&part);
        for (heading, columns) in BLOCKS {
            text.push_str(&table.block(heading, columns));
        }
        for sentence in method(&part) {
            let _ = writeln!(text, "{sentence}");
        }
        for rows in [&part[0], &part[part.len() - 1]] {
            let time = training_time(rows, ": ");
            let _ = writeln!(text, "500 iterations x 10,000 rounds, {time}");
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}

type Figure = fn(&ModeRow) -> Option<f64>;

/// The plots of a part: caption, what its axis counts, which figure.
const PLOTS: [(&str, &str, Figure); 8] = [
    ("Throughput", "rounds per minute", |row| {
        Some(row.rounds_per_min)
    }),
    ("Unique evaluations", "evaluations per second", |row| {
        Some(row.evaluations_per_s)
    }),
    ("Mean batch", "leaves", |row| Some(row.batch_mean)),
    ("Network busy", "% of the time", |row| {
        Some(100.0 * row.evaluator_busy)
    }),
    ("Time of a decision, median", "milliseconds", decision_ms),
    (
        "Distance from the sequential policy",
        "total variation, mean (0 to 1)",
        |row| Some(row.tv_mean),
    ),
    ("Same most visited action", "% of decisions", |row| {
        Some(100.0 * row.same_top)
    }),
    (
        "Depth of a simulation",
        "choices below the root, mean",
        |row| Some(row.depth_mean),
    ),
];

/// The page.
pub fn page(rows: &[ModeRow]) -> String {
    let mut page = Page::new("Ringmaster: the modes compared");
    page.note(
        "All modes play the same rounds. Rounds per minute are unique evaluations per second over \
         those that a round's searches take on the reference rounds, so that work lost on \
         duplicates or on rounds under way does not count.",
    );
    for part in parts(rows) {
        let first = part[0][0];
        page.heading(&heading(first));
        let method = method(&part).join(" ");
        page.note(&format!("Network: {}. {method}", first.device));
        page.table(&table_of(&part));
        let times: Vec<String> = part.iter().map(|rows| training_time(rows, " ")).collect();
        page.text(&format!(
            "500 iterations x 10,000 rounds take: {}",
            times.join("; ")
        ));
        page.plots(&PLOTS.map(|(caption, axis, figure)| plot(&part, caption, axis, figure)));
    }
    page.heading("The modes");
    for row in grouped(rows, |row| (row.number, &row.how)) {
        page.text(&format!(
            "{} {}: {}.",
            row[0].number, row[0].mode, row[0].how
        ));
    }
    page.note(
        "Distance: total variation between the visits of a mode's search and those of sequential \
         search (one world at a time, one leaf, batches of one) of the same decision in the same \
         sampled worlds. Duplicates are selections that fell on a leaf of the same tree already in \
         flight, per 1000 unique evaluations; they are never sent.",
    );
    page.finish()
}

fn plot(part: &[Repetitions<'_>], caption: &str, axis: &str, figure: Figure) -> Plot {
    let (mut items, mut unmeasured) = (Vec::new(), Vec::new());
    for rows in part {
        let label = format!("{} {}", rows[0].number, rows[0].mode);
        match measured(rows, figure) {
            Some(value) => {
                let colour = rows[0].number as usize;
                items.push(Bar {
                    label,
                    value,
                    colour,
                });
            }
            None => unmeasured.push(label),
        }
    }
    let mut below = axis.to_owned();
    if !unmeasured.is_empty() {
        let _ = write!(below, "; not measured: {}", unmeasured.join(", "));
    }
    bars(caption, below, axis, &items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_hold_every_column_once() {
        let shown = BLOCKS.into_iter().flat_map(|(_, columns)| columns);
        // The modes' names stand in front of each.
        assert!(shown.eq(1..COLUMNS.len()));
    }
}
