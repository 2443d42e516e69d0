//! The table that a round is played at.

use super::rules::check_table;
use crate::fault::Fault;

/// What is settled before the cards of a round are dealt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Table {
    /// Seats, 3 to 8.
    pub players: usize,
    /// Cards dealt to each seat.
    pub cards: usize,
    /// The dealer's seat.
    pub dealer: usize,
    /// The round's place in the trump rotation, for `Trump::in_turn`.
    pub trump_turn: usize,
}

impl Table {
    /// Checks that the pack can be dealt so.
    ///
    /// # Errors
    /// Otherwise.
    pub fn check(&self) -> Result<(), Fault> {
        check_table(self.players, self.cards)
    }
}
