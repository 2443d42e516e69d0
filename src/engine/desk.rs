//! A network in use and its batches: the one being gathered, and those under way on its device.

use super::batch::{Batch, Line};
use super::pace::{Pace, Turn};
use crate::killpoint::{self, KillPoint};
use crate::network::{Backend, BackendError};
use crate::say::note;
use crate::shm::Segment;
use crate::wire::Request;
use std::time::{Duration, Instant};

/// One of the run's networks, ready to answer.
pub struct Desk {
    /// Its number in the run.
    pub network: u32,
    pub backend: Box<dyn Backend>,
    /// By lane. Lanes are used in turns.
    batches: Vec<Batch>,
    most: usize,
    /// The lane launched longest ago, if any is under way.
    oldest: usize,
    under_way: usize,
    pace: Pace,
    /// Can rows be read and answered where they lie? None: not tried.
    shared: Option<bool>,
}

impl Desk {
    /// For batches of up to `most` leaves of `workers` workers, which wait for more leaves up to
    /// `max_wait`.
    pub fn new(
        network: u32,
        backend: Box<dyn Backend>,
        most: usize,
        workers: usize,
        max_wait: Duration,
        traced: bool,
    ) -> Desk {
        let cost = backend.cost().cloned().unwrap_or_default();
        Desk {
            network,
            batches: (0..backend.lanes())
                .map(|_| Batch::new(most, workers, traced))
                .collect(),
            most,
            oldest: 0,
            under_way: 0,
            pace: Pace::new(cost, backend.latency(), max_wait),
            // Stamps need the tickets, which are not looked at where they lie.
            shared: traced.then_some(false),
            backend,
        }
    }

    /// Prepares for rows that stay where they lie; false if they must be copied.
    pub fn share(&mut self, segment: &Segment) -> bool {
        let (shared, backend) = (&mut self.shared, &mut self.backend);
        *shared.get_or_insert_with(|| match backend.share(segment) {
            Ok(()) => true,
            Err(BackendError::NotShared) => false,
            Err(refusal) => {
                note!("{refusal}: leaves are copied instead");
                false
            }
        })
    }

    /// Is nothing gathered and nothing under way?
    pub fn is_idle(&self) -> bool {
        self.under_way == 0 && self.batches[self.oldest].len() == 0
    }

    /// Is the device at work on a batch?
    pub fn is_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// The lane whose batch is being gathered; none while all are under way.
    fn open_lane(&self) -> Option<usize> {
        let lanes = self.batches.len();
        (self.under_way < lanes).then_some((self.oldest + self.under_way) % lanes)
    }

    /// Leaves gathered, if a lane is open.
    fn gathered(&self) -> Option<usize> {
        self.open_lane().map(|lane| self.batches[lane].len())
    }

    /// Is there room for another leaf?
    pub fn has_room(&self) -> bool {
        self.gathered().is_some_and(|rows| rows < self.most)
    }

    /// Copies a leaf of `worker` into the open lane, which must have room.
    pub fn add(&mut self, worker: usize, request: &Request) {
        if let Some(lane) = self.open_lane() {
            self.batches[lane].add(worker, request, self.backend.requests(lane));
        }
    }

    /// Takes the leaves that a worker has ready where they lie.
    pub fn claim(&mut self, line: &mut Line, worker: usize) {
        if let Some(lane) = self.open_lane() {
            self.batches[lane].claim(line, worker, self.most);
        }
    }

    /// What to do next; `hurry` if what is gathered is to go out at once.
    pub fn turn(&mut self, hurry: bool) -> Turn {
        let rows = self.gathered().unwrap_or(0);
        let full = rows == self.most || (rows > 0 && hurry);
        self.pace.turn(Instant::now(), rows, full, self.under_way)
    }

    /// Starts the batch of the open lane.
    ///
    /// # Errors
    /// When the device fails.
    pub fn launch(&mut self, in_place: bool) -> Result<(), BackendError> {
        let Some(lane) = self.open_lane() else {
            return Ok(());
        };
        killpoint::pass(KillPoint::EvaluatorGathered);
        self.batches[lane].stamp_launch();
        let batch = &self.batches[lane];
        if in_place {
            let (requests, replies) = batch.places();
            self.backend.launch_in_place(lane, requests, replies)?;
        } else {
            self.backend.launch(lane, batch.len())?;
        }
        self.pace.launched(Instant::now(), batch.len());
        self.under_way += 1;
        Ok(())
    }

    /// If the batch launched longest ago is finished, hands out its answers: the batch, empty now,
    /// its rows, and the time it took on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn answer(
        &mut self,
        lines: &mut [Line],
        in_place: bool,
    ) -> Result<Option<(&mut Batch, usize, Duration)>, BackendError> {
        if self.under_way == 0 {
            return Ok(None);
        }
        let lane = self.oldest;
        let Some(busy) = self.backend.poll(lane)? else {
            return Ok(None);
        };
        killpoint::pass(KillPoint::EvaluatorEvaluated);
        let batch = &mut self.batches[lane];
        let rows = batch.len();
        batch.stamp_end();
        if in_place {
            batch.answer_in_place(lines);
        } else {
            batch.answer(lines, self.backend.replies(lane));
        }
        self.oldest = (lane + 1) % self.batches.len();
        self.under_way -= 1;
        if self.under_way == 0 {
            self.pace.idle();
        }
        Ok(Some((&mut self.batches[lane], rows, busy)))
    }
}
