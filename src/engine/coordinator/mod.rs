//! The coordinator: owns the segment, starts evaluator and workers, and until the run ends, in
//! turns, hands out jobs (`jobs`), takes in finished rounds (`intake`), replaces the dead
//! (`recovery`), adopts new weights (`new_weights`) and sums up counters (`metrics`).
//!
//! What a death costs: the rings between the dead process and its peers are closed
//! (`shm::Handover`), cleared and reopened; a dead worker's unfinished jobs are handed out again,
//! with the decisions that it has finished of them (`shm::Journal`), and a dead evaluator's
//! unanswered leaves are sent again. Rounds are functions of their number, so the replay is the
//! same as if nothing had happened.

mod intake;
mod jobs;
mod metrics;
mod new_weights;
mod recovery;

use super::active_clock::ActiveClock;
use super::error::RunError;
use super::oom::OomMonitor;
use super::process::ChildProcess;
use super::regions::{
    EvaluatorCounter, RecordSlot, Regions, WorkerCounter, WorkerRegions, jobs_per_worker_max,
    load_text,
};
use super::report::{Report, Tally};
use super::run::Run;
use super::starting_weights::{Start, StartingWeights};
use super::unfinished::UnfinishedJobs;
use crate::killpoint::{self, KillPoint};
use crate::play::Job;
use crate::say::note;
use crate::settings::Settings;
use crate::shm::{
    Consumer, Counters, Doorbell, Gate, Handover, Journal, Parking, Producer, Segment, sweep_stale,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest time between two checks of weights, heartbeats and progress.
const SUPERVISE_EVERY: Duration = Duration::from_millis(100);
/// Longest time children may take to end when told to, before they are killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// One worker and the coordinator's ends of its rings.
struct WorkerHandle {
    regions: WorkerRegions,
    process: ChildProcess,
    jobs: Producer<Job>,
    /// None once the worker delivered nonsense: no more is read of it.
    records: Option<Consumer<RecordSlot>>,
    handover: Handover,
    bell: Doorbell,
    counters: Counters,
    /// Jobs that the worker plays, with their entries of the journal.
    assigned: BTreeMap<u64, u32>,
}

/// The running coordinator.
struct Coordinator {
    run: Run,
    segment: Segment,
    workers: Vec<WorkerHandle>,
    evaluator: ChildProcess,
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
    jobs_per_worker_max: usize,
    /// No job is left to hand out.
    exhausted: bool,
    /// Jobs that no worker had room for, or that were taken from one in a crash loop, with their
    /// entries of the journal.
    requeued: BTreeMap<u64, u32>,
    /// The finished decisions of all jobs handed out.
    journal: Journal,
    /// What an earlier run had finished of jobs that are still to be handed out.
    unfinished: UnfinishedJobs,
    /// Entries of no job: as many as there are, less one for each job handed out or requeued.
    free_entries: Vec<u32>,
    /// Deaths that the watching threads have counted, and how many of them were dealt with.
    deaths: Arc<AtomicU64>,
    deaths_seen: u64,
    restarts: u64,
    /// For heartbeats: time in which nobody could run does not count.
    clock: ActiveClock,
    oom: OomMonitor,
    /// Failures of the evaluator by itself that followed one another, and when the last was.
    failures: (usize, Instant),
    /// What workers that are gone had counted: searches and decision times.
    retired: Tally,
    /// If time ended play, what was counted by then.
    tally_at_limit: Option<Tally>,
}

/// Plays a run with worker processes and an evaluator process.
pub fn play(
    settings: Settings,
    start: Start,
    starting: StartingWeights,
) -> Result<Report, RunError> {
    killpoint::arm(&["coordinator", "replay"]);
    sweep_stale();
    let mut coordinator = Coordinator::new(settings, start, starting)?;
    let outcome = coordinator.supervise();
    coordinator.end();
    match outcome {
        Ok(()) => coordinator.report(),
        Err(error) => Err(coordinator.fail(error)),
    }
}

impl Coordinator {
    fn new(
        settings: Settings,
        start: Start,
        starting: StartingWeights,
    ) -> Result<Coordinator, RunError> {
        let regions = Regions::new(&settings);
        let config = serde_json::to_vec(&settings).unwrap_or_default();
        // The memory first: a run that cannot have it leaves no folder behind.
        let segment = Segment::create(&regions.layout, &config)?;
        killpoint::pass(KillPoint::SegmentCreated);
        let run = Run::open(settings, start, starting)?;
        let settings = &run.settings;
        let deaths = Arc::new(AtomicU64::new(0));
        let worker = |(index, regions): (usize, &WorkerRegions)| {
            let arguments = ["worker", "--index", &index.to_string()].map(str::to_owned);
            Ok(WorkerHandle {
                regions: *regions,
                process: ChildProcess::new(
                    format!("worker {index}"),
                    arguments.into(),
                    deaths.clone(),
                ),
                jobs: segment.producer(regions.jobs)?,
                records: Some(segment.consumer(regions.records)?),
                handover: segment.handover(regions.handover)?,
                bell: segment.doorbell(regions.bell)?,
                counters: segment.counters(regions.counters)?,
                assigned: BTreeMap::new(),
            })
        };
        let workers = regions.workers.iter().enumerate();
        let replay = run.out().to_string_lossy().into_owned();
        let journal = segment.journal(regions.journal)?;
        let unfinished = match start {
            Start::New => UnfinishedJobs::default(),
            Start::Resume | Start::Append => UnfinishedJobs::load(run.out()),
        };
        let evaluator = ["evaluator".to_owned(), "--replay".to_owned(), replay];
        Ok(Coordinator {
            workers: workers.map(worker).collect::<Result<_, RunError>>()?,
            evaluator: ChildProcess::new("evaluator".into(), evaluator.into(), deaths.clone()),
            evaluator_bell: segment.doorbell(regions.evaluator_bell)?,
            evaluator_counters: segment.counters(regions.evaluator_counters)?,
            device: segment.counters(regions.device)?,
            networks: segment.counters(regions.networks)?,
            offer: None,
            offers: 0,
            bell: segment.doorbell(regions.coordinator_bell)?,
            start: segment.gate(regions.start)?,
            stop: segment.gate(regions.stop)?,
            started: None,
            jobs_per_worker_max: jobs_per_worker_max(settings),
            exhausted: false,
            requeued: BTreeMap::new(),
            unfinished,
            free_entries: (0..journal.entries() as u32).rev().collect(),
            journal,
            deaths,
            deaths_seen: 0,
            restarts: 0,
            clock: ActiveClock::default(),
            oom: OomMonitor::new(),
            failures: (0, Instant::now()),
            retired: Tally::default(),
            tally_at_limit: None,
            segment,
            run,
        })
    }

    /// Starts all processes and keeps them at work until the run is over.
    fn supervise(&mut self) -> Result<(), RunError> {
        self.publish_networks_in_use();
        self.evaluator.start(self.segment.name(), &self.bell)?;
        for worker in &mut self.workers {
            worker.process.start(self.segment.name(), &self.bell)?;
        }
        killpoint::pass(KillPoint::Spawned);
        let mut looked = Instant::now();
        while !self.run.is_over() {
            self.collect()?;
            if self.run.is_warmed_up() {
                let tally = self.tally();
                self.run.end_warm_up(tally);
            }
            if self.run.is_to_drain() {
                self.run.drain(self.moves());
            }
            self.hand_out()?;
            self.reap_children()?;
            self.reopen_rings()?;
            if self.started.is_none() && self.is_ready() {
                self.run.start_clock();
                self.started = Some(Instant::now());
                self.start.open()?;
            }
            if looked.elapsed() >= SUPERVISE_EVERY {
                looked = Instant::now();
                self.renew_weights()?;
                self.kill_hung();
                self.show_progress();
            }
            self.wait();
        }
        // A run that time ends is cut at that moment; one that is complete waits for its last
        // counts.
        let is_cut = self.run.is_time_up() && !self.run.is_complete();
        self.tally_at_limit = is_cut.then(|| self.tally());
        self.run.stop();
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let ready =
            |worker: &WorkerHandle| worker.counters.load(WorkerCounter::Ready as usize) == 1;
        self.evaluator_counters
            .load(EvaluatorCounter::Ready as usize)
            == 1
            && self.workers.iter().all(ready)
    }

    /// Sleeps until something happens, or a moment has passed.
    fn wait(&self) {
        // Never polls: its work is a few microseconds per round.
        let policy = Parking::Park { spin: 0 };
        let starting = self.started.is_none();
        self.bell.wait(policy, SUPERVISE_EVERY, || {
            self.run.is_over()
                || self.run.is_to_drain()
                || self.deaths.load(Ordering::Acquire) != self.deaths_seen
                || (starting && self.is_ready())
                || self.workers.iter().any(|worker| {
                    let records = worker.records.as_ref();
                    records.is_some_and(|records| records.is_ready().unwrap_or(true))
                        || worker.handover.has_violation()
                        || self.can_reopen(worker)
                })
        });
    }

    /// Tells all processes to end and waits for them; kills those that do not.
    fn end(&mut self) {
        // A gate that cannot be opened leaves only the kill below.
        let _ = self.stop.open();
        let _ = self.start.open();
        self.evaluator_bell.wake();
        for worker in &self.workers {
            worker.bell.wake();
        }
        let mut clock = ActiveClock::default();
        for worker in &mut self.workers {
            worker.process.end(&mut clock, END_TIMEOUT);
        }
        self.evaluator.end(&mut clock, END_TIMEOUT);
    }

    /// After the end: takes in the last finished rounds, sums up, and leaves unfinished jobs beside
    /// the replay.
    fn report(mut self) -> Result<Report, RunError> {
        if let Err(error) = self.collect() {
            return Err(self.fail(error));
        }
        let cpu_s = self.cpu_seconds()?;
        let tally = self.tally_at_limit.take().unwrap_or_else(|| self.tally());
        let device = load_text(&self.device);
        let restarts = self.restarts;
        let (unfinished, out) = (self.unfinished(), self.run.out().to_owned());
        killpoint::pass(KillPoint::Closes);
        let report = self.run.close(tally, cpu_s, device)?;
        // What the replay needs has had the disk's room first.
        if let Err(refusal) = unfinished.save(&out) {
            note!("{refusal}; --resume plays the rounds in hand from their beginning");
        }
        Ok(Report { restarts, ..report })
    }

    /// After the end: the finished decisions of unfinished rounds.
    fn unfinished(&mut self) -> UnfinishedJobs {
        let mut unfinished = std::mem::take(&mut self.unfinished);
        if self.run.is_complete() {
            return UnfinishedJobs::default();
        }
        let mut words = Vec::new();
        let assigned = self.workers.iter().flat_map(|worker| &worker.assigned);
        for (&job, &entry) in assigned.chain(&self.requeued) {
            self.journal.read(entry as usize, &mut words);
            unfinished.add(job, &words);
        }
        unfinished
    }

    /// After a failure: keeps what is finished.
    fn fail(mut self, error: RunError) -> RunError {
        // The failure reported is the first one; a second one here would only hide it.
        let _ = self.collect();
        let (unfinished, out) = (self.unfinished(), self.run.out().to_owned());
        let error = self.run.fail(error);
        let _ = unfinished.save(&out);
        error
    }
}
