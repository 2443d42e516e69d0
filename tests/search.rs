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
use ringmaster::wire::Evaluation;
use support::*;

fn settings(worlds: usize, simulations: usize, leaves: usize) -> SearchSettings {
    let tuning = Tuning {
        noise_fraction: 0.0,
        ..Tuning::default()
    };
    SearchSettings {
        worlds,
        simulations,
        leaves,
        worlds_in_flight: 0,
        tuning,
    }
}

/// Random positions with a choice, from deals of many shapes.
fn positions(count: usize, seed: u64) -> Vec<Round> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let tables = [(4, 5), (3, 2), (4, 13), (8, 6), (5, 3), (3, 17), (6, 4)];
    let mut found = Vec::new();
    for nth in 0.. {
        let (players, cards) = tables[nth % tables.len()];
        let table = Table {
            players,
            cards,
            dealer: nth % players,
            trump_turn: nth,
        };
        let mut round = Round::deal(table, Rules::default(), &mut rng).unwrap();
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

/// Runs a search, answering requests in an order drawn from `rng`, some at a time.
fn run(
    search: &mut Search,
    round: &Round,
    number: u64,
    shuffle: Option<u64>,
    network: fn(&Position) -> Evaluation,
) -> Vec<u32> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(shuffle.unwrap_or(0));
    search.start(
        &mut WorldSampler::default(),
        round,
        &Standing::default(),
        7,
        number,
        0,
    );
    let mut in_flight: Vec<(u32, Position)> = Vec::new();
    search.gather();
    while !search.is_done() {
        while let Some((entry, &position)) = search.request() {
            in_flight.push((entry, position));
            search.sent();
        }
        if shuffle.is_some() && rng.random_range(0..20) == 0 {
            // Everything in flight is lost and sent once more.
            let lost: Vec<u32> = in_flight.drain(..).map(|(entry, _)| entry).collect();
            search.resend();
            while let Some((entry, &position)) = search.request() {
                in_flight.push((entry, position));
                search.sent();
            }
            assert!(
                lost.iter()
                    .all(|&entry| in_flight.iter().any(|&(sent, _)| sent == entry))
            );
            assert_eq!(in_flight.len(), lost.len());
        }
        assert!(
            !in_flight.is_empty(),
            "a search that is not done must wait for something"
        );
        let answered = if shuffle.is_some() {
            rng.random_range(1..=in_flight.len())
        } else {
            1
        };
        for _ in 0..answered {
            let nth = if shuffle.is_some() {
                rng.random_range(0..in_flight.len())
            } else {
                0
            };
            let (entry, position) = in_flight.remove(nth);
            assert!(search.apply(entry, &network(&position)));
            assert!(
                !search.apply(entry, &network(&position)),
                "an answer is taken once"
            );
        }
        search.gather();
    }
    let (visits, count) = search.visits();
    visits[..count].to_vec()
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

    pub fn expand(round: Round, network: fn(&Position) -> Evaluation) -> (Node, Values) {
        if round.phase() == Phase::Over {
            return (
                Node {
                    round,
                    edges: Vec::new(),
                    value: 0.0,
                },
                scaled_scores(&round),
            );
        }
        let evaluation = network(&Position::observe(&round, &Standing::default()));
        let edges = bits(round.legal())
            .zip(evaluation.priors)
            .map(|(action, prior)| Edge {
                action,
                prior,
                visits: 0,
                value_sum: 0.0,
                child: None,
            })
            .collect();
        let mut values = [0.0; MAX_PLAYERS];
        for (seat, value) in values.iter_mut().enumerate().take(round.players()) {
            *value = evaluation.values[(seat + round.players() - round.mover()) % round.players()];
        }
        (
            Node {
                round,
                edges,
                value: evaluation.values[0],
            },
            values,
        )
    }

    pub fn simulate(node: &mut Node, s: &Tuning, network: fn(&Position) -> Evaluation) -> Values {
        if node.round.phase() == Phase::Over {
            return scaled_scores(&node.round);
        }
        let total: f32 = node.edges.iter().map(|edge| edge.visits as f32).sum();
        let tried: f32 = node
            .edges
            .iter()
            .filter(|edge| edge.visits > 0)
            .map(|edge| edge.prior)
            .sum();
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
        let mover = node.round.mover();
        let edge = &mut node.edges[best.0];
        let values = match &mut edge.child {
            Some(child) => simulate(child, s, network),
            None => {
                let mut round = node.round;
                round.play(edge.action);
                while round.legal().count_ones() == 1 {
                    round.play(round.legal().trailing_zeros() as u8);
                }
                let (child, values) = expand(round, network);
                edge.child = Some(Box::new(child));
                values
            }
        };
        edge.visits += 1;
        edge.value_sum += values[mover];
        values
    }

    /// Visits added up over the worlds, and the root's value sums of each world.
    pub fn search(
        round: &Round,
        number: u64,
        s: &SearchSettings,
        network: fn(&Position) -> Evaluation,
    ) -> (Vec<u32>, Vec<Values>) {
        let mut visits = vec![0; round.legal().count_ones() as usize];
        let mut sums = Vec::new();
        for world in 0..s.worlds {
            let mut sampler = WorldSampler::default();
            sampler.prepare(round);
            let hands = sampler.sample(&mut stream(7, Use::World, number, 0, world as u64));
            let (mut root, _) = expand(round.with_hands(&hands), network);
            let mut sum = [0.0; MAX_PLAYERS];
            for _ in 0..s.simulations {
                let values = simulate(&mut root, &s.tuning, network);
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
        let (visits, sums) = plain::search(round, number as u64, &s, scrambled);
        assert_eq!(visits.iter().sum::<u32>(), 120);
        let mut search = Search::new(s, MAX_LEGAL);
        for shuffle in [None, Some(1), Some(2)] {
            assert_eq!(
                run(&mut search, round, number as u64, shuffle, scrambled),
                visits
            );
            for (world, sum) in sums.iter().enumerate() {
                let own = search.tree(world).value_sums();
                assert_eq!(
                    own.map(f32::to_bits),
                    sum.map(f32::to_bits),
                    "world {world}"
                );
            }
        }
        let counts = search.take_counts();
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
        let first = run(&mut search, round, number as u64, None, scrambled);
        assert_eq!(first.iter().sum::<u32>(), 100);
        for world in 0..2 {
            assert!(search.tree(world).is_quiet(), "virtual loss is left behind");
        }
        for shuffle in [3, 4] {
            assert_eq!(
                run(&mut search, round, number as u64, Some(shuffle), scrambled),
                first
            );
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
            let exact = run(&mut one, round, number as u64, None, scrambled);
            let mut many = Search::new(settings(3, 100, leaves), MAX_LEGAL);
            let mut other = run(&mut many, round, number as u64, None, scrambled);
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
        "mean total variation distance from sequential: L = 1 {one:.4}, L = 10 {ten:.4}, a uniform policy {uniform:.4}"
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
    let s = Tuning::default();
    for round in positions(40, 4) {
        let mut plain = Tree::new(60, MAX_LEGAL);
        let mut disturbed = Tree::new(60, MAX_LEGAL);
        for tree in [&mut plain, &mut disturbed] {
            tree.reset(&round);
            tree.expand(
                0,
                &scrambled(&Position::observe(&round, &Standing::default())),
                None,
            );
        }
        let mut path = Vec::new();
        let step = |tree: &mut Tree, path: &mut Vec<(u32, u32)>| {
            let values = match tree.select(&s, path) {
                Leaf::Over(node) => tree.final_values(node),
                Leaf::Open(node) => {
                    let position = Position::observe(tree.round(node), &Standing::default());
                    tree.expand(node, &scrambled(&position), None)
                }
                Leaf::Collision => unreachable!("nothing is in flight"),
            };
            tree.back_up(path, &values);
        };
        for _ in 0..25 {
            step(&mut plain, &mut path);
            step(&mut disturbed, &mut path);
        }
        // Three leaves in flight, taken back in another order; their nodes stay, unexpanded.
        let mut paths = vec![Vec::new(); 3];
        let leaves: Vec<Leaf> = paths
            .iter_mut()
            .map(|path| disturbed.select(&s, path))
            .collect();
        assert!(!disturbed.is_quiet());
        for nth in [1, 0, 2] {
            if leaves[nth] != Leaf::Collision {
                disturbed.clear_virtual_loss(&paths[nth]);
            }
        }
        assert!(disturbed.is_quiet());
        assert_eq!(
            plain.root_visits().collect::<Vec<_>>(),
            disturbed.root_visits().collect::<Vec<_>>()
        );
        let (mut a, mut b) = (Vec::new(), Vec::new());
        plain.select(&s, &mut a);
        // The same leaf is reached again: its node exists by now, so it reports itself as in
        // flight.
        let again = disturbed.select(&s, &mut b);
        assert_eq!(
            a.len(),
            if again == Leaf::Collision {
                b.len()
            } else {
                a.len()
            }
        );
        assert_eq!(a, b, "the next selection takes the same path");
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
            let s = Tuning {
                c_puct: 1.0,
                ..Tuning::default()
            };
            let mut tree = Tree::new(simulations, MAX_LEGAL);
            tree.reset(&round);
            let mut path = Vec::new();
            let observe = |round: &Round| ignorant(&Position::observe(round, &Standing::default()));
            tree.expand(0, &observe(&round), None);
            for _ in 0..simulations {
                let values = match tree.select(&s, &mut path) {
                    Leaf::Over(node) => tree.final_values(node),
                    Leaf::Open(node) => {
                        let evaluation = observe(tree.round(node));
                        tree.expand(node, &evaluation, None)
                    }
                    Leaf::Collision => unreachable!(),
                };
                tree.back_up(&path, &values);
            }
            let visits: Vec<u32> = tree.root_visits().collect();
            let chosen = (0..visits.len()).max_by_key(|&nth| visits[nth]).unwrap();
            assert!(
                optimal[chosen],
                "{players} players, {cards} cards: visits {visits:?}, optimal {optimal:?} in {round:?}"
            );
        }
    }
}

#[test]
fn noise_is_mixed_into_the_root_only_and_sums_to_one() {
    let mut with_noise = settings(2, 30, 1);
    with_noise.tuning.noise_fraction = 0.5;
    let (mut differ, rounds) = (0, positions(20, 6));
    for (number, round) in rounds.iter().enumerate() {
        let mut noisy = Search::new(with_noise, MAX_LEGAL);
        let mut calm = Search::new(settings(2, 30, 1), MAX_LEGAL);
        let a = run(&mut noisy, round, number as u64, None, scrambled);
        let b = run(&mut calm, round, number as u64, None, scrambled);
        assert_eq!(a.iter().sum::<u32>(), 60);
        assert_eq!(
            a,
            run(&mut noisy, round, number as u64, Some(9), scrambled),
            "noise is a function of the counters"
        );
        differ += usize::from(a != b);
    }
    assert!(differ > 5, "noise changed {differ} of 20 searches");
}
