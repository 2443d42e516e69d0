//! The network on the CPU: a row's bits depend on nothing around it, and what a fresh network says
//! tells positions apart.
#![allow(clippy::unwrap_used)]

#[path = "support/rows.rs"]
mod rows;

use ringmaster::network::{CpuNetwork, FEATURES, Folded, Shape, Weights};
use rows::random_rows;
use std::sync::Arc;

fn network(shape: Shape, threads: usize, max_rows: usize) -> (Weights, CpuNetwork) {
    let weights = Weights::seeded(11, shape);
    let folded = Arc::new(Folded::new(&weights));
    (
        weights,
        CpuNetwork::new(folded, threads, max_rows).expect("threads start"),
    )
}

fn run_rows(network: &mut CpuNetwork, rows: &[f32]) {
    network.run(rows.len() / FEATURES, |row, x| {
        x.copy_from_slice(&rows[row * FEATURES..][..FEATURES]);
    });
}

fn bits(network: &CpuNetwork, row: usize) -> Vec<u32> {
    network
        .logits(row)
        .iter()
        .chain(network.values(row))
        .map(|x| x.to_bits())
        .collect()
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_place_and_thread() {
    // An odd shape, so that padding and the norm's tail take part; the default shape runs the
    // same code.
    let shape = Shape::new(72, 2, 100).expect("in range");
    let special = random_rows(5, 1);
    let (_, mut alone) = network(shape, 1, 1);
    run_rows(&mut alone, &special);
    let expected = bits(&alone, 0);
    for threads in [1, 2, 3] {
        let (_, mut network) = network(shape, threads, 513);
        for batch in [1, 2, 5, 6, 7, 64, 97, 513] {
            for place in [0, batch / 3, batch / 2, batch - 1] {
                let mut rows = random_rows(batch as u64, batch);
                rows[place * FEATURES..][..FEATURES].copy_from_slice(&special);
                run_rows(&mut network, &rows);
                assert_eq!(
                    bits(&network, place),
                    expected,
                    "threads {threads} batch {batch} place {place}"
                );
            }
        }
    }
}

#[test]
fn the_default_shape_has_the_same_bits_too() {
    let rows = random_rows(6, 70);
    let (_, mut one) = network(Shape::default(), 1, 70);
    let (_, mut two) = network(Shape::default(), 2, 70);
    run_rows(&mut two, &rows);
    for row in [0, 33, 69] {
        run_rows(&mut one, &rows[row * FEATURES..][..FEATURES]);
        assert_eq!(bits(&one, 0), bits(&two, row), "row {row}");
    }
}

#[test]
fn a_seeded_network_tells_actions_and_positions_apart() {
    for seed in 0..3 {
        let folded = Arc::new(Folded::new(&Weights::seeded(seed, Shape::default())));
        let mut network = CpuNetwork::new(folded, 1, 64).expect("one thread");
        run_rows(&mut network, &random_rows(9, 64));
        let spread = |x: &[f32]| {
            let mean = x.iter().sum::<f32>() / x.len() as f32;
            (x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / x.len() as f32).sqrt()
        };
        let logits = (0..64).map(|row| spread(network.logits(row))).sum::<f32>() / 64.0;
        let value: Vec<f32> = (0..64).map(|row| network.values(row)[0]).collect();
        println!("seed {seed}: logits {logits}, value {}", spread(&value));
        assert!(
            (0.5..3.0).contains(&logits),
            "seed {seed}: spread of logits {logits}"
        );
        assert!(
            spread(&value) > 0.1,
            "seed {seed}: spread of values {}",
            spread(&value)
        );
    }
}

#[test]
fn an_empty_batch_and_impossible_sizes() {
    let shape = Shape::new(4, 1, 4).expect("in range");
    let (weights, mut network) = network(shape, 2, 3);
    run_rows(&mut network, &[]);
    let folded = Arc::new(Folded::new(&weights));
    assert!(CpuNetwork::new(folded.clone(), 0, 1).is_err());
    assert!(CpuNetwork::new(folded, 1, 0).is_err());
}

#[test]
fn a_fill_that_panics_does_not_lock_the_network() {
    let shape = Shape::new(4, 1, 4).expect("in range");
    let (_, mut network) = network(shape, 2, 64);
    let rows = random_rows(1, 64);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        network.run(64, |row, _| assert_ne!(row, 40));
    }));
    assert!(panicked.is_err());
    run_rows(&mut network, &rows);
    assert!(network.logits(63).iter().all(|x| x.is_finite()));
}
