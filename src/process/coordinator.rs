//! The coordinator: owns the segment, starts evaluator and workers, hands out jobs, keeps the replay,
//! watches everyone, and ends the run.

use super::layout::{
    EvaluatorCounter, Layout, RecordSlot, WorkerCounter, jobs_ahead, load_counts, load_latency,
    load_text,
};
use super::progress::Gauge;
use super::report::{Evaluated, Report, Spent, Tally};
use super::run::{Run, RunError};
use crate::settings::Settings;
use crate::shm::{
    Consumer, Counters, Doorbell, Gate, Parking, Producer, PushError, Segment, liveness,
    sweep_stale,
};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest sleep before a look at the children.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// Longest time children may take to get ready (a large network takes seconds to load).
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time children may take to end when told to, before they are killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The coordinator's ends of one worker's rings.
struct Line {
    jobs: Producer<u64>,
    records: Consumer<RecordSlot>,
    bell: Doorbell,
    counters: Counters,
    /// Jobs in the worker's hands.
    assigned: BTreeSet<u64>,
}

/// A child process and what to call it.
struct Staff {
    name: String,
    process: Child,
}

/// The running engine. Dropping it kills what still runs.
struct Engine {
    run: Run,
    segment: Segment,
    lines: Vec<Line>,
    staff: Vec<Staff>,
    evaluator_bell: Doorbell,
    evaluator: Counters,
    device: Counters,
    bell: Doorbell,
    start: Gate,
    stop: Gate,
    started: Instant,
    /// Jobs a worker may hold.
    most_assigned: usize,
    /// No job is left to hand out.
    exhausted: bool,
    /// A job that no worker had room for.
    spare: Option<u64>,
    /// When play ended, and, if time ended it, what was counted by then.
    ended: Option<(Instant, Option<Tally>)>,
}

/// Plays a run with worker processes and an evaluator process.
pub fn play(settings: Settings, resume: bool) -> Result<Report, RunError> {
    sweep_stale();
    let mut engine = Engine::new(settings, resume)?;
    let outcome = engine.start().and_then(|()| engine.supervise());
    engine.end();
    match outcome {
        Ok(()) => engine.report(),
        Err(error) => engine.fail(error),
    }
}

impl Engine {
    fn new(settings: Settings, resume: bool) -> Result<Engine, RunError> {
        let layout = Layout::new(&settings);
        let config = serde_json::to_vec(&settings).unwrap_or_default();
        // The memory first: a run that cannot have it leaves no folder behind.
        let segment = Segment::create(&layout.plan, &config)?;
        let run = Run::open(settings, resume)?;
        let settings = &run.settings;
        let line = |regions: &super::layout::WorkerRegions| {
            Ok(Line {
                jobs: segment.producer(regions.jobs)?,
                records: segment.consumer(regions.records)?,
                bell: segment.doorbell(regions.bell)?,
                counters: segment.counters(regions.counters)?,
                assigned: BTreeSet::new(),
            })
        };
        Ok(Engine {
            lines: layout
                .workers
                .iter()
                .map(line)
                .collect::<Result<_, RunError>>()?,
            staff: Vec::new(),
            evaluator_bell: segment.doorbell(layout.evaluator_bell)?,
            evaluator: segment.counters(layout.evaluator_counters)?,
            device: segment.counters(layout.device)?,
            bell: segment.doorbell(layout.coordinator_bell)?,
            start: segment.gate(layout.start)?,
            stop: segment.gate(layout.stop)?,
            started: Instant::now(),
            most_assigned: settings.in_flight + jobs_ahead(settings.in_flight),
            exhausted: false,
            spare: None,
            ended: None,
            segment,
            run,
        })
    }

    /// Starts all processes and, once all are ready, the run.
    fn start(&mut self) -> Result<(), RunError> {
        let workers = self.lines.len();
        self.spawn("evaluator".into(), &["evaluator"])?;
        for index in 0..workers {
            self.spawn(
                format!("worker {index}"),
                &["worker", "--index", &index.to_string()],
            )?;
        }
        self.hand_out()?;
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.is_ready() {
            self.check_staff()?;
            if self.run.is_interrupted() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.broken("a process did not get ready in time"));
            }
            self.wait();
        }
        self.run.start_clock();
        self.started = Instant::now();
        self.start.open()?;
        Ok(())
    }

    fn spawn(&mut self, name: String, arguments: &[&str]) -> Result<(), RunError> {
        use std::os::unix::process::CommandExt;
        let spawned = std::env::current_exe().and_then(|program| {
            Command::new(program)
                .args(arguments)
                .args(["--segment", self.segment.name()])
                .args(["--parent", &std::process::id().to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                // A group of their own: the terminal's Ctrl-C is for the coordinator to act on.
                .process_group(0)
                .spawn()
        });
        match spawned {
            Ok(process) => {
                self.staff.push(Staff { name, process });
                Ok(())
            }
            Err(source) => Err(RunError::Spawn { what: name, source }),
        }
    }

    fn is_ready(&self) -> bool {
        let ready = |line: &Line| line.counters.load(WorkerCounter::Ready as usize) == 1;
        self.evaluator.load(EvaluatorCounter::Ready as usize) == 1 && self.lines.iter().all(ready)
    }

    /// Until all rounds are there or the user wants the end.
    fn supervise(&mut self) -> Result<(), RunError> {
        let mut looked = Instant::now();
        while !self.run.is_complete() && !self.run.is_interrupted() && !self.run.is_time_up() {
            self.collect()?;
            if self.run.is_warmed_up() {
                let tally = self.tally();
                self.run.end_warm_up(tally);
            }
            self.hand_out()?;
            if looked.elapsed() >= LOOK_AROUND {
                looked = Instant::now();
                self.check_staff()?;
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

    /// Everything counted so far.
    fn tally(&self) -> Tally {
        let mut tally = Tally {
            evaluated: self.evaluated(),
            rounds: self.run.rounds,
            ..Tally::default()
        };
        for line in &self.lines {
            tally.counts += load_counts(&line.counters);
            tally.latency.add(&load_latency(&line.counters));
        }
        tally
    }

    /// Sleeps until a round is finished, the user interrupts, or a moment has passed.
    fn wait(&self) {
        // Never polls: its work is a few microseconds per round.
        let policy = Parking::Park { spin: 0 };
        self.bell.wait(policy, LOOK_AROUND, || {
            let ready = |line: &Line| line.records.is_ready().unwrap_or(true);
            self.run.is_interrupted() || self.lines.iter().any(ready)
        });
    }

    /// Takes in finished rounds.
    fn collect(&mut self) -> Result<(), RunError> {
        let per_job = self.run.settings.rounds_per_job();
        for (worker, line) in self.lines.iter_mut().enumerate() {
            let mut any = false;
            while let Some(slot) = line.records.pop()? {
                let length = (slot.length as usize).min(slot.bytes.len());
                let round = self.run.take(&slot.bytes[..length])?;
                let job = round / per_job;
                let last = round % per_job == per_job - 1;
                if !line.assigned.contains(&job) {
                    return Err(RunError::StrayRound { worker, round });
                }
                if last {
                    line.assigned.remove(&job);
                }
                any = true;
            }
            if any {
                // There is room again, for a worker that found none.
                line.bell.ring();
            }
        }
        Ok(())
    }

    /// Gives every worker jobs up to what it may hold, in turns, so that few are spread evenly.
    fn hand_out(&mut self) -> Result<(), RunError> {
        let mut given = vec![false; self.lines.len()];
        loop {
            let mut any = false;
            for (line, given) in self.lines.iter_mut().zip(&mut given) {
                if self.exhausted || line.assigned.len() >= self.most_assigned {
                    continue;
                }
                let Some(job) = self.spare.take().or_else(|| self.run.next_job()) else {
                    self.exhausted = true;
                    break;
                };
                match line.jobs.push(&job) {
                    Ok(()) => {
                        line.assigned.insert(job);
                        (any, *given) = (true, true);
                    }
                    Err(PushError::Full) => self.spare = Some(job),
                    Err(PushError::Corrupt(corrupt)) => return Err(corrupt.into()),
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

    fn check_staff(&mut self) -> Result<(), RunError> {
        for member in &mut self.staff {
            if let Ok(Some(status)) = member.process.try_wait() {
                let what = format!("{} ended: {}", member.name, describe(status));
                return Err(self.broken(&what));
            }
        }
        Ok(())
    }

    fn broken(&self, what: &str) -> RunError {
        RunError::Child {
            what: what.to_owned(),
            kept: self.run.kept(),
            out: self.run.out().to_owned(),
        }
    }

    fn evaluated(&self) -> Evaluated {
        let count = |counter: EvaluatorCounter| self.evaluator.load(counter as usize);
        let sizes = self.run.settings.max_batch + 1;
        Evaluated {
            batches: count(EvaluatorCounter::Batches),
            evaluations: count(EvaluatorCounter::Evaluations),
            busy_s: count(EvaluatorCounter::BusyNs) as f64 * 1e-9,
            sizes: (0..sizes)
                .map(|size| self.evaluator.load(EvaluatorCounter::Sizes as usize + size))
                .collect(),
        }
    }

    fn show_progress(&mut self) {
        if !self.run.progress.is_due() {
            return;
        }
        let evaluated = self.evaluated();
        let gauge = Gauge {
            batch_mean: evaluated.evaluations as f64 / evaluated.batches.max(1) as f64,
            busy: evaluated.busy_s / self.started.elapsed().as_secs_f64(),
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
        for member in &mut self.staff {
            while matches!(member.process.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = member.process.kill();
                    let _ = member.process.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.staff.clear();
    }

    /// After the end: takes in the last finished rounds and sums up.
    fn report(mut self) -> Result<Report, RunError> {
        self.collect()?;
        let cpu_ns = |line: &Line| line.counters.load(WorkerCounter::CpuNs as usize);
        let spent = Spent {
            workers: self.lines.iter().map(cpu_ns).sum::<u64>() as f64 * 1e-9,
            evaluator: self.evaluator.load(EvaluatorCounter::CpuNs as usize) as f64 * 1e-9,
            coordinator: liveness::process_cpu_seconds()?,
        };
        let (ended, cut) = self.ended.take().unwrap_or((Instant::now(), None));
        let tally = cut.unwrap_or_else(|| self.tally());
        let device = load_text(&self.device);
        self.run.close(tally, ended, spent, device)
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

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "for no known reason".to_owned(),
    }
}
