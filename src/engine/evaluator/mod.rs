//! The evaluator process: gathers whatever leaves are ready into batches, has the networks answer
//! them, hands out the replies. `batcher` is that loop, over `ports` (the workers' rings) and
//! `lanes` (the batches of each network), at the `pacer`'s pace; here are the process around it and
//! the networks it loads, new weights among them while the run goes on.

mod batcher;
mod lanes;
mod pacer;
mod ports;

pub use batcher::Batcher;
pub use lanes::Finished;
pub use pacer::{Next, Pacer};
pub use ports::{QueuePort, RequestPort};

use super::child::Child;
use super::error::RunError;
use super::networks;
use super::reexec;
use super::regions::{EvaluatorCounter, NetworkWord, store_text};
use crate::killpoint::{self, KillPoint};
use crate::latency::EvaluatorTrace;
use crate::network::{self, Backend, BackendKind, Folded, WeightsError};
use crate::say::note;
use crate::shm::{Counters, Parking, liveness};
use ports::WorkerPort;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Looks around before the idle evaluator of a GPU sleeps: some hundred microseconds, far longer
/// than workers leave it without work while they have any.
const GPU_SPIN: u32 = 4096;
/// Time between heartbeats while a network is loaded, which may have its kernels compiled; and
/// how long that may take.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);
const LOADING_MAX: Duration = Duration::from_secs(60);

struct Evaluator {
    batcher: Batcher,
    ports: Vec<WorkerPort>,
    counters: Counters,
    networks: Counters,
    /// The replay's folder, where weights lie.
    replay: PathBuf,
    /// The last offer taken up, as in `NetworkWord::Offer`: its lower half is the network's number.
    offer_seen: u64,
    /// New weights on their way from the disk, with their offer.
    reading: Option<(u64, JoinHandle<Result<Folded, WeightsError>>)>,
    /// The network made of them, until rows in place are answered.
    waiting: Option<(u64, Box<dyn Backend>)>,
}

/// Runs the evaluator until the coordinator says stop.
///
/// # Errors
/// When the segment is broken, the network cannot be loaded or fails, or the coordinator is gone.
pub fn run(segment: &str, replay: &Path, parent: u32) -> Result<(), RunError> {
    killpoint::arm(&["evaluator"]);
    let mut child = Child::attach(segment, parent)?;
    killpoint::pass(KillPoint::EvaluatorAttached);
    reexec::name_process("evaluator");
    let mut evaluator = Evaluator::open(&mut child, replay)?;
    let bell = child.segment.doorbell(child.regions.evaluator_bell)?;
    evaluator.store(EvaluatorCounter::Ready, 1);
    child
        .segment
        .doorbell(child.regions.coordinator_bell)?
        .ring();
    child.wait_for_start()?;

    while !child.is_stopped()? {
        // None while a batch is on the device: one that never finishes is then found as a hang.
        if !evaluator.batcher.is_under_way() {
            heartbeat(&evaluator.counters);
        }
        evaluator.answer()?;
        // What is gathered from rings that are wanted back goes out at once.
        let flush = evaluator.follow_rings(&child)?;
        evaluator.follow_networks(&child);
        let segment = evaluator.waiting.is_none().then_some(&child.segment);
        evaluator.batcher.gather(&mut evaluator.ports, segment);
        match evaluator.batcher.launch_due(flush)? {
            Next::Launch => {}
            Next::Poll => std::hint::spin_loop(),
            Next::Wait(left) => {
                bell.wait(child.parking, left, || evaluator.is_any_ready());
            }
            Next::Sleep => child.sleep(&bell, || evaluator.is_any_ready())?,
        }
    }
    if let Some(trace) = evaluator.batcher.trace() {
        trace.write()?;
    }
    evaluator.store_memory();
    let cpu = liveness::process_cpu_seconds()?;
    evaluator.store(EvaluatorCounter::CpuNs, (cpu * 1e9) as u64);
    Ok(())
}

impl Evaluator {
    /// Loads the networks in use, finds the rings.
    fn open(child: &mut Child, replay: &Path) -> Result<Evaluator, RunError> {
        let settings = &child.settings;
        let networks = child.segment.counters(child.regions.networks)?;
        let [oldest, newest] = [NetworkWord::Oldest, NetworkWord::Newest]
            .map(|word| networks.load(word as usize) as u32);
        let trace = settings.trace.as_deref().map(EvaluatorTrace::new);
        let max_wait = Duration::from_micros(settings.max_wait_us);
        let mut evaluator = Evaluator {
            batcher: Batcher::new(settings.max_batch, max_wait, trace),
            ports: WorkerPort::all(child)?,
            counters: child.segment.counters(child.regions.evaluator_counters)?,
            networks,
            replay: replay.to_path_buf(),
            offer_seen: 0,
            reading: None,
            waiting: None,
        };
        for network in oldest..=newest {
            let weights = networks::load(settings, replay, network)?;
            let backend = evaluator.load(child, Folded::new(&weights))?;
            evaluator.batcher.add(network, backend);
        }
        if let Some((_, backend)) = evaluator.batcher.newest() {
            if backend.cost().is_some()
                && let Parking::Park { spin } = &mut child.parking
            {
                // A device that computes by itself is to be kept busy, at the price of a core.
                *spin = GPU_SPIN.max(*spin);
            }
            let device = child.segment.counters(child.regions.device)?;
            store_text(&device, &backend.device());
        }
        evaluator.store_memory();
        Ok(evaluator)
    }

    /// Brings a network to the device.
    fn load(&self, child: &Child, folded: Folded) -> Result<Box<dyn Backend>, RunError> {
        // The coordinator has settled the choice: one for the run.
        let kind = BackendKind::try_from(child.settings.backend)?;
        let limits = self.batcher.limits_left(child.settings.limits());
        let mut backend = network::open_folded(kind, folded, limits)?;
        let counters = child.segment.counters(child.regions.evaluator_counters)?;
        backend.on_progress(Arc::new(move || heartbeat(&counters)));
        Ok(backend)
    }

    /// Hands out the replies of all batches that are finished.
    fn answer(&mut self) -> Result<(), RunError> {
        while let Some(Finished { rows, busy }) = self.batcher.answer(&mut self.ports)? {
            heartbeat(&self.counters);
            let add = |counter: usize, amount| self.counters.add(counter, amount);
            add(EvaluatorCounter::BusyNs as usize, busy.as_nanos() as u64);
            add(EvaluatorCounter::Batches as usize, 1);
            add(EvaluatorCounter::Evaluations as usize, rows as u64);
            add(EvaluatorCounter::Sizes as usize + rows, 1);
            killpoint::pass(KillPoint::EvaluatorWakes);
            self.ports.iter_mut().for_each(WorkerPort::wake);
        }
        Ok(())
    }

    /// Lets go of rings that are wanted back, takes up new ones; true if some are wanted that are
    /// not free yet.
    fn follow_rings(&mut self, child: &Child) -> Result<bool, RunError> {
        let mut draining = false;
        for port in &mut self.ports {
            draining |= port.follow_epoch(child)?;
        }
        Ok(draining)
    }

    /// Lets go of networks that are not used any more, takes up one that is offered.
    fn follow_networks(&mut self, child: &Child) {
        let word = |word: NetworkWord| self.networks.load(word as usize);
        let (oldest, offered) = (word(NetworkWord::Oldest), word(NetworkWord::Offer));
        if self.batcher.drop_before(oldest as u32) {
            self.store_memory();
            killpoint::pass(KillPoint::EvaluatorDropped);
        }
        if offered != self.offer_seen {
            self.offer_seen = offered;
            // One that plays already was loaded at the start.
            let newest = self.batcher.newest().map(|(number, _)| number);
            if Some(offered as u32) > newest {
                killpoint::pass(KillPoint::EvaluatorOffered);
                self.reading = Some((offered, self.read(child, offered as u32)));
            }
        }
        if let Some((word, reading)) = self.reading.take_if(|(_, reading)| reading.is_finished()) {
            let loaded = match reading.join() {
                Ok(Ok(folded)) => with_heartbeats(&self.counters, || self.load(child, folded))
                    .map_err(|error| error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("reading them died".to_owned()),
            };
            match loaded {
                Ok(backend) => self.waiting = Some((word, backend)),
                Err(why) => {
                    note!("new weights: {why}");
                    self.networks.store(NetworkWord::Refused as usize, word);
                }
            }
        }
        let in_place = self.batcher.is_in_place();
        if let Some((word, backend)) = self.waiting.take_if(|_| !in_place) {
            self.batcher.add(word as u32, backend);
            self.store_memory();
            killpoint::pass(KillPoint::EvaluatorLoaded);
            self.networks.store(NetworkWord::Loaded as usize, word);
        }
    }

    /// Reads weights beside the play: it takes a tenth of a second.
    fn read(&self, child: &Child, network: u32) -> JoinHandle<Result<Folded, WeightsError>> {
        let (settings, replay) = (child.settings.clone(), self.replay.clone());
        std::thread::spawn(move || {
            let weights = networks::load(&settings, &replay, network)?;
            Ok(Folded::new(&weights))
        })
    }

    fn is_any_ready(&self) -> bool {
        self.ports.iter().any(WorkerPort::is_ready)
            || (self.waiting.is_some() && !self.batcher.is_in_place())
            || self.networks.load(NetworkWord::Offer as usize) != self.offer_seen
    }

    fn store(&self, counter: EvaluatorCounter, value: u64) {
        self.counters.store(counter as usize, value);
    }

    fn store_memory(&self) {
        let memory = self.batcher.memory();
        self.store(EvaluatorCounter::GpuBytes, memory.own_bytes);
        self.store(EvaluatorCounter::GpuBytesUsed, memory.device_used_bytes);
    }
}

/// Shows the coordinator that this process is at work.
fn heartbeat(counters: &Counters) {
    counters.add(EvaluatorCounter::Heartbeat as usize, 1);
}

/// Does `work` while another thread gives heartbeats.
fn with_heartbeats<T>(counters: &Counters, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (working, ended) = channel::<()>();
        let begun = Instant::now();
        let heartbeats = move || {
            while ended.recv_timeout(HEARTBEAT_EVERY) == Err(RecvTimeoutError::Timeout)
                && begun.elapsed() < LOADING_MAX
            {
                heartbeat(counters);
            }
        };
        // Without the thread the work may look like a hang, and is done all the same.
        let _ = std::thread::Builder::new().spawn_scoped(scope, heartbeats);
        let result = work();
        drop(working);
        result
    })
}
