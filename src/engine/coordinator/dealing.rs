//! Jobs as they go out to the workers: in order of their numbers, to each as many as it may hold,
//! so that rounds in flight never wait for the coordinator.

use super::Engine;
use crate::engine::run::RunError;
use crate::shm::{JournalPlace, PushError};

impl Engine {
    /// Gives every worker jobs up to what it may hold, in turns, so that few are spread evenly.
    pub(super) fn hand_out(&mut self) -> Result<(), RunError> {
        let mut given = vec![false; self.lines.len()];
        // Who keeps dying gets none, as long as there is somebody else.
        let any_trusted = self.lines.iter().any(|line| line.worker.is_trusted());
        loop {
            let mut any = false;
            for (line, given) in self.lines.iter_mut().zip(&mut given) {
                if self.exhausted
                    || line.assigned.len() >= self.most_assigned
                    || (any_trusted && !line.worker.is_trusted())
                {
                    continue;
                }
                let new_job = || {
                    let job = self.run.next_job()?;
                    let Some(entry) = self.free_entries.pop() else {
                        unreachable!("the journal has an entry for each job that workers may hold");
                    };
                    self.journal.clear(entry as usize);
                    if let Some(kept) = self.in_hand.take(job) {
                        // What is longer than any round is not taken up.
                        let place = &mut JournalPlace::default();
                        self.journal.begin(entry as usize, place, &kept);
                    }
                    Some((job, entry))
                };
                let Some((job, entry)) = self.spare.pop_first().or_else(new_job) else {
                    self.exhausted = true;
                    break;
                };
                match line.jobs.push(&self.run.job(job, entry)) {
                    Ok(()) => {
                        line.assigned.insert(job, entry);
                        (any, *given) = (true, true);
                    }
                    Err(PushError::Full) => drop(self.spare.insert(job, entry)),
                    // A worker that spoils this ring spoils its own work only, and is found by it.
                    Err(PushError::Corrupt(corrupt)) => {
                        self.spare.insert(job, entry);
                        if let Some(name) = line.cut_off() {
                            let say = format!("{name}: {corrupt}: replaced");
                            self.run.progress.say(&say);
                        }
                    }
                }
            }
            if !any {
                break;
            }
        }
        for (line, _) in self.lines.iter().zip(&given).filter(|(_, given)| **given) {
            line.bell.ring();
        }
        Ok(())
    }
}
