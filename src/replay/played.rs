//! A record played again: what it does not store, derived by the rules of the game. Whatever a
//! record claims that the rules do not allow ends here in an error that names the round.

use super::error::ReplayError;
use super::format::{RoundRecord, SearchKind};
use crate::game::{MAX_PLAYERS, Phase, Round};
use std::ops::Range;

/// A decision (two or more legal actions) in its place in the round.
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
    /// How it was searched.
    pub search: SearchKind,
    /// Its place in the record's visits: one per legal action, ascending; empty without a search.
    pub visits: Range<usize>,
    /// Its place in the record's values: one per absolute seat; empty without a search.
    pub values: Range<usize>,
    /// Its place in the record's policies: one share per legal action; empty if it has none.
    pub policy: Range<usize>,
}

/// A round from the first bid to the scores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Played {
    /// The round before its first bid.
    pub dealt: Round,
    /// Every decision, in order.
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
    pub fn replay(&self) -> Result<Played, ReplayError> {
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
        let fail = |what: String| Err(ReplayError::round(self.round, what));
        for (number, &action) in self.actions.iter().enumerate() {
            let (seat, legal) = (state.mover(), state.legal());
            if action >= 64 || legal >> action & 1 == 0 {
                return fail(format!(
                    "move {number}: action {action} of seat {seat} is not legal"
                ));
            }
            if legal.count_ones() > 1 {
                let Some(decision) = self.next_decision(&played.decisions, state, action) else {
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
        let ends = played.decisions.last().map(Decision::ends);
        let all = [self.visits.len(), self.values.len(), self.policies.len()];
        if played.decisions.len() != self.searches.len() || ends.unwrap_or_default() != all {
            return fail("more visits or values than the round has decisions".into());
        }
        played.bids[..self.players].copy_from_slice(state.bids());
        played.tricks_won[..self.players].copy_from_slice(state.tricks_won());
        played.scores = state.scores();
        Ok(played)
    }

    /// The decision that follows those `before`; none if the record lacks its search.
    fn next_decision(&self, before: &[Decision], state: Round, chosen: u8) -> Option<Decision> {
        let search = *self.searches.get(before.len())?;
        let [visits, values, policy] = before.last().map(Decision::ends).unwrap_or_default();
        let legal = state.legal();
        let actions = legal.count_ones() as usize;
        let with = |is: bool, length: usize| if is { length } else { 0 };
        let decision = Decision {
            before: state,
            seat: state.mover(),
            legal,
            chosen,
            search,
            visits: visits..visits + with(search.is_searched(), actions),
            values: values..values + with(search.is_searched(), self.players),
            policy: policy..policy + with(search == SearchKind::FullWithPolicy, actions),
        };
        let [visits, values, policy] = decision.ends();
        let is_there = visits <= self.visits.len()
            && values <= self.values.len()
            && policy <= self.policies.len();
        is_there.then_some(decision)
    }

    /// Visits of a decision of this record, one per legal action in ascending order; none without a
    /// search.
    pub fn visits_of(&self, decision: &Decision) -> &[u32] {
        &self.visits[decision.visits.clone()]
    }

    /// Values of a decision of this record in points, by absolute seat; none without a search.
    pub fn values_of(&self, decision: &Decision) -> &[f32] {
        &self.values[decision.values.clone()]
    }

    /// The policy target of a decision of this record besides its visits, one share per legal
    /// action; none if it has none.
    pub fn policy_of(&self, decision: &Decision) -> &[f32] {
        &self.policies[decision.policy.clone()]
    }
}

impl Decision {
    /// Where the next decision's visits, values and policy begin.
    fn ends(&self) -> [usize; 3] {
        [self.visits.end, self.values.end, self.policy.end]
    }
}
