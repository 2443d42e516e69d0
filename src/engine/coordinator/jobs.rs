//! Jobs as they go out to the workers: in order of their numbers, to each as many as it may hold,
//! so that rounds in flight never wait for the coordinator.

use super::Coordinator;
use crate::engine::error::RunError;
use crate::shm::{JournalPlace, PushError};

impl Coordinator {
    /// Gives every worker jobs up to what it may hold, in turns, so that few are spread evenly.
    pub(super) fn hand_out(&mut self) -> Result<(), RunError> {
        let mut given = vec![false; self.workers.len()];
        // One in a crash loop gets none, as long as there is another.
        let any_reliable = self
            .workers
            .iter()
            .any(|worker| worker.process.is_reliable());
        loop {
            let mut any = false;
            for (worker, given) in self.workers.iter_mut().zip(&mut given) {
                if self.exhausted
                    || worker.assigned.len() >= self.jobs_per_worker_max
                    || (any_reliable && !worker.process.is_reliable())
                {
                    continue;
                }
                let new_job = || {
                    let job = self.run.next_job()?;
                    let Some(entry) = self.free_entries.pop() else {
                        unreachable!("the journal has an entry for each job that workers may hold");
                    };
                    self.journal.clear(entry as usize);
                    if let Some(kept) = self.unfinished.take(job) {
                        // What is longer than any round is not taken up.
                        let place = &mut JournalPlace::default();
                        self.journal.begin(entry as usize, place, &kept);
                    }
                    Some((job, entry))
                };
                let Some((job, entry)) = self.requeued.pop_first().or_else(new_job) else {
                    self.exhausted = true;
                    break;
                };
                match worker.jobs.push(&self.run.job(job, entry)) {
                    Ok(()) => {
                        worker.assigned.insert(job, entry);
                        (any, *given) = (true, true);
                    }
                    Err(PushError::Full) => drop(self.requeued.insert(job, entry)),
                    // A worker that corrupts this ring loses only its own jobs, and is replaced.
                    Err(PushError::Corrupt(corrupt)) => {
                        self.requeued.insert(job, entry);
                        if let Some(name) = worker.kill_and_cut_off() {
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
        for (worker, _) in self.workers.iter().zip(&given).filter(|(_, given)| **given) {
            worker.bell.ring();
        }
        Ok(())
    }
}
