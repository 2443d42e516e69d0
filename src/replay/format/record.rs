//! The record of one finished round: what cannot be derived by playing it again. Legal actions,
//! seats, tricks and scores follow from the hands and the actions (`played`), so they are not
//! stored. Visits, values and policies of all decisions lie flat, one behind the other; their
//! places follow from the rules too.

use super::bounds::{MAX_DECISIONS, MAX_VALUES, MAX_VISITS};
use crate::game::{
    Card, CardSet, MAX_PLAYERS, PACK, Round, Rules, Schedule, Standing, Trump, check_table,
};
use bytemuck::{CheckedBitPattern, NoUninit};

/// A round's place in a whole game.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GamePlace {
    /// The game's number in the run, from 0.
    pub number: u64,
    /// How the game stood before the round.
    pub standing: Standing,
}

/// How a decision (two or more legal actions) was searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, NoUninit, CheckedBitPattern)]
#[repr(u8)]
pub enum SearchKind {
    /// Not at all: there is its action, and neither visits nor values.
    None,
    /// With less than all simulations (playout cap): no target for training.
    Fast,
    /// In full; the visits are the policy target.
    Full,
    /// In full, with a policy target besides the visits.
    FullWithPolicy,
}

impl SearchKind {
    /// Are there visits and values?
    pub fn is_searched(self) -> bool {
        self != SearchKind::None
    }

    /// In full: a target for training?
    pub fn is_full(self) -> bool {
        matches!(self, SearchKind::Full | SearchKind::FullWithPolicy)
    }
}

/// One finished round. To fill one: `begin`, then per move `decision`, `searched` or `unsearched`
/// (unless it is forced) and `action`. Filling it again reuses its memory.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RoundRecord {
    /// The round's number in the run, from 0.
    pub round: u64,
    /// The run's seed.
    pub seed: u64,
    /// The run's network that served every decision, by its number in the manifest.
    pub network: u32,
    /// Its place in a whole game; none for an independent round.
    pub game: Option<GamePlace>,
    /// Seats, 3 to 8.
    pub players: usize,
    /// Cards dealt to each seat.
    pub cards: usize,
    /// The round's trump.
    pub trump: Trump,
    /// The card turned up for trump.
    pub turned: Option<Card>,
    /// The dealer's seat.
    pub dealer: usize,
    /// The house variants in force.
    pub rules: Rules,
    /// Hands as dealt, by seat; empty past the last seat.
    pub hands: [CardSet; MAX_PLAYERS],
    /// All actions in order, forced ones too: `players` bids, then `players * cards` cards.
    pub actions: Vec<u8>,
    /// How every decision was searched, in order.
    pub searches: Vec<SearchKind>,
    /// Visits of every searched decision in order, one per legal action in ascending order, all
    /// worlds added.
    pub visits: Vec<u32>,
    /// Values of every searched decision in order: `players` each, the search's expected round
    /// score in points, by absolute seat.
    pub values: Vec<f32>,
    /// Policy targets of the decisions that have one besides their visits, in order: one share (0
    /// to 1, all together 1) per legal action, ascending.
    pub policies: Vec<f32>,
}

impl RoundRecord {
    /// No round yet, with room for the largest: filling it will not allocate.
    pub fn new() -> RoundRecord {
        RoundRecord {
            actions: Vec::with_capacity(PACK + MAX_PLAYERS),
            searches: Vec::with_capacity(MAX_DECISIONS),
            visits: Vec::with_capacity(MAX_VISITS),
            values: Vec::with_capacity(MAX_VALUES),
            policies: Vec::with_capacity(MAX_VISITS),
            ..RoundRecord::default()
        }
    }

    /// Starts the record of `state`, a round before its first bid; forgets what was recorded
    /// before.
    pub fn begin(
        &mut self,
        round: u64,
        seed: u64,
        network: u32,
        game: Option<GamePlace>,
        state: &Round,
    ) {
        self.round = round;
        self.seed = seed;
        self.network = network;
        self.game = game;
        self.players = state.players();
        self.cards = state.cards();
        self.trump = state.trump();
        self.turned = state.turned();
        self.dealer = state.dealer();
        self.rules = state.rules();
        self.hands = [CardSet::EMPTY; MAX_PLAYERS];
        for (seat, hand) in self.hands.iter_mut().enumerate().take(state.players()) {
            *hand = state.hand(seat);
        }
        self.actions.clear();
        self.searches.clear();
        self.visits.clear();
        self.values.clear();
        self.policies.clear();
    }

    /// Adds the search of the move to come: a visit count per legal action, ascending, the expected
    /// round score of each absolute seat in points, and a share per legal action, or nothing, as
    /// `policy`. To be followed by `action`.
    pub fn searched(&mut self, kind: SearchKind, visits: &[u32], values: &[f32], policy: &[f32]) {
        self.searches.push(kind);
        self.visits.extend_from_slice(visits);
        self.values.extend_from_slice(values);
        self.policies.extend_from_slice(policy);
    }

    /// Says that the move to come was a decision, made without a search.
    pub fn unsearched(&mut self) {
        self.searches.push(SearchKind::None);
    }

    /// Adds a move, forced or chosen.
    pub fn action(&mut self, action: u8) {
        self.actions.push(action);
    }

    /// Number of searched decisions.
    pub fn decisions(&self) -> usize {
        self.count(SearchKind::is_searched)
    }

    /// Number of decisions searched in full: the targets for training.
    pub fn targets(&self) -> usize {
        self.count(SearchKind::is_full)
    }

    fn count(&self, of: fn(SearchKind) -> bool) -> usize {
        self.searches.iter().filter(|&&kind| of(kind)).count()
    }

    /// Version of the format that it takes to say this: 2, or 3 if a decision was not searched in
    /// full, has a policy besides its visits, or the round is of a game on another schedule than
    /// Blob's.
    pub fn version(&self) -> u32 {
        let is_plain = self.searches.iter().all(|&kind| kind == SearchKind::Full);
        let first_cards = |game: GamePlace| Schedule::Blob(game.standing.first_cards);
        let is_blob = self.game.is_none_or(|game| self.is_on(&first_cards(game)));
        if is_plain && is_blob { 2 } else { 3 }
    }

    /// Is this the round of a whole game that the schedule has at its place?
    pub fn is_on(&self, schedule: &Schedule) -> bool {
        let (players, largest) = (self.players, schedule.largest());
        self.game.is_some_and(|GamePlace { standing, .. }| {
            let done = standing.rounds_done as usize;
            check_table(players, largest).is_ok()
                && done < schedule.rounds(players)
                && self.cards == schedule.cards(players, done)
                && standing == schedule.standing(players, standing.totals, done)
        })
    }
}
