//! A record played again: what it does not store, derived by the rules of the game. Whatever a
//! record claims that the rules do not allow ends here in an error that names the round.

use super::error::ReplayError;
use super::format::{RoundRecord, SearchKind};
use crate::game::{MAX_PLAYERS, Phase, Round};

/// A decision (two or more legal actions) in its place in the round.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision<'a> {
    /// The round before the move, hidden cards included.
    pub before: Round,
    /// The mover's seat.
    pub seat: usize,
    /// Legal actions, bit a for action a; at least two.
    pub legal: u64,
    /// The action taken.
    pub chosen: u8,
    /// How it was searched.
    pub search: SearchKind,
    /// Visits, one per legal action, ascending; empty without a search.
    pub visits: &'a [u32],
    /// Values in points, one per absolute seat; empty without a search.
    pub values: &'a [f32],
    /// The policy target besides the visits, one share per legal action; empty if there is none.
    pub policy: &'a [f32],
}

/// A round from the first bid to the scores.
#[derive(Clone, PartialEq, Debug)]
pub struct Played<'a> {
    /// The round before its first bid.
    pub dealt: Round,
    /// Every decision, in order.
    pub decisions: Vec<Decision<'a>>,
    /// Bids by seat.
    pub bids: [u8; MAX_PLAYERS],
    /// Cards played as (seat, card), in order.
    pub plays: Vec<(u8, u8)>,
    /// Tricks won by seat; 0 past the last seat.
    pub tricks_won: [u8; MAX_PLAYERS],
    /// Points by seat; 0 past the last seat.
    pub scores: [u8; MAX_PLAYERS],
}

/// What a record has of the decisions still to come.
struct Searches<'a> {
    kinds: &'a [SearchKind],
    visits: &'a [u32],
    values: &'a [f32],
    policies: &'a [f32],
}

impl<'a> Searches<'a> {
    /// The next decision; none if the record lacks its search.
    fn next(&mut self, before: Round, chosen: u8) -> Option<Decision<'a>> {
        let search = *self.kinds.split_off_first()?;
        let legal = before.legal();
        let actions = legal.count_ones() as usize;
        let with = |is: bool, length: usize| if is { length } else { 0 };
        let is_searched = search.is_searched();
        let has_policy = search == SearchKind::FullWithPolicy;
        Some(Decision {
            before,
            seat: before.mover(),
            legal,
            chosen,
            search,
            visits: self.visits.split_off(..with(is_searched, actions))?,
            values: self
                .values
                .split_off(..with(is_searched, before.players()))?,
            policy: self.policies.split_off(..with(has_policy, actions))?,
        })
    }

    fn is_empty(&self) -> bool {
        let floats = self.values.len() + self.policies.len();
        self.kinds.len() + self.visits.len() + floats == 0
    }
}

impl RoundRecord {
    /// The round before its first bid.
    ///
    /// # Errors
    /// When the pack cannot be dealt so.
    ///
    /// # Panics
    /// When the record is neither one that was decoded nor one that was begun with a round: its
    /// hands may overlap.
    pub fn deal(&self) -> Result<Round, ReplayError> {
        let hands = &self.hands[..self.players];
        Round::from_hands(hands, self.trump, self.turned, self.dealer, self.rules)
            .map_err(|error| ReplayError::round(self.round, error.to_string()))
    }

    /// Plays the round again.
    ///
    /// # Errors
    /// When an action is not legal, or a decision's search is missing or too many.
    ///
    /// # Panics
    /// As `deal`.
    pub fn replay(&self) -> Result<Played<'_>, ReplayError> {
        let dealt = self.deal()?;
        let mut state = dealt;
        let mut played = Played {
            dealt,
            decisions: Vec::with_capacity(self.searches.len()),
            bids: [0; MAX_PLAYERS],
            plays: Vec::with_capacity(self.players * self.cards),
            tricks_won: [0; MAX_PLAYERS],
            scores: [0; MAX_PLAYERS],
        };
        let mut searches = Searches {
            kinds: &self.searches,
            visits: &self.visits,
            values: &self.values,
            policies: &self.policies,
        };
        let fail = |what: String| Err(ReplayError::round(self.round, what));
        for (number, &action) in self.actions.iter().enumerate() {
            let (seat, legal) = (state.mover(), state.legal());
            if action >= 64 || legal >> action & 1 == 0 {
                return fail(format!(
                    "move {number}: action {action} of seat {seat} is not legal"
                ));
            }
            if legal.count_ones() > 1 {
                let Some(decision) = searches.next(state, action) else {
                    return fail(format!(
                        "move {number}: the search of this decision is missing"
                    ));
                };
                played.decisions.push(decision);
            }
            if state.phase() == Phase::Playing {
                played.plays.push((seat as u8, action));
            }
            state.play(action);
        }
        if state.phase() != Phase::Over {
            return fail("the round is not finished".into());
        }
        if !searches.is_empty() {
            return fail("more visits or values than the round has decisions".into());
        }
        played.bids[..self.players].copy_from_slice(state.bids());
        played.tricks_won[..self.players].copy_from_slice(state.tricks_won());
        played.scores = state.scores();
        Ok(played)
    }
}
