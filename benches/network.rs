//! The CPU network against the best f32 matrix rate of the `gemm` crate, in one run with
//! interleaved repetitions, since the machine is shared: medians, and in brackets the best
//! repetition, each with its ratio. `cargo bench --bench network -- [repetitions]`

use std::hint::black_box;
use std::sync::Arc;

use ringmaster::network::{CpuNetwork, Folded, Shape, Weights};
use yardstick::{Product, SIZES, repeat};

mod yardstick;

const BATCHES: [usize; 8] = [1, 8, 16, 64, 128, 256, 512, 1024];

/// Median and largest.
fn summary(samples: &mut [f64]) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    (samples[samples.len() / 2], samples[samples.len() - 1])
}

fn main() {
    let repetitions = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .next()
        .unwrap_or(9);
    let folded = Arc::new(Folded::new(&Weights::seeded(1, Shape::default())));
    let flop = 2.0 * folded.multiply_adds() as f64;
    // One and zero features, a third of them set, as an observation has.
    let features: Vec<f32> = (0..1024 * 256)
        .map(|i| f32::from(u8::from((i * 7919 + i / 256) % 3 == 0)))
        .collect();
    for threads in [1, 2] {
        let mut products: Vec<_> = SIZES
            .iter()
            .map(|size| Product::new(*size, threads))
            .collect();
        let mut network = match CpuNetwork::new(folded.clone(), threads, 1024) {
            Ok(network) => network,
            Err(error) => return eprintln!("{error}"),
        };
        let mut gemm_rates = vec![Vec::new(); SIZES.len()];
        let mut rates = vec![Vec::new(); BATCHES.len()];
        for _ in 0..repetitions {
            for (product, rates) in products.iter_mut().zip(&mut gemm_rates) {
                rates.push(product.rate());
            }
            for (rows, rates) in BATCHES.into_iter().zip(&mut rates) {
                let calls = repeat(|| {
                    network.run(rows, |row, x| {
                        x.copy_from_slice(&features[row * 256..][..256])
                    });
                    black_box(network.logits(rows - 1));
                });
                rates.push(calls * rows as f64 * flop);
            }
        }
        report(threads, &network, flop, &mut gemm_rates, &mut rates);
    }
}

fn report(
    threads: usize,
    network: &CpuNetwork,
    flop: f64,
    gemm_rates: &mut [Vec<f64>],
    rates: &mut [Vec<f64>],
) {
    let (mut middle, mut top): (f64, f64) = (0.0, 0.0);
    println!("{threads} thread(s), {}", network.instruction_set());
    for (size, samples) in SIZES.iter().zip(gemm_rates) {
        let (median, best) = summary(samples);
        (middle, top) = (middle.max(median), top.max(best));
        println!(
            "  gemm {size:>4}^3   {:>6.1} [{:>6.1}] GFLOP/s",
            median / 1e9,
            best / 1e9
        );
    }
    for (rows, samples) in BATCHES.iter().zip(rates) {
        let (median, best) = summary(samples);
        println!(
            "  network {rows:>4}  {:>6.1} [{:>6.1}] GFLOP/s  {:>4.2} [{:>4.2}] of gemm  \
             {:>6.0} rows/s  {:>8.1} us/batch",
            median / 1e9,
            best / 1e9,
            median / middle,
            best / top,
            median / flop,
            *rows as f64 * flop / median * 1e6
        );
    }
}
