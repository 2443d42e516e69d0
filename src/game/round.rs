//! One round: bidding, then tricks. `Round` holds everything there is to know, hidden cards
//! included; what a player may know of it is in `observation`.

use super::cards::{Card, CardSet, PACK, RANKS};
use super::rules::{MAX_PLAYERS, Rules, Trump, TrumpRule, check_table};
use super::score::score;
use super::table::Table;
use crate::fault::Fault;
use rand::{Rng, RngExt};

/// A seat that has not bid yet.
pub const NO_BID: u8 = 255;
/// No card in this place.
pub const NO_CARD: u8 = 255;

/// What the mover is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Say how many tricks.
    Bidding,
    /// Play a card.
    Playing,
    /// All tricks are played.
    Over,
}

/// A round in progress. Seats are absolute, 0 to players - 1; actions are one space of 52: while
/// bidding action b is bid b, while playing action k is card k.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    hands: [CardSet; MAX_PLAYERS],
    played: CardSet,
    // Whole arrays for the observation; past the last seat or card they are as at the deal.
    pub(crate) bids: [u8; MAX_PLAYERS],
    pub(crate) tricks_won: [u8; MAX_PLAYERS],
    pub(crate) trick: [u8; MAX_PLAYERS],
    pub(crate) voids: [u8; MAX_PLAYERS],
    rules: Rules,
    trump: Trump,
    /// What the mover may do, bit a for action a.
    legal: u64,
    mover: u8,
    turned: u8,
    players: u8,
    cards: u8,
    dealer: u8,
    leader: u8,
    bids_made: u8,
    trick_len: u8,
    tricks_done: u8,
}

impl Round {
    /// A round with these hands, before the first bid. `trump` counts unless the rules turn a card;
    /// `turned` is that card.
    ///
    /// # Errors
    /// When the pack cannot be dealt so.
    ///
    /// # Panics
    /// When hands overlap or differ in size: a broken invariant of the caller.
    pub fn from_hands(
        hands: &[CardSet],
        trump: Trump,
        turned: Option<Card>,
        dealer: usize,
        rules: Rules,
    ) -> Result<Round, Fault> {
        let (players, cards) = (hands.len(), hands.first().map_or(0, |hand| hand.len()));
        check_table(players, cards)?;
        let mut seats = [CardSet::EMPTY; MAX_PLAYERS];
        let mut dealt = CardSet::EMPTY;
        for (seat, &hand) in seats.iter_mut().zip(hands) {
            assert!(
                hand.len() == cards && dealt.and(hand).is_empty(),
                "hands overlap or differ in size"
            );
            dealt = dealt.or(hand);
            *seat = hand;
        }
        assert!(dealer < players, "dealer sits at no seat");
        assert!(
            !turned.is_some_and(|card| dealt.contains(card)),
            "the turned card is in a hand"
        );
        let first = ((dealer + 1) % players) as u8;
        let mut round = Round {
            hands: seats,
            played: CardSet::EMPTY,
            bids: [NO_BID; MAX_PLAYERS],
            tricks_won: [0; MAX_PLAYERS],
            trick: [NO_CARD; MAX_PLAYERS],
            voids: [0; MAX_PLAYERS],
            rules,
            trump,
            turned: turned.map_or(NO_CARD, Card::index),
            players: players as u8,
            cards: cards as u8,
            dealer: dealer as u8,
            legal: 0,
            mover: first,
            leader: first,
            bids_made: 0,
            trick_len: 0,
            tricks_done: 0,
        };
        round.legal = round.find_legal();
        Ok(round)
    }

    /// Deals a round. With the rule `turned` the next undealt card's suit is trump (none left: no
    /// trump), whatever the table's turn.
    ///
    /// # Errors
    /// When the pack cannot be dealt so.
    pub fn deal(table: Table, rules: Rules, rng: &mut impl Rng) -> Result<Round, Fault> {
        table.check()?;
        let players = table.players;
        let mut pack: [u8; PACK] = std::array::from_fn(|card| card as u8);
        let used = players * table.cards;
        // One card more than the hands, so that the turned one is drawn alike.
        for place in 0..(used + 1).min(pack.len()) {
            let from = rng.random_range(place..pack.len());
            pack.swap(place, from);
        }
        let mut hands = [CardSet::EMPTY; MAX_PLAYERS];
        for (place, &card) in pack[..used].iter().enumerate() {
            hands[place % players] = hands[place % players].or(CardSet::from_bits(1 << card));
        }
        let turned = match rules.trump {
            TrumpRule::Turned => pack.get(used).and_then(|&card| Card::new(card)),
            _ => None,
        };
        let trump = rules.trump.fixed().unwrap_or_else(|| match rules.trump {
            TrumpRule::Turned => turned.map_or(Trump::None, |card| Trump::Suit(card.suit())),
            _ => Trump::in_turn(table.trump_turn),
        });
        Round::from_hands(&hands[..players], trump, turned, table.dealer, rules)
    }

    /// Seats at the table.
    pub fn players(&self) -> usize {
        self.players as usize
    }

    /// Cards each seat was dealt.
    pub fn cards(&self) -> usize {
        self.cards as usize
    }

    /// Trump of this round.
    pub fn trump(&self) -> Trump {
        self.trump
    }

    /// The dealer's seat.
    pub fn dealer(&self) -> usize {
        self.dealer as usize
    }

    /// The house variants in force.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The card turned up for trump, which everybody sees and nobody holds.
    pub fn turned(&self) -> Option<Card> {
        Card::new(self.turned)
    }

    /// What a seat still holds.
    pub fn hand(&self, seat: usize) -> CardSet {
        self.hands[seat]
    }

    /// Every card played so far, the current trick included.
    pub fn played(&self) -> CardSet {
        self.played
    }

    /// Bids by seat; `NO_BID` where none is made yet.
    pub fn bids(&self) -> &[u8] {
        &self.bids[..self.players()]
    }

    /// Tricks won by seat.
    pub fn tricks_won(&self) -> &[u8] {
        &self.tricks_won[..self.players()]
    }

    /// Cards of the current trick in the order played, the leader's first.
    pub fn trick(&self) -> &[u8] {
        &self.trick[..self.trick_len as usize]
    }

    /// Tricks finished.
    pub fn tricks_done(&self) -> usize {
        self.tricks_done as usize
    }

    /// Who led, or leads, the current trick (before the first one: left of the dealer).
    pub fn leader(&self) -> usize {
        self.leader as usize
    }

    /// Suits a seat has shown to be out of, by not following: bit s is suit s.
    pub fn voids(&self, seat: usize) -> u8 {
        self.voids[seat]
    }

    /// What is to be done now.
    pub fn phase(&self) -> Phase {
        if self.bids_made < self.players {
            Phase::Bidding
        } else if self.tricks_done < self.cards {
            Phase::Playing
        } else {
            Phase::Over
        }
    }

    /// Whose move it is (after the round: nobody's, the last winner's seat).
    pub fn mover(&self) -> usize {
        self.mover as usize
    }

    /// The bid the mover may not make: the dealer's, when it would make the bids add up.
    pub fn forbidden_bid(&self) -> Option<u8> {
        let last = self.bids_made + 1 == self.players;
        if !(last && self.rules.dealer_restriction && self.phase() == Phase::Bidding) {
            return None;
        }
        let others: u8 = self.bids().iter().filter(|&&bid| bid != NO_BID).sum();
        self.cards.checked_sub(others)
    }

    /// The mover's legal actions, bit a for action a; empty when the round is over.
    pub fn legal(&self) -> u64 {
        self.legal
    }

    fn find_legal(&self) -> u64 {
        match self.phase() {
            Phase::Bidding => {
                let all = (1_u64 << (self.cards + 1)) - 1;
                self.forbidden_bid().map_or(all, |bid| all & !(1 << bid))
            }
            Phase::Playing => {
                let hand = self.hands[self.mover()];
                let following = hand.and(self.led());
                if following.is_empty() {
                    hand.bits()
                } else {
                    following.bits()
                }
            }
            Phase::Over => 0,
        }
    }

    /// All cards of the suit that was led; none if nobody has led yet.
    fn led(&self) -> CardSet {
        match self.trick_len {
            0 => CardSet::EMPTY,
            _ => CardSet::suit(self.trick[0] / RANKS as u8),
        }
    }

    /// Makes the mover's move.
    ///
    /// # Panics
    /// When the action is not legal: a broken invariant of the caller.
    pub fn play(&mut self, action: u8) {
        assert!(
            action < 52 && self.legal >> action & 1 == 1,
            "illegal action {action}"
        );
        let seat = self.mover();
        self.mover = if self.mover + 1 == self.players {
            0
        } else {
            self.mover + 1
        };
        if self.bids_made < self.players {
            self.bids[seat] = action;
            self.bids_made += 1;
        } else {
            self.play_card(seat, action);
        }
        self.legal = self.find_legal();
    }

    fn play_card(&mut self, seat: usize, action: u8) {
        let card = CardSet::from_bits(1 << action);
        let led = self.led();
        if !led.is_empty() && card.and(led).is_empty() {
            self.voids[seat] |= 1 << (self.trick[0] / RANKS as u8);
        }
        self.hands[seat] = self.hands[seat].without(card);
        self.played = self.played.or(card);
        self.trick[self.trick_len as usize] = action;
        self.trick_len += 1;
        if self.trick_len == self.players {
            self.finish_trick();
        }
    }

    /// The highest trump wins the trick, or else the highest card of the suit led.
    fn finish_trick(&mut self) {
        let cards = self
            .trick()
            .iter()
            .fold(0, |cards, &card| cards | 1 << card);
        let trumps = match self.trump {
            Trump::Suit(suit) => cards & CardSet::suit(suit).bits(),
            Trump::None => 0,
        };
        let contenders = if trumps == 0 {
            cards & self.led().bits()
        } else {
            trumps
        };
        let highest = contenders.ilog2() as u8;
        let order = self.trick().iter().position(|&card| card == highest);
        let winner = (self.leader() + order.unwrap_or(0)) % self.players();
        self.tricks_won[winner] += 1;
        self.leader = winner as u8;
        self.mover = self.leader;
        self.trick = [NO_CARD; MAX_PLAYERS];
        self.trick_len = 0;
        self.tricks_done += 1;
    }

    /// Points of each seat once the round is over. Entries past the last seat are 0.
    pub fn scores(&self) -> [u8; MAX_PLAYERS] {
        let mut scores = [0; MAX_PLAYERS];
        for (seat, points) in scores.iter_mut().enumerate().take(self.players()) {
            *points = score(self.bids[seat], self.tricks_won[seat], self.rules);
        }
        scores
    }

    /// The same round as `seat` may imagine it: other hands replaced. Sizes must be kept.
    pub fn with_hands(&self, hands: &[CardSet; MAX_PLAYERS]) -> Round {
        debug_assert!((0..self.players()).all(|seat| hands[seat].len() == self.hands[seat].len()));
        let mut round = Round {
            hands: *hands,
            ..*self
        };
        round.legal = round.find_legal();
        round
    }
}
