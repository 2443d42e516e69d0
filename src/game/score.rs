//! Every number of Blob's scoring, and the scale on which scores are learned and searched.

use super::rules::Rules;

/// Points for a bid that is made exactly, besides one for each trick.
const MADE_BID: u8 = 10;

/// Points of a seat that bid so many tricks and won so many: 10 + bid when made exactly, else 0 (or
/// the tricks won, by the house variant).
pub fn score(bid: u8, tricks_won: u8, rules: Rules) -> u8 {
    if bid == tricks_won {
        MADE_BID + bid
    } else if rules.missed_bid_scores_tricks {
        tricks_won
    } else {
        0
    }
}

/// Most points that a seat can score in a round of `cards` cards: all tricks bid and won.
pub fn most_points(cards: usize) -> usize {
    usize::from(MADE_BID) + cards
}

/// A score of a round of `cards` cards scaled to [-1, 1]: 2 * score / (10 + cards) - 1.
pub fn scaled(score: u8, cards: usize) -> f32 {
    2.0 * f32::from(score) / most_points(cards) as f32 - 1.0
}

/// A scaled value of a round of `cards` cards in points.
pub fn points(value: f32, cards: usize) -> f32 {
    (value + 1.0) * 0.5 * most_points(cards) as f32
}
