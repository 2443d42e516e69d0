//! Worlds: exact uniform sampling of the hidden cards. A deal gives every unseen card to an
//! opponent's hand or to the undealt pile so that hand sizes and shown voids agree with what the
//! mover knows; each such deal is equally likely.
//!
//! Seats with the same shown voids are interchangeable until the cards of their group are dealt out
//! among them, which multiplies every deal's count alike. So only *groups* are counted: suit by
//! suit, how many of the suit's unseen cards go to each group that may hold them, weighted by the
//! number of ways to choose them. Suits that nobody has shown void are one layer at the end, with a
//! closed form. Groups without any void (the pile among them) take what is left. Counts are exact
//! integers: at most 8 groups share at most 51 cards, and voids only show as cards are played,
//! which keeps the count below 2^100 (the largest is near 3^51 with 3 groups).

use crate::game::{CardSet, MAX_PLAYERS, PACK, Round, SUITS, bits};
use rand::{Rng, RngExt};
use std::ops::Range;

/// `CHOOSE[n][k]`: ways to choose k of n cards.
static CHOOSE: [[u128; PACK + 1]; PACK + 1] = pascal();

const fn pascal() -> [[u128; PACK + 1]; PACK + 1] {
    let mut table = [[0; PACK + 1]; PACK + 1];
    let mut n = 0;
    while n <= PACK {
        table[n][0] = 1;
        let mut k = 1;
        while k <= n {
            table[n][k] = table[n - 1][k - 1] + table[n - 1][k];
            k += 1;
        }
        n += 1;
    }
    table
}

/// A count not worked out yet.
const UNKNOWN: u128 = u128::MAX;

/// Seats that have shown the same voids (restricted to suits that still have unseen cards).
#[derive(Clone, Copy)]
struct Group {
    voids: u8,
    seats: u8,
    size: u8,
}

type Sizes = [u8; MAX_PLAYERS];

/// Room for the counts, allocated at the start. The most states: after three tricks on three suits
/// all seven opponents of 8 x 6 can differ in their voids, with three cards each: 4^7 = 16,384 (7 x
/// 7: 5^6 = 15,625; later tricks leave fewer cards); at most four suits are layers. 1 MiB.
const COUNT_ROOM: usize = SUITS * 16_384;

/// Samples the worlds of one decision after the other.
pub struct WorldSampler {
    mover: usize,
    mover_hand: CardSet,
    hand_sizes: Sizes,
    /// Groups with at least one void.
    groups: Vec<Group>,
    /// Seats without any, which share the rest with the pile.
    free_seats: u8,
    /// Unseen cards of the suits that somebody has shown void, one layer each.
    layers: Vec<(u8, CardSet)>,
    /// Unseen cards of all other suits.
    free_cards: CardSet,
    strides: [usize; MAX_PLAYERS],
    states: usize,
    /// `counts[layer * states + state]`: deals of layer and later ones, by what the groups still
    /// lack.
    counts: Vec<u128>,
}

impl Default for WorldSampler {
    fn default() -> WorldSampler {
        WorldSampler {
            mover: 0,
            mover_hand: CardSet::EMPTY,
            hand_sizes: [0; MAX_PLAYERS],
            groups: Vec::with_capacity(MAX_PLAYERS),
            free_seats: 0,
            layers: Vec::with_capacity(SUITS),
            free_cards: CardSet::EMPTY,
            strides: [0; MAX_PLAYERS],
            states: 0,
            counts: Vec::with_capacity(COUNT_ROOM),
        }
    }
}

impl WorldSampler {
    /// Takes in what the mover of `round` knows and counts the deals.
    pub fn prepare(&mut self, round: &Round) {
        self.mover = round.mover();
        self.mover_hand = round.hand(self.mover);
        let mut seen = self.mover_hand.or(round.played());
        if let Some(card) = round.turned() {
            seen.insert(card);
        }
        let unseen = CardSet::FULL.without(seen);
        self.group_seats(round, unseen);
        self.layer_suits(unseen);
        self.states = 1;
        for (stride, group) in self.strides.iter_mut().zip(&self.groups) {
            *stride = self.states;
            self.states *= group.size as usize + 1;
        }
        self.counts.clear();
        self.counts.resize(self.layers.len() * self.states, UNKNOWN);
        let total = self.count(0, &mut self.sizes());
        assert!(total > 0, "no deal agrees with what was played");
    }

    fn group_seats(&mut self, round: &Round, unseen: CardSet) {
        self.groups.clear();
        self.free_seats = 0;
        self.hand_sizes = [0; MAX_PLAYERS];
        let mut matters = 0;
        for suit in 0..SUITS as u8 {
            matters |= u8::from(!unseen.and(CardSet::suit(suit)).is_empty()) << suit;
        }
        for seat in (0..round.players()).filter(|&seat| seat != self.mover) {
            let size = round.hand(seat).len() as u8;
            self.hand_sizes[seat] = size;
            let voids = round.voids(seat) & matters;
            if voids == 0 {
                self.free_seats |= 1 << seat;
                continue;
            }
            let seats = 1 << seat;
            match self.groups.iter_mut().find(|group| group.voids == voids) {
                Some(group) => {
                    group.seats |= seats;
                    group.size += size;
                }
                None => self.groups.push(Group { voids, seats, size }),
            }
        }
    }

    fn layer_suits(&mut self, unseen: CardSet) {
        let voids = self.groups.iter().fold(0, |all, group| all | group.voids);
        self.layers.clear();
        self.free_cards = unseen;
        for suit in (0..SUITS as u8).filter(|suit| voids >> suit & 1 == 1) {
            let cards = unseen.and(CardSet::suit(suit));
            self.layers.push((suit, cards));
            self.free_cards = self.free_cards.without(cards);
        }
    }

    fn sizes(&self) -> Sizes {
        let mut sizes = [0; MAX_PLAYERS];
        for (size, group) in sizes.iter_mut().zip(&self.groups) {
            *size = group.size;
        }
        sizes
    }

    /// The number of deals that agree with what the mover knows, exactly.
    pub fn deals(&mut self) -> u128 {
        let mut deals = self.count(0, &mut self.sizes());
        let lacking: usize = self.groups.iter().map(|group| group.size as usize).sum();
        let restricted: usize = self.layers.iter().map(|(_, cards)| cards.len()).sum();
        // Within a group any seat may get any of the group's cards.
        let free_size = restricted + self.free_cards.len() - lacking;
        let shares = self.groups.iter();
        let shares = shares.map(|group| (group.seats, group.size as usize));
        for (seats, mut left) in shares.chain([(self.free_seats, free_size)]) {
            for seat in bits(u64::from(seats)) {
                let size = self.hand_sizes[seat as usize] as usize;
                deals *= CHOOSE[left][size];
                left -= size;
            }
        }
        deals
    }

    /// Deals of `layer` and the later ones when the groups still lack `sizes` cards.
    fn count(&mut self, layer: usize, sizes: &mut Sizes) -> u128 {
        if layer == self.layers.len() {
            let mut left = self.free_cards.len();
            let mut ways = 1;
            for &size in &sizes[..self.groups.len()] {
                if size as usize > left {
                    return 0;
                }
                ways *= CHOOSE[left][size as usize];
                left -= size as usize;
            }
            return ways;
        }
        let strides = self.strides[..self.groups.len()].iter().zip(&*sizes);
        let state: usize = strides.map(|(stride, &size)| stride * size as usize).sum();
        let slot = layer * self.states + state;
        if self.counts[slot] == UNKNOWN {
            self.counts[slot] = self.spread(layer, 0, self.layers[layer].1.len(), sizes);
        }
        self.counts[slot]
    }

    /// The same, with `left` cards of the layer's suit still to go to groups `group` and later.
    fn spread(&mut self, layer: usize, group: usize, left: usize, sizes: &mut Sizes) -> u128 {
        if group == self.groups.len() {
            return self.count(layer + 1, sizes);
        }
        let most = self.most(layer, group, left, sizes);
        let mut total = 0;
        for (taken, &ways) in CHOOSE[left][..=most].iter().enumerate() {
            sizes[group] -= taken as u8;
            total += ways * self.spread(layer, group + 1, left - taken, sizes);
            sizes[group] += taken as u8;
        }
        total
    }

    fn most(&self, layer: usize, group: usize, left: usize, sizes: &Sizes) -> usize {
        if self.groups[group].voids >> self.layers[layer].0 & 1 == 1 {
            0
        } else {
            left.min(sizes[group] as usize)
        }
    }

    /// One world: hands by seat, the mover's own among them.
    pub fn sample(&mut self, rng: &mut impl Rng) -> [CardSet; MAX_PLAYERS] {
        let mut hands = [CardSet::EMPTY; MAX_PLAYERS];
        let mut sizes = self.sizes();
        let mut piles = [CardSet::EMPTY; MAX_PLAYERS];
        let mut rest = CardSet::EMPTY;
        for layer in 0..self.layers.len() {
            let mut deck = Deck::new(self.layers[layer].1);
            for (group, pile) in piles.iter_mut().enumerate().take(self.groups.len()) {
                let taken = self.draw_share(layer, group, deck.left(), &mut sizes, rng);
                *pile = pile.or(deck.deal(taken, rng));
            }
            rest = rest.or(deck.rest());
        }
        let mut deck = Deck::new(self.free_cards);
        for group in 0..self.groups.len() {
            let pile = piles[group].or(deck.deal(sizes[group] as usize, rng));
            self.deal_out(pile, self.groups[group].seats, &mut hands, rng);
        }
        self.deal_out(rest.or(deck.rest()), self.free_seats, &mut hands, rng);
        hands[self.mover] = self.mover_hand;
        hands
    }

    /// How many of the layer's `left` cards `group` gets, drawn in proportion to the deals behind
    /// each number; takes them off `sizes`.
    fn draw_share(
        &mut self,
        layer: usize,
        group: usize,
        left: usize,
        sizes: &mut Sizes,
        rng: &mut impl Rng,
    ) -> usize {
        let most = self.most(layer, group, left, sizes);
        if most == 0 {
            return 0;
        }
        let total = self.spread(layer, group, left, sizes);
        let mut drawn = rng.random_range(0..total);
        for (taken, &ways) in CHOOSE[left][..=most].iter().enumerate() {
            sizes[group] -= taken as u8;
            let ways = ways * self.spread(layer, group + 1, left - taken, sizes);
            if drawn < ways {
                return taken;
            }
            drawn -= ways;
            sizes[group] += taken as u8;
        }
        unreachable!("the shares add up to the total")
    }

    /// Deals a group's cards to its seats; what is left is the undealt pile's.
    fn deal_out(
        &self,
        cards: CardSet,
        seats: u8,
        hands: &mut [CardSet; MAX_PLAYERS],
        rng: &mut impl Rng,
    ) {
        let mut deck = Deck::new(cards);
        for seat in bits(u64::from(seats)) {
            let seat = seat as usize;
            hands[seat] = deck.deal(self.hand_sizes[seat] as usize, rng);
        }
    }
}

/// Cards dealt one by one at random (a Fisher-Yates shuffle that stops early).
struct Deck {
    cards: [u8; PACK],
    next: usize,
    len: usize,
}

impl Deck {
    fn new(cards: CardSet) -> Deck {
        let mut deck = Deck {
            cards: [0; PACK],
            next: 0,
            len: 0,
        };
        for card in cards.iter() {
            deck.cards[deck.len] = card.index();
            deck.len += 1;
        }
        deck
    }

    fn left(&self) -> usize {
        self.len - self.next
    }

    fn deal(&mut self, count: usize, rng: &mut impl Rng) -> CardSet {
        let end = self.next + count;
        // When all that is left is dealt there is nothing to draw.
        let drawn = if end == self.len { self.next } else { end };
        for place in self.next..drawn {
            let from = rng.random_range(place..self.len);
            self.cards.swap(place, from);
        }
        let dealt = self.set(self.next..end);
        self.next = end;
        dealt
    }

    fn rest(&self) -> CardSet {
        self.set(self.next..self.len)
    }

    fn set(&self, places: Range<usize>) -> CardSet {
        let cards = self.cards[places].iter();
        CardSet::from_bits(cards.fold(0, |bits, &card| bits | 1 << card))
    }
}
