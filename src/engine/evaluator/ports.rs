//! Where the batcher's requests come from and its replies go: the rings of a worker, copied from or
//! left in place for a GPU that sees the segment, or plain queues within one process.

use crate::engine::child::{Child, Link};
use crate::engine::error::RunError;
use crate::engine::regions::WorkerRegions;
use crate::shm::{Consumer, Doorbell, Party, Producer, ShmError};
use crate::wire::{Reply, Request};
use std::collections::VecDeque;

/// A source of requests, to which the batcher returns the replies. Nothing here waits.
pub trait RequestPort {
    /// Takes the next request out, if there is one; it is sound.
    fn take(&mut self) -> Option<Request>;

    /// The request just taken cannot be answered: it is for a network that is not there.
    fn reject(&mut self);

    /// Hands over the reply to a request that was taken.
    fn answer(&mut self, reply: &Reply);

    /// Where the next request lies, and a place reserved for its reply: byte offsets in the
    /// segment. Both are kept until [`publish`](Self::publish).
    fn claim(&mut self) -> Option<(u64, u64)> {
        None
    }

    /// The replies to the oldest `count` claimed requests have been written.
    fn publish(&mut self, _count: usize) {}
}

/// Requests and replies within one process.
#[derive(Default)]
pub struct QueuePort {
    /// To be answered, oldest first.
    pub requests: VecDeque<Request>,
    /// Answers, for their asker to take.
    pub replies: Vec<Reply>,
}

impl RequestPort for QueuePort {
    fn take(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    fn reject(&mut self) {
        unreachable!("a process that queues requests has opened their networks");
    }

    fn answer(&mut self, reply: &Reply) {
        self.replies.push(*reply);
    }
}

/// The evaluator's ends of one worker's rings.
struct EvaluatorEnds {
    requests: Consumer<Request>,
    replies: Producer<Reply>,
}

/// One worker, as the evaluator sees it.
pub struct WorkerPort {
    regions: WorkerRegions,
    link: Link<EvaluatorEnds>,
    bell: Doorbell,
    /// Requests taken or claimed, and not answered yet.
    in_batches: usize,
    /// The coordinator wants the rings, which must wait until `in_batches` is 0.
    draining: bool,
    /// Was it answered since it was last woken?
    answered: bool,
}

impl WorkerPort {
    /// The ports of all workers, without ends yet.
    ///
    /// # Errors
    /// When the segment is of another layout.
    pub fn all(child: &Child) -> Result<Vec<WorkerPort>, RunError> {
        let port = |regions: &WorkerRegions| {
            Ok(WorkerPort {
                regions: *regions,
                link: Link::new(child, regions.handover, Party::Evaluator)?,
                bell: child.segment.doorbell(regions.bell)?,
                in_batches: 0,
                draining: false,
                answered: false,
            })
        };
        child.regions.workers.iter().map(port).collect()
    }

    /// Lets go of rings that are to be cleared, takes up those that have been. While requests are
    /// in batches the rings are kept, and nothing more is taken from them: a device may be at work
    /// there, and replies to a worker that is dead must not reach the one that follows it. True
    /// while that is so.
    ///
    /// # Errors
    /// When new ends cannot be attached.
    pub fn follow_epoch(&mut self, child: &Child) -> Result<bool, RunError> {
        if !self.link.has_new_epoch() {
            return Ok(false);
        }
        self.draining = self.in_batches > 0;
        if !self.draining {
            let regions = self.regions;
            let followed = self.link.follow_epoch(|| {
                Ok(EvaluatorEnds {
                    requests: child.segment.consumer(regions.requests)?,
                    replies: child.segment.producer(regions.replies)?,
                })
            });
            match followed {
                // The worker has corrupted the ring since it was reopened.
                Err(RunError::Shm(ShmError::Corrupt(_))) => self.link.report_violation(),
                followed => drop(followed?),
            }
        }
        Ok(self.draining)
    }

    /// Is there anything to do here?
    pub fn is_ready(&self) -> bool {
        // A broken ring counts as ready: the next access sees to it.
        let ready = |ends: &EvaluatorEnds| ends.requests.is_ready().unwrap_or(true);
        self.link.has_new_epoch() || self.link.ends.as_ref().is_some_and(ready)
    }

    /// Wakes the worker if it was answered.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.answered) {
            self.bell.ring();
        }
    }

    /// The ends, unless the rings are closed, wanted back, or the worker is cut off.
    fn ends(&mut self) -> Option<&mut EvaluatorEnds> {
        self.link.ends.as_mut().filter(|_| !self.draining)
    }
}

/// Whatever a worker writes that no correct worker would cuts it off.
impl RequestPort for WorkerPort {
    fn take(&mut self) -> Option<Request> {
        match self.ends()?.requests.pop() {
            Ok(None) => None,
            Ok(Some(request)) if request.position.is_sound() => {
                self.in_batches += 1;
                Some(request)
            }
            Ok(Some(_)) | Err(_) => {
                self.link.report_violation();
                None
            }
        }
    }

    fn reject(&mut self) {
        self.in_batches -= 1;
        self.link.report_violation();
    }

    fn answer(&mut self, reply: &Reply) {
        self.in_batches -= 1;
        // None: cut off since it asked. A correct worker has room for all replies to what it asked.
        match self.link.ends.as_mut().map(|ends| ends.replies.push(reply)) {
            Some(Ok(())) => self.answered = true,
            Some(Err(_)) => self.link.report_violation(),
            None => {}
        }
    }

    /// What the request holds is not looked at: the kernels take any bytes for a position, and read
    /// and write nothing beyond its slots.
    fn claim(&mut self) -> Option<(u64, u64)> {
        let ahead = self.in_batches;
        let ends = self.ends()?;
        let place = match ends.requests.look(ahead) {
            Ok(None) => return None,
            Ok(Some(request)) => ends.replies.reserve(ahead).map(|reply| (request, reply)),
            Err(corrupt) => Err(corrupt.into()),
        };
        let Ok((request, reply)) = place else {
            self.link.report_violation();
            return None;
        };
        self.in_batches += 1;
        let at = |begin: usize, offset: usize| (begin + offset) as u64;
        Some((
            at(self.regions.requests.region.offset, request),
            at(self.regions.replies.region.offset, reply),
        ))
    }

    fn publish(&mut self, count: usize) {
        self.in_batches -= count;
        if let Some(ends) = &mut self.link.ends {
            ends.replies.publish(count);
            ends.requests.release(count);
            self.answered = true;
        }
    }
}
