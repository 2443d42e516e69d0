//! Whole games: which rounds they have, how many cards each deals, and where a game stands.

use super::rules::{MAX_PLAYERS, check_table};
use crate::fault::Fault;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a whole game stands before one of its rounds; all zero for an independent round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Points so far, by seat.
    pub totals: [u16; MAX_PLAYERS],
    /// Rounds finished.
    pub rounds_done: u8,
    /// Rounds of the whole game (0: an independent round).
    pub rounds_total: u8,
    /// Cards of the game's largest round: in Blob's schedule the first.
    pub first_cards: u8,
}

/// The hand sizes of a whole game, round by round. As text and in files `blob:7`, or hand sizes
/// with commas, `1-10-1` counting up and down; in files a list of hand sizes, too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Schedule {
    /// Blob's, from the cards of its first round: c, c - 1, ..., 2, then one card once per player,
    /// then 2, ..., c.
    Blob(u8),
    /// These hand sizes, 1 to 255 rounds.
    Hands(Vec<u8>),
}

/// Most rounds of a game.
const HANDS_MAX: usize = u8::MAX as usize;
/// Characters of a text that is no schedule that are quoted.
const QUOTED_MAX: usize = 40;

/// A schedule in a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Hands(Vec<u8>),
}

impl Schedule {
    /// Rounds of a game of `players`.
    pub fn rounds(&self, players: usize) -> usize {
        match self {
            Schedule::Blob(first) => rounds_in_game(players, *first as usize),
            Schedule::Hands(hands) => hands.len(),
        }
    }

    /// Cards dealt to each of `players` in round `round` (from 0, less than `rounds`).
    pub fn cards(&self, players: usize, round: usize) -> usize {
        match self {
            Schedule::Blob(first) => cards_in_round(players, *first as usize, round),
            Schedule::Hands(hands) => hands[round] as usize,
        }
    }

    /// Cards of the largest round.
    pub fn largest(&self) -> usize {
        match self {
            Schedule::Blob(first) => *first as usize,
            Schedule::Hands(hands) => hands.iter().max().map_or(0, |&most| most as usize),
        }
    }

    /// Checks that `players` can be dealt every round.
    ///
    /// # Errors
    /// Otherwise.
    pub fn check(&self, players: usize) -> Result<(), Fault> {
        check_table(players, self.largest())?;
        match self {
            Schedule::Hands(hands) if hands.contains(&0) => check_table(players, 0),
            _ => Ok(()),
        }
    }

    /// Where a game of `players` stands with `totals` points after `rounds_done` rounds.
    pub fn standing(
        &self,
        players: usize,
        totals: [u16; MAX_PLAYERS],
        rounds_done: usize,
    ) -> Standing {
        Standing {
            totals,
            rounds_done: rounds_done as u8,
            rounds_total: self.rounds(players) as u8,
            first_cards: self.largest() as u8,
        }
    }

    fn of_hands(hands: Vec<u8>) -> Result<Schedule, Fault> {
        if hands.is_empty() || hands.len() > HANDS_MAX || hands.contains(&0) {
            return Err(fault(&format!(
                "{:?}",
                &hands[..hands.len().min(QUOTED_MAX)]
            )));
        }
        Ok(Schedule::Hands(hands))
    }
}

fn fault(text: &str) -> Fault {
    let quoted: String = text.chars().take(QUOTED_MAX).collect();
    let more = if quoted.len() < text.len() { "..." } else { "" };
    Fault::new(
        format!("'{quoted}{more}' is no schedule"),
        "write 'blob:7', or 1 to 255 hand sizes of 1 and more such as '1-10-1' or '5,5,3'",
    )
}

impl FromStr for Schedule {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Schedule, Fault> {
        let number = |text: &str| text.trim().parse::<u8>().map_err(|_| fault(text));
        if let Some(first) = text.strip_prefix("blob:") {
            let first = number(first)?;
            check_table(super::MIN_PLAYERS, first as usize).map_err(|_| fault(text))?;
            return Ok(Schedule::Blob(first));
        }
        let mut hands = Vec::new();
        for part in text.split(',') {
            let mut turns = part.split('-').map(number);
            let mut at = turns.next().unwrap_or_else(|| Err(fault(text)))?;
            hands.push(at);
            for turn in turns {
                let turn = turn?;
                while at != turn {
                    at = if at < turn { at + 1 } else { at - 1 };
                    hands.push(at);
                    // A long text of counts up and down would fill the memory.
                    if hands.len() > HANDS_MAX {
                        return Err(fault(text));
                    }
                }
            }
        }
        Schedule::of_hands(hands)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Blob(first) => write!(f, "blob:{first}"),
            Schedule::Hands(hands) => {
                let sizes: Vec<String> = hands.iter().map(u8::to_string).collect();
                f.write_str(&sizes.join(","))
            }
        }
    }
}

impl TryFrom<Written> for Schedule {
    type Error = Fault;

    fn try_from(written: Written) -> Result<Schedule, Fault> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Hands(hands) => Schedule::of_hands(hands),
        }
    }
}

impl From<Schedule> for Written {
    fn from(schedule: Schedule) -> Written {
        match schedule {
            Schedule::Blob(_) => Written::Text(schedule.to_string()),
            Schedule::Hands(hands) => Written::Hands(hands),
        }
    }
}

/// Rounds of a game of Blob that starts with `cards` cards: 2 (cards - 1) + players.
pub fn rounds_in_game(players: usize, cards: usize) -> usize {
    2 * (cards - 1) + players
}

/// Cards dealt in round `round` (from 0) of a game of Blob that starts with `cards`.
pub fn cards_in_round(players: usize, cards: usize, round: usize) -> usize {
    let falling = cards - 1;
    if round < falling {
        cards - round
    } else if round < falling + players {
        1
    } else {
        round - falling - players + 2
    }
}
