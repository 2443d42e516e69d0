//! One decision as a state machine: gather (select leaves, ask for what is not known) and apply
//! (take an answer; when a tree has all it waits for, expand and back up). Every tree works in
//! *waves* of up to L leaves that are applied together, in the order they were selected, so the
//! outcome is the same in whatever order and rhythm answers arrive.

use super::SearchSettings;
use super::cache::Cache;
use super::root;
use super::stats::SearchStats;
use super::tree::{Leaf, ROOT, Tree};
use super::worlds::WorldSampler;
use crate::game::{MAX_LEGAL, MAX_PLAYERS, Round, Standing, points};
use crate::observation::Position;
use crate::random::{Use, stream};
use crate::wire::Evaluation;
use std::collections::VecDeque;

/// What the search of one decision found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SearchResult {
    policy: [f32; MAX_LEGAL],
    values: [f32; MAX_PLAYERS],
    counts: [u32; MAX_LEGAL],
    legal: usize,
    players: usize,
    has_own_policy: bool,
}

impl SearchResult {
    /// Of these visits by legal action (at most `MAX_LEGAL`), these points by seat (at most
    /// `MAX_PLAYERS`), and the root's own policy, if it has one.
    pub fn new(counts: &[u32], values: &[f32], own_policy: Option<&[f32]>) -> SearchResult {
        let mut result = SearchResult {
            policy: root::policy(counts),
            has_own_policy: own_policy.is_some(),
            values: [0.0; MAX_PLAYERS],
            counts: [0; MAX_LEGAL],
            legal: counts.len(),
            players: values.len(),
        };
        result.values[..values.len()].copy_from_slice(values);
        result.counts[..counts.len()].copy_from_slice(counts);
        if let Some(policy) = own_policy {
            result.policy[..policy.len()].copy_from_slice(policy);
        }
        result
    }

    /// The search's distribution over the legal actions, ascending: what a network is to learn.
    pub fn policy(&self) -> &[f32] {
        &self.policy[..self.legal]
    }

    /// The policy where it says more than the shares of the visits.
    pub fn own_policy(&self) -> Option<&[f32]> {
        self.has_own_policy.then(|| self.policy())
    }

    /// Expected points by absolute seat: the mean over all simulations.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.players]
    }

    /// Visits of each legal action, ascending, all worlds added up; together
    /// `SearchSettings::root_visits`.
    pub fn counts(&self) -> &[u32] {
        &self.counts[..self.legal]
    }
}

/// A leaf of a wave: which node, and the cache entry that answers it (none at a round's end).
struct WaveLeaf {
    node: u32,
    entry: Option<u32>,
}

/// One world: its tree and its wave.
struct World {
    tree: Tree,
    wave: Vec<WaveLeaf>,
    /// Answers the wave still waits for.
    waiting: usize,
}

/// What the worlds of a decision share.
struct DecisionState {
    settings: SearchSettings,
    standing: Standing,
    cache: Cache,
    /// Entries that are to be sent, oldest first.
    outbox: VecDeque<u32>,
    noise: Option<[f32; MAX_LEGAL]>,
    stats: SearchStats,
}

/// The search of one decision. Allocated once for the largest case, restarted for each decision.
pub struct Search {
    worlds: Vec<World>,
    shared: DecisionState,
    legal: usize,
    players: usize,
    cards: usize,
}

impl Search {
    /// Room for `settings`, with at most `max_legal` actions in any decision.
    pub fn new(settings: SearchSettings, max_legal: usize) -> Search {
        let world = || World {
            tree: Tree::new(settings.puct, settings.simulations, max_legal),
            wave: Vec::with_capacity(settings.leaves),
            waiting: 0,
        };
        Search {
            worlds: (0..settings.worlds).map(|_| world()).collect(),
            shared: DecisionState {
                settings,
                standing: Standing::default(),
                // Every simulation asks for at most one leaf, and all worlds share the root's.
                cache: Cache::new(settings.worlds * settings.simulations + 1),
                outbox: VecDeque::with_capacity(settings.worlds * settings.leaves),
                noise: None,
                stats: SearchStats::default(),
            },
            legal: 0,
            players: 0,
            cards: 0,
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
        self.legal = round.legal().count_ones() as usize;
        self.players = round.players();
        self.cards = round.cards();
        debug_assert!(self.legal > 1, "a forced move needs no search");
        let shared = &mut self.shared;
        shared.standing = *standing;
        shared.cache.clear();
        shared.outbox.clear();
        shared.stats.decisions += 1;
        let noise = || stream(seed, Use::Noise, number, decision, 0);
        shared.noise = shared.settings.noise.draw(self.legal, noise);
        sampler.prepare(round);
        for (index, world) in self.worlds.iter_mut().enumerate() {
            let mut rng = stream(seed, Use::World, number, decision, index as u64);
            let hands = sampler.sample(&mut rng);
            world.tree.reset(&round.with_hands(&hands));
            world.wave.clear();
            world.waiting = 0;
        }
    }

    /// Selects leaves until every tree waits for an answer or is finished; with a limit on worlds
    /// in flight, until so many wait.
    pub fn gather(&mut self) {
        let mut open = 0;
        for world in &mut self.worlds {
            while world.waiting == 0 && world.advance(&mut self.shared) {}
            // A tree that waits for nothing now is finished.
            open += usize::from(world.waiting > 0);
            if open > 0 && open == self.shared.settings.worlds_in_flight {
                break;
            }
        }
    }

    /// The oldest leaf still to be sent: its entry number, which names it, and its observation.
    pub fn request(&self) -> Option<(u32, &Position)> {
        let &entry = self.shared.outbox.front()?;
        Some((entry, self.shared.cache.position(entry)))
    }

    /// The request has been sent.
    pub fn sent(&mut self) {
        self.shared.outbox.pop_front();
    }

    /// Whatever was sent may be lost: all that is not answered is to be sent once more.
    pub fn resend(&mut self) {
        let DecisionState { outbox, cache, .. } = &mut self.shared;
        outbox.clear();
        outbox.extend(cache.unanswered());
    }

    /// Takes the network's answer to entry `entry`. False if nothing waits for it.
    pub fn apply(&mut self, entry: u32, evaluation: &Evaluation) -> bool {
        if !self.shared.cache.fulfil(entry, evaluation) {
            return false;
        }
        for world in &mut self.worlds {
            let answered = |leaf: &&WaveLeaf| leaf.entry == Some(entry);
            world.waiting -= world.wave.iter().filter(answered).count();
        }
        true
    }

    /// All worlds have had all their simulations.
    pub fn is_done(&self) -> bool {
        let wanted = self.shared.settings.simulations as u32;
        self.worlds
            .iter()
            .all(|world| world.tree.simulations() == wanted)
    }

    /// What a search that is done has found.
    pub fn result(&self) -> SearchResult {
        let simulations = self.shared.settings.root_visits() as f32;
        let mut counts = [0; MAX_LEGAL];
        let mut sums = [0.0; MAX_PLAYERS];
        for world in &self.worlds {
            for (sum, own) in counts.iter_mut().zip(world.tree.root_visits()) {
                *sum += own;
            }
            for (sum, own) in sums.iter_mut().zip(world.tree.value_sums()) {
                *sum += own;
            }
        }
        let values = sums.map(|sum: f32| points(sum / simulations, self.cards));
        SearchResult::new(&counts[..self.legal], &values[..self.players], None)
    }

    /// The tree of one world, for those who want to look.
    pub fn tree(&self, world: usize) -> &Tree {
        &self.worlds[world].tree
    }

    /// What has been done since the last call.
    pub fn take_stats(&mut self) -> SearchStats {
        std::mem::take(&mut self.shared.stats)
    }
}

impl World {
    /// Finishes a complete wave and selects the next one. False when the world's search is done.
    fn advance(&mut self, shared: &mut DecisionState) -> bool {
        self.finish_wave(shared);
        if !self.tree.is_root_expanded() {
            // The root first: nothing is selected before it is expanded.
            self.ask(ROOT, shared);
            return true;
        }
        let left = shared.settings.simulations - self.tree.simulations() as usize;
        let wanted = shared.settings.leaves.min(left);
        for _ in 0..wanted {
            match self.tree.select() {
                Leaf::Open(node) => self.ask(node, shared),
                Leaf::Over(node) => {
                    self.wave.push(WaveLeaf { node, entry: None });
                    shared.stats.terminal_leaves += 1;
                }
                Leaf::Duplicate => {
                    shared.stats.duplicates += 1;
                    break;
                }
            }
        }
        wanted > 0
    }

    /// Puts `node` into the wave and asks for its evaluation unless it is known or asked for.
    fn ask(&mut self, node: u32, shared: &mut DecisionState) {
        let position = Position::observe(self.tree.round(node), &shared.standing);
        let (entry, is_new) = shared.cache.find_or_add(&position);
        if is_new {
            shared.outbox.push_back(entry);
            shared.stats.evaluations += 1;
        } else {
            shared.stats.cache_hits += 1;
        }
        self.waiting += usize::from(shared.cache.evaluation(entry).is_none());
        let entry = Some(entry);
        self.wave.push(WaveLeaf { node, entry });
    }

    /// Expands and backs up the leaves of a wave whose answers are all there.
    fn finish_wave(&mut self, shared: &mut DecisionState) {
        let DecisionState {
            settings,
            cache,
            noise,
            stats,
            ..
        } = shared;
        for WaveLeaf { node, entry } in self.wave.drain(..) {
            let values = match entry {
                None => self.tree.final_values(node),
                Some(entry) => {
                    let Some(Evaluation { priors, values }) = cache.evaluation(entry) else {
                        unreachable!("a wave is finished only when nothing is waited for");
                    };
                    if node == ROOT {
                        let mix = |noise| settings.noise.mix(priors, noise);
                        let priors = noise.as_ref().map_or(*priors, mix);
                        self.tree.expand(ROOT, &priors, values);
                        continue;
                    }
                    self.tree.expand(node, priors, values)
                }
            };
            stats.depth_sum += u64::from(self.tree.back_up(node, &values));
            stats.simulations += 1;
        }
    }
}
