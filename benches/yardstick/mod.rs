//! The yardstick of the benches: the f32 matrix rate of the `gemm` crate, measured a slice of time
//! at a time, so that it can be interleaved with what is held against it.
// The crate's interface takes raw pointers.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Sizes of the square products; which one is fastest depends on the machine's caches.
pub const SIZES: [usize; 4] = [256, 384, 512, 1024];
/// Each measurement repeats its work for about this long.
const SLICE: Duration = Duration::from_millis(40);

/// Square matrices for one size; `threads` products run side by side, each on its own output.
pub struct Product {
    size: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<Vec<f32>>,
}

impl Product {
    /// Both factors filled with small numbers.
    pub fn new(size: usize, threads: usize) -> Self {
        let fill = |seed: usize| {
            (0..size * size)
                .map(|i| ((i * 31 + seed) % 17) as f32 * 0.1 - 0.8)
                .collect()
        };
        Self {
            size,
            a: fill(1),
            b: fill(2),
            c: vec![vec![0.0; size * size]; threads],
        }
    }

    /// FLOP/s of `threads` independent single-threaded products.
    pub fn rate(&mut self) -> f64 {
        let threads = self.c.len();
        let (size, a, b) = (self.size, &self.a, &self.b);
        let total: f64 = std::thread::scope(|scope| {
            let run = |c: &'_ mut Vec<f32>| {
                repeat(|| multiply(size, a, b, c)) * 2.0 * (size as f64).powi(3)
            };
            let workers: Vec<_> = self
                .c
                .iter_mut()
                .map(|c| scope.spawn(move || run(c)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or(0.0))
                .sum()
        });
        black_box(&self.c);
        debug_assert!(threads > 0);
        total
    }
}

fn multiply(size: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    let stride = size as isize;
    // SAFETY: all three are column-major size x size matrices, checked here; `c` is not shared.
    unsafe {
        assert!(a.len() >= size * size && b.len() >= size * size && c.len() >= size * size);
        gemm::gemm(
            size,
            size,
            size,
            c.as_mut_ptr(),
            stride,
            1,
            false,
            a.as_ptr(),
            stride,
            1,
            b.as_ptr(),
            stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Calls per second over one slice of time.
pub fn repeat(mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0u32;
    while calls == 0 || start.elapsed() < SLICE {
        work();
        calls += 1;
    }
    f64::from(calls) / start.elapsed().as_secs_f64()
}
