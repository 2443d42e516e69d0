//! The network on arrays of observations, as training and checks use it: features and masks in, policy and value out. The CPU
//! takes any features; a GPU computes from positions, so there the features must be those of positions of the game.

use crate::disk::{self, Refusal};
use crate::network::{
    self, BackendChoice, BackendError, BackendKind, CpuNetwork, Folded, Limits, SEATS, Weights,
    choose, masked_softmax,
};
use crate::observation::{ACTIONS, FEATURES, Position};
use crate::plural::counted;
use crate::replay::{self, ReplayError};
use crate::wire::Request;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that are run at once.
const ROWS: usize = 4096;
/// The same on the CPU, where more brings nothing.
const CPU_ROWS: usize = 512;

/// What can keep arrays from being evaluated.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// An array cannot be read or written.
    #[error(transparent)]
    Array(#[from] ReplayError),
    /// The network's device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Arrays of different decisions.
    #[error(
        "{features} has {}, {mask} has {mask_rows}: they must be of the same decisions",
        counted(*feature_rows, "row")
    )]
    Rows {
        /// One array.
        features: PathBuf,
        /// Its rows.
        feature_rows: usize,
        /// The other.
        mask: PathBuf,
        /// Its rows.
        mask_rows: usize,
    },
    /// Features that no position has, for a GPU.
    #[error(
        "row {row} holds features of no position of the game, which the GPU cannot take: use --backend cpu"
    )]
    NoPosition {
        /// The row.
        row: usize,
    },
    /// The folder for the results.
    #[error(transparent)]
    Folder(#[from] Refusal),
}

/// Policies (0 for illegal actions) and values, row by row.
#[derive(Default)]
struct Answers {
    policy: Vec<f32>,
    value: Vec<f32>,
}

impl Answers {
    /// `priors`: of the legal actions, ascending.
    fn push(&mut self, legal: u64, priors: &[f32], values: &[f32]) {
        let mut priors = priors.iter();
        self.policy
            .extend((0..ACTIONS).map(|action| match legal >> action & 1 {
                1 => priors.next().copied().unwrap_or(0.0),
                _ => 0.0,
            }));
        self.value.extend_from_slice(&values[..SEATS]);
    }
}

/// Evaluates all rows and writes `policy.npy` and `value.npy` to the folder `out`; the number of rows, and the device.
///
/// # Errors
/// When an array or the device fails, or the arrays do not belong together.
pub fn infer(
    features: &Path,
    mask: &Path,
    weights: &Weights,
    backend: BackendChoice,
    limits: Limits,
    out: &Path,
) -> Result<(usize, String), InferError> {
    let (features_of, mask_of) = (replay::read_features(features)?, replay::read_mask(mask)?);
    if features_of.rows != mask_of.rows {
        return Err(InferError::Rows {
            features: features.to_owned(),
            feature_rows: features_of.rows,
            mask: mask.to_owned(),
            mask_rows: mask_of.rows,
        });
    }
    let legal: Vec<u64> = mask_of.data.chunks_exact(ACTIONS).map(legal_of).collect();
    let chosen = choose(backend, weights.shape())?;
    disk::make_folder(out)?;
    let rows = features_of.data.as_chunks::<FEATURES>().0;
    let (answers, device) = match chosen.kind {
        BackendKind::Cpu => on_cpu(rows, &legal, weights, limits)?,
        BackendKind::Cuda => on_gpu(rows, &legal, weights, limits)?,
    };
    let [policy, value] = ["policy.npy", "value.npy"].map(|name| out.join(name));
    // Both are on the disk before one is put in its place: they are always of the same rows.
    let policy = replay::prepare_f32(&policy, rows.len(), ACTIONS, &answers.policy)?;
    let value = replay::prepare_f32(&value, rows.len(), SEATS, &answers.value)?;
    policy.put()?;
    value.put()?;
    Ok((rows.len(), device))
}

fn legal_of(mask: &[u8]) -> u64 {
    mask.iter()
        .rev()
        .fold(0, |bits, &on| bits << 1 | u64::from(on != 0))
}

fn on_cpu(
    rows: &[[f32; FEATURES]],
    legal: &[u64],
    weights: &Weights,
    limits: Limits,
) -> Result<(Answers, String), InferError> {
    let folded = Arc::new(Folded::new(weights));
    let mut network =
        CpuNetwork::new(folded, limits.threads, CPU_ROWS).map_err(BackendError::from)?;
    let mut answers = Answers::default();
    for (rows, legal) in rows.chunks(CPU_ROWS).zip(legal.chunks(CPU_ROWS)) {
        network.run(rows.len(), |row, x| x.copy_from_slice(&rows[row]));
        for (row, &legal) in legal.iter().enumerate() {
            let mut priors = [0.0; ACTIONS];
            masked_softmax(network.logits(row), legal, &mut priors);
            answers.push(legal, &priors, network.values(row));
        }
    }
    Ok((answers, network.instruction_set().to_owned()))
}

fn on_gpu(
    rows: &[[f32; FEATURES]],
    legal: &[u64],
    weights: &Weights,
    limits: Limits,
) -> Result<(Answers, String), InferError> {
    let limits = Limits {
        max_batch: ROWS,
        ..limits
    };
    let mut backend = network::open(BackendKind::Cuda, weights, limits)?;
    let mut answers = Answers::default();
    for (block, (rows, legal)) in rows.chunks(ROWS).zip(legal.chunks(ROWS)).enumerate() {
        let requests = backend.requests(0);
        for (index, (features, &legal)) in rows.iter().zip(legal).enumerate() {
            let row = block * ROWS + index;
            let position =
                Position::recognize(features, legal).ok_or(InferError::NoPosition { row })?;
            requests[index] = Request {
                ticket: row as u64,
                position,
            };
        }
        backend.run(rows.len())?;
        for (reply, &legal) in backend.replies(0).iter().zip(legal) {
            answers.push(legal, &reply.evaluation.priors, &reply.evaluation.values);
        }
    }
    Ok((answers, backend.device()))
}
