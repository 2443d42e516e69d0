//! One world's search tree, in arrays allocated once. Values are vectors, one entry per seat; every
//! edge sums the value of *its own mover* (max^n), so each seat maximises its own score.

use super::select::{Edge, Puct};
use crate::game::{MAX_PLAYERS, Phase, Round, scaled};
use std::ops::Range;

/// Expected scores by absolute seat, scaled to [-1, 1] (`game::scaled`).
pub type Values = [f32; MAX_PLAYERS];

/// The node that every simulation starts from.
pub const ROOT: u32 = 0;
/// The child of an edge that has none yet: no edge leads to the root.
const NO_CHILD: u32 = ROOT;

/// What selection needs of a state with at least two legal actions, or of the end of the round.
/// Moves with a single legal action are made on the way in and never become nodes.
#[derive(Clone, Copy, Default)]
struct Node {
    /// The node above, and the edge from there.
    parent: u32,
    parent_edge: u32,
    first_edge: u32,
    /// 0 until the node is expanded, and for ever at the end of a round.
    edges: u8,
    mover: u8,
    over: bool,
    /// The network's value for the mover.
    value: f32,
    /// What an untried action counts as while nothing is in flight.
    untried: f32,
}

impl Node {
    fn edges(&self) -> Range<usize> {
        let first = self.first_edge as usize;
        first..first + self.edges as usize
    }
}

/// Where a selection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// A state without an evaluation; it is in flight now.
    Open(u32),
    /// The round is over here; the simulation is in flight now.
    Over(u32),
    /// A leaf that is in flight already; nothing has changed.
    Duplicate,
}

/// The tree of one world. Memory: (simulations + 1) nodes, each with the round's greatest number of
/// legal actions, allocated by `new` for the largest case.
pub struct Tree {
    puct: Puct,
    nodes: Vec<Node>,
    /// The state at each node.
    rounds: Vec<Round>,
    edges: Vec<Edge>,
    /// Summed values of all simulations, by absolute seat.
    value_sums: Values,
    simulations: u32,
    in_flight: u32,
}

impl Tree {
    /// Room for a search of `simulations` with at most `max_legal` actions per node.
    pub fn new(puct: Puct, simulations: usize, max_legal: usize) -> Tree {
        Tree {
            puct,
            nodes: Vec::with_capacity(simulations + 1),
            rounds: Vec::with_capacity(simulations + 1),
            edges: Vec::with_capacity((simulations + 1) * max_legal),
            value_sums: [0.0; MAX_PLAYERS],
            simulations: 0,
            in_flight: 0,
        }
    }

    /// Starts over at `round`, the root, which must offer a choice.
    pub fn reset(&mut self, round: &Round) {
        self.nodes.clear();
        self.rounds.clear();
        self.edges.clear();
        self.value_sums = [0.0; MAX_PLAYERS];
        self.simulations = 0;
        self.in_flight = 0;
        self.add_node(*round, ROOT, 0);
    }

    fn add_node(&mut self, round: Round, parent: u32, parent_edge: u32) -> u32 {
        self.nodes.push(Node {
            parent,
            parent_edge,
            mover: round.mover() as u8,
            over: round.phase() == Phase::Over,
            ..Node::default()
        });
        self.rounds.push(round);
        (self.nodes.len() - 1) as u32
    }

    /// The state at a node.
    pub fn round(&self, node: u32) -> &Round {
        &self.rounds[node as usize]
    }

    /// Simulations finished.
    pub fn simulations(&self) -> u32 {
        self.simulations
    }

    /// Has the root been expanded?
    pub fn is_root_expanded(&self) -> bool {
        !self.edges.is_empty()
    }

    /// Gives a node its edges. `priors` are those of its legal actions, ascending; `values` the
    /// network's, by seat relative to the mover. Returns the values by absolute seat, to be
    /// backed up.
    pub fn expand(&mut self, node: u32, priors: &[f32], values: &Values) -> Values {
        let round = &self.rounds[node as usize];
        let (legal, players) = (round.legal().count_ones() as usize, round.players());
        let node = &mut self.nodes[node as usize];
        debug_assert!(node.edges == 0 && !node.over, "expanded twice");
        node.first_edge = self.edges.len() as u32;
        node.edges = legal as u8;
        node.value = values[0];
        node.untried = self.puct.untried(values[0], 0.0);
        self.edges.extend(priors[..legal].iter().map(|&prior| Edge {
            prior,
            ..Edge::default()
        }));
        let mut by_seat = [0.0; MAX_PLAYERS];
        let mut seat = node.mover as usize;
        for &value in &values[..players] {
            by_seat[seat] = value;
            seat = if seat + 1 == players { 0 } else { seat + 1 };
        }
        by_seat
    }

    /// Walks from the root to a leaf by PUCT, and has it in flight.
    pub fn select(&mut self) -> Leaf {
        let none_in_flight = self.in_flight == 0;
        self.in_flight += 1;
        let (mut at, mut visits) = (ROOT, self.simulations as f32);
        loop {
            let node = &self.nodes[at as usize];
            let edges = &mut self.edges[node.edges()];
            let nth = if none_in_flight {
                self.puct.best(edges, visits, node.untried)
            } else {
                self.puct.best_with_virtual_loss(edges, node.value)
            };
            let edge = &mut edges[nth];
            edge.in_flight += 1;
            if edge.child == NO_CHILD {
                let leaf = self.add_child(at, nth);
                return if self.nodes[leaf as usize].over {
                    Leaf::Over(leaf)
                } else {
                    Leaf::Open(leaf)
                };
            }
            // The first of an edge's visits ended at its child.
            (at, visits) = (edge.child, edge.visits - 1.0);
            let child = &self.nodes[at as usize];
            if child.over {
                return Leaf::Over(at);
            }
            if child.edges == 0 {
                if edge.in_flight == 1 {
                    return Leaf::Open(at);
                }
                self.undo_select(at);
                return Leaf::Duplicate;
            }
        }
    }

    /// Makes the `nth` legal move of `parent`, then every forced one.
    fn add_child(&mut self, parent: u32, nth: usize) -> u32 {
        let mut round = self.rounds[parent as usize];
        let mut legal = round.legal();
        for _ in 0..nth {
            legal &= legal - 1;
        }
        loop {
            round.play(legal.trailing_zeros() as u8);
            legal = round.legal();
            if !legal.is_power_of_two() {
                break;
            }
        }
        let edge = self.nodes[parent as usize].first_edge + nth as u32;
        let child = self.add_node(round, parent, edge);
        self.edges[edge as usize].child = child;
        child
    }

    /// Undoes the selection that led to `leaf`: it is in flight no more.
    pub fn undo_select(&mut self, leaf: u32) {
        self.in_flight -= 1;
        let mut node = leaf;
        while node != ROOT {
            let from = &self.nodes[node as usize];
            self.edges[from.parent_edge as usize].in_flight -= 1;
            node = from.parent;
        }
    }

    /// Finishes the simulation that led to `leaf`: adds its values to every edge on the way.
    /// Returns how many those are.
    pub fn back_up(&mut self, leaf: u32, values: &Values) -> u32 {
        self.in_flight -= 1;
        let (mut at, mut depth) = (leaf, 0);
        while at != ROOT {
            let node = self.nodes[at as usize];
            at = node.parent;
            let mover = self.nodes[at as usize].mover as usize;
            let edge = &mut self.edges[node.parent_edge as usize];
            edge.in_flight -= 1;
            edge.visits += 1.0;
            edge.value_sum += values[mover];
            edge.value_mean = edge.value_sum / edge.visits;
            if edge.visits == 1.0 {
                self.update_untried(at);
            }
            depth += 1;
        }
        for (sum, value) in self.value_sums.iter_mut().zip(values) {
            *sum += value;
        }
        self.simulations += 1;
        depth
    }

    fn update_untried(&mut self, node: u32) {
        let node = &mut self.nodes[node as usize];
        let mut tried = 0.0;
        for edge in &self.edges[node.edges()] {
            tried += if edge.visits > 0.0 { edge.prior } else { 0.0 };
        }
        node.untried = self.puct.untried(node.value, tried);
    }

    /// The final scores at the end of a round, scaled, by absolute seat.
    pub fn final_values(&self, node: u32) -> Values {
        scaled_scores(self.round(node))
    }

    /// Visits of the root's actions, in ascending order of action.
    pub fn root_visits(&self) -> impl Iterator<Item = u32> {
        let edges = &self.edges[self.nodes[ROOT as usize].edges()];
        edges.iter().map(|edge| edge.visits as u32)
    }

    /// Summed values of all simulations, by absolute seat.
    pub fn value_sums(&self) -> &Values {
        &self.value_sums
    }

    /// True when nothing is in flight: no virtual loss is left anywhere.
    pub fn has_none_in_flight(&self) -> bool {
        self.in_flight == 0 && self.edges.iter().all(|edge| edge.in_flight == 0)
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
