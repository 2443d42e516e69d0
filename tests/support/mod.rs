//! What several tests and benches share: deals, cards by name, random positions, and a stand-in for
//! the network.
#![allow(dead_code, clippy::unwrap_used)]

use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::{CardSet, Phase, Round, Rules, Table, bits};
use ringmaster::observation::Position;
use ringmaster::wire::Evaluation;

/// A random deal, with a random dealer and place in the trump rotation.
pub fn deal(players: usize, cards: usize, rules: Rules, rng: &mut Xoshiro256PlusPlus) -> Round {
    let table = Table {
        players,
        cards,
        dealer: rng.random_range(0..players),
        trump_turn: rng.random_range(0..5),
    };
    Round::deal(table, rules, rng).unwrap()
}

/// The indices of cards written by suit: "S2TA HK" is two, ten and ace of spades and the king of
/// hearts.
fn cards(names: &str) -> impl Iterator<Item = u8> {
    names.split(' ').flat_map(|word| {
        let suit = "SHCD".find(&word[..1]).unwrap();
        let rank = |name| "23456789TJQKA".find(name).unwrap();
        let ranks = word[1..].chars();
        ranks.map(move |name| (suit * 13 + rank(name)) as u8)
    })
}

/// These cards, as a hand.
pub fn hand(names: &str) -> CardSet {
    CardSet::from_bits(cards(names).fold(0, |bits, card| bits | 1 << card))
}

/// Plays these cards, each by whose turn it is.
pub fn play_cards(round: &mut Round, names: &str) {
    cards(names).for_each(|card| round.play(card));
}

/// A uniformly random legal action.
pub fn random_action(legal: u64, rng: &mut Xoshiro256PlusPlus) -> u8 {
    let nth = rng.random_range(0..legal.count_ones());
    bits(legal).nth(nth as usize).unwrap()
}

/// Plays random moves until the mover has a choice; false if the round ended first.
pub fn play_to_choice(round: &mut Round, rng: &mut Xoshiro256PlusPlus, moves: usize) -> bool {
    for _ in 0..moves {
        if round.phase() == Phase::Over {
            return false;
        }
        round.play(random_action(round.legal(), rng));
    }
    while round.legal().count_ones() == 1 {
        round.play(random_action(round.legal(), rng));
    }
    round.phase() != Phase::Over
}

/// A stand-in for the network: priors and values that are a scrambled function of the observation,
/// far from uniform, cheap, and the same wherever they are asked for.
pub fn scrambled(position: &Position) -> Evaluation {
    let words: &[u64; 11] = bytemuck::cast_ref(position);
    let mut state = words.iter().fold(7_u64, |state, &word| {
        (state ^ word)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29)
    });
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    let legal = position.legal.count_ones() as usize;
    let mut evaluation: Evaluation = bytemuck::Zeroable::zeroed();
    for prior in &mut evaluation.priors[..legal] {
        *prior = 0.05 + uniform().powi(3);
    }
    let sum: f32 = evaluation.priors.iter().sum();
    evaluation.priors.iter_mut().for_each(|prior| *prior /= sum);
    for value in &mut evaluation.values[..position.players as usize] {
        *value = 2.0 * uniform() - 1.0;
    }
    evaluation
}

/// A stand-in that knows nothing: equal priors, value 0.
pub fn ignorant(position: &Position) -> Evaluation {
    let legal = position.legal.count_ones() as usize;
    let mut evaluation: Evaluation = bytemuck::Zeroable::zeroed();
    evaluation.priors[..legal].fill(1.0 / legal as f32);
    evaluation
}
