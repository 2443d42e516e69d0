//! The network's oracle against PyTorch's own nn.TransformerEncoderLayer, on the files that
//! scripts/golden_network.py wrote, and the CPU network against both: names, shapes, the fold and
//! the kernels agree with the real thing.

#[path = "support/reference.rs"]
mod reference;
#[path = "support/rows.rs"]
mod rows;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringmaster::network::{ACTIONS, CpuNetwork, FEATURES, Folded, SEATS, Shape, Weights};
use rows::random_rows;
use safetensors::SafeTensors;

/// PyTorch's outputs are rounded to f32 from f64: the reference must be as near as that; f32 sums
/// get more room.
const REFERENCE_TOLERANCE: f64 = 1e-6;
const CPU_TOLERANCE: f64 = 2e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).expect("the golden file has the tensor");
    let (chunks, _) = view.data().as_chunks::<4>();
    chunks
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn worst(found: impl Iterator<Item = f64>, expected: &[f32]) -> f64 {
    found
        .zip(expected)
        .map(|(found, expected)| (found - f64::from(*expected)).abs())
        .fold(0.0, f64::max)
}

#[test]
fn agrees_with_pytorch() {
    let weights =
        Weights::load(&golden("network.safetensors")).expect("PyTorch's state_dict loads");
    let shape = weights.shape();
    assert_eq!((shape.width(), shape.depth(), shape.ffn()), (48, 2, 80));
    let bytes = std::fs::read(golden("network_io.safetensors")).expect("reads");
    let file = SafeTensors::deserialize(&bytes).expect("parses");
    let (features, logits, values) = (
        floats(&file, "features"),
        floats(&file, "logits"),
        floats(&file, "values"),
    );
    let rows = features.len() / FEATURES;
    assert_eq!(
        (rows, logits.len(), values.len()),
        (16, 16 * ACTIONS, 16 * SEATS)
    );

    let mut network =
        CpuNetwork::new(Arc::new(Folded::new(&weights)), 1, rows).expect("one thread");
    network.run(rows, |row, x| {
        x.copy_from_slice(&features[row * FEATURES..][..FEATURES])
    });
    for row in 0..rows {
        let logits = &logits[row * ACTIONS..][..ACTIONS];
        let values = &values[row * SEATS..][..SEATS];
        let slow = reference::forward(&weights, &features[row * FEATURES..][..FEATURES]);
        assert!(
            worst(slow.logits.into_iter(), logits) < REFERENCE_TOLERANCE,
            "row {row}"
        );
        assert!(
            worst(slow.values.into_iter(), values) < REFERENCE_TOLERANCE,
            "row {row}"
        );
        let to_f64 = |x: &f32| f64::from(*x);
        assert!(
            worst(network.logits(row).iter().map(to_f64), logits) < CPU_TOLERANCE,
            "row {row}"
        );
        assert!(
            worst(network.values(row).iter().map(to_f64), values) < CPU_TOLERANCE,
            "row {row}"
        );
    }
}

#[test]
fn agrees_with_the_unfolded_reference() {
    // f32 sums of up to 1024 terms of order 1 through some 20 matrices: 1e-4 leaves a factor of
    // about 10.
    const TOLERANCE: f64 = 1e-4;
    let odd = [
        Shape::new(64, 2, 96),
        Shape::new(50, 3, 37),
        Shape::new(2, 1, 1),
    ];
    for shape in odd.into_iter().flatten().chain([Shape::default()]) {
        let weights = Weights::seeded(11, shape);
        let mut network =
            CpuNetwork::new(Arc::new(Folded::new(&weights)), 1, 5).expect("one thread");
        let rows = random_rows(3, 5);
        network.run(5, |row, x| {
            x.copy_from_slice(&rows[row * FEATURES..][..FEATURES])
        });
        for (row, features) in rows.chunks_exact(FEATURES).enumerate() {
            let expected = reference::forward(&weights, features);
            let found = network.logits(row).iter().chain(network.values(row));
            for (found, expected) in found.zip(expected.logits.iter().chain(&expected.values)) {
                assert!(
                    (f64::from(*found) - expected).abs() < TOLERANCE,
                    "{shape:?}: {found} {expected}"
                );
            }
        }
    }
}
