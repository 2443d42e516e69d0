//! How far a backend's answers are from the CPU network's on the same positions of random play.

use crate::network::{Backend, BackendError, samples};
use crate::wire::{Evaluation, Request};
use serde::Serialize;

/// Distance between two backends' answers.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Agreement {
    /// Positions compared.
    pub rows: usize,
    /// Is every answer of the first backend a finite number?
    pub finite: bool,
    /// Largest difference of a prior.
    pub policy_max_difference: f32,
    /// Largest difference of a seat's value.
    pub value_max_difference: f32,
    /// Share of positions with the same most probable action.
    pub top1_agreement: f64,
}

impl Agreement {
    /// Has both backends answer `rows` requests, `max_batch` at a time, for which they have room.
    ///
    /// # Errors
    /// When a device fails.
    pub fn measure(
        tried: &mut dyn Backend,
        cpu: &mut dyn Backend,
        rows: usize,
        max_batch: usize,
    ) -> Result<Agreement, BackendError> {
        let mut agreement = Agreement {
            rows,
            finite: true,
            ..Agreement::default()
        };
        let mut same_top = 0;
        for requests in samples::requests(rows).chunks(max_batch) {
            answer(tried, requests)?;
            answer(cpu, requests)?;
            let pairs = tried.replies(0).iter().zip(cpu.replies(0));
            for ((found, expected), request) in pairs.zip(requests) {
                let legal = request.position.legal.count_ones() as usize;
                let players = request.position.players as usize;
                agreement.add(&found.evaluation, &expected.evaluation, legal, players);
                let top = |evaluation: &Evaluation| top(&evaluation.priors[..legal]);
                same_top += usize::from(top(&found.evaluation) == top(&expected.evaluation));
            }
        }
        agreement.top1_agreement = same_top as f64 / rows.max(1) as f64;
        Ok(agreement)
    }

    fn add(&mut self, found: &Evaluation, expected: &Evaluation, legal: usize, players: usize) {
        for (found, expected) in found.priors.iter().zip(&expected.priors).take(legal) {
            self.finite &= found.is_finite();
            self.policy_max_difference = self.policy_max_difference.max((found - expected).abs());
        }
        for (found, expected) in found.values.iter().zip(&expected.values).take(players) {
            self.finite &= found.is_finite();
            self.value_max_difference = self.value_max_difference.max((found - expected).abs());
        }
    }
}

fn answer(backend: &mut dyn Backend, requests: &[Request]) -> Result<(), BackendError> {
    backend.requests(0)[..requests.len()].copy_from_slice(requests);
    backend.run(requests.len())?;
    Ok(())
}

/// The most probable action's place, the lowest among equals.
fn top(priors: &[f32]) -> usize {
    (1..priors.len()).fold(0, |best, nth| match priors[nth] > priors[best] {
        true => nth,
        false => best,
    })
}
