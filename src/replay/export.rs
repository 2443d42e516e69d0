//! A replay as arrays for training: one row per decision searched in full, in the order of the
//! replay. `docs/replay.md` describes the five arrays.

use super::error::ReplayError;
use super::format::RoundRecord;
use super::npy::ArrayWriter;
use super::played::{Decision, Played};
use super::reader::ReplayReader;
use crate::disk;
use crate::game::{MAX_PLAYERS, bits, scaled};
use crate::observation::{ACTIONS, FEATURES, Position};
use serde::Serialize;
use std::path::Path;

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Exported {
    /// Rounds read.
    pub rounds: u64,
    /// Rows of each array: decisions searched in full.
    pub rows: u64,
}

/// The five arrays, row by row.
struct Arrays {
    features: ArrayWriter<f32>,
    mask: ArrayWriter<u8>,
    policy: ArrayWriter<f32>,
    value: ArrayWriter<f32>,
    seat_mask: ArrayWriter<u8>,
}

/// Writes the arrays of the replay in `dir` into the folder `out`, one round in memory at a time.
/// The replay is read twice: first to count the rows, for the arrays' headers.
///
/// # Errors
/// When the replay is damaged or `out` cannot be written; arrays that were there are then left as
/// they were.
pub fn export(dir: &Path, out: &Path) -> Result<Exported, ReplayError> {
    let reader = ReplayReader::open(dir)?;
    let mut exported = Exported { rounds: 0, rows: 0 };
    for stored in reader.records() {
        exported.rounds += 1;
        exported.rows += stored?.record.targets() as u64;
    }
    disk::make_folder(out)?;
    let mut arrays = Arrays::create(out, exported.rows)?;
    for stored in reader.records() {
        let stored = stored?;
        arrays
            .round(&stored.record)
            .map_err(|error| stored.place(error))?;
    }
    arrays.finish()?;
    Ok(exported)
}

impl Arrays {
    fn create(out: &Path, rows: u64) -> Result<Arrays, ReplayError> {
        Ok(Arrays {
            features: ArrayWriter::create(&out.join("features.npy"), rows, FEATURES)?,
            mask: ArrayWriter::create(&out.join("mask.npy"), rows, ACTIONS)?,
            policy: ArrayWriter::create(&out.join("policy.npy"), rows, ACTIONS)?,
            value: ArrayWriter::create(&out.join("value.npy"), rows, MAX_PLAYERS)?,
            seat_mask: ArrayWriter::create(&out.join("seat_mask.npy"), rows, MAX_PLAYERS)?,
        })
    }

    fn round(&mut self, record: &RoundRecord) -> Result<(), ReplayError> {
        let played = record.replay()?;
        let standing = record.game.unwrap_or_default().standing;
        let mut features = [0.0; FEATURES];
        for decision in played.decisions.iter().filter(|made| made.search.is_full()) {
            Position::observe(&decision.before, &standing).expand(&mut features);
            let (mask, policy) = action_rows(record, decision)?;
            let (value, seat_mask) = seat_rows(record, &played, decision.seat);
            self.features.rows(&features)?;
            self.mask.rows(&mask)?;
            self.policy.rows(&policy)?;
            self.value.rows(&value)?;
            self.seat_mask.rows(&seat_mask)?;
        }
        Ok(())
    }

    /// All are on the disk before the first is put in its place: arrays of two replays never lie
    /// side by side.
    fn finish(self) -> Result<(), ReplayError> {
        let whole = [
            self.features.finish()?,
            self.mask.finish()?,
            self.policy.finish()?,
            self.value.finish()?,
            self.seat_mask.finish()?,
        ];
        whole
            .into_iter()
            .try_for_each(|array| array.put().map_err(ReplayError::from))
    }
}

fn action_rows(
    record: &RoundRecord,
    decision: &Decision,
) -> Result<([u8; ACTIONS], [f32; ACTIONS]), ReplayError> {
    let visits = decision.visits;
    let sum = visits.iter().map(|&count| u64::from(count)).sum::<u64>();
    if sum == 0 {
        let what = "a decision without a visit has no policy";
        return Err(ReplayError::round(record.round, what));
    }
    let (mut mask, mut policy) = ([0; ACTIONS], [0.0; ACTIONS]);
    let besides = decision.policy;
    for (nth, action) in bits(decision.legal).enumerate() {
        let share = (f64::from(visits[nth]) / sum as f64) as f32;
        mask[action as usize] = 1;
        policy[action as usize] = *besides.get(nth).unwrap_or(&share);
    }
    Ok((mask, policy))
}

fn seat_rows(
    record: &RoundRecord,
    played: &Played,
    mover: usize,
) -> ([f32; MAX_PLAYERS], [u8; MAX_PLAYERS]) {
    let (mut value, mut seat_mask) = ([0.0; MAX_PLAYERS], [0; MAX_PLAYERS]);
    for place in 0..record.players {
        let score = played.scores[(mover + place) % record.players];
        value[place] = scaled(score, record.cards);
        seat_mask[place] = 1;
    }
    (value, seat_mask)
}
