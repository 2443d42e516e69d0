//! The rules of Blob and nothing else: cards, what is agreed before a round, the schedule of a
//! whole game, the table and the state of one round, and its scores. States are small `Copy`
//! values; no move allocates.

mod cards;
mod round;
mod rules;
mod schedule;
mod score;
mod table;

pub use cards::{Card, CardSet, PACK, RANKS, SUITS, bits};
pub use round::{NO_BID, NO_CARD, Phase, Round};
pub use rules::{
    MAX_CARDS, MAX_LEGAL, MAX_PLAYERS, MIN_PLAYERS, Rules, Trump, TrumpRule, check_table,
};
pub use schedule::{Schedule, Standing, cards_in_round, rounds_in_game};
pub use score::{most_points, points, scaled, score};
pub use table::Table;
