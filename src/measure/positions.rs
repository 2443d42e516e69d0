//! How far a search's policy is from the sequential one, on the same positions: rounds are played
//! once by truly sequential search (one world at a time, one leaf, batches of one), and every
//! decision of theirs is searched again with the settings in question, the same worlds and the same
//! noise.

use crate::engine::evaluator::{Batcher, QueuePort};
use crate::engine::{RunError, open_network};
use crate::game::{Round, Standing};
use crate::measure::StudyError;
use crate::measure::stats::{mean, quantile_unsorted};
use crate::measure::trial::Trials;
use crate::play::{Job, JobPort, JobsInFlight};
use crate::replay::RoundRecord;
use crate::search::{Search, SearchStats, WorldSampler};
use crate::settings::Settings;
use crate::wire::{Request, job_and_entry_of, ticket};
use serde::Serialize;
use std::time::Duration;

/// A decision of the reference rounds, and its visits by sequential search.
struct ReferenceDecision {
    round: Round,
    number: u64,
    decision: u64,
    visits: Vec<u32>,
}

/// The positions, and the sequential search of them.
pub struct Reference {
    positions: Vec<ReferenceDecision>,
    rounds: u64,
}

/// Where a search's policies are.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Distance {
    /// Decisions compared.
    pub positions: u64,
    /// Total variation from the sequential policy, 0 to 1, mean.
    pub tv_mean: f64,
    /// 95th percentile of it.
    pub tv_p95: f64,
    /// Kullback-Leibler divergence of the policy from the sequential one in nats, half a visit
    /// added to each action, mean.
    pub kl_mean: f64,
    /// 95th percentile of it.
    pub kl_p95: f64,
    /// Share of decisions with the same most visited action.
    pub same_top: f64,
    /// Mean depth of a simulation, in choices below the root.
    pub depth_mean: f64,
    /// Unique evaluations of a round's searches, mean.
    pub evaluations_per_round: f64,
    /// Leaves selected while in flight in the same tree, per simulation.
    pub duplicates_per_simulation: f64,
}

/// The settings that search as a textbook does.
pub fn sequential(settings: &Settings) -> Settings {
    Settings {
        games: 0,
        workers: 0,
        in_flight: 1,
        worlds_in_flight: 1,
        leaves: 1,
        max_batch: 1,
        max_wait_us: 0,
        threads: 1,
        ..settings.clone()
    }
}

struct Collector {
    jobs: std::ops::Range<u64>,
    queue: QueuePort,
    records: Vec<RoundRecord>,
}

impl JobPort for Collector {
    type Error = RunError;

    fn next_job(&mut self) -> Result<Option<Job>, RunError> {
        let job = |number| Job {
            number,
            network: 0,
            entry: 0,
        };
        Ok(self.jobs.next().map(job))
    }

    fn send(&mut self, request: &Request) -> Result<bool, RunError> {
        self.queue.requests.push_back(*request);
        Ok(true)
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, RunError> {
        self.records.push(record.clone());
        Ok(true)
    }
}

/// The settings' network, for batches of up to `max_batch`.
fn batcher(settings: &Settings, max_batch: usize) -> Result<Batcher, RunError> {
    let mut batcher = Batcher::new(max_batch, Duration::ZERO, None);
    batcher.add(0, open_network(settings, max_batch)?);
    Ok(batcher)
}

/// Has the network answer a batch of what is queued; false if that is nothing.
fn answer(batcher: &mut Batcher, queue: &mut QueuePort) -> Result<bool, RunError> {
    Ok(batcher.run(queue)?.is_some())
}

/// Every decision of these rounds.
fn decisions_of(records: &[RoundRecord]) -> Result<Vec<ReferenceDecision>, RunError> {
    let mut positions = Vec::new();
    for record in records {
        for (index, decision) in record.replay()?.decisions.iter().enumerate() {
            positions.push(ReferenceDecision {
                round: decision.before,
                number: record.round,
                decision: index as u64,
                visits: decision.visits.to_vec(),
            });
        }
    }
    Ok(positions)
}

impl Reference {
    /// Plays the first `rounds` rounds of the settings' seed by sequential search, between the
    /// study's `trials`.
    ///
    /// # Errors
    /// When the settings or the weights do not allow it, or the user interrupts the study.
    pub fn play(
        settings: &Settings,
        rounds: u64,
        trials: &Trials,
    ) -> Result<Reference, StudyError> {
        let settings = Settings {
            rounds: Some(rounds),
            ..sequential(settings)
        };
        settings.check()?;
        let settings = settings.resolve();
        let mut batcher = batcher(&settings, 1)?;
        let mut jobs = JobsInFlight::new(&settings).map_err(RunError::from)?;
        let mut port = Collector {
            jobs: 0..rounds,
            queue: QueuePort::default(),
            records: Vec::new(),
        };
        jobs.step(&mut port)?;
        while answer(&mut batcher, &mut port.queue)? {
            trials.check_interrupted()?;
            while let Some(reply) = port.queue.replies.pop() {
                jobs.apply(&reply).map_err(RunError::from)?;
            }
            jobs.step(&mut port)?;
        }
        Ok(Reference {
            positions: decisions_of(&port.records)?,
            rounds,
        })
    }

    /// Searches the positions again as `settings` say, between the study's `trials`, and compares.
    ///
    /// # Errors
    /// When the weights cannot be loaded, or the user interrupts the study.
    pub fn distance(&self, settings: &Settings, trials: &Trials) -> Result<Distance, StudyError> {
        let settings = settings.clone().resolve();
        let most = settings.worlds * settings.leaves;
        let mut batcher = batcher(&settings, most)?;
        let mut search = Search::new(settings.search(), settings.max_legal());
        let mut counts = SearchStats::default();
        let (mut tv, mut kl, mut same) = (Vec::new(), Vec::new(), 0_u32);
        let (mut queue, mut sampler) = (QueuePort::default(), WorldSampler::default());
        for position in &self.positions {
            trials.check_interrupted()?;
            search.start(
                &mut sampler,
                &position.round,
                &Standing::default(),
                settings.seed,
                position.number,
                position.decision,
            );
            loop {
                search.gather();
                while let Some((entry, &position)) = search.request() {
                    let ticket = ticket(0, 0, entry);
                    queue.requests.push_back(Request { ticket, position });
                    search.sent();
                }
                if queue.requests.is_empty() {
                    break;
                }
                while answer(&mut batcher, &mut queue)? {
                    for reply in queue.replies.drain(..) {
                        search.apply(job_and_entry_of(reply.ticket).1, &reply.evaluation);
                    }
                }
            }
            counts += search.take_stats();
            let found = search.result();
            tv.push(total_variation(&position.visits, found.counts()));
            kl.push(divergence(&position.visits, found.counts()));
            same += u32::from(top(&position.visits) == top(found.counts()));
        }
        let per = |amount: u64, by: u64| amount as f64 / by.max(1) as f64;
        Ok(Distance {
            positions: self.positions.len() as u64,
            tv_mean: mean(&tv),
            tv_p95: quantile_unsorted(&tv, 0.95),
            kl_mean: mean(&kl),
            kl_p95: quantile_unsorted(&kl, 0.95),
            same_top: f64::from(same) / self.positions.len().max(1) as f64,
            depth_mean: per(counts.depth_sum, counts.simulations),
            evaluations_per_round: per(counts.evaluations, self.rounds),
            duplicates_per_simulation: per(counts.duplicates, counts.simulations),
        })
    }
}

fn total_variation(p: &[u32], q: &[u32]) -> f64 {
    let (p_sum, q_sum) = (sum(p), sum(q));
    let pairs = p.iter().zip(q);
    let apart = pairs.map(|(&p, &q)| (f64::from(p) / p_sum - f64::from(q) / q_sum).abs());
    apart.sum::<f64>() / 2.0
}

/// Half a visit more for each action, so that an action one of the two never tried is no infinity.
const SMOOTHING: f64 = 0.5;

fn divergence(p: &[u32], q: &[u32]) -> f64 {
    let smooth = |visits: &[u32], n: u32| {
        (f64::from(n) + SMOOTHING) / (sum(visits) + SMOOTHING * visits.len() as f64)
    };
    let pairs = p.iter().zip(q);
    let terms = pairs.map(|(&a, &b)| {
        let (a, b) = (smooth(p, a), smooth(q, b));
        a * (a / b).ln()
    });
    terms.sum::<f64>().max(0.0)
}

fn sum(visits: &[u32]) -> f64 {
    visits.iter().map(|&n| f64::from(n)).sum::<f64>().max(1.0)
}

/// The most visited action, the lowest among equals.
fn top(visits: &[u32]) -> Option<usize> {
    let most = visits.iter().max()?;
    visits.iter().position(|n| n == most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_known_policies() {
        assert_eq!(total_variation(&[1, 3], &[2, 6]), 0.0);
        assert_eq!(total_variation(&[10, 0], &[0, 10]), 1.0);
        assert!((total_variation(&[5, 5], &[10, 0]) - 0.5).abs() < 1e-12);
        assert_eq!(divergence(&[4, 4], &[4, 4]), 0.0);
        let (p, q) = (10.5 / 11.0, 0.5 / 11.0_f64);
        let expected = p * f64::ln(p / q) + q * f64::ln(q / p);
        assert!((divergence(&[10, 0], &[0, 10]) - expected).abs() < 1e-12);
        assert_eq!((top(&[1, 4, 4]), top(&[])), (Some(1), None));
    }
}
