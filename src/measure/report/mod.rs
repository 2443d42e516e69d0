//! One HTML page without anything from outside: style and plots are inside, so that it can be
//! mailed, printed and kept. Plots are drawn 360 units wide, the width of a phone, and put side by
//! side where there is room; colours follow the reader's light or dark setting.

mod heat;
mod parallel;
mod plots;

pub use heat::{Heat, heat};
pub use parallel::{Strand, Track, parallel};
pub use plots::{Axis, Bar, Point, Series, bars, lines, tick_label};

use std::fmt::Write;

/// The page's style. `--c0` to `--c5` are the series' colours, apart in lightness as well as in
/// hue.
const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1a1c20;--soft:#5c626c;--line:#d5d8de;--card:#f6f7f9;\
--c0:#8a8f99;--c1:#b5651d;--c2:#8e44ad;--c3:#2b7bba;--c4:#13866f;--c5:#c0392b}\
@media(prefers-color-scheme:dark){:root{--bg:#15171b;--fg:#e8eaee;--soft:#a2a9b4;--line:#3a3f48;\
--card:#1d2026;--c0:#9aa1ad;--c1:#e59a57;--c2:#c38be0;--c3:#69b1ec;--c4:#4cc9ab;--c5:#f08a7c}}\
*{box-sizing:border-box}body{margin:0 auto;padding:16px;max-width:1240px;background:var(--bg);color:var(--fg);\
font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}\
h1{font-size:1.5em;margin:.2em 0}h2{font-size:1.15em;margin:1.6em 0 .4em}p{max-width:75ch;margin:.5em 0}\
.soft{color:var(--soft)}.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,350px),1fr))}\
figure{margin:0;padding:12px;background:var(--card);border:1px solid var(--line);border-radius:8px;break-inside:avoid}\
figcaption{font-weight:600;margin-bottom:6px}figcaption small{display:block;font-weight:400;color:var(--soft)}\
svg{display:block;width:100%;height:auto;max-width:560px}svg text{fill:var(--fg);font:12px system-ui,sans-serif;paint-order:stroke;stroke:var(--card);stroke-width:3px}\
svg .soft{fill:var(--soft)}svg .cell{stroke:none}svg .axis{stroke:var(--line);stroke-width:1}svg .whisker{stroke:var(--fg);stroke-width:1.5}\
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:8px}table{border-collapse:collapse;width:100%;font-size:.86em}\
th,td{padding:5px 7px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}\
th{color:var(--soft);font-weight:600;vertical-align:bottom;white-space:normal;overflow-wrap:normal}th small{font-weight:400}\
td:first-child,th:first-child{text-align:left}tr:last-child td{border-bottom:0}.left{text-align:left}\
.key span{display:inline-block;margin-right:14px}.key i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}\
code{font-size:.92em}@media print{body{max-width:none;font-size:11pt}.wide{overflow:visible}.grid{grid-template-columns:1fr 1fr}table{font-size:7.5pt}\
th,td{padding:2px 4px;white-space:normal;overflow-wrap:normal}td:first-child{white-space:nowrap}}";

/// A page being written.
pub struct Page {
    html: String,
}

/// Text as HTML wants it.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

impl Page {
    /// An empty page with a title.
    pub fn new(title: &str) -> Page {
        let title = escape(title);
        Page {
            html: format!(
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
            ),
        }
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.html.write_fmt(text);
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) {
        self.add(format_args!("<h2>{}</h2>\n", escape(text)));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        self.add(format_args!("<p>{}</p>\n", escape(text)));
    }

    /// A paragraph of less weight.
    pub fn note(&mut self, text: &str) {
        self.add(format_args!("<p class=\"soft\">{}</p>\n", escape(text)));
    }

    /// A table: columns (a heading, and in small a unit) and rows. It scrolls where it does not
    /// fit.
    pub fn table(&mut self, columns: &[(&str, &str)], rows: &[Vec<String>]) {
        self.add(format_args!("<div class=\"wide\"><table><thead><tr>"));
        for (name, unit) in columns {
            let (name, unit) = (escape(name), escape(unit));
            self.add(format_args!("<th>{name}<br><small>{unit}</small></th>"));
        }
        self.add(format_args!("</tr></thead><tbody>\n"));
        for row in rows {
            self.add(format_args!("<tr>"));
            for cell in row {
                self.add(format_args!("<td>{}</td>", escape(cell)));
            }
            self.add(format_args!("</tr>\n"));
        }
        self.add(format_args!("</tbody></table></div>\n"));
    }

    /// Plots side by side: each a caption, a line below it, and an SVG made here.
    pub fn plots(&mut self, plots: &[(String, String, String)]) {
        self.add(format_args!("<div class=\"grid\">\n"));
        for (caption, below, svg) in plots {
            let (caption, below) = (escape(caption), escape(below));
            self.add(format_args!(
                "<figure><figcaption>{caption}<small>{below}</small></figcaption>{svg}</figure>\n"
            ));
        }
        self.add(format_args!("</div>\n"));
    }

    /// What the colours stand for.
    pub fn key(&mut self, names: &[(usize, String)]) {
        self.add(format_args!("<p class=\"key\">"));
        for (colour, name) in names {
            let (colour, name) = (colour % 6, escape(name));
            self.add(format_args!(
                "<span><i style=\"background:var(--c{colour})\"></i>{name}</span>"
            ));
        }
        self.add(format_args!("</p>\n"));
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        self.html.push_str("</body></html>\n");
        self.html
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::plots::LETTER;

    /// How far text reaches above and below its line, in user units.
    const TEXT: (f64, f64) = (10.0, 4.0);

    /// Asserts that all that a plot draws lies within its view box, which cuts off the rest:
    /// shapes, and texts by their length.
    pub(in crate::measure) fn assert_nothing_is_cut_off(svg: &str) {
        let view = attribute(svg, "viewBox").unwrap();
        let view: Vec<f64> = view.split(' ').map(|n| n.parse().unwrap()).collect();
        for element in svg.split('<').skip(2) {
            for (x, y) in points(element) {
                assert!(
                    (0.0..=view[2]).contains(&x) && (0.0..=view[3]).contains(&y),
                    "({x}, {y}) is outside {view:?}: <{element}"
                );
            }
        }
    }

    fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
        let (_, after) = element.split_once(&format!(" {name}=\""))?;
        Some(after.split_once('"')?.0)
    }

    /// Corners of what an element draws.
    fn points(element: &str) -> Vec<(f64, f64)> {
        let number = |name: &str| attribute(element, name).map_or(0.0, |n| n.parse().unwrap());
        let around = |x: f64, y: f64, right: f64, down: f64| vec![(x, y), (x + right, y + down)];
        match element.split([' ', '>']).next().unwrap() {
            "line" => vec![(number("x1"), number("y1")), (number("x2"), number("y2"))],
            "rect" => around(number("x"), number("y"), number("width"), number("height")),
            "circle" => {
                let r = number("r");
                around(number("cx") - r, number("cy") - r, 2.0 * r, 2.0 * r)
            }
            "text" => {
                let (_, text) = element.split_once('>').unwrap();
                // An escaped letter is one.
                let escapes: usize = text.split('&').skip(1).map(|e| e.find(';').unwrap()).sum();
                let length = LETTER * (text.chars().count() - escapes) as f64;
                let left = match attribute(element, "text-anchor") {
                    None => 0.0,
                    Some("middle") => length / 2.0,
                    Some(_) => length,
                };
                let (x, y) = (number("x") - left, number("y") - TEXT.0);
                around(x, y, length, TEXT.0 + TEXT.1)
            }
            "path" => path(attribute(element, "d").unwrap()),
            other => {
                assert!(["title", "/title", "/text", "/path", "/circle", "/svg"].contains(&other));
                Vec::new()
            }
        }
    }

    /// Points of a path of the commands that plots use.
    fn path(commands: &str) -> Vec<(f64, f64)> {
        let (mut x, mut y) = (0.0, 0.0);
        let mut points = Vec::new();
        let starts = commands.match_indices(char::is_alphabetic);
        for (start, command) in starts {
            let rest = &commands[start + 1..];
            let end = rest.find(char::is_alphabetic).unwrap_or(rest.len());
            let numbers: Vec<f64> = rest[..end].split(' ').map(|n| n.parse().unwrap()).collect();
            match (command, &numbers[..]) {
                ("M" | "L", &[to_x, to_y]) => (x, y) = (to_x, to_y),
                ("H", &[to_x]) => x = to_x,
                ("V", &[to_y]) => y = to_y,
                ("v", &[by]) => y += by,
                other => panic!("{other:?}"),
            }
            points.push((x, y));
        }
        points
    }

    #[test]
    #[should_panic(expected = "is outside")]
    fn what_is_cut_off_is_found() {
        let svg = "<svg viewBox=\"0 0 360 20\"><text x=\"4\" y=\"19\">low</text></svg>";
        assert_nothing_is_cut_off(svg);
    }
}
