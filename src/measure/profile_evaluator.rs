//! How long batches take: one backend, batch sizes from 1 to thousands, positions of random play.
//! Device time (GPU events, or the call on the CPU) and time from launch to answers, the arithmetic
//! rate that comes to, its share of what the cores' arithmetic reaches at best (measured in turns
//! with the batches, since clocks change), and the cost model t(batch).

use super::agreement::Agreement;
use super::arithmetic::peak_rate;
use super::stats::quantile;
use super::{StudyError, write_table};
use crate::network::{
    self, Backend, BackendError, BackendKind, Folded, Limits, Weights, samples, sizes_up_to,
};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time spent on each size, at least.
const SLICE: Duration = Duration::from_millis(150);
/// Time spent on the cores' best rate before each size.
const PEAK_SLICE: Duration = Duration::from_millis(40);
/// Positions on which a GPU is held against the CPU.
const AGREEMENT_ROWS: usize = 16_384;
/// Runs of each size, at least and at most.
const RUNS: (usize, usize) = (5, 400);

/// Times of one batch size.
#[derive(Clone, Debug, Serialize)]
pub struct SizeTimes {
    /// Rows of the batch.
    pub rows: usize,
    /// Batches run.
    pub runs: usize,
    /// Device time, median, in microseconds.
    pub device_us_p50: f64,
    /// Device time, best, in microseconds.
    pub device_us_min: f64,
    /// From launch to answers, median, in microseconds.
    pub wall_us_p50: f64,
    /// From launch to answers, 99th percentile, in microseconds.
    pub wall_us_p99: f64,
    /// Rows per second at the median device time.
    pub rows_per_s: f64,
    /// Arithmetic rate at the median device time, in TFLOP/s, a multiply-add counted as two.
    pub tflops: f64,
    /// The rate at the best device time over the cores' best; none on a GPU.
    pub share_of_peak: Option<f64>,
    /// The GPU kernel that such batches are launched with.
    pub kernel: Option<&'static str>,
}

/// What a backend's batches cost.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluatorProfile {
    /// `cpu` or `cuda`.
    pub backend: &'static str,
    /// What it runs on.
    pub device: String,
    /// Operations per row, a multiply-add counted as two.
    pub flop_per_row: usize,
    /// The cores' best rate of f32 multiply-adds in TFLOP/s; none on a GPU.
    pub peak_tflops: Option<f64>,
    /// By size, ascending.
    pub sizes: Vec<SizeTimes>,
    /// The straight line through the device times: what a batch costs whatever its size, in
    /// microseconds.
    pub fixed_us: f64,
    /// The same line: what each row adds, in microseconds.
    pub per_row_us: f64,
    /// How far a GPU's answers are from the CPU network's; none on the CPU.
    pub agreement: Option<Agreement>,
    /// GPU memory that the network takes, MiB.
    pub gpu_memory_mib: f64,
}

/// Measures a backend at sizes up to `limits.max_batch`.
///
/// # Errors
/// When the device is not to be had, or fails.
pub fn profile_evaluator(
    kind: BackendKind,
    weights: &Weights,
    limits: Limits,
) -> Result<EvaluatorProfile, BackendError> {
    let mut backend = network::open(kind, weights, limits)?;
    let flop_per_row = 2 * Folded::new(weights).multiply_adds();
    backend
        .requests(0)
        .copy_from_slice(&samples::requests(limits.max_batch));
    let (mut sizes, mut peaks) = (Vec::new(), Vec::new());
    for rows in sizes_up_to(limits.max_batch) {
        if kind == BackendKind::Cpu {
            peaks.push(peak_rate(limits.threads, PEAK_SLICE) * 1e-12);
        }
        sizes.push(time(backend.as_mut(), rows, flop_per_row)?);
    }
    let peak_tflops = peaks.into_iter().reduce(f64::max);
    for size in &mut sizes {
        let best = (size.rows * flop_per_row) as f64 / size.device_us_min.max(1e-3) * 1e-6;
        size.share_of_peak = peak_tflops.map(|peak| best / peak);
    }
    let points = sizes
        .iter()
        .map(|size| (size.rows, size.device_us_p50 * 1e-6));
    let cost = network::CostModel::from_points(points);
    let (fixed, per_row) = cost.line();
    let agreement = match kind {
        BackendKind::Cpu => None,
        BackendKind::Cuda => {
            let mut cpu = network::open(BackendKind::Cpu, weights, limits)?;
            let (rows, most) = (AGREEMENT_ROWS, limits.max_batch);
            let (gpu, cpu) = (backend.as_mut(), cpu.as_mut());
            Some(Agreement::measure(gpu, cpu, rows, most)?)
        }
    };
    Ok(EvaluatorProfile {
        backend: kind.name(),
        device: backend.device(),
        flop_per_row,
        peak_tflops,
        sizes,
        fixed_us: fixed * 1e6,
        per_row_us: per_row * 1e6,
        agreement,
        gpu_memory_mib: backend.memory().own_bytes as f64 / (1 << 20) as f64,
    })
}

fn time(
    backend: &mut dyn Backend,
    rows: usize,
    flop_per_row: usize,
) -> Result<SizeTimes, BackendError> {
    backend.run(rows)?;
    let (mut device, mut wall) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while device.len() < RUNS.0 || (begun.elapsed() < SLICE && device.len() < RUNS.1) {
        let called = Instant::now();
        device.push(backend.run(rows)?.as_secs_f64() * 1e6);
        wall.push(called.elapsed().as_secs_f64() * 1e6);
    }
    device.sort_unstable_by(f64::total_cmp);
    wall.sort_unstable_by(f64::total_cmp);
    // A clock may be too coarse for the smallest batch; the rate is then a bound.
    let seconds = quantile(&device, 0.5).max(1e-3) * 1e-6;
    Ok(SizeTimes {
        rows,
        runs: device.len(),
        device_us_p50: quantile(&device, 0.5),
        device_us_min: device[0],
        wall_us_p50: quantile(&wall, 0.5),
        wall_us_p99: quantile(&wall, 0.99),
        rows_per_s: rows as f64 / seconds,
        tflops: (rows * flop_per_row) as f64 / seconds * 1e-12,
        share_of_peak: None,
        kernel: backend.kernel(rows),
    })
}

impl EvaluatorProfile {
    /// Writes the sizes as CSV.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_csv(&self, path: &Path) -> Result<(), StudyError> {
        write_table(path, &self.sizes)
    }
}

impl fmt::Display for EvaluatorProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.backend, self.device)?;
        let has_kernels = self.sizes.iter().any(|size| size.kernel.is_some());
        writeln!(
            f,
            "  rows    device us      best us      wall us  wall us p99       rows/s   TFLOP/s  \
             best/peak{}",
            if has_kernels { "  kernel" } else { "" }
        )?;
        for size in &self.sizes {
            let share = size
                .share_of_peak
                .map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
            write!(
                f,
                "{:>6} {:>12.1} {:>12.1} {:>12.1} {:>12.1} {:>12.0} {:>9.3} {share:>10}",
                size.rows,
                size.device_us_p50,
                size.device_us_min,
                size.wall_us_p50,
                size.wall_us_p99,
                size.rows_per_s,
                size.tflops
            )?;
            match size.kernel {
                Some(kernel) => writeln!(f, "  {kernel}")?,
                None => writeln!(f)?,
            }
        }
        writeln!(
            f,
            "t(batch) = {:.1} us + {:.3} us x rows",
            self.fixed_us, self.per_row_us
        )?;
        if let Some(agreement) = &self.agreement {
            writeln!(
                f,
                "beside the CPU network on {} positions: priors differ by {:.5} at most, values by \
                 {:.5}, the top action agrees in {:.2} %",
                agreement.rows,
                agreement.policy_max_difference,
                agreement.value_max_difference,
                100.0 * agreement.top1_agreement
            )?;
        }
        match self.peak_tflops {
            Some(peak) => write!(
                f,
                "peak: {peak:.3} TFLOP/s, f32 multiply-adds on registers alone, the best of slices \
                 between the batches"
            ),
            None => write!(
                f,
                "peak: not measured on a GPU; scripts/gpu_check.sh holds these rates against a \
                 large matrix product"
            ),
        }
    }
}
