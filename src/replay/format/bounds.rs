//! What a record can hold at most, derived term by term from the limits of the game, and the check
//! that a record stays within them. After the check a round can be laid out without a panic;
//! whether its actions are legal is asked when it is played again.

use super::record::RoundRecord;
use crate::game::{
    CardSet, MAX_PLAYERS, MIN_PLAYERS, PACK, Standing, Trump, TrumpRule, cards_in_round,
    check_table, most_points, rounds_in_game,
};
use crate::plural::counted;
use crate::replay::error::ReplayError;

/// Largest visits list of a round, all decisions together: 510, of 3 players with 17 cards.
pub const MAX_VISITS: usize = over_tables(0);
/// Largest values list of a round, all decisions together: 384, of 8 players with 6 cards.
pub const MAX_VALUES: usize = over_tables(1);

// Widest encodings: integers are one byte up to 250, else a tag and 2, 4 or 8 bytes.
const U16: usize = 3;
const U32: usize = 5;
const U64: usize = 9;
const F32: usize = 4;
/// Round and seed; the network; the place in a game (tag, number, totals, three counts); players,
/// cards, trump, turned card, dealer; three rules; the hands.
const HEAD_BYTES: usize =
    2 * U64 + U32 + (1 + U64 + MAX_PLAYERS * U16 + 3) + 5 + 3 + MAX_PLAYERS * U64;
/// Lengths of the actions, the visits and the values.
const LENGTH_BYTES: usize = 3 * U16;

/// Bytes of the largest record possible, rounded up to a multiple of 8: a slot of this size holds
/// any.
pub const MAX_RECORD_BYTES: usize =
    (HEAD_BYTES + LENGTH_BYTES + over_tables(2)).next_multiple_of(8);

/// Most visits of one round: while bidding every bid of 0 to `cards`; while playing, with k cards
/// in hand at most k of them, and k = 1 is no decision.
const fn max_visits(players: usize, cards: usize) -> usize {
    players * (cards + 1) + players * (cards * (cards + 1) / 2 - 1)
}

/// Most values of one round: a bid per seat and all cards but each seat's last, `players` values
/// each.
const fn max_values(players: usize, cards: usize) -> usize {
    players * cards * players
}

/// The largest visits (0), values (1) or bytes of all lists (2) over all tables. More cards are
/// never less, so each number of players is looked at with the most it can be dealt.
const fn over_tables(which: usize) -> usize {
    let (mut largest, mut players) = (0, MIN_PLAYERS);
    while players <= MAX_PLAYERS {
        let cards = PACK / players;
        let (visits, values) = (max_visits(players, cards), max_values(players, cards));
        let size = match which {
            0 => visits,
            1 => values,
            _ => players + players * cards + visits * U32 + values * F32,
        };
        if size > largest {
            largest = size;
        }
        players += 1;
    }
    largest
}

impl RoundRecord {
    /// Checks every field against the limits of the game; after it a round can be laid out safely.
    pub fn check(&self) -> Result<(), ReplayError> {
        let fail = |what: String| Err(ReplayError::round(self.round, what));
        if let Err(error) = check_table(self.players, self.cards) {
            return fail(error.to_string());
        }
        let (players, cards) = (self.players, self.cards);
        if self.dealer >= players {
            return fail(format!("dealer {} of {players} players", self.dealer));
        }
        let mut dealt = CardSet::EMPTY;
        for (seat, &hand) in self.hands.iter().enumerate() {
            let size = if seat < players { cards } else { 0 };
            if hand.len() != size || !dealt.and(hand).is_empty() {
                return fail(format!(
                    "seat {seat}: not a hand of {} of its own",
                    counted(size, "card")
                ));
            }
            dealt = dealt.or(hand);
        }
        if self.turned.is_some_and(|card| dealt.contains(card)) {
            return fail("the turned card is in a hand".into());
        }
        if !self.trump_agrees() {
            return fail("trump does not agree with the rules".into());
        }
        let moves = players + players * cards;
        if self.actions.len() != moves {
            return fail(format!("{} actions, not {moves}", self.actions.len()));
        }
        if self.visits.len() > max_visits(players, cards)
            || self.values.len() > max_values(players, cards)
            || !self.values.len().is_multiple_of(players)
        {
            return fail("visits or values of no possible number".into());
        }
        if !self.values.iter().all(|value| value.is_finite()) {
            return fail("a value is not a number".into());
        }
        match self.game {
            Some(game) if !self.standing_agrees(&game.standing) => {
                fail("its place in the game is not on the game's schedule".into())
            }
            _ => Ok(()),
        }
    }

    fn trump_agrees(&self) -> bool {
        let pack_is_dealt = self.players * self.cards == PACK;
        match self.rules.trump {
            TrumpRule::Turned => match self.turned {
                Some(card) => self.trump == Trump::Suit(card.suit()),
                None => pack_is_dealt && self.trump == Trump::None,
            },
            _ if self.turned.is_some() => false,
            TrumpRule::Rotating => true,
            TrumpRule::Spades => self.trump == Trump::Suit(0),
            TrumpRule::Hearts => self.trump == Trump::Suit(1),
            TrumpRule::Clubs => self.trump == Trump::Suit(2),
            TrumpRule::Diamonds => self.trump == Trump::Suit(3),
            TrumpRule::None => self.trump == Trump::None,
        }
    }

    fn standing_agrees(&self, standing: &Standing) -> bool {
        let (first, done) = (standing.first_cards as usize, standing.rounds_done as usize);
        check_table(self.players, first).is_ok()
            && standing.rounds_total as usize == rounds_in_game(self.players, first)
            && done < standing.rounds_total as usize
            && self.cards == cards_in_round(self.players, first, done)
            && standing.totals.iter().enumerate().all(|(seat, &total)| {
                let most = if seat < self.players {
                    done * most_points(first)
                } else {
                    0
                };
                total as usize <= most
            })
    }
}
