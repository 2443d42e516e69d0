//! The batches of one network: the one that is gathered, and those under way on its device.

use super::ports::RequestPort;
use crate::killpoint::{self, KillPoint};
use crate::latency::{BatchStamps, EvaluatorStamps, EvaluatorTrace, now_ns, tag_of};
use crate::network::{Backend, BackendError};
use crate::say::note;
use crate::shm::Segment;
use crate::wire::Request;
use std::time::{Duration, Instant};

/// A batch that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    /// Rows.
    pub rows: usize,
    /// Time it took on the device.
    pub busy: Duration,
}

/// One of the run's networks with its lanes.
pub(super) struct NetworkLanes {
    /// Its number in the run.
    pub number: u32,
    pub backend: Box<dyn Backend>,
    /// Used in turns.
    lanes: Vec<Lane>,
    /// The lane launched longest ago, if any is under way.
    oldest: usize,
    under_way: usize,
    /// Can rows be read and answered where they lie? None: not tried.
    shared: Option<bool>,
}

impl NetworkLanes {
    pub fn new(number: u32, backend: Box<dyn Backend>, rows: usize, traced: bool) -> NetworkLanes {
        NetworkLanes {
            number,
            lanes: (0..backend.lanes())
                .map(|_| Lane::new(rows, traced))
                .collect(),
            oldest: 0,
            under_way: 0,
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
        self.under_way == 0 && self.lanes[self.oldest].rows() == 0
    }

    /// Is a batch on the device?
    pub fn is_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// The lane whose batch is being gathered; none while all are under way.
    fn open_lane(&self) -> Option<usize> {
        let lanes = self.lanes.len();
        (self.under_way < lanes).then_some((self.oldest + self.under_way) % lanes)
    }

    /// Is there room for another request?
    pub fn has_room(&self, max_batch: usize) -> bool {
        self.open_lane()
            .is_some_and(|lane| self.lanes[lane].rows() < max_batch)
    }

    /// Rows gathered, 0 while no lane is open, and since when.
    pub fn gathered(&self) -> (usize, Instant) {
        match self.open_lane().map(|lane| &self.lanes[lane]) {
            Some(lane) => (lane.rows(), lane.since),
            None => (0, Instant::now()),
        }
    }

    /// Copies a request into the open lane, which must have room.
    pub fn add(&mut self, port: usize, request: &Request) {
        if let Some(lane) = self.open_lane() {
            let row = self.lanes[lane].add(port, request.ticket);
            self.backend.requests(lane)[row] = *request;
        }
    }

    /// Takes the requests that a port has ready where they lie, tickets unseen, up to `max_batch`
    /// rows in all.
    pub fn claim(&mut self, port: &mut impl RequestPort, index: usize, max_batch: usize) {
        let Some(lane) = self.open_lane() else {
            return;
        };
        let lane = &mut self.lanes[lane];
        while lane.rows() < max_batch
            && let Some((request, reply)) = port.claim()
        {
            lane.add(index, 0);
            lane.requests.push(request);
            lane.replies.push(reply);
        }
    }

    /// Starts the batch of the open lane; the time that it will take on the device.
    pub fn launch(&mut self, in_place: bool) -> Result<Duration, BackendError> {
        let Some(index) = self.open_lane() else {
            return Ok(Duration::ZERO);
        };
        killpoint::pass(KillPoint::EvaluatorGathered);
        let lane = &mut self.lanes[index];
        let rows = lane.rows();
        if let Some(LaneStamps { batch, .. }) = lane.stamps.as_deref_mut() {
            batch.size = rows as u32;
            batch.sealed_ns = now_ns();
            batch.started_ns = batch.sealed_ns;
        }
        if in_place {
            self.backend
                .launch_in_place(index, &lane.requests, &lane.replies)?;
        } else {
            self.backend.launch(index, rows)?;
        }
        self.under_way += 1;
        let cost = self.backend.cost().map(|cost| cost.time(rows));
        Ok(cost.unwrap_or_default())
    }

    /// If the batch launched longest ago is finished, hands out its replies.
    pub fn answer<P: RequestPort>(
        &mut self,
        ports: &mut [P],
        in_place: bool,
        trace: &mut Option<EvaluatorTrace>,
    ) -> Result<Option<Finished>, BackendError> {
        if self.under_way == 0 {
            return Ok(None);
        }
        let Some(busy) = self.backend.poll(self.oldest)? else {
            return Ok(None);
        };
        killpoint::pass(KillPoint::EvaluatorEvaluated);
        let lane = &mut self.lanes[self.oldest];
        let rows = lane.rows();
        let ended_ns = trace.as_ref().map_or(0, |_| now_ns());
        if in_place {
            lane.publish(ports);
        } else {
            let replies = self.backend.replies(self.oldest);
            for (&port, reply) in lane.ports.iter().zip(replies) {
                ports[usize::from(port)].answer(reply);
                killpoint::pass(KillPoint::EvaluatorPublishing);
            }
        }
        if let (Some(stamps), Some(trace)) = (&mut lane.stamps, trace) {
            stamps.hand_over(ended_ns, trace);
        }
        lane.clear();
        self.oldest = (self.oldest + 1) % self.lanes.len();
        self.under_way -= 1;
        Ok(Some(Finished { rows, busy }))
    }
}

/// Where one batch is gathered, computed and answered.
struct Lane {
    /// By row: whose it is.
    ports: Vec<u16>,
    /// By row, if in place: byte offsets in the segment.
    requests: Vec<u64>,
    replies: Vec<u64>,
    /// When its first row came.
    since: Instant,
    /// None unless the run is traced.
    stamps: Option<Box<LaneStamps>>,
}

impl Lane {
    fn new(rows: usize, traced: bool) -> Lane {
        Lane {
            ports: Vec::with_capacity(rows),
            requests: Vec::with_capacity(rows),
            replies: Vec::with_capacity(rows),
            since: Instant::now(),
            stamps: traced.then(Box::default),
        }
    }

    fn rows(&self) -> usize {
        self.ports.len()
    }

    /// Adds a row; its place.
    fn add(&mut self, port: usize, ticket: u64) -> usize {
        let row = self.rows();
        if row == 0 {
            self.since = Instant::now();
        }
        if let Some(stamps) = &mut self.stamps {
            stamps.seen(row, port as u16, ticket);
        }
        self.ports.push(port as u16);
        row
    }

    /// Lets the ports see the replies that were written in place. Batches finish in the order in
    /// which they were gathered, and each holds a port's rows in order, so these are the oldest
    /// claimed of each port.
    fn publish<P: RequestPort>(&self, ports: &mut [P]) {
        for rows in self.ports.chunk_by(|one, next| one == next) {
            ports[usize::from(rows[0])].publish(rows.len());
        }
    }

    fn clear(&mut self) {
        self.ports.clear();
        self.requests.clear();
        self.replies.clear();
    }
}

/// When things happened to a batch and to the sampled requests in it.
#[derive(Default)]
struct LaneStamps {
    batch: BatchStamps,
    sampled: Vec<EvaluatorStamps>,
}

impl LaneStamps {
    /// A request came: the batch's first, or a sampled one, is stamped.
    #[cold]
    fn seen(&mut self, row: usize, worker: u16, ticket: u64) {
        let tag = tag_of(ticket);
        let seen_ns = match (row, tag) {
            (1.., 0) => return,
            _ => now_ns(),
        };
        if row == 0 {
            self.batch.opened_ns = seen_ns;
        }
        if tag != 0 {
            self.sampled.push(EvaluatorStamps {
                worker,
                tag,
                seen_ns,
                ..EvaluatorStamps::default()
            });
        }
    }

    /// The replies are out. One stamp for all: a whole batch is answered in a fraction of a
    /// millisecond.
    fn hand_over(&mut self, ended_ns: u64, trace: &mut EvaluatorTrace) {
        let now_ns = now_ns();
        self.batch.ended_ns = ended_ns;
        self.batch.published_ns = now_ns;
        for stamps in &mut self.sampled {
            stamps.replied_ns = now_ns;
        }
        trace.finished(self.batch, &mut self.sampled);
    }
}
