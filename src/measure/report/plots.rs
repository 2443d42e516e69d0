//! The plots: bars with intervals, points and lines, a heat map, and many settings at once. Each
//! has a unit on every axis and labels that cannot meet: bars carry theirs above themselves, ticks
//! are few and measured.

use super::svg::{Anchor, At, Axis, LETTER, Svg, WIDTH};
use crate::measure::stats::{Estimate, short};

/// A plot of a page.
pub struct Plot {
    /// Its heading.
    pub caption: String,
    /// A line below that.
    pub below: String,
    /// What one of the functions here drew.
    pub svg: String,
}

/// One bar.
pub struct Bar {
    /// Stands above it.
    pub label: String,
    /// Its length, and its interval if that has one.
    pub value: Estimate,
    /// Number of its colour.
    pub colour: usize,
}

/// Height of a bar with its label.
const BAR: f64 = 36.0;

/// Horizontal bars from 0, each with its label and value above it, and its interval as a whisker.
pub fn bars(caption: &str, below: String, axis_name: &str, items: &[Bar]) -> Plot {
    let ends = items
        .iter()
        .flat_map(|bar| [bar.value.median, bar.value.high]);
    let axis = Axis::fitting(ends);
    let bottom = 6.0 + BAR * items.len() as f64;
    let mut svg = Svg::new(caption, bottom + 40.0);
    svg.axis(&axis, 4.0, 4.0, bottom, axis_name);
    let x_of = |value: f64| 4.0 + (WIDTH - 20.0) * axis.place(value);
    for (nth, bar) in items.iter().enumerate() {
        let (top, value) = (4.0 + BAR * nth as f64, bar.value);
        let is_noisy = value.high > value.low;
        let mut figure = short(value.median);
        if is_noisy {
            figure = format!("{figure} ({} to {})", short(value.low), short(value.high));
        }
        let room = WIDTH - 14.0 - figure.chars().count() as f64 * LETTER;
        svg.text((4.0, top + 12.0), Anchor::Start, "", room, &bar.label);
        svg.text((WIDTH - 4.0, top + 12.0), Anchor::End, "", WIDTH, &figure);
        // A value at the low end of a logarithmic axis is not nothing.
        let least = if value.median > 0.0 { 2.0 } else { 0.0 };
        let length = (x_of(value.median) - 4.0).max(least);
        svg.rect((4.0, top + 17.0), (length, 12.0), bar.colour, 1.0);
        if is_noisy {
            let [low, high] = [value.low, value.high].map(x_of);
            svg.line("whisker", (low, top + 23.0), (high, top + 23.0));
            for end in [low, high] {
                svg.line("whisker", (end, top + 20.0), (end, top + 26.0));
            }
        }
    }
    svg.finish(caption, below)
}

/// A point: where, and how much.
pub type Point = (f64, Estimate);

/// Points with their intervals, and a line through some of them, in order of x; either axis turns
/// logarithmic when its values span more than a factor of 50.
pub fn scatter(
    caption: &str,
    below: String,
    [x_name, y_name]: [&str; 2],
    points: &[Point],
    joined: &[Point],
) -> Plot {
    let across = Axis::fitting(points.iter().map(|(x, _)| *x));
    let up = Axis::fitting(points.iter().flat_map(|(_, y)| [y.median, y.high]));
    let letters = up.marks().map(|(_, label)| label.chars().count()).max();
    let left = 10.0 + LETTER * letters.unwrap_or(1) as f64;
    let (top, bottom, right) = (26.0, 230.0, WIDTH - 16.0);
    let mut svg = Svg::new(caption, bottom + 40.0);
    svg.text(
        (4.0, 13.0),
        Anchor::Start,
        "",
        WIDTH - 8.0,
        &up.name(y_name),
    );
    let y_at = |place: f64| bottom - (bottom - top) * place;
    for (place, label) in up.marks() {
        let y = y_at(place);
        svg.line("axis", (left, y), (right, y));
        svg.text((left - 5.0, y + 4.0), Anchor::End, "soft", WIDTH, &label);
    }
    svg.axis(&across, left, top, bottom, x_name);
    let y_of = |value: f64| y_at(up.place(value));
    let at = |(x, y): &Point| -> At {
        let x = left + (right - left) * across.place(*x);
        (x, y_of(y.median))
    };
    if !joined.is_empty() {
        svg.path(&joined.iter().map(at).collect::<Vec<_>>(), 4, 1.0, "");
    }
    for (points, colour) in [(points, 3), (joined, 4)] {
        for point in points {
            let (x, y) = (at(point).0, point.1);
            svg.line("whisker", (x, y_of(y.low)), (x, y_of(y.high)));
            let title = format!("{}: {}", short(point.0), short(y.median));
            svg.dot(at(point), colour, &title);
        }
    }
    svg.finish(caption, below)
}

/// Values over two settings.
pub struct Heat {
    /// Setting of the columns.
    pub across: String,
    /// Its values, in order.
    pub columns: Vec<String>,
    /// Setting of the rows.
    pub down: String,
    /// Its values, in order.
    pub rows: Vec<String>,
    /// Row by row; none where nothing was measured.
    pub cells: Vec<Vec<Option<f64>>>,
}

/// A heat map with its numbers written in; the stronger the colour, the higher the value.
pub fn heat(caption: &str, below: String, map: &Heat) -> Plot {
    let letters = map.rows.iter().map(|row| row.chars().count()).max();
    let left = (12.0 + LETTER * letters.unwrap_or(1) as f64).min(110.0);
    let width = (WIDTH - left - 4.0) / map.columns.len().max(1) as f64;
    let (top, height) = (40.0, 30.0);
    let mut svg = Svg::new(caption, top + height * map.rows.len() as f64 + 8.0);
    let name = format!("{} \u{2193}  by  {} \u{2192}", map.down, map.across);
    svg.text((4.0, 13.0), Anchor::Start, "", WIDTH - 8.0, &name);
    let middle = |column: usize| left + width * (column as f64 + 0.5);
    for (column, name) in map.columns.iter().enumerate() {
        svg.text(
            (middle(column), 33.0),
            Anchor::Middle,
            "soft",
            width - 2.0,
            name,
        );
    }
    let known = || map.cells.iter().flatten().flatten().copied();
    let least = known().fold(f64::INFINITY, f64::min);
    let most = known().fold(f64::NEG_INFINITY, f64::max);
    for (row, (name, cells)) in map.rows.iter().zip(&map.cells).enumerate() {
        let y = top + height * row as f64;
        svg.text(
            (left - 6.0, y + 19.0),
            Anchor::End,
            "soft",
            left - 8.0,
            name,
        );
        for (column, cell) in cells.iter().enumerate() {
            let at = (middle(column), y + 19.0);
            let Some(value) = *cell else {
                svg.text(at, Anchor::Middle, "soft", width, "–");
                continue;
            };
            let share = if most > least {
                (value - least) / (most - least)
            } else {
                1.0
            };
            let corner = (middle(column) - width / 2.0 + 1.0, y + 1.0);
            svg.rect(corner, (width - 2.0, height - 2.0), 3, 0.08 + 0.47 * share);
            svg.text(at, Anchor::Middle, "cell", width, &compact(value, width));
        }
    }
    svg.finish(caption, below)
}

/// A number within `room` units: thousands as k where it is narrow.
fn compact(value: f64, room: f64) -> String {
    let whole = short(value);
    if whole.chars().count() as f64 * LETTER <= room - 4.0 || value.abs() < 1000.0 {
        return whole;
    }
    if value.abs() >= 1e6 {
        return format!("{:.1}M", value / 1e6);
    }
    format!("{:.*}k", usize::from(value.abs() < 1e4), value / 1000.0)
}

/// One setting as an axis from its least to its greatest value.
pub struct Coordinate {
    /// What it is called, with its unit if it has one.
    pub name: String,
    /// Places on it, 0 to 1, ascending, and what is there.
    pub marks: Vec<(f64, String)>,
    /// Do many lines pass through each mark? Then they are drawn a little apart.
    pub shared: bool,
}

/// One combination of settings, and what came of it.
pub struct Polyline {
    /// Its place on each coordinate, 0 to 1.
    pub places: Vec<f64>,
    /// Is it one of the best?
    pub chosen: bool,
    /// All of it in words.
    pub label: String,
}

/// Many settings at once, as parallel coordinates: an axis for each, one below the other (so that
/// names and values stay readable on a phone), and a line for each combination runs through them
/// all. The first line is the best and is drawn on top.
pub fn parallel(
    caption: &str,
    below: String,
    coordinates: &[Coordinate],
    lines: &[Polyline],
) -> Plot {
    /// Between two coordinates.
    const GAP: f64 = 62.0;
    /// On either side of them.
    const SIDE: f64 = 24.0;
    /// How far lines with the same value of a setting lie apart, all together.
    const SPREAD: f64 = 18.0;
    let mut svg = Svg::new(caption, GAP * coordinates.len() as f64 + 12.0);
    let x_of = |place: f64| SIDE + (WIDTH - 2.0 * SIDE) * place;
    let y_of = |nth: usize| 30.0 + GAP * nth as f64;
    for (nth, coordinate) in coordinates.iter().enumerate() {
        let y = y_of(nth);
        svg.line("axis", (SIDE, y), (WIDTH - SIDE, y));
        for (place, _) in &coordinate.marks {
            svg.line("axis", (x_of(*place), y - 4.0), (x_of(*place), y + 4.0));
        }
    }
    let most = lines.len().saturating_sub(1).max(1) as f64;
    for (rank, line) in lines.iter().enumerate().rev() {
        let aside = SPREAD * (rank as f64 / most - 0.5);
        let at = |(nth, place): (usize, &f64)| -> At {
            (
                x_of(*place) + if coordinates[nth].shared { aside } else { 0.0 },
                y_of(nth),
            )
        };
        let points: Vec<At> = line.places.iter().enumerate().map(at).collect();
        let (colour, opacity) = if line.chosen { (4, 1.0) } else { (0, 0.4) };
        svg.path(&points, colour, opacity, &line.label);
    }
    for (nth, coordinate) in coordinates.iter().enumerate() {
        let y = y_of(nth);
        // Above the last one the lines' ends are to be seen.
        let name_y = if nth + 1 == coordinates.len() {
            y + 36.0
        } else {
            y - 10.0
        };
        svg.text(
            (4.0, name_y),
            Anchor::Start,
            "",
            WIDTH - 8.0,
            &coordinate.name,
        );
        let marks = coordinate.marks.iter();
        svg.labels(
            y + 17.0,
            marks.map(|(place, label)| (x_of(*place), label.clone())),
        );
    }
    svg.finish(caption, below)
}
