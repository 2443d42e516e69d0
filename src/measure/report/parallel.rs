//! Many settings at once: each is a track, one below the other, and each combination a strand that
//! runs through its values down to what came of it. Tracks lie flat so that names and values stay
//! readable on a phone.

use super::escape;
use super::plots::{WIDTH, fitted, half_of, inside, open, put};

/// Between two tracks.
const GAP: f64 = 62.0;
/// Room below the last track for what it is called: above it, the strands' ends are to be seen.
const FOOT: f64 = 12.0;
/// Room on either side of the tracks.
const SIDE: f64 = 24.0;
/// How far strands with the same value of a setting lie apart, all together.
const SPREAD: f64 = 18.0;

/// One setting.
pub struct Track {
    /// What it is called, with its unit if it has one.
    pub name: String,
    /// Places on it, 0 to 1, ascending, and what is there.
    pub marks: Vec<(f64, String)>,
    /// Do strands meet at the marks? Then they are drawn a little apart.
    pub meeting: bool,
}

/// One combination.
pub struct Strand {
    /// Its place on each track, 0 to 1.
    pub places: Vec<f64>,
    /// Is it one of the best?
    pub chosen: bool,
    /// All of it in words.
    pub label: String,
}

/// Tracks and strands; the first strand is the best and is drawn on top.
pub fn parallel(title: &str, tracks: &[Track], strands: &[Strand]) -> String {
    let mut svg = open(GAP * tracks.len() as f64 + FOOT, title);
    let x_of = |place: f64| SIDE + (WIDTH - 2.0 * SIDE) * place;
    let y_of = |track: usize| 30.0 + GAP * track as f64;
    for (track, tracked) in tracks.iter().enumerate() {
        let y = y_of(track);
        put(
            &mut svg,
            format_args!(
                "<line class=\"axis\" x1=\"{SIDE}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                WIDTH - SIDE
            ),
        );
        for (place, _) in &tracked.marks {
            let x = x_of(*place);
            put(
                &mut svg,
                format_args!("<path class=\"axis\" d=\"M{x:.1} {:.1}v8\"/>", y - 4.0),
            );
        }
    }
    let most = strands.len().saturating_sub(1).max(1) as f64;
    for (rank, strand) in strands.iter().enumerate().rev() {
        let aside = SPREAD * (rank as f64 / most - 0.5);
        let mut path = String::new();
        for (track, place) in strand.places.iter().enumerate() {
            let aside = if tracks[track].meeting { aside } else { 0.0 };
            let verb = if track == 0 { 'M' } else { 'L' };
            put(
                &mut path,
                format_args!("{verb}{:.1} {:.1}", x_of(*place) + aside, y_of(track)),
            );
        }
        let look = if strand.chosen {
            "stroke=\"var(--c4)\" stroke-width=\"2\""
        } else {
            "stroke=\"var(--c0)\" stroke-opacity=\".4\""
        };
        put(
            &mut svg,
            format_args!(
                "<path d=\"{path}\" fill=\"none\" {look}><title>{}</title></path>",
                escape(&strand.label)
            ),
        );
    }
    for (track, tracked) in tracks.iter().enumerate() {
        let y = y_of(track);
        let is_last = track + 1 == tracks.len();
        put(
            &mut svg,
            format_args!(
                "<text x=\"4\" y=\"{:.1}\">{}</text>",
                if is_last { y + 36.0 } else { y - 10.0 },
                fitted(&tracked.name, WIDTH - 8.0)
            ),
        );
        let mut free_from = f64::NEG_INFINITY;
        for (place, label) in &tracked.marks {
            let half = half_of(label);
            let centre = inside(x_of(*place), half);
            if centre - half > free_from + 4.0 {
                put(
                    &mut svg,
                    format_args!(
                        "<text class=\"soft\" text-anchor=\"middle\" x=\"{centre:.1}\" y=\"{:.1}\">{}</text>",
                        y + 17.0,
                        fitted(label, WIDTH)
                    ),
                );
                free_from = centre + half;
            }
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::report::tests::assert_nothing_is_cut_off;

    #[test]
    fn every_strand_runs_through_every_track_and_the_best_is_on_top() {
        let track = |name: &str| Track {
            name: name.into(),
            marks: vec![(0.0, "a<b".into()), (1.0, "2".into())],
            meeting: true,
        };
        let strand = |chosen, label: &str| Strand {
            places: vec![0.0, 1.0],
            chosen,
            label: label.into(),
        };
        let svg = parallel(
            "t",
            &[track("x"), track("y")],
            &[strand(true, "best"), strand(false, "worst")],
        );
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"));
        assert_nothing_is_cut_off(&svg);
        let at = |label: &str| svg.find(&format!("<title>{label}</title>"));
        assert!(at("worst") < at("best") && at("worst").is_some());
        assert_eq!(
            svg.matches('L').count(),
            2,
            "one line from track to track for each strand"
        );
    }
}
