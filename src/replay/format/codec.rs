//! Records as bytes. This is the only file that knows bincode, which is unmaintained: what it reads
//! is limited in size before it allocates, and every field is checked against the limits of the
//! game afterwards. A record of version 3 begins with two bytes that no record of version 2 can
//! begin with, and has two lists more.

use super::bounds::MAX_RECORD_BYTES;
use super::record::{GamePlace, RoundRecord, SearchKind};
use crate::game::{Card, CardSet, MAX_PLAYERS, NO_CARD, Rules, Standing, Trump, TrumpRule};
use crate::plural::counted;
use crate::replay::error::ReplayError;
use bincode::{Decode, Encode};

// In memory no field is larger than its widest encoding, so that one limit serves both.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD_BYTES>,
> = bincode::config::standard().with_limit::<MAX_RECORD_BYTES>();

/// The beginning of a record of version 3. One of version 2 begins with the round's number, whose
/// encoding never begins with 255.
const VERSION_3: [u8; 2] = [255, 3];

/// The fields of fixed number, as they are encoded.
#[derive(Encode, Decode)]
struct Head {
    round: u64,
    seed: u64,
    network: u32,
    game: Option<GamePlaceFields>,
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

/// Number of the game; points before the round; rounds done, rounds in all, most cards.
type GamePlaceFields = (u64, [u16; MAX_PLAYERS], u8, u8, u8);
/// Actions, visits, values.
type Lists = (Vec<u8>, Vec<u32>, Vec<f32>);
/// Kinds of searches, policies.
type Lists3 = (Vec<u8>, Vec<f32>);

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

impl RoundRecord {
    /// Writes the record into `buffer` without allocating, and says how many bytes it took. A
    /// buffer of `MAX_RECORD_BYTES` holds any round.
    ///
    /// # Errors
    /// When the buffer is too small.
    pub fn encode_into(&self, buffer: &mut [u8]) -> Result<usize, ReplayError> {
        let lists = (&self.actions[..], &self.visits[..], &self.values[..]);
        let written = match self.version() {
            2 => bincode::encode_into_slice((self.head(), lists), buffer, CONFIG),
            _ => {
                let kinds: &[u8] = bytemuck::cast_slice(&self.searches);
                let lists = (lists, (kinds, &self.policies[..]));
                bincode::encode_into_slice((VERSION_3, self.head(), lists), buffer, CONFIG)
            }
        };
        written.map_err(|error| ReplayError::round(self.round, format!("cannot encode: {error}")))
    }

    /// The record in these bytes, all of them. What it says of itself is checked against the limits
    /// of the game; that its actions are legal, `RoundRecord::replay` checks.
    ///
    /// # Errors
    /// When the bytes are no record; nothing larger than a record is ever allocated.
    pub fn decode(bytes: &[u8]) -> Result<RoundRecord, ReplayError> {
        let (version, record) = match bytes.strip_prefix(&VERSION_3) {
            Some(rest) => {
                let (head, lists, lists_3) = decode_all(rest)?;
                (3, record_of(head, lists, Some(lists_3)))
            }
            None => {
                let (head, lists) = decode_all(bytes)?;
                (2, record_of(head, lists, None))
            }
        };
        let record = record.map_err(ReplayError::record)?;
        let fail = |what: &str| Err(ReplayError::round(record.round, what));
        if let Err(what) = record.check() {
            return fail(&what);
        }
        match (version, record.version()) {
            (2, 3) => fail("its place in the game is not on Blob's schedule"),
            (3, 2) => fail("of version 3, with nothing in it that version 2 could not say"),
            _ => Ok(record),
        }
    }

    fn head(&self) -> Head {
        let rule = TRUMP_RULES.iter().position(|&r| r == self.rules.trump);
        Head {
            round: self.round,
            seed: self.seed,
            network: self.network,
            game: self.game.map(|GamePlace { number, standing }| {
                let (done, total) = (standing.rounds_done, standing.rounds_total);
                (number, standing.totals, done, total, standing.first_cards)
            }),
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

/// What these bytes encode, all of them.
fn decode_all<T: Decode<()>>(bytes: &[u8]) -> Result<T, ReplayError> {
    match bincode::decode_from_slice(bytes, CONFIG) {
        Ok((decoded, used)) if used == bytes.len() => Ok(decoded),
        Ok((_, used)) => {
            let left = counted(bytes.len() - used, "byte");
            Err(ReplayError::record(format!("{left} too many")))
        }
        Err(error) => Err(ReplayError::record(error.to_string())),
    }
}

/// The record of these parts, whose codes all have to mean something.
fn record_of(head: Head, lists: Lists, lists_3: Option<Lists3>) -> Result<RoundRecord, String> {
    let outside = !CardSet::FULL.bits();
    if head.hands.iter().any(|&hand| hand & outside != 0) {
        return Err("a hand holds no card".into());
    }
    let (actions, visits, values) = lists;
    let (searches, policies) = match lists_3 {
        // All searched in full: as many as there are values for.
        None => {
            let decisions = values.len() / usize::from(head.players).max(1);
            (vec![SearchKind::Full; decisions], Vec::new())
        }
        Some((kinds, policies)) => {
            let kinds: &[SearchKind] =
                bytemuck::checked::try_cast_slice(&kinds).map_err(|_| "unknown kind of search")?;
            (kinds.to_vec(), policies)
        }
    };
    Ok(RoundRecord {
        round: head.round,
        seed: head.seed,
        network: head.network,
        game: head.game.map(game_place),
        players: head.players.into(),
        cards: head.cards.into(),
        trump: match head.trump {
            suit @ 0..=3 => Trump::Suit(suit),
            4 => Trump::None,
            _ => return Err("unknown trump".into()),
        },
        turned: match (head.turned, Card::new(head.turned)) {
            (NO_CARD, _) => None,
            (_, Some(card)) => Some(card),
            _ => return Err("the turned card is no card".into()),
        },
        dealer: head.dealer.into(),
        rules: Rules {
            trump: *TRUMP_RULES
                .get(usize::from(head.trump_rule))
                .ok_or("unknown trump rule")?,
            dealer_restriction: head.dealer_restriction,
            missed_bid_scores_tricks: head.missed_bid_scores_tricks,
        },
        hands: head.hands.map(CardSet::from_bits),
        actions,
        searches,
        visits,
        values,
        policies,
    })
}

fn game_place(
    (number, totals, rounds_done, rounds_total, first_cards): GamePlaceFields,
) -> GamePlace {
    let standing = Standing {
        totals,
        rounds_done,
        rounds_total,
        first_cards,
    };
    GamePlace { number, standing }
}
