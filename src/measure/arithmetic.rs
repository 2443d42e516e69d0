//! What the cores' arithmetic reaches at best: f32 multiply-adds on registers alone, with nothing
//! to load or store. No matrix product can be faster, so it is the yardstick for the network on the
//! CPU.

use pulp::{Arch, Simd, WithSimd};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Sums under way at once in a thread: two multiply-add units, each some four steps deep, are kept
/// busy by 8; 12 fit any register file with room for the factors.
const SUMS: usize = 12;
/// Steps between two looks at the clock.
const STEPS: usize = 1 << 16;

/// Some steps of all sums; how many operations they are, a multiply-add counted as two.
struct Sums;

impl WithSimd for Sums {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        // Numbers that stay finite: each sum tends to 1.
        let factor = simd.splat_f32s(black_box(0.999));
        let term = simd.splat_f32s(black_box(0.001));
        let mut sums = [term; SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, term);
            }
        }
        black_box(sums);
        2 * SUMS * STEPS * S::F32_LANES
    }
}

/// FLOP/s of `threads` threads side by side, each at its best moment within `slice`: what the cores
/// can do, not what their neighbours leave of it.
pub fn peak_rate(threads: usize, slice: Duration) -> f64 {
    let arch = Arch::new();
    let thread = || {
        let (begun, mut best) = (Instant::now(), 0.0_f64);
        while best == 0.0 || begun.elapsed() < slice {
            let step = Instant::now();
            let operations = arch.dispatch(Sums) as f64;
            best = best.max(operations / step.elapsed().as_secs_f64().max(1e-9));
        }
        best
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(thread)).collect();
        // A thread that only computes does not fail.
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_counted_and_do_not_vanish() {
        assert!(Arch::new().dispatch(Sums) >= 2 * SUMS * STEPS);
        assert!(peak_rate(1, Duration::from_millis(1)).is_normal());
    }
}
