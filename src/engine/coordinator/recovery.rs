//! Deaths and what follows: the dead are reaped and counted, the hung are killed, and rings that a
//! dead process shared with the living are taken from under these, cleared and given back under a
//! new epoch. A worker that starts again finds its unfinished jobs in its ring; to a new evaluator
//! the workers send again what was not answered.

use super::{Engine, Line};
use crate::engine::layout::{
    EvaluatorCounter, NetworkWord, WorkerCounter, load_counts, load_latency, store_counts,
};
use crate::engine::run::{Run, RunError};
use crate::engine::staff::{Member, describe};
use crate::killpoint::{self, KillPoint};
use crate::latency::Histogram;
use crate::play::PlayStats;
use crate::plural::counted;
use crate::shm::{Party, PushError, Segment};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A failure of the evaluator so long after the one before has nothing to do with it.
const CALM: Duration = Duration::from_secs(600);
/// Of so many processes that ended together each is named.
const NAMED_MAX: usize = 4;

/// Who died, and how.
struct Death {
    who: String,
    how: String,
}

impl Engine {
    /// Reaps the dead, and takes from under the living what they shared with them.
    pub(super) fn bury(&mut self) -> Result<(), RunError> {
        for line in &mut self.lines {
            if line.handover.has_complaint() {
                let name = &line.worker.name;
                let say = format!("{name} sent what is no position of the game: replaced");
                self.run.progress.say(&say);
                // One word of it is enough: the complaint ends with the epoch.
                line.handover.close();
                line.worker.kill();
            }
        }
        let deaths = self.deaths.load(Ordering::Acquire);
        if deaths == self.deaths_seen {
            return Ok(());
        }
        self.deaths_seen = deaths;
        // What happens to several at once is told as one event.
        let mut told = Vec::new();
        for index in 0..self.lines.len() {
            if let Some(status) = self.lines[index].worker.reap() {
                self.collect()?;
                let line = &mut self.lines[index];
                line.handover.close();
                if line.worker.is_to_blame(status) {
                    // Whatever it failed over may lie there.
                    for &entry in line.assigned.values() {
                        self.journal.clear(entry as usize);
                    }
                }
                killpoint::pass(KillPoint::LineClosed);
                told.push(self.count_death(Some(index), status)?);
                // Not `ring`, here and below: the dead may have been about to wake somebody.
                self.evaluator_bell.wake();
            }
        }
        if let Some(status) = self.evaluator.reap() {
            self.count_failure(status)?;
            told.push(self.count_death(None, status)?);
            for line in &self.lines {
                line.handover.close();
                line.bell.wake();
            }
            self.evaluator_counters
                .store(EvaluatorCounter::Ready as usize, 0);
            // What the dead one said of an offer is void: its successor will be asked.
            self.networks.store(NetworkWord::Loaded as usize, 0);
            self.networks.store(NetworkWord::Refused as usize, 0);
            self.evaluator.start(self.segment.name(), &self.bell)?;
        }
        self.restarts += told.len() as u64;
        for line in tell(&told) {
            self.run.progress.say(&line);
        }
        Ok(())
    }

    /// Gives up when the evaluator, and with it most likely its device, fails again and again:
    /// rounds that are finished in between do not make it sound. A kill from outside is no
    /// failure.
    fn count_failure(&mut self, status: ExitStatus) -> Result<(), RunError> {
        if !self.evaluator.is_to_blame(status) {
            return Ok(());
        }
        let (before, last) = self.failures;
        let followed = last.elapsed() < CALM;
        self.failures = (if followed { before + 1 } else { 1 }, Instant::now());
        let (count, most) = (self.failures.0, self.run.settings.max_restarts);
        // The first is any death's business.
        if count <= most.max(1) {
            return Ok(());
        }
        let how = describe(status);
        let minutes = CALM.as_secs() / 60;
        Err(self.broken(&format!(
            "evaluator ended: {how}; it failed {count} times, less than {minutes} minutes apart"
        )))
    }

    /// What the run has come to: while it grows, deaths are not in vain.
    fn reached(&self) -> u64 {
        self.moves()
    }

    /// Counts the death of a worker, or without one of the evaluator; who it was and how. Gives up
    /// when the same one dies too often: a burst of deaths is one of each.
    fn count_death(
        &mut self,
        worker: Option<usize>,
        status: ExitStatus,
    ) -> Result<Death, RunError> {
        let reached = self.reached();
        let is_starved = status.signal() == Some(libc::SIGKILL) && self.oom.has_killed();
        let member = match worker {
            Some(index) => &mut self.lines[index].worker,
            None => &mut self.evaluator,
        };
        let in_a_row = member.count_death(reached);
        let (who, was_ready) = (member.name.clone(), member.was_ready());
        let mut how = describe(status);
        if is_starved {
            how.push_str(", out of memory (the kernel's OOM killer)");
        }
        let what = format!("{who} ended: {how}");
        let most = self.run.settings.max_restarts;
        // A process that gives up by itself before the common start has said why, and would do so
        // again. Later its word counts for nothing: everybody was ready once.
        let hopeless = self.started.is_none() && !was_ready && status.code().is_some();
        if hopeless || in_a_row > most {
            let mut what = match most {
                _ if hopeless => what,
                0 => what,
                _ => {
                    let restarts = counted(most, "restart");
                    format!("{what}; {restarts} in a row brought no finished decision")
                }
            };
            if is_starved {
                what.push_str(
                    "; give it more memory, or fewer workers, a smaller in_flight or max_batch",
                );
            }
            return Err(self.broken(&what));
        }
        Ok(Death { who, how })
    }

    /// Is a closed line free of users, so that it can be cleared?
    pub(super) fn can_reopen(&self, line: &Line) -> bool {
        // Before the common start nobody has attached yet.
        let idle = self.started.is_none();
        let gone = |member: &Member, party| {
            idle || !member.is_there() || line.handover.is_acknowledged(party)
        };
        let may_start = line.worker.is_there() || line.worker.is_rested();
        !line.handover.epoch().is_multiple_of(2)
            && may_start
            && gone(&line.worker, Party::First)
            && gone(&self.evaluator, Party::Second)
    }

    /// Clears and reopens lines that everybody has let go of; starts the workers that are missing.
    pub(super) fn hand_over(&mut self) -> Result<(), RunError> {
        for index in 0..self.lines.len() {
            if !self.can_reopen(&self.lines[index]) {
                continue;
            }
            let any_trusted = self.lines.iter().any(|line| line.worker.is_trusted());
            let line = &mut self.lines[index];
            self.segment.clear_ring(line.regions.requests)?;
            self.segment.clear_ring(line.regions.replies)?;
            let missing = !line.worker.is_there();
            if missing {
                self.retired.counts += load_counts(&line.counters);
                self.retired.latency.add(&load_latency(&line.counters));
                if any_trusted && !line.worker.is_trusted() {
                    self.spare.append(&mut line.assigned);
                    self.exhausted = false;
                }
                line.take_back(&self.segment, &self.run)?;
            }
            killpoint::pass(KillPoint::LineCleared);
            line.handover.reopen();
            if missing {
                line.worker.start(self.segment.name(), &self.bell)?;
            }
            line.bell.ring();
            self.evaluator_bell.ring();
        }
        Ok(())
    }

    /// Kills who has given no sign of life for too long; `bury` does the rest.
    pub(super) fn find_hung(&mut self) {
        let timeout = Duration::from_secs(self.run.settings.hang_timeout_s as u64);
        let now = self.clock.look();
        let count = |counter: EvaluatorCounter| self.evaluator_counters.load(counter as usize);
        let ready = count(EvaluatorCounter::Ready) == 1;
        let beat = count(EvaluatorCounter::Beat);
        let mut hung = Vec::new();
        // Before the common start the ready ones wait without a beat.
        let started = self.started.is_some();
        if self.evaluator.is_hung(ready, beat, now, timeout) && (started || !ready) {
            self.evaluator.kill();
            hung.push(self.evaluator.name.clone());
        }
        for line in &mut self.lines {
            let ready = line.counters.load(WorkerCounter::Ready as usize) == 1;
            let beat = line.counters.load(WorkerCounter::Beat as usize);
            if line.worker.is_hung(ready, beat, now, timeout) && (started || !ready) {
                line.worker.kill();
                hung.push(line.worker.name.clone());
            }
        }
        for name in hung {
            let say = format!("{name} gives no sign of life: killed");
            self.run.progress.say(&say);
        }
    }

    fn broken(&self, what: &str) -> RunError {
        RunError::Child(what.to_owned())
    }
}

impl Line {
    /// The worker did what no correct process does: it is not listened to any more, what it has
    /// kept is not taken up, and its process is killed. Its name, the first time.
    pub(super) fn cut_off(&mut self) -> Option<&str> {
        self.worker.kill();
        self.records.take().map(|_| &*self.worker.name)
    }

    /// Makes the rings of a worker that is gone as new, with its unfinished jobs in them.
    fn take_back(&mut self, segment: &Segment, run: &Run) -> Result<(), RunError> {
        segment.clear_ring(self.regions.jobs)?;
        segment.clear_ring(self.regions.records)?;
        self.jobs = segment.producer(self.regions.jobs)?;
        self.records = Some(segment.consumer(self.regions.records)?);
        for (&job, &entry) in &self.assigned {
            // There is room for all a worker may hold.
            let pushed = self.jobs.push(&run.job(job, entry));
            pushed.map_err(|error| match error {
                PushError::Corrupt(corrupt) => RunError::Ring(corrupt),
                PushError::Full => unreachable!("the ring of jobs holds all that are assigned"),
            })?;
        }
        self.counters.store(WorkerCounter::Ready as usize, 0);
        store_counts(&self.counters, &PlayStats::default(), &Histogram::default());
        Ok(())
    }
}

/// One line for all that ended in the same way.
fn tell(deaths: &[Death]) -> Vec<String> {
    let alike = |one: &Death, other: &Death| one.how == other.how;
    let line = |deaths: &[Death]| {
        let names: Vec<&str> = deaths.iter().map(|death| &*death.who).collect();
        let who = match names.len() {
            ..=NAMED_MAX => names.join(", "),
            many => counted(many, "process"),
        };
        format!("{who} ended: {}; restarted", deaths[0].how)
    };
    deaths.chunk_by(alike).map(line).collect()
}
