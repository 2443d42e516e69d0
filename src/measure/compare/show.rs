//! The comparison for readers: the tables on the terminal and the page.

use super::Row;
use crate::measure::report::{Bar, Page, bars};
use crate::measure::stats::{Estimate, estimate, short};
use crate::plural::counted;
use std::fmt::Write;
use std::ops::Range;

/// Rounds of the training plan: 500 iterations of 10,000 rounds.
const PLAN_ROUNDS: f64 = 5_000_000.0;

/// All repetitions of one mode at one search on one machine.
struct Group<'a> {
    rows: Vec<&'a Row>,
}

impl<'a> Group<'a> {
    /// Rows by machine, search and mode, in order of first appearance.
    fn all(rows: &'a [Row]) -> Vec<Group<'a>> {
        let key = |row: &'a Row| (&row.machine, &row.search, row.number);
        let mut groups: Vec<Group<'a>> = Vec::new();
        for row in rows {
            match groups
                .iter_mut()
                .find(|group| key(group.rows[0]) == key(row))
            {
                Some(group) => group.rows.push(row),
                None => groups.push(Group { rows: vec![row] }),
            }
        }
        groups
    }

    fn first(&self) -> &Row {
        self.rows[0]
    }

    /// Of the repetitions that measured it.
    fn measured(&self, figure: impl Fn(&Row) -> Option<f64>) -> Option<Estimate> {
        let values: Vec<f64> = self.rows.iter().filter_map(|row| figure(row)).collect();
        estimate(&values)
    }

    fn estimate(&self, figure: impl Fn(&Row) -> f64) -> Estimate {
        // A group has at least one row.
        self.measured(|row| Some(figure(row))).unwrap_or(Estimate {
            median: 0.0,
            low: 0.0,
            high: 0.0,
            coverage: 0.0,
            count: 0,
        })
    }

    fn median(&self, figure: impl Fn(&Row) -> f64) -> f64 {
        self.estimate(figure).median
    }
}

/// How long the training plan takes at a rate.
fn plan_time(rounds_per_min: f64) -> String {
    let minutes = PLAN_ROUNDS / rounds_per_min.max(1e-9);
    match minutes {
        m if m < 120.0 => format!("{} minutes", short(m)),
        m if m < 48.0 * 60.0 => format!("{} hours", short(m / 60.0)),
        m => format!("{} days", short(m / 1440.0)),
    }
}

/// Columns of both tables: name, unit.
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
fn decision_ms(row: &Row) -> Option<f64> {
    row.decision_ms_p50.filter(|&time| time > 0.0)
}

/// The median of what was measured, if anything was.
fn told(estimate: Option<Estimate>) -> String {
    estimate.map_or("-".to_owned(), |estimate| short(estimate.median))
}

fn cells(group: &Group<'_>, baseline: f64) -> Vec<String> {
    let first = group.first();
    let rate = group.estimate(|row| row.rounds_per_min);
    let duplicates = |row: &Row| {
        // They are counted when their decision is done.
        decision_ms(row)?;
        let evaluations = row.evaluations_per_s * row.seconds;
        Some(1000.0 * row.duplicates as f64 / evaluations.max(1.0))
    };
    let decision_ms_p99 = |row: &Row| row.decision_ms_p99.filter(|&time| time > 0.0);
    vec![
        format!("{} {}", first.number, first.mode),
        short(rate.median),
        format!("{}-{}", short(rate.low), short(rate.high)),
        short(rate.median / baseline),
        short(group.median(|row| row.evaluations_per_s)),
        short(group.median(|row| row.batch_mean)),
        format!(
            "{:.0}/{:.0}/{:.0}",
            group.median(|row| row.batch_p50),
            group.median(|row| row.batch_p99),
            group.median(|row| row.batch_max)
        ),
        format!("{:.0}", 100.0 * group.median(|row| row.evaluator_busy)),
        told(group.measured(decision_ms)),
        told(group.measured(decision_ms_p99)),
        told(group.measured(duplicates)),
        format!("{}/{}", short(first.tv_mean), short(first.tv_p95)),
        format!("{:.1}", 100.0 * first.same_top),
        format!("{:.2}", first.depth_mean),
    ]
}

/// The groups of each machine and search.
fn parts<'a, 'b>(groups: &'b [Group<'a>]) -> Vec<Vec<&'b Group<'a>>> {
    let key = |group: &'b Group<'a>| (&group.first().machine, &group.first().search);
    let mut parts: Vec<Vec<&Group<'_>>> = Vec::new();
    for group in groups {
        match parts.iter_mut().find(|part| key(part[0]) == key(group)) {
            Some(part) => part.push(group),
            None => parts.push(vec![group]),
        }
    }
    parts
}

fn baseline(part: &[&Group<'_>]) -> f64 {
    part[0].median(|row| row.rounds_per_min).max(1e-9)
}

fn heading(row: &Row) -> String {
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
fn method(part: &[&Group<'_>]) -> Vec<String> {
    let rate = part[0].estimate(|row| row.rounds_per_min);
    let row = part[0].first();
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
    let rows = part.iter().flat_map(|group| &group.rows);
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
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let groups = Group::all(rows);
    for part in parts(&groups) {
        let _ = writeln!(text, "{}", heading(part[0].first()));
        let baseline = baseline(&part);
        let lines: Vec<Vec<String>> = part.iter().map(|group| cells(group, baseline)).collect();
        for (name, columns) in BLOCKS {
            text.push_str(&block(name, columns, &lines));
        }
        for sentence in method(&part) {
            let _ = writeln!(text, "{sentence}");
        }
        let last = part[part.len() - 1];
        for group in [part[0], last] {
            let rate = group.median(|row| row.rounds_per_min);
            let _ = writeln!(
                text,
                "500 iterations x 10,000 rounds, {}: {}",
                group.first().mode,
                plan_time(rate)
            );
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// Some columns of a table, below two lines of headings and beside the modes' names.
fn block(name: &str, columns: Range<usize>, lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    let first = lines.iter().map(|line| line[0].len());
    let first = first.chain([name.len()]).max().unwrap_or(0);
    let widths = columns.clone().map(|column| {
        let (above, below) = COLUMNS[column];
        let cells = lines.iter().map(|line| line[column].len());
        cells.chain([above.len(), below.len()]).max().unwrap_or(0)
    });
    let widths: Vec<usize> = widths.collect();
    let mut write_line = |first_cell: &str, cells: &[&str]| {
        let _ = write!(text, "{first_cell:<first$}");
        for (cell, &width) in cells.iter().zip(&widths) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    };
    let headings = &COLUMNS[columns.clone()];
    write_line(
        name,
        &headings.iter().map(|(above, _)| *above).collect::<Vec<_>>(),
    );
    write_line(
        "",
        &headings.iter().map(|(_, below)| *below).collect::<Vec<_>>(),
    );
    for line in lines {
        let cells = line[columns.clone()].iter().map(String::as_str);
        write_line(&line[0], &cells.collect::<Vec<_>>());
    }
    text
}

type Figure = fn(&Row) -> Option<f64>;

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
pub fn page(rows: &[Row]) -> String {
    let mut page = Page::new("Ringmaster: the modes compared");
    page.note(
        "All modes play the same rounds. Rounds per minute are unique evaluations per second over those that a round's \
searches take on the reference rounds, so that work lost on duplicates or on rounds under way does not count.",
    );
    let groups = Group::all(rows);
    for part in parts(&groups) {
        let first = part[0].first();
        page.heading(&heading(first));
        let method = method(&part).join(" ");
        page.note(&format!("Network: {}. {method}", first.device));
        let baseline = baseline(&part);
        let lines: Vec<Vec<String>> = part.iter().map(|group| cells(group, baseline)).collect();
        page.table(&COLUMNS, &lines);
        page.text(&part.iter().fold(
            String::from("500 iterations x 10,000 rounds take: "),
            |mut text, group| {
                let rate = group.median(|row| row.rounds_per_min);
                let gap = if text.ends_with(": ") { "" } else { "; " };
                let _ = write!(text, "{gap}{} {}", group.first().mode, plan_time(rate));
                text
            },
        ));
        let plots: Vec<_> = PLOTS
            .iter()
            .map(|&(caption, axis, figure)| plot(&part, caption, axis, figure))
            .collect();
        page.plots(&plots);
    }
    page.heading("The modes");
    let mut told = Vec::new();
    for group in &groups {
        let row = group.first();
        if !told.contains(&(row.number, &row.how)) {
            told.push((row.number, &row.how));
            page.text(&format!("{} {}: {}.", row.number, row.mode, row.how));
        }
    }
    page.note(
        "Distance: total variation between the visits of a mode's search and those of sequential search (one world at a time, \
one leaf, batches of one) of the same decision in the same sampled worlds. Duplicates are selections that fell on a leaf of the \
same tree already in flight, per 1000 unique evaluations; they are never sent.",
    );
    page.finish()
}

fn plot(
    part: &[&Group<'_>],
    caption: &str,
    axis: &str,
    figure: Figure,
) -> (String, String, String) {
    let (mut items, mut unmeasured) = (Vec::new(), Vec::new());
    for group in part {
        let name = format!("{} {}", group.first().number, group.first().mode);
        let Some(estimate) = group.measured(figure) else {
            unmeasured.push(name);
            continue;
        };
        let noisy = estimate.high > estimate.low;
        items.push(Bar {
            label: name,
            value: estimate.median,
            interval: noisy.then_some((estimate.low, estimate.high)),
            colour: group.first().number as usize,
        });
    }
    let mut below = axis.to_owned();
    if !unmeasured.is_empty() {
        let _ = write!(below, "; not measured: {}", unmeasured.join(", "));
    }
    (caption.to_owned(), below, bars(caption, axis, &items))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u32, repetition: usize, decision_ms: Option<f64>) -> Row {
        Row {
            machine: "m".into(),
            device: "d".into(),
            search: "2x20".into(),
            number,
            mode: format!("mode {number}"),
            how: String::new(),
            repetition,
            workers: 1,
            players: 4,
            cards: 5,
            seconds: 1.0,
            rounds_per_min: 60.0,
            rounds_finished: 0,
            evaluations_per_s: 1000.0,
            batch_mean: 8.0,
            batch_p50: 8.0,
            batch_p99: 8.0,
            batch_max: 8.0,
            duplicates: 0,
            evaluator_busy: 0.9,
            decision_ms_p50: decision_ms,
            decision_ms_p99: decision_ms,
            positions: 10,
            tv_mean: 0.0,
            tv_p95: 0.0,
            kl_mean: 0.0,
            kl_p95: 0.0,
            same_top: 1.0,
            depth_mean: 2.0,
            evaluations_per_round: 100.0,
        }
    }

    #[test]
    fn repetitions_without_a_decision_are_not_measured() {
        // Not measured in this table, or with the 0 of an earlier one.
        for nothing in [None, Some(0.0)] {
            let rows = [
                row(1, 1, Some(1901.0)),
                row(1, 2, nothing),
                row(1, 3, Some(3539.0)),
                row(2, 1, nothing),
            ];
            let (page, table) = (page(&rows), table(&rows));
            assert!(page.contains("2,720 (1,901 to 3,539)"), "{page}");
            assert!(page.contains("; not measured: 2 mode 2"), "{page}");
            assert!(table.contains("In 2 runs no decision finished"), "{table}");
            let price = table
                .lines()
                .skip_while(|line| !line.starts_with("at what"));
            let second: Vec<&str> = price
                .filter(|line| line.starts_with("2 mode 2"))
                .flat_map(str::split_whitespace)
                .collect();
            assert_eq!(second[3..6], ["-", "-", "-"], "{table}");
        }
    }

    #[test]
    fn an_empty_cell_of_a_table_is_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compare.csv");
        let rows = [row(1, 1, None), row(1, 2, Some(5.0))];
        super::super::write_csv(&path, &rows).unwrap();
        assert_eq!(super::super::read_csv(&[path]).unwrap(), rows);
    }

    #[test]
    fn the_blocks_hold_every_column_once() {
        let shown = BLOCKS.into_iter().flat_map(|(_, columns)| columns);
        // The modes' names stand in front of each.
        assert!(shown.eq(1..COLUMNS.len()));
    }
}
