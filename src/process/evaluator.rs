//! The evaluator process: gathers whatever leaves are ready into a batch, runs the network, writes the
//! answers back. It launches as soon as it is free; it waits only for a first leaf, or, if the settings
//! say so, a bounded time for a batch to fill.

use super::child::{Child, ChildError, Link};
use super::layout::{EvaluatorCounter, WorkerRegions, store_text};
use crate::killpoint::{self, KillPoint};
use crate::network;
use crate::process::weights_of;
use crate::settings::Settings;
use crate::shm::{Consumer, Counters, Doorbell, Party, Producer, ShmError, liveness};
use crate::wire::{Reply, Request};
use bytemuck::Zeroable;
use std::time::{Duration, Instant};

/// The evaluator's ends of one worker's rings.
struct Ends {
    requests: Consumer<Request>,
    replies: Producer<Reply>,
}

/// One worker, as the evaluator sees it.
struct Line {
    regions: WorkerRegions,
    link: Link<Ends>,
    bell: Doorbell,
    /// Answers of the batch in hand that go to this worker.
    answers: usize,
}

impl Line {
    /// The next sound request. Whatever else the worker wrote cuts it off.
    fn next_request(&mut self) -> Option<Request> {
        match self.link.ends.as_mut()?.requests.pop() {
            Ok(None) => None,
            Ok(Some(request)) if request.position.is_sound() => Some(request),
            Ok(Some(_)) | Err(_) => {
                self.link.complain();
                None
            }
        }
    }

    /// Writes one answer, unless the worker has been cut off since it asked. A correct worker has room
    /// for all answers to what it asked.
    fn answer(&mut self, reply: &Reply) {
        let Some(ends) = &mut self.link.ends else {
            return;
        };
        match ends.replies.push(reply) {
            Ok(()) => self.answers += 1,
            Err(_) => self.link.complain(),
        }
    }

    fn is_ready(&self) -> bool {
        // A broken ring counts as ready: the next access sees to it.
        let ready = |ends: &Ends| ends.requests.is_ready().unwrap_or(true);
        self.link.has_news() || self.link.ends.as_ref().is_some_and(ready)
    }
}

/// A batch being gathered: requests, and the worker each came from.
struct Batch {
    requests: Vec<Request>,
    replies: Vec<Reply>,
    workers: Vec<u16>,
    most: usize,
}

impl Batch {
    fn new(most: usize) -> Batch {
        Batch {
            requests: Vec::with_capacity(most),
            replies: vec![Reply::zeroed(); most],
            workers: Vec::with_capacity(most),
            most,
        }
    }

    fn is_full(&self) -> bool {
        self.requests.len() == self.most
    }

    /// Takes all that is ready, up to the limit, beginning with worker `first`.
    fn gather(&mut self, lines: &mut [Line], first: usize) {
        for step in 0..lines.len() {
            let worker = (first + step) % lines.len();
            while !self.is_full()
                && let Some(request) = lines[worker].next_request()
            {
                self.requests.push(request);
                self.workers.push(worker as u16);
            }
        }
    }

    /// Writes the answers to the workers' rings and wakes them.
    fn publish(&mut self, lines: &mut [Line]) {
        for (&worker, reply) in self.workers.iter().zip(&self.replies) {
            lines[worker as usize].answer(reply);
            killpoint::pass(KillPoint::EvaluatorPublishing);
        }
        killpoint::pass(KillPoint::EvaluatorWakes);
        for line in lines {
            if std::mem::take(&mut line.answers) > 0 {
                line.bell.ring();
            }
        }
        self.requests.clear();
        self.workers.clear();
    }
}

/// Runs the evaluator until the coordinator says stop.
///
/// # Errors
/// When the segment or a ring is broken, a worker sends nonsense, the network cannot be loaded, or the
/// coordinator is gone.
pub fn run(segment: &str, parent: u32) -> Result<(), ChildError> {
    killpoint::arm(&["evaluator"]);
    let child = Child::attach(segment, parent)?;
    killpoint::pass(KillPoint::EvaluatorAttached);
    let settings = &child.settings;
    let weights = weights_of(settings)?;
    let kind = network::choose(settings.backend)?;
    let mut backend = network::open(kind, &weights, settings.threads, settings.max_batch)?;
    drop(weights);
    let mut lines = lines(&child)?;
    let bell = child.segment.doorbell(child.layout.evaluator_bell)?;
    let counters = child.segment.counters(child.layout.evaluator_counters)?;
    let mut batch = Batch::new(settings.max_batch);
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
        counters.add(EvaluatorCounter::Beat as usize, 1);
        follow(&child, &mut lines)?;
        batch.gather(&mut lines, first);
        if batch.requests.is_empty() {
            child.sleep(&bell, || lines.iter().any(Line::is_ready))?;
            continue;
        }
        if !batch.is_full() && settings.max_wait_us > 0 {
            fill(&mut batch, &mut lines, first, &bell, settings);
        }
        killpoint::pass(KillPoint::EvaluatorGathered);
        first = (first + 1) % lines.len();
        let started = Instant::now();
        let size = batch.requests.len();
        backend.evaluate(&batch.requests, &mut batch.replies[..size]);
        killpoint::pass(KillPoint::EvaluatorEvaluated);
        count_batch(&counters, size, started.elapsed());
        batch.publish(&mut lines);
    }
    let cpu = liveness::process_cpu_seconds()?;
    counters.store(EvaluatorCounter::CpuNs as usize, (cpu * 1e9) as u64);
    Ok(())
}

fn lines(child: &Child) -> Result<Vec<Line>, ChildError> {
    let line = |regions: &WorkerRegions| {
        Ok(Line {
            regions: *regions,
            link: Link::new(child, regions.handover, Party::Second)?,
            bell: child.segment.doorbell(regions.bell)?,
            answers: 0,
        })
    };
    child.layout.workers.iter().map(line).collect()
}

/// Lets go of rings that are to be cleared, takes up those that have been.
fn follow(child: &Child, lines: &mut [Line]) -> Result<(), ChildError> {
    for line in lines {
        let regions = line.regions;
        let followed = line.link.follow(|| {
            Ok(Ends {
                requests: child.segment.consumer(regions.requests)?,
                replies: child.segment.producer(regions.replies)?,
            })
        });
        match followed {
            // The worker was there first and spoiled the ring.
            Err(ChildError::Shm(ShmError::Corrupt(_))) => line.link.complain(),
            followed => drop(followed?),
        }
    }
    Ok(())
}

/// Waits up to `max_wait_us` for the batch to fill.
fn fill(batch: &mut Batch, lines: &mut [Line], first: usize, bell: &Doorbell, settings: &Settings) {
    let deadline = Instant::now() + Duration::from_micros(settings.max_wait_us);
    while !batch.is_full() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        bell.wait(settings.parking(), left, || {
            lines.iter().any(Line::is_ready)
        });
        if lines.iter().any(|line| line.link.has_news()) {
            break;
        }
        batch.gather(lines, first);
    }
}

fn count_batch(counters: &Counters, size: usize, busy: Duration) {
    counters.add(EvaluatorCounter::BusyNs as usize, busy.as_nanos() as u64);
    counters.add(EvaluatorCounter::Batches as usize, 1);
    counters.add(EvaluatorCounter::Evaluations as usize, size as u64);
    counters.add(EvaluatorCounter::Sizes as usize + size, 1);
}
