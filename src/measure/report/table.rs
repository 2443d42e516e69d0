//! One table for the terminal and for pages.

use super::escape;
use std::fmt::Write;
use std::ops::Range;

/// A column's heading.
#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    name: String,
    unit: String,
    is_text: bool,
}

impl Column {
    /// Of words: they begin at its left edge.
    pub fn text(name: &str) -> Column {
        Column {
            is_text: true,
            ..Column::number(name, "")
        }
    }

    /// Of numbers, which end at its right edge; the unit stands below the name.
    pub fn number(name: &str, unit: &str) -> Column {
        Column {
            name: name.to_owned(),
            unit: unit.to_owned(),
            is_text: false,
        }
    }
}

/// Columns, the first of which says what a row is about, and rows of as many cells.
#[derive(Clone, Debug)]
pub struct Table {
    /// From left to right.
    pub columns: Vec<Column>,
    /// From top to bottom.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// For the terminal.
    pub fn to_text(&self) -> String {
        self.block(&self.columns[0].name, 1..self.columns.len())
    }

    /// Some columns for the terminal, beside the first one under a heading of their own: a wide
    /// table is shown as several.
    pub fn block(&self, heading: &str, columns: Range<usize>) -> String {
        let places: Vec<usize> = [0].into_iter().chain(columns).collect();
        let mut lines: Vec<Vec<&str>> = vec![
            places.iter().map(|&c| &*self.columns[c].name).collect(),
            places.iter().map(|&c| &*self.columns[c].unit).collect(),
        ];
        lines[0][0] = heading;
        if lines[1].iter().all(|unit| unit.is_empty()) {
            lines.pop();
        }
        lines.extend(
            self.rows
                .iter()
                .map(|row| places.iter().map(|&c| &*row[c]).collect()),
        );
        let length = |line: &Vec<&str>, nth: usize| line[nth].chars().count();
        let width = |nth| {
            lines
                .iter()
                .map(|line| length(line, nth))
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..places.len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let mut written = String::new();
            for (nth, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let gap = if nth == 0 { "" } else { "  " };
                let _ = match self.columns[places[nth]].is_text {
                    true => write!(written, "{gap}{cell:<width$}"),
                    false => write!(written, "{gap}{cell:>width$}"),
                };
            }
            let _ = writeln!(text, "{}", written.trim_end());
        }
        text
    }

    /// For a page.
    pub(super) fn html(&self) -> String {
        let side = |column: &Column| {
            if column.is_text {
                " class=\"left\""
            } else {
                ""
            }
        };
        let mut html = String::from("<table><thead><tr>");
        for column in &self.columns {
            let (name, unit, side) = (escape(&column.name), escape(&column.unit), side(column));
            let _ = write!(html, "<th{side}>{name}<br><small>{unit}</small></th>");
        }
        html.push_str("</tr></thead><tbody>\n");
        for row in &self.rows {
            html.push_str("<tr>");
            for (cell, column) in row.iter().zip(&self.columns) {
                let _ = write!(html, "<td{}>{}</td>", side(column), escape(cell));
            }
            html.push_str("</tr>\n");
        }
        html + "</tbody></table>"
    }
}
