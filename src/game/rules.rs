//! What is agreed before a round: how many play, how many cards, which trump, and the house
//! variants.

use super::cards::PACK;
use crate::fault::Fault;
use crate::plural::counted;
use serde::{Deserialize, Serialize};

/// Most seats at a table.
pub const MAX_PLAYERS: usize = 8;
/// Fewest seats at a table.
pub const MIN_PLAYERS: usize = 3;
/// Most cards a hand can hold (3 players; 4 players hold at most 13, 8 at most 6).
pub const MAX_CARDS: usize = PACK / MIN_PLAYERS;
/// Most actions a decision can offer: bids 0 to 17 of a 17-card hand.
pub const MAX_LEGAL: usize = MAX_CARDS + 1;

/// Trump of one round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trump {
    /// This suit (0 to 3) beats the others.
    Suit(u8),
    /// No suit does.
    #[default]
    None,
}

impl Trump {
    /// Trump number `turn` of the default rotation: spades, hearts, clubs, diamonds, none.
    pub fn in_turn(turn: usize) -> Trump {
        match turn % 5 {
            4 => Trump::None,
            suit => Trump::Suit(suit as u8),
        }
    }

    /// 0 to 3, or 4 for none.
    pub fn code(self) -> u8 {
        match self {
            Trump::Suit(suit) => suit,
            Trump::None => 4,
        }
    }

    /// The suit, if there is one.
    pub fn suit(self) -> Option<u8> {
        match self {
            Trump::Suit(suit) => Some(suit),
            Trump::None => None,
        }
    }
}

/// How a round's trump is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TrumpRule {
    /// Spades, hearts, clubs, diamonds, none in turn (independent rounds draw one of the five).
    #[default]
    Rotating,
    /// A card of the undealt pile is turned up; its suit is trump (none if no card is left).
    Turned,
    /// Always spades.
    Spades,
    /// Always hearts.
    Hearts,
    /// Always clubs.
    Clubs,
    /// Always diamonds.
    Diamonds,
    /// Never a trump.
    None,
}

impl TrumpRule {
    /// The trump of every round; none where it differs from round to round.
    pub fn fixed(self) -> Option<Trump> {
        match self {
            TrumpRule::Rotating | TrumpRule::Turned => None,
            TrumpRule::Spades => Some(Trump::Suit(0)),
            TrumpRule::Hearts => Some(Trump::Suit(1)),
            TrumpRule::Clubs => Some(Trump::Suit(2)),
            TrumpRule::Diamonds => Some(Trump::Suit(3)),
            TrumpRule::None => Some(Trump::None),
        }
    }
}

/// The house variants; the default is the game as written in the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// How trump is found.
    pub trump: TrumpRule,
    /// The dealer may not make the bids add up to the cards dealt.
    pub dealer_restriction: bool,
    /// A missed bid scores the tricks taken instead of nothing.
    pub missed_bid_scores_tricks: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            trump: TrumpRule::Rotating,
            dealer_restriction: true,
            missed_bid_scores_tricks: false,
        }
    }
}

/// Checks that `players` can be dealt `cards` each.
///
/// # Errors
/// Otherwise.
pub fn check_table(players: usize, cards: usize) -> Result<(), Fault> {
    if !(MIN_PLAYERS..=MAX_PLAYERS).contains(&players) {
        return Err(Fault::new(
            counted(players, "player"),
            "Blob is played by 3 to 8",
        ));
    }
    let most = PACK / players;
    if !(1..=most).contains(&cards) {
        let cause = format!("{cards} cards each for {players} players");
        let remedy = format!("{players} players can be dealt 1 to {most} of the pack's 52");
        return Err(Fault::new(cause, remedy));
    }
    Ok(())
}
