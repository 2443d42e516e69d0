//! The search against its oracles: exhaustive max^n on tiny deals, and a plain sequential loop
//! written without waves, caches or tickets.
#![allow(clippy::unwrap_used)]

#[path = "support/exhaustive.rs"]
mod exhaustive;
mod support;

use exhaustive::{Outcomes, exhaustive};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::*;
use ringmaster::observation::Position;
use ringmaster::random::{Use, stream};
use ringmaster::search::*;
use ringmaster::settings::Settings;
use ringmaster::wire::Evaluation;
use std::ops::Range;
use support::*;

type Network = fn(&Position) -> Evaluation;

/// The default search of so many worlds, simulations and leaves, without noise.
fn settings(worlds: usize, simulations: usize, leaves: usize) -> SearchSettings {
    let mut settings = SearchSettings {
        worlds,
        simulations,
        leaves,
        ..Settings::default().search()
    };
    settings.noise.fraction = 0.0;
    settings
}

fn observe(round: &Round) -> Position {
    Position::observe(round, &Standing::default())
}

/// A tree at this root, expanded.
fn tree(puct: Puct, simulations: usize, root: &Round, network: Network) -> Tree {
    let mut tree = Tree::new(puct, simulations, MAX_LEGAL);
    tree.reset(root);
    let Evaluation { priors, values } = network(&observe(root));
    tree.expand(ROOT, &priors, &values);
    tree
}

/// One simulation, from the selection to the backing up.
fn simulate(tree: &mut Tree, network: Network) {
    let (leaf, values) = match tree.select() {
        Leaf::Over(leaf) => (leaf, tree.final_values(leaf)),
        Leaf::Open(leaf) => {
            let Evaluation { priors, values } = network(&observe(tree.round(leaf)));
            (leaf, tree.expand(leaf, &priors, &values))
        }
        Leaf::Duplicate => unreachable!("nothing is in flight"),
    };
    tree.back_up(leaf, &values);
}

/// Random positions with a choice, from deals of many shapes.
fn positions(count: usize, seed: u64) -> Vec<Round> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let tables = [(4, 5), (3, 2), (4, 13), (8, 6), (5, 3), (3, 17), (6, 4)];
    let mut found = Vec::new();
    for nth in 0.. {
        let (players, cards) = tables[nth % tables.len()];
        let mut round = deal(players, cards, Rules::default(), &mut rng);
        let moves = rng.random_range(0..players * (cards + 1));
        if play_to_choice(&mut round, &mut rng, moves) {
            found.push(round);
        }
        if found.len() == count {
            break;
        }
    }
    found
}

/// Runs a search. With `shuffle`, a seed, answers come some at a time in a random order, and now
/// and then all that is in flight is lost and sent once more.
fn run(search: &mut Search, round: &Round, number: u64, shuffle: Option<u64>) -> Vec<u32> {
    let mut rng = shuffle.map(Xoshiro256PlusPlus::seed_from_u64);
    let mut draw = |range: Range<usize>| match &mut rng {
        Some(rng) => rng.random_range(range),
        None => range.start,
    };
    let send = |search: &mut Search, in_flight: &mut Vec<(u32, Position)>| {
        while let Some((entry, &position)) = search.request() {
            in_flight.push((entry, position));
            search.sent();
        }
    };
    let (mut sampler, standing) = (WorldSampler::default(), Standing::default());
    search.start(&mut sampler, round, &standing, 7, number, 0);
    let mut in_flight: Vec<(u32, Position)> = Vec::new();
    search.gather();
    while !search.is_done() {
        send(search, &mut in_flight);
        if draw(1..21) == 20 {
            let mut lost = std::mem::take(&mut in_flight);
            search.resend();
            send(search, &mut in_flight);
            lost.sort_by_key(|&(entry, _)| entry);
            assert_eq!(in_flight, lost);
        }
        assert!(
            !in_flight.is_empty(),
            "a search that is not done waits for something"
        );
        for _ in 0..draw(1..in_flight.len() + 1) {
            let (entry, position) = in_flight.remove(draw(0..in_flight.len()));
            let evaluation = scrambled(&position);
            assert!(search.apply(entry, &evaluation));
            assert!(!search.apply(entry, &evaluation), "an answer is taken once");
        }
        search.gather();
    }
    let result = search.result();
    let counts = result.counts();
    let sum = counts.iter().sum::<u32>() as f32;
    let shares: Vec<f32> = counts.iter().map(|&count| count as f32 / sum).collect();
    assert_eq!(result.policy(), shares);
    assert_eq!(result.values().len(), round.players());
    counts.to_vec()
}

/// The plain loop: one world, one leaf, one simulation after the other, recursion, no sharing.
mod plain {
    use super::*;

    pub struct Node {
        pub round: Round,
        pub edges: Vec<Edge>,
        pub value: f32,
    }

    pub struct Edge {
        pub action: u8,
        pub prior: f32,
        pub visits: u32,
        pub value_sum: f32,
        pub child: Option<Box<Node>>,
    }

    pub fn expand(round: Round) -> (Node, Values) {
        let mut node = Node {
            round,
            edges: Vec::new(),
            value: 0.0,
        };
        if round.phase() == Phase::Over {
            return (node, scaled_scores(&round));
        }
        let evaluation = scrambled(&observe(&round));
        node.value = evaluation.values[0];
        let actions = bits(round.legal()).zip(evaluation.priors);
        node.edges.extend(actions.map(|(action, prior)| Edge {
            action,
            prior,
            visits: 0,
            value_sum: 0.0,
            child: None,
        }));
        let (players, mover) = (round.players(), round.mover());
        let mut values = [0.0; MAX_PLAYERS];
        for (seat, value) in values.iter_mut().enumerate().take(players) {
            *value = evaluation.values[(seat + players - mover) % players];
        }
        (node, values)
    }

    fn best_edge(node: &Node, s: &Puct) -> usize {
        let total: f32 = node.edges.iter().map(|edge| edge.visits as f32).sum();
        let tried = node.edges.iter().filter(|edge| edge.visits > 0);
        let tried: f32 = tried.map(|edge| edge.prior).sum();
        let untried = node.value - s.fpu_reduction * tried.sqrt();
        let explore = s.c_puct * (1.0 + total).sqrt();
        let mut best = (0, f32::NEG_INFINITY);
        for (nth, edge) in node.edges.iter().enumerate() {
            let n = edge.visits as f32;
            let q = if edge.visits > 0 {
                edge.value_sum / n
            } else {
                untried
            };
            let score = q + explore * edge.prior / (1.0 + n);
            if score > best.1 {
                best = (nth, score);
            }
        }
        best.0
    }

    pub fn simulate(node: &mut Node, s: &Puct) -> Values {
        if node.round.phase() == Phase::Over {
            return scaled_scores(&node.round);
        }
        let best = best_edge(node, s);
        let mover = node.round.mover();
        let edge = &mut node.edges[best];
        let values = match &mut edge.child {
            Some(child) => simulate(child, s),
            None => {
                let mut round = node.round;
                round.play(edge.action);
                while round.legal().count_ones() == 1 {
                    round.play(round.legal().trailing_zeros() as u8);
                }
                let (child, values) = expand(round);
                edge.child = Some(Box::new(child));
                values
            }
        };
        edge.visits += 1;
        edge.value_sum += values[mover];
        values
    }

    /// Visits added up over the worlds, and the root's value sums of each world.
    pub fn search(round: &Round, number: u64, s: &SearchSettings) -> (Vec<u32>, Vec<Values>) {
        let mut visits = vec![0; round.legal().count_ones() as usize];
        let mut sums = Vec::new();
        for world in 0..s.worlds {
            let mut sampler = WorldSampler::default();
            sampler.prepare(round);
            let hands = sampler.sample(&mut stream(7, Use::World, number, 0, world as u64));
            let (mut root, _) = expand(round.with_hands(&hands));
            let mut sum = [0.0; MAX_PLAYERS];
            for _ in 0..s.simulations {
                let values = simulate(&mut root, &s.puct);
                sum.iter_mut()
                    .zip(values)
                    .for_each(|(sum, value)| *sum += value);
            }
            for (sum, edge) in visits.iter_mut().zip(&root.edges) {
                *sum += edge.visits;
            }
            sums.push(sum);
        }
        (visits, sums)
    }
}

#[test]
fn one_leaf_in_any_interleaving_is_the_sequential_search_bit_for_bit() {
    let s = settings(3, 40, 1);
    for (number, round) in positions(60, 1).iter().enumerate() {
        let (visits, sums) = plain::search(round, number as u64, &s);
        assert_eq!(u64::from(visits.iter().sum::<u32>()), s.root_visits());
        let mut search = Search::new(s, MAX_LEGAL);
        for shuffle in [None, Some(1), Some(2)] {
            assert_eq!(run(&mut search, round, number as u64, shuffle), visits);
            for (world, sum) in sums.iter().enumerate() {
                let own = search.tree(world).value_sums();
                assert_eq!(
                    own.map(f32::to_bits),
                    sum.map(f32::to_bits),
                    "world {world}"
                );
            }
        }
        let counts = search.take_stats();
        assert_eq!(
            (counts.decisions, counts.simulations, counts.duplicates),
            (3, 360, 0)
        );
        assert!(counts.cache_hits >= 3 * 2, "worlds share the root");
        assert_eq!(
            counts.evaluations + counts.cache_hits + counts.terminal_leaves,
            3 * (120 + 3)
        );
    }
}

#[test]
fn many_leaves_do_not_depend_on_the_order_of_answers() {
    let s = settings(2, 50, 10);
    for (number, round) in positions(30, 2).iter().enumerate() {
        let mut search = Search::new(s, MAX_LEGAL);
        let first = run(&mut search, round, number as u64, None);
        assert_eq!(first.iter().sum::<u32>(), 100);
        for world in 0..2 {
            assert!(
                search.tree(world).has_none_in_flight(),
                "virtual loss is left behind"
            );
        }
        for shuffle in [3, 4] {
            assert_eq!(run(&mut search, round, number as u64, Some(shuffle)), first);
        }
    }
}

#[test]
fn ten_leaves_stay_close_to_one() {
    // Total variation distance of the policies (visits / sum), on the same positions and worlds.
    let rounds = positions(100, 3);
    let mean_distance = |leaves: usize, uniform: bool| {
        let mut total = 0.0;
        for (number, round) in rounds.iter().enumerate() {
            let mut one = Search::new(settings(3, 100, 1), MAX_LEGAL);
            let exact = run(&mut one, round, number as u64, None);
            let mut many = Search::new(settings(3, 100, leaves), MAX_LEGAL);
            let mut other = run(&mut many, round, number as u64, None);
            if uniform {
                let each = 300 / other.len() as u32;
                other.fill(each);
            }
            let apart: i64 = exact
                .iter()
                .zip(&other)
                .map(|(&a, &b)| (i64::from(a) - i64::from(b)).abs())
                .sum();
            total += apart as f64 / 600.0;
        }
        total / rounds.len() as f64
    };
    let (ten, one, uniform) = (
        mean_distance(10, false),
        mean_distance(1, false),
        mean_distance(1, true),
    );
    println!(
        "mean total variation distance from sequential: L = 1 {one:.4}, L = 10 {ten:.4}, \
         a uniform policy {uniform:.4}"
    );
    assert_eq!(one, 0.0);
    assert!(ten < 0.12, "L = 10 is {ten} away");
    assert!(
        uniform > 2.0 * ten,
        "a uniform policy ({uniform}) must not look like a search ({ten})"
    );
}

#[test]
fn virtual_loss_leaves_no_trace() {
    // Selecting and taking back any number of leaves must not change what comes after.
    let puct = settings(1, 60, 1).puct;
    for round in positions(40, 4) {
        let mut plain = tree(puct, 60, &round, scrambled);
        let mut disturbed = tree(puct, 60, &round, scrambled);
        for _ in 0..25 {
            simulate(&mut plain, scrambled);
            simulate(&mut disturbed, scrambled);
        }
        // Three leaves in flight, taken back in another order; their nodes stay, unexpanded.
        let leaves = [(); 3].map(|()| disturbed.select());
        assert!(!disturbed.has_none_in_flight());
        for nth in [1, 0, 2] {
            if let Leaf::Open(leaf) | Leaf::Over(leaf) = leaves[nth] {
                disturbed.undo_select(leaf);
            }
        }
        assert!(disturbed.has_none_in_flight());
        for _ in 0..25 {
            simulate(&mut plain, scrambled);
            simulate(&mut disturbed, scrambled);
            let found = |tree: &Tree| (tree.root_visits().collect::<Vec<_>>(), *tree.value_sums());
            assert_eq!(found(&plain), found(&disturbed));
        }
    }
}

/// (Averages converge slowly where an opponent loses a single point by its second-best reply, hence
/// the many simulations for two cards.) Tiny deals, where the best action is certain: better for
/// its mover than any other, however others break their ties.
fn decided_deals(players: usize, cards: usize, want: usize, seed: u64) -> Vec<(Round, Vec<bool>)> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut found = Vec::new();
    while found.len() < want {
        let table = Table {
            players,
            cards,
            trump_turn: rng.random_range(0..5),
            dealer: rng.random_range(0..players),
        };
        let mut round = Round::deal(table, Rules::default(), &mut rng).unwrap();
        let moves = rng.random_range(0..players * 2);
        if !play_to_choice(&mut round, &mut rng, moves) {
            continue;
        }
        let mover = round.mover();
        let outcomes: Vec<Outcomes> = bits(round.legal())
            .map(|action| {
                let mut next = round;
                next.play(action);
                exhaustive(&next)
            })
            .collect();
        let assured = outcomes
            .iter()
            .map(|o| o.low[mover])
            .fold(f32::NEG_INFINITY, f32::max);
        let optimal: Vec<bool> = outcomes.iter().map(|o| o.low[mover] == assured).collect();
        let decided = outcomes
            .iter()
            .zip(&optimal)
            .all(|(o, &best)| best || o.high[mover] < assured);
        if decided && optimal.contains(&false) {
            found.push((round, optimal));
        }
    }
    found
}

#[test]
fn search_converges_to_an_optimal_action_of_exhaustive_max_n() {
    for (players, cards, simulations) in [
        (3, 1, 1_000),
        (4, 1, 1_000),
        (3, 2, 150_000),
        (4, 2, 150_000),
    ] {
        for (round, optimal) in decided_deals(players, cards, 25, (players * 10 + cards) as u64) {
            let puct = Puct {
                c_puct: 1.0,
                ..settings(1, simulations, 1).puct
            };
            let mut tree = tree(puct, simulations, &round, ignorant);
            for _ in 0..simulations {
                simulate(&mut tree, ignorant);
            }
            let visits: Vec<u32> = tree.root_visits().collect();
            let chosen = (0..visits.len()).max_by_key(|&nth| visits[nth]).unwrap();
            assert!(
                optimal[chosen],
                "{players} players, {cards} cards: visits {visits:?}, optimal {optimal:?} \
                 in {round:?}"
            );
        }
    }
}

#[test]
fn noise_is_mixed_into_the_root_only_and_sums_to_one() {
    let mut with_noise = settings(2, 30, 1);
    with_noise.noise.fraction = 0.5;
    let (mut differ, rounds) = (0, positions(20, 6));
    for (number, round) in rounds.iter().enumerate() {
        let mut noisy = Search::new(with_noise, MAX_LEGAL);
        let mut calm = Search::new(settings(2, 30, 1), MAX_LEGAL);
        let a = run(&mut noisy, round, number as u64, None);
        let b = run(&mut calm, round, number as u64, None);
        assert_eq!(a.iter().sum::<u32>(), 60);
        assert_eq!(
            a,
            run(&mut noisy, round, number as u64, Some(9)),
            "noise is a function of the counters"
        );
        differ += usize::from(a != b);
    }
    assert!(differ > 5, "noise changed {differ} of 20 searches");
}
