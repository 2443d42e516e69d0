//! A histogram of times in a fixed number of buckets, few enough that every process keeps one in
//! shared memory: eight to each doubling.

/// Binary digits of a value that a histogram keeps: each octave has 2^3 buckets.
const DIGITS: u32 = 3;
/// Buckets of a histogram: values below 2^32.
pub const BUCKETS: usize = ((32 - DIGITS as usize) << DIGITS) + (1 << DIGITS);

/// Times in microseconds, up to 71 minutes (longer ones count as that), to within 6 %.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: vec![0; BUCKETS],
        }
    }
}

impl Histogram {
    /// From buckets counted elsewhere, at most [`BUCKETS`] of them.
    pub fn from_buckets(counts: impl Iterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        for (bucket, count) in histogram.buckets.iter_mut().zip(counts) {
            *bucket = count;
        }
        histogram
    }

    /// Counts one value, in microseconds.
    #[inline]
    pub fn record(&mut self, value_us: u64) {
        self.buckets[bucket_of(value_us)] += 1;
    }

    /// The counts, bucket by bucket.
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// Adds another histogram's counts.
    pub fn add(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// What was counted since `earlier`, a state of the same histogram.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Histogram::from_buckets(pairs.map(|(now, before)| now.saturating_sub(*before)))
    }

    /// The value that a share `quantile` (0 to 1) of all values does not exceed, in microseconds,
    /// at the middle of its bucket; 0 if nothing was counted.
    pub fn quantile(&self, quantile: f64) -> f64 {
        quantile_of(&self.buckets, quantile).map_or(0.0, middle_of)
    }
}

/// The first index by which the share `quantile` of all counts is reached; none when all are 0.
pub fn quantile_of(counts: &[u64], quantile: f64) -> Option<usize> {
    // Saturates: another process's counts are whatever it wrote.
    let total = counts.iter().fold(0_u64, |sum, &n| sum.saturating_add(n));
    let wanted = ((quantile * total as f64).ceil() as u64).max(1);
    let mut seen = 0;
    counts.iter().position(|&count| {
        seen = count.saturating_add(seen);
        seen >= wanted
    })
}

fn bucket_of(value: u64) -> usize {
    let value = value.min(u64::from(u32::MAX));
    if value < 1 << DIGITS {
        return value as usize;
    }
    let octave = value.ilog2() - DIGITS;
    ((octave as usize) << DIGITS) + (value >> octave) as usize
}

fn middle_of(bucket: usize) -> f64 {
    let octave = (bucket >> DIGITS).saturating_sub(1);
    let first = bucket - (octave << DIGITS);
    (first << octave) as f64 + ((1_u64 << octave) - 1) as f64 / 2.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_values_in_order() {
        let mut last = 0;
        for value in (0..100_000).chain([1 << 20, u64::from(u32::MAX), u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS && (bucket == last || bucket == last + 1 || value > 99_999));
            last = bucket;
            if value < 100_000 {
                let error = (middle_of(bucket) - value as f64).abs();
                assert!(error <= 0.0625 * value as f64, "{value}: {error}");
            }
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0.0);
        (1..=1000).for_each(|value| histogram.record(value));
        assert!((histogram.quantile(0.5) - 500.0).abs() < 32.0);
        assert!((histogram.quantile(0.99) - 990.0).abs() < 64.0);
        let before = histogram.clone();
        histogram.record(7);
        assert_eq!(histogram.since(&before).quantile(1.0), 7.0);
    }
}
