//! The evaluator process: gathers whatever leaves are ready into a batch, has the network answer it, hands
//! out the answers. On a GPU the next batch is gathered while one is computed; on the CPU a launch returns
//! with its answers. When to launch is the business of `pace`, what a batch is that of `batch`.

use super::batch::{Batch, Line};
use super::child::{Child, ChildError};
use super::layout::{EvaluatorCounter, store_text};
use super::pace::{Pace, Turn};
use crate::killpoint::{self, KillPoint};
use crate::latency::{EvaluatorTrace, now_ns};
use crate::network::{self, Backend, BackendError, BackendKind};
use crate::process::weights_of;
use crate::shm::{Counters, Parking, liveness};
use std::time::{Duration, Instant};

/// Looks around before the idle evaluator of a GPU sleeps: some hundred microseconds, far longer than workers
/// leave it without work while they have any.
const GPU_SPIN: u32 = 4096;

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
    /// Rings are wanted back: what is gathered from them goes out at once.
    hurry: bool,
    pace: Pace,
    counters: Counters,
    /// Time stamps; none unless the run is traced.
    trace: Option<EvaluatorTrace>,
}

/// Runs the evaluator until the coordinator says stop.
///
/// # Errors
/// When the segment is broken, the network cannot be loaded or fails, or the coordinator is gone.
pub fn run(segment: &str, parent: u32) -> Result<(), ChildError> {
    killpoint::arm(&["evaluator"]);
    let mut child = Child::attach(segment, parent)?;
    killpoint::pass(KillPoint::EvaluatorAttached);
    Child::call_itself("evaluator");
    let mut evaluator = Evaluator::open(&mut child)?;
    let bell = child.segment.doorbell(child.layout.evaluator_bell)?;
    evaluator.store(EvaluatorCounter::Ready, 1);
    child
        .segment
        .doorbell(child.layout.coordinator_bell)?
        .ring();
    child.wait_for_start()?;

    while !child.is_stopped()? {
        evaluator.beat();
        evaluator.publish_finished()?;
        evaluator.follow(&child)?;
        evaluator.gather();
        match evaluator.turn() {
            Turn::Launch => evaluator.launch()?,
            Turn::Poll => std::hint::spin_loop(),
            Turn::Wait(left) => {
                bell.wait(child.parking, left, || evaluator.is_any_ready());
            }
            Turn::Sleep => child.sleep(&bell, || evaluator.is_any_ready())?,
        }
    }
    if let Some(trace) = &evaluator.trace {
        trace.write()?;
    }
    evaluator.store_memory();
    let cpu = liveness::process_cpu_seconds()?;
    evaluator.store(EvaluatorCounter::CpuNs, (cpu * 1e9) as u64);
    Ok(())
}

impl Evaluator {
    /// Loads the network, finds the rings.
    fn open(child: &mut Child) -> Result<Evaluator, ChildError> {
        let settings = &child.settings;
        let weights = weights_of(settings)?;
        // The coordinator has settled the choice: one for the run.
        let kind = BackendKind::try_from(settings.backend)?;
        let mut backend = network::open(kind, &weights, settings.limits())?;
        drop(weights);
        let traced = settings.trace.is_some();
        let in_place = match backend.share(&child.segment) {
            // Stamps need the tickets, which are not looked at where they lie.
            Ok(()) => !traced,
            Err(BackendError::NotShared) => false,
            Err(refusal) => {
                eprintln!("{refusal}: leaves are copied instead");
                false
            }
        };
        let cost = backend.cost().cloned();
        if cost.is_some()
            && let Parking::Park { spin } = &mut child.parking
        {
            // A device that computes by itself is to be kept busy, at the price of a core.
            *spin = GPU_SPIN.max(*spin);
        }
        let pace = Pace::new(
            cost.unwrap_or_default(),
            backend.latency(),
            Duration::from_micros(settings.max_wait_us),
        );
        let device = child.segment.counters(child.layout.device)?;
        store_text(&device, &backend.device());
        let (most, workers) = (settings.max_batch, settings.workers);
        let evaluator = Evaluator {
            lines: Line::all(child)?,
            batches: (0..backend.lanes())
                .map(|_| Batch::new(most, workers, in_place, traced))
                .collect(),
            most,
            in_place,
            oldest: 0,
            under_way: 0,
            first: 0,
            hurry: false,
            pace,
            counters: child.segment.counters(child.layout.evaluator_counters)?,
            trace: settings.trace.as_deref().map(EvaluatorTrace::new),
            backend,
        };
        evaluator.store_memory();
        Ok(evaluator)
    }

    /// Lets go of rings that are wanted back, takes up new ones.
    fn follow(&mut self, child: &Child) -> Result<(), ChildError> {
        self.hurry = false;
        for line in &mut self.lines {
            self.hurry |= line.follow(child)?;
        }
        Ok(())
    }

    /// The lane whose batch is being gathered; none while all are under way.
    fn open_lane(&self) -> Option<usize> {
        let lanes = self.batches.len();
        (self.under_way < lanes).then_some((self.oldest + self.under_way) % lanes)
    }

    /// Takes all that is ready into the open lane, up to the limit.
    fn gather(&mut self) {
        let Some(lane) = self.open_lane() else {
            return;
        };
        let batch = &mut self.batches[lane];
        let workers = self.lines.len();
        let order = (self.first..workers).chain(0..self.first);
        if self.in_place {
            for worker in order {
                batch.claim(&mut self.lines[worker], worker, self.most);
            }
        } else {
            let requests = self.backend.requests(lane);
            for worker in order {
                batch.take(&mut self.lines[worker], worker, requests);
            }
        }
    }

    fn turn(&mut self) -> Turn {
        let rows = self.open_lane().map_or(0, |lane| self.batches[lane].len());
        let full = rows == self.most || (rows > 0 && self.hurry);
        self.pace.turn(Instant::now(), rows, full, self.under_way)
    }

    /// Starts the batch of the open lane.
    fn launch(&mut self) -> Result<(), ChildError> {
        let Some(lane) = self.open_lane() else {
            return Ok(());
        };
        killpoint::pass(KillPoint::EvaluatorGathered);
        self.batches[lane].stamp_launch();
        let batch = &self.batches[lane];
        if self.in_place {
            let (requests, replies) = batch.places();
            self.backend.launch_in_place(lane, requests, replies)?;
        } else {
            self.backend.launch(lane, batch.len())?;
        }
        self.pace.launched(Instant::now(), batch.len());
        self.under_way += 1;
        self.first = (self.first + 1) % self.lines.len();
        Ok(())
    }

    /// Hands out the answers of all batches that are finished.
    fn publish_finished(&mut self) -> Result<(), ChildError> {
        while self.under_way > 0
            && let Some(busy) = self.backend.poll(self.oldest)?
        {
            killpoint::pass(KillPoint::EvaluatorEvaluated);
            let batch = &mut self.batches[self.oldest];
            count_batch(&self.counters, batch.len(), busy);
            if self.trace.is_some() {
                batch.stamp_end(now_ns());
            }
            if self.in_place {
                batch.answer_in_place(&mut self.lines);
            } else {
                batch.answer(&mut self.lines, self.backend.replies(self.oldest));
            }
            killpoint::pass(KillPoint::EvaluatorWakes);
            self.lines.iter_mut().for_each(Line::ring);
            if let Some(trace) = &mut self.trace {
                self.batches[self.oldest].hand_over_stamps(trace);
            }
            self.oldest = (self.oldest + 1) % self.batches.len();
            self.under_way -= 1;
            if self.under_way == 0 {
                self.pace.idle();
            }
        }
        Ok(())
    }

    fn is_any_ready(&self) -> bool {
        self.lines.iter().any(Line::is_ready)
    }

    /// A sign of life.
    fn beat(&self) {
        self.counters.add(EvaluatorCounter::Beat as usize, 1);
    }

    fn store(&self, counter: EvaluatorCounter, value: u64) {
        self.counters.store(counter as usize, value);
    }

    fn store_memory(&self) {
        let memory = self.backend.memory();
        self.store(EvaluatorCounter::GpuBytes, memory.own_bytes);
        self.store(EvaluatorCounter::GpuBytesUsed, memory.device_used_bytes);
    }
}

fn count_batch(counters: &Counters, size: usize, busy: Duration) {
    counters.add(EvaluatorCounter::BusyNs as usize, busy.as_nanos() as u64);
    counters.add(EvaluatorCounter::Batches as usize, 1);
    counters.add(EvaluatorCounter::Evaluations as usize, size as u64);
    counters.add(EvaluatorCounter::Sizes as usize + size, 1);
}
