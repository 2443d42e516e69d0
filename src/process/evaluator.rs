//! The evaluator process: gathers whatever leaves are ready into a batch, has the network answer it, writes
//! the answers back. On a GPU the next batch is gathered while one is computed, and leaves are read and
//! answered where they lie in the rings if the driver allows it; on the CPU a launch returns with the
//! answers. When to launch is the business of `pace`.

use super::child::{Child, ChildError};
use super::layout::{EvaluatorCounter, WorkerRegions, store_text};
use super::pace::{Pace, Turn};
use crate::network::{self, Backend, BackendError, BackendKind};
use crate::process::weights_of;
use crate::shm::{Consumer, Counters, Doorbell, Parking, Producer, PushError, liveness};
use crate::wire::{Reply, Request};
use std::time::{Duration, Instant};

/// Looks around before an idle evaluator of a GPU sleeps: some hundred microseconds, far more than workers
/// leave it without work while they have any.
const GPU_SPIN: u32 = 4096;

/// The evaluator's ends of one worker's rings.
struct Line {
    requests: Consumer<Request>,
    replies: Producer<Reply>,
    /// Where the two rings begin in the segment, in bytes.
    begin: (u64, u64),
    bell: Doorbell,
    /// Leaves in batches that are gathered or under way in place, each with a reply slot reserved.
    claimed: usize,
    /// Answers of the batch in hand that go to this worker.
    answers: usize,
}

/// A lane's batch: where its rows come from.
struct Batch {
    /// By row.
    workers: Vec<u16>,
    /// By row, if in place: byte offsets in the segment.
    requests: Vec<u64>,
    replies: Vec<u64>,
}

/// The batches between the rings and the network.
struct Evaluator {
    backend: Box<dyn Backend>,
    lines: Vec<Line>,
    /// By lane. Lanes are used in turns.
    batches: Vec<Batch>,
    most: usize,
    /// Read and answered where they lie, or copied.
    in_place: bool,
    /// The lane launched longest ago, if any is under way.
    oldest: usize,
    under_way: usize,
    /// The worker whose leaves are taken first, so that each is at times.
    first: usize,
    pace: Pace,
    counters: Counters,
}

/// Runs the evaluator until the coordinator says stop.
///
/// # Errors
/// When the segment or a ring is broken, a worker sends nonsense, the network cannot be loaded or fails, or
/// the coordinator is gone.
pub fn run(segment: &str, parent: u32) -> Result<(), ChildError> {
    let mut child = Child::attach(segment, parent)?;
    let mut evaluator = Evaluator::open(&mut child)?;
    let bell = child.segment.doorbell(child.layout.evaluator_bell)?;
    evaluator
        .counters
        .store(EvaluatorCounter::Ready as usize, 1);
    child
        .segment
        .doorbell(child.layout.coordinator_bell)?
        .ring();
    child.wait_for_start()?;

    while !child.is_stopped()? {
        evaluator.publish_finished()?;
        evaluator.gather()?;
        match evaluator.turn() {
            Turn::Launch => evaluator.launch()?,
            Turn::Poll => std::hint::spin_loop(),
            Turn::Wait(left) => {
                bell.wait(child.parking, left, || evaluator.is_any_ready());
            }
            Turn::Sleep => child.sleep(&bell, || evaluator.is_any_ready())?,
        }
    }
    evaluator.store_memory();
    let cpu = liveness::process_cpu_seconds()?;
    evaluator
        .counters
        .store(EvaluatorCounter::CpuNs as usize, (cpu * 1e9) as u64);
    Ok(())
}

impl Evaluator {
    /// Loads the network, opens the rings.
    fn open(child: &mut Child) -> Result<Evaluator, ChildError> {
        let settings = &child.settings;
        // Settled by the coordinator: one choice for the run.
        let kind = BackendKind::try_from(settings.backend)?;
        let weights = weights_of(settings)?;
        let mut backend = network::open(kind, &weights, settings.limits())?;
        drop(weights);
        let in_place = match backend.share(&child.segment) {
            Ok(()) => true,
            Err(BackendError::NotShared) => false,
            Err(refusal) => {
                eprintln!("{refusal}: leaves are copied instead");
                false
            }
        };
        let cost = backend.cost().cloned();
        if cost.is_some() {
            // A device that computes by itself is to be kept busy, at the price of a core.
            child.parking = match child.parking {
                Parking::Park { spin } => Parking::Park {
                    spin: spin.max(GPU_SPIN),
                },
                poll => poll,
            };
        }
        let pace = Pace::new(
            cost.unwrap_or_default(),
            backend.latency(),
            Duration::from_micros(settings.max_wait_us),
        );
        store_text(
            &child.segment.counters(child.layout.device)?,
            &backend.device(),
        );
        let most = settings.max_batch;
        let room = if in_place { most } else { 0 };
        let batch = || Batch {
            workers: Vec::with_capacity(most),
            requests: Vec::with_capacity(room),
            replies: Vec::with_capacity(room),
        };
        let evaluator = Evaluator {
            lines: lines(child)?,
            batches: (0..backend.lanes()).map(|_| batch()).collect(),
            most,
            in_place,
            oldest: 0,
            under_way: 0,
            first: 0,
            pace,
            counters: child.segment.counters(child.layout.evaluator_counters)?,
            backend,
        };
        evaluator.store_memory();
        Ok(evaluator)
    }

    /// The lane whose batch is being gathered; none while all are under way.
    fn open_lane(&self) -> Option<usize> {
        let lanes = self.batches.len();
        (self.under_way < lanes).then_some((self.oldest + self.under_way) % lanes)
    }

    /// Takes all that is ready into the open lane, up to the limit.
    fn gather(&mut self) -> Result<(), ChildError> {
        let Some(lane) = self.open_lane() else {
            return Ok(());
        };
        let batch = &mut self.batches[lane];
        let count = self.lines.len();
        let order = (self.first..count).chain(0..self.first);
        if self.in_place {
            for worker in order {
                batch.claim(&mut self.lines[worker], worker, self.most)?;
            }
        } else {
            let requests = self.backend.requests(lane);
            for worker in order {
                batch.take(&mut self.lines[worker], worker, requests)?;
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Turn {
        let rows = self
            .open_lane()
            .map_or(0, |lane| self.batches[lane].workers.len());
        self.pace
            .turn(Instant::now(), rows, rows == self.most, self.under_way)
    }

    /// Starts the batch of the open lane.
    fn launch(&mut self) -> Result<(), ChildError> {
        let Some(lane) = self.open_lane() else {
            return Ok(());
        };
        let batch = &self.batches[lane];
        let rows = batch.workers.len();
        if self.in_place {
            self.backend
                .launch_in_place(lane, &batch.requests, &batch.replies)?;
        } else {
            self.backend.launch(lane, rows)?;
        }
        self.pace.launched(Instant::now(), rows);
        self.under_way += 1;
        self.first = (self.first + 1) % self.lines.len();
        Ok(())
    }

    /// Hands out the answers of all batches that are finished.
    fn publish_finished(&mut self) -> Result<(), ChildError> {
        while self.under_way > 0
            && let Some(busy) = self.backend.poll(self.oldest)?
        {
            let batch = &mut self.batches[self.oldest];
            count_batch(&self.counters, batch.workers.len(), busy);
            if self.in_place {
                batch.publish_in_place(&mut self.lines);
            } else {
                batch.publish(&mut self.lines, self.backend.replies(self.oldest))?;
            }
            for line in &mut self.lines {
                if std::mem::take(&mut line.answers) > 0 {
                    line.bell.ring();
                }
            }
            batch.clear();
            self.oldest = (self.oldest + 1) % self.batches.len();
            self.under_way -= 1;
            if self.under_way == 0 {
                self.pace.idle();
            }
        }
        Ok(())
    }

    fn is_any_ready(&self) -> bool {
        // A broken ring counts as ready: the next access reports it.
        let ready = |line: &Line| line.requests.look(line.claimed).map(|slot| slot.is_some());
        self.lines.iter().any(|line| ready(line).unwrap_or(true))
    }

    fn store_memory(&self) {
        let memory = self.backend.memory();
        let store = |counter: EvaluatorCounter, value| self.counters.store(counter as usize, value);
        store(EvaluatorCounter::GpuBytes, memory.own_bytes);
        store(EvaluatorCounter::GpuBytesUsed, memory.device_used_bytes);
    }
}

impl Batch {
    /// Copies what a worker has ready into `requests`.
    fn take(
        &mut self,
        line: &mut Line,
        worker: usize,
        requests: &mut [Request],
    ) -> Result<(), ChildError> {
        while self.workers.len() < requests.len()
            && let Some(request) = line.requests.pop()?
        {
            if !request.position.is_sound() {
                return Err(ChildError::Unsound(worker));
            }
            requests[self.workers.len()] = request;
            self.workers.push(worker as u16);
        }
        Ok(())
    }

    /// Notes where what a worker has ready lies, and reserves a place for each answer. What the leaves hold is not looked at:
    /// the kernels take any bytes for a position without reading or writing anywhere else.
    fn claim(&mut self, line: &mut Line, worker: usize, most: usize) -> Result<(), ChildError> {
        while self.workers.len() < most
            && let Some(request) = line.requests.look(line.claimed)?
        {
            let reply = match line.replies.reserve(line.claimed) {
                Ok(reply) => reply,
                Err(PushError::Full) => return Err(ChildError::NoRoom(worker)),
                Err(PushError::Corrupt(corrupt)) => return Err(corrupt.into()),
            };
            self.requests.push(line.begin.0 + request as u64);
            self.replies.push(line.begin.1 + reply as u64);
            self.workers.push(worker as u16);
            line.claimed += 1;
        }
        Ok(())
    }

    /// Copies the answers to the workers' rings.
    fn publish(&self, lines: &mut [Line], replies: &[Reply]) -> Result<(), ChildError> {
        for (&worker, reply) in self.workers.iter().zip(replies) {
            let line = &mut lines[worker as usize];
            let pushed = line.replies.push(reply);
            pushed.map_err(|_| ChildError::NoRoom(worker as usize))?;
            line.answers += 1;
        }
        Ok(())
    }

    /// Lets the workers see the answers that were written in place. Batches finish in the order they were gathered in, and a
    /// batch holds each worker's leaves in order, so those answered are each ring's oldest claimed.
    fn publish_in_place(&self, lines: &mut [Line]) {
        for &worker in &self.workers {
            lines[worker as usize].answers += 1;
        }
        for line in lines {
            line.replies.publish(line.answers);
            line.requests.release(line.answers);
            line.claimed -= line.answers;
        }
    }

    fn clear(&mut self) {
        self.workers.clear();
        self.requests.clear();
        self.replies.clear();
    }
}

fn lines(child: &Child) -> Result<Vec<Line>, ChildError> {
    let shared = &child.segment;
    let line = |regions: &WorkerRegions| {
        Ok(Line {
            requests: shared.consumer(regions.requests)?,
            replies: shared.producer(regions.replies)?,
            begin: (
                regions.requests.offset() as u64,
                regions.replies.offset() as u64,
            ),
            bell: shared.doorbell(regions.bell)?,
            claimed: 0,
            answers: 0,
        })
    };
    child.layout.workers.iter().map(line).collect()
}

fn count_batch(counters: &Counters, size: usize, busy: Duration) {
    counters.add(EvaluatorCounter::BusyNs as usize, busy.as_nanos() as u64);
    counters.add(EvaluatorCounter::Batches as usize, 1);
    counters.add(EvaluatorCounter::Evaluations as usize, size as u64);
    counters.add(EvaluatorCounter::Sizes as usize + size, 1);
}
