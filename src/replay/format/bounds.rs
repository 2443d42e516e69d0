//! What a record can hold at most, derived term by term from the limits of the game.

use crate::game::{MAX_PLAYERS, MIN_PLAYERS, PACK};

/// Largest visits list of a round, all decisions together: 510, of 3 players with 17 cards.
pub const MAX_VISITS: usize = MOST.visits;
/// Largest values list of a round, all decisions together: 384, of 8 players with 6 cards.
pub const MAX_VALUES: usize = MOST.values;
/// Most decisions of a round: 52, of 4 players with 13 cards.
pub const MAX_DECISIONS: usize = MOST.decisions;

// Widest encodings: integers are one byte up to 250, else a tag and 2, 4 or 8 bytes.
const U16: usize = 3;
const U32: usize = 5;
const U64: usize = 9;
const F32: usize = 4;
/// The version, if it is not 2; round and seed; the network; the place in a game (tag, number,
/// totals, three counts); players, cards, trump, turned card, dealer; three rules; the hands.
const HEAD_BYTES: usize =
    2 + 2 * U64 + U32 + (1 + U64 + MAX_PLAYERS * U16 + 3) + 5 + 3 + MAX_PLAYERS * U64;
/// Lengths of the actions, visits, values, kinds of searches and policies.
const LENGTH_BYTES: usize = 5 * U16;

/// Bytes of the largest record possible, rounded up to a multiple of 8: a slot of this size holds
/// any.
pub const MAX_RECORD_BYTES: usize = (HEAD_BYTES + LENGTH_BYTES + MOST.bytes).next_multiple_of(8);

/// Most decisions of one round: a bid of each seat, and each of its cards but the last.
pub const fn max_decisions(players: usize, cards: usize) -> usize {
    players * cards
}

/// Most visits of one round: while bidding every bid of 0 to `cards`; while playing, with k cards
/// in hand at most k of them, and k = 1 is no decision.
pub const fn max_visits(players: usize, cards: usize) -> usize {
    players * (cards + 1) + players * (cards * (cards + 1) / 2 - 1)
}

/// The lengths of a round's lists, and the bytes of all of them.
struct Lengths {
    visits: usize,
    values: usize,
    decisions: usize,
    bytes: usize,
}

/// The most of each, over all tables. More cards are never less, so each number of players is
/// looked at with the most it can be dealt.
const MOST: Lengths = {
    let mut most = Lengths {
        visits: 0,
        values: 0,
        decisions: 0,
        bytes: 0,
    };
    let mut players = MIN_PLAYERS;
    while players <= MAX_PLAYERS {
        let cards = PACK / players;
        let (visits, decisions) = (max_visits(players, cards), max_decisions(players, cards));
        let (actions, values) = (players + players * cards, decisions * players);
        // A policy has as many entries as there are visits.
        let bytes = actions + visits * U32 + values * F32 + decisions + visits * F32;
        most.visits = larger(most.visits, visits);
        most.values = larger(most.values, values);
        most.decisions = larger(most.decisions, decisions);
        most.bytes = larger(most.bytes, bytes);
        players += 1;
    }
    most
};

const fn larger(one: usize, other: usize) -> usize {
    if one > other { one } else { other }
}
