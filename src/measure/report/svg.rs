//! What plots are drawn with: shapes, texts that fit, and axes.

use super::{Plot, escape};
use crate::measure::stats::short;
use std::fmt::Write;

/// Width of every plot, in user units; about a phone's width in pixels.
pub(super) const WIDTH: f64 = 360.0;
/// Width of a character of plot text: a digit of the widest font that is common, DejaVu Sans.
pub(super) const LETTER: f64 = 7.7;
/// Room that texts leave at the sides.
const EDGE: f64 = 2.0;
/// How far text reaches above and below its line.
const ASCENT: f64 = 10.0;
const DESCENT: f64 = 4.0;

/// A place in user units: from the left, from the top.
pub(super) type At = (f64, f64);

/// Which part of a text is where it is put.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing. All of it lies within its view, which would cut off the rest: asserted in debug
/// builds.
pub(super) struct Svg {
    markup: String,
    height: f64,
}

impl Svg {
    pub(super) fn new(title: &str, height: f64) -> Svg {
        let title = escape(title);
        Svg {
            markup: format!(
                "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">"
            ),
            height: height.round(),
        }
    }

    pub(super) fn finish(self, caption: &str, below: String) -> Plot {
        Plot {
            caption: caption.to_owned(),
            below,
            svg: self.markup + "</svg>",
        }
    }

    /// Adds an element that reaches to these corners.
    fn add(&mut self, corners: &[At], element: std::fmt::Arguments<'_>) {
        let holds = |&(x, y): &At| (0.0..=WIDTH).contains(&x) && (0.0..=self.height).contains(&y);
        let is_whole = corners.iter().all(holds);
        debug_assert!(is_whole, "{corners:?} is cut off: {element}");
        // Writing to a string does not fail.
        let _ = self.markup.write_fmt(element);
    }

    /// A text cut to `room` units, its whole in a tooltip then.
    pub(super) fn text(&mut self, at: At, anchor: Anchor, class: &str, room: f64, text: &str) {
        let (x, y) = at;
        let most = (room / LETTER).max(2.0) as usize;
        let letters = text.chars().count();
        let shown = if letters <= most {
            escape(text)
        } else {
            let cut: String = text.chars().take(most - 1).collect();
            format!("{}…<title>{}</title>", escape(&cut), escape(text))
        };
        let (name, share) = match anchor {
            Anchor::Start => ("start", 0.0),
            Anchor::Middle => ("middle", 0.5),
            Anchor::End => ("end", 1.0),
        };
        let length = LETTER * letters.min(most) as f64;
        let left = x - share * length;
        self.add(
            &[(left, y - ASCENT), (left + length, y + DESCENT)],
            format_args!(
                "<text class=\"{class}\" text-anchor=\"{name}\" \
                 x=\"{x:.1}\" y=\"{y:.1}\">{shown}</text>"
            ),
        );
    }

    pub(super) fn line(&mut self, class: &str, from: At, to: At) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(
            &[from, to],
            format_args!("<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>"),
        );
    }

    /// A line through points, with a tooltip.
    pub(super) fn path(&mut self, points: &[At], colour: usize, opacity: f64, title: &str) {
        let corners: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1} {y:.1}"))
            .collect();
        self.add(
            points,
            format_args!(
                "<path d=\"M{}\" fill=\"none\" stroke=\"var(--c{})\" stroke-opacity=\"{opacity}\" \
                 stroke-width=\"{}\"><title>{}</title></path>",
                corners.join("L"),
                colour % 6,
                if opacity < 1.0 { 1 } else { 2 },
                escape(title)
            ),
        );
    }

    pub(super) fn rect(&mut self, at: At, size: At, colour: usize, opacity: f64) {
        let ((x, y), (width, height)) = (at, size);
        self.add(
            &[at, (x + width, y + height)],
            format_args!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                 rx=\"2\" fill=\"var(--c{})\" fill-opacity=\"{opacity:.2}\"/>",
                colour % 6
            ),
        );
    }

    /// A dot, with a tooltip.
    pub(super) fn dot(&mut self, (x, y): At, colour: usize, title: &str) {
        self.add(
            &[(x - 4.0, y - 4.0), (x + 4.0, y + 4.0)],
            format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"var(--c{})\">\
                 <title>{}</title></circle>",
                colour % 6,
                escape(title)
            ),
        );
    }

    /// Labels in a line, each centred on its place or as near as can be without being cut off; one
    /// that would meet the label before it is left out.
    pub(super) fn labels(&mut self, y: f64, labels: impl Iterator<Item = (f64, String)>) {
        let mut free_from = f64::NEG_INFINITY;
        for (x, label) in labels {
            let half = LETTER * label.chars().count() as f64 / 2.0;
            let half = half.min(WIDTH / 2.0 - EDGE);
            let centre = x.clamp(half + EDGE, WIDTH - half - EDGE);
            if centre - half > free_from + 4.0 {
                let room = WIDTH - 2.0 * EDGE;
                self.text((centre, y), Anchor::Middle, "soft", room, &label);
                free_from = centre + half;
            }
        }
    }

    /// The axis below a plot that reaches from `left` to 16 units before the right edge, and from
    /// `top` to `bottom`: ticks, numbers, and what they count.
    pub(super) fn axis(&mut self, axis: &Axis, left: f64, top: f64, bottom: f64, name: &str) {
        let width = WIDTH - 16.0 - left;
        let marks = axis.marks();
        let marks = marks.map(|(place, label)| (left + width * place, label));
        for (x, _) in marks.clone() {
            self.line("axis", (x, top), (x, bottom));
        }
        self.labels(bottom + 14.0, marks);
        // Its middle is right of the plot's by half of `left` less 16.
        let (at, name) = ((left + width / 2.0, bottom + 31.0), axis.name(name));
        self.text(at, Anchor::Middle, "", WIDTH - left - 24.0, &name);
    }
}

/// An axis from 0 (or a power of ten) to beyond the greatest value.
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Where its numbers stand, ascending.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// From 0, with some five ticks at round numbers.
    fn linear(most: f64) -> Axis {
        // Beyond that the steps are no numbers any more; nothing measured is.
        let is_sane = (1e-100..1e100).contains(&most);
        let most = if is_sane { most } else { 1.0 };
        let rough = most / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
        let step = steps.into_iter().find(|&s| s >= rough).unwrap_or(rough);
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
        let powers = (first..=last).step_by(every);
        Axis {
            low: f64::from(first),
            high: f64::from(last),
            logarithmic: true,
            ticks: powers.map(|power| 10_f64.powi(power)).collect(),
        }
    }

    /// Linear, or logarithmic when values differ by more than a factor of 50.
    pub fn fitting(values: impl Iterator<Item = f64> + Clone) -> Axis {
        let values = values.filter(|value| value.is_finite());
        let most = values.clone().fold(0.0, f64::max);
        let least = values.filter(|&v| v > 0.0).fold(f64::INFINITY, f64::min);
        if least.is_finite() && most / least > 50.0 {
            Axis::logarithmic(least, most)
        } else {
            Axis::linear(most)
        }
    }

    /// Where a value lies, 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        let value = match self.logarithmic {
            true => value.max(1e-300).log10(),
            false => value,
        };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Its ticks: where they lie, 0 to 1, and their numbers.
    pub fn marks(&self) -> impl Iterator<Item = (f64, String)> + Clone {
        let mark = |&tick| (self.place(tick), tick_label(tick));
        self.ticks.iter().map(mark)
    }

    /// What it counts, and how.
    pub(super) fn name(&self, what: &str) -> String {
        let scale = if self.logarithmic { " (log scale)" } else { "" };
        format!("{what}{scale}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "is cut off")]
    fn what_is_cut_off_is_found() {
        Svg::new("", 20.0).text((4.0, 19.0), Anchor::Start, "", 100.0, "low");
    }
}
