//! The worker process: jobs in flight on one side, rings on the other. It never waits for one leaf:
//! it takes whatever replies are there, lets their jobs go on, and sleeps only when nothing is left
//! to do.

use super::child::{Child, Link};
use super::error::RunError;
use super::reexec;
use super::regions::{RecordSlot, WorkerCounter, WorkerRegions, store_counts};
use crate::killpoint::{self, KillPoint};
use crate::latency::{WorkerTrace, tag_of};
use crate::play::{DecisionJournal, Job, JobPort, JobsInFlight};
use crate::replay::RoundRecord;
use crate::shm::{Consumer, Doorbell, Party, Producer, PushError, liveness};
use crate::wire::{Reply, Request};
use bytemuck::Zeroable;

/// Replies taken in before their jobs go on: enough to share the work of a pass, few enough that
/// the first requests are under way early.
const REPLIES_PER_PASS: usize = 64;

/// The worker's ends of the rings to and from the evaluator.
struct WorkerEnds {
    requests: Producer<Request>,
    replies: Consumer<Reply>,
}

struct RingPort {
    link: Link<WorkerEnds>,
    jobs: Consumer<Job>,
    records: Producer<RecordSlot>,
    slot: Box<RecordSlot>,
    journal: DecisionJournal,
    coordinator_bell: Doorbell,
    /// Something was sent since the evaluator was last woken.
    sent: bool,
    /// A place for a job found none since the jobs were last unblocked.
    wants_job: bool,
    /// A job found a ring full since then.
    wants_room: bool,
    /// Stamps of sampled requests; none unless the run is traced.
    trace: Option<WorkerTrace>,
}

impl RingPort {
    /// Is there a new job, or room in a ring, for jobs that found none? (Reopened rings unblock
    /// them anyway.)
    fn can_unblock(&mut self) -> bool {
        // A broken ring counts as news: the next access reports it.
        let job = self.wants_job && self.jobs.is_ready().unwrap_or(true);
        job || (self.wants_room && !self.is_full())
    }

    fn is_full(&mut self) -> bool {
        let full = |free: Result<usize, _>| free.is_ok_and(|free| free == 0);
        let Some(ends) = &mut self.link.ends else {
            return true;
        };
        full(ends.requests.free()) || full(self.records.free())
    }

    /// As `send`, with a stamp if this request is sampled.
    #[cold]
    fn send_traced(&mut self, mut request: Request) -> Result<bool, RunError> {
        if let Some(trace) = &mut self.trace {
            request.ticket = trace.tagged(request.ticket);
        }
        let taken = self.send_plain(&request)?;
        if let Some(trace) = &mut self.trace
            && taken
            && tag_of(request.ticket) != 0
        {
            trace.published(request.ticket);
        }
        Ok(taken)
    }

    fn send_plain(&mut self, request: &Request) -> Result<bool, RunError> {
        // While the rings are closed they count as full.
        let pushed = match &mut self.link.ends {
            Some(ends) => ends.requests.push(request),
            None => Err(PushError::Full),
        };
        self.accepted(pushed)
    }

    fn accepted(&mut self, pushed: Result<(), PushError>) -> Result<bool, RunError> {
        match pushed {
            Ok(()) => Ok(true),
            Err(PushError::Full) => {
                self.wants_room = true;
                Ok(false)
            }
            Err(PushError::Corrupt(corrupt)) => Err(corrupt.into()),
        }
    }

    fn has_reply(&self) -> bool {
        let ready = |ends: &WorkerEnds| ends.replies.is_ready().unwrap_or(true);
        self.link.ends.as_ref().is_some_and(ready)
    }

    fn next_reply(&mut self) -> Result<Option<Reply>, RunError> {
        match &mut self.link.ends {
            Some(ends) => Ok(ends.replies.pop()?),
            None => Ok(None),
        }
    }
}

impl JobPort for RingPort {
    type Error = RunError;

    fn next_job(&mut self) -> Result<Option<Job>, RunError> {
        let job = self.jobs.pop()?;
        self.wants_job |= job.is_none();
        match job {
            Some(job) if !self.journal.has_entry(&job) => {
                let what = "a job was handed out with no entry of the journal";
                Err(RunError::new(what))
            }
            job => Ok(job),
        }
    }

    fn send(&mut self, request: &Request) -> Result<bool, RunError> {
        killpoint::pass(KillPoint::WorkerSends);
        self.sent = true;
        if self.trace.is_some() {
            return self.send_traced(*request);
        }
        let taken = self.send_plain(request);
        killpoint::pass(KillPoint::WorkerSent);
        taken
    }

    fn selected(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.selected();
        }
    }

    fn journaled(&mut self, job: &Job) -> &[u64] {
        self.journal.read(job)
    }

    fn journal_round(&mut self, entry: u32, words: &[u64]) {
        self.journal.begin_round(entry, words);
    }

    fn journal_decision(&mut self, entry: u32, words: &[u64]) {
        killpoint::pass(KillPoint::WorkerJournals);
        self.journal.add_decision(entry, words);
        killpoint::pass(KillPoint::WorkerJournaled);
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, RunError> {
        self.slot.length = record.encode_into(&mut self.slot.bytes)? as u64;
        killpoint::pass(KillPoint::WorkerDelivers);
        let pushed = self.records.push(&self.slot);
        killpoint::pass(KillPoint::WorkerDelivered);
        self.coordinator_bell.ring();
        self.accepted(pushed)
    }
}

/// Runs worker number `index` until the coordinator says stop.
///
/// # Errors
/// When the segment or a ring is broken, or the coordinator is gone.
pub fn run(segment: &str, index: usize, parent: u32) -> Result<(), RunError> {
    // One of them is enough to be stopped.
    if index == 0 {
        killpoint::arm(&["worker"]);
    }
    let child = Child::attach(segment, parent)?;
    reexec::name_process(&format!("worker {index}"));
    killpoint::pass(KillPoint::WorkerAttached);
    let worker = child.regions.workers.get(index);
    let regions: WorkerRegions =
        *worker.ok_or_else(|| RunError::new(format!("there is no worker {index}")))?;
    let shared = &child.segment;
    let bell = shared.doorbell(regions.bell)?;
    let evaluator_bell = shared.doorbell(child.regions.evaluator_bell)?;
    let counters = shared.counters(regions.counters)?;
    let mut port = RingPort {
        link: Link::new(&child, regions.handover, Party::Worker)?,
        jobs: shared.consumer(regions.jobs)?,
        records: shared.producer(regions.records)?,
        slot: Box::new(RecordSlot::zeroed()),
        journal: DecisionJournal::new(shared.journal(child.regions.journal)?),
        coordinator_bell: shared.doorbell(child.regions.coordinator_bell)?,
        sent: false,
        wants_job: false,
        wants_room: false,
        trace: child
            .settings
            .trace
            .as_deref()
            .map(|folder| WorkerTrace::new(folder, index, child.settings.trace_every)),
    };
    let attach = || {
        Ok(WorkerEnds {
            requests: shared.producer(regions.requests)?,
            replies: shared.consumer(regions.replies)?,
        })
    };
    let mut jobs = JobsInFlight::new(&child.settings)?;
    counters.store(WorkerCounter::Ready as usize, 1);
    port.coordinator_bell.ring();
    child.wait_for_start()?;

    while !child.is_stopped()? {
        counters.add(WorkerCounter::Heartbeat as usize, 1);
        if port.link.follow_epoch(attach)? {
            jobs.resend();
        }
        let mut taken = 0;
        while taken < REPLIES_PER_PASS
            && let Some(reply) = port.next_reply()?
        {
            if let Some(trace) = &mut port.trace {
                trace.consumed(reply.ticket);
            }
            jobs.apply(&reply)?;
            taken += 1;
            killpoint::pass(KillPoint::WorkerTook);
        }
        if jobs.is_blocked() && port.can_unblock() {
            (port.wants_job, port.wants_room) = (false, false);
            jobs.unblock();
        }
        jobs.step(&mut port)?;
        if taken == REPLIES_PER_PASS {
            continue;
        }
        // Nothing is left but to wait: now the evaluator may know what was sent.
        if std::mem::take(&mut port.sent) {
            evaluator_bell.ring();
        }
        store_counts(&counters, &jobs.stats(), jobs.latency());
        if let Some(trace) = &mut port.trace {
            trace.span_ended();
        }
        child.sleep(&bell, || {
            port.has_reply() || port.link.has_new_epoch() || port.can_unblock()
        })?;
        if let Some(trace) = &mut port.trace {
            trace.span_started();
        }
    }
    store_counts(&counters, &jobs.stats(), jobs.latency());
    if let Some(trace) = &port.trace {
        trace.write()?;
    }
    let cpu = liveness::process_cpu_seconds()?;
    counters.store(WorkerCounter::CpuNs as usize, (cpu * 1e9) as u64);
    Ok(())
}
