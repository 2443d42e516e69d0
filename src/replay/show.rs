//! Rounds as people and other programs read them: one JSON object per round, everything derivable
//! derived. Names and meaning of the fields are relied on from outside; new ones go to the end.

use super::error::ReplayError;
use super::format::{GamePlace, RoundRecord};
use super::played::{Decision, Played};
use super::reader::ReplayReader;
use crate::game::{Card, CardSet, Phase, Rules, bits};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// One round, as `replay show` writes it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ShownRound {
    /// Number in the run, from 0.
    pub round: u64,
    /// The run's seed.
    pub seed: u64,
    /// Seats.
    pub players: usize,
    /// Cards dealt to each seat.
    pub cards: usize,
    /// 0 to 3, or none.
    pub trump: Option<u8>,
    /// The dealer's seat.
    pub dealer: usize,
    /// Card indices by seat, ascending.
    pub hands: Vec<Vec<u8>>,
    /// Bids by seat.
    pub bids: Vec<u8>,
    /// (seat, card) in order of play.
    pub plays: Vec<(u8, u8)>,
    /// Tricks won by seat.
    pub tricks_won: Vec<u8>,
    /// Points by seat.
    pub scores: Vec<u8>,
    /// Searched decisions, in order.
    pub decisions: Vec<ShownDecision>,
    /// The card turned up for trump.
    pub turned: Option<u8>,
    /// The house variants in force.
    pub rules: Rules,
    /// The round's place in a whole game.
    pub game: Option<ShownGame>,
    /// Hash of the weights that served every decision, hexadecimal.
    pub weights: String,
}

/// One searched decision.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ShownDecision {
    /// The mover.
    pub seat: usize,
    /// "bidding" or "playing".
    pub phase: &'static str,
    /// Legal actions, ascending.
    pub legal: Vec<u8>,
    /// Visits of each legal action, all worlds added.
    pub visits: Vec<u32>,
    /// The action taken.
    pub chosen: u8,
    /// The search's expected round score of each seat, in points.
    pub value: Vec<f32>,
}

/// A round's place in a whole game.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ShownGame {
    /// The game's number in the run.
    pub number: u64,
    /// Points before the round, by seat.
    pub totals: Vec<u16>,
    /// Rounds finished before.
    pub rounds_done: u8,
    /// Rounds of the game.
    pub rounds_total: u8,
    /// Cards of the game's first round.
    pub first_cards: u8,
}

impl ShownRound {
    /// Plays the record again and writes everything out; `weights` is the hash of its network's.
    ///
    /// # Errors
    /// When the record contradicts the rules of the game.
    pub fn of(record: &RoundRecord, weights: &str) -> Result<ShownRound, ReplayError> {
        let Played {
            decisions,
            bids,
            plays,
            tricks_won,
            scores,
        } = record.replay()?;
        let players = record.players;
        let cards = |hand: &CardSet| hand.iter().map(Card::index).collect();
        Ok(ShownRound {
            round: record.round,
            seed: record.seed,
            players,
            cards: record.cards,
            trump: record.trump.suit(),
            dealer: record.dealer,
            hands: record.hands[..players].iter().map(cards).collect(),
            bids: bids[..players].to_vec(),
            plays,
            tricks_won: tricks_won[..players].to_vec(),
            scores: scores[..players].to_vec(),
            decisions: decisions.iter().map(|d| shown(record, d)).collect(),
            turned: record.turned.map(Card::index),
            rules: record.rules,
            game: record.game.map(|game| shown_game(&game, players)),
            weights: weights.to_owned(),
        })
    }
}

fn shown(record: &RoundRecord, decision: &Decision) -> ShownDecision {
    ShownDecision {
        seat: decision.seat,
        phase: match decision.before.phase() {
            Phase::Bidding => "bidding",
            _ => "playing",
        },
        legal: bits(decision.legal).collect(),
        visits: record.visits_of(decision).to_vec(),
        chosen: decision.chosen,
        value: record.values_of(decision).to_vec(),
    }
}

fn shown_game(game: &GamePlace, players: usize) -> ShownGame {
    ShownGame {
        number: game.number,
        totals: game.standing.totals[..players].to_vec(),
        rounds_done: game.standing.rounds_done,
        rounds_total: game.standing.rounds_total,
        first_cards: game.standing.first_cards,
    }
}

/// Writes every round of a folder's replay, one JSON object per line. A reader of the output that
/// has had enough (a closed pipe) ends it without an error.
///
/// # Errors
/// When the replay is damaged or the output cannot be written.
pub fn show(dir: &Path, mut out: impl Write) -> Result<(), ReplayError> {
    let reader = ReplayReader::open(dir)?;
    for stored in reader.records() {
        let stored = stored?;
        let network = reader
            .manifest()
            .networks
            .get(stored.record.network as usize);
        let weights = &network
            .ok_or_else(|| stored.damaged("of no network of this run"))?
            .weights;
        let round = ShownRound::of(&stored.record, weights).map_err(|error| match error {
            ReplayError::Round { what, .. } => stored.damaged(what),
            error => error,
        })?;
        let written = serde_json::to_writer(&mut out, &round)
            .map_err(std::io::Error::from)
            .and_then(|()| out.write_all(b"\n"));
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(ReplayError::io("write", Path::new("standard output")))?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(ReplayError::io(
            "write",
            Path::new("standard output"),
        )(error)),
        _ => Ok(()),
    }
}
