//! The worker process: tables on one side, rings on the other. It never waits for one leaf: it takes
//! whatever replies are there, lets their tables go on, and sleeps only when nothing is left to do.

use super::child::{Child, ChildError};
use super::layout::{RecordSlot, WorkerCounter, WorkerRegions, store_counts};
use crate::latency::{WorkerTrace, tag_of};
use crate::replay::RoundRecord;
use crate::selfplay::{Port, Tables};
use crate::shm::{Consumer, Doorbell, Producer, PushError, liveness};
use crate::wire::{Reply, Request};
use bytemuck::Zeroable;

/// Replies taken in before their tables go on: enough to share the work of a pass, few enough that the
/// first requests are under way early.
const REPLIES_PER_PASS: usize = 64;

struct RingPort {
    requests: Producer<Request>,
    jobs: Consumer<u64>,
    records: Producer<RecordSlot>,
    slot: Box<RecordSlot>,
    coordinator_bell: Doorbell,
    /// Something was sent since the evaluator was last woken.
    sent: bool,
    /// A table found no job since the last `retry`.
    wants_job: bool,
    /// A table found a ring full since the last `retry`.
    wants_room: bool,
    /// Stamps of sampled requests; none unless the run is traced.
    trace: Option<WorkerTrace>,
}

impl RingPort {
    /// Might tables that were turned away have more luck now?
    fn has_news(&mut self) -> bool {
        // A broken ring counts as news: the next access reports it.
        let job = self.wants_job && self.jobs.is_ready().unwrap_or(true);
        let room = |free: Result<usize, _>| free.is_ok_and(|free| free == 0);
        let full = room(self.records.free()) || room(self.requests.free());
        job || (self.wants_room && !full)
    }

    /// As `send`, with a stamp if it is this request's turn.
    #[cold]
    fn send_traced(&mut self, mut request: Request) -> Result<bool, ChildError> {
        if let Some(trace) = &mut self.trace {
            request.ticket = trace.tagged(request.ticket);
        }
        let pushed = self.requests.push(&request);
        let taken = self.accepted(pushed)?;
        if let Some(trace) = &mut self.trace
            && taken
            && tag_of(request.ticket) != 0
        {
            trace.published(request.ticket);
        }
        Ok(taken)
    }

    /// Takes in whether a ring accepted something.
    fn accepted(&mut self, pushed: Result<(), PushError>) -> Result<bool, ChildError> {
        match pushed {
            Ok(()) => Ok(true),
            Err(PushError::Full) => {
                self.wants_room = true;
                Ok(false)
            }
            Err(PushError::Corrupt(corrupt)) => Err(corrupt.into()),
        }
    }
}

impl Port for RingPort {
    type Error = ChildError;

    fn next_job(&mut self) -> Result<Option<u64>, ChildError> {
        let job = self.jobs.pop()?;
        self.wants_job |= job.is_none();
        Ok(job)
    }

    fn send(&mut self, request: &Request) -> Result<bool, ChildError> {
        self.sent = true;
        if self.trace.is_some() {
            return self.send_traced(*request);
        }
        let pushed = self.requests.push(request);
        self.accepted(pushed)
    }

    fn selected(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.selected();
        }
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, ChildError> {
        self.slot.length = record.encode_into(&mut self.slot.bytes)? as u64;
        let pushed = self.records.push(&self.slot);
        let taken = self.accepted(pushed)?;
        self.coordinator_bell.ring();
        Ok(taken)
    }
}

/// Runs worker number `index` until the coordinator says stop.
///
/// # Errors
/// When the segment or a ring is broken, or the coordinator is gone.
pub fn run(segment: &str, index: usize, parent: u32) -> Result<(), ChildError> {
    let child = Child::attach(segment, parent)?;
    Child::call_itself(&format!("worker {index}"));
    let regions: WorkerRegions = *child
        .layout
        .workers
        .get(index)
        .ok_or(ChildError::NoSuchWorker(index))?;
    let shared = &child.segment;
    let mut replies: Consumer<Reply> = shared.consumer(regions.replies)?;
    let bell = shared.doorbell(regions.bell)?;
    let evaluator_bell = shared.doorbell(child.layout.evaluator_bell)?;
    let counters = shared.counters(regions.counters)?;
    let mut port = RingPort {
        requests: shared.producer(regions.requests)?,
        jobs: shared.consumer(regions.jobs)?,
        records: shared.producer(regions.records)?,
        slot: Box::new(RecordSlot::zeroed()),
        coordinator_bell: shared.doorbell(child.layout.coordinator_bell)?,
        sent: false,
        wants_job: false,
        wants_room: false,
        trace: child
            .settings
            .trace
            .as_deref()
            .map(|folder| WorkerTrace::new(folder, index, child.settings.trace_every)),
    };
    let mut tables = Tables::new(&child.settings)?;
    counters.store(WorkerCounter::Ready as usize, 1);
    port.coordinator_bell.ring();
    child.wait_for_start()?;

    while !child.is_stopped()? {
        let mut taken = 0;
        while taken < REPLIES_PER_PASS
            && let Some(reply) = replies.pop()?
        {
            if let Some(trace) = &mut port.trace {
                trace.consumed(reply.ticket);
            }
            tables.apply(&reply)?;
            taken += 1;
        }
        if tables.is_blocked() && port.has_news() {
            (port.wants_job, port.wants_room) = (false, false);
            tables.unblock();
        }
        tables.step(&mut port)?;
        if taken == REPLIES_PER_PASS {
            continue;
        }
        // Nothing is left but to wait: now the evaluator may know what was sent.
        if std::mem::take(&mut port.sent) {
            evaluator_bell.ring();
        }
        store_counts(&counters, &tables.counts(), tables.latency());
        if let Some(trace) = &mut port.trace {
            trace.asleep();
        }
        child.sleep(&bell, || {
            replies.is_ready().unwrap_or(true) || port.has_news()
        })?;
        if let Some(trace) = &mut port.trace {
            trace.awake();
        }
    }
    store_counts(&counters, &tables.counts(), tables.latency());
    if let Some(trace) = &port.trace {
        trace.write()?;
    }
    let cpu = liveness::process_cpu_seconds()?;
    counters.store(WorkerCounter::CpuNs as usize, (cpu * 1e9) as u64);
    Ok(())
}
