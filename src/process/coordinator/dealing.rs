//! Jobs as they go out to the workers: in order of their numbers, to each as many as it may hold, so that rounds in flight never
//! wait for the coordinator.

use super::Engine;
use crate::process::run::RunError;
use crate::shm::PushError;

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
                let Some(job) = self.spare.pop_first().or_else(|| self.run.next_job()) else {
                    self.exhausted = true;
                    break;
                };
                match line.jobs.push(&self.run.job(job)) {
                    Ok(()) => {
                        line.assigned.insert(job);
                        (any, *given) = (true, true);
                    }
                    Err(PushError::Full) => drop(self.spare.insert(job)),
                    // A worker that spoils this ring spoils its own work only, and is found by it.
                    Err(PushError::Corrupt(corrupt)) => {
                        self.spare.insert(job);
                        if line.records.take().is_some() {
                            let say = format!("{}: {corrupt}: replaced", line.worker.name);
                            self.run.progress.say(&say);
                        }
                        line.worker.kill();
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
