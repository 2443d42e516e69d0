//! What a batch costs: time against rows, measured at a few sizes and interpolated in between. A
//! GPU's plan chooses kernels by it, the evaluator plans with it when to launch, `profile
//! evaluator` prints the line through it.

use std::time::Duration;

/// Batch sizes of a profile, up to the largest in use.
const SIZES: [usize; 11] = [1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Time of a batch as a function of its rows: straight lines between measured points.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CostModel {
    /// Rows and seconds, ascending.
    points: Vec<(f64, f64)>,
}

impl CostModel {
    /// Measures with `time`, which runs a batch of that many rows, at these sizes, ascending; of
    /// `repeats` runs each the quickest counts, since whatever else goes on only adds.
    ///
    /// # Errors
    /// The first that `time` fails with.
    pub fn measure<E>(
        sizes: impl IntoIterator<Item = usize>,
        repeats: usize,
        mut time: impl FnMut(usize) -> Result<Duration, E>,
    ) -> Result<CostModel, E> {
        let mut points = Vec::new();
        for rows in sizes {
            let mut best = f64::INFINITY;
            for _ in 0..repeats.max(1) {
                best = best.min(time(rows)?.as_secs_f64());
            }
            points.push((rows as f64, best));
        }
        Ok(CostModel { points })
    }

    /// From rows and seconds measured elsewhere, ascending.
    pub fn from_points(points: impl Iterator<Item = (usize, f64)>) -> CostModel {
        CostModel {
            points: points
                .map(|(rows, seconds)| (rows as f64, seconds))
                .collect(),
        }
    }

    /// Time of a batch of `rows`; zero for an empty model. Past the last point it grows in
    /// proportion.
    pub fn time(&self, rows: usize) -> Duration {
        let (rows, points) = (rows as f64, &self.points);
        let after = points.partition_point(|(at, _)| *at < rows);
        let seconds = match (after.checked_sub(1).map(|i| points[i]), points.get(after)) {
            (_, Some((at, seconds))) if *at == rows => *seconds,
            (Some((a, x)), Some((b, y))) => x + (y - x) * (rows - a) / (b - a),
            (Some((a, x)), None) => x * rows / a,
            (None, Some((_, seconds))) => *seconds,
            (None, None) => 0.0,
        };
        Duration::from_secs_f64(seconds.max(0.0))
    }

    /// The straight line `fixed + rows * per_row` that fits best, in seconds, each point weighted
    /// so that relative errors count alike. Zeros for fewer than two points.
    pub fn line(&self) -> (f64, f64) {
        if self.points.len() < 2 {
            return (0.0, 0.0);
        }
        let (mut w, mut wx, mut wxx, mut wy, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(x, y) in &self.points {
            let weight = 1.0 / (y * y).max(f64::MIN_POSITIVE);
            w += weight;
            wx += weight * x;
            wxx += weight * x * x;
            wy += weight * y;
            wxy += weight * x * y;
        }
        let per_row = (w * wxy - wx * wy) / (w * wxx - wx * wx);
        ((wy - per_row * wx) / w, per_row)
    }
}

/// The sizes to measure: those of the table below `max_rows`, and `max_rows` itself.
pub fn sizes_up_to(max_rows: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = SIZES.into_iter().filter(|&rows| rows < max_rows).collect();
    sizes.push(max_rows.max(1));
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn micros(n: f64) -> Duration {
        Duration::from_secs_f64(n * 1e-6)
    }

    fn model(time: impl Fn(usize) -> f64, max_rows: usize) -> CostModel {
        let measured: Result<_, Infallible> =
            CostModel::measure(sizes_up_to(max_rows), 1, |rows| Ok(micros(time(rows))));
        measured.unwrap()
    }

    #[test]
    fn between_the_points_it_is_straight() {
        let model = model(|rows| 10.0 + rows as f64, 600);
        for rows in [1, 16, 17, 40, 512, 513, 600] {
            let difference = model.time(rows).as_secs_f64() * 1e6 - (10.0 + rows as f64);
            assert!(difference.abs() < 0.01, "{rows}: {difference}");
        }
        assert_eq!(model.time(0), model.time(1));
        assert!((model.time(1200).as_secs_f64() * 1e6 - 1220.0).abs() < 0.01);
        let (fixed, per_row) = model.line();
        assert!((fixed * 1e6 - 10.0).abs() < 0.01 && (per_row * 1e6 - 1.0).abs() < 0.001);
    }

    #[test]
    fn the_quickest_run_counts() {
        let mut run = 0;
        let measured: Result<_, Infallible> = CostModel::measure([1], 3, |_| {
            run += 1;
            Ok(micros([5.0, 3.0, 4.0][run - 1]))
        });
        assert_eq!(measured.unwrap().time(1), micros(3.0));
    }

    #[test]
    fn an_empty_model_costs_nothing() {
        assert_eq!(CostModel::default().time(100), Duration::ZERO);
        assert_eq!(CostModel::default().line(), (0.0, 0.0));
    }

    #[test]
    fn sizes_end_at_the_largest() {
        assert_eq!(sizes_up_to(1), [1]);
        assert_eq!(sizes_up_to(16), [1, 16]);
        assert_eq!(sizes_up_to(20), [1, 16, 20]);
        assert_eq!(sizes_up_to(8192).last(), Some(&8192));
    }
}
