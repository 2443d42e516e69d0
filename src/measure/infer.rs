//! The network on arrays of observations, as training and checks use it: features and masks in,
//! policy and value out. The CPU network does it, which takes any features; a GPU computes from
//! positions.

use crate::disk;
use crate::fault::Fault;
use crate::game::bits;
use crate::network::{CpuNetwork, Folded, SEATS, Weights, masked_softmax};
use crate::observation::{ACTIONS, FEATURES};
use crate::plural::counted;
use crate::replay::{self, ReplayError};
use std::path::Path;
use std::sync::Arc;

/// Rows that are run at once; more brings nothing.
const ROWS: usize = 512;

/// What can keep arrays from being evaluated.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// An array, or the folder for the results.
    #[error(transparent)]
    Array(#[from] ReplayError),
    /// Arrays of different decisions, or no room for the network.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Policies (0 for illegal actions) and values, row by row.
#[derive(Default)]
struct Answers {
    policy: Vec<f32>,
    value: Vec<f32>,
}

impl Answers {
    fn push(&mut self, legal: u64, logits: &[f32], values: &[f32]) {
        let (mut priors, mut policy) = ([0.0; ACTIONS], [0.0; ACTIONS]);
        masked_softmax(logits, legal, &mut priors);
        for (action, prior) in bits(legal).zip(priors) {
            policy[action as usize] = prior;
        }
        self.policy.extend_from_slice(&policy);
        self.value.extend_from_slice(values);
    }
}

/// Evaluates all rows on so many threads and writes `policy.npy` and `value.npy` to the folder
/// `out`; the number of rows, and the instruction set.
///
/// # Errors
/// When an array cannot be read or written, or the arrays do not belong together.
pub fn infer(
    features: &Path,
    mask: &Path,
    weights: &Weights,
    threads: usize,
    out: &Path,
) -> Result<(usize, &'static str), InferError> {
    let (features_of, mask_of) = (replay::read_features(features)?, replay::read_mask(mask)?);
    if features_of.rows != mask_of.rows {
        let (features, mask) = (features.display(), mask.display());
        let rows = counted(features_of.rows, "row");
        let cause = format!("{features} has {rows}, {mask} has {}", mask_of.rows);
        return Err(Fault::new(cause, "give both of the same decisions").into());
    }
    let legal: Vec<u64> = mask_of.data.chunks_exact(ACTIONS).map(legal_of).collect();
    disk::make_folder(out).map_err(ReplayError::from)?;
    let rows = features_of.data.as_chunks::<FEATURES>().0;
    let mut network = CpuNetwork::new(Arc::new(Folded::new(weights)), threads, ROWS)?;
    let mut answers = Answers::default();
    for (rows, legal) in rows.chunks(ROWS).zip(legal.chunks(ROWS)) {
        network.run(rows.len(), |row, x| x.copy_from_slice(&rows[row]));
        for (row, &legal) in legal.iter().enumerate() {
            answers.push(legal, network.logits(row), network.values(row));
        }
    }
    let [policy, value] = ["policy.npy", "value.npy"].map(|name| out.join(name));
    // Both are on the disk before one is put in its place: they are always of the same rows.
    let policy = replay::prepare_f32(&policy, rows.len(), ACTIONS, &answers.policy)?;
    let value = replay::prepare_f32(&value, rows.len(), SEATS, &answers.value)?;
    policy.put().map_err(ReplayError::from)?;
    value.put().map_err(ReplayError::from)?;
    Ok((rows.len(), network.instruction_set()))
}

fn legal_of(mask: &[u8]) -> u64 {
    mask.iter()
        .rev()
        .fold(0, |bits, &on| bits << 1 | u64::from(on != 0))
}
