//! Finished rounds as they come in from the workers. A record goes into the replay only if it is of
//! a job that the worker has, of the run's deal and network, played by the rules and searched in
//! full; a worker that delivers anything else is cut off, and replaced like one that died.

use super::Engine;
use crate::engine::layout::{RECORD_ROOM, RecordSlot};
use crate::engine::run::RunError;
use crate::killpoint::{self, KillPoint};
use crate::play;
use crate::replay::{Played, ReplayError, RoundRecord};
use crate::settings::Settings;

impl Engine {
    /// Takes in finished rounds.
    pub(super) fn collect(&mut self) -> Result<(), RunError> {
        for index in 0..self.lines.len() {
            let mut taken = 0;
            // A ring's worth at a time, so that a worker that delivers without end keeps nobody
            // from his turn.
            while taken < RECORD_ROOM
                && let Some(slot) = self.next_record(index)
            {
                taken += 1;
                let length = (slot.length as usize).min(slot.bytes.len());
                let bytes = &slot.bytes[..length];
                match self.check_record(index, bytes) {
                    Ok(record) => self.record(index, &record, bytes)?,
                    Err(what) => self.cut_off(index, &what),
                }
            }
            if taken > 0 {
                // There is room again, for a worker that found none.
                self.lines[index].bell.ring();
            }
        }
        Ok(())
    }

    /// The record in these bytes, if the worker may deliver it; otherwise what it did.
    fn check_record(&self, index: usize, bytes: &[u8]) -> Result<RoundRecord, String> {
        let no_round = |error: ReplayError| format!("delivered no round ({error})");
        let record = RoundRecord::decode(bytes).map_err(no_round)?;
        // Played once more by the rules, so that no worker can deliver a round that is none.
        let played = record.replay().map_err(no_round)?;
        let (round, settings) = (record.round, &self.run.settings);
        if !self.is_assigned(index, round) {
            return Err(format!("delivered round {round} unasked"));
        }
        let is_asked = is_dealt(settings, &record)
            && record.network == self.run.network_of(round)
            && is_searched(settings, &record, &played);
        if !is_asked {
            return Err(format!("delivered another round as round {round}"));
        }
        Ok(record)
    }

    /// Takes a sound record into the replay.
    fn record(&mut self, index: usize, record: &RoundRecord, bytes: &[u8]) -> Result<(), RunError> {
        killpoint::pass(KillPoint::Records);
        match self.run.take(record, bytes) {
            Ok(()) => self.note_finished(index, record.round),
            // The worker's fault, not the disk's.
            Err(RunError::Replay(error @ ReplayError::Twice { .. })) => {
                self.cut_off(index, &format!("delivered no round of this run ({error})"));
            }
            Err(error) => return Err(error),
        }
        killpoint::pass(KillPoint::Recorded);
        Ok(())
    }

    fn next_record(&mut self, index: usize) -> Option<Box<RecordSlot>> {
        match self.lines[index].records.as_mut()?.pop() {
            Ok(slot) => slot.map(Box::new),
            Err(corrupt) => {
                self.cut_off(index, &corrupt.to_string());
                None
            }
        }
    }

    fn is_assigned(&self, index: usize, round: u64) -> bool {
        let job = round / self.run.settings.rounds_per_job();
        self.lines[index].assigned.contains_key(&job)
    }

    fn note_finished(&mut self, index: usize, round: u64) {
        let per_job = self.run.settings.rounds_per_job();
        let job = round / per_job;
        // All of them, whichever the worker delivered last.
        if (job * per_job..(job + 1) * per_job).all(|round| self.run.has(round)) {
            let entry = self.lines[index].assigned.remove(&job);
            self.free_entries.extend(entry);
        }
    }

    /// A worker did what no correct process does: it is not listened to any more, and replaced.
    fn cut_off(&mut self, index: usize, what: &str) {
        if let Some(name) = self.lines[index].cut_off() {
            self.run.progress.say(&format!("{name} {what}: replaced"));
        }
    }
}

/// Is this the deal of the settings' round of that number? What is searched and played in it is the
/// worker's word.
fn is_dealt(settings: &Settings, record: &RoundRecord) -> bool {
    let dealt = play::deal(settings, record.round);
    let per_job = settings.rounds_per_job();
    let place = (record.round / per_job, (record.round % per_job) as u8);
    let placed = match record.game {
        Some(game) => settings.games > 0 && (game.number, game.standing.rounds_done) == place,
        None => settings.games == 0,
    };
    placed
        && record.seed == settings.seed
        && matches!((dealt, record.deal()), (Ok(dealt), Ok(told)) if dealt == told)
}

/// Does every decision have all its visits?
fn is_searched(settings: &Settings, record: &RoundRecord, played: &Played) -> bool {
    let wanted = settings.search().root_visits();
    played.decisions.iter().all(|decision| {
        let visits = record.visits_of(decision).iter();
        visits.map(|&visits| u64::from(visits)).sum::<u64>() == wanted
    })
}
