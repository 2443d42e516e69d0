//! The coordinator: owns the segment, starts evaluator and workers, hands out jobs, keeps the replay,
//! replaces who dies or hangs, and ends the run.
//!
//! What a death costs: the rings between the dead process and its peers are taken from under both
//! (`shm::Handover`), cleared and given back; a dead worker's unfinished jobs are handed out again, a
//! dead evaluator's unanswered leaves are sent again. Rounds are functions of their number, so the replay
//! is the same as if nothing had happened.

use super::layout::{
    EvaluatorCounter, Layout, NetworkWord, RECORD_ROOM, RecordSlot, WorkerCounter, WorkerRegions,
    jobs_ahead, load_counts, load_latency, load_text, store_counts,
};
use super::progress::Gauge;
use super::report::{Evaluated, Report, Spent, Tally};
use super::run::{Run, RunError, Start};
use super::staff::{Member, describe};
use crate::killpoint::{self, KillPoint};
use crate::latency::Histogram;
use crate::replay::{Played, ReplayError, RoundRecord};
use crate::search::Counts;
use crate::selfplay::{self, Job};
use crate::settings::Settings;
use crate::shm::{
    Consumer, Counters, Doorbell, Gate, Handover, Parking, Party, Producer, PushError, Segment,
    liveness, sweep_stale,
};
use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest sleep before a look around.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// A failure of the evaluator so long after the one before has nothing to do with it.
const CALM: Duration = Duration::from_secs(600);
/// Longest time children may take to end when told to, before they are killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// One worker and the coordinator's ends of its rings.
struct Line {
    regions: WorkerRegions,
    worker: Member,
    jobs: Producer<Job>,
    /// None once the worker delivered nonsense: it is not listened to any more.
    records: Option<Consumer<RecordSlot>>,
    handover: Handover,
    bell: Doorbell,
    counters: Counters,
    /// Jobs in the worker's hands.
    assigned: BTreeSet<u64>,
}

/// The running engine.
struct Engine {
    run: Run,
    segment: Segment,
    lines: Vec<Line>,
    evaluator: Member,
    evaluator_bell: Doorbell,
    evaluator_counters: Counters,
    device: Counters,
    networks: Counters,
    /// New weights that the evaluator has been offered and not answered.
    offer: Option<u64>,
    /// Offers made.
    offers: u64,
    bell: Doorbell,
    start: Gate,
    stop: Gate,
    /// When the common start was; none before.
    started: Option<Instant>,
    /// Jobs a worker may hold.
    most_assigned: usize,
    /// No job is left to hand out.
    exhausted: bool,
    /// Jobs that no worker had room for, or that one which keeps dying has given back.
    spare: BTreeSet<u64>,
    /// Deaths the watchers have seen, and how many of them have been looked after.
    deaths: Arc<AtomicU64>,
    deaths_seen: u64,
    restarts: u64,
    /// Restarts since a round was last finished, and rounds finished then.
    in_a_row: (usize, u64),
    /// Failures of the evaluator by itself that followed one another, and when the last was.
    failures: (usize, Instant),
    /// What workers that are gone had counted: searches and decision times.
    retired: Tally,
    /// When play ended, and, if time ended it, what was counted by then.
    ended: Option<(Instant, Option<Tally>)>,
}

/// Plays a run with worker processes and an evaluator process.
pub fn play(settings: Settings, start: Start, note: Option<String>) -> Result<Report, RunError> {
    killpoint::arm(&["coordinator", "replay"]);
    sweep_stale();
    let mut engine = Engine::new(settings, start, note)?;
    let outcome = engine.supervise();
    engine.end();
    match outcome {
        Ok(()) => engine.report(),
        Err(error) => engine.fail(error),
    }
}

impl Engine {
    fn new(settings: Settings, start: Start, note: Option<String>) -> Result<Engine, RunError> {
        let layout = Layout::new(&settings);
        let config = serde_json::to_vec(&settings).unwrap_or_default();
        // The memory first: a run that cannot have it leaves no folder behind.
        let segment = Segment::create(&layout.plan, &config)?;
        killpoint::pass(KillPoint::SegmentCreated);
        let run = Run::open(settings, start, note)?;
        let settings = &run.settings;
        let deaths = Arc::new(AtomicU64::new(0));
        let line = |(index, regions): (usize, &WorkerRegions)| {
            let arguments = ["worker", "--index", &index.to_string()].map(str::to_owned);
            Ok(Line {
                regions: *regions,
                worker: Member::new(format!("worker {index}"), arguments.into(), deaths.clone()),
                jobs: segment.producer(regions.jobs)?,
                records: Some(segment.consumer(regions.records)?),
                handover: segment.handover(regions.handover)?,
                bell: segment.doorbell(regions.bell)?,
                counters: segment.counters(regions.counters)?,
                assigned: BTreeSet::new(),
            })
        };
        let workers = layout.workers.iter().enumerate();
        let replay = run.out().to_string_lossy().into_owned();
        let evaluator = ["evaluator".to_owned(), "--replay".to_owned(), replay];
        Ok(Engine {
            lines: workers.map(line).collect::<Result<_, RunError>>()?,
            evaluator: Member::new("evaluator".into(), evaluator.into(), deaths.clone()),
            evaluator_bell: segment.doorbell(layout.evaluator_bell)?,
            evaluator_counters: segment.counters(layout.evaluator_counters)?,
            device: segment.counters(layout.device)?,
            networks: segment.counters(layout.networks)?,
            offer: None,
            offers: 0,
            bell: segment.doorbell(layout.coordinator_bell)?,
            start: segment.gate(layout.start)?,
            stop: segment.gate(layout.stop)?,
            started: None,
            most_assigned: settings.in_flight + jobs_ahead(settings.in_flight),
            exhausted: false,
            spare: BTreeSet::new(),
            deaths,
            deaths_seen: 0,
            restarts: 0,
            in_a_row: (0, 0),
            failures: (0, Instant::now()),
            retired: Tally::default(),
            ended: None,
            segment,
            run,
        })
    }

    /// Starts everybody and looks after them until all rounds are there or the user wants the end.
    fn supervise(&mut self) -> Result<(), RunError> {
        self.tell_networks();
        self.evaluator.start(self.segment.name(), &self.bell)?;
        for line in &mut self.lines {
            line.worker.start(self.segment.name(), &self.bell)?;
        }
        killpoint::pass(KillPoint::Spawned);
        let mut looked = Instant::now();
        while !self.run.is_complete() && !self.run.is_interrupted() && !self.run.is_time_up() {
            self.collect()?;
            if self.run.is_warmed_up() {
                let tally = self.tally();
                self.run.end_warm_up(tally);
            }
            self.hand_out()?;
            self.bury()?;
            self.hand_over()?;
            if self.started.is_none() && self.is_ready() {
                self.run.start_clock();
                self.started = Some(Instant::now());
                self.start.open()?;
            }
            if looked.elapsed() >= LOOK_AROUND {
                looked = Instant::now();
                self.renew_weights()?;
                self.find_hung();
                self.show_progress();
            }
            self.wait();
        }
        // A run that time ends is cut at that moment; one that is complete waits for its last counts.
        let cut = self.run.is_time_up() && !self.run.is_complete();
        let cut = cut.then(|| self.tally());
        self.ended = Some((Instant::now(), cut));
        Ok(())
    }

    /// Says which networks are in use.
    fn tell_networks(&mut self) {
        let (oldest, newest) = self.run.networks_in_use();
        let store = |word, network| self.networks.store(word as usize, u64::from(network));
        store(NetworkWord::Oldest, oldest);
        store(NetworkWord::Newest, newest);
    }

    /// Looks for new weights, offers them to the evaluator, and has them play once it has loaded them.
    fn renew_weights(&mut self) -> Result<(), RunError> {
        self.tell_networks();
        let Some(offer) = self.offer else {
            if let Some(network) = self.run.find_weights() {
                killpoint::pass(KillPoint::WeightsFound);
                self.offers += 1;
                let offer = self.offers << 32 | u64::from(network);
                self.offer = Some(offer);
                self.networks.store(NetworkWord::Offer as usize, offer);
                self.evaluator_bell.ring();
            }
            return Ok(());
        };
        let answered = |word: NetworkWord| self.networks.load(word as usize) == offer;
        let (loaded, refused) = (
            answered(NetworkWord::Loaded),
            answered(NetworkWord::Refused),
        );
        if loaded || refused {
            self.offer = None;
            self.networks.store(NetworkWord::Offer as usize, 0);
        }
        if loaded {
            killpoint::pass(KillPoint::WeightsLoaded);
            self.run.adopt_weights()?;
            killpoint::pass(KillPoint::WeightsAdopted);
            self.tell_networks();
        } else if refused {
            self.run.refuse_weights("the evaluator cannot use them");
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let ready = |line: &Line| line.counters.load(WorkerCounter::Ready as usize) == 1;
        self.evaluator_counters
            .load(EvaluatorCounter::Ready as usize)
            == 1
            && self.lines.iter().all(ready)
    }

    /// Everything counted so far.
    fn tally(&self) -> Tally {
        let mut tally = Tally {
            evaluated: self.evaluated(),
            rounds: self.run.rounds,
            ..self.retired.clone()
        };
        for line in &self.lines {
            tally.counts += load_counts(&line.counters);
            tally.latency.add(&load_latency(&line.counters));
        }
        tally
    }

    /// Sleeps until something happens, or a moment has passed.
    fn wait(&self) {
        // Never polls: its work is a few microseconds per round.
        let policy = Parking::Park { spin: 0 };
        let starting = self.started.is_none();
        self.bell.wait(policy, LOOK_AROUND, || {
            self.run.is_interrupted()
                || self.deaths.load(Ordering::Acquire) != self.deaths_seen
                || (starting && self.is_ready())
                || self.lines.iter().any(|line| {
                    let records = line.records.as_ref();
                    records.is_some_and(|records| records.is_ready().unwrap_or(true))
                        || line.handover.has_complaint()
                        || self.can_reopen(line)
                })
        });
    }

    /// Takes in finished rounds.
    fn collect(&mut self) -> Result<(), RunError> {
        for index in 0..self.lines.len() {
            let mut taken = 0;
            // A ring's worth at a time, so that a worker that delivers without end keeps nobody from his turn.
            while taken < RECORD_ROOM
                && let Some(slot) = self.next_record(index)
            {
                taken += 1;
                let length = (slot.length as usize).min(slot.bytes.len());
                let record = RoundRecord::decode(&slot.bytes[..length]);
                // Played once more by the rules, so that no worker can deliver a round that is none.
                match record.and_then(|record| Ok((record.replay()?, record))) {
                    Ok((_, record)) if !self.is_assigned(index, record.round) => {
                        self.cut_off(index, &format!("delivered round {} unasked", record.round));
                    }
                    Ok((played, record))
                        if !is_dealt(&self.run.settings, &record)
                            || record.network != self.run.network_of(record.round)
                            || !is_searched(&self.run.settings, &record, &played) =>
                    {
                        let what = format!("delivered another round as round {}", record.round);
                        self.cut_off(index, &what);
                    }
                    Ok((_, record)) => self.record(index, record.round, &slot.bytes[..length])?,
                    Err(error) => self.cut_off(index, &format!("delivered no round ({error})")),
                }
            }
            if taken > 0 {
                // There is room again, for a worker that found none.
                self.lines[index].bell.ring();
            }
        }
        Ok(())
    }

    /// Takes a sound record into the replay.
    fn record(&mut self, index: usize, round: u64, bytes: &[u8]) -> Result<(), RunError> {
        killpoint::pass(KillPoint::Records);
        match self.run.take(bytes) {
            Ok(_) => self.note_finished(index, round),
            // The worker's fault, not the disk's.
            Err(RunError::Replay(error @ (ReplayError::Twice { .. } | ReplayError::Record(_)))) => {
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
        self.lines[index].assigned.contains(&job)
    }

    fn note_finished(&mut self, index: usize, round: u64) {
        let per_job = self.run.settings.rounds_per_job();
        let job = round / per_job;
        // All of them, whichever the worker delivered last.
        if (job * per_job..(job + 1) * per_job).all(|round| self.run.has(round)) {
            self.lines[index].assigned.remove(&job);
        }
    }

    /// A worker did what no correct process does: it is not listened to any more, and replaced.
    fn cut_off(&mut self, index: usize, what: &str) {
        let line = &mut self.lines[index];
        if line.records.take().is_some() {
            let name = &line.worker.name;
            self.run.progress.say(&format!("{name} {what}: replaced"));
            line.worker.kill();
        }
    }

    /// Gives every worker jobs up to what it may hold, in turns, so that few are spread evenly.
    fn hand_out(&mut self) -> Result<(), RunError> {
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

    /// Reaps the dead, and takes from under the living what they shared with them.
    fn bury(&mut self) -> Result<(), RunError> {
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
        for index in 0..self.lines.len() {
            if let Some(status) = self.lines[index].worker.reap() {
                self.collect()?;
                let line = &self.lines[index];
                line.handover.close();
                killpoint::pass(KillPoint::LineClosed);
                self.count_death(&line.worker.name.clone(), status, line.worker.was_ready())?;
                // Not `ring`, here and below: the dead may have been about to wake somebody.
                self.evaluator_bell.wake();
            }
        }
        if let Some(status) = self.evaluator.reap() {
            self.count_failure(status)?;
            self.count_death("evaluator", status, self.evaluator.was_ready())?;
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
        Ok(())
    }

    /// Gives up when the evaluator, and with it most likely its device, fails again and again: rounds that are finished in
    /// between do not make it sound. A kill from outside is no failure.
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

    /// Says who died and how; gives up when it happens too often.
    fn count_death(
        &mut self,
        name: &str,
        status: ExitStatus,
        was_ready: bool,
    ) -> Result<(), RunError> {
        let what = format!("{name} ended: {}", describe(status));
        if self.in_a_row.1 != self.run.rounds {
            self.in_a_row = (0, self.run.rounds);
        }
        self.in_a_row.0 += 1;
        let most = self.run.settings.max_restarts;
        // A process that gives up by itself before the common start has said why, and would do so again. Later its word
        // counts for nothing: everybody was ready once.
        let hopeless = self.started.is_none() && !was_ready && status.code().is_some();
        if hopeless || self.in_a_row.0 > most {
            let what = match most {
                _ if hopeless => what,
                0 => what,
                _ => format!("{what}; {most} restarts in a row brought no finished round"),
            };
            return Err(self.broken(&what));
        }
        self.restarts += 1;
        self.run.progress.say(&format!("{what}; restarted"));
        Ok(())
    }

    /// Is a closed line free of users, so that it can be cleared?
    fn can_reopen(&self, line: &Line) -> bool {
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
    fn hand_over(&mut self) -> Result<(), RunError> {
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
    fn find_hung(&mut self) {
        let timeout = Duration::from_secs(self.run.settings.hang_timeout_s as u64);
        let count = |counter: EvaluatorCounter| self.evaluator_counters.load(counter as usize);
        let ready = count(EvaluatorCounter::Ready) == 1;
        let beat = count(EvaluatorCounter::Beat);
        let mut hung = Vec::new();
        // Before the common start the ready ones wait without a beat.
        let started = self.started.is_some();
        if self.evaluator.is_hung(ready, beat, timeout) && (started || !ready) {
            self.evaluator.kill();
            hung.push(self.evaluator.name.clone());
        }
        for line in &mut self.lines {
            let ready = line.counters.load(WorkerCounter::Ready as usize) == 1;
            let beat = line.counters.load(WorkerCounter::Beat as usize);
            if line.worker.is_hung(ready, beat, timeout) && (started || !ready) {
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
        RunError::Child {
            what: what.to_owned(),
            kept: self.run.kept(),
            out: self.run.out().to_owned(),
        }
    }

    fn evaluated(&self) -> Evaluated {
        let count = |counter: EvaluatorCounter| self.evaluator_counters.load(counter as usize);
        let size = |size| EvaluatorCounter::Sizes as usize + size;
        Evaluated {
            batches: count(EvaluatorCounter::Batches),
            evaluations: count(EvaluatorCounter::Evaluations),
            busy_s: count(EvaluatorCounter::BusyNs) as f64 * 1e-9,
            gpu_bytes: count(EvaluatorCounter::GpuBytes),
            gpu_bytes_used: count(EvaluatorCounter::GpuBytesUsed),
            sizes: (0..=self.run.settings.max_batch)
                .map(|n| self.evaluator_counters.load(size(n)))
                .collect(),
        }
    }

    fn show_progress(&mut self) {
        let Some(started) = self.started.filter(|_| self.run.progress.is_due()) else {
            return;
        };
        let evaluated = self.evaluated();
        let counted = self
            .lines
            .iter()
            .map(|line| load_counts(&line.counters).moves);
        let gauge = Gauge {
            moves: counted.fold(self.retired.counts.moves, u64::saturating_add),
            batch_mean: evaluated.evaluations as f64 / evaluated.batches.max(1) as f64,
            busy: evaluated.busy_s / started.elapsed().as_secs_f64(),
        };
        let rounds = self.run.rounds;
        self.run.progress.show(rounds, gauge);
    }

    /// Tells all processes to end and waits for them; kills those that do not.
    fn end(&mut self) {
        // A gate that cannot be opened leaves only the kill below.
        let _ = self.stop.open();
        let _ = self.start.open();
        self.evaluator_bell.wake();
        for line in &self.lines {
            line.bell.wake();
        }
        let deadline = Instant::now() + END_TIMEOUT;
        for line in &mut self.lines {
            line.worker.end(deadline);
        }
        self.evaluator.end(deadline);
    }

    /// After the end: takes in the last finished rounds and sums up.
    fn report(mut self) -> Result<Report, RunError> {
        self.collect()?;
        let cpu_ns = |line: &Line| line.counters.load(WorkerCounter::CpuNs as usize) as f64;
        let evaluator_ns = self
            .evaluator_counters
            .load(EvaluatorCounter::CpuNs as usize);
        let spent = Spent {
            workers: self.lines.iter().map(cpu_ns).sum::<f64>() * 1e-9,
            evaluator: evaluator_ns as f64 * 1e-9,
            coordinator: liveness::process_cpu_seconds()?,
        };
        let (ended, cut) = self.ended.take().unwrap_or((Instant::now(), None));
        let tally = cut.unwrap_or_else(|| self.tally());
        let device = load_text(&self.device);
        let restarts = self.restarts;
        killpoint::pass(KillPoint::Closes);
        let report = self.run.close(tally, ended, spent, device)?;
        Ok(Report { restarts, ..report })
    }

    /// After a failure: keeps what is finished.
    fn fail(mut self, error: RunError) -> Result<Report, RunError> {
        // The failure reported is the first one; a second one here would only hide it.
        let _ = self.collect();
        let (kept, out) = self.run.save()?;
        Err(match error {
            RunError::Child { what, .. } => RunError::Child { what, kept, out },
            other => other,
        })
    }
}

/// Is this the deal of the settings' round of that number? What is searched and played in it is the worker's word.
fn is_dealt(settings: &Settings, record: &RoundRecord) -> bool {
    let dealt = selfplay::deal(settings, record.round);
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
    let wanted = (settings.worlds * settings.simulations) as u64;
    played.decisions.iter().all(|decision| {
        let visits = record.visits_of(decision).iter();
        visits.map(|&visits| u64::from(visits)).sum::<u64>() == wanted
    })
}

impl Line {
    /// Makes the rings of a worker that is gone as new, with its unfinished jobs in them.
    fn take_back(&mut self, segment: &Segment, run: &Run) -> Result<(), RunError> {
        segment.clear_ring(self.regions.jobs)?;
        segment.clear_ring(self.regions.records)?;
        self.jobs = segment.producer(self.regions.jobs)?;
        self.records = Some(segment.consumer(self.regions.records)?);
        for &job in &self.assigned {
            // There is room for all a worker may hold.
            self.jobs.push(&run.job(job)).map_err(|error| match error {
                PushError::Corrupt(corrupt) => RunError::Ring(corrupt),
                PushError::Full => unreachable!("the ring of jobs holds all that are assigned"),
            })?;
        }
        self.counters.store(WorkerCounter::Ready as usize, 0);
        store_counts(&self.counters, &Counts::default(), &Histogram::default());
        Ok(())
    }
}
