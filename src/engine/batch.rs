//! What goes into a batch and where its answers go: the evaluator's end of each worker's rings, and
//! the rows of a batch with the worker each came from. Rows are copied out of the rings and their
//! answers copied in, or both stay where they lie and only their places are noted (for a GPU that
//! sees the segment itself).

use super::child::{Child, Link};
use super::error::RunError;
use super::regions::WorkerRegions;
use crate::killpoint::{self, KillPoint};
use crate::latency::{BatchStamps, EvaluatorStamps, EvaluatorTrace, Sampled, now_ns, tag_of};
use crate::shm::{Consumer, Doorbell, Party, Producer, ShmError};
use crate::wire::{Reply, Request};

/// The evaluator's ends of one worker's rings.
pub struct Ends {
    requests: Consumer<Request>,
    replies: Producer<Reply>,
}

/// One worker, as the evaluator sees it.
pub struct Line {
    regions: WorkerRegions,
    link: Link<Ends>,
    bell: Doorbell,
    /// Its leaves in batches, gathered or under way.
    claimed: usize,
    /// The coordinator wants the rings, which must wait until `claimed` is 0.
    draining: bool,
    /// Answers of the batch in hand.
    answers: usize,
}

impl Line {
    /// The lines of all workers, without ends yet.
    ///
    /// # Errors
    /// When the segment is of another layout.
    pub fn all(child: &Child) -> Result<Vec<Line>, RunError> {
        let line = |regions: &WorkerRegions| {
            Ok(Line {
                regions: *regions,
                link: Link::new(child, regions.handover, Party::Evaluator)?,
                bell: child.segment.doorbell(regions.bell)?,
                claimed: 0,
                draining: false,
                answers: 0,
            })
        };
        child.regions.workers.iter().map(line).collect()
    }

    /// Lets go of rings that are to be cleared, takes up those that have been. While leaves are in
    /// batches the rings are kept, and nothing more is taken from them: a device may be at work
    /// there, and answers to a worker that is dead must not reach the one that follows it. True
    /// while that is so.
    ///
    /// # Errors
    /// When new ends cannot be attached.
    pub fn follow(&mut self, child: &Child) -> Result<bool, RunError> {
        if !self.link.has_news() {
            return Ok(false);
        }
        self.draining = self.claimed > 0;
        if !self.draining {
            let regions = self.regions;
            let followed = self.link.follow(|| {
                Ok(Ends {
                    requests: child.segment.consumer(regions.requests)?,
                    replies: child.segment.producer(regions.replies)?,
                })
            });
            match followed {
                // The worker was there first and spoiled the ring.
                Err(RunError::Shm(ShmError::Corrupt(_))) => self.link.complain(),
                followed => drop(followed?),
            }
        }
        Ok(self.draining)
    }

    /// Is there anything to do here?
    pub fn is_ready(&self) -> bool {
        // A broken ring counts as ready: the next access sees to it.
        let ready = |ends: &Ends| ends.requests.is_ready().unwrap_or(true);
        self.link.has_news() || self.link.ends.as_ref().is_some_and(ready)
    }

    /// The next sound request, for a batch. Whatever else the worker wrote cuts it off.
    pub fn take(&mut self) -> Option<Request> {
        if self.draining {
            return None;
        }
        match self.link.ends.as_mut()?.requests.pop() {
            Ok(None) => None,
            Ok(Some(request)) if request.position.is_sound() => {
                self.claimed += 1;
                Some(request)
            }
            Ok(Some(_)) | Err(_) => {
                self.link.complain();
                None
            }
        }
    }

    /// Where the next request lies, and a place reserved for its answer: byte offsets in the
    /// segment. What it holds is not looked at: the kernels take any bytes for a position, and
    /// read and write nothing beyond its slots.
    fn claim(&mut self) -> Option<(u64, u64)> {
        if self.draining {
            return None;
        }
        let ends = self.link.ends.as_mut()?;
        let place = match ends.requests.look(self.claimed) {
            Ok(None) => return None,
            Ok(Some(request)) => ends
                .replies
                .reserve(self.claimed)
                .map(|reply| (request, reply)),
            Err(corrupt) => Err(corrupt.into()),
        };
        // A correct worker has room for all answers to what it asked.
        let Ok((request, reply)) = place else {
            self.link.complain();
            return None;
        };
        self.claimed += 1;
        let at = |begin: usize, offset: usize| (begin + offset) as u64;
        Some((
            at(self.regions.requests.region.offset, request),
            at(self.regions.replies.region.offset, reply),
        ))
    }

    /// Writes one answer, unless the worker has been cut off since it asked. A correct worker has
    /// room for all answers to what it asked.
    fn answer(&mut self, reply: &Reply) {
        self.claimed -= 1;
        let Some(ends) = &mut self.link.ends else {
            return;
        };
        match ends.replies.push(reply) {
            Ok(()) => self.answers += 1,
            Err(_) => self.link.complain(),
        }
    }

    /// Lets the worker see `count` answers that were written in place.
    fn answer_in_place(&mut self, count: usize) {
        self.claimed -= count;
        if let Some(ends) = &mut self.link.ends {
            ends.replies.publish(count);
            ends.requests.release(count);
            self.answers += count;
        }
    }

    /// Wakes the worker if it was answered.
    pub fn ring(&mut self) {
        if std::mem::take(&mut self.answers) > 0 {
            self.bell.ring();
        }
    }
}

/// The rows of one batch.
#[derive(Default)]
pub struct Batch {
    /// By row.
    workers: Vec<u16>,
    /// By row, if in place: byte offsets in the segment.
    requests: Vec<u64>,
    replies: Vec<u64>,
    /// Rows by worker; all zero but while answers go out.
    counts: Vec<usize>,
    /// Time stamps; none unless the run is traced.
    trace: Option<Box<Stamps>>,
}

/// When things happened to a batch and to the sampled requests in it.
#[derive(Default)]
struct Stamps {
    batch: BatchStamps,
    sampled: Sampled,
}

impl Batch {
    /// With room for `most` rows from `workers` workers. Only copied rows can be traced.
    pub fn new(most: usize, workers: usize, traced: bool) -> Batch {
        Batch {
            workers: Vec::with_capacity(most),
            requests: Vec::with_capacity(most),
            replies: Vec::with_capacity(most),
            counts: vec![0; workers],
            trace: traced.then(Box::default),
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Where requests and replies lie, if in place.
    pub fn places(&self) -> (&[u64], &[u64]) {
        (&self.requests, &self.replies)
    }

    /// Adds a row that was copied: `request` of `worker`, which goes to the same row of `requests`.
    pub fn add(&mut self, worker: usize, request: &Request, requests: &mut [Request]) {
        if self.trace.is_some() {
            self.stamp_seen(worker as u16, request.ticket);
        }
        requests[self.workers.len()] = *request;
        self.workers.push(worker as u16);
    }

    /// Adds what a worker has ready where it lies, up to `most` rows in all.
    pub fn claim(&mut self, line: &mut Line, worker: usize, most: usize) {
        while self.workers.len() < most
            && let Some((request, reply)) = line.claim()
        {
            self.requests.push(request);
            self.replies.push(reply);
            self.workers.push(worker as u16);
        }
    }

    /// Copies the answers to the workers' rings.
    pub fn answer(&mut self, lines: &mut [Line], replies: &[Reply]) {
        for (&worker, reply) in self.workers.iter().zip(replies) {
            lines[worker as usize].answer(reply);
            killpoint::pass(KillPoint::EvaluatorPublishing);
        }
        if let Some(trace) = &mut self.trace {
            // One stamp for all: a whole batch is answered in a fraction of a millisecond.
            let replied_ns = now_ns();
            for (_, stamps) in &mut trace.sampled {
                stamps.replied_ns = replied_ns;
            }
        }
        self.clear();
    }

    /// Stamps a request that came out of a ring, if it is sampled, and the batch's first.
    #[cold]
    fn stamp_seen(&mut self, worker: u16, ticket: u64) {
        let (row, tag) = (self.workers.len(), tag_of(ticket));
        let Some(trace) = self.trace.as_mut().filter(|_| row == 0 || tag != 0) else {
            return;
        };
        let seen_ns = now_ns();
        if row == 0 {
            trace.batch.opened_ns = seen_ns;
        }
        if tag != 0 {
            let stamps = EvaluatorStamps {
                worker,
                tag,
                seen_ns,
                ..EvaluatorStamps::default()
            };
            trace.sampled.push((row, stamps));
        }
    }

    /// Stamps the launch.
    pub fn stamp_launch(&mut self) {
        let rows = self.len() as u32;
        if let Some(trace) = &mut self.trace {
            trace.batch.size = rows;
            trace.batch.sealed_ns = now_ns();
            trace.batch.started_ns = trace.batch.sealed_ns;
        }
    }

    /// Stamps the network's end.
    pub fn stamp_end(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.batch.ended_ns = now_ns();
        }
    }

    /// Hands the stamps over once the answers are out.
    pub fn hand_over_stamps(&mut self, to: &mut EvaluatorTrace) {
        if let Some(trace) = &mut self.trace {
            trace.batch.published_ns = now_ns();
            to.finished(trace.batch, &mut trace.sampled);
        }
    }

    /// Lets the workers see the answers that were written in place. Batches finish in the order in
    /// which they were gathered, and each holds a worker's leaves in order, so these are the
    /// oldest claimed of each ring.
    pub fn answer_in_place(&mut self, lines: &mut [Line]) {
        for &worker in &self.workers {
            self.counts[worker as usize] += 1;
        }
        for (line, count) in lines.iter_mut().zip(&mut self.counts) {
            line.answer_in_place(std::mem::take(count));
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.workers.clear();
        self.requests.clear();
        self.replies.clear();
    }
}
