//! The record of one finished round: what cannot be derived by playing it again. Legal actions,
//! seats, tricks and scores follow from the hands and the actions (`played`), so they are not
//! stored. Visits and values of all decisions lie flat, one behind the other; their places follow
//! from the rules too. This is the only file that knows bincode, which is unmaintained: what it
//! reads is limited in size before it allocates, and every field is checked against the limits of
//! the game afterwards (`bounds`).

use super::bounds::{MAX_RECORD_BYTES, MAX_VALUES, MAX_VISITS};
use crate::game::{
    Card, CardSet, MAX_PLAYERS, NO_CARD, PACK, Round, Rules, Standing, Trump, TrumpRule,
};
use crate::plural::counted;
use crate::replay::error::ReplayError;
use bincode::{Decode, Encode};

// In memory no field is larger than its widest encoding, so that one limit serves both.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD_BYTES>,
> = bincode::config::standard().with_limit::<MAX_RECORD_BYTES>();

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
    /// Visits of every searched decision (two or more legal actions) in order, one per legal
    /// action in ascending order, all worlds added.
    pub visits: Vec<u32>,
    /// Values of every searched decision in order: `players` each, the search's expected round
    /// score in points, by absolute seat.
    pub values: Vec<f32>,
}

/// The fields of fixed number, as they are encoded.
#[derive(Encode, Decode)]
struct Head {
    round: u64,
    seed: u64,
    network: u32,
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
            network: 0,
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

    /// Writes the record into `buffer` without allocating, and says how many bytes it took. A
    /// buffer of `MAX_RECORD_BYTES` holds any round.
    ///
    /// # Errors
    /// When the buffer is too small.
    pub fn encode_into(&self, buffer: &mut [u8]) -> Result<usize, ReplayError> {
        let lists = (&self.actions[..], &self.visits[..], &self.values[..]);
        bincode::encode_into_slice((self.head(), lists), buffer, CONFIG)
            .map_err(|error| ReplayError::round(self.round, format!("cannot encode: {error}")))
    }

    /// The record in these bytes, all of them. What it says of itself is checked against the limits
    /// of the game; that its actions are legal is `replay`'s business.
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
            return Err(ReplayError::Record(format!(
                "{} too many",
                counted(left, "byte")
            )));
        }
        let outside = CardSet::FULL.bits();
        if head.hands.iter().any(|&hand| hand & !outside != 0) {
            return Err(ReplayError::Record("a hand holds no card".into()));
        }
        let record = RoundRecord {
            round: head.round,
            seed: head.seed,
            network: head.network,
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
            network: self.network,
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
