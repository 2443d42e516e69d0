//! A record played again: what it does not store, derived by the rules of the game. Whatever a
//! record claims that the rules do not allow ends here in an error that names the round.

use super::error::ReplayError;
use super::format::RoundRecord;
use crate::game::{MAX_PLAYERS, Phase, Round};
use std::ops::Range;

/// A searched decision, in its place in the round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The round before the move, hidden cards included.
    pub before: Round,
    /// The mover's seat.
    pub seat: usize,
    /// Legal actions, bit a for action a; at least two.
    pub legal: u64,
    /// The action taken.
    pub chosen: u8,
    /// Its place in the record's visits: one per legal action, ascending.
    pub visits: Range<usize>,
    /// Its place in the record's values: one per absolute seat.
    pub values: Range<usize>,
}

/// A round from the first bid to the scores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Played {
    /// Every searched decision, in order.
    pub decisions: Vec<Decision>,
    /// Bids by seat.
    pub bids: [u8; MAX_PLAYERS],
    /// Cards played as (seat, card), in order.
    pub plays: Vec<(u8, u8)>,
    /// Tricks won by seat; 0 past the last seat.
    pub tricks_won: [u8; MAX_PLAYERS],
    /// Points by seat; 0 past the last seat.
    pub scores: [u8; MAX_PLAYERS],
}

impl RoundRecord {
    /// The round before its first bid.
    ///
    /// # Errors
    /// When the record breaks a limit of the game.
    pub fn deal(&self) -> Result<Round, ReplayError> {
        self.check()?;
        let hands = &self.hands[..self.players];
        Round::from_hands(hands, self.trump, self.turned, self.dealer, self.rules)
            .map_err(|error| ReplayError::round(self.round, error.to_string()))
    }

    /// Plays the round again.
    ///
    /// # Errors
    /// When a field breaks a limit, an action is not legal, or a decision is missing or too many.
    pub fn replay(&self) -> Result<Played, ReplayError> {
        let mut state = self.deal()?;
        let mut played = Played {
            decisions: Vec::with_capacity(self.decisions()),
            bids: [0; MAX_PLAYERS],
            plays: Vec::with_capacity(self.players * self.cards),
            tricks_won: [0; MAX_PLAYERS],
            scores: [0; MAX_PLAYERS],
        };
        let (mut visits, mut values) = (0, 0);
        for (number, &action) in self.actions.iter().enumerate() {
            let (seat, legal) = (state.mover(), state.legal());
            if action >= 64 || legal >> action & 1 == 0 {
                let what = format!("move {number}: action {action} of seat {seat} is not legal");
                return Err(ReplayError::round(self.round, what));
            }
            if legal.count_ones() > 1 {
                let decision = Decision {
                    before: state,
                    seat,
                    legal,
                    chosen: action,
                    visits: visits..visits + legal.count_ones() as usize,
                    values: values..values + self.players,
                };
                (visits, values) = (decision.visits.end, decision.values.end);
                if visits > self.visits.len() || values > self.values.len() {
                    let what = format!("move {number}: the search of this decision is missing");
                    return Err(ReplayError::round(self.round, what));
                }
                played.decisions.push(decision);
            }
            if state.phase() == Phase::Playing {
                played.plays.push((seat as u8, action));
            }
            state.play(action);
        }
        if state.phase() != Phase::Over {
            return Err(ReplayError::round(self.round, "the round is not finished"));
        }
        if (visits, values) != (self.visits.len(), self.values.len()) {
            let what = "more visits or values than the round has decisions";
            return Err(ReplayError::round(self.round, what));
        }
        played.bids[..self.players].copy_from_slice(state.bids());
        played.tricks_won[..self.players].copy_from_slice(state.tricks_won());
        played.scores = state.scores();
        Ok(played)
    }

    /// Visits of a decision of this record, one per legal action in ascending order.
    pub fn visits_of(&self, decision: &Decision) -> &[u32] {
        &self.visits[decision.visits.clone()]
    }

    /// Values of a decision of this record in points, by absolute seat.
    pub fn values_of(&self, decision: &Decision) -> &[f32] {
        &self.values[decision.values.clone()]
    }
}
