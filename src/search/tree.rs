//! One world's search tree, in arrays allocated once: nodes hold a state and the network's word on
//! it, edges hold the statistics PUCT chooses by. Values are vectors, one entry per seat; every
//! edge sums the value of *its own mover* (max^n), so each seat maximises its own score.

use super::Tuning;
use crate::game::{MAX_LEGAL, MAX_PLAYERS, Phase, Round, bits, scaled};
use crate::wire::Evaluation;

/// Expected scores by absolute seat, scaled to [-1, 1] (`game::scaled`).
pub type Values = [f32; MAX_PLAYERS];

/// An edge that leads nowhere yet.
const NO_CHILD: u32 = u32::MAX;

/// A state with at least two legal actions, or the end of the round. Moves with a single legal
/// action are made on the way in and never become nodes.
#[derive(Clone, Copy)]
struct Node {
    round: Round,
    first_edge: u32,
    /// 0 until the node is expanded, and for ever at the end of a round.
    edges: u8,
    mover: u8,
    over: bool,
    /// The network's value for the mover, where first-play urgency starts from.
    value: f32,
}

/// One action of a node: 20 bytes.
#[derive(Clone, Copy)]
struct Edge {
    prior: f32,
    value_sum: f32,
    visits: u32,
    /// Selections in flight below this edge, each counted as `virtual_loss` lost visits.
    in_flight: u32,
    child: u32,
}

/// One step of a path: the node, and the edge taken there.
type Step = (u32, u32);

/// Where a selection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// A state the network has not seen; its virtual loss is applied.
    Open(u32),
    /// The round is over here; its virtual loss is applied.
    Over(u32),
    /// A leaf that is in flight already; nothing is left applied.
    Collision,
}

/// The tree of one world. Memory: (simulations + 1) nodes, each with the round's greatest number of
/// legal actions, allocated by `new` for the largest case.
pub struct Tree {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    /// Summed values at the root, by absolute seat.
    value_sums: [f32; MAX_PLAYERS],
    simulations: u32,
}

impl Tree {
    /// Room for a search of `simulations` with at most `max_legal` actions per node.
    pub fn new(simulations: usize, max_legal: usize) -> Tree {
        Tree {
            nodes: Vec::with_capacity(simulations + 1),
            edges: Vec::with_capacity((simulations + 1) * max_legal),
            value_sums: [0.0; MAX_PLAYERS],
            simulations: 0,
        }
    }

    /// Starts over at `round`, the root, which must offer a choice.
    pub fn reset(&mut self, round: &Round) {
        self.nodes.clear();
        self.edges.clear();
        self.value_sums = [0.0; MAX_PLAYERS];
        self.simulations = 0;
        self.add_node(*round);
    }

    fn add_node(&mut self, round: Round) -> u32 {
        self.nodes.push(Node {
            first_edge: 0,
            edges: 0,
            mover: round.mover() as u8,
            over: round.phase() == Phase::Over,
            value: 0.0,
            round,
        });
        (self.nodes.len() - 1) as u32
    }

    /// The state at a node.
    pub fn round(&self, node: u32) -> &Round {
        &self.nodes[node as usize].round
    }

    /// Simulations finished.
    pub fn simulations(&self) -> u32 {
        self.simulations
    }

    /// Has the root been expanded?
    pub fn is_rooted(&self) -> bool {
        self.nodes.first().is_some_and(|root| root.edges > 0)
    }

    /// Gives a node its edges. `noise` (the root's) is mixed into the priors with weight
    /// `fraction`. Returns the value vector by absolute seat, to be backed up.
    pub fn expand(
        &mut self,
        node: u32,
        evaluation: &Evaluation,
        noise: Option<(&[f32; MAX_LEGAL], f32)>,
    ) -> Values {
        let first_edge = self.edges.len() as u32;
        let node = &mut self.nodes[node as usize];
        debug_assert!(node.edges == 0 && !node.over, "expanded twice");
        let count = node.round.legal().count_ones() as usize;
        for action in 0..count {
            let own = evaluation.priors[action];
            let prior = noise.map_or(own, |(noise, fraction)| {
                (1.0 - fraction) * own + fraction * noise[action]
            });
            self.edges.push(Edge {
                prior,
                value_sum: 0.0,
                visits: 0,
                in_flight: 0,
                child: NO_CHILD,
            });
        }
        node.first_edge = first_edge;
        node.edges = count as u8;
        node.value = evaluation.values[0];
        let (players, mover) = (node.round.players(), node.mover as usize);
        let mut values = [0.0; MAX_PLAYERS];
        for place in 0..players {
            values[(mover + place) % players] = evaluation.values[place];
        }
        values
    }

    /// Walks from the root to a leaf by PUCT, applying virtual loss on the way; the steps go to
    /// `path`.
    pub fn select(&mut self, tuning: &Tuning, path: &mut Vec<Step>) -> Leaf {
        path.clear();
        let mut at = 0;
        loop {
            let edge = self.best_edge(at, tuning);
            path.push((at, edge));
            self.edges[edge as usize].in_flight += 1;
            let child = self.edges[edge as usize].child;
            if child == NO_CHILD {
                let leaf = self.add_child(at, edge);
                return if self.nodes[leaf as usize].over {
                    Leaf::Over(leaf)
                } else {
                    Leaf::Open(leaf)
                };
            }
            let node = &self.nodes[child as usize];
            if node.over {
                return Leaf::Over(child);
            }
            if node.edges == 0 {
                self.clear_virtual_loss(path);
                return Leaf::Collision;
            }
            at = child;
        }
    }

    /// Makes the move of `edge`, then every forced one.
    fn add_child(&mut self, parent: u32, edge: u32) -> u32 {
        let Node {
            mut round,
            first_edge,
            ..
        } = self.nodes[parent as usize];
        let nth = (edge - first_edge) as usize;
        let mut legal = round.legal();
        for _ in 0..nth {
            legal &= legal - 1;
        }
        loop {
            round.play(legal.trailing_zeros() as u8);
            legal = round.legal();
            if legal.count_ones() != 1 {
                break;
            }
        }
        let child = self.add_node(round);
        self.edges[edge as usize].child = child;
        child
    }

    /// PUCT with first-play urgency: argmax of Q + c P sqrt(1 + N) / (1 + n), the lowest action
    /// first among equals. An untried action counts as the node's value less a share of the
    /// prior already tried; a selection in flight counts as `virtual_loss` visits of value -1.
    fn best_edge(&self, node: u32, tuning: &Tuning) -> u32 {
        let node = &self.nodes[node as usize];
        let first = node.first_edge as usize;
        let edges = &self.edges[first..first + node.edges as usize];
        let (mut total, mut tried) = (0.0, 0.0);
        for edge in edges {
            let visits = edge.visits as f32 + tuning.virtual_loss * edge.in_flight as f32;
            total += visits;
            tried += if visits > 0.0 { edge.prior } else { 0.0 };
        }
        let explore = tuning.c_puct * f32::sqrt(1.0 + total);
        let untried = node.value - tuning.fpu_reduction * f32::sqrt(tried);
        let (mut best, mut best_score) = (0, f32::NEG_INFINITY);
        for (nth, edge) in edges.iter().enumerate() {
            let lost = tuning.virtual_loss * edge.in_flight as f32;
            let visits = edge.visits as f32 + lost;
            let value = if visits > 0.0 {
                (edge.value_sum - lost) / visits
            } else {
                untried
            };
            let score = value + explore * edge.prior / (1.0 + visits);
            if score > best_score {
                (best, best_score) = (nth, score);
            }
        }
        (first + best) as u32
    }

    /// Takes a selection's virtual loss off again.
    pub fn clear_virtual_loss(&mut self, path: &[Step]) {
        for &(_, edge) in path {
            self.edges[edge as usize].in_flight -= 1;
        }
    }

    /// Adds one simulation's values along its path and clears its virtual loss.
    pub fn back_up(&mut self, path: &[Step], values: &Values) {
        for &(node, edge) in path {
            let mover = self.nodes[node as usize].mover as usize;
            let edge = &mut self.edges[edge as usize];
            edge.in_flight -= 1;
            edge.visits += 1;
            edge.value_sum += values[mover];
        }
        for (sum, value) in self.value_sums.iter_mut().zip(values) {
            *sum += value;
        }
        self.simulations += 1;
    }

    /// The final scores at the end of a round, scaled, by absolute seat.
    pub fn final_values(&self, node: u32) -> Values {
        scaled_scores(&self.nodes[node as usize].round)
    }

    /// Visits of the root's actions, in ascending order of action.
    pub fn root_visits(&self) -> impl Iterator<Item = u32> {
        let root = &self.nodes[0];
        let first = root.first_edge as usize;
        self.edges[first..first + root.edges as usize]
            .iter()
            .map(|edge| edge.visits)
    }

    /// Summed values of all simulations, by absolute seat.
    pub fn value_sums(&self) -> &Values {
        &self.value_sums
    }

    /// True when nothing is in flight: no virtual loss is left anywhere.
    pub fn is_quiet(&self) -> bool {
        self.edges.iter().all(|edge| edge.in_flight == 0)
    }
}

/// Scores of a finished round, scaled.
pub fn scaled_scores(round: &Round) -> Values {
    let scores = round.scores();
    let mut values = [0.0; MAX_PLAYERS];
    for (value, &score) in values.iter_mut().zip(&scores[..round.players()]) {
        *value = scaled(score, round.cards());
    }
    values
}

/// The `nth` legal action of a mask, ascending.
pub fn nth_action(legal: u64, nth: usize) -> Option<u8> {
    bits(legal).nth(nth)
}
