//! The plots of a sweep's page: the metric against the batch, combinations from best to worst, all
//! settings at once, and a heat map for each pair of settings.

use super::check::CheckedSpec;
use super::describe;
use super::metric::unit;
use super::summary::Summary;
use crate::measure::report::{
    Axis, Bar, Coordinate, Heat, Plot, Point, Polyline, bars, heat, parallel, scatter, tick_label,
};
use crate::measure::stats::{Estimate, short};
use std::cmp::Ordering;
use std::collections::HashMap;

/// Values of a setting that a plot shows one by one; more are numbers in ranges.
const VALUES_MOST: usize = 10;
/// Ranges that more values are put into.
const RANGES: usize = 6;
/// Combinations in the plot from best to worst; the table has them all.
const BARS_MOST: usize = 20;

/// All plots that the spec allows; the summaries are from best to worst.
pub(super) fn plots(checked: &CheckedSpec, summaries: &[Summary]) -> Vec<Plot> {
    let measured: Vec<Measured<'_>> = summaries
        .iter()
        .filter_map(|summary| Some((summary, summary.metric?)))
        .collect();
    let mut plots = vec![
        against_batch(checked, &measured),
        best_first(checked, &measured),
    ];
    let swept = checked.swept.len();
    if swept > 2 {
        plots.push(all_settings(checked, &measured));
    }
    for down in 0..swept {
        for across in down + 1..swept {
            plots.extend(heat_map(checked, &measured, down, across));
        }
    }
    plots
}

/// A combination that was measured, with what was.
type Measured<'a> = (&'a Summary, Estimate);

fn is_better(checked: &CheckedSpec, value: f64, than: f64) -> bool {
    match checked.spec.best.minimize {
        true => value < than,
        false => value > than,
    }
}

/// The metric over the mean batch: a point per combination, and a line through the best of each
/// doubling.
fn against_batch(checked: &CheckedSpec, measured: &[Measured<'_>]) -> Plot {
    let points = measured
        .iter()
        .map(|(summary, metric)| (summary.batch_mean, *metric));
    let mut points: Vec<Point> = points.collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let doubling = |point: &Point| point.0.max(1.0).log2().floor() as i32;
    let is_better = |a: &Point, b: &Point| is_better(checked, a.1.median, b.1.median);
    let doublings = points.chunk_by(|a, b| doubling(a) == doubling(b));
    let best_of = |some: &[Point]| {
        some.iter()
            .copied()
            .reduce(|best, point| match is_better(&point, &best) {
                true => point,
                false => best,
            })
    };
    let best: Vec<Point> = doublings.filter_map(best_of).collect();
    let metric = &checked.spec.best.metric;
    let caption = format!("{metric} against batch");
    let below = "a point per combination, its interval as a whisker; the line joins the best of \
                 each doubling of the batch";
    let names = ["mean batch, leaves", unit(metric)];
    scatter(&caption, below.to_owned(), names, &points, &best)
}

/// The combinations from best to worst, with their noise.
fn best_first(checked: &CheckedSpec, measured: &[Measured<'_>]) -> Plot {
    let metric = &checked.spec.best.metric;
    let bar = |&(summary, value): &Measured<'_>| Bar {
        label: checked.combinations[summary.combination].values.join(" "),
        value,
        colour: if summary.may_be_best() { 3 } else { 0 },
    };
    let items: Vec<Bar> = measured.iter().take(BARS_MOST).map(bar).collect();
    let caption = format!("{metric}, best first");
    let below = format!(
        "values of {}, and the interval; grey: failed at times or breaks a constraint{}",
        checked.swept.join(", "),
        match measured.len() > BARS_MOST {
            true => format!("; the first {BARS_MOST}"),
            false => String::new(),
        }
    );
    bars(&caption, below, unit(metric), &items)
}

/// A setting's coordinate, and where each of its values lies on it: values one by one, or on an
/// axis if they are many numbers.
fn coordinate(checked: &CheckedSpec, setting: usize) -> (Coordinate, HashMap<String, f64>) {
    let values = values(checked, setting);
    let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse().ok()).collect();
    let numbers = numbers.filter(|numbers| numbers.len() > VALUES_MOST);
    let name = checked.swept[setting].clone();
    let places: Vec<f64>;
    let marks: Vec<(f64, String)>;
    let shared = numbers.is_none();
    if let Some(numbers) = numbers {
        let axis = Axis::fitting(numbers.iter().copied());
        places = numbers.iter().map(|&number| axis.place(number)).collect();
        marks = axis.marks().collect();
    } else {
        let last = values.len().saturating_sub(1).max(1) as f64;
        places = (0..values.len()).map(|nth| nth as f64 / last).collect();
        marks = places.iter().copied().zip(values.iter().cloned()).collect();
    }
    let coordinate = Coordinate {
        name,
        marks,
        shared,
    };
    (coordinate, values.into_iter().zip(places).collect())
}

/// Every combination as a line through its settings down to the metric.
fn all_settings(checked: &CheckedSpec, measured: &[Measured<'_>]) -> Plot {
    let settings = (0..checked.swept.len()).map(|setting| coordinate(checked, setting));
    let (mut coordinates, places): (Vec<Coordinate>, Vec<_>) = settings.unzip();
    let metric = &checked.spec.best.metric;
    let axis = Axis::fitting(measured.iter().map(|(_, metric)| metric.median));
    coordinates.push(Coordinate {
        name: unit(metric).to_owned(),
        marks: axis.marks().collect(),
        shared: false,
    });
    let chosen = measured.len().div_ceil(10);
    let polyline = |(rank, (summary, metric)): (usize, &Measured<'_>)| {
        let combination = &checked.combinations[summary.combination];
        let own = combination.values.iter().zip(&places);
        let own = own.map(|(value, places)| places[value]);
        let settings = describe(checked, combination);
        Polyline {
            places: own.chain([axis.place(metric.median)]).collect(),
            chosen: rank < chosen,
            label: format!("{settings}: {}", short(metric.median)),
        }
    };
    let polylines: Vec<Polyline> = measured.iter().enumerate().map(polyline).collect();
    let below = format!(
        "a line per combination, from its settings down to its {metric}; the best tenth in colour"
    );
    parallel("All settings at once", below, &coordinates, &polylines)
}

/// The values a setting takes: numbers in order of size, words in that of the alphabet.
fn values(checked: &CheckedSpec, setting: usize) -> Vec<String> {
    let combinations = checked.combinations.iter();
    let mut values: Vec<String> = combinations
        .map(|combination| combination.values[setting].clone())
        .collect();
    values.sort_by(|a, b| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        // Numbers before words, or there is no order at all: 9 < 10 < 1a < 9.
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    });
    values.dedup();
    values
}

/// The rows or columns of a heat map, and to which of them each value of the setting belongs: each
/// to its own, or to a range of numbers when there are many. None for many words.
fn groups(checked: &CheckedSpec, setting: usize) -> Option<(Vec<String>, HashMap<String, usize>)> {
    let values = values(checked, setting);
    let many = values.len() > VALUES_MOST;
    let each = if many {
        values.len().div_ceil(RANGES)
    } else {
        1
    };
    let label = |range: &[String]| match many {
        true => Some(format!("\u{2265} {}", tick_label(range[0].parse().ok()?))),
        false => Some(range[0].clone()),
    };
    let labels: Vec<String> = values.chunks(each).map(label).collect::<Option<_>>()?;
    let places = values.into_iter().enumerate();
    let places = places.map(|(place, value)| (value, place / each)).collect();
    (labels.len() > 1).then_some((labels, places))
}

/// The best the metric reaches for each pair of values of two settings, whatever the others are.
fn heat_map(
    checked: &CheckedSpec,
    measured: &[Measured<'_>],
    down: usize,
    across: usize,
) -> Option<Plot> {
    let (rows, row_of) = groups(checked, down)?;
    let (columns, column_of) = groups(checked, across)?;
    let mut cells = vec![vec![None; columns.len()]; rows.len()];
    for (summary, metric) in measured {
        let values = &checked.combinations[summary.combination].values;
        let cell = &mut cells[row_of[&values[down]]][column_of[&values[across]]];
        if cell.is_none_or(|best| is_better(checked, metric.median, best)) {
            *cell = Some(metric.median);
        }
    }
    let [down, across] = [down, across].map(|setting| checked.swept[setting].clone());
    let caption = format!("{down} by {across}");
    let unit = unit(&checked.spec.best.metric);
    let below = format!("{unit}, the best over all other settings");
    let map = Heat {
        across,
        columns,
        down,
        rows,
        cells,
    };
    Some(heat(&caption, below, &map))
}
