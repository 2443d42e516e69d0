//! Cards and sets of cards: a card is its index (suit * 13 + rank), a set of cards is one 64-bit
//! word.

/// Cards in the pack.
pub const PACK: usize = 52;
/// Suits: spades, hearts, clubs, diamonds are 0, 1, 2, 3.
pub const SUITS: usize = 4;
/// Ranks of a suit: 2 is 0, the ace is 12.
pub const RANKS: usize = 13;

/// One card: `suit * 13 + rank`, 0 to 51.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Card(u8);

impl Card {
    /// The card with this index (0 to 51), if there is one.
    pub const fn new(index: u8) -> Option<Card> {
        if (index as usize) < PACK {
            Some(Card(index))
        } else {
            None
        }
    }

    /// 0 to 51.
    pub const fn index(self) -> u8 {
        self.0
    }

    /// 0 to 3.
    pub const fn suit(self) -> u8 {
        self.0 / RANKS as u8
    }

    /// 0 (two) to 12 (ace).
    pub const fn rank(self) -> u8 {
        self.0 % RANKS as u8
    }
}

/// A set of cards (bit k is card k). Bits 52 and up are always clear.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CardSet(u64);

impl CardSet {
    /// No card.
    pub const EMPTY: CardSet = CardSet(0);
    /// The whole pack.
    pub const FULL: CardSet = CardSet((1 << PACK) - 1);

    /// The set with these bits; bits that are no card are dropped.
    pub const fn from_bits(bits: u64) -> CardSet {
        CardSet(bits & Self::FULL.0)
    }

    /// Bit k is card k.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// All cards of a suit (0 to 3).
    pub const fn suit(suit: u8) -> CardSet {
        CardSet(((1 << RANKS) - 1) << (suit as usize * RANKS))
    }

    /// Number of cards.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// True without any card.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is this card in the set?
    pub const fn contains(self, card: Card) -> bool {
        self.0 >> card.0 & 1 == 1
    }

    /// Adds a card.
    pub const fn insert(&mut self, card: Card) {
        self.0 |= 1 << card.0;
    }

    /// Takes a card out.
    pub const fn remove(&mut self, card: Card) {
        self.0 &= !(1 << card.0);
    }

    /// Cards in both.
    pub const fn and(self, other: CardSet) -> CardSet {
        CardSet(self.0 & other.0)
    }

    /// Cards in either.
    pub const fn or(self, other: CardSet) -> CardSet {
        CardSet(self.0 | other.0)
    }

    /// Cards of this set that are not in the other.
    pub const fn without(self, other: CardSet) -> CardSet {
        CardSet(self.0 & !other.0)
    }

    /// The cards in ascending order of index.
    pub fn iter(self) -> impl Iterator<Item = Card> {
        bits(self.0).map(Card)
    }
}

impl FromIterator<Card> for CardSet {
    fn from_iter<I: IntoIterator<Item = Card>>(cards: I) -> CardSet {
        let mut set = CardSet::EMPTY;
        for card in cards {
            set.insert(card);
        }
        set
    }
}

impl std::fmt::Debug for CardSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Card::index)).finish()
    }
}

/// The positions of the set bits of a word, ascending: cards of a set, or actions of a mask.
pub fn bits(mut word: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let lowest = word.trailing_zeros() as u8;
        word &= word - 1;
        Some(lowest)
    })
}
