//! The one batch loop: takes requests out of ports, gathers them into batches of the networks that
//! are to answer, launches those when the pacer says so, and hands out the replies. It serves the
//! evaluator process with the rings of all workers, and play within one process, with a queue.
//!
//! Any number of networks share the device, each with lanes of its own; a request names its network
//! by the ticket (`wire::network_of`). They share it in turns: of those that have a batch due, the
//! one after the network launched last goes first, so that between two launches of one each of the
//! others has its launch. Ports, too, are taken in turns. While a network has no room nothing is
//! taken for any, since whose a request is shows only once it is taken; a full batch is due at
//! once, so that lasts for one batch of that network at most.

use super::lanes::{Finished, NetworkLanes};
use super::pacer::{Next, Pacer};
use super::ports::RequestPort;
use crate::latency::EvaluatorTrace;
use crate::network::{Backend, BackendError, Limits, Memory};
use crate::shm::Segment;
use crate::wire::network_of;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Ports on one side, networks on the other.
pub struct Batcher {
    /// In use, in ascending order of number.
    networks: Vec<NetworkLanes>,
    pacer: Pacer,
    max_batch: usize,
    /// Rows are read and answered where they lie, or copied. In place there is one network: whose
    /// a row is stands in it, and is not looked at.
    in_place: bool,
    /// Port and network that come first in the next turn.
    next_port: usize,
    next_network: usize,
    /// Time stamps; none unless the run is traced.
    trace: Option<EvaluatorTrace>,
}

impl Batcher {
    /// For batches of up to `max_batch` rows, for which an idle device waits up to `max_wait`.
    pub fn new(max_batch: usize, max_wait: Duration, trace: Option<EvaluatorTrace>) -> Batcher {
        Batcher {
            networks: Vec::new(),
            pacer: Pacer::new(max_wait),
            max_batch,
            in_place: false,
            next_port: 0,
            next_network: 0,
            trace,
        }
    }

    /// Takes up network `number` of the run, newer than all others. While rows are in place there
    /// can be no second one: see [`gather`](Self::gather).
    pub fn add(&mut self, number: u32, backend: Box<dyn Backend>) {
        debug_assert!(!self.in_place);
        self.pacer.allow(backend.latency());
        let (rows, traced) = (self.max_batch, self.trace.is_some());
        let network = NetworkLanes::new(number, backend, rows, traced);
        self.networks.push(network);
    }

    /// Lets go of networks before number `oldest`, but for the newest and those that have rows;
    /// true if there were any.
    pub fn drop_before(&mut self, oldest: u32) -> bool {
        let before = self.networks.len();
        let oldest = self
            .newest()
            .map_or(oldest, |(newest, _)| oldest.min(newest));
        self.networks
            .retain(|network| network.number >= oldest || !network.is_idle());
        self.networks.len() < before
    }

    /// The network with the highest number.
    pub fn newest(&self) -> Option<(u32, &dyn Backend)> {
        let newest = self.networks.last();
        newest.map(|network| (network.number, &*network.backend))
    }

    /// GPU memory that all networks take.
    pub fn memory(&self) -> Memory {
        let all = self.networks.iter().map(|network| network.backend.memory());
        all.fold(Memory::default(), |sum, each| Memory {
            own_bytes: sum.own_bytes + each.own_bytes,
            device_used_bytes: each.device_used_bytes,
        })
    }

    /// What one more network may use: a cap on GPU memory is for all of them together.
    pub fn limits_left(&self, mut limits: Limits) -> Limits {
        if limits.gpu_memory_mib > 0 {
            let taken = self.memory().own_bytes.div_ceil(MIB) as usize;
            // 0 would be no cap.
            limits.gpu_memory_mib = limits.gpu_memory_mib.saturating_sub(taken).max(1);
        }
        limits
    }

    /// Are rows read and answered where they lie?
    pub fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Is a batch on the device?
    pub fn is_under_way(&self) -> bool {
        self.networks.iter().any(NetworkLanes::is_under_way)
    }

    /// The stamps of a traced run.
    pub fn trace(&self) -> Option<&EvaluatorTrace> {
        self.trace.as_ref()
    }

    /// Takes all that is ready into the open lanes, as far as they have room: in place, if there is
    /// one network and its device can read `segment`, in which the ports' requests lie. What was
    /// taken in the other manner has to be answered first; nothing is taken until then.
    pub fn gather<P: RequestPort>(&mut self, ports: &mut [P], segment: Option<&Segment>) {
        let in_place = match (&mut self.networks[..], segment) {
            ([only], Some(segment)) => only.share(segment),
            _ => false,
        };
        if in_place != self.in_place {
            if !self.networks.iter().all(NetworkLanes::is_idle) {
                return;
            }
            self.in_place = in_place;
        }
        let first = self.next_port % ports.len().max(1);
        for index in (first..ports.len()).chain(0..first) {
            let port = &mut ports[index];
            if in_place {
                self.networks[0].claim(port, index, self.max_batch);
                continue;
            }
            let has_room = |network: &NetworkLanes| network.has_room(self.max_batch);
            while self.networks.iter().all(has_room)
                && let Some(request) = port.take()
            {
                let wanted = network_of(request.ticket);
                let mut networks = self.networks.iter_mut();
                match networks.find(|network| network.number as u8 == wanted) {
                    Some(network) => network.add(index, &request),
                    None => port.reject(),
                }
            }
        }
    }

    /// Launches a batch if one is due (with `flush`, whatever is gathered); else says what to do
    /// until one is.
    ///
    /// # Errors
    /// When the device fails.
    pub fn launch_due(&mut self, flush: bool) -> Result<Next, BackendError> {
        let (now, busy) = (Instant::now(), self.is_under_way());
        let count = self.networks.len();
        let mut next = Next::Sleep;
        for turn in 0..count {
            let index = (self.next_network + turn) % count;
            let network = &mut self.networks[index];
            let (rows, since) = network.gathered();
            let full = flush || rows == self.max_batch;
            next = next.min(self.pacer.next(now, rows, full, since, busy));
            if next == Next::Launch {
                let cost = network.launch(self.in_place)?;
                self.pacer.launched(Instant::now(), cost);
                self.next_network = index + 1;
                self.next_port = self.next_port.wrapping_add(1);
                break;
            }
        }
        Ok(next)
    }

    /// Hands out the replies of a batch that is finished, if there is one.
    ///
    /// # Errors
    /// When the device fails.
    pub fn answer<P: RequestPort>(
        &mut self,
        ports: &mut [P],
    ) -> Result<Option<Finished>, BackendError> {
        for network in &mut self.networks {
            let finished = network.answer(ports, self.in_place, &mut self.trace)?;
            if finished.is_some() {
                if !self.is_under_way() {
                    self.pacer.idle();
                }
                return Ok(finished);
            }
        }
        Ok(None)
    }

    /// Evaluates one batch of what `port` has, at once and to its end; none if it has nothing.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run<P: RequestPort>(&mut self, port: &mut P) -> Result<Option<Finished>, BackendError> {
        let ports = std::slice::from_mut(port);
        self.gather(ports, None);
        if self.launch_due(true)? != Next::Launch {
            return Ok(None);
        }
        loop {
            let finished = self.answer(ports)?;
            if finished.is_some() {
                return Ok(finished);
            }
            std::hint::spin_loop();
        }
    }
}
