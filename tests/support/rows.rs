//! Rows of features for the network.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::network::FEATURES;

/// Rows of zeros, ones and fractions, as an observation has.
pub fn random_rows(seed: u64, rows: usize) -> Vec<f32> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut draw = || match random.random_range(0..8) {
        0 | 1 => 1.0,
        2 => random.random::<f32>(),
        _ => 0.0,
    };
    (0..rows * FEATURES).map(|_| draw()).collect()
}
