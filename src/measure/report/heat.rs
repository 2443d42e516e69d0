//! Heat maps: a value over two settings, as colour and as a number.

use super::plots::{LETTER, WIDTH, fitted, open, put};
use crate::measure::stats::short;

/// A heat map: values over two settings.
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
pub fn heat(title: &str, map: &Heat) -> String {
    let letters = map.rows.iter().map(|row| row.chars().count()).max();
    let left = (12.0 + LETTER * letters.unwrap_or(1) as f64).min(110.0);
    let width = (WIDTH - left - 4.0) / map.columns.len().max(1) as f64;
    let (top, height) = (40.0, 30.0);
    let bottom = top + height * map.rows.len() as f64;
    let mut svg = open(bottom + 8.0, title);
    put(
        &mut svg,
        format_args!(
            "<text x=\"4\" y=\"13\">{}</text>",
            fitted(
                &format!("{} \u{2193}  by  {} \u{2192}", map.down, map.across),
                WIDTH - 8.0
            )
        ),
    );
    for (column, name) in map.columns.iter().enumerate() {
        put(
            &mut svg,
            format_args!(
                "<text class=\"soft\" text-anchor=\"middle\" x=\"{:.1}\" y=\"33\">{}</text>",
                left + width * (column as f64 + 0.5),
                fitted(name, width - 2.0)
            ),
        );
    }
    let known = || map.cells.iter().flatten().flatten().copied();
    let (least, most) = (
        known().fold(f64::INFINITY, f64::min),
        known().fold(f64::NEG_INFINITY, f64::max),
    );
    for (row, name) in map.rows.iter().enumerate() {
        let y = top + height * row as f64;
        put(
            &mut svg,
            format_args!(
                "<text class=\"soft\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 6.0,
                y + 19.0,
                fitted(name, left - 8.0)
            ),
        );
        for (column, cell) in map.cells[row].iter().enumerate() {
            let x = left + width * column as f64;
            let Some(value) = *cell else {
                put(
                    &mut svg,
                    format_args!(
                        "<text class=\"soft\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">–</text>",
                        x + width / 2.0,
                        y + 19.0
                    ),
                );
                continue;
            };
            let share = if most > least {
                (value - least) / (most - least)
            } else {
                1.0
            };
            put(
                &mut svg,
                format_args!(
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\" fill=\"var(--c3)\" fill-opacity=\"{:.2}\"/>\
<text class=\"cell\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    x + 1.0,
                    y + 1.0,
                    width - 2.0,
                    height - 2.0,
                    0.08 + 0.47 * share,
                    x + width / 2.0,
                    y + 19.0,
                    fitted(&compact(value, width), width)
                ),
            );
        }
    }
    svg + "</svg>"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::report::tests::assert_nothing_is_cut_off;

    #[test]
    fn a_map_holds_every_value() {
        let map = Heat {
            across: "x".into(),
            columns: vec!["1".into(), "2".into()],
            down: "y".into(),
            rows: vec!["3".into()],
            cells: vec![vec![Some(123_456.0), None]],
        };
        let svg = heat("t", &map);
        assert!(svg.contains("123,456") && svg.contains('–') && !svg.contains("NaN"));
        assert_nothing_is_cut_off(&svg);
        let long = "a value with a name that is far longer than a plot is wide";
        let many = Heat {
            across: long.into(),
            columns: vec![long.into(); 10],
            down: long.into(),
            rows: vec![long.into(); 10],
            cells: vec![vec![Some(123_456.0); 10]; 10],
        };
        assert_nothing_is_cut_off(&heat("t", &many));
    }
}
