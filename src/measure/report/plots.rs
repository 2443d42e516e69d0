//! Bars with intervals, and lines over a numeric axis. Each plot has a unit on every axis and
//! labels that cannot meet: bars carry theirs above themselves, ticks are few and measured.

use super::escape;
use crate::measure::stats::short;
use std::fmt::Write;

/// Width of every plot, in user units; about a phone's width in pixels.
pub(super) const WIDTH: f64 = 360.0;
/// Width of a character of plot text: a digit of the widest font that is common, DejaVu Sans.
pub(super) const LETTER: f64 = 7.7;

/// Room that texts leave at the sides.
const EDGE: f64 = 2.0;

/// One bar.
pub struct Bar {
    /// Stands above it.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// Ends of its interval, if it has one.
    pub interval: Option<(f64, f64)>,
    /// Number of its colour.
    pub colour: usize,
}

/// A point of a line.
#[derive(Clone, Copy)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// How much.
    pub y: f64,
    /// Ends of its interval.
    pub interval: (f64, f64),
}

/// Points that belong together.
pub struct Series {
    /// Number of its colour.
    pub colour: usize,
    /// In order of x when joined.
    pub points: Vec<Point>,
    /// Is a line drawn through them?
    pub joined: bool,
}

/// A line of an axis from 0 (or a power of ten) to beyond `most`.
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Where its numbers stand, ascending.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// From 0, with about `wanted` ticks at round numbers.
    fn linear(most: f64, wanted: f64) -> Axis {
        // Beyond that the steps are no numbers any more; nothing measured is.
        let most = if (1e-100..1e100).contains(&most) {
            most
        } else {
            1.0
        };
        let rough = most / wanted;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
        let step = step.into_iter().find(|&s| s >= rough).unwrap_or(rough);
        let count = (most / step).ceil() as usize;
        Axis {
            low: 0.0,
            high: count as f64 * step,
            logarithmic: false,
            ticks: (0..=count).map(|tick| tick as f64 * step).collect(),
        }
    }

    /// Powers of ten around positive values; every second or third if there are many.
    fn logarithmic(least: f64, most: f64) -> Axis {
        let (first, last) = (least.log10().floor(), most.log10().ceil());
        let (first, last) = (first as i32, (last as i32).max(first as i32 + 1));
        let every = ((last - first) as usize).div_ceil(5).max(1);
        Axis {
            low: f64::from(first),
            high: f64::from(last),
            logarithmic: true,
            ticks: (first..=last)
                .step_by(every)
                .map(|power| 10_f64.powi(power))
                .collect(),
        }
    }

    /// Linear, or logarithmic when values differ by more than a factor of 50.
    pub fn fitting(values: impl Iterator<Item = f64> + Clone, wanted: f64) -> Axis {
        let values = values.filter(|value| value.is_finite());
        let most = values.clone().fold(0.0, f64::max);
        let least = values.filter(|&v| v > 0.0).fold(f64::INFINITY, f64::min);
        if least.is_finite() && most / least > 50.0 {
            Axis::logarithmic(least, most)
        } else {
            Axis::linear(most, wanted)
        }
    }

    /// Where a value lies, 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic {
            value.max(1e-300).log10()
        } else {
            value
        };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// A round number without the noughts that say nothing.
pub fn tick_label(tick: f64) -> String {
    let label = short(tick);
    if label.contains('.') && !label.contains(['e', 'M']) {
        return label.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    label
}

pub(super) fn open(height: f64, title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    )
}

pub(super) fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = svg.write_fmt(text);
}

/// Text that is cut to `room` units, its whole in a tooltip.
pub(super) fn fitted(text: &str, room: f64) -> String {
    let most = (room / LETTER).max(2.0) as usize;
    if text.chars().count() <= most {
        return escape(text);
    }
    let cut: String = text.chars().take(most - 1).collect();
    format!("{}…<title>{}</title>", escape(&cut), escape(text))
}

/// Half the width of a text, but for one that is wider than the plot.
pub(super) fn half_of(text: &str) -> f64 {
    (LETTER * text.chars().count() as f64 / 2.0).min(WIDTH / 2.0 - EDGE)
}

/// The middle of something that wide on each side: at `x`, or as near as can be without being cut
/// off.
pub(super) fn inside(x: f64, half: f64) -> f64 {
    x.clamp(half + EDGE, WIDTH - half - EDGE)
}

/// The axis below a plot: ticks, numbers, and what they count.
fn axis_below(svg: &mut String, axis: &Axis, left: f64, top: f64, bottom: f64, name: &str) {
    let width = WIDTH - 16.0 - left;
    let mut free_from = f64::NEG_INFINITY;
    for &tick in &axis.ticks {
        let x = left + width * axis.place(tick);
        put(
            svg,
            format_args!(
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>"
            ),
        );
        let label = tick_label(tick);
        let half = half_of(&label);
        let centre = inside(x, half);
        if centre - half > free_from + 4.0 {
            put(
                svg,
                format_args!(
                    "<text class=\"soft\" text-anchor=\"middle\" x=\"{centre:.1}\" y=\"{:.1}\">{label}</text>",
                    bottom + 14.0
                ),
            );
            free_from = centre + half;
        }
    }
    let scale = if axis.logarithmic { " (log scale)" } else { "" };
    put(
        svg,
        format_args!(
            "<text text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}{scale}</text>",
            left + width / 2.0,
            bottom + 31.0,
            // Its middle is right of the plot's by half of `left` less 16.
            fitted(name, WIDTH - left - 24.0 - LETTER * scale.len() as f64)
        ),
    );
}

/// Horizontal bars from 0, each with its label and value above it, and its interval as a whisker.
pub fn bars(title: &str, axis_name: &str, items: &[Bar]) -> String {
    let ends = items
        .iter()
        .flat_map(|bar| [bar.value, bar.interval.map_or(bar.value, |ends| ends.1)]);
    let axis = Axis::fitting(ends, 5.0);
    let bottom = 6.0 + 36.0 * items.len() as f64;
    let mut svg = open(bottom + 40.0, title);
    axis_below(&mut svg, &axis, 4.0, 4.0, bottom, axis_name);
    let width = WIDTH - 20.0;
    for (place, bar) in items.iter().enumerate() {
        let top = 4.0 + 36.0 * place as f64;
        let mut figure = short(bar.value);
        if let Some((low, high)) = bar.interval {
            let _ = write!(figure, " ({} to {})", short(low), short(high));
        }
        let room = WIDTH - 14.0 - figure.chars().count() as f64 * LETTER;
        put(
            &mut svg,
            format_args!(
                "<text x=\"4\" y=\"{y:.1}\">{}</text><text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{figure}</text>",
                fitted(&bar.label, room),
                WIDTH - 4.0,
                y = top + 12.0
            ),
        );
        // A value at the low end of a logarithmic axis is not nothing.
        let least = if bar.value > 0.0 { 2.0 } else { 0.0 };
        let length = (width * axis.place(bar.value)).max(least);
        put(
            &mut svg,
            format_args!(
                "<rect x=\"4\" y=\"{:.1}\" width=\"{length:.1}\" height=\"12\" rx=\"2\" fill=\"var(--c{})\"/>",
                top + 17.0,
                bar.colour % 6
            ),
        );
        if let Some((low, high)) = bar.interval.filter(|(low, high)| low < high) {
            let [low, high] = [low, high].map(|end| 4.0 + width * axis.place(end));
            put(
                &mut svg,
                format_args!(
                    "<path class=\"whisker\" fill=\"none\" d=\"M{low:.1} {a:.1}v6M{low:.1} {m:.1}H{high:.1}M{high:.1} {a:.1}v6\"/>",
                    a = top + 20.0,
                    m = top + 23.0
                ),
            );
        }
    }
    svg + "</svg>"
}

/// Points and lines; either axis turns logarithmic when its values span more than a factor of 50.
pub fn lines(title: &str, x_name: &str, y_name: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let across = Axis::fitting(points().map(|point| point.x), 5.0);
    let up = Axis::fitting(points().flat_map(|p| [p.y, p.interval.1]), 5.0);
    let letters = up
        .ticks
        .iter()
        .map(|&tick| tick_label(tick).chars().count())
        .max();
    let left = 10.0 + LETTER * letters.unwrap_or(1) as f64;
    let (top, bottom) = (26.0, 230.0);
    let mut svg = open(bottom + 40.0, title);
    put(
        &mut svg,
        format_args!(
            "<text x=\"4\" y=\"13\">{}{}</text>",
            fitted(y_name, WIDTH - 104.0),
            if up.logarithmic { " (log scale)" } else { "" }
        ),
    );
    let y_of = |value: f64| bottom - (bottom - top) * up.place(value);
    for &tick in &up.ticks {
        let y = y_of(tick);
        put(
            &mut svg,
            format_args!(
                "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
<text class=\"soft\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - 16.0,
                left - 5.0,
                y + 4.0,
                tick_label(tick)
            ),
        );
    }
    axis_below(&mut svg, &across, left, top, bottom, x_name);
    let x_of = |value: f64| left + (WIDTH - 16.0 - left) * across.place(value);
    for series in series {
        let colour = series.colour % 6;
        if series.joined {
            let mut path = String::new();
            for (place, point) in series.points.iter().enumerate() {
                let verb = if place == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{verb}{:.1} {:.1}", x_of(point.x), y_of(point.y));
            }
            put(
                &mut svg,
                format_args!(
                    "<path d=\"{path}\" fill=\"none\" stroke=\"var(--c{colour})\" stroke-width=\"2\"/>"
                ),
            );
        }
        for point in &series.points {
            let (x, low, high) = (
                x_of(point.x),
                y_of(point.interval.0),
                y_of(point.interval.1),
            );
            put(
                &mut svg,
                format_args!(
                    "<path class=\"whisker\" d=\"M{x:.1} {low:.1}V{high:.1}\"/>\
<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"var(--c{colour})\"><title>{}: {}</title></circle>",
                    y_of(point.y),
                    short(point.x),
                    short(point.y)
                ),
            );
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::report::tests::assert_nothing_is_cut_off;

    #[test]
    fn axes_end_beyond_the_greatest_value() {
        for most in [0.0, 0.013, 1.0, 7.3, 99.0, 100.0, 123_456.0] {
            let axis = Axis::linear(most, 5.0);
            assert!(
                axis.high >= most && (2..=8).contains(&axis.ticks.len()),
                "{most}"
            );
        }
        let axis = Axis::fitting([3.0, 4000.0].into_iter(), 5.0);
        assert!(axis.logarithmic && axis.ticks == [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!((axis.place(1.0), axis.place(10_000.0)), (0.0, 1.0));
    }

    #[test]
    fn plots_hold_every_value_and_escape_names() {
        let bar = |value| Bar {
            label: "a <b> & c".into(),
            value,
            interval: Some((value / 2.0, value * 2.0)),
            colour: 1,
        };
        let svg = bars("t", "rounds/min", &[bar(3.0), bar(0.0)]);
        assert!(svg.contains("a &lt;b&gt; &amp; c") && svg.contains("rounds/min"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert_nothing_is_cut_off(&svg);
    }

    #[test]
    fn nothing_is_cut_off_however_long_names_and_numbers_are() {
        let long = "a setting with a name that is far longer than a plot is wide, and more";
        for scale in [1e-6, 1.0, 399_999.0, 1e9] {
            let items = [1.0, 0.3].map(|value| Bar {
                label: long.into(),
                value: value * scale,
                interval: Some((value * scale / 2.0, value * scale * 1.01)),
                colour: 1,
            });
            assert_nothing_is_cut_off(&bars(long, long, &items));
            let point = |x: f64| Point {
                x: x * scale,
                y: scale / x,
                interval: (scale / x / 2.0, scale / x),
            };
            let series = Series {
                colour: 1,
                points: vec![point(1.0), point(3.0), point(100.0)],
                joined: true,
            };
            assert_nothing_is_cut_off(&lines(long, long, long, &[series]));
        }
        assert_nothing_is_cut_off(&bars("none", "", &[]));
        assert_nothing_is_cut_off(&lines("none", "", "", &[]));
    }
}
