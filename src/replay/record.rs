//! The record of one finished round: what cannot be derived by playing it again. Legal actions, seats,
//! tricks and scores follow from the hands and the actions (`played`), so they are not stored. Visits
//! and values of all decisions lie flat, one behind the other; their places follow from the rules too.
//! This is the only file that knows bincode, which is unmaintained: what it reads is limited in size
//! before it allocates, and every field is checked against the limits of the game afterwards.

use super::error::ReplayError;
use crate::game::{
    Card, CardSet, MAX_PLAYERS, MIN_PLAYERS, NO_CARD, PACK, Round, Rules, Standing, Trump,
    TrumpRule, cards_in_round, check_table, rounds_in_game,
};
use bincode::{Decode, Encode};

/// Largest visits list of a round, all decisions together: 510, of 3 players with 17 cards.
pub const MAX_VISITS: usize = over_tables(0);
/// Largest values list of a round, all decisions together: 384, of 8 players with 6 cards.
pub const MAX_VALUES: usize = over_tables(1);

// Widest encodings: integers are one byte up to 250, else a tag and 2, 4 or 8 bytes.
const U16: usize = 3;
const U32: usize = 5;
const U64: usize = 9;
const F32: usize = 4;
/// Round and seed; the place in a game (tag, number, totals, three counts); players, cards, trump,
/// turned card, dealer; three rules; the hands.
const HEAD_BYTES: usize = 2 * U64 + (1 + U64 + MAX_PLAYERS * U16 + 3) + 5 + 3 + MAX_PLAYERS * U64;
/// Lengths of the actions, the visits and the values.
const LENGTH_BYTES: usize = 3 * U16;

/// Bytes of the largest record possible, rounded up to a multiple of 8: a slot of this size holds any.
pub const MAX_RECORD_BYTES: usize =
    (HEAD_BYTES + LENGTH_BYTES + over_tables(2)).next_multiple_of(8);

// In memory no field is larger than its widest encoding, so that one limit serves both.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD_BYTES>,
> = bincode::config::standard().with_limit::<MAX_RECORD_BYTES>();

/// Most visits of one round: while bidding every bid of 0 to `cards`; while playing, with k cards in
/// hand at most k of them, and k = 1 is no decision.
const fn max_visits(players: usize, cards: usize) -> usize {
    players * (cards + 1) + players * (cards * (cards + 1) / 2 - 1)
}

/// Most values of one round: a bid per seat and all cards but each seat's last, `players` values each.
const fn max_values(players: usize, cards: usize) -> usize {
    players * cards * players
}

/// The largest visits (0), values (1) or bytes of all lists (2) over all tables. More cards are never
/// less, so each number of players is looked at with the most it can be dealt.
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

/// A round's place in a whole game.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GamePlace {
    /// The game's number in the run, from 0.
    pub number: u64,
    /// How the game stood before the round.
    pub standing: Standing,
}

/// One finished round. To fill one: `begin`, then per move `decision` (if searched) and `action`.
/// Filling it again reuses its memory.
#[derive(Clone, PartialEq, Debug)]
pub struct RoundRecord {
    /// The round's number in the run, from 0.
    pub round: u64,
    /// The run's seed.
    pub seed: u64,
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
    /// Visits of every searched decision (two or more legal actions) in order, one per legal action in
    /// ascending order, all worlds added.
    pub visits: Vec<u32>,
    /// Values of every searched decision in order: `players` each, the search's expected round score
    /// in points, by absolute seat.
    pub values: Vec<f32>,
}

/// The fields of fixed number, as they are encoded.
#[derive(Encode, Decode)]
struct Head {
    round: u64,
    seed: u64,
    game: Option<GameHead>,
    players: u8,
    cards: u8,
    trump: u8,
    turned: u8,
    dealer: u8,
    trump_rule: u8,
    dealer_restriction: bool,
    missed_bid_scores_tricks: bool,
    hands: [u64; MAX_PLAYERS],
}

#[derive(Encode, Decode)]
struct GameHead {
    number: u64,
    totals: [u16; MAX_PLAYERS],
    rounds_done: u8,
    rounds_total: u8,
    first_cards: u8,
}

/// In the order of their codes.
const TRUMP_RULES: [TrumpRule; 7] = [
    TrumpRule::Rotating,
    TrumpRule::Turned,
    TrumpRule::Spades,
    TrumpRule::Hearts,
    TrumpRule::Clubs,
    TrumpRule::Diamonds,
    TrumpRule::None,
];

impl Default for RoundRecord {
    fn default() -> RoundRecord {
        RoundRecord::new()
    }
}

impl RoundRecord {
    /// No round yet, with room for the largest: filling it will not allocate.
    pub fn new() -> RoundRecord {
        RoundRecord {
            round: 0,
            seed: 0,
            game: None,
            players: 0,
            cards: 0,
            trump: Trump::None,
            turned: None,
            dealer: 0,
            rules: Rules::default(),
            hands: [CardSet::EMPTY; MAX_PLAYERS],
            actions: Vec::with_capacity(PACK + MAX_PLAYERS),
            visits: Vec::with_capacity(MAX_VISITS),
            values: Vec::with_capacity(MAX_VALUES),
        }
    }

    /// Starts the record of `state`, a round before its first bid; forgets what was recorded before.
    pub fn begin(&mut self, round: u64, seed: u64, game: Option<GamePlace>, state: &Round) {
        self.round = round;
        self.seed = seed;
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
        self.visits.clear();
        self.values.clear();
    }

    /// Adds the search of the move to come: a visit count per legal action, ascending, and the
    /// expected round score of each absolute seat in points. To be followed by `action`.
    pub fn decision(&mut self, visits: &[u32], values: &[f32]) {
        self.visits.extend_from_slice(visits);
        self.values.extend_from_slice(values);
    }

    /// Adds a move, forced or chosen.
    pub fn action(&mut self, action: u8) {
        self.actions.push(action);
    }

    /// Number of searched decisions.
    pub fn decisions(&self) -> usize {
        self.values.len() / self.players.max(1)
    }

    /// Writes the record into `buffer` without allocating, and says how many bytes it took. A buffer
    /// of `MAX_RECORD_BYTES` holds any round.
    ///
    /// # Errors
    /// When the buffer is too small.
    pub fn encode_into(&self, buffer: &mut [u8]) -> Result<usize, ReplayError> {
        let lists = (&self.actions[..], &self.visits[..], &self.values[..]);
        bincode::encode_into_slice((self.head(), lists), buffer, CONFIG)
            .map_err(|error| ReplayError::round(self.round, format!("cannot encode: {error}")))
    }

    /// The record in these bytes, all of them. What it says of itself is checked against the limits of
    /// the game; that its actions are legal is `replay`'s business.
    ///
    /// # Errors
    /// When the bytes are no record; nothing larger than a record is ever allocated.
    pub fn decode(bytes: &[u8]) -> Result<RoundRecord, ReplayError> {
        type Lists = (Vec<u8>, Vec<u32>, Vec<f32>);
        let ((head, (actions, visits, values)), used) =
            bincode::decode_from_slice::<(Head, Lists), _>(bytes, CONFIG)
                .map_err(|error| ReplayError::Record(error.to_string()))?;
        if used != bytes.len() {
            let left = bytes.len() - used;
            return Err(ReplayError::Record(format!("{left} bytes too many")));
        }
        let outside = CardSet::FULL.bits();
        if head.hands.iter().any(|&hand| hand & !outside != 0) {
            return Err(ReplayError::Record("a hand holds no card".into()));
        }
        let record = RoundRecord {
            round: head.round,
            seed: head.seed,
            game: head.game.map(GamePlace::from),
            players: head.players.into(),
            cards: head.cards.into(),
            trump: decode_trump(head.trump)?,
            turned: decode_turned(head.turned)?,
            dealer: head.dealer.into(),
            rules: Rules {
                trump: *TRUMP_RULES
                    .get(head.trump_rule as usize)
                    .ok_or_else(|| ReplayError::Record("unknown trump rule".into()))?,
                dealer_restriction: head.dealer_restriction,
                missed_bid_scores_tricks: head.missed_bid_scores_tricks,
            },
            hands: head.hands.map(CardSet::from_bits),
            actions,
            visits,
            values,
        };
        record.check()?;
        Ok(record)
    }

    fn head(&self) -> Head {
        let rule = TRUMP_RULES.iter().position(|&r| r == self.rules.trump);
        Head {
            round: self.round,
            seed: self.seed,
            game: self.game.map(GameHead::from),
            players: self.players as u8,
            cards: self.cards as u8,
            trump: self.trump.code(),
            turned: self.turned.map_or(NO_CARD, Card::index),
            dealer: self.dealer as u8,
            trump_rule: rule.map_or(u8::MAX, |rule| rule as u8),
            dealer_restriction: self.rules.dealer_restriction,
            missed_bid_scores_tricks: self.rules.missed_bid_scores_tricks,
            hands: self.hands.map(CardSet::bits),
        }
    }

    /// Checks every field against the limits of the game; after it a round can be laid out safely.
    pub(super) fn check(&self) -> Result<(), ReplayError> {
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
                    "seat {seat}: not a hand of {size} cards of its own"
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
                    done * (10 + first)
                } else {
                    0
                };
                total as usize <= most
            })
    }
}

fn decode_trump(code: u8) -> Result<Trump, ReplayError> {
    match code {
        0..=3 => Ok(Trump::Suit(code)),
        4 => Ok(Trump::None),
        _ => Err(ReplayError::Record("unknown trump".into())),
    }
}

fn decode_turned(code: u8) -> Result<Option<Card>, ReplayError> {
    match (code, Card::new(code)) {
        (NO_CARD, _) => Ok(None),
        (_, Some(card)) => Ok(Some(card)),
        _ => Err(ReplayError::Record("the turned card is no card".into())),
    }
}

impl From<GamePlace> for GameHead {
    fn from(game: GamePlace) -> GameHead {
        GameHead {
            number: game.number,
            totals: game.standing.totals,
            rounds_done: game.standing.rounds_done,
            rounds_total: game.standing.rounds_total,
            first_cards: game.standing.first_cards,
        }
    }
}

impl From<GameHead> for GamePlace {
    fn from(head: GameHead) -> GamePlace {
        GamePlace {
            number: head.number,
            standing: Standing {
                totals: head.totals,
                rounds_done: head.rounds_done,
                rounds_total: head.rounds_total,
                first_cards: head.first_cards,
            },
        }
    }
}
