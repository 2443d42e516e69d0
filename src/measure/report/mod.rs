//! Reports: tables for the terminal, and one HTML page without anything from outside (style and
//! plots are inside), so that it can be mailed, printed and kept. Plots are drawn 360 units wide,
//! the width of a phone, and put side by side where there is room; colours follow the reader's
//! light or dark setting.

mod plots;
mod svg;
mod table;

pub use plots::{Bar, Coordinate, Heat, Plot, Point, Polyline, bars, heat, parallel, scatter};
pub use svg::{Axis, tick_label};
pub use table::{Column, Table};

use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// A page being written.
pub struct Page {
    html: String,
}

/// Text as HTML wants it.
pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

impl Page {
    /// An empty page with a title.
    pub fn new(title: &str) -> Page {
        let title = escape(title);
        Page {
            html: format!(
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
                 <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
                 <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
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

    /// A table; it scrolls where it does not fit.
    pub fn table(&mut self, table: &Table) {
        let html = table.html();
        self.add(format_args!("<div class=\"wide\">{html}</div>\n"));
    }

    /// Plots side by side.
    pub fn plots(&mut self, plots: &[Plot]) {
        self.add(format_args!("<div class=\"grid\">\n"));
        for plot in plots {
            let (caption, below, svg) = (escape(&plot.caption), escape(&plot.below), &plot.svg);
            self.add(format_args!(
                "<figure><figcaption>{caption}<small>{below}</small></figcaption>{svg}</figure>\n"
            ));
        }
        self.add(format_args!("</div>\n"));
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        self.html.push_str("</body></html>\n");
        self.html
    }
}
