//! Rounds as people and other programs read them: one JSON object per round, everything derivable
//! derived. Names and meaning of the fields are relied on from outside; new ones go to the end.

use super::error::ReplayError;
use super::format::{Manifest, RoundRecord, SearchKind};
use super::played::Decision;
use super::reader::ReplayReader;
use crate::game::{Card, CardSet, Phase, Rules, Schedule, bits};
use serde::Serialize;
use std::io::{self, ErrorKind, Write};
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
    /// Decisions (two or more legal actions), in order.
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

/// One decision.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ShownDecision {
    /// The mover.
    pub seat: usize,
    /// "bidding" or "playing".
    pub phase: &'static str,
    /// Legal actions, ascending.
    pub legal: Vec<u8>,
    /// Visits of each legal action, all worlds added; null without a search.
    pub visits: Option<Vec<u32>>,
    /// The action taken.
    pub chosen: u8,
    /// The search's expected round score of each seat, in points; null without a search.
    pub value: Option<Vec<f32>>,
    /// Was it searched in full? Said in rounds in which not all decisions were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
    /// The policy target besides the visits, a share for each legal action; left out if there is
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Vec<f32>>,
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
    /// Cards of the game's largest round: in Blob's schedule the first.
    pub first_cards: u8,
    /// Cards of each round, where that is not Blob's schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Vec<u8>>,
}

impl ShownRound {
    /// Plays a record of the manifest's run again and writes everything out.
    ///
    /// # Errors
    /// When the record contradicts the rules of the game, or names no network of the run.
    pub fn of(record: &RoundRecord, manifest: &Manifest) -> Result<ShownRound, ReplayError> {
        let (played, players) = (record.replay()?, record.players);
        let Some(network) = manifest.networks.get(record.network as usize) else {
            return Err(ReplayError::round(
                record.round,
                "of no network of this run",
            ));
        };
        let decisions = played.decisions.iter();
        let cards = |hand: &CardSet| hand.iter().map(Card::index).collect();
        Ok(ShownRound {
            round: record.round,
            seed: record.seed,
            players,
            cards: record.cards,
            trump: record.trump.suit(),
            dealer: record.dealer,
            hands: record.hands[..players].iter().map(cards).collect(),
            bids: played.bids[..players].to_vec(),
            plays: played.plays,
            tricks_won: played.tricks_won[..players].to_vec(),
            scores: played.scores[..players].to_vec(),
            decisions: decisions.map(|decision| shown(record, decision)).collect(),
            turned: record.turned.map(Card::index),
            rules: record.rules,
            game: shown_game(record, manifest),
            weights: network.weights.clone(),
        })
    }
}

fn shown(record: &RoundRecord, decision: &Decision) -> ShownDecision {
    let is_searched = decision.search.is_searched();
    let has_policy = decision.search == SearchKind::FullWithPolicy;
    let all_full = record.targets() == record.searches.len();
    ShownDecision {
        seat: decision.seat,
        phase: match decision.before.phase() {
            Phase::Bidding => "bidding",
            _ => "playing",
        },
        legal: bits(decision.legal).collect(),
        visits: is_searched.then(|| decision.visits.to_vec()),
        chosen: decision.chosen,
        value: is_searched.then(|| decision.values.to_vec()),
        full: (!all_full).then(|| decision.search.is_full()),
        policy: has_policy.then(|| decision.policy.to_vec()),
    }
}

fn shown_game(record: &RoundRecord, manifest: &Manifest) -> Option<ShownGame> {
    let game = record.game?;
    Some(ShownGame {
        number: game.number,
        totals: game.standing.totals[..record.players].to_vec(),
        rounds_done: game.standing.rounds_done,
        rounds_total: game.standing.rounds_total,
        first_cards: game.standing.first_cards,
        schedule: match &manifest.may_hold().schedule {
            Some(Schedule::Hands(cards)) => Some(cards.clone()),
            _ => None,
        },
    })
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
        let round = ShownRound::of(&stored.record, reader.manifest())
            .map_err(|error| stored.place(error))?;
        let written = serde_json::to_writer(&mut out, &round)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"));
        if !is_wanted(written)? {
            return Ok(());
        }
    }
    is_wanted(out.flush()).map(|_| ())
}

/// Does the reader of the output want more?
fn is_wanted(written: io::Result<()>) -> Result<bool, ReplayError> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ReplayError::io("write", Path::new("standard output"))(
            error,
        )),
        Ok(()) => Ok(true),
    }
}
