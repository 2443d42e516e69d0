//! The little statistics that reports need: medians with intervals from order statistics, which
//! assume nothing about how noise is distributed, and say how sure they are.

use indicatif::HumanCount;

/// A median and an interval that holds the true one.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Probability that the interval holds the true median, 0 to 1.
    pub coverage: f64,
    /// Values it rests on.
    pub count: usize,
}

/// Confidence that intervals aim at; few values reach less, and say so.
pub const CONFIDENCE: f64 = 0.95;

/// The median of `values` and the narrowest interval between two of them, symmetric in rank, that
/// holds the true median with [`CONFIDENCE`]; from the least to the greatest when even that does
/// not (3 values: 75 %, 6 values: 97 %). `None` for no values.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|x| !x.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let (&least, &greatest) = (sorted.first()?, sorted.last()?);
    let mut best = Estimate {
        median: quantile(&sorted, 0.5),
        low: least,
        high: greatest,
        coverage: coverage(count, 0),
        count,
    };
    for rank in 1..count.div_ceil(2) {
        let coverage = coverage(count, rank);
        if coverage < CONFIDENCE {
            break;
        }
        (best.low, best.high, best.coverage) = (sorted[rank], sorted[count - 1 - rank], coverage);
    }
    Some(best)
}

/// Probability that the median lies between the values of rank `rank` and `count - 1 - rank`,
/// counted from 0: each value lies below it with probability 1/2.
fn coverage(count: usize, rank: usize) -> f64 {
    let mut term = 0.5_f64.powi(count as i32);
    let mut outside = 0.0;
    for below in 0..=rank {
        outside += 2.0 * term;
        term *= (count - below) as f64 / (below + 1) as f64;
    }
    (1.0 - outside).max(0.0)
}

/// The quantile of sorted values, between neighbours in proportion; 0 for none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

/// The quantile of values in any order.
pub fn quantile_unsorted(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, share)
}

/// The mean; 0 for none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// A number with about three figures that count, for tables and plots.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e7 => format!("{:.3} M", value / 1e6),
        size if size >= 100.0 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", HumanCount(size.round() as u64))
        }
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        size if size >= 1e-4 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}
