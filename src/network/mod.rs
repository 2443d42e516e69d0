//! BlobNet, the network that scores a position: 256 features in, a policy over 52 actions and one
//! value per seat out. `model` reads and writes the PyTorch parameters and folds them into the
//! plain chain that is really computed, `cpu` runs that chain on batches, `cuda` on a GPU,
//! `backend` is the one place where one of the two is chosen. Here is what every backend's caller
//! needs: the softmax over the legal actions.

mod backend;
mod cost;
mod cpu;
pub mod cuda;
mod model;
pub mod samples;

pub use backend::{
    Backend, BackendChoice, BackendError, BackendKind, Chosen, Limits, Memory, choose, open,
    open_folded,
};
pub use cost::{CostModel, sizes_up_to};
pub use cpu::{CpuNetwork, instruction_set};
pub(crate) use model::read_weights;
pub use model::{
    Description, Folded, FoldedLayer, Linear, Norm, Precision, Shape, ShapeError,
    TensorDescription, Weights, WeightsError, weights_file, weights_files,
};

pub use crate::observation::{ACTIONS, FEATURES};

/// Entries of the value vector: one per seat, relative to the mover; seats beyond the players of
/// the round are unused.
pub const SEATS: usize = crate::game::MAX_PLAYERS;
/// The epsilon under the square root of every layer norm (PyTorch's default).
pub const NORM_EPSILON: f32 = 1e-5;

/// Writes the softmax of `logits` over the actions whose bit is set in `legal`, in ascending order
/// of action, to the first `legal.count_ones()` entries of `priors`, and returns that count. The
/// rest of `priors` is left as it was.
///
/// The priors are finite, at least 0, and sum to 1 within rounding, whatever the logits: infinities
/// count as the largest finite numbers, NaN as the smallest. The exponential is `libm`'s, so that
/// the bits are the same everywhere.
///
/// # Panics
/// If `legal` names an action that `logits` does not have, or `priors` is shorter than the number
/// of legal actions.
pub fn masked_softmax(logits: &[f32], legal: u64, priors: &mut [f32]) -> usize {
    let count = legal.count_ones() as usize;
    let priors = &mut priors[..count];
    let mut rest = legal;
    let mut largest = f32::MIN;
    for prior in priors.iter_mut() {
        let logit = logits[rest.trailing_zeros() as usize];
        rest &= rest - 1;
        // `max` drops a NaN, `clamp` would keep it: in this order it becomes `f32::MIN`.
        *prior = logit.max(f32::MIN).clamp(f32::MIN, f32::MAX);
        largest = largest.max(*prior);
    }
    let mut sum = 0.0;
    for prior in priors.iter_mut() {
        // The largest term is exp(0) = 1, so the sum is at least 1; a difference of -infinity gives
        // 0.
        *prior = libm::expf(*prior - largest);
        sum += *prior;
    }
    for prior in priors.iter_mut() {
        *prior /= sum;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_covers_the_legal_actions_in_ascending_order() {
        let logits: Vec<f32> = (0..ACTIONS).map(|action| action as f32 * 0.1).collect();
        let mut priors = [-1.0f32; ACTIONS];
        let legal = 1 << 51 | 1 << 3 | 1 << 17;
        assert_eq!(masked_softmax(&logits, legal, &mut priors), 3);
        let total: f64 = [0.3f64, 1.7, 5.1].iter().map(|x| x.exp()).sum();
        for (prior, logit) in priors.iter().zip([0.3f64, 1.7, 5.1]) {
            assert!((f64::from(*prior) - logit.exp() / total).abs() < 1e-6);
        }
        assert_eq!(
            priors[3], -1.0,
            "entries past the legal actions are not written"
        );
    }

    #[test]
    fn softmax_survives_any_logits() {
        let extremes = [
            0.0,
            1e30,
            -1e30,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            88.9,
            -104.0,
        ];
        let mut logits = [0.0f32; ACTIONS];
        for (index, a) in extremes.iter().enumerate() {
            for b in extremes {
                logits[2] = *a;
                logits[5] = b;
                logits[49] = extremes[(index + 3) % extremes.len()];
                let mut priors = [f32::NAN; 3];
                masked_softmax(&logits, 1 << 2 | 1 << 5 | 1 << 49, &mut priors);
                assert!(
                    priors.iter().all(|p| p.is_finite() && *p >= 0.0),
                    "{a} {b}: {priors:?}"
                );
                assert!(
                    (priors.iter().sum::<f32>() - 1.0).abs() < 1e-6,
                    "{a} {b}: {priors:?}"
                );
            }
        }
    }

    #[test]
    fn softmax_of_one_action_and_of_none() {
        let mut priors = [0.5f32; 2];
        assert_eq!(masked_softmax(&[f32::NAN; ACTIONS], 1, &mut priors), 1);
        assert_eq!(priors, [1.0, 0.5]);
        assert_eq!(masked_softmax(&[0.0; ACTIONS], 0, &mut priors), 0);
    }
}
