//! The plots of a sweep's page: the metric against the batch, combinations from best to worst, all
//! settings at once, and a heat map for each pair of settings.

use super::check::Checked;
use super::describe;
use super::metric::unit;
use super::show::Summary;
use crate::measure::report::{
    Axis, Bar, Heat, Point, Series, Strand, Track, bars, heat, lines, parallel, tick_label,
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

/// A caption, a line below it, and the SVG.
type Plot = (String, String, String);

/// All plots that the spec allows; `ranked` is from best to worst.
pub(super) fn plots(checked: &Checked, ranked: &[&Summary]) -> Vec<Plot> {
    let mut plots = vec![against_batch(checked, ranked), best_first(checked, ranked)];
    let swept = checked.swept.len();
    if swept > 2 {
        plots.push(all_settings(checked, ranked));
    }
    for down in 0..swept {
        for across in down + 1..swept {
            plots.extend(heat_map(checked, ranked, down, across));
        }
    }
    plots
}

fn is_better(checked: &Checked, value: f64, than: f64) -> bool {
    if checked.spec.best.minimize {
        value < than
    } else {
        value > than
    }
}

/// Those that were measured, with what was.
fn measured<'a>(ranked: &'a [&Summary]) -> impl Iterator<Item = (&'a Summary, Estimate)> + Clone {
    ranked
        .iter()
        .filter_map(|summary| summary.metric.map(|metric| (*summary, metric)))
}

/// The metric over the mean batch: a point per combination, and a line through the best of each
/// doubling.
fn against_batch(checked: &Checked, ranked: &[&Summary]) -> Plot {
    let mut points: Vec<Point> = measured(ranked)
        .map(|(summary, metric)| Point {
            x: summary.batch_mean,
            y: metric.median,
            interval: (metric.low, metric.high),
        })
        .collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    let doubling = |point: &Point| point.x.max(1.0).log2().floor() as i32;
    let mut best: Vec<Point> = Vec::new();
    for point in &points {
        match best.last_mut() {
            Some(last) if doubling(last) == doubling(point) => {
                if is_better(checked, point.y, last.y) {
                    *last = *point;
                }
            }
            _ => best.push(*point),
        }
    }
    let metric = &checked.spec.best.metric;
    let caption = format!("{metric} against batch");
    let series = |colour, points, joined| Series {
        colour,
        points,
        joined,
    };
    let svg = lines(
        &caption,
        "mean batch, leaves",
        unit(metric),
        &[series(3, points, false), series(4, best, true)],
    );
    let below = "a point per combination, its interval as a whisker; the line joins the best of each doubling of the batch";
    (caption, below.to_owned(), svg)
}

/// The combinations from best to worst, with their noise.
fn best_first(checked: &Checked, ranked: &[&Summary]) -> Plot {
    let metric = &checked.spec.best.metric;
    let bar = |(summary, metric): (&Summary, Estimate)| Bar {
        label: checked.combinations[summary.combination].values.join(" "),
        value: metric.median,
        interval: (metric.high > metric.low).then_some((metric.low, metric.high)),
        colour: if summary.broken.is_empty() { 3 } else { 0 },
    };
    let items: Vec<Bar> = measured(ranked).take(BARS_MOST).map(bar).collect();
    let caption = format!("{metric}, best first");
    let below = format!(
        "values of {}, and the interval; grey: breaks a constraint{}",
        checked.swept.join(", "),
        if measured(ranked).count() > BARS_MOST {
            format!("; the first {BARS_MOST}")
        } else {
            String::new()
        }
    );
    let svg = bars(&caption, unit(metric), &items);
    (caption, below, svg)
}

/// Every combination as a strand through its settings down to the metric.
fn all_settings(checked: &Checked, ranked: &[&Summary]) -> Plot {
    let mut tracks = Vec::new();
    let mut places: Vec<Vec<f64>> = vec![Vec::new(); measured(ranked).count()];
    for setting in 0..checked.swept.len() {
        let values = values(checked, setting);
        let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse().ok()).collect();
        let axis = numbers
            .filter(|numbers| numbers.len() > VALUES_MOST)
            .map(|numbers| Axis::fitting(numbers.into_iter(), 5.0));
        let last = values.len().saturating_sub(1).max(1) as f64;
        let place = |value: &String| match &axis {
            Some(axis) => axis.place(value.parse().unwrap_or(0.0)),
            None => values.iter().position(|v| v == value).unwrap_or(0) as f64 / last,
        };
        for (places, (summary, _)) in places.iter_mut().zip(measured(ranked)) {
            places.push(place(
                &checked.combinations[summary.combination].values[setting],
            ));
        }
        let marks = match &axis {
            Some(axis) => marks(axis),
            None => values
                .iter()
                .map(|value| (place(value), value.clone()))
                .collect(),
        };
        tracks.push(Track {
            name: checked.swept[setting].clone(),
            marks,
            meeting: axis.is_none(),
        });
    }
    let metric = &checked.spec.best.metric;
    let axis = Axis::fitting(measured(ranked).map(|(_, metric)| metric.median), 5.0);
    tracks.push(Track {
        name: unit(metric).to_owned(),
        marks: marks(&axis),
        meeting: false,
    });
    let chosen = places.len().div_ceil(10);
    let strands: Vec<Strand> = measured(ranked)
        .zip(places)
        .enumerate()
        .map(|(rank, ((summary, metric), mut places))| {
            places.push(axis.place(metric.median));
            let settings = describe(checked, &checked.combinations[summary.combination]);
            Strand {
                places,
                chosen: rank < chosen,
                label: format!("{settings}: {}", short(metric.median)),
            }
        })
        .collect();
    let caption = "All settings at once".to_owned();
    let below = format!(
        "a line per combination, from its settings down to its {metric}; the best tenth in colour"
    );
    let svg = parallel(&caption, &tracks, &strands);
    (caption, below, svg)
}

fn marks(axis: &Axis) -> Vec<(f64, String)> {
    let mark = |&tick: &f64| (axis.place(tick), tick_label(tick));
    axis.ticks.iter().map(mark).collect()
}

/// The values a setting takes: numbers in order of size, words in that of the alphabet.
fn values(checked: &Checked, setting: usize) -> Vec<String> {
    let mut values: Vec<String> = checked
        .combinations
        .iter()
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

/// The rows or columns of a heat map.
struct Groups {
    /// What is written beside each.
    labels: Vec<String>,
    /// Where each value of the setting belongs.
    places: HashMap<String, usize>,
}

impl Groups {
    /// Each value by itself, or in a range of numbers when there are many. None for many words.
    fn of(checked: &Checked, setting: usize) -> Option<Groups> {
        let values = values(checked, setting);
        let many = values.len() > VALUES_MOST;
        let each = if many {
            values.len().div_ceil(RANGES)
        } else {
            1
        };
        let label = |range: &[String]| {
            if many {
                Some(format!("\u{2265} {}", tick_label(range[0].parse().ok()?)))
            } else {
                Some(range[0].clone())
            }
        };
        let labels: Option<Vec<String>> = values.chunks(each).map(label).collect();
        let places = values.iter().enumerate();
        let places = places.map(|(place, value)| (value.clone(), place / each));
        Some(Groups {
            labels: labels?,
            places: places.collect(),
        })
    }
}

/// The best the metric reaches for each pair of values of two settings, whatever the others are.
fn heat_map(checked: &Checked, ranked: &[&Summary], down: usize, across: usize) -> Option<Plot> {
    let (rows, columns) = (Groups::of(checked, down)?, Groups::of(checked, across)?);
    if rows.labels.len() < 2 || columns.labels.len() < 2 {
        return None;
    }
    let mut cells = vec![vec![None; columns.labels.len()]; rows.labels.len()];
    for (summary, metric) in measured(ranked) {
        let values = &checked.combinations[summary.combination].values;
        let (row, column) = (rows.places[&values[down]], columns.places[&values[across]]);
        let cell: &mut Option<f64> = &mut cells[row][column];
        if cell.is_none_or(|best| is_better(checked, metric.median, best)) {
            *cell = Some(metric.median);
        }
    }
    let (down, across) = (&checked.swept[down], &checked.swept[across]);
    let caption = format!("{down} by {across}");
    let map = Heat {
        across: across.clone(),
        columns: columns.labels,
        down: down.clone(),
        rows: rows.labels,
        cells,
    };
    let metric = &checked.spec.best.metric;
    let below = format!("{}, the best over all other settings", unit(metric));
    let svg = heat(&caption, &map);
    Some((caption, below, svg))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::measure::report::tests::assert_nothing_is_cut_off;
    use crate::measure::sweep::{Spec, check};

    #[test]
    fn a_page_has_every_plot_and_each_its_unit() {
        let spec: Spec = toml::from_str(
            "[grid]\nworkers = [1, 2]\nparking = [\"park\", \"poll\"]\n[random]\nsamples = 24\n[random.space]\n\
             in_flight = { low = 16, high = 1024, log = true }\nmax_wait_us = [0, 2000, 5000]\n\
             [best]\nmetric = \"evaluations_per_s\"",
        )
        .unwrap();
        let checked = check(spec).unwrap();
        let summaries: Vec<Summary> = (0..checked.combinations.len())
            .map(|combination| Summary {
                combination,
                // Some that failed, some that scatter.
                metric: (combination % 7 > 0).then_some(Estimate {
                    median: 1000.0 - combination as f64,
                    low: 900.0 - combination as f64,
                    high: 1100.0,
                    coverage: 0.75,
                    count: 3,
                }),
                batch_mean: (1 + combination) as f64,
                failed: usize::from(combination % 7 == 0),
                reason: String::new(),
                broken: Vec::new(),
            })
            .collect();
        let ranked: Vec<&Summary> = summaries.iter().collect();
        let plots = plots(&checked, &ranked);
        let captions: Vec<&str> = plots.iter().map(|plot| plot.0.as_str()).collect();
        assert_eq!(
            captions,
            [
                "evaluations_per_s against batch",
                "evaluations_per_s, best first",
                "All settings at once",
                "parking by workers",
                "parking by in_flight",
                "parking by max_wait_us",
                "workers by in_flight",
                "workers by max_wait_us",
                "in_flight by max_wait_us",
            ],
            "a map for each pair"
        );
        for (caption, below, svg) in &plots {
            assert_nothing_is_cut_off(svg);
            let unit = "unique evaluations per second";
            assert!(svg.contains(unit) || below.contains(unit), "{caption}");
        }
        assert!(plots[0].2.contains("whisker") && plots[1].2.contains("whisker"));
        let strands = plots[2].2.matches("fill=\"none\"").count();
        assert_eq!(strands, measured(&ranked).count());
        assert!(plots[2].2.contains("in_flight") && plots[2].2.contains(">poll<"));
        // Two dozen draws are six ranges, and the best of all is in some cell.
        assert_eq!(plots[4].2.matches('\u{2265}').count(), RANGES);
        assert!(plots[4].2.contains(">999<"));
    }
}
