//! One decision as a state machine: gather (select leaves, ask for what is not known) and apply
//! (take an answer; when a tree has all it waits for, expand and back up). Every tree works in
//! *waves* of up to L leaves that are applied together, in the order they were selected, so the
//! outcome is the same in whatever order and rhythm answers arrive.

use super::SearchSettings;
use super::cache::Cache;
use super::tree::{Leaf, Tree};
use super::worlds::WorldSampler;
use crate::game::{MAX_LEGAL, MAX_PLAYERS, Round, Standing, points};
use crate::observation::Position;
use crate::random::{Use, stream};
use crate::wire::Evaluation;
use rand::{Rng, RngExt};
use std::collections::VecDeque;
use std::ops::AddAssign;

/// What searches did, added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Counts {
    /// Moves made: bids and cards, forced ones too.
    pub moves: u64,
    /// Decisions searched.
    pub decisions: u64,
    /// Simulations finished.
    pub simulations: u64,
    /// Leaves sent to the network, each observation once per decision.
    pub evaluations: u64,
    /// Leaves whose observation had been asked for already in the same decision.
    pub cache_hits: u64,
    /// Selections that fell on a leaf of the same tree already in flight; never sent.
    pub duplicates: u64,
    /// Simulations that ended at the end of a round.
    pub terminal_leaves: u64,
    /// Summed depth of simulations, in choices below the root.
    pub depth_sum: u64,
    /// Rounds finished.
    pub rounds: u64,
    /// Evaluations of the rounds finished: with `rounds`, what a round takes.
    pub round_evaluations: u64,
}

impl AddAssign for Counts {
    /// Saturates: the counts of another process are whatever it wrote.
    fn add_assign(&mut self, other: Counts) {
        self.moves = self.moves.saturating_add(other.moves);
        self.decisions = self.decisions.saturating_add(other.decisions);
        self.simulations = self.simulations.saturating_add(other.simulations);
        self.evaluations = self.evaluations.saturating_add(other.evaluations);
        self.cache_hits = self.cache_hits.saturating_add(other.cache_hits);
        self.duplicates = self.duplicates.saturating_add(other.duplicates);
        self.terminal_leaves = self.terminal_leaves.saturating_add(other.terminal_leaves);
        self.depth_sum = self.depth_sum.saturating_add(other.depth_sum);
        self.rounds = self.rounds.saturating_add(other.rounds);
        self.round_evaluations = self
            .round_evaluations
            .saturating_add(other.round_evaluations);
    }
}

impl Counts {
    /// What was done since `earlier`, a state of the same counts.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let mut words: [u64; size_of::<Counts>() / 8] = bytemuck::cast(*self);
        for (word, &before) in words
            .iter_mut()
            .zip(bytemuck::cast_ref::<_, [u64; size_of::<Counts>() / 8]>(
                earlier,
            ))
        {
            *word = word.saturating_sub(before);
        }
        bytemuck::cast(words)
    }
}

/// A leaf of the wave in hand: which node, and the cache entry that answers it (none at a round's
/// end).
struct WaveLeaf {
    node: u32,
    entry: Option<u32>,
    path: Vec<(u32, u32)>,
}

/// One world: its tree and its wave.
struct World {
    tree: Tree,
    wave: Vec<WaveLeaf>,
    wave_len: usize,
    /// Answers the wave still waits for.
    waiting: usize,
}

/// The search of one decision. Allocated once for the largest case, restarted for each decision.
pub struct Search {
    settings: SearchSettings,
    standing: Standing,
    worlds: Vec<World>,
    cache: Cache,
    /// Entries that are to be sent, oldest first.
    outbox: VecDeque<u32>,
    noise: Option<[f32; MAX_LEGAL]>,
    legal_count: usize,
    cards: usize,
    counts: Counts,
}

/// The longest path: every bid and card of a full deal.
const MAX_DEPTH: usize = MAX_PLAYERS + 52;

impl Search {
    /// Room for `settings`, with at most `max_legal` actions in any decision.
    pub fn new(settings: SearchSettings, max_legal: usize) -> Search {
        let leaf = || WaveLeaf {
            node: 0,
            entry: None,
            path: Vec::with_capacity(MAX_DEPTH),
        };
        let world = || World {
            tree: Tree::new(settings.simulations, max_legal),
            wave: (0..settings.leaves).map(|_| leaf()).collect(),
            wave_len: 0,
            waiting: 0,
        };
        Search {
            settings,
            standing: Standing::default(),
            worlds: (0..settings.worlds).map(|_| world()).collect(),
            // Every simulation asks for at most one leaf, and all worlds share the root's.
            cache: Cache::new(settings.worlds * settings.simulations + 1),
            outbox: VecDeque::with_capacity(settings.worlds * settings.leaves),
            noise: None,
            legal_count: 0,
            cards: 0,
            counts: Counts::default(),
        }
    }

    /// Starts decision number `decision` of round number `number`: samples the worlds, with the
    /// help of `sampler`, whose state does not matter. The round must offer its mover a choice.
    pub fn start(
        &mut self,
        sampler: &mut WorldSampler,
        round: &Round,
        standing: &Standing,
        seed: u64,
        number: u64,
        decision: u64,
    ) {
        self.standing = *standing;
        self.legal_count = round.legal().count_ones() as usize;
        debug_assert!(self.legal_count > 1, "a forced move needs no search");
        self.cards = round.cards();
        self.cache.clear();
        self.outbox.clear();
        self.counts.decisions += 1;
        self.noise = (self.settings.tuning.noise_fraction > 0.0).then(|| {
            let mut rng = stream(seed, Use::Noise, number, decision, 0);
            dirichlet(self.settings.tuning.noise_alpha, self.legal_count, &mut rng)
        });
        sampler.prepare(round);
        for (index, world) in self.worlds.iter_mut().enumerate() {
            let mut rng = stream(seed, Use::World, number, decision, index as u64);
            let hands = sampler.sample(&mut rng);
            world.tree.reset(&round.with_hands(&hands));
            world.wave_len = 0;
            world.waiting = 0;
        }
    }

    /// Selects leaves until every tree waits for an answer or is finished; with a limit on worlds
    /// in flight, until so many wait.
    pub fn gather(&mut self) {
        let mut open = 0;
        for index in 0..self.worlds.len() {
            while self.worlds[index].waiting == 0 && self.advance(index) {}
            // A tree that waits for nothing now is finished.
            open += usize::from(self.worlds[index].waiting > 0);
            if open > 0 && open == self.settings.worlds_in_flight {
                break;
            }
        }
    }

    /// Finishes a complete wave and selects the next one. False when the world's search is done.
    fn advance(&mut self, index: usize) -> bool {
        self.finish_wave(index);
        let done = self.worlds[index].tree.simulations() as usize;
        if !self.worlds[index].tree.is_rooted() {
            // The root first: nothing is selected before it is expanded.
            self.ask(index, 0, 0);
            return true;
        }
        let wanted = self.settings.leaves.min(self.settings.simulations - done);
        for place in 0..wanted {
            let world = &mut self.worlds[index];
            let path = &mut world.wave[place].path;
            match world.tree.select(&self.settings.tuning, path) {
                Leaf::Open(node) => self.ask(index, place, node),
                Leaf::Over(node) => {
                    let leaf = &mut self.worlds[index].wave[place];
                    leaf.node = node;
                    leaf.entry = None;
                    self.worlds[index].wave_len = place + 1;
                    self.counts.terminal_leaves += 1;
                }
                Leaf::Collision => {
                    self.counts.duplicates += 1;
                    break;
                }
            }
        }
        wanted > 0
    }

    /// Puts `node` into the wave at `place` and asks for its evaluation unless it is known or asked
    /// for.
    fn ask(&mut self, index: usize, place: usize, node: u32) {
        let world = &mut self.worlds[index];
        let position = Position::observe(world.tree.round(node), &self.standing);
        let (entry, new) = self.cache.find_or_add(&position);
        if new {
            self.outbox.push_back(entry);
            self.counts.evaluations += 1;
        } else {
            self.counts.cache_hits += 1;
        }
        world.waiting += usize::from(self.cache.evaluation(entry).is_none());
        let leaf = &mut world.wave[place];
        leaf.node = node;
        leaf.entry = Some(entry);
        world.wave_len = place + 1;
    }

    /// Expands and backs up the leaves of a wave whose answers are all there.
    fn finish_wave(&mut self, index: usize) {
        let World {
            tree,
            wave,
            wave_len,
            ..
        } = &mut self.worlds[index];
        for leaf in &mut wave[..*wave_len] {
            let values = match leaf.entry {
                None => tree.final_values(leaf.node),
                Some(entry) => {
                    let Some(evaluation) = self.cache.evaluation(entry) else {
                        unreachable!("a wave is finished only when nothing is waited for");
                    };
                    let root = leaf.node == 0;
                    let noise = self.noise.as_ref().filter(|_| root);
                    let noise = noise.map(|noise| (noise, self.settings.tuning.noise_fraction));
                    let values = tree.expand(leaf.node, evaluation, noise);
                    if root {
                        continue;
                    }
                    values
                }
            };
            tree.back_up(&leaf.path, &values);
            self.counts.simulations += 1;
            self.counts.depth_sum += leaf.path.len() as u64;
        }
        *wave_len = 0;
    }

    /// The oldest leaf still to be sent: its entry number, which names it, and its observation.
    pub fn request(&self) -> Option<(u32, &Position)> {
        let &entry = self.outbox.front()?;
        Some((entry, self.cache.position(entry)))
    }

    /// The request has been sent.
    pub fn sent(&mut self) {
        self.outbox.pop_front();
    }

    /// Whatever was sent may be lost: all that is not answered is to be sent once more.
    pub fn resend(&mut self) {
        self.outbox.clear();
        self.outbox.extend(self.cache.unanswered());
    }

    /// Takes the network's answer to entry `entry`. False if nothing waits for it.
    pub fn apply(&mut self, entry: u32, evaluation: &Evaluation) -> bool {
        if !self.cache.fulfil(entry, evaluation) {
            return false;
        }
        for world in &mut self.worlds {
            let wave = &world.wave[..world.wave_len];
            let answered = wave.iter().filter(|leaf| leaf.entry == Some(entry)).count();
            world.waiting -= answered;
        }
        true
    }

    /// All worlds have had all their simulations.
    pub fn is_done(&self) -> bool {
        let wanted = self.settings.simulations as u32;
        self.worlds
            .iter()
            .all(|world| world.tree.simulations() == wanted)
    }

    /// Visits of each legal action in ascending order, all worlds added up; their sum is
    /// worlds x simulations.
    pub fn visits(&self) -> ([u32; MAX_LEGAL], usize) {
        let mut visits = [0; MAX_LEGAL];
        for world in &self.worlds {
            for (sum, own) in visits.iter_mut().zip(world.tree.root_visits()) {
                *sum += own;
            }
        }
        (visits, self.legal_count)
    }

    /// Expected points of each seat, by absolute seat: the mean over all simulations.
    pub fn values(&self) -> [f32; MAX_PLAYERS] {
        let simulations = (self.settings.worlds * self.settings.simulations) as f32;
        let mut values = [0.0; MAX_PLAYERS];
        for (seat, value) in values.iter_mut().enumerate() {
            let sums = self
                .worlds
                .iter()
                .map(|world| world.tree.value_sums()[seat]);
            *value = points(sums.sum::<f32>() / simulations, self.cards);
        }
        values
    }

    /// The tree of one world, for those who want to look.
    pub fn tree(&self, world: usize) -> &Tree {
        &self.worlds[world].tree
    }

    /// What has been done since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
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
