//! The evaluator process: gathers whatever leaves are ready into a batch, runs the network, writes the
//! answers back. It launches as soon as it is free; it waits only for a first leaf, or, if the settings
//! say so, a bounded time for a batch to fill.

use super::child::{Child, ChildError};
use super::layout::{EvaluatorCounter, store_text};
use crate::latency::{BatchStamps, EvaluatorStamps, EvaluatorTrace, Sampled, now_ns, tag_of};
use crate::network;
use crate::process::weights_of;
use crate::settings::Settings;
use crate::shm::{Consumer, Counters, Doorbell, Producer, liveness};
use crate::wire::{Reply, Request};
use bytemuck::Zeroable;
use std::time::{Duration, Instant};

/// The evaluator's ends of one worker's rings.
struct Line {
    requests: Consumer<Request>,
    replies: Producer<Reply>,
    bell: Doorbell,
    /// Answers of the batch in hand that go to this worker.
    answers: usize,
}

/// A batch being gathered: requests, and the worker each came from.
struct Batch {
    requests: Vec<Request>,
    replies: Vec<Reply>,
    workers: Vec<u16>,
    most: usize,
    /// Stamps, when the run is traced.
    traced: bool,
    stamps: BatchStamps,
    sampled: Sampled,
}

impl Batch {
    fn new(most: usize, traced: bool) -> Batch {
        Batch {
            requests: Vec::with_capacity(most),
            replies: vec![Reply::zeroed(); most],
            workers: Vec::with_capacity(most),
            most,
            traced,
            stamps: BatchStamps::default(),
            sampled: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.requests.len() == self.most
    }

    /// Takes all that is ready, up to the limit, beginning with worker `first`.
    fn gather(&mut self, lines: &mut [Line], first: usize) -> Result<(), ChildError> {
        for step in 0..lines.len() {
            let worker = (first + step) % lines.len();
            while !self.is_full()
                && let Some(request) = lines[worker].requests.pop()?
            {
                if !request.position.is_sound() {
                    return Err(ChildError::Unsound(worker));
                }
                if self.traced {
                    self.stamp_seen(worker as u16, request.ticket);
                }
                self.requests.push(request);
                self.workers.push(worker as u16);
            }
        }
        Ok(())
    }

    /// Stamps a request that came out of a ring, if it is sampled, and the batch's first.
    #[cold]
    fn stamp_seen(&mut self, worker: u16, ticket: u64) {
        let (first, tag) = (self.requests.is_empty(), tag_of(ticket));
        if !first && tag == 0 {
            return;
        }
        let seen_ns = now_ns();
        if first {
            self.stamps.opened_ns = seen_ns;
        }
        if tag != 0 {
            let stamps = EvaluatorStamps {
                worker,
                tag,
                seen_ns,
                ..EvaluatorStamps::default()
            };
            self.sampled.push((self.requests.len(), stamps));
        }
    }

    /// Writes the answers to the workers' rings and wakes them.
    fn publish(&mut self, lines: &mut [Line]) -> Result<(), ChildError> {
        let mut sampled = self.sampled.iter_mut().peekable();
        for (row, (&worker, reply)) in self.workers.iter().zip(&self.replies).enumerate() {
            let line = &mut lines[worker as usize];
            let pushed = line.replies.push(reply);
            pushed.map_err(|_| ChildError::NoRoom(worker as usize))?;
            line.answers += 1;
            if let Some((_, stamps)) = sampled.next_if(|(place, _)| *place == row) {
                stamps.replied_ns = now_ns();
            }
        }
        for line in lines {
            if std::mem::take(&mut line.answers) > 0 {
                line.bell.ring();
            }
        }
        self.requests.clear();
        self.workers.clear();
        Ok(())
    }
}

/// Runs the evaluator until the coordinator says stop.
///
/// # Errors
/// When the segment or a ring is broken, a worker sends nonsense, the network cannot be loaded, or the
/// coordinator is gone.
pub fn run(segment: &str, parent: u32) -> Result<(), ChildError> {
    let child = Child::attach(segment, parent)?;
    Child::call_itself("evaluator");
    let settings = &child.settings;
    let weights = weights_of(settings)?;
    let kind = network::choose(settings.backend)?;
    let mut backend = network::open(kind, &weights, settings.threads, settings.max_batch)?;
    drop(weights);
    let mut lines = lines(&child)?;
    let bell = child.segment.doorbell(child.layout.evaluator_bell)?;
    let counters = child.segment.counters(child.layout.evaluator_counters)?;
    let mut batch = Batch::new(settings.max_batch, settings.trace.is_some());
    let mut trace = settings.trace.as_deref().map(EvaluatorTrace::new);
    store_text(
        &child.segment.counters(child.layout.device)?,
        &backend.device(),
    );
    counters.store(EvaluatorCounter::Ready as usize, 1);
    child
        .segment
        .doorbell(child.layout.coordinator_bell)?
        .ring();
    child.wait_for_start()?;

    let mut first = 0;
    while !child.is_stopped()? {
        batch.gather(&mut lines, first)?;
        if batch.requests.is_empty() {
            child.sleep(&bell, || any_ready(&lines))?;
            continue;
        }
        if !batch.is_full() && settings.max_wait_us > 0 {
            fill(&mut batch, &mut lines, first, &bell, settings)?;
        }
        first = (first + 1) % lines.len();
        let started = Instant::now();
        let size = batch.requests.len();
        if batch.traced {
            batch.stamps.sealed_ns = now_ns();
            batch.stamps.started_ns = batch.stamps.sealed_ns;
        }
        backend.evaluate(&batch.requests, &mut batch.replies[..size]);
        count_batch(&counters, size, started.elapsed());
        if batch.traced {
            batch.stamps.ended_ns = now_ns();
        }
        batch.publish(&mut lines)?;
        if let Some(trace) = &mut trace {
            batch.stamps.size = size as u32;
            batch.stamps.published_ns = now_ns();
            trace.finished(batch.stamps, &mut batch.sampled);
        }
    }
    if let Some(trace) = &trace {
        trace.write()?;
    }
    let cpu = liveness::process_cpu_seconds()?;
    counters.store(EvaluatorCounter::CpuNs as usize, (cpu * 1e9) as u64);
    Ok(())
}

fn lines(child: &Child) -> Result<Vec<Line>, ChildError> {
    let shared = &child.segment;
    let line = |regions: &super::layout::WorkerRegions| {
        Ok(Line {
            requests: shared.consumer(regions.requests)?,
            replies: shared.producer(regions.replies)?,
            bell: shared.doorbell(regions.bell)?,
            answers: 0,
        })
    };
    child.layout.workers.iter().map(line).collect()
}

fn any_ready(lines: &[Line]) -> bool {
    // A broken ring counts as ready: the next access reports it.
    lines
        .iter()
        .any(|line| line.requests.is_ready().unwrap_or(true))
}

/// Waits up to `max_wait_us` for the batch to fill.
fn fill(
    batch: &mut Batch,
    lines: &mut [Line],
    first: usize,
    bell: &Doorbell,
    settings: &Settings,
) -> Result<(), ChildError> {
    let deadline = Instant::now() + Duration::from_micros(settings.max_wait_us);
    while !batch.is_full() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        bell.wait(settings.parking(), left, || any_ready(lines));
        batch.gather(lines, first)?;
    }
    Ok(())
}

fn count_batch(counters: &Counters, size: usize, busy: Duration) {
    counters.add(EvaluatorCounter::BusyNs as usize, busy.as_nanos() as u64);
    counters.add(EvaluatorCounter::Batches as usize, 1);
    counters.add(EvaluatorCounter::Evaluations as usize, size as u64);
    counters.add(EvaluatorCounter::Sizes as usize + size, 1);
}
