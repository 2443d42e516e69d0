//! What the mover knows, in two forms: `Position`, the compact record that travels through shared
//! memory (88 bytes), and the 256 features of the network, which are expanded from it where the
//! network runs. Nothing the mover cannot know enters either: that a position is all the network
//! sees is what makes evaluating an observation once, for every world that shares it, exact.
//!
//! Seats are relative to the mover: 0 is the mover, 1 the next to the left, and so on.
//!
//! | features | what | value |
//! |---|---|---|
//! | 0..52 | own hand, a plane of cards | 1 held |
//! | 52..104 | cards seen, a plane of cards | 1 played this round, 0.5 turned up for trump |
//! | 104..156 | current trick, a plane of cards | (order + 1) / players, the leader's card first |
//! | 156..164 | bids by seat | bid / cards; -1 not yet; 0 no such seat |
//! | 164..172 | tricks won by seat | tricks / cards |
//! | 172 | own bid | bid / cards; -1 not yet |
//! | 173 | tricks still needed | (bid - won) / cards, negative when over; 0 before the bid |
//! | 174 | cards dealt in this round | cards / 17 |
//! | 175 | trick number | tricks finished / cards |
//! | 176..184 | dealer's seat | one-hot |
//! | 184..192 | leader's seat | one-hot |
//! | 192..198 | players | one-hot, 3 to 8 |
//! | 198..203 | trump | one-hot, spades hearts clubs diamonds none |
//! | 203..205 | phase | one-hot, bidding playing |
//! | 205, 206 | a bid is forbidden; which | 1; bid / cards |
//! | 207..235 | suits shown void by seats 1 to 7 | 7 x 4, 1 void |
//! | 235..239 | cards held by suit | count / cards |
//! | 239..243 | high cards (jack and up) held by suit | count / 4 |
//! | 243..251 | points so far by seat (whole games) | points / (rounds * (10 + largest)) |
//! | 251, 252 | rounds done, rounds left after this one | / rounds |
//! | 253 | cards of the game's largest round, in Blob's the first | largest / 17 |
//! | 254 | direction of Blob's schedule | -1 falling, 0 the one-card rounds, 1 rising |
//! | 255 | part of a whole game | 1 |

use crate::game::{
    CardSet, MAX_CARDS, MAX_PLAYERS, MIN_PLAYERS, NO_BID, NO_CARD, Phase, RANKS, Round, SUITS,
    Standing, bits, check_table, most_points,
};
use bytemuck::{Pod, Zeroable};

/// Features of one observation.
pub const FEATURES: usize = 256;
/// Actions of the policy: bids and cards share one space.
pub const ACTIONS: usize = 52;

/// Where each group of features begins, as the table above says; the CUDA kernels are told these.
#[allow(missing_docs)]
pub mod feature {
    pub const HAND: usize = 0;
    pub const SEEN: usize = 52;
    pub const TRICK: usize = 104;
    pub const BIDS: usize = 156;
    pub const TRICKS_WON: usize = 164;
    pub const OWN_BID: usize = 172;
    pub const NEEDED: usize = 173;
    pub const CARDS: usize = 174;
    pub const TRICK_NUMBER: usize = 175;
    pub const DEALER: usize = 176;
    pub const LEADER: usize = 184;
    pub const PLAYERS: usize = 192;
    pub const TRUMP: usize = 198;
    pub const PHASE: usize = 203;
    pub const FORBIDDEN: usize = 205;
    pub const VOIDS: usize = 207;
    pub const SUIT_COUNTS: usize = 235;
    pub const HIGH_CARDS: usize = 239;
    pub const TOTALS: usize = 243;
    pub const ROUNDS_DONE: usize = 251;
    pub const ROUNDS_LEFT: usize = 252;
    pub const FIRST_CARDS: usize = 253;
    pub const DIRECTION: usize = 254;
    pub const IN_GAME: usize = 255;

    /// Jack, queen, king and ace of one suit, within the suit's 13 bits.
    pub const HIGH_RANKS: u64 = 0b1_1110_0000_0000;
}
use feature::*;

/// One observation, compact: everything the mover knows and nothing else. Plain bytes, no padding,
/// so that it can be copied, hashed and compared as such.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Position {
    /// Cards held.
    pub hand: u64,
    /// Cards played this round.
    pub played: u64,
    /// Legal actions.
    pub legal: u64,
    /// Bids by relative seat, `NO_BID` where there is none.
    pub bids: [u8; MAX_PLAYERS],
    /// Tricks won by relative seat.
    pub tricks_won: [u8; MAX_PLAYERS],
    /// Current trick in order of play, `NO_CARD` where none lies.
    pub trick: [u8; MAX_PLAYERS],
    /// Suits shown void by relative seat (the mover's own entry is 0), bit s for suit s.
    pub voids: [u8; MAX_PLAYERS],
    /// Points so far in a whole game, by relative seat.
    pub totals: [u16; MAX_PLAYERS],
    /// Seats, 3 to 8.
    pub players: u8,
    /// Cards dealt to each seat in this round.
    pub cards: u8,
    /// 0 to 3, or 4 for none.
    pub trump: u8,
    /// 0 bidding, 1 playing.
    pub phase: u8,
    /// Relative seat of the dealer.
    pub dealer: u8,
    /// Relative seat of the leader.
    pub leader: u8,
    /// The bid the mover may not make, or `NO_BID`.
    pub forbidden_bid: u8,
    /// The card turned up for trump, or `NO_CARD`.
    pub turned: u8,
    /// Rounds finished in this game.
    pub rounds_done: u8,
    /// Rounds of the game; 0 for an independent round.
    pub rounds_total: u8,
    /// Cards of the game's largest round, in Blob's schedule the first.
    pub first_cards: u8,
    /// Always 0.
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<Position>() == 88);

impl Position {
    /// What the mover of `round` knows, the game standing at `standing`.
    pub fn observe(round: &Round, standing: &Standing) -> Position {
        let (players, mover) = (round.players(), round.mover());
        let relative = |seat: usize| match seat >= mover {
            true => (seat - mover) as u8,
            false => (seat + players - mover) as u8,
        };
        let mut position = Position {
            hand: round.hand(mover).bits(),
            played: round.played().bits(),
            legal: round.legal(),
            bids: from_mover(round.bids, mover, players),
            tricks_won: from_mover(round.tricks_won, mover, players),
            trick: round.trick,
            voids: from_mover(round.voids, mover, players),
            totals: [0; MAX_PLAYERS],
            players: players as u8,
            cards: round.cards() as u8,
            trump: round.trump().code(),
            phase: u8::from(round.phase() != Phase::Bidding),
            dealer: relative(round.dealer()),
            leader: relative(round.leader()),
            forbidden_bid: round.forbidden_bid().unwrap_or(NO_BID),
            turned: round.turned().map_or(NO_CARD, |card| card.index()),
            rounds_done: standing.rounds_done,
            rounds_total: standing.rounds_total,
            first_cards: standing.first_cards,
            reserved: [0; 5],
        };
        position.voids[0] = 0;
        if standing.rounds_total > 0 {
            for place in 0..players {
                position.totals[place] = standing.totals[(mover + place) % players];
            }
        }
        position
    }

    /// Could this have come from `observe`, as far as `expand` and the network rely on it? Asked of
    /// every position that another process wrote.
    pub fn is_sound(&self) -> bool {
        let cards = CardSet::FULL.bits();
        check_table(self.players as usize, self.cards as usize).is_ok()
            && self.hand & !cards == 0
            && self.played & !cards == 0
            && self.legal != 0
            && self.legal & !cards == 0
            && self.legal.count_ones() as usize <= crate::game::MAX_LEGAL
            && self.trump <= 4
            && self.phase <= 1
            && self.dealer < self.players
            && self.leader < self.players
            && (self.turned == NO_CARD || self.turned < 52)
            && self.trick.iter().all(|&card| card == NO_CARD || card < 52)
    }

    /// Writes the 256 features (table at the head of this module). Total: any bytes expand without
    /// a panic; only sound positions expand to something meaningful.
    pub fn expand(&self, features: &mut [f32; FEATURES]) {
        features.fill(0.0);
        let players = (self.players as usize).clamp(MIN_PLAYERS, MAX_PLAYERS);
        let per_card = 1.0 / f32::from(self.cards.max(1));
        for card in bits(self.hand & CardSet::FULL.bits()) {
            features[HAND + card as usize] = 1.0;
        }
        if self.turned < 52 {
            features[SEEN + self.turned as usize] = 0.5;
        }
        for card in bits(self.played & CardSet::FULL.bits()) {
            features[SEEN + card as usize] = 1.0;
        }
        for (order, &card) in self.trick.iter().enumerate() {
            if card < 52 {
                features[TRICK + card as usize] = (order + 1) as f32 / players as f32;
            }
        }
        for seat in 0..players {
            features[BIDS + seat] = bid_feature(self.bids[seat], per_card);
            features[TRICKS_WON + seat] = f32::from(self.tricks_won[seat]) * per_card;
        }
        let own_bid = self.bids[0];
        features[OWN_BID] = bid_feature(own_bid, per_card);
        if own_bid != NO_BID {
            features[NEEDED] = (f32::from(own_bid) - f32::from(self.tricks_won[0])) * per_card;
        }
        let tricks_done: u32 = self.tricks_won.iter().map(|&won| u32::from(won)).sum();
        features[CARDS] = f32::from(self.cards) / MAX_CARDS as f32;
        features[TRICK_NUMBER] = tricks_done as f32 * per_card;
        features[DEALER + (self.dealer as usize).min(MAX_PLAYERS - 1)] = 1.0;
        features[LEADER + (self.leader as usize).min(MAX_PLAYERS - 1)] = 1.0;
        features[PLAYERS + players - MIN_PLAYERS] = 1.0;
        features[TRUMP + (self.trump as usize).min(4)] = 1.0;
        features[PHASE + (self.phase as usize).min(1)] = 1.0;
        if self.forbidden_bid != NO_BID {
            features[FORBIDDEN] = 1.0;
            features[FORBIDDEN + 1] = f32::from(self.forbidden_bid) * per_card;
        }
        self.expand_suits(players, per_card, features);
        if self.rounds_total > 0 {
            self.expand_game(players, features);
        }
    }

    fn expand_suits(&self, players: usize, per_card: f32, features: &mut [f32; FEATURES]) {
        for seat in 1..players {
            for suit in bits(u64::from(self.voids[seat] & 0b1111)) {
                features[VOIDS + (seat - 1) * SUITS + suit as usize] = 1.0;
            }
        }
        for suit in 0..SUITS {
            let held = self.hand >> (suit * RANKS) & CardSet::suit(0).bits();
            features[SUIT_COUNTS + suit] = held.count_ones() as f32 * per_card;
            features[HIGH_CARDS + suit] = (held & HIGH_RANKS).count_ones() as f32 * 0.25;
        }
    }

    fn expand_game(&self, players: usize, features: &mut [f32; FEATURES]) {
        let rounds = f32::from(self.rounds_total);
        let most = rounds * most_points(self.first_cards as usize) as f32;
        for seat in 0..players {
            features[TOTALS + seat] = f32::from(self.totals[seat]) / most;
        }
        features[ROUNDS_DONE] = f32::from(self.rounds_done) / rounds;
        features[ROUNDS_LEFT] = (rounds - 1.0 - f32::from(self.rounds_done)) / rounds;
        features[FIRST_CARDS] = f32::from(self.first_cards) / MAX_CARDS as f32;
        let (round, first) = (self.rounds_done as usize + 1, self.first_cards as usize);
        features[DIRECTION] = if round < first {
            -1.0
        } else if round < first + players {
            0.0
        } else {
            1.0
        };
        features[IN_GAME] = 1.0;
    }
}

fn bid_feature(bid: u8, per_card: f32) -> f32 {
    if bid == NO_BID {
        -1.0
    } else {
        f32::from(bid) * per_card
    }
}

/// One byte a seat, turned so that the mover's comes first; bytes past the last seat stay.
fn from_mover(by_seat: [u8; MAX_PLAYERS], mover: usize, players: usize) -> [u8; MAX_PLAYERS] {
    let word = u64::from_le_bytes(by_seat);
    let seats = u64::MAX >> (8 * (MAX_PLAYERS - players));
    let (later, earlier) = (
        (word & seats) >> (8 * mover),
        // In two steps, since a shift by all 64 bits is none.
        word << 8 << (8 * (players - 1 - mover)),
    );
    ((later | earlier) & seats | word & !seats).to_le_bytes()
}
