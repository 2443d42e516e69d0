//! Deaths and what follows: the dead are reaped and counted, the hung are killed, and rings that a
//! dead process shared with the living are closed, cleared and reopened under a new epoch. A worker
//! that starts again finds its unfinished jobs in its ring; to a new evaluator the workers send
//! again what was not answered.

use super::{Coordinator, WorkerHandle};
use crate::engine::process::{ChildProcess, describe};
use crate::engine::regions::{
    EvaluatorCounter, NetworkWord, WorkerCounter, load_counts, load_latency, store_counts,
};
use crate::engine::{error::RunError, run::Run};
use crate::fault::Fault;
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
const UNRELATED_AFTER: Duration = Duration::from_secs(600);
/// Of so many processes that ended together each is named.
const NAMED_MAX: usize = 4;

/// Who died, and how.
struct Death {
    who: String,
    how: String,
}

impl Coordinator {
    /// Reaps the dead, closes the rings that they shared with the living, and restarts the
    /// evaluator.
    pub(super) fn reap_children(&mut self) -> Result<(), RunError> {
        for worker in &mut self.workers {
            if worker.handover.has_violation() {
                let name = &worker.process.name;
                let say = format!("{name} sent what is no position of the game: replaced");
                self.run.progress.say(&say);
                // The violation ends with the epoch: it is acted on once.
                worker.handover.close();
                worker.process.kill();
            }
        }
        let deaths = self.deaths.load(Ordering::Acquire);
        if deaths == self.deaths_seen {
            return Ok(());
        }
        self.deaths_seen = deaths;
        let mut reaped = Vec::new();
        for index in 0..self.workers.len() {
            if let Some(status) = self.workers[index].process.reap() {
                self.collect()?;
                let worker = &mut self.workers[index];
                worker.handover.close();
                if worker.process.is_own_fault(status) {
                    // Whatever it failed over may lie there.
                    for &entry in worker.assigned.values() {
                        self.journal.clear(entry as usize);
                    }
                }
                killpoint::pass(KillPoint::RingsClosed);
                reaped.push(self.count_death(Some(index), status)?);
                // Not `ring`, here and below: the dead process may have been about to wake the
                // sleeper.
                self.evaluator_bell.wake();
            }
        }
        if let Some(status) = self.evaluator.reap() {
            self.count_failure(status)?;
            reaped.push(self.count_death(None, status)?);
            for worker in &self.workers {
                worker.handover.close();
                worker.bell.wake();
            }
            self.evaluator_counters
                .store(EvaluatorCounter::Ready as usize, 0);
            // Its answer to an offer is void: its successor will be asked.
            self.networks.store(NetworkWord::Loaded as usize, 0);
            self.networks.store(NetworkWord::Refused as usize, 0);
            self.evaluator.start(self.segment.name(), &self.bell)?;
        }
        self.restarts += reaped.len() as u64;
        for note in restart_notes(&reaped) {
            self.run.progress.say(&note);
        }
        Ok(())
    }

    /// Gives up when the evaluator, and with it most likely its device, fails again and again:
    /// rounds that are finished in between do not make it sound. A kill from outside is no
    /// failure.
    fn count_failure(&mut self, status: ExitStatus) -> Result<(), RunError> {
        if !self.evaluator.is_own_fault(status) {
            return Ok(());
        }
        let (before, last) = self.failures;
        let is_related = last.elapsed() < UNRELATED_AFTER;
        let count = if is_related { before + 1 } else { 1 };
        self.failures = (count, Instant::now());
        // The first is for `count_death` to judge, like any other death.
        if count <= self.run.settings.max_restarts.max(1) {
            return Ok(());
        }
        let how = describe(status);
        let minutes = UNRELATED_AFTER.as_secs() / 60;
        Err(RunError::new(format!(
            "evaluator ended: {how}; it failed {count} times, less than {minutes} minutes apart"
        )))
    }

    /// Counts the death of a worker, or without one of the evaluator; who it was and how. Gives up
    /// when the same one dies too often: a burst of deaths is one of each.
    fn count_death(
        &mut self,
        worker: Option<usize>,
        status: ExitStatus,
    ) -> Result<Death, RunError> {
        // While this grows, deaths do not keep the run from its end.
        let reached = self.moves();
        let is_starved = status.signal() == Some(libc::SIGKILL) && self.oom.has_killed();
        let child = match worker {
            Some(index) => &mut self.workers[index].process,
            None => &mut self.evaluator,
        };
        let in_a_row = child.count_death(reached);
        let (who, was_ready) = (child.name.clone(), child.was_ready());
        let mut how = describe(status);
        if is_starved {
            how.push_str(", out of memory (the kernel's OOM killer)");
        }
        let what = format!("{who} ended: {how}");
        let most = self.run.settings.max_restarts;
        // A process that gives up by itself before the common start has said why, and would do so
        // again. Later an exit code does not say so: the process was ready once.
        let hopeless = self.started.is_none() && !was_ready && status.code().is_some();
        if hopeless || in_a_row > most {
            let mut what = what;
            if !hopeless && most > 0 {
                let restarts = counted(most, "restart");
                what += &format!("; {restarts} in a row brought no finished decision");
            }
            let remedy = match is_starved {
                true => "give it more memory, or fewer workers, a smaller in_flight or max_batch",
                false => "",
            };
            return Err(Fault::new(what, remedy).into());
        }
        Ok(Death { who, how })
    }

    /// Are a worker's rings to the evaluator closed, and have both ends been released, so that they
    /// can be cleared?
    pub(super) fn can_reopen(&self, worker: &WorkerHandle) -> bool {
        // Before the common start nobody has attached yet.
        let idle = self.started.is_none();
        let has_let_go = |child: &ChildProcess, party| {
            idle || !child.is_there() || worker.handover.is_acknowledged(party)
        };
        let may_start = worker.process.is_there() || worker.process.may_restart();
        !worker.handover.epoch().is_multiple_of(2)
            && may_start
            && has_let_go(&worker.process, Party::Worker)
            && has_let_go(&self.evaluator, Party::Evaluator)
    }

    /// Clears and reopens rings whose ends are released; starts the workers that are missing.
    pub(super) fn reopen_rings(&mut self) -> Result<(), RunError> {
        for index in 0..self.workers.len() {
            if !self.can_reopen(&self.workers[index]) {
                continue;
            }
            let any_reliable = self
                .workers
                .iter()
                .any(|worker| worker.process.is_reliable());
            let worker = &mut self.workers[index];
            self.segment.clear_ring(worker.regions.requests)?;
            self.segment.clear_ring(worker.regions.replies)?;
            let missing = !worker.process.is_there();
            if missing {
                self.retired.counts += load_counts(&worker.counters);
                self.retired.latency.add(&load_latency(&worker.counters));
                if any_reliable && !worker.process.is_reliable() {
                    self.requeued.append(&mut worker.assigned);
                    self.exhausted = false;
                }
                worker.reset_rings(&self.segment, &self.run)?;
            }
            killpoint::pass(KillPoint::RingsCleared);
            worker.handover.reopen();
            if missing {
                worker.process.start(self.segment.name(), &self.bell)?;
            }
            worker.bell.ring();
            self.evaluator_bell.ring();
        }
        Ok(())
    }

    /// Kills children without a heartbeat for too long; `reap_children` does the rest.
    pub(super) fn kill_hung(&mut self) {
        let timeout = Duration::from_secs(self.run.settings.hang_timeout_s as u64);
        let now = self.clock.look();
        let count = |counter: EvaluatorCounter| self.evaluator_counters.load(counter as usize);
        let ready = count(EvaluatorCounter::Ready) == 1;
        let heartbeat = count(EvaluatorCounter::Heartbeat);
        let mut hung = Vec::new();
        // Before the common start the ready ones wait without a heartbeat.
        let started = self.started.is_some();
        if self.evaluator.is_hung(ready, heartbeat, now, timeout) && (started || !ready) {
            self.evaluator.kill();
            hung.push(self.evaluator.name.clone());
        }
        for worker in &mut self.workers {
            let ready = worker.counters.load(WorkerCounter::Ready as usize) == 1;
            let heartbeat = worker.counters.load(WorkerCounter::Heartbeat as usize);
            if worker.process.is_hung(ready, heartbeat, now, timeout) && (started || !ready) {
                worker.process.kill();
                hung.push(worker.process.name.clone());
            }
        }
        for name in hung {
            let say = format!("{name} gives no sign of life: killed");
            self.run.progress.say(&say);
        }
    }
}

impl WorkerHandle {
    /// Kills a worker that did what no correct process does, and reads no more of its records; what
    /// it has kept in the journal is not taken up. Its name, the first time.
    pub(super) fn kill_and_cut_off(&mut self) -> Option<&str> {
        self.process.kill();
        self.records.take().map(|_| &*self.process.name)
    }

    /// Makes the rings of a worker that is gone as new, with its unfinished jobs in them.
    fn reset_rings(&mut self, segment: &Segment, run: &Run) -> Result<(), RunError> {
        segment.clear_ring(self.regions.jobs)?;
        segment.clear_ring(self.regions.records)?;
        self.jobs = segment.producer(self.regions.jobs)?;
        self.records = Some(segment.consumer(self.regions.records)?);
        for (&job, &entry) in &self.assigned {
            // There is room for all a worker may hold.
            let pushed = self.jobs.push(&run.job(job, entry));
            pushed.map_err(|error| match error {
                PushError::Corrupt(corrupt) => RunError::from(corrupt),
                PushError::Full => unreachable!("the ring of jobs holds all that are assigned"),
            })?;
        }
        self.counters.store(WorkerCounter::Ready as usize, 0);
        store_counts(&self.counters, &PlayStats::default(), &Histogram::default());
        Ok(())
    }
}

/// One line for all that ended in the same way: a burst of deaths is one event.
fn restart_notes(deaths: &[Death]) -> Vec<String> {
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
