//! Finished rounds as they come in from the workers. A record goes into the replay only if it is of
//! a job that the worker has and of the run's deal, and holds what a round of the run must
//! (`RoundRecord::check_run`); a worker that delivers anything else is killed, and replaced like
//! one that died.

use super::Coordinator;
use crate::engine::error::RunError;
use crate::engine::regions::{RECORD_ROOM, RecordSlot};
use crate::killpoint::{self, KillPoint};
use crate::play;
use crate::replay::{Played, ReplayError, RoundRecord};
use crate::settings::Settings;

impl Coordinator {
    /// Takes in finished rounds.
    pub(super) fn collect(&mut self) -> Result<(), RunError> {
        for index in 0..self.workers.len() {
            let mut taken = 0;
            // At most as many as the ring holds, so that a worker that delivers without end does
            // not hold up the others.
            while taken < RECORD_ROOM
                && let Some(slot) = self.next_record(index)
            {
                taken += 1;
                let length = (slot.length as usize).min(slot.bytes.len());
                let bytes = &slot.bytes[..length];
                match self.check_record(index, bytes) {
                    Ok(record) => self.record(index, &record, bytes)?,
                    Err(what) => self.kill_and_cut_off(index, &what),
                }
            }
            if taken > 0 {
                // There is room again, for a worker that found none.
                self.workers[index].bell.ring();
            }
        }
        Ok(())
    }

    /// The record in these bytes, if the worker may deliver it; otherwise what it did.
    fn check_record(&self, index: usize, bytes: &[u8]) -> Result<RoundRecord, String> {
        let no_round = |error: ReplayError| format!("delivered no round ({error})");
        let record = RoundRecord::decode(bytes).map_err(no_round)?;
        let round = record.round;
        if !self.is_assigned(index, round) {
            return Err(format!("delivered round {round} unasked"));
        }
        // Played once more by the rules, so that no worker can deliver a round that is none.
        let played = record.check_run(self.run.manifest()).map_err(no_round)?;
        if !is_dealt(&self.run.settings, &record, &played) {
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
            Err(RunError::Replay(error @ ReplayError::Twice(_))) => {
                self.kill_and_cut_off(index, &format!("delivered no round of this run ({error})"));
            }
            Err(error) => return Err(error),
        }
        killpoint::pass(KillPoint::Recorded);
        Ok(())
    }

    fn next_record(&mut self, index: usize) -> Option<Box<RecordSlot>> {
        match self.workers[index].records.as_mut()?.pop() {
            Ok(slot) => slot.map(Box::new),
            Err(corrupt) => {
                self.kill_and_cut_off(index, &corrupt.to_string());
                None
            }
        }
    }

    fn is_assigned(&self, index: usize, round: u64) -> bool {
        let job = round / self.run.settings.rounds_per_job();
        self.workers[index].assigned.contains_key(&job)
    }

    fn note_finished(&mut self, index: usize, round: u64) {
        let per_job = self.run.settings.rounds_per_job();
        let job = round / per_job;
        // All of them, whichever the worker delivered last.
        if (job * per_job..(job + 1) * per_job).all(|round| self.run.has(round)) {
            let entry = self.workers[index].assigned.remove(&job);
            self.free_entries.extend(entry);
        }
    }

    /// Kills a worker that did `what` no correct process does; it will be replaced.
    fn kill_and_cut_off(&mut self, index: usize, what: &str) {
        if let Some(name) = self.workers[index].kill_and_cut_off() {
            self.run.progress.say(&format!("{name} {what}: replaced"));
        }
    }
}

/// Is this the deal of the settings' round of that number? What was searched and chosen in it is
/// not checked here.
fn is_dealt(settings: &Settings, record: &RoundRecord, played: &Played) -> bool {
    let first_cards = (settings.games > 0).then_some(settings.cards);
    record.game.map(|game| game.standing.first_cards.into()) == first_cards
        && play::deal(settings, record.round).is_ok_and(|dealt| dealt == played.dealt)
}
