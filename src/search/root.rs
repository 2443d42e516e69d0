//! What the root of a decision has of its own: noise on its priors, the number of its visits, and
//! the policy that they are read as. A root that selects in another way would stand beside this
//! file.

use super::SearchSettings;
use crate::game::MAX_LEGAL;
use rand::{Rng, RngExt};

/// Dirichlet noise on the root's priors.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RootNoise {
    /// Parameter of the symmetric Dirichlet distribution.
    pub alpha: f32,
    /// Share of the noise in the priors, 0 (none) to 1.
    pub fraction: f32,
}

impl SearchSettings {
    /// What the counts of a decision add up to: every simulation of every world visits one action
    /// of the root.
    pub fn root_visits(&self) -> u64 {
        (self.worlds * self.simulations) as u64
    }

    /// Does the root's policy say more than the shares of its visits, so that the journal and the
    /// record hold it besides them? PUCT's does not.
    pub fn has_own_policy(&self) -> bool {
        false
    }
}

/// The policy of these visits: their shares.
pub(super) fn policy(counts: &[u32]) -> [f32; MAX_LEGAL] {
    let sum = counts.iter().map(|&count| u64::from(count)).sum::<u64>();
    let sum = sum.max(1) as f32;
    let mut policy = [0.0; MAX_LEGAL];
    for (share, &count) in policy.iter_mut().zip(counts) {
        *share = count as f32 / sum;
    }
    policy
}

impl RootNoise {
    /// The noise of one decision with so many legal actions; none if it has no share.
    pub(super) fn draw<R: Rng>(
        &self,
        legal: usize,
        rng: impl FnOnce() -> R,
    ) -> Option<[f32; MAX_LEGAL]> {
        (self.fraction > 0.0).then(|| dirichlet(self.alpha, legal, &mut rng()))
    }

    /// Priors with noise mixed in.
    pub(super) fn mix(
        &self,
        priors: &[f32; MAX_LEGAL],
        noise: &[f32; MAX_LEGAL],
    ) -> [f32; MAX_LEGAL] {
        std::array::from_fn(|nth| (1.0 - self.fraction) * priors[nth] + self.fraction * noise[nth])
    }
}

/// A draw from the symmetric Dirichlet distribution over `count` actions; the rest is 0.
fn dirichlet(alpha: f32, count: usize, rng: &mut impl Rng) -> [f32; MAX_LEGAL] {
    let mut noise = [0.0; MAX_LEGAL];
    for share in &mut noise[..count] {
        *share = gamma(f64::from(alpha), rng) as f32;
    }
    let sum: f32 = noise.iter().sum();
    // With a tiny alpha all draws can vanish: then all weight falls on one action.
    if sum > f32::MIN_POSITIVE {
        noise.iter_mut().for_each(|share| *share /= sum);
    } else {
        noise = [0.0; MAX_LEGAL];
        noise[rng.random_range(0..count)] = 1.0;
    }
    noise
}

/// A draw from the gamma distribution of shape `alpha` and scale 1, by Marsaglia and Tsang (2000),
/// on `libm`: a library's sampler would use the system's logarithm, whose last bit differs between
/// machines.
fn gamma(alpha: f64, rng: &mut impl Rng) -> f64 {
    if alpha < 1.0 {
        // Never 0, so that its logarithm is finite.
        let uniform = 1.0 - rng.random::<f64>();
        return gamma(alpha + 1.0, rng) * libm::pow(uniform, 1.0 / alpha);
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let normal = normal(rng);
        let v = (1.0 + c * normal) * (1.0 + c * normal) * (1.0 + c * normal);
        let uniform = 1.0 - rng.random::<f64>();
        if v > 0.0 && libm::log(uniform) < 0.5 * normal * normal + d - d * v + d * libm::log(v) {
            return d * v;
        }
    }
}

/// A draw from the standard normal distribution, by Box and Muller.
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * libm::log(1.0 - rng.random::<f64>())).sqrt();
    radius * libm::cos(std::f64::consts::TAU * rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Use, stream};

    #[test]
    fn gamma_has_its_mean_and_variance() {
        let mut rng = stream(1, Use::Noise, 0, 0, 0);
        for alpha in [0.1, 0.5, 1.0, 3.7] {
            let draws: Vec<f64> = (0..40_000).map(|_| gamma(alpha, &mut rng)).collect();
            let mean = draws.iter().sum::<f64>() / 40_000.0;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 40_000.0;
            // Mean and variance are both alpha; five standard errors of each.
            let fourth = 3.0 * alpha * alpha + 6.0 * alpha;
            assert!(
                (mean - alpha).abs() < 5.0 * (alpha / 40_000.0).sqrt(),
                "{alpha}: mean {mean}"
            );
            let error = ((fourth - alpha * alpha) / 40_000.0).sqrt();
            assert!(
                (variance - alpha).abs() < 5.0 * error,
                "{alpha}: variance {variance}"
            );
        }
    }

    #[test]
    fn dirichlet_shares_sum_to_one_even_when_all_vanish() {
        let mut rng = stream(2, Use::Noise, 0, 0, 0);
        for alpha in [0.001, 0.03, 0.5, 10.0] {
            for count in [2, 5, MAX_LEGAL] {
                let noise = dirichlet(alpha, count, &mut rng);
                assert!((noise.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                assert!(noise[count..].iter().all(|&share| share == 0.0));
                assert!(noise.iter().all(|&share| share >= 0.0));
            }
        }
    }
}
